//! What an agent says to an agent: the content of a rumor of kind 9910.

use serde::de::Error as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One agent message. Its sender is the rumor's author, its id the rumor's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Envelope {
    /// Asks for work.
    TaskRequest { task: String, spec: Value },
    /// Accepts, refuses or reports progress.
    TaskResponse { task: String, accepted: bool, message: Option<String> },
    /// Ends a task with its result, and names the record chain that shows how.
    TaskComplete { task: String, result: Value, trajectory_hash: Option<String> },
    /// Hands a task on, with what may be spent on it.
    Delegate { task: String, spec: Value, budget_usd_micros: Option<u64> },
    /// Shares something learnt.
    PatternShare { pattern: Value },
    /// Asks for a [`Envelope::Pong`] with the same nonce.
    Ping { nonce: String },
    /// Answers a [`Envelope::Ping`].
    Pong { nonce: String },
    /// Anything else two agents agreed on.
    Custom { name: String, data: Value },
}

impl Envelope {
    /// Reads the content of a rumor.
    ///
    /// # Errors
    /// When it is no JSON object with a `type` that is known and what belongs to it.
    pub fn parse(json: &str) -> Result<Self, serde_json::Error> {
        let value: Value = serde_json::from_str(json)?;
        // Left to itself the derived reader takes an array too, and the number of a type for its name.
        if !value.get("type").is_some_and(Value::is_string) {
            return Err(serde_json::Error::custom("no type in it"));
        }
        serde_json::from_value(value)
    }

    /// The content of a rumor.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an envelope has string keys")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// JSON as deep as three, without fractions: whether those survive is the JSON library's affair.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map(".{0,8}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn envelope() -> impl Strategy<Value = Envelope> {
        let text = || ".{0,20}".prop_map(String::from);
        let maybe = || proptest::option::of(".{0,20}".prop_map(String::from));
        prop_oneof![
            (text(), value()).prop_map(|(task, spec)| Envelope::TaskRequest { task, spec }),
            (text(), any::<bool>(), maybe())
                .prop_map(|(task, accepted, message)| { Envelope::TaskResponse { task, accepted, message } }),
            (text(), value(), maybe()).prop_map(|(task, result, trajectory_hash)| {
                Envelope::TaskComplete { task, result, trajectory_hash }
            }),
            (text(), value(), any::<Option<u64>>()).prop_map(|(task, spec, budget_usd_micros)| {
                Envelope::Delegate { task, spec, budget_usd_micros }
            }),
            value().prop_map(|pattern| Envelope::PatternShare { pattern }),
            text().prop_map(|nonce| Envelope::Ping { nonce }),
            text().prop_map(|nonce| Envelope::Pong { nonce }),
            (text(), value()).prop_map(|(name, data)| Envelope::Custom { name, data }),
        ]
    }

    proptest! {
        #[test]
        fn an_envelope_survives_its_json(envelope in envelope()) {
            prop_assert_eq!(Envelope::parse(&envelope.to_json()).unwrap(), envelope);
        }

        #[test]
        fn parsing_never_panics(text in ".{0,200}", value in value()) {
            let _ = Envelope::parse(&text);
            let _ = Envelope::parse(&json!({ "type": "custom", "name": value, "data": value }).to_string());
        }
    }

    #[test]
    fn unknown_fields_are_tolerated_and_unknown_types_are_not() {
        let ping = r#"{"type":"ping","nonce":"7","later":true}"#;
        assert_eq!(Envelope::parse(ping).unwrap(), Envelope::Ping { nonce: "7".into() });
        for bad in [r#"{"type":"pwn"}"#, r#"{"type":5,"nonce":"7"}"#, r#"["ping","7"]"#, r#"{"nonce":"7"}"#] {
            assert!(Envelope::parse(bad).is_err(), "{bad}");
        }
    }
}
