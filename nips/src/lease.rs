//! The lease of a key: which running node may act with it, as an addressable event of the key itself (kind 39205).
//!
//! Relays keep the newest event of a key, so a lease is a register that every node with the key reads and writes. How
//! nodes take turns by it is the node's affair; here is what an event says, and which of two is the newer.

use std::cmp::Reverse;

use nostr::{Event, EventId, Filter, PublicKey, Tag, Timestamp, UnsignedEvent};
use serde::{Deserialize, Serialize};

use crate::hex::Hex;
use crate::record::{INTEGER_MAX, canonical, object};
use crate::{kind, tags};

/// The `d` of a lease.
pub const IDENTIFIER: &str = "lease";
/// The longest content that is read, in bytes.
pub const CONTENT_BYTES_MAX: usize = 1024;
/// A lease is over this many seconds after its event's `created_at` at the latest, whatever it says: a node whose
/// clock is wrong must not keep others waiting for years.
pub const LASTS_S_MAX: u64 = 3600;
/// Characters of a node's name that are read and written.
pub const NODE_CHARS_MAX: usize = 64;

/// Names a store that has the key, or one process that runs on it: 16 random bytes.
pub type Id = Hex<16>;

/// What its writer does with the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Wants it, and looks whether somebody else does too.
    Claimed,
    /// Acts with it.
    Held,
    /// Has left it.
    Released,
}

/// The content of a lease's event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Version of this format: 1.
    pub v: u8,
    /// The store from which the key is used. It outlives restarts.
    pub instance: Id,
    /// The process. A copy of a store has the same instance, and starts as another process.
    pub boot: Id,
    /// Grows with each taking of the lease: at most 2^53 − 1.
    pub epoch: u64,
    /// Until when, in seconds since 1970.
    pub expires_at: u64,
    /// Whether it is claimed, held or released.
    pub state: State,
    /// What its operator calls the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// Why an event is no lease.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("not an event of kind 39205 with the identifier \"lease\"")]
    Kind,
    #[error("a content of {0} bytes is too long for a lease")]
    TooLarge(usize),
    #[error("the content is no lease")]
    Syntax(#[source] serde_json::Error),
    #[error("version {0} of the format is not known")]
    Version(u8),
    #[error("the epoch {0} is over 2^53 - 1")]
    Epoch(u64),
}

impl Lease {
    /// The event that says so.
    pub fn event(&self, author: PublicKey, at: Timestamp) -> UnsignedEvent {
        UnsignedEvent::new(author, at, kind::LEASE, [Tag::identifier(IDENTIFIER)], canonical(self))
    }
}

/// A lease as a relay has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The event's id.
    pub id: EventId,
    /// The event's `created_at`, in seconds since 1970.
    pub at: u64,
    /// What it says; `expires_at` is cut to [`LASTS_S_MAX`] after `at`, and the node's name is fit to be shown.
    pub lease: Lease,
}

impl Published {
    /// Reads an event, whose signature and author are the caller's to check.
    ///
    /// # Errors
    /// When it is no lease, or one of another version.
    pub fn read(event: &Event) -> Result<Self, ReadError> {
        if event.kind != kind::LEASE || tags::identifier(&event.tags) != Some(IDENTIFIER) {
            return Err(ReadError::Kind);
        }
        if event.content.len() > CONTENT_BYTES_MAX {
            return Err(ReadError::TooLarge(event.content.len()));
        }
        let mut lease: Lease = object(&event.content).map_err(ReadError::Syntax)?;
        if lease.v != 1 {
            return Err(ReadError::Version(lease.v));
        }
        if lease.epoch > INTEGER_MAX {
            return Err(ReadError::Epoch(lease.epoch));
        }
        let at = event.created_at.as_secs();
        lease.expires_at = lease.expires_at.min(at.saturating_add(LASTS_S_MAX));
        lease.node = lease.node.as_deref().and_then(node_name);
        Ok(Self { id: event.id, at, lease })
    }

    /// Whether a relay that has both keeps this one (NIP-01): the newer, of the same second that with the lower id.
    pub fn replaces(&self, other: &Self) -> bool {
        (self.at, Reverse(self.id)) > (other.at, Reverse(other.id))
    }
}

/// A node's name as it is written and shown: no control characters, not too long, not empty.
pub fn node_name(name: &str) -> Option<String> {
    let name: String = name.chars().filter(|c| !c.is_control()).take(NODE_CHARS_MAX).collect();
    Some(name).filter(|name| !name.is_empty())
}

/// What asks a relay for the lease of a key.
pub fn filter(author: PublicKey) -> Filter {
    Filter::new().kind(kind::LEASE).author(author).identifier(IDENTIFIER)
}

#[cfg(test)]
mod tests {
    use nostr::Keys;
    use nostr::filter::MatchEventOptions;
    use proptest::prelude::*;

    use super::*;

    fn lease() -> impl Strategy<Value = Lease> {
        let state = prop_oneof![Just(State::Claimed), Just(State::Held), Just(State::Released)];
        let node = proptest::option::of("[^\\p{Cc}]{1,64}");
        (any::<[u8; 16]>(), any::<[u8; 16]>(), 0..=INTEGER_MAX, 0..=LASTS_S_MAX, state, node).prop_map(
            |(instance, boot, epoch, expires_at, state, node)| Lease {
                v: 1,
                instance: Hex(instance),
                boot: Hex(boot),
                epoch,
                expires_at,
                state,
                node,
            },
        )
    }

    fn signed(keys: &Keys, lease: &Lease, at: u64) -> Event {
        lease.event(keys.public_key(), Timestamp::from_secs(at)).sign_with_keys(keys).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_lease_survives_its_event(mut lease in lease(), at in 0..u64::from(u32::MAX)) {
            let keys = Keys::generate();
            lease.expires_at += at;
            let event = signed(&keys, &lease, at);
            prop_assert!(filter(keys.public_key()).match_event(&event, MatchEventOptions::new()));
            prop_assert_eq!(Published::read(&event).unwrap(), Published { id: event.id, at, lease });
        }
    }

    #[test]
    fn of_two_events_exactly_one_replaces_the_other() {
        let published = |at, id| Published {
            id: EventId::from_byte_array([id; 32]),
            at,
            lease: Lease {
                v: 1,
                instance: Hex::ZERO,
                boot: Hex::ZERO,
                epoch: 1,
                expires_at: 0,
                state: State::Held,
                node: None,
            },
        };
        for (newer, older) in [((2, 9), (1, 1)), ((1, 1), (1, 2))] {
            let (newer, older) = (published(newer.0, newer.1), published(older.0, older.1));
            assert!(newer.replaces(&older) && !older.replaces(&newer) && !older.replaces(&older));
        }
    }

    #[test]
    fn a_name_is_fit_to_be_shown() {
        assert_eq!(node_name("a\u{1b}[2J\nb").as_deref(), Some("a[2Jb"));
        assert_eq!(node_name("\n"), None);
        assert_eq!(node_name(&"é".repeat(100)).map(|name| name.chars().count()), Some(NODE_CHARS_MAX));
    }
}
