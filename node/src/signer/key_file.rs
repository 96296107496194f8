//! A file with one secret key in it, such as an operator's.

use std::fmt;
use std::path::{Path, PathBuf};

use oa_nips::nostr::{Keys, SecretKey, ToBech32};
use zeroize::Zeroizing;

use super::file::{self, LoadError, SaveError, quoted};
use super::ncryptsec::{self, Ncryptsec};
use super::passphrase::{OpenError, Passphrase};

/// Characters of a key in hex.
const HEX_CHARS: usize = 64;

/// A secret key and the file that holds it: as hex or nsec, or under a passphrase as ncryptsec (NIP-49).
#[derive(Clone)]
pub struct KeyFile {
    path: PathBuf,
    keys: Keys,
}

/// Why a file gave no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file was not read.
    #[error(transparent)]
    File(#[from] LoadError),
    /// The file is there and has nothing in it: whoever created it was interrupted.
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
    /// An ncryptsec, and no passphrase is at hand.
    #[error("the key in {} is encrypted", .0.display())]
    Encrypted(PathBuf),
    /// An ncryptsec that stayed closed.
    #[error("cannot open the key in {}: {reason}", .path.display())]
    Sealed { path: PathBuf, reason: OpenError },
    /// A public key: it cannot sign.
    #[error("{} holds a public key", .0.display())]
    Public(PathBuf),
    /// Anything else.
    #[error("{} holds no secret key", .0.display())]
    Wrong(PathBuf),
}

impl KeyFileError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Empty(path) => Some(format!("rm {}", quoted(path))),
            Self::Encrypted(_) => Some("its passphrase is needed".to_owned()),
            Self::Sealed { reason, .. } => Some(reason.hint().to_owned()),
            Self::Public(_) => Some("put the secret key there: it begins with nsec1".to_owned()),
            Self::Wrong(_) => {
                Some(format!("a key file holds one line, an nsec1… or {HEX_CHARS} hexadecimal digits"))
            }
        }
    }
}

