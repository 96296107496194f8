//! Signatures over data that is no event, as `/identity/sign` makes them.
//!
//! What is signed of an event is its id, 32 bytes. Whoever could have 32 bytes of their choosing signed could have any
//! event signed: a deletion, a payment, a command. So no signer is ever asked for that. What it is asked for is a
//! [`DataDigest`], which only [`DataDigest::of`] makes: a hash over a prefix that no event's serialisation begins with.

use nostr::hashes::{Hash as _, HashEngine as _, sha256};
use nostr::secp256k1::schnorr::Signature;
use nostr::secp256k1::{Message, SECP256K1};
use nostr::{Keys, PublicKey};

/// Stands before the data. What is hashed of an event begins with `[0,"`.
pub const DOMAIN: &str = "oa/sign/v1";

/// SHA-256 of [`DOMAIN`] and the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataDigest([u8; 32]);

impl DataDigest {
    /// The digest of some data.
    pub fn of(data: &[u8]) -> Self {
        let mut engine = sha256::Hash::engine();
        engine.input(DOMAIN.as_bytes());
        engine.input(data);
        Self(sha256::Hash::from_engine(engine).to_byte_array())
    }

    /// The bytes that are signed.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Signs with a key that is at hand (BIP-340).
    pub fn sign(&self, keys: &Keys) -> Signature {
        keys.sign_schnorr(&self.message())
    }

    /// Whether `by` signed it.
    pub fn is_signed(&self, by: &PublicKey, signature: &Signature) -> bool {
        by.xonly().is_ok_and(|key| SECP256K1.verify_schnorr(signature, &self.message(), &key).is_ok())
    }

    fn message(&self) -> Message {
        Message::from_digest(self.0)
    }
}

#[cfg(test)]
mod tests {
    use nostr::EventBuilder;

    use super::*;

    #[test]
    fn the_digest_is_the_documented_one() {
        let digest = crate::hex::Hex(*DataDigest::of(b"hello").as_bytes());
        // printf 'oa/sign/v1hello' | sha256sum
        assert_eq!(digest.to_string(), "a5030858ffd03b5d29032286a4e5cb9ea7c03fcb16bcf9a1c9f3842b74ad2668");
    }

    #[test]
    fn it_verifies_for_this_key_and_this_data_alone() {
        let (alice, bob) = (Keys::generate(), Keys::generate());
        let signature = DataDigest::of(b"data").sign(&alice);
        assert!(DataDigest::of(b"data").is_signed(&alice.public_key(), &signature));
        assert!(!DataDigest::of(b"data").is_signed(&bob.public_key(), &signature));
        assert!(!DataDigest::of(b"datA").is_signed(&alice.public_key(), &signature));
        let nobody = PublicKey::from_byte_array([0xff; 32]);
        assert!(!DataDigest::of(b"data").is_signed(&nobody, &signature));
    }

    #[test]
    fn an_events_signature_is_none_of_data_and_the_other_way_round() {
        let alice = Keys::generate();
        let event = EventBuilder::text_note("hi").sign_with_keys(&alice).unwrap();
        for data in [event.id.as_bytes().as_slice(), event.id.to_hex().as_bytes(), b""] {
            assert!(!DataDigest::of(data).is_signed(&alice.public_key(), &event.sig));
            let mut forged = event.clone();
            forged.sig = DataDigest::of(data).sign(&alice);
            assert!(!forged.verify_signature());
        }
    }
}
