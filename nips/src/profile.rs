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
    /// Its name at a domain (NIP-05), where it has one.
    pub nip05: Option<String>,
}

impl Profile {
    /// Kind 0 with `bot: true`.
    pub fn event(&self, author: PublicKey, at: Timestamp) -> UnsignedEvent {
        let mut metadata =
            Metadata::new().name(self.name.clone()).about(self.about.clone()).custom_field("bot", true);
        metadata.nip05 = self.nip05.clone();
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

/// Reads somebody's kind 10050: well-formed URLs only, each once, the first [`RELAYS_OF_OTHERS_MAX`].
pub fn read_dm_relays(event: &Event) -> Vec<RelayUrl> {
    tags::relays(&event.tags, "relay", RELAYS_OF_OTHERS_MAX)
}

/// Whether somebody's kind 0 says `bot: true` (NIP-24).
pub fn is_bot(event: &Event) -> bool {
    serde_json::from_str::<serde_json::Value>(&event.content)
        .is_ok_and(|profile| profile.get("bot").and_then(serde_json::Value::as_bool) == Some(true))
}

#[cfg(test)]
mod tests {
    use nostr::Keys;
    use proptest::prelude::*;

    use super::*;

    fn signed(keys: &Keys, event: UnsignedEvent) -> Event {
        event.sign_with_keys(keys).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_profile_and_its_relays_survive_their_events(
            name in "\\PC{0,40}",
            about in "\\PC{0,200}",
            hosts in proptest::collection::btree_set("[a-z]{1,20}", 0..9),
        ) {
            let keys = Keys::generate();
            let (author, at) = (keys.public_key(), Timestamp::from_secs(1));
            let nip05 = Some(format!("{}@example.com", hosts.len()));
            let profile = Profile { name: name.clone(), about: about.clone(), nip05: nip05.clone() };
            let event = signed(&keys, profile.event(author, at));
            let read = Metadata::from_json(&event.content).unwrap();
            prop_assert_eq!((read.name, read.about, read.nip05), (Some(name), Some(about), nip05));
            prop_assert!(is_bot(&event));
            let relays: Vec<_> =
                hosts.iter().map(|host| RelayUrl::parse(&format!("wss://{host}.example")).unwrap()).collect();
            let list = signed(&keys, dm_relays(author, &relays, at));
            let kept = relays.len().min(RELAYS_OF_OTHERS_MAX);
            prop_assert_eq!(read_dm_relays(&list), relays[..kept].to_vec());
        }
    }

    #[test]
    fn only_bot_true_is_a_bot() {
        let keys = Keys::generate();
        for content in ["", "[]", "{}", r#"{"bot":"true"}"#, r#"{"bot":1}"#, r#"{"bot":false}"#] {
            let at = Timestamp::from_secs(1);
            let none: [Tag; 0] = [];
            let event = UnsignedEvent::new(keys.public_key(), at, kind::METADATA, none, content);
            assert!(!is_bot(&signed(&keys, event)), "{content}");
        }
    }
}