impl KeyFile {
    /// Reads the key from a file that only its owner can read, and that is not encrypted.
    ///
    /// # Errors
    /// Name the file, never what is in it.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        Self::load_with(path, || Err(KeyFileError::Encrypted(path.to_owned())))
    }

    /// Reads the key from a file that only its owner can read. `ask` is called for the passphrase if there must be
    /// one. Opening an encrypted key takes some 100 ms.
    ///
    /// # Errors
    /// Name the file, never what is in it; or what `ask` said.
    pub fn load_with<E: From<KeyFileError>>(
        path: &Path,
        ask: impl FnOnce() -> Result<Passphrase, E>,
    ) -> Result<Self, E> {
        let content = Zeroizing::new(file::load(path).map_err(KeyFileError::from)?);
        let text = std::str::from_utf8(&content).map_err(|_| KeyFileError::Wrong(path.to_owned()))?;
        let key = match text.trim() {
            "" => return Err(KeyFileError::Empty(path.to_owned()).into()),
            text if text.starts_with("npub1") => return Err(KeyFileError::Public(path.to_owned()).into()),
            text if text.starts_with(ncryptsec::PREFIX) => {
                let sealed = |reason| KeyFileError::Sealed { path: path.to_owned(), reason };
                let key: Ncryptsec = text.parse().map_err(sealed)?;
                key.open(&ask()?).map_err(sealed)?
            }
            text => SecretKey::parse(text).map_err(|_| KeyFileError::Wrong(path.to_owned()))?,
        };
        Ok(Self { path: path.to_owned(), keys: Keys::new(key) })
    }

    /// Whether a file looks like an encrypted key; nothing is asked and nothing is opened.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_encrypted(path: &Path) -> Result<bool, KeyFileError> {
        let content = Zeroizing::new(file::load(path)?);
        Ok(content.trim_ascii_start().starts_with(ncryptsec::PREFIX.as_bytes()))
    }

    /// Writes a key under a passphrase, as an ncryptsec, to a file that is not there yet, for its owner only.
    ///
    /// # Errors
    /// [`SaveError::Exists`] when anything is there.
    pub fn save_encrypted(path: &Path, keys: Keys, passphrase: &Passphrase) -> Result<Self, SaveError> {
        let sealed = Ncryptsec::seal(keys.secret_key(), passphrase);
        file::save(path, format!("{sealed}\n").as_bytes())?;
        Ok(Self { path: path.to_owned(), keys })
    }

    /// Writes a key, as an nsec, to a file that is not there yet, for its owner only.
    ///
    /// # Errors
    /// [`SaveError::Exists`] when anything is there.
    pub fn save(path: &Path, keys: Keys) -> Result<Self, SaveError> {
        let Ok(nsec) = keys.secret_key().to_bech32();
        let nsec = Zeroizing::new(nsec + "\n");
        file::save(path, nsec.as_bytes())?;
        Ok(Self { path: path.to_owned(), keys })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile")
            .field("path", &self.path)
            .field("public_key", &self.keys.public_key())
            .field("secret", &"[redacted]")
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quick to open.
    fn cheap(keys: &Keys, passphrase: &str) -> Ncryptsec {
        Ncryptsec::seal_at(keys.secret_key(), &Passphrase::new(passphrase).unwrap(), 2)
    }

    /// Never to be asked.
    fn unasked() -> Result<Passphrase, KeyFileError> {
        unreachable!("nobody is to be asked for a passphrase")
    }

    #[test]
    fn an_encrypted_key_loads_with_its_passphrase() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operator.key");
        let (keys, passphrase) = (Keys::generate(), Passphrase::new("horse").unwrap());
        KeyFile::save_encrypted(&path, keys.clone(), &passphrase).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("ncryptsec1") && text.ends_with('\n'), "{text}");
        let loaded = KeyFile::load_with::<KeyFileError>(&path, || Ok(passphrase.clone())).unwrap();
        assert_eq!(*loaded.keys(), keys);
        assert!(KeyFile::is_encrypted(&path).unwrap());
        assert!(matches!(KeyFile::save_encrypted(&path, keys, &passphrase), Err(SaveError::Exists(_))));
    }

    #[test]
    fn a_wrong_passphrase_names_the_file_and_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operator.key");
        let sealed = cheap(&Keys::generate(), "horse").to_string();
        file::save(&path, sealed.as_bytes()).unwrap();
        let wrong = || Ok(Passphrase::new("battery staple").unwrap());
        let error = KeyFile::load_with::<KeyFileError>(&path, wrong).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot open the key in {}: wrong passphrase", path.display()));
        let told = format!("{error:?} {}", error.hint().unwrap());
        assert!(!told.contains("battery") && !told.contains(&sealed), "{told}");
    }

    #[test]
    fn nobody_is_asked_where_a_passphrase_would_not_help() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::generate();
        let damaged = cheap(&keys, "horse").to_string().split_off(40);
        let cases = [keys.secret_key().to_secret_hex(), format!("ncryptsec1{damaged}"), "npub1x".to_owned()];
        for (n, text) in cases.into_iter().enumerate() {
            let path = dir.path().join(n.to_string());
            file::save(&path, text.as_bytes()).unwrap();
            assert_eq!(KeyFile::load_with(&path, unasked).is_ok(), n == 0, "case {n}");
        }
        assert!(!KeyFile::is_encrypted(&dir.path().join("0")).unwrap());
    }

    #[test]
    fn what_the_one_who_is_asked_says_comes_back() {
        #[derive(Debug, PartialEq)]
        enum Mine {
            NoTerminal,
            Other,
        }
        impl From<KeyFileError> for Mine {
            fn from(_: KeyFileError) -> Self {
                Self::Other
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operator.key");
        file::save(&path, cheap(&Keys::generate(), "horse").to_string().as_bytes()).unwrap();
        assert_eq!(KeyFile::load_with(&path, || Err(Mine::NoTerminal)).unwrap_err(), Mine::NoTerminal);
    }

    #[test]
    fn a_saved_key_loads_as_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operator.key");
        let keys = Keys::generate();
        KeyFile::save(&path, keys.clone()).unwrap();
        assert_eq!(*KeyFile::load(&path).unwrap().keys(), keys);
        assert!(matches!(KeyFile::save(&path, Keys::generate()), Err(SaveError::Exists(_))));
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("nsec1"));
    }

    #[test]
    fn hex_and_nsec_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::generate();
        let hex = keys.secret_key().to_secret_hex();
        let Ok(nsec) = keys.secret_key().to_bech32();
        for (n, text) in
            [hex.clone(), format!("  {hex}\r\n"), hex.to_uppercase(), nsec].into_iter().enumerate()
        {
            let path = dir.path().join(n.to_string());
            file::save(&path, text.as_bytes()).unwrap();
            assert_eq!(*KeyFile::load(&path).unwrap().keys(), keys, "case {n}");
        }
    }

    #[test]
    fn what_is_no_key_is_told_apart_and_never_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::generate();
        let Ok(npub) = keys.public_key().to_bech32();
        let zeros = "0".repeat(64);
        let sealed = cheap(&keys, "horse").to_string();
        let short = keys.secret_key().to_secret_hex().split_off(1);
        let cases = [
            ("", "is empty"),
            (&sealed, "encrypted"),
            ("ncryptsec1qgg9947rlpvqu76pj5ecreduf9jxhselq2nae2kghhvd5g7dgjtcxfqtd67p9m0w5", "damaged"),
            (&npub, "public key"),
            (&zeros, "no secret key"),
            (&short, "no secret key"),
            ("correct horse battery staple", "no secret key"),
        ];
        for (n, (text, said)) in cases.into_iter().enumerate() {
            let path = dir.path().join(n.to_string());
            file::save(&path, text.as_bytes()).unwrap();
            let error = KeyFile::load(&path).unwrap_err();
            let told = format!("{error} {error:?} {}", error.hint().unwrap());
            assert!(told.contains(said) && told.contains(&path.display().to_string()), "{told}");
            assert!(text.is_empty() || !told.contains(text), "{told}");
        }
        assert!(matches!(
            KeyFile::load(&dir.path().join("none")),
            Err(KeyFileError::File(LoadError::Missing(_)))
        ));
    }

    #[test]
    fn printing_a_key_file_shows_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeyFile::save(&dir.path().join("key"), Keys::generate()).unwrap();
        let shown = format!("{file:?}");
        assert!(shown.contains("[redacted]") && !shown.contains(&file.keys().secret_key().to_secret_hex()));
    }
}
