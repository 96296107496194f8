//! The events of Nostr Wallet Connect (NIP-47): their kinds and tags. What is inside the ciphertext is `wallet`'s.
//!
//! A wallet announces itself with an info event, a client sends a request, the wallet a response that names it,
//! and notifications on its own. Whoever holds the signer encrypts and decrypts between these steps. Signatures are
//! the caller's to verify.

use std::fmt;

use nostr::{Event, EventId, PublicKey, Tag, Tags, Timestamp, UnsignedEvent};
use serde::{Deserialize, Serialize};

use crate::{kind, tags};

/// The longest ciphertext that is decrypted, in bytes. NIP-47 wants relays to take 64 KiB; NIP-44 grows by a third.
pub const CONTENT_BYTES_MAX: usize = 128 * 1024;
/// Tags of an event that is read.
pub const TAGS_MAX: usize = 100;
/// Words of an info event, or of one of its tags, that are read; the largest wallet has some thirty.
const WORDS_MAX: usize = 200;

const ENCRYPTION: &str = "encryption";
const NOTIFICATIONS: &str = "notifications";
const EXPIRATION: &str = "expiration";

/// How contents are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Encryption {
    /// What everybody had before the `encryption` tag; its absence means this.
    #[serde(rename = "nip04")]
    Nip04,
    /// NIP-44 version 2, preferred.
    #[serde(rename = "nip44_v2")]
    Nip44,
}

impl Encryption {
    /// The word that stands for it in tags.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nip04 => "nip04",
            Self::Nip44 => "nip44_v2",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Nip04, Self::Nip44].into_iter().find(|scheme| scheme.as_str() == word)
    }
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an event is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("kind {0} is not the one expected")]
    Kind(u16),
    #[error("content of {0} bytes is over the limit of {CONTENT_BYTES_MAX}")]
    TooLarge(usize),
    #[error("{0} tags are over the limit of {TAGS_MAX}")]
    TooManyTags(usize),
    #[error("no p tag with a key")]
    NoRecipient,
    #[error("no e tag with the id of a request")]
    NoRequest,
}

/// What a wallet says it can do (kind 13194).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Info {
    /// The methods, by name; those nobody here knows are kept.
    pub methods: Vec<String>,
    /// The types of notification.
    pub notifications: Vec<String>,
    /// The encryptions it understands; never empty, since to say nothing is to say NIP-04.
    pub encryptions: Vec<Encryption>,
}

impl Info {
    /// The event. Some clients look for the word `notifications` among the methods, so it stands there too.
    pub fn event(&self, wallet: PublicKey, at: Timestamp) -> UnsignedEvent {
        let mut words = self.methods.clone();
        let schemes: Vec<_> = self.encryptions.iter().map(|scheme| scheme.as_str()).collect();
        let mut list = vec![tags::custom(ENCRYPTION, [schemes.join(" ")])];
        if !self.notifications.is_empty() {
            words.push(NOTIFICATIONS.to_owned());
            list.push(tags::custom(NOTIFICATIONS, [self.notifications.join(" ")]));
        }
        UnsignedEvent::new(wallet, at, kind::WALLET_INFO, list, words.join(" "))
    }

    /// Reads somebody's. Words are separated by spaces, or by commas, as some wallets do.
    ///
    /// # Errors
    /// [`ReadError::Kind`], [`ReadError::TooLarge`], [`ReadError::TooManyTags`]
    pub fn read(event: &Event) -> Result<Self, ReadError> {
        check(event, &[kind::WALLET_INFO])?;
        let mut methods = words(&event.content);
        methods.retain(|word| word != NOTIFICATIONS);
        let notifications = value(&event.tags, NOTIFICATIONS).map(words).unwrap_or_default();
        let encryptions = match value(&event.tags, ENCRYPTION) {
            Some(schemes) => words(schemes).iter().filter_map(|word| Encryption::parse(word)).collect(),
            None => vec![Encryption::Nip04],
        };
        Ok(Self { methods, notifications, encryptions })
    }

    /// The best encryption that both sides know; nothing when the wallet only names others.
    pub fn best(&self) -> Option<Encryption> {
        self.encryptions.iter().copied().max()
    }
}

/// The outside of a request (kind 23194).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its id, which the response names.
    pub id: EventId,
    /// Who asks.
    pub client: PublicKey,
    /// Whom.
    pub wallet: PublicKey,
    /// How the content is encrypted, or the word for it that is not known here.
    pub encryption: Result<Encryption, String>,
    /// When it was written.
    pub at: Timestamp,
    /// After this it must be ignored.
    pub expires_at: Option<Timestamp>,
}

impl Request {
    /// Reads one.
    ///
    /// # Errors
    /// When kind, size or the `p` tag are not as they should be.
    pub fn read(event: &Event) -> Result<Self, ReadError> {
        check(event, &[kind::WALLET_REQUEST])?;
        let wallet = tags::people(&event.tags).next().ok_or(ReadError::NoRecipient)?;
        let encryption = match value(&event.tags, ENCRYPTION) {
            Some(word) => Encryption::parse(word).ok_or_else(|| word.chars().take(32).collect()),
            None => Ok(Encryption::Nip04),
        };
        let expires_at = value(&event.tags, EXPIRATION).map(expiration);
        Ok(Self { id: event.id, client: event.pubkey, wallet, encryption, at: event.created_at, expires_at })
    }
}

