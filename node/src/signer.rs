//! Keys: the node's and its agents', derived from one seed, which answer at once; and those that live in a bunker.
//!
//! Secrets live behind these types: [`Seed`] and [`LocalSigner`] show `[redacted]` to whoever prints them, errors
//! name files and never what is in them. Nothing here reaches for a clock or a network that it was not given;
//! randomness is the operating system's.

mod absent;
pub mod bunker;
mod cache;
mod case;
mod derive;
mod file;
mod key_file;
mod ncryptsec;
mod passphrase;
mod sealed_seed;
mod seed;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use oa_nips::nostr::nips::nip04;
use oa_nips::nostr::nips::nip44::v2;
use oa_nips::nostr::secp256k1::schnorr::Signature;
use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{Event, Keys, PublicKey, UnsignedEvent};
use oa_nips::port::{Signer, SignerError};
use oa_nips::signed::DataDigest;

pub use absent::Absent;
pub use cache::Conversations;
pub use case::KeyCase;
pub use derive::DeriveError;
pub use file::{LoadError, SaveError};
pub use key_file::{KeyFile, KeyFileError};
pub use ncryptsec::Ncryptsec;
pub use passphrase::{OpenError, Passphrase, PassphraseError};
pub use seed::{Seed, SeedError, WordsError};

/// The version byte before everything that NIP-44 version 2 encrypts.
const NIP44_VERSION: u8 = 2;

/// Longest ciphertext that is looked at, in base64 characters. The longest that NIP-44 version 2 allows, of 65,535
/// bytes, has 87,472.
const CIPHERTEXT_MAX: usize = 96 * 1024;

/// A signer whose key is in this process. Cheap to make and to clone.
#[derive(Clone)]
pub struct LocalSigner {
    keys: Keys,
    conversations: Conversations,
}

impl LocalSigner {
    /// A signer for `keys`, sharing what other signers of the process worked out.
    pub fn new(keys: Keys, conversations: Conversations) -> Self {
        Self { keys, conversations }
    }

    fn encrypt(&self, peer: &PublicKey, text: &str) -> Result<String, SignerError> {
        let key = self.conversations.key(&self.keys, peer)?;
        let cipher = v2::encrypt_to_bytes(&key, text.as_bytes()).map_err(refused)?;
        Ok(BASE64.encode(cipher))
    }

    fn decrypt(&self, peer: &PublicKey, text: &str) -> Result<String, SignerError> {
        // What cannot be valid is refused before an elliptic curve is asked.
        let cipher = nip44_cipher(text)?;
        let key = self.conversations.key(&self.keys, peer)?;
        let plain = v2::decrypt_to_bytes(&key, &cipher).map_err(refused)?;
        String::from_utf8(plain).map_err(|_| SignerError::Refused("not text".to_owned()))
    }

    fn sign_now(&self, event: UnsignedEvent) -> Result<Event, SignerError> {
        if event.pubkey != self.keys.public_key() {
            return Err(SignerError::Refused(format!("cannot sign for {}", event.pubkey)));
        }
        event.sign_with_keys(&self.keys).map_err(refused)
    }
}

impl fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalSigner")
            .field("public_key", &self.keys.public_key())
            .field("secret", &"[redacted]")
            .finish()
    }
}

/// The bytes of what NIP-44 version 2 may have encrypted.
fn nip44_cipher(text: &str) -> Result<Vec<u8>, SignerError> {
    if text.len() > CIPHERTEXT_MAX {
        return Err(SignerError::Refused(format!("{} characters are too many for nip-44", text.len())));
    }
    let cipher = BASE64.decode(text).map_err(refused)?;
    if cipher.first() != Some(&NIP44_VERSION) {
        return Err(SignerError::Refused("not encrypted by nip-44 version 2".to_owned()));
    }
    Ok(cipher)
}

/// The input was wrong: with a local key nothing else can be. The errors of these codecs quote no plaintext.
fn refused(error: impl fmt::Display) -> SignerError {
    SignerError::Refused(error.to_string())
}

impl Signer for LocalSigner {
    fn public_key(&self) -> PublicKey {
        self.keys.public_key()
    }

    fn is_immediate(&self) -> bool {
        true
    }

