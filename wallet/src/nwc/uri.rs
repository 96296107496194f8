//! The line by which a wallet is handed to a client: `nostr+walletconnect://…`. It holds a secret.

use std::fmt;
use std::str::FromStr;

use oa_nips::nostr::types::url::Url;
use oa_nips::nostr::{Keys, PublicKey, RelayUrl, SecretKey};

/// The scheme, and what some old clients write instead.
const SCHEMES: [&str; 2] = ["nostr+walletconnect", "nostrwalletconnect"];
/// Relays of one line that are used.
pub const RELAYS_MAX: usize = 8;
/// The longest line that is read, in bytes.
const BYTES_MAX: usize = 4096;

/// One connection to one wallet, as its client holds it. `Debug` shows no secret; [`Uri::reveal`] does.
#[derive(Clone, PartialEq, Eq)]
pub struct Uri {
    /// The wallet's key.
    pub wallet: PublicKey,
    /// Where it listens; at least one.
    pub relays: Vec<RelayUrl>,
    /// The client's key.
    secret: SecretKey,
    /// A Lightning address that pays into the wallet.
    pub lud16: Option<String>,
}

/// Why a line is no connection. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    #[error("not of the form nostr+walletconnect://…")]
    Syntax,
    #[error("longer than {BYTES_MAX} bytes")]
    TooLong,
    #[error("the wallet's key is not 64 hex digits of a public key")]
    Wallet,
    #[error("no secret that is 64 hex digits of a key")]
    Secret,
    #[error("no relay whose address is ws:// or wss://")]
    Relay,
}

impl Uri {
    /// A line for a connection.
    ///
    /// # Errors
    /// [`UriError::Relay`] without a relay.
    pub fn new(wallet: PublicKey, relays: Vec<RelayUrl>, secret: SecretKey) -> Result<Self, UriError> {
        if relays.is_empty() {
            return Err(UriError::Relay);
        }
        Ok(Self { wallet, relays, secret, lud16: None })
    }

    /// The client's keys.
    pub fn keys(&self) -> Keys {
        Keys::new(self.secret.clone())
    }

    /// The whole line, secret included, for the client it is meant for.
    pub fn reveal(&self) -> String {
        let mut line = format!("{}://{}?", SCHEMES[0], self.wallet);
        for relay in &self.relays {
            line += &format!("relay={}&", escape(relay.as_str_without_trailing_slash()));
        }
        line += &format!("secret={}", self.secret.to_secret_hex());
        if let Some(lud16) = &self.lud16 {
            line += &format!("&lud16={}", escape(lud16));
        }
        line
    }
}

impl FromStr for Uri {
    type Err = UriError;

    /// Relays that are none are passed over, as long as one remains; so are parameters that are not known.
    fn from_str(line: &str) -> Result<Self, UriError> {
        let line = line.trim();
        if line.len() > BYTES_MAX {
            return Err(UriError::TooLong);
        }
        let url = Url::parse(line).map_err(|_| UriError::Syntax)?;
        if !SCHEMES.contains(&url.scheme()) {
            return Err(UriError::Syntax);
        }
        // Without the two slashes the key is a path.
        let key = url.host_str().unwrap_or_else(|| url.path());
        let wallet = PublicKey::from_hex(key).map_err(|_| UriError::Wallet)?;
        // A key off the curve would only be found out by the first encryption.
        wallet.xonly().map_err(|_| UriError::Wallet)?;
        let (mut relays, mut secret, mut lud16) = (Vec::new(), None, None);
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "relay" => {
                    let relay = RelayUrl::parse(&value).ok().filter(|relay| !relays.contains(relay));
                    relays.extend(relay.filter(|_| relays.len() < RELAYS_MAX));
                }
                "secret" => secret = SecretKey::from_hex(&value).ok(),
                "lud16" => lud16 = Some(value.into_owned()).filter(|address| !address.is_empty()),
                _ => {}
            }
        }
        let secret = secret.ok_or(UriError::Secret)?;
        Ok(Self { lud16, ..Self::new(wallet, relays, secret)? })
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uri")
            .field("wallet", &self.wallet)
            .field("relays", &self.relays)
            .field("secret", &"[redacted]")
            .field("lud16", &self.lud16)
            .finish()
    }
}

