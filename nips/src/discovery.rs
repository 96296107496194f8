//! How an agent can be found: its profile of kind 39200, addressable by `d=profile`, with what it can do as `t` tags that
//! relays index; and its owner's word for it, kind 39203.
//!
//! Anybody can claim an owner. So an owner is shown only with a signature of the owner's own: that of an event that
//! says "this agent is mine", of which the profile carries what cannot be computed, its time and signature. Such an
//! event can be made by any signer, a bunker too, and says nothing more when it is published.

use std::fmt;
use std::str::FromStr;

use nostr::secp256k1::schnorr::Signature;
use nostr::{Event, Filter, PublicKey, SingleLetterTag, Tag, Timestamp, UnsignedEvent};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hex::Hash;
use crate::record::{canonical, object};
use crate::{kind, tags};

/// The `d` of a profile.
pub const IDENTIFIER: &str = "profile";
/// The longest content that is read, in bytes.
pub const CONTENT_BYTES_MAX: usize = 8 * 1024;
/// Capabilities of one agent; of more the first are read.
pub const CAPABILITIES_MAX: usize = 32;
/// The longest capability, in bytes.
pub const CAPABILITY_BYTES_MAX: usize = 64;
/// Characters of names and descriptions that are read.
pub const NAME_CHARS_MAX: usize = 64;
pub const ABOUT_CHARS_MAX: usize = 1_000;

/// Something an agent can do, by a word that others look for: 1 to 64 of `a-z 0-9 . _ / -`, beginning with a letter or
/// digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability(String);

/// Why a text is no capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no capability: 1 to 64 of a-z, 0-9, '.', '_', '/' and '-', beginning with a letter or digit"
)]
pub struct CapabilityError(String);

impl FromStr for Capability {
    type Err = CapabilityError;

    fn from_str(text: &str) -> Result<Self, CapabilityError> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let good = text.bytes().all(|c| plain(c) || b"._/-".contains(&c));
        let begins = text.bytes().next().is_some_and(plain);
        if good && begins && text.len() <= CAPABILITY_BYTES_MAX {
            Ok(Self(text.to_owned()))
        } else {
            Err(CapabilityError(text.chars().take(CAPABILITY_BYTES_MAX).collect()))
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Capability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Capability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How free an agent is to act without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Autonomy {
    /// Whatever reaches beyond its own files needs consent.
    Supervised,
    /// Some of it does.
    SemiAutonomous,
    /// None of it does.
    Autonomous,
}

/// What an agent runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// As its manifest names it.
    pub name: String,
    /// Tells versions apart: SHA-256 of the program, or of its name and release where it is part of the node.
    pub digest: Hash,
}

/// An owner's word that an agent is theirs, without what the profile says anyhow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Who says so.
    pub pubkey: PublicKey,
    /// When: the event's `created_at`.
    pub at: Timestamp,
    /// The event's signature.
    pub sig: Signature,
}

impl Owner {
    /// What an owner signs, to say that `agent` is theirs.
    pub fn statement(owner: PublicKey, agent: PublicKey, at: Timestamp) -> UnsignedEvent {
        let tags = [Tag::identifier(agent.to_hex()), Tag::public_key(agent)];
        let mut event = UnsignedEvent::new(owner, at, kind::OWNER, tags, "");
        event.ensure_id();
        event
    }

    /// What is kept of a statement that was signed; nothing if it is another event, or not signed by its author.
    pub fn of(event: &Event, agent: PublicKey) -> Option<Self> {
        let owner = Self { pubkey: event.pubkey, at: event.created_at, sig: event.sig };
        owner.holds(agent).then_some(owner)
    }

    /// Whether it is the owner's word about this agent.
    pub fn holds(&self, agent: PublicKey) -> bool {
        let statement = Self::statement(self.pubkey, agent, self.at);
        statement.add_signature(self.sig).is_ok_and(|event| event.verify().is_ok())
    }

