//! A seed's entropy under a passphrase: NIP-49's recipe for what NIP-49 has no place for.
//!
//! One line of text: [`PREFIX`], then in base64 (RFC 4648, padded)
//!
//! ```text
//! log_n       1 byte    scrypt's N is 2^log_n; its r is 8, its p is 1
//! salt       16 bytes   random
//! nonce      24 bytes   random
//! ciphertext 32 to 48   the entropy of BIP-39 (16, 20, 24, 28 or 32 bytes) and the tag, 16 bytes
//! checksum    4 bytes   the first of the SHA-256 of all before, so that damage is no wrong passphrase
//! ```
//!
//! The key is scrypt's 32 bytes of the passphrase (UTF-8, NFKC) and the salt; the cipher is XChaCha20-Poly1305, with
//! the prefix and log_n as associated data. The length tells how many words there are, and nothing else does.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_nips::nostr::secp256k1::rand::RngCore as _;
use oa_nips::nostr::secp256k1::rand::rngs::OsRng;
use zeroize::Zeroizing;

use super::passphrase::{LOG_N, LOG_N_MAX, OpenError, Passphrase};

/// What the line begins with: the format and its version.
pub(super) const PREFIX: &str = "oa-seed-v1:";

const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;
const CHECKSUM_BYTES: usize = 4;
/// Entropy of 12 and of 24 words with the cipher's tag.
const CIPHERTEXT_BYTES: std::ops::RangeInclusive<usize> = 32..=48;

/// A sealed seed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SealedSeed {
    log_n: u8,
    salt: [u8; SALT_BYTES],
    nonce: [u8; NONCE_BYTES],
    ciphertext: Vec<u8>,
}

impl SealedSeed {
    /// Seals entropy under a passphrase. Takes some 100 ms and 64 MiB.
    pub(super) fn seal(entropy: &[u8], passphrase: &Passphrase) -> Self {
        Self::seal_at(entropy, passphrase, LOG_N)
    }

    fn seal_at(entropy: &[u8], passphrase: &Passphrase, log_n: u8) -> Self {
        let (mut salt, mut nonce) = ([0; SALT_BYTES], [0; NONCE_BYTES]);
        OsRng.fill_bytes(&mut salt);
        OsRng.fill_bytes(&mut nonce);
        let payload = Payload { msg: entropy, aad: &associated(log_n) };
        let cipher = cipher(passphrase, &salt, log_n).expect("our costs are constants that scrypt knows");
        let ciphertext = cipher
            .encrypt(XNonce::from_slice(&nonce), payload)
            .expect("a message of 32 bytes is not too long");
        Self { log_n, salt, nonce, ciphertext }
    }

    /// The entropy inside.
    pub(super) fn open(&self, passphrase: &Passphrase) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let cipher = cipher(passphrase, &self.salt, self.log_n).ok_or(OpenError::Malformed)?;
        let payload = Payload { msg: &self.ciphertext, aad: &associated(self.log_n) };
        let entropy = cipher.decrypt(XNonce::from_slice(&self.nonce), payload);
        Ok(Zeroizing::new(entropy.map_err(|_| OpenError::WrongPassphrase)?))
    }
}

/// The cipher under the stretched key; nothing for a cost that scrypt does not know.
fn cipher(passphrase: &Passphrase, salt: &[u8], log_n: u8) -> Option<XChaCha20Poly1305> {
    let mut key = Zeroizing::new([0; 32]);
    let params = scrypt::Params::new(log_n, 8, 1, key.len()).ok()?;
    scrypt::scrypt(passphrase.text().as_bytes(), salt, &params, key.as_mut()).ok()?;
    Some(XChaCha20Poly1305::new(Key::from_slice(key.as_slice())))
}

fn associated(log_n: u8) -> Vec<u8> {
    [PREFIX.as_bytes(), &[log_n]].concat()
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let [a, b, c, d, ..] = sha256::Hash::hash(bytes).to_byte_array();
    [a, b, c, d]
}

impl FromStr for SealedSeed {
    type Err = OpenError;

    /// Reads one without its passphrase, which tells damage and cost before anybody is asked.
    fn from_str(text: &str) -> Result<Self, OpenError> {
        Self::parse(text).ok_or(OpenError::Malformed).and_then(|sealed| match sealed.log_n {
            0 => Err(OpenError::Malformed),
            log_n if log_n > LOG_N_MAX => Err(OpenError::TooCostly(log_n)),
            _ => Ok(sealed),
        })
    }
}