fn escape(text: &str) -> String {
    oa_nips::nostr::types::url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WALLET: &str = "b889ff5b1513b641e2a139f661a661364979c5beee91842f8f0ef42ab558e9d4";
    const SECRET: &str = "71a8c14c1407c113601079c4302dab36460f0ccd0ad506f1f2dc73b5100e4f3c";

    fn read(query: &str) -> Result<Uri, UriError> {
        format!("nostr+walletconnect://{WALLET}?{query}").parse()
    }

    #[test]
    fn the_line_of_the_nip_is_read_and_its_secret_is_not_printed() {
        let uri =
            read(&format!("relay=wss%3A%2F%2Frelay.damus.io&secret={SECRET}&lud16=a%40b.c&x=1")).unwrap();
        assert_eq!(uri.relays, [RelayUrl::parse("wss://relay.damus.io").unwrap()]);
        assert_eq!(uri.lud16.as_deref(), Some("a@b.c"));
        assert!(!format!("{uri:?}").contains(SECRET));
        assert_eq!(uri.reveal().parse(), Ok(uri));
    }

    #[test]
    fn several_relays_are_kept_and_bad_ones_passed_over() {
        let uri = read(&format!(
            "relay=wss://a.b&relay=https://x.y&relay=ws://c.d&relay=wss://a.b&secret={SECRET}"
        ));
        let relays: Vec<_> = uri.unwrap().relays.iter().map(ToString::to_string).collect();
        assert_eq!(relays, ["wss://a.b", "ws://c.d"]);
    }

    #[test]
    fn what_is_no_connection_is_told_apart_and_not_quoted() {
        let relay = "relay=wss://a.b";
        for (line, error) in [
            (String::new(), UriError::Syntax),
            (format!("https://{WALLET}?{relay}&secret={SECRET}"), UriError::Syntax),
            (format!("nostr+walletconnect://abc?{relay}&secret={SECRET}"), UriError::Wallet),
            (format!("nostr+walletconnect://{}?{relay}&secret={SECRET}", "f".repeat(64)), UriError::Wallet),
            (format!("nostr+walletconnect://{WALLET}?{relay}"), UriError::Secret),
            (format!("nostr+walletconnect://{WALLET}?{relay}&secret=12"), UriError::Secret),
            (format!("nostr+walletconnect://{WALLET}?{relay}&secret={}", "0".repeat(64)), UriError::Secret),
            (format!("nostr+walletconnect://{WALLET}?secret={SECRET}"), UriError::Relay),
            (format!("nostr+walletconnect://{WALLET}?relay=https://a.b&secret={SECRET}"), UriError::Relay),
            ("x".repeat(5000), UriError::TooLong),
        ] {
            let found = line.parse::<Uri>().unwrap_err();
            assert_eq!(found, error, "{line}");
            assert!(!found.to_string().contains(SECRET));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn reading_never_panics(text in "(nostr\\+walletconnect:(//)?[0-9a-f]{0,70}\\?)?\\PC{0,80}") {
            let _ = text.parse::<Uri>();
        }

        #[test]
        fn what_is_revealed_is_read(hosts in proptest::collection::btree_set("[a-z]{1,12}", 1..5), lud16 in proptest::option::of("[a-z]{1,9}@[a-z]{1,9}")) {
            let keys = Keys::generate();
            let relays = hosts.iter().map(|host| RelayUrl::parse(&format!("wss://{host}.example/x?y=1")).unwrap());
            let mut uri = Uri::new(Keys::generate().public_key(), relays.collect(), keys.secret_key().clone()).unwrap();
            uri.lud16 = lud16;
            prop_assert_eq!(uri.reveal().parse(), Ok(uri.clone()));
            prop_assert_eq!(uri.keys().public_key(), keys.public_key());
        }
    }
}
