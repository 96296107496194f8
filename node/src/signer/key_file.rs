//! A file with one secret key in it, such as an operator's.

use std::fmt;
use std::path::{Path, PathBuf};

use oa_nips::nostr::{Keys, SecretKey, ToBech32};

use super::file::{self, LoadError, SaveError, quoted};

/// Characters of a key in hex.
const HEX_CHARS: usize = 64;

/// A secret key and the file that holds it, as hex or nsec.
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
    /// An ncryptsec: this program has no password for it.
    #[error("the key in {} is encrypted", .0.display())]
    Encrypted(PathBuf),
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
            Self::Encrypted(_) => Some("decrypt it first: it should begin with nsec1".to_owned()),
            Self::Public(_) => Some("put the secret key there: it begins with nsec1".to_owned()),
            Self::Wrong(_) => {
                Some(format!("a key file holds one line, an nsec1… or {HEX_CHARS} hexadecimal digits"))
            }
        }
    }
}

impl KeyFile {
    /// Reads the key from a file that only its owner can read.
    ///
    /// # Errors
    /// Name the file, never what is in it.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let content = file::load(path)?;
        let text = String::from_utf8_lossy(&content);
        let keys = match text.trim() {
            "" => return Err(KeyFileError::Empty(path.to_owned())),
            text if text.starts_with("ncryptsec1") => return Err(KeyFileError::Encrypted(path.to_owned())),
            text if text.starts_with("npub1") => return Err(KeyFileError::Public(path.to_owned())),
            text => {
                SecretKey::parse(text).map(Keys::new).map_err(|_| KeyFileError::Wrong(path.to_owned()))?
            }
        };
        Ok(Self { path: path.to_owned(), keys })
    }

    /// Writes a key, as an nsec, to a file that is not there yet, for its owner only.
    ///
    /// # Errors
    /// [`SaveError::Exists`] when anything is there.
    pub fn save(path: &Path, keys: Keys) -> Result<Self, SaveError> {
        let Ok(nsec) = keys.secret_key().to_bech32();
        file::save(path, format!("{nsec}\n").as_bytes())?;
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
        let short = keys.secret_key().to_secret_hex().split_off(1);
        let cases = [
            ("", "is empty"),
            ("ncryptsec1qgg9947rlpvqu76pj5ecreduf9jxhselq2nae2kghhvd5g7dgjtcxfqtd67p9m0w5", "encrypted"),
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