/// A request around `ciphertext`; NIP-04 is what the absence of an `encryption` tag says.
pub fn request(
    client: PublicKey,
    wallet: PublicKey,
    encryption: Encryption,
    ciphertext: String,
    at: Timestamp,
    expires_at: Option<Timestamp>,
) -> UnsignedEvent {
    let mut list = vec![Tag::public_key(wallet)];
    if encryption != Encryption::Nip04 {
        list.push(tags::custom(ENCRYPTION, [encryption.to_string()]));
    }
    list.extend(expires_at.map(|at| tags::custom(EXPIRATION, [at.as_secs().to_string()])));
    UnsignedEvent::new(client, at, kind::WALLET_REQUEST, list, ciphertext)
}

/// The outside of a response (kind 23195).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Who answers.
    pub wallet: PublicKey,
    /// Whom.
    pub client: PublicKey,
    /// What.
    pub request: EventId,
}

impl Response {
    /// Reads one.
    ///
    /// # Errors
    /// When kind, size, the `p` tag or the `e` tag are not as they should be.
    pub fn read(event: &Event) -> Result<Self, ReadError> {
        check(event, &[kind::WALLET_RESPONSE])?;
        let client = tags::people(&event.tags).next().ok_or(ReadError::NoRecipient)?;
        let request = tags::parent(&event.tags).ok_or(ReadError::NoRequest)?;
        Ok(Self { wallet: event.pubkey, client, request })
    }
}

/// The response to `request` around `ciphertext`.
pub fn response(
    wallet: PublicKey,
    client: PublicKey,
    request: EventId,
    ciphertext: String,
    at: Timestamp,
) -> UnsignedEvent {
    let list = [Tag::public_key(client), Tag::event(request)];
    UnsignedEvent::new(wallet, at, kind::WALLET_RESPONSE, list, ciphertext)
}

/// The outside of a notification (kind 23197, or 23196 for NIP-04).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Who tells.
    pub wallet: PublicKey,
    /// Whom.
    pub client: PublicKey,
    /// How the content is encrypted: the kind says it.
    pub encryption: Encryption,
}

impl Notification {
    /// Reads one.
    ///
    /// # Errors
    /// When kind, size or the `p` tag are not as they should be.
    pub fn read(event: &Event) -> Result<Self, ReadError> {
        check(event, &[kind::WALLET_NOTIFICATION, kind::WALLET_NOTIFICATION_LEGACY])?;
        let client = tags::people(&event.tags).next().ok_or(ReadError::NoRecipient)?;
        let legacy = event.kind == kind::WALLET_NOTIFICATION_LEGACY;
        let encryption = if legacy { Encryption::Nip04 } else { Encryption::Nip44 };
        Ok(Self { wallet: event.pubkey, client, encryption })
    }
}

/// A notification around `ciphertext`, of the kind that goes with its encryption.
pub fn notification(
    wallet: PublicKey,
    client: PublicKey,
    encryption: Encryption,
    ciphertext: String,
    at: Timestamp,
) -> UnsignedEvent {
    let kind = match encryption {
        Encryption::Nip04 => kind::WALLET_NOTIFICATION_LEGACY,
        Encryption::Nip44 => kind::WALLET_NOTIFICATION,
    };
    UnsignedEvent::new(wallet, at, kind, [Tag::public_key(client)], ciphertext)
}

fn check(event: &Event, kinds: &[nostr::Kind]) -> Result<(), ReadError> {
    if !kinds.contains(&event.kind) {
        return Err(ReadError::Kind(event.kind.as_u16()));
    }
    if event.content.len() > CONTENT_BYTES_MAX {
        return Err(ReadError::TooLarge(event.content.len()));
    }
    if event.tags.len() > TAGS_MAX {
        return Err(ReadError::TooManyTags(event.tags.len()));
    }
    Ok(())
}

fn value<'a>(tags: &'a Tags, name: &str) -> Option<&'a str> {
    tags.iter().find_map(|tag| match tag.as_slice() {
        [head, value, ..] if head == name => Some(value.as_str()),
        _ => None,
    })
}

fn words(text: &str) -> Vec<String> {
    let separated = text.split(|c: char| c.is_whitespace() || c == ',');
    separated.filter(|word| !word.is_empty()).take(WORDS_MAX).map(str::to_owned).collect()
}

