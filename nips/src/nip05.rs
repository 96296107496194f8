//! Names of the form `alice@example.com` (NIP-05): where a domain says whose they are, and what it says.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use nostr::{PublicKey, RelayUrl};
use serde::{Deserialize, Serialize};

use crate::profile::RELAYS_OF_OTHERS_MAX;

/// The longest name, in bytes; of the part before the `@` 64, as in mail.
pub const NAME_BYTES_MAX: usize = 320;
const LOCAL_BYTES_MAX: usize = 64;
/// Where a domain's names are.
pub const PATH: &str = "/.well-known/nostr.json";
/// The longest document that is read, in bytes: some domains answer with all their names.
pub const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// A name: `local@domain`. The domain may have a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    local: String,
    domain: String,
}

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("not of the form name@domain")]
    Form,
    #[error("before the @ stand 1 to 64 of a-z, 0-9, '-', '_' and '.'")]
    Local,
    #[error("after the @ stands a domain, such as example.com")]
    Domain,
}

impl FromStr for Name {
    type Err = NameError;

    /// Reads a name; capital letters are taken for small ones.
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::Form);
        }
        let text = text.to_ascii_lowercase();
        let (local, domain) = text.split_once('@').ok_or(NameError::Form)?;
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if local.is_empty()
            || local.len() > LOCAL_BYTES_MAX
            || !local.bytes().all(|c| plain(c) || c == b'_' || c == b'.')
        {
            return Err(NameError::Local);
        }
        let (host, port) = domain.split_once(':').map_or((domain, None), |(host, port)| (host, Some(port)));
        let is_label = |label: &str| {
            let (begin, end) = (label.bytes().next(), label.bytes().last());
            label.len() <= 63
                && label.bytes().all(plain)
                && begin.is_some_and(|c| c != b'-')
                && end != Some(b'-')
        };
        let is_port = |port: &str| {
            port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
        };
        if !host.split('.').all(is_label) || !port.is_none_or(is_port) {
            return Err(NameError::Domain);
        }
        Ok(Self { local: local.to_owned(), domain: domain.to_owned() })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl Name {
    /// The part before the `@`.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain, with its port if it has one.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Where the domain says whose it is, without the scheme.
    pub fn place(&self) -> String {
        format!("{}{PATH}?name={}", self.domain, self.local)
    }
}

/// Whose a name is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The key.
    pub pubkey: PublicKey,
    /// Relays where it may be found, the first few.
    pub relays: Vec<RelayUrl>,
}

/// Why a document does not tell.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("it is no document of names")]
    Syntax(#[source] serde_json::Error),
    #[error("it does not have this name")]
    NotThere,
    #[error("it names no public key in hex")]
    Key,
}

#[derive(Deserialize)]
struct Read {
    names: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    relays: serde_json::Value,
}

#[derive(Serialize)]
struct Written<'a> {
    names: &'a BTreeMap<String, PublicKey>,
    relays: BTreeMap<String, &'a [RelayUrl]>,
}

/// Reads what a domain answered about a name.
///
/// # Errors
/// When it says nothing of it that can be used.
pub fn read(document: &[u8], name: &Name) -> Result<Found, DocumentError> {
    let Read { names, relays } = serde_json::from_slice(document).map_err(DocumentError::Syntax)?;
    let key = names.get(&name.local).ok_or(DocumentError::NotThere)?;
    // Hex and nothing else: NIP-05 forbids npubs, so that software need not understand them.
    let pubkey = key.as_str().and_then(|key| PublicKey::from_hex(key).ok()).ok_or(DocumentError::Key)?;
    let listed = relays.get(pubkey.to_hex()).and_then(serde_json::Value::as_array);
    let listed = listed.into_iter().flatten().filter_map(serde_json::Value::as_str);
    let mut found: Vec<RelayUrl> = Vec::new();
    for relay in listed.filter(|url| url.len() <= 512).filter_map(|url| RelayUrl::parse(url).ok()) {
        if found.len() < RELAYS_OF_OTHERS_MAX && !found.contains(&relay) {
            found.push(relay);
        }
    }
    Ok(Found { pubkey, relays: found })
}

/// The document of these names, all of which are found on the same relays.
pub fn document(names: &BTreeMap<String, PublicKey>, relays: &[RelayUrl]) -> String {
    let relays = names.values().map(|key| (key.to_hex(), relays)).collect();
    serde_json::to_string(&Written { names, relays }).expect("names and keys are strings")
}

#[cfg(test)]
mod tests {
    use nostr::Keys;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_document_tells_what_was_written(
            locals in proptest::collection::btree_set("[a-z0-9._-]{1,20}", 1..6),
            hosts in proptest::collection::btree_set("[a-z]{1,20}", 0..=RELAYS_OF_OTHERS_MAX),
        ) {
            let names: BTreeMap<_, _> =
                locals.into_iter().map(|local| (local, Keys::generate().public_key())).collect();
            let relays: Vec<_> =
                hosts.iter().map(|host| RelayUrl::parse(&format!("wss://{host}.example")).unwrap()).collect();
            let written = document(&names, &relays);
            for (local, pubkey) in names {
                let name: Name = format!("{local}@example.com").parse().unwrap();
                prop_assert_eq!(read(written.as_bytes(), &name).unwrap(), Found { pubkey, relays: relays.clone() });
            }
            prop_assert!(matches!(
                read(written.as_bytes(), &"longer.than.twenty.letters@example.com".parse().unwrap()),
                Err(DocumentError::NotThere)
            ));
        }
    }

    #[test]
    fn only_what_can_stand_in_an_address_is_a_name() {
        for good in
            ["bob@example.com", "_@example.com", "B.ob@Example.COM:8443", "a@localhost", "a@127.0.0.1:80"]
        {
            assert_eq!(good.parse::<Name>().unwrap().to_string(), good.to_ascii_lowercase());
        }
        for bad in [
            "bob",
            "@example.com",
            "bob@",
            "a@b@c",
            "a b@example.com",
            "a@exa mple.com",
            "a@example.com/x",
            "a@example.com?x",
            "a@example.com#x",
            "a%20@example.com",
            "a&name=b@example.com",
            "a@user:pw@example.com",
            "a@[::1]",
            "a@.com",
            "a@-x.com",
            "a@example.com.",
            "a@example.com:",
            "a@example.com:0",
            "a@example.com:+1",
            "a@example.com:99999",
            "ä@example.com",
            &format!("{}@example.com", "a".repeat(65)),
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn documents_that_do_not_tell_are_told_apart() {
        let name: Name = "bob@example.com".parse().unwrap();
        let hex = Keys::generate().public_key().to_hex();
        let of = |text: &str| read(text.as_bytes(), &name);
        assert!(matches!(of("<html>"), Err(DocumentError::Syntax(_))));
        assert!(matches!(of(r#"{"names":{"alice":"x"}}"#), Err(DocumentError::NotThere)));
        assert!(matches!(of(r#"{"names":{"bob":"npub1x"}}"#), Err(DocumentError::Key)));
        assert!(matches!(of(r#"{"names":{"bob":7}}"#), Err(DocumentError::Key)));
        let odd = format!(
            r#"{{"names":{{"bob":"{hex}","x":7}},"relays":{{"{hex}":["no url",7,"wss://a.example"]}}}}"#
        );
        assert_eq!(of(&odd).unwrap().relays, [RelayUrl::parse("wss://a.example").unwrap()]);
    }
}