    fn tag(&self) -> Tag {
        tags::custom("owner", [self.pubkey.to_hex(), self.at.as_secs().to_string(), self.sig.to_string()])
    }

    fn read(event: &Event) -> Option<Self> {
        let [pubkey, at, sig] = tags::triple(&event.tags, "owner")?;
        let at = Timestamp::from_secs(tags::decimal(at)?);
        let owner = Self { pubkey: PublicKey::from_hex(pubkey).ok()?, at, sig: sig.parse().ok()? };
        owner.holds(event.pubkey).then_some(owner)
    }
}

/// What kind 39200 says of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentProfile {
    /// How it is called.
    pub name: String,
    /// One or two sentences.
    pub about: String,
    /// What it can do; each once.
    pub capabilities: Vec<Capability>,
    /// How free it is.
    pub autonomy: Autonomy,
    /// What it runs.
    pub program: Program,
    /// Whose it is, by their own word. Read, it holds.
    pub owner: Option<Owner>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    v: u8,
    name: String,
    about: String,
    autonomy: Autonomy,
    program: Program,
}

/// Why an event is no agent's profile.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("not an event of kind 39200 with the identifier \"profile\"")]
    Kind,
    #[error("a content of {0} bytes is too long for a profile")]
    TooLarge(usize),
    #[error("the content is no profile")]
    Syntax(#[source] serde_json::Error),
    #[error("version {0} of the format is not known")]
    Version(u8),
}

impl AgentProfile {
    /// The event that says so.
    pub fn event(&self, author: PublicKey, at: Timestamp) -> UnsignedEvent {
        let content = Content {
            v: 1,
            name: self.name.clone(),
            about: self.about.clone(),
            autonomy: self.autonomy,
            program: self.program.clone(),
        };
        let capabilities =
            self.capabilities.iter().map(|capability| tags::custom("t", [capability.to_string()]));
        let tags = [Tag::identifier(IDENTIFIER)].into_iter().chain(capabilities);
        let tags = tags.chain(self.owner.as_ref().map(Owner::tag));
        UnsignedEvent::new(author, at, kind::AGENT, tags, canonical(&content))
    }

    /// Reads an event, whose signature is the caller's to check. What is too long is cut, capabilities that are none
    /// are left out, and an owner whose word does not hold is none.
    ///
    /// # Errors
    /// When it is no profile, or one of another version.
    pub fn read(event: &Event) -> Result<Self, ReadError> {
        if event.kind != kind::AGENT || tags::identifier(&event.tags) != Some(IDENTIFIER) {
            return Err(ReadError::Kind);
        }
        if event.content.len() > CONTENT_BYTES_MAX {
            return Err(ReadError::TooLarge(event.content.len()));
        }
        let content: Content = object(&event.content).map_err(ReadError::Syntax)?;
        if content.v != 1 {
            return Err(ReadError::Version(content.v));
        }
        let mut capabilities: Vec<Capability> = Vec::new();
        for capability in tags::topics(&event.tags).filter_map(|topic| topic.parse().ok()) {
            if capabilities.len() < CAPABILITIES_MAX && !capabilities.contains(&capability) {
                capabilities.push(capability);
            }
        }
        let cut = |text: &str, max: usize| text.chars().take(max).collect::<String>();
        let program = Program { name: cut(&content.program.name, NAME_CHARS_MAX), ..content.program };
        Ok(Self {
            name: cut(&content.name, NAME_CHARS_MAX),
            about: cut(&content.about, ABOUT_CHARS_MAX),
            capabilities,
            autonomy: content.autonomy,
            program,
            owner: Owner::read(event),
        })
    }
}

/// Finds the profiles of agents that can do something.
pub fn with_capability(capability: &Capability) -> Filter {
    Filter::new()
        .kind(kind::AGENT)
        .custom_tag(SingleLetterTag::lowercase(nostr::Alphabet::T), capability.to_string())
}

