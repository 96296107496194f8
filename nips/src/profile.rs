//! How an agent shows itself: kind 0 (NIP-01, NIP-24) and its relay lists, kinds 10002 (NIP-65) and 10050 (NIP-17).

use nostr::{Event, JsonUtil, Metadata, PublicKey, RelayUrl, Tag, Timestamp, UnsignedEvent};

use crate::{kind, tags};

/// At most this many relays of a list that others wrote are used.
pub const RELAYS_OF_OTHERS_MAX: usize = 5;

/// What kind 0 says of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Shown as the name in clients.
    pub name: String,
    /// One or two sentences.
    pub about: String,
}

impl Profile {
    /// Kind 0 with `bot: true`.
    pub fn event(&self, author: PublicKey, at: Timestamp) -> UnsignedEvent {
        let metadata =
            Metadata::new().name(self.name.clone()).about(self.about.clone()).custom_field("bot", true);
        UnsignedEvent::new(author, at, kind::METADATA, Vec::<Tag>::new(), metadata.as_json())
    }
}

/// The relays an agent reads and writes (kind 10002).
pub fn relay_list(author: PublicKey, relays: &[RelayUrl], at: Timestamp) -> UnsignedEvent {
    let tags = relays.iter().map(|url| tags::custom("r", [url.to_string()]));
    UnsignedEvent::new(author, at, kind::RELAY_LIST, tags, "")
}

/// The relays an agent takes direct messages on (kind 10050).
pub fn dm_relays(author: PublicKey, relays: &[RelayUrl], at: Timestamp) -> UnsignedEvent {
    let tags = relays.iter().map(|url| tags::custom("relay", [url.to_string()]));
    UnsignedEvent::new(author, at, kind::DM_RELAYS, tags, "")
}

/// Reads somebody's kind 10050: well-formed URLs only, the first [`RELAYS_OF_OTHERS_MAX`].
pub fn read_dm_relays(event: &Event) -> Vec<RelayUrl> {
    let mut relays = tags::relays(&event.tags, "relay");
    relays.truncate(RELAYS_OF_OTHERS_MAX);
    relays
}

/// Whether somebody's kind 0 says `bot: true` (NIP-24).
pub fn is_bot(event: &Event) -> bool {
    serde_json::from_str::<serde_json::Value>(&event.content)
        .is_ok_and(|profile| profile.get("bot").and_then(serde_json::Value::as_bool) == Some(true))
}

#[cfg(test)]
mod tests {
    use nostr::Keys;

    use super::*;

    #[test]
    fn a_dm_relay_list_is_read_back_and_cut() {
        let keys = Keys::generate();
        let relays: Vec<_> =
            (0..9).map(|n| RelayUrl::parse(&format!("wss://r{n}.example")).unwrap()).collect();
        let event =
            dm_relays(keys.public_key(), &relays, Timestamp::from_secs(1)).sign_with_keys(&keys).unwrap();
        assert_eq!(read_dm_relays(&event), relays[..RELAYS_OF_OTHERS_MAX]);
    }

    #[test]
    fn an_agent_says_that_it_is_a_bot() {
        let keys = Keys::generate();
        let profile = Profile { name: "alice".into(), about: "an agent".into() };
        let event = profile.event(keys.public_key(), Timestamp::from_secs(1)).sign_with_keys(&keys).unwrap();
        assert!(is_bot(&event));
    }
}
