//! Delegated work: what an agent's envelope asks of another, as the files of `/task`.
//!
//! An agent has one task at a time. It is open from the tick that its request woke until `/task/result.json` is
//! written; whoever asks for another meanwhile is told so.

use oa_nips::envelope::Envelope as Message;
use oa_nips::mail::Draft;
use oa_nips::nostr::EventId;
use oa_nips::{kind, mail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::envelope::{Envelope, Kind, Trust};
use crate::agent::manifest::Npub;

/// The files.
pub(crate) const SPEC: &str = "/task/spec.json";
pub(crate) const META: &str = "/task/meta.json";
pub(crate) const STATUS: &str = "/task/status";
pub(crate) const RESULT: &str = "/task/result.json";

/// Who asked for what: `/task/meta.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// The request, which answers name.
    pub(crate) id: EventId,
    /// As the one who asks calls it.
    pub(crate) task: String,
    pub(crate) from: Npub,
    /// What may be spent on it, in millionths of a dollar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) budget_usd_micros: Option<u64>,
    /// In seconds since 1970.
    pub(crate) accepted_at: u64,
}

/// Whether a message asks for work: only somebody who was let in may.
pub(crate) fn asks_for_work(message: &Message) -> bool {
    matches!(message, Message::TaskRequest { .. } | Message::Delegate { .. })
}

/// The task that an envelope brings, and its spec; nothing where it brings none, or from somebody who may not.
pub(crate) fn brought(envelope: &Envelope, trust: Trust) -> Option<(Meta, Value)> {
    let is_theirs = envelope.kind == Kind::Message && matches!(trust, Trust::Owner | Trust::Allowed);
    let (origin, data) = envelope.origin.as_ref().zip(envelope.data.clone()).filter(|_| is_theirs)?;
    let (task, spec, budget_usd_micros) = match serde_json::from_value(data).ok()? {
        Message::TaskRequest { task, spec } => (task, spec, None),
        Message::Delegate { task, spec, budget_usd_micros } => (task, spec, budget_usd_micros),
        _ => return None,
    };
    let accepted_at = envelope.accepted_at_ms / 1000;
    Some((Meta { id: origin.mail?, task, from: Npub(origin.peer), budget_usd_micros, accepted_at }, spec))
}

impl Meta {
    /// A message about the task to the one who asked, decided at `at_ms`; nothing where it is too long for one.
    pub(crate) fn answer(&self, message: &Message, auto_hop: u8, at_ms: u64) -> Option<Draft> {
        let content = message.to_json();
        mail::fits_one_message(&content).then(|| Draft {
            kind: kind::ENVELOPE.as_u16(),
            reply_to: Some(self.id),
            auto_hop,
            ..Draft::text(self.from.0, content, at_ms)
        })
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::mail::Protocol;
    use oa_nips::nostr::Keys;
    use serde_json::json;

    use super::*;
    use crate::agent::envelope::Origin;

    fn envelope(message: &Message) -> Envelope {
        let peer = Keys::generate().public_key();
        let mail = EventId::from_slice(&[3; 32]).ok();
        let origin = Some(Origin { peer, protocol: Protocol::Nip17, relay: None, mail, auto_hop: 0 });
        let data = serde_json::to_value(message).ok();
        Envelope { origin, data, ..Envelope::from_node(Kind::Message, "task", 7_000) }
    }

    #[test]
    fn work_is_brought_by_those_who_were_let_in() {
        let spec = json!({ "of": 7 });
        let delegate =
            Message::Delegate { task: "sum".into(), spec: spec.clone(), budget_usd_micros: Some(5) };
        let envelope = envelope(&delegate);
        let (meta, brought_spec) = brought(&envelope, Trust::Allowed).unwrap();
        assert_eq!((meta.task.as_str(), meta.budget_usd_micros, meta.accepted_at), ("sum", Some(5), 7));
        assert_eq!(brought_spec, spec);
        assert_eq!(brought(&envelope, Trust::Stranger), None);
        let answer = meta.answer(&Message::Pong { nonce: "x".into() }, 1, 9).unwrap();
        assert_eq!((answer.reply_to, answer.recipient, answer.kind), (Some(meta.id), meta.from.0, 9910));
        assert!(meta.answer(&Message::Pong { nonce: "x".repeat(20_000) }, 1, 9).is_none());
    }

    #[test]
    fn other_messages_bring_none() {
        for message in [
            Message::Ping { nonce: "x".into() },
            Message::TaskResponse { task: "sum".into(), accepted: true, message: None },
        ] {
            assert_eq!(brought(&envelope(&message), Trust::Owner), None);
            assert!(!asks_for_work(&message));
        }
        let dm = Envelope {
            kind: Kind::Dm,
            ..envelope(&Message::TaskRequest { task: "a".into(), spec: json!(1) })
        };
        assert_eq!(brought(&dm, Trust::Owner), None);
    }
}
