//! `[nostr]` of a manifest: what an agent may say in public, and where it may look.

use oa_nips::nostr::RelayUrl;
use oa_nips::template;
use serde::{Deserialize, Serialize};

use super::ManifestError;

/// Most kinds that an agent may publish.
pub const KINDS_MAX: usize = 100;
/// Most relays that an agent may ask besides the node's.
pub const RELAYS_MAX: usize = 10;

/// `[nostr]`: what the agent may publish by itself, and which relays it may ask besides the node's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nostr {
    /// Kinds of events; those in [`template::FORBIDDEN`] never.
    pub kinds: Vec<u16>,
    /// Relays that `/nostr/query` may name.
    pub relays: Vec<RelayUrl>,
}

impl Default for Nostr {
    /// Notes and articles.
    fn default() -> Self {
        Self { kinds: vec![1, 30_023], relays: Vec::new() }
    }
}

impl Nostr {
    /// Names the key that is wrong.
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        if self.kinds.len() > KINDS_MAX {
            return Err(ManifestError::TooManyKinds);
        }
        if self.relays.len() > RELAYS_MAX {
            return Err(ManifestError::TooManyRelays);
        }
        let forbidden = |kind: &u16| template::forbidden(*kind).map(|why| (*kind, why));
        match self.kinds.iter().find_map(forbidden) {
            Some((kind, why)) => Err(ManifestError::KindForbidden { kind, why }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::agent::manifest::Manifest;

    #[test]
    fn kinds_that_are_never_published_cannot_be_listed() {
        let of = |nostr: &str| Manifest::parse(&format!("name = \"alice\"\n[nostr]\n{nostr}\n"));
        let manifest = of("kinds = [1, 7]\nrelays = [\"wss://relay.example\"]").unwrap();
        assert_eq!((manifest.nostr.kinds.len(), manifest.nostr.relays.len()), (2, 1));
        assert_eq!(Manifest::parse(&manifest.to_toml()).unwrap(), manifest);
        assert_eq!(Manifest::parse("name = \"alice\"").unwrap().nostr.kinds, [1, 30_023]);
        for bad in
            ["kinds = [1, 5]", "kinds = [22242]", "kinds = [65541]", "relays = [\"http://x\"]", "kind = [1]"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
