//! Private key derivation of BIP-32, as far as NIP-06 goes: from one master to one key per account.
//!
//! The Nostr library does this too, but from the words each time: 2,048 rounds of PBKDF2, a thousand times the work
//! of the derivation itself. Here the fixed part of the path, m/44'/1237', is worked out once and kept.

use std::fmt;

use oa_nips::nostr::hashes::{Hash as _, HashEngine as _, Hmac, HmacEngine, sha512};
use oa_nips::nostr::secp256k1::{PublicKey, Scalar, SecretKey};
use oa_nips::nostr::{self, Keys, SECP256K1};

/// Added to an index whose step needs the private key.
const HARDENED: u32 = 1 << 31;

/// The path of NIP-06 up to the account: purpose 44', coin 1237' (SLIP-44: Nostr).
const PATH: [u32; 2] = [44 + HARDENED, 1237 + HARDENED];

/// Why an account has no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeriveError {
    /// Accounts end at 2^31 - 1.
    #[error("account {0} is out of range")]
    OutOfRange(u32),
    /// One in 2^127: BIP-32 says to take the next one.
    #[error("this seed has no key for account {0}")]
    NoKey(u32),
}

/// A key from which others are derived.
#[derive(Clone)]
struct Parent {
    key: SecretKey,
    chain_code: [u8; 32],
}

/// The parent of all accounts of a seed.
#[derive(Clone)]
pub(super) struct Accounts(Parent);

impl Accounts {
    /// From the 64 bytes that BIP-39 makes of the words. Nothing for one seed in 2^126.
    pub(super) fn new(seed: &[u8; 64]) -> Option<Self> {
        let (key, chain_code) = split(hmac(b"Bitcoin seed", &[seed]));
        let master = Parent { key: SecretKey::from_slice(&key).ok()?, chain_code };
        PATH.iter().try_fold(master, |parent, index| parent.child(*index)).map(Self)
    }

    /// The key at m/44'/1237'/`account`'/0/0.
    pub(super) fn keys(&self, account: u32) -> Result<Keys, DeriveError> {
        if account >= HARDENED {
            return Err(DeriveError::OutOfRange(account));
        }
        let path = [account + HARDENED, 0, 0];
        let leaf = path.iter().try_fold(self.0.clone(), |parent, index| parent.child(*index));
        let leaf = leaf.ok_or(DeriveError::NoKey(account))?;
        Ok(Keys::new(nostr::SecretKey::from(leaf.key)))
    }
}

impl Parent {
    /// CKDpriv of BIP-32.
    fn child(&self, index: u32) -> Option<Self> {
        let number = index.to_be_bytes();
        let bytes = if index >= HARDENED {
            hmac(&self.chain_code, &[&[0], &self.key.secret_bytes(), &number])
        } else {
            hmac(&self.chain_code, &[&PublicKey::from_secret_key(SECP256K1, &self.key).serialize(), &number])
        };
        let (tweak, chain_code) = split(bytes);
        let key = self.key.add_tweak(&Scalar::from_be_bytes(tweak).ok()?).ok()?;
        Some(Self { key, chain_code })
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        self.key.non_secure_erase();
        self.chain_code.fill(0);
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 64] {
    let mut engine = HmacEngine::<sha512::Hash>::new(key);
    parts.iter().for_each(|part| engine.input(part));
    Hmac::from_engine(engine).to_byte_array()
}

/// The halves of a hash.
fn split(bytes: [u8; 64]) -> ([u8; 32], [u8; 32]) {
    let (mut left, mut right) = ([0; 32], [0; 32]);
    let (from, to) = bytes.split_at(32);
    left.copy_from_slice(from);
    right.copy_from_slice(to);
    (left, right)
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::bip39::Mnemonic;
    use oa_nips::nostr::nips::nip06::FromMnemonic as _;

    use super::*;

    const WORDS: &str = "leader monkey parrot ring guide accident before fence cannon height naive bean";

    fn accounts(words: &str) -> Accounts {
        Accounts::new(&Mnemonic::parse_normalized(words).unwrap().to_seed_normalized("")).unwrap()
    }

    #[test]
    fn the_vectors_of_nip_06() {
        let cases = [
            (WORDS, "7f7ff03d123792d6ac594bfa67bf6d0c0ab55b6b1fdb6249303fe861f1ccba9a"),
            (
                "what bleak badge arrange retreat wolf trade produce cricket blur garlic valid proud rude strong \
                 choose busy staff weather area salt hollow arm fade",
                "c15d739894c81a2fcfd3a2df85a0d2c0dbc47a280d092799f144d73d7ae78add",
            ),
        ];
        for (words, secret) in cases {
            assert_eq!(accounts(words).keys(0).unwrap().secret_key().to_secret_hex(), secret);
        }
    }

    #[test]
    fn every_account_is_what_the_nostr_crate_derives() {
        let accounts = accounts(WORDS);
        for account in [0, 1, 2, 77, 100_000, HARDENED - 1] {
            let theirs = Keys::from_mnemonic_with_account(WORDS, None, Some(account)).unwrap();
            assert_eq!(accounts.keys(account).unwrap(), theirs, "account {account}");
        }
    }

    #[test]
    fn accounts_end_where_hardened_indices_do() {
        let accounts = accounts(WORDS);
        for account in [HARDENED, u32::MAX] {
            assert_eq!(accounts.keys(account).unwrap_err(), DeriveError::OutOfRange(account));
        }
    }
}
