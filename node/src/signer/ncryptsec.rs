//! A secret key under a passphrase, as `ncryptsec1…` (NIP-49): what every Nostr program can read.

use std::fmt;
use std::str::FromStr;

use oa_nips::nostr::nips::nip49::{EncryptedSecretKey, Error, KeySecurity};
use oa_nips::nostr::{FromBech32, SecretKey, ToBech32};

use super::passphrase::{LOG_N, LOG_N_MAX, OpenError, Passphrase};

/// What each of them begins with.
pub(super) const PREFIX: &str = "ncryptsec1";

/// A sealed key; its text is no secret as long as the passphrase is one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Ncryptsec(EncryptedSecretKey);

impl Ncryptsec {
    /// Seals a key under a passphrase. Takes some 100 ms and 64 MiB.
    pub fn seal(key: &SecretKey, passphrase: &Passphrase) -> Self {
        Self::seal_at(key, passphrase, LOG_N)
    }

    /// The same at another cost.
    pub(super) fn seal_at(key: &SecretKey, passphrase: &Passphrase, log_n: u8) -> Self {
        // Weak by NIP-49's word: our keys have been in memory or in a plain file before.
        let sealed = EncryptedSecretKey::new(key, passphrase.text(), log_n, KeySecurity::Weak);
        Self(sealed.expect("sealing fails for parameters that scrypt does not know, and these are constants"))
    }

    /// The key inside. Takes what it cost to seal, up to 4 GiB and some seconds.
    ///
    /// # Errors
    /// [`OpenError::WrongPassphrase`]
    pub fn open(&self, passphrase: &Passphrase) -> Result<SecretKey, OpenError> {
        self.0.decrypt_with_max_log_n(passphrase.text(), LOG_N_MAX).map_err(|error| match error {
            Error::ChaCha20Poly1305(_) => OpenError::WrongPassphrase,
            Error::LogNTooBig { log_n, .. } => OpenError::TooCostly(log_n),
            _ => OpenError::Malformed,
        })
    }
}

impl FromStr for Ncryptsec {
    type Err = OpenError;

    /// Reads one without its passphrase, which tells damage and cost before anybody is asked.
    fn from_str(text: &str) -> Result<Self, OpenError> {
        let sealed = EncryptedSecretKey::from_bech32(text).map_err(|_| OpenError::Malformed)?;
        match sealed.log_n() {
            0 => Err(OpenError::Malformed),
            log_n if log_n > LOG_N_MAX => Err(OpenError::TooCostly(log_n)),
            _ => Ok(Self(sealed)),
        }
    }
}

impl fmt::Display for Ncryptsec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_bech32().map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Ncryptsec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ncryptsec([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::Keys;
    use proptest::prelude::*;

    use super::*;

    /// Quick enough for many.
    const CHEAP: u8 = 2;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text).unwrap()
    }

    #[test]
    fn the_vector_of_nip_49() {
        let text = "ncryptsec1qgg9947rlpvqu76pj5ecreduf9jxhselq2nae2kghhvd5g7dgjtcxfqtd67p9m0w57lspw8gsq6yphnm8623n\
                    sl8xn9j4jdzz84zm3frztj3z7s35vpzmqf6ksu8r89qk5z2zxfmu5gv8th8wclt0h4p";
        let sealed: Ncryptsec = text.parse().unwrap();
        let key = sealed.open(&passphrase("nostr")).unwrap();
        assert_eq!(key.to_secret_hex(), "3501454135014541350145413501453fefb02227e449e57cf4d3a3ce05378683");
        assert_eq!(sealed.to_string(), text);
    }

    #[test]
    fn what_is_sealed_opens_with_its_passphrase_only() {
        let keys = Keys::generate();
        let sealed = Ncryptsec::seal_at(keys.secret_key(), &passphrase("horse"), CHEAP);
        let sealed: Ncryptsec = sealed.to_string().parse().unwrap();
        assert_eq!(sealed.open(&passphrase("horse")).unwrap(), *keys.secret_key());
        for wrong in ["Horse", "horse ", "x"] {
            assert_eq!(sealed.open(&passphrase(wrong)), Err(OpenError::WrongPassphrase));
        }
    }

    #[test]
    fn the_default_cost_is_the_one_that_is_written_down() {
        let sealed = Ncryptsec::seal(Keys::generate().secret_key(), &passphrase("horse"));
        assert_eq!(sealed.0.log_n(), 16);
    }

    #[test]
    fn one_that_asks_for_all_memory_is_refused_unopened() {
        let keys = Keys::generate();
        let sealed = Ncryptsec::seal_at(keys.secret_key(), &passphrase("horse"), CHEAP);
        for (log_n, expected) in
            [(23, OpenError::TooCostly(23)), (255, OpenError::TooCostly(255)), (0, OpenError::Malformed)]
        {
            let mut bytes = sealed.0.as_vec();
            bytes[1] = log_n;
            let text = EncryptedSecretKey::from_slice(&bytes).unwrap().to_bech32().unwrap();
            assert_eq!(text.parse::<Ncryptsec>(), Err(expected));
        }
    }

    #[test]
    fn a_changed_letter_is_damage_and_not_a_wrong_passphrase() {
        let text = Ncryptsec::seal_at(Keys::generate().secret_key(), &passphrase("horse"), CHEAP).to_string();
        let last = if text.ends_with('q') { 'p' } else { 'q' };
        let changed = format!("{}{last}", &text[..text.len() - 1]);
        let Ok(nsec) = Keys::generate().secret_key().to_bech32();
        for wrong in [changed.as_str(), &text[..100], "", PREFIX, &nsec] {
            assert_eq!(wrong.parse::<Ncryptsec>(), Err(OpenError::Malformed), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in ".{0,200}", letters in "[02-9ac-hj-np-z]{0,200}") {
            prop_assert!(text.parse::<Ncryptsec>().is_err());
            let letters = format!("{PREFIX}{letters}");
            prop_assert!(letters.parse::<Ncryptsec>().is_err());
        }
    }
}