impl SealedSeed {
    fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64.decode(text.strip_prefix(PREFIX)?).ok()?;
        let (body, found) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
        if checksum(body) != *found {
            return None;
        }
        let (log_n, rest) = body.split_first()?;
        let (salt, rest) = rest.split_first_chunk()?;
        let (nonce, ciphertext) = rest.split_first_chunk()?;
        let is_seed = CIPHERTEXT_BYTES.contains(&ciphertext.len()) && ciphertext.len().is_multiple_of(4);
        is_seed.then(|| Self { log_n: *log_n, salt: *salt, nonce: *nonce, ciphertext: ciphertext.to_vec() })
    }
}

impl fmt::Display for SealedSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [&[self.log_n], &self.salt[..], &self.nonce, &self.ciphertext].concat();
        bytes.extend(checksum(&bytes));
        write!(f, "{PREFIX}{}", BASE64.encode(bytes))
    }
}

impl fmt::Debug for SealedSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedSeed([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Quick enough for many.
    const CHEAP: u8 = 2;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text).unwrap()
    }

    #[test]
    fn seeds_of_every_length_open_with_their_passphrase_only() {
        for bytes in [16, 20, 24, 28, 32] {
            let entropy: Vec<u8> = (0..bytes).collect();
            let text = SealedSeed::seal_at(&entropy, &passphrase("horse"), CHEAP).to_string();
            assert!(text.is_ascii() && !text.contains(char::is_whitespace), "{text}");
            let sealed: SealedSeed = text.parse().unwrap();
            assert_eq!(*sealed.open(&passphrase("horse")).unwrap(), entropy);
            assert_eq!(sealed.open(&passphrase("Horse")).unwrap_err(), OpenError::WrongPassphrase);
            assert_eq!(sealed.to_string(), text);
        }
    }

    #[test]
    fn a_seed_sealed_before_opens_for_ever() {
        // Made of the description above with other people's scrypt and cipher (noble, in JavaScript), log_n 10.
        let text = "oa-seed-v1:CmRlZmdoaWprbG1ub3BxcnPIycrLzM3Oz9DR0tPU1dbX2Nna29zd3t8t696lph1JYXFsf0QoBQsY5D3NY51n\
                    Cci/6uzi5EB9nvOOGmQ=";
        let sealed: SealedSeed = text.parse().unwrap();
        assert_eq!(*sealed.open(&passphrase("correct horse")).unwrap(), (0..16).collect::<Vec<u8>>());
    }

    #[test]
    fn the_default_cost_is_the_one_that_is_written_down() {
        assert_eq!(SealedSeed::seal(&[7; 16], &passphrase("horse")).log_n, 16);
    }

    #[test]
    fn two_of_one_seed_have_nothing_in_common() {
        let seal = || SealedSeed::seal_at(&[7; 16], &passphrase("horse"), CHEAP);
        let (one, other) = (seal(), seal());
        assert!(one.salt != other.salt && one.nonce != other.nonce && one.ciphertext != other.ciphertext);
    }

    #[test]
    fn one_that_asks_for_all_memory_is_refused_unopened() {
        let mut sealed = SealedSeed::seal_at(&[7; 16], &passphrase("horse"), CHEAP);
        for (log_n, expected) in
            [(23, OpenError::TooCostly(23)), (255, OpenError::TooCostly(255)), (0, OpenError::Malformed)]
        {
            sealed.log_n = log_n;
            assert_eq!(sealed.to_string().parse::<SealedSeed>().unwrap_err(), expected);
        }
        // What it costs is part of what is sealed.
        sealed.log_n = CHEAP + 1;
        let sealed: SealedSeed = sealed.to_string().parse().unwrap();
        assert_eq!(sealed.open(&passphrase("horse")).unwrap_err(), OpenError::WrongPassphrase);
    }

    #[test]
    fn damage_is_no_wrong_passphrase() {
        let text = SealedSeed::seal_at(&[7; 16], &passphrase("horse"), CHEAP).to_string();
        for at in PREFIX.len()..text.len() {
            let (before, after) = text.split_at(at);
            let letter = if after.starts_with('A') { 'B' } else { 'A' };
            for damaged in [before.to_owned(), format!("{before}{letter}{}", &after[1..])] {
                assert_eq!(damaged.parse::<SealedSeed>().unwrap_err(), OpenError::Malformed, "{damaged}");
            }
        }
        assert_eq!(format!("{text} ").parse::<SealedSeed>().unwrap_err(), OpenError::Malformed);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            prop_assert!(text.parse::<SealedSeed>().is_err());
            let mut bytes = bytes;
            bytes.extend(checksum(&bytes));
            let _ = format!("{PREFIX}{}", BASE64.encode(bytes)).parse::<SealedSeed>();
        }
    }
}