    fn sign(&self, event: UnsignedEvent) -> BoxedFuture<'_, Result<Event, SignerError>> {
        Box::pin(async move { self.sign_now(event) })
    }

    fn sign_data(&self, data: DataDigest) -> BoxedFuture<'_, Result<Signature, SignerError>> {
        Box::pin(async move { Ok(data.sign(&self.keys)) })
    }

    fn nip44_encrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(async move { self.encrypt(peer, text) })
    }

    fn nip44_decrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(async move { self.decrypt(peer, text) })
    }

    fn nip04_encrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(async move { nip04::encrypt(self.keys.secret_key(), peer, text).map_err(refused) })
    }

    fn nip04_decrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(async move { nip04::decrypt(self.keys.secret_key(), peer, text).map_err(refused) })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use oa_nips::nostr::nips::nip44;
    use oa_nips::nostr::{EventBuilder, Keys};
    use proptest::prelude::*;

    use super::*;

    fn signer() -> LocalSigner {
        LocalSigner::new(Keys::generate(), Conversations::default())
    }

    /// The answer of a signer that answers at once.
    fn now<T>(future: BoxedFuture<'_, T>) -> T {
        future.now_or_never().expect("a local signer does not wait")
    }

    #[test]
    fn it_answers_at_once_and_signs_its_own_events_only() {
        let (alice, bob) = (signer(), signer());
        assert!(alice.is_immediate());
        let event = now(alice.sign(EventBuilder::text_note("hi").build(alice.public_key()))).unwrap();
        event.verify().unwrap();
        assert_eq!(event.pubkey, alice.public_key());
        let error = now(alice.sign(EventBuilder::text_note("hi").build(bob.public_key()))).unwrap_err();
        assert!(matches!(error, SignerError::Refused(_)), "{error:?}");
    }

    #[test]
    fn an_event_whose_id_is_not_its_own_is_refused() {
        let alice = signer();
        let mut event = EventBuilder::text_note("shown").build(alice.public_key());
        event.ensure_id();
        event.content = "signed".to_owned();
        assert!(matches!(now(alice.sign(event)), Err(SignerError::Refused(_))));
    }

    #[test]
    fn both_ciphers_agree_with_the_nostr_crate_in_both_directions() {
        let (alice, bob) = (signer(), signer());
        let (a, b) = (alice.public_key(), bob.public_key());
        for text in ["x", "žluťoučký kůň 🐎", &"long ".repeat(5_000)] {
            let cipher = now(alice.nip44_encrypt(&b, text)).unwrap();
            assert_eq!(nip44::decrypt(bob.keys.secret_key(), &a, &cipher).unwrap(), text);
            let cipher = nip44::encrypt(bob.keys.secret_key(), &a, text, nip44::Version::V2).unwrap();
            for _ in 0..2 {
                assert_eq!(now(alice.nip44_decrypt(&b, &cipher)).unwrap(), text);
            }
            let cipher = now(alice.nip04_encrypt(&b, text)).unwrap();
            assert_eq!(now(bob.nip04_decrypt(&a, &cipher)).unwrap(), text);
        }
    }

    #[test]
    fn the_longest_text_goes_through_and_a_longer_one_is_refused() {
        let (alice, bob) = (signer(), signer());
        let longest = "x".repeat(65_408);
        let cipher = now(alice.nip44_encrypt(&bob.public_key(), &longest)).unwrap();
        assert!(cipher.len() < CIPHERTEXT_MAX, "{}", cipher.len());
        assert_eq!(now(bob.nip44_decrypt(&alice.public_key(), &cipher)).unwrap(), longest);
        let longer = "x".repeat(70_000);
        assert!(matches!(now(alice.nip44_encrypt(&bob.public_key(), &longer)), Err(SignerError::Refused(_))));
    }

    #[test]
    fn what_is_not_for_this_key_is_refused() {
        let (alice, bob, eve) = (signer(), signer(), signer());
        let cipher = now(alice.nip44_encrypt(&bob.public_key(), "secret")).unwrap();
        assert!(matches!(now(eve.nip44_decrypt(&alice.public_key(), &cipher)), Err(SignerError::Refused(_))));
        let version_3 = BASE64.encode([3; 120]);
        for text in ["", "#v3", "not base64!", "AgAA", &version_3, &"A".repeat(CIPHERTEXT_MAX + 1)] {
            assert!(matches!(
                now(bob.nip44_decrypt(&alice.public_key(), text)),
                Err(SignerError::Refused(_))
            ));
        }
    }

    #[test]
    fn a_peer_that_is_no_point_of_the_curve_is_refused() {
        let nobody = PublicKey::from_byte_array([0xff; 32]);
        let alice = signer();
        assert!(matches!(now(alice.nip44_encrypt(&nobody, "x")), Err(SignerError::Refused(_))));
        assert!(matches!(now(alice.nip04_encrypt(&nobody, "x")), Err(SignerError::Refused(_))));
    }

    #[test]
    fn printing_a_signer_shows_no_secret() {
        let alice = signer();
        let shown = format!("{alice:?} {alice:#?}");
        assert!(shown.contains("[redacted]") && shown.contains(&alice.public_key().to_hex()), "{shown}");
        assert!(!shown.contains(&alice.keys.secret_key().to_secret_hex()), "{shown}");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (alice, bob) = (signer(), signer());
            for cipher in [text.clone(), BASE64.encode(&bytes), format!("Ag{}", BASE64.encode(&bytes))] {
                prop_assert!(now(alice.nip44_decrypt(&bob.public_key(), &cipher)).is_err());
            }
            let parts = format!("{}?iv={}", BASE64.encode(&bytes), BASE64.encode([0; 16]));
            for cipher in [text, parts] {
                let _ = now(alice.nip04_decrypt(&bob.public_key(), &cipher));
            }
        }
    }
}