/// A time that cannot be read is one that has passed: whoever wrote it wanted a bound.
fn expiration(text: &str) -> Timestamp {
    Timestamp::from_secs(text.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use nostr::{Keys, Kind};
    use proptest::prelude::*;

    use super::*;

    fn signed(keys: &Keys, event: UnsignedEvent) -> Event {
        event.sign_with_keys(keys).unwrap()
    }

    fn with_tags(kind: Kind, content: &str, tags: &[&[&str]]) -> Event {
        let keys = Keys::generate();
        let tags = tags.iter().map(|tag| Tag::parse(tag.iter().copied()).unwrap());
        signed(&keys, UnsignedEvent::new(keys.public_key(), Timestamp::from_secs(1), kind, tags, content))
    }

    #[test]
    fn a_wallet_that_names_no_encryption_understands_nip04() {
        let old = with_tags(kind::WALLET_INFO, "pay_invoice, get_balance", &[]);
        let info = Info::read(&old).unwrap();
        assert_eq!(info.methods, ["pay_invoice", "get_balance"]);
        assert_eq!(info.best(), Some(Encryption::Nip04));
        let odd = with_tags(kind::WALLET_INFO, "", &[&["encryption", "nip99"]]);
        assert_eq!(Info::read(&odd).unwrap().best(), None);
        let both = with_tags(kind::WALLET_INFO, "", &[&["encryption", "nip04 nip44_v2 x"]]);
        assert_eq!(Info::read(&both).unwrap().best(), Some(Encryption::Nip44));
    }

    #[test]
    fn an_unknown_encryption_is_named_and_a_missing_one_is_nip04() {
        let wallet = Keys::generate().public_key().to_hex();
        let read = |tags: &[&[&str]]| Request::read(&with_tags(kind::WALLET_REQUEST, "", tags)).unwrap();
        assert_eq!(read(&[&["p", &wallet]]).encryption, Ok(Encryption::Nip04));
        let odd = read(&[&["p", &wallet], &["encryption", "nip45"]]);
        assert_eq!(odd.encryption, Err("nip45".to_owned()));
    }

    #[test]
    fn an_expiration_that_cannot_be_read_has_passed() {
        let wallet = Keys::generate().public_key().to_hex();
        for (text, at) in [("5", 5), ("", 0), ("-1", 0), ("soon", 0), ("99999999999999999999999", 0)] {
            let event = with_tags(kind::WALLET_REQUEST, "", &[&["p", &wallet], &["expiration", text]]);
            assert_eq!(Request::read(&event).unwrap().expires_at, Some(Timestamp::from_secs(at)), "{text}");
        }
    }

    #[test]
    fn events_of_others_are_refused() {
        let wallet = Keys::generate().public_key().to_hex();
        let text = with_tags(Kind::TextNote, "", &[&["p", &wallet]]);
        assert_eq!(Request::read(&text), Err(ReadError::Kind(1)));
        let nobody = with_tags(kind::WALLET_REQUEST, "", &[&["p", "x"]]);
        assert_eq!(Request::read(&nobody), Err(ReadError::NoRecipient));
        let nothing = with_tags(kind::WALLET_RESPONSE, "", &[&["p", &wallet]]);
        assert_eq!(Response::read(&nothing), Err(ReadError::NoRequest));
        let long = with_tags(kind::WALLET_RESPONSE, &"x".repeat(CONTENT_BYTES_MAX + 1), &[]);
        assert_eq!(Response::read(&long), Err(ReadError::TooLarge(CONTENT_BYTES_MAX + 1)));
        let tags: Vec<&[&str]> = vec![&["t", "x"]; TAGS_MAX + 1];
        let many = with_tags(kind::WALLET_INFO, "", &tags);
        assert_eq!(Info::read(&many), Err(ReadError::TooManyTags(TAGS_MAX + 1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_written_is_read(
            methods in proptest::collection::vec("[a-z_]{1,20}", 0..20),
            notifications in proptest::collection::vec("[a-z_]{1,20}", 0..4),
            content in "\\PC{0,200}",
            at in 1u64..1 << 40,
            expires in proptest::option::of(1u64..1 << 40),
            legacy in any::<bool>(),
        ) {
            let (client, wallet) = (Keys::generate(), Keys::generate());
            let (c, w, at) = (client.public_key(), wallet.public_key(), Timestamp::from_secs(at));
            let encryption = if legacy { Encryption::Nip04 } else { Encryption::Nip44 };
            let methods: Vec<_> = methods.into_iter().filter(|word| word != NOTIFICATIONS).collect();
            let info = Info { methods, notifications, encryptions: vec![encryption] };
            prop_assert_eq!(&Info::read(&signed(&wallet, info.event(w, at))).unwrap(), &info);

            let expires_at = expires.map(Timestamp::from_secs);
            let asked = signed(&client, request(c, w, encryption, content.clone(), at, expires_at));
            let read = Request::read(&asked).unwrap();
            let expected =
                Request { id: asked.id, client: c, wallet: w, encryption: Ok(encryption), at, expires_at };
            prop_assert_eq!(read, expected);

            let answer = signed(&wallet, response(w, c, asked.id, content.clone(), at));
            prop_assert_eq!(Response::read(&answer).unwrap(), Response { wallet: w, client: c, request: asked.id });
            let told = signed(&wallet, notification(w, c, encryption, content, at));
            prop_assert_eq!(Notification::read(&told).unwrap(), Notification { wallet: w, client: c, encryption });
        }
    }
}
