//! What an agent says to an agent: the content of a rumor of kind 9910.

use serde::{Deserialize, Serialize};

/// One agent message. Its sender is the rumor's author, its id the rumor's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Envelope {
    /// Asks for work.
    TaskRequest { task: String, spec: serde_json::Value },
    /// Accepts, refuses or reports progress.
    TaskResponse { task: String, accepted: bool, message: Option<String> },
    /// Ends a task with its result, and names the record chain that shows how.
    TaskComplete { task: String, result: serde_json::Value, trajectory_hash: Option<String> },
    /// Hands a task on, with what may be spent on it.
    Delegate { task: String, spec: serde_json::Value, budget_usd_micros: Option<u64> },
    /// Shares something learnt.
    PatternShare { pattern: serde_json::Value },
    /// Asks for a [`Envelope::Pong`] with the same nonce.
    Ping { nonce: String },
    /// Answers a [`Envelope::Ping`].
    Pong { nonce: String },
    /// Anything else two agents agreed on.
    Custom { name: String, data: serde_json::Value },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_tolerated_and_unknown_types_are_not() {
        let ping = r#"{"type":"ping","nonce":"7","later":true}"#;
        assert_eq!(serde_json::from_str::<Envelope>(ping).unwrap(), Envelope::Ping { nonce: "7".into() });
        assert!(serde_json::from_str::<Envelope>(r#"{"type":"pwn"}"#).is_err());
    }
}
