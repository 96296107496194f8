//! `[profile]`: how the agent can be found.

use std::fmt;
use std::str::FromStr;

use oa_nips::discovery::{CAPABILITIES_MAX, Capability, Owner};
use oa_nips::nostr::secp256k1::schnorr::Signature;
use oa_nips::nostr::{PublicKey, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is said of the agent to anybody who looks for one like it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Findable {
    /// What it can do.
    pub capabilities: Vec<Capability>,
    /// Whether it is published (kind 39200), and its name listed at the node's domain.
    pub publish: bool,
    /// The owner's word that the agent is theirs, without which nobody is told whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_word: Option<OwnerWord>,
}

impl Default for Findable {
    fn default() -> Self {
        Self { capabilities: Vec::new(), publish: true, owner_word: None }
    }
}

impl Findable {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self) -> Result<(), String> {
        if self.capabilities.len() > CAPABILITIES_MAX {
            return Err(format!("over {CAPABILITIES_MAX} capabilities"));
        }
        Ok(())
    }

    /// The owner as it is shown: only one whose word this is.
    pub(crate) fn owner(&self, owner: Option<PublicKey>, agent: PublicKey) -> Option<Owner> {
        let OwnerWord { at, sig } = self.owner_word?;
        let owner = Owner { pubkey: owner?, at, sig };
        owner.holds(agent).then_some(owner)
    }
}

/// An owner's word: time and signature of their event of kind 39203, as `1790000000:<signature>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerWord {
    /// The event's `created_at`.
    pub at: Timestamp,
    /// Its signature.
    pub sig: Signature,
}

impl fmt::Display for OwnerWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.at.as_secs(), self.sig)
    }
}

impl FromStr for OwnerWord {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = || {
            let (at, sig) = text.split_once(':')?;
            Some(Self { at: Timestamp::from_secs(at.parse().ok()?), sig: sig.parse().ok()? })
        };
        parsed().ok_or("not of the form 1790000000:<signature in hex>; `oa agent vouch` writes it")
    }
}

impl Serialize for OwnerWord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OwnerWord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::Keys;

    use super::*;

    #[test]
    fn an_owner_is_shown_whose_word_it_is() {
        let [agent, owner, later] = std::array::from_fn(|_| Keys::generate());
        let statement = Owner::statement(owner.public_key(), agent.public_key(), Timestamp::from_secs(7));
        let event = statement.sign_with_keys(&owner).unwrap();
        let word = OwnerWord { at: event.created_at, sig: event.sig };
        let text = format!("capabilities = [\"chat\"]\nowner_word = \"{word}\"\n");
        let findable: Findable = toml::from_str(&text).unwrap();
        assert_eq!((findable.owner_word, findable.publish), (Some(word), true));
        let shown = |owner: &Keys, agent: &Keys| findable.owner(Some(owner.public_key()), agent.public_key());
        assert_eq!(shown(&owner, &agent).unwrap().pubkey, owner.public_key());
        assert_eq!(shown(&later, &agent), None, "it has another owner now");
        assert_eq!(shown(&owner, &later), None);
        assert_eq!(findable.owner(None, agent.public_key()), None);
        for wrong in ["capabilities = [\"No\"]", "owner_word = \"7:xyz\"", "listed = true"] {
            assert!(toml::from_str::<Findable>(wrong).is_err(), "{wrong}");
        }
    }
}
