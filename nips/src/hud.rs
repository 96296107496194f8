//! The public heads-up display (kind 25933): what an agent does, as it does it, in the fields that its owner allows.

use nostr::{PublicKey, Timestamp, UnsignedEvent};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::kind;
use crate::record::{SessionId, canonical};

/// Events in one batch.
pub const EVENTS_MAX: usize = 64;

/// What the content of an event says, as canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Version of this format: 1.
    pub v: u8,
    /// The trajectory of which the events are.
    pub session: SessionId,
    /// In the order in which they happened, at most [`EVENTS_MAX`].
    pub events: Vec<Map<String, Value>>,
    /// Events after them that were too many to be told.
    #[serde(default)]
    pub left_out: u64,
}

impl Batch {
    /// The event that carries it.
    pub fn event(&self, author: PublicKey, at: Timestamp) -> UnsignedEvent {
        UnsignedEvent::new(author, at, kind::HUD, [], canonical(self))
    }

    /// Reads the content of an event.
    pub fn read(content: &str) -> Option<Self> {
        let batch: Self = serde_json::from_str(content).ok()?;
        (batch.v == 1 && batch.events.len() <= EVENTS_MAX).then_some(batch)
    }
}

#[cfg(test)]
mod tests {
    use nostr::Keys;
    use serde_json::json;

    use super::*;
    use crate::hex::Hex;

    #[test]
    fn a_batch_is_read_back_and_one_that_is_none_is_not() {
        let event = json!({ "type": "tick_end", "tick_id": 7, "timestamp": 1_790_000_000_123_u64 });
        let events = vec![event.as_object().cloned().unwrap_or_default()];
        let batch = Batch { v: 1, session: Hex([1; 16]), events, left_out: 2 };
        let carried = batch.event(Keys::generate().public_key(), Timestamp::from_secs(1));
        assert!(carried.kind.is_ephemeral() && carried.tags.is_empty());
        assert_eq!(Batch::read(&carried.content), Some(batch.clone()));
        let long = Batch { events: vec![Map::new(); EVENTS_MAX + 1], ..batch.clone() };
        for none in [canonical(&Batch { v: 2, ..batch }), canonical(&long), "{}".to_owned(), "x".to_owned()] {
            assert_eq!(Batch::read(&none), None);
        }
    }
}
