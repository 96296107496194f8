//! The keys of agents that can move: random ones, in files of the home, one each.
//!
//! A file is called after the npub of its key, and holds it as any key file does: under the home's passphrase where
//! there is one, as an ncryptsec.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use oa_nips::nostr::{FromBech32 as _, Keys, PublicKey, ToBech32 as _};

use super::file::SaveError;
use super::key_file::{KeyFile, KeyFileError};
use super::passphrase::Passphrase;

/// What the files' names end with.
const SUFFIX: &str = ".key";

/// A folder of keys.
#[derive(Debug, Clone)]
pub struct KeyCase {
    dir: PathBuf,
    passphrase: Option<Passphrase>,
}

impl KeyCase {
    /// The keys in a folder, which is made with the first of them. What is written there is under the passphrase, if
    /// there is one.
    pub fn new(dir: impl Into<PathBuf>, passphrase: Option<Passphrase>) -> Self {
        Self { dir: dir.into(), passphrase }
    }

    /// Where a key is, or would be.
    pub fn path(&self, key: &PublicKey) -> PathBuf {
        self.dir.join(key.to_bech32().unwrap_or_default() + SUFFIX)
    }

    /// Makes a key.
    ///
    /// # Errors
    /// What the file system said.
    pub fn make(&self) -> Result<Keys, SaveError> {
        let keys = Keys::generate();
        self.keep(keys.clone())?;
        Ok(keys)
    }

    /// Keeps a key, never over another file.
    ///
    /// # Errors
    /// [`SaveError::Exists`] when it is there already.
    pub fn keep(&self, keys: Keys) -> Result<PathBuf, SaveError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(|source| SaveError::Io { path: self.dir.clone(), source })?;
        let path = self.path(&keys.public_key());
        match &self.passphrase {
            Some(passphrase) => KeyFile::save_encrypted(&path, keys, passphrase)?,
            None => KeyFile::save(&path, keys)?,
        };
        Ok(path)
    }

    /// The key of this address; nothing where there is no file of it.
    ///
    /// # Errors
    /// When the file cannot be read or opened, or holds another key.
    pub fn find(&self, key: &PublicKey) -> Result<Option<Keys>, KeyFileError> {
        let path = self.path(key);
        if !path.exists() {
            return Ok(None);
        }
        let ask = || self.passphrase.clone().ok_or_else(|| KeyFileError::Encrypted(path.clone()));
        let keys = KeyFile::load_with(&path, ask)?.keys().clone();
        if keys.public_key() == *key { Ok(Some(keys)) } else { Err(KeyFileError::Wrong(path)) }
    }

    /// The addresses of all keys there are, sorted.
    ///
    /// # Errors
    /// What the file system said.
    pub fn list(&self) -> io::Result<Vec<PublicKey>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut keys = Vec::new();
        for entry in entries {
            keys.extend(named(Path::new(&entry?.file_name())));
        }
        keys.sort();
        Ok(keys)
    }
}

/// The address that a file is called after.
fn named(file: &Path) -> Option<PublicKey> {
    PublicKey::from_bech32(file.to_str()?.strip_suffix(SUFFIX)?).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_made_found_and_listed() {
        let dir = tempfile::tempdir().unwrap();
        let case = KeyCase::new(dir.path().join("keys"), None);
        assert!(case.list().unwrap().is_empty());
        let mut made: Vec<PublicKey> = (0..3).map(|_| case.make().unwrap().public_key()).collect();
        made.sort();
        std::fs::write(dir.path().join("keys/notes.txt"), "not a key").unwrap();
        assert_eq!(case.list().unwrap(), made);
        let keys = case.find(&made[0]).unwrap().unwrap();
        assert_eq!(keys.public_key(), made[0]);
        assert!(matches!(case.keep(keys), Err(SaveError::Exists(_))));
        assert!(case.find(&Keys::generate().public_key()).unwrap().is_none());
        let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(dir.path().join("keys")), mode(case.path(&made[0]))), (0o700, 0o600));
    }

    #[test]
    fn under_a_passphrase_they_are_encrypted_and_another_key_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let case = KeyCase::new(dir.path(), Passphrase::new("horse"));
        let key = case.make().unwrap().public_key();
        assert!(std::fs::read_to_string(case.path(&key)).unwrap().starts_with("ncryptsec1"));
        assert_eq!(case.find(&key).unwrap().unwrap().public_key(), key);
        let closed = KeyCase::new(dir.path(), None).find(&key);
        assert!(matches!(closed, Err(KeyFileError::Encrypted(_))), "{closed:?}");
        let other = Keys::generate().public_key();
        std::fs::copy(case.path(&key), case.path(&other)).unwrap();
        assert!(matches!(case.find(&other), Err(KeyFileError::Wrong(_))));
    }
}
