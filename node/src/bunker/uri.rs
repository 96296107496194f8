//! `bunker://` addresses (NIP-46): who signs, where it listens, and the word that lets a client in, once.

use std::fmt;
use std::str::FromStr;

use oa_nips::nostr::{PublicKey, RelayUrl, Url};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Relays that an address may name.
pub(crate) const RELAYS_MAX: usize = 8;
/// The longest secret that is taken, in bytes.
const SECRET_BYTES_MAX: usize = 256;

/// The word of an invitation, gone from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The secret of this text; nothing for an empty or an endless one.
    pub fn new(text: &str) -> Option<Self> {
        let is_secret = !text.is_empty() && text.len() <= SECRET_BYTES_MAX;
        is_secret.then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// The text, for the one it was made for.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A signer elsewhere: what a client remembers of it once it was let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    /// The key that requests are encrypted to, which need not be the one it signs with.
    pub public_key: PublicKey,
    /// Where it listens; at least one.
    pub relays: Vec<RelayUrl>,
}

/// An address as it is handed from a signer's owner to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BunkerUri {
    /// The signer.
    pub remote: Remote,
    /// The word, if one is needed.
    pub secret: Option<Secret>,
}

/// Why a text is no address of a bunker. Never says what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    #[error("the address of a bunker begins with bunker://")]
    Scheme,
    #[error("what follows bunker:// must be a public key in 64 hex digits")]
    Key,
    #[error("a relay of the bunker's is no ws:// or wss:// address")]
    Relay,
    #[error("the bunker's address names no relay, or more than {RELAYS_MAX}")]
    Relays,
    #[error("the secret in the bunker's address is too long")]
    Secret,
}

impl FromStr for BunkerUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let url = Url::parse(text.trim()).map_err(|_| UriError::Scheme)?;
        if url.scheme() != "bunker" {
            return Err(UriError::Scheme);
        }
        let public_key = url.host_str().and_then(|key| PublicKey::from_hex(key).ok()).ok_or(UriError::Key)?;
        let (mut relays, mut secret) = (Vec::new(), None);
        for (name, value) in url.query_pairs() {
            match &*name {
                "relay" => {
                    let relay = RelayUrl::parse(&value).map_err(|_| UriError::Relay)?;
                    if !relays.contains(&relay) {
                        relays.push(relay);
                    }
                }
                "secret" if !value.is_empty() => secret = Some(Secret::new(&value).ok_or(UriError::Secret)?),
                // Others may follow one day.
                _ => {}
            }
        }
        if relays.is_empty() || relays.len() > RELAYS_MAX {
            return Err(UriError::Relays);
        }
        Ok(Self { remote: Remote { public_key, relays }, secret })
    }
}

impl BunkerUri {
    /// The address with its secret, to be shown to the owner alone.
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut url = Url::parse(&format!("bunker://{}", self.remote.public_key.to_hex()))
            .expect("64 hex digits are a host of a scheme that no standard knows");
        let mut query = url.query_pairs_mut();
        for relay in &self.remote.relays {
            query.append_pair("relay", relay.as_str());
        }
        if let Some(secret) = &self.secret {
            query.append_pair("secret", secret.reveal());
        }
        drop(query);
        // A space as nostr-tools reads it, which takes no plus sign; a true one is written %2B.
        Zeroizing::new(Zeroizing::new(String::from(url)).replace('+', "%20"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "fa984bd7dbb282f07e16e7ae87b26a2a7b9b90b7246a44771f0cf5ae58018f52";

    #[test]
    fn the_example_of_the_nip_is_read() {
        let text = format!(
            "bunker://{KEY}?relay=wss%3A%2F%2Frelay1.example.com&relay=wss://relay2.example.com&secret=0s8j2d%26js"
        );
        let uri: BunkerUri = text.parse().unwrap();
        assert_eq!(uri.remote.public_key.to_hex(), KEY);
        assert_eq!(uri.remote.relays.len(), 2);
        assert_eq!(uri.secret.as_ref().unwrap().reveal(), "0s8j2d&js");
        assert_eq!(uri.reveal().parse::<BunkerUri>().unwrap(), uri);
    }

    #[test]
    fn what_is_shown_reads_back_and_has_letters_that_all_clients_take() {
        let relays = vec![RelayUrl::parse("wss://relay.example.com/path").unwrap()];
        let remote = Remote { public_key: PublicKey::from_hex(KEY).unwrap(), relays };
        for text in ["let me in", "a+b&c=d", "žluť"] {
            let uri = BunkerUri { remote: remote.clone(), secret: Secret::new(text) };
            let shown = uri.reveal();
            assert_eq!(shown.parse::<BunkerUri>().unwrap(), uri);
            // What nostr-tools 2.25 looks for.
            let (_, query) = shown.split_once('?').unwrap();
            assert!(query.chars().all(|c| c.is_ascii_alphanumeric() || "_?/:.=&%-".contains(c)), "{query}");
        }
    }

    #[test]
    fn printing_one_shows_no_secret() {
        let uri: BunkerUri = format!("bunker://{KEY}?relay=wss://a.example&secret=hush").parse().unwrap();
        let shown = format!("{uri:?} {uri:#?}");
        assert!(shown.contains("[redacted]") && !shown.contains("hush"), "{shown}");
    }

    #[test]
    fn a_secret_is_not_needed_and_an_empty_one_is_none() {
        for text in
            [format!("bunker://{KEY}?relay=ws://a:1"), format!("bunker://{KEY}?relay=ws://a:1&secret=")]
        {
            assert_eq!(text.parse::<BunkerUri>().unwrap().secret, None);
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_the_secret() {
        let many: String = (0..9).map(|n| format!("&relay=wss://r{n}.example")).collect();
        let cases = [
            ("hush".to_owned(), UriError::Scheme),
            (format!("nostrconnect://{KEY}?relay=wss://a.example&secret=hush"), UriError::Scheme),
            ("bunker://npub1x?relay=wss://a.example&secret=hush".to_owned(), UriError::Key),
            (format!("bunker://{KEY}?relay=http://a.example&secret=hush"), UriError::Relay),
            (format!("bunker://{KEY}?secret=hush"), UriError::Relays),
            (format!("bunker://{KEY}?secret=hush{many}"), UriError::Relays),
            (
                format!("bunker://{KEY}?relay=wss://a.example&secret=hush{}", "x".repeat(300)),
                UriError::Secret,
            ),
        ];
        for (text, expected) in cases {
            let error = text.parse::<BunkerUri>().unwrap_err();
            assert_eq!(error, expected, "{text}");
            assert!(!format!("{error} {error:?}").contains("hush"));
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in ".{0,200}") {
            let _ = text.parse::<BunkerUri>();
            let _ = format!("bunker://{KEY}?{text}").parse::<BunkerUri>();
        }
    }
}