/// Takes an agent's profile back (NIP-09).
pub fn withdrawal(author: PublicKey, at: Timestamp) -> UnsignedEvent {
    let kind = kind::AGENT.as_u16();
    let address = tags::custom("a", [format!("{kind}:{}:{IDENTIFIER}", author.to_hex())]);
    UnsignedEvent::new(author, at, kind::DELETION, [address, tags::custom("k", [kind.to_string()])], "")
}

/// Finds the profile of one agent.
pub fn of(agent: PublicKey) -> Filter {
    Filter::new().kind(kind::AGENT).author(agent).identifier(IDENTIFIER)
}

#[cfg(test)]
mod tests {
    use nostr::Keys;
    use proptest::prelude::*;

    use super::*;
    use crate::hex::Hex;

    fn profile(capabilities: Vec<Capability>) -> AgentProfile {
        let program = Program { name: "echo".to_owned(), digest: Hex([7; 32]) };
        AgentProfile {
            name: "alice".to_owned(),
            about: String::new(),
            capabilities,
            autonomy: Autonomy::Supervised,
            program,
            owner: None,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_profile_survives_its_event(
            name in "\\PC{0,64}",
            about in "\\PC{0,400}",
            words in proptest::collection::btree_set("[a-z0-9][a-z0-9._/-]{0,63}", 0..=CAPABILITIES_MAX),
            is_owned in any::<bool>(),
            at in 0..4_000_000_000_u64,
        ) {
            let (agent, owner) = (Keys::generate(), Keys::generate());
            let at = Timestamp::from_secs(at);
            let statement = Owner::statement(owner.public_key(), agent.public_key(), at);
            let statement = statement.sign_with_keys(&owner).unwrap();
            let written = AgentProfile {
                name,
                about,
                owner: Owner::of(&statement, agent.public_key()).filter(|_| is_owned),
                ..profile(words.iter().map(|word| word.parse().unwrap()).collect())
            };
            let event = written.event(agent.public_key(), at).sign_with_keys(&agent).unwrap();
            prop_assert_eq!(AgentProfile::read(&event).unwrap(), written);
            for word in &words {
                prop_assert!(with_capability(&word.parse().unwrap()).match_event(&event, Default::default()));
            }
            prop_assert!(of(agent.public_key()).match_event(&event, Default::default()));
        }
    }

    #[test]
    fn an_owner_is_shown_only_by_their_own_word_about_this_agent() {
        let [agent, other, owner] = std::array::from_fn(|_| Keys::generate());
        let at = Timestamp::from_secs(1);
        let sign = |statement: UnsignedEvent, keys: &Keys| statement.sign_with_keys(keys).unwrap();
        let word = sign(Owner::statement(owner.public_key(), agent.public_key(), at), &owner);
        let good = Owner::of(&word, agent.public_key()).unwrap();
        assert_eq!(Owner::of(&word, other.public_key()), None, "it is about another");
        let shown = |author: &Keys, owner: Owner| {
            let profile = AgentProfile { owner: Some(owner), ..profile(Vec::new()) };
            AgentProfile::read(&sign(profile.event(author.public_key(), at), author)).unwrap().owner
        };
        assert_eq!(shown(&agent, good), Some(good));
        assert_eq!(shown(&other, good), None, "a word that was taken from another's profile");
        assert_eq!(shown(&agent, Owner { pubkey: other.public_key(), ..good }), None);
        assert_eq!(shown(&agent, Owner { at: Timestamp::from_secs(2), ..good }), None);
    }

    #[test]
    fn a_capability_is_a_word_that_relays_index() {
        for good in ["chat", "translate/de-en", "ocr.v2", "0", &"a".repeat(64)] {
            assert_eq!(good.parse::<Capability>().unwrap().to_string(), good);
        }
        for bad in ["", "Chat", "a b", "-x", "/x", "ü", &"a".repeat(65)] {
            assert!(bad.parse::<Capability>().is_err(), "{bad:?}");
        }
    }
}
