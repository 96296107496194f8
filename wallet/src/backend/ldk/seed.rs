//! The 24 words from which all keys of a Lightning node come, in a file that only its owner can read.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ldk_node::bip39::Mnemonic;
use ldk_node::{WordCount, generate_entropy_mnemonic};

/// Words of a seed.
const WORDS: usize = 24;

/// Longest seed file that is read: 24 words of eight letters, and room.
const FILE_BYTES_MAX: u64 = 1_024;

/// The words. Its `Debug` shows none of them.
#[derive(Clone)]
pub struct Seed(Mnemonic);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed([redacted])")
    }
}

/// Why there is no seed.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// A seed is never written over.
    #[error("there is a seed at {} already", .0.display())]
    Exists(PathBuf),
    /// Nothing is there.
    #[error("there is no seed at {}", .0.display())]
    Missing(PathBuf),
    /// Others can read it.
    #[error("the seed can be read by others (mode {mode:03o}): chmod 600 {}", .path.display())]
    Permissive { path: PathBuf, mode: u32 },
    /// Not 24 words of the list, or mistyped: the last word is a checksum. Says nothing of what was read.
    #[error("not the 24 words of a seed")]
    Words,
    /// The operating system's reason.
    #[error("cannot use the seed at {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Seed {
    /// Draws new words and writes them to `path`, which must not exist.
    ///
    /// # Errors
    /// [`SeedError::Exists`], [`SeedError::Io`].
    pub fn create(path: &Path) -> Result<Self, SeedError> {
        let seed = Self(generate_entropy_mnemonic(Some(WordCount::Words24)));
        seed.write(path)?;
        Ok(seed)
    }

    /// Writes words somebody kept to `path`, which must not exist.
    ///
    /// # Errors
    /// [`SeedError::Words`], [`SeedError::Exists`], [`SeedError::Io`].
    pub fn restore(path: &Path, words: &str) -> Result<Self, SeedError> {
        let seed = Self::parse(words)?;
        seed.write(path)?;
        Ok(seed)
    }

    /// Reads the words of a node that was set up before.
    ///
    /// # Errors
    /// [`SeedError::Missing`], [`SeedError::Permissive`], [`SeedError::Words`], [`SeedError::Io`].
    pub fn open(path: &Path) -> Result<Self, SeedError> {
        let io = |source| SeedError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => SeedError::Missing(path.to_owned()),
            _ => io(error),
        })?;
        let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SeedError::Permissive { path: path.to_owned(), mode });
        }
        let mut words = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut words).map_err(io)?;
        Self::parse(&words)
    }

    /// The words, for the one moment in which their owner writes them down.
    pub fn words(&self) -> String {
        self.0.to_string()
    }

    pub(super) fn mnemonic(&self) -> Mnemonic {
        self.0.clone()
    }

    fn parse(words: &str) -> Result<Self, SeedError> {
        let words = words.to_lowercase();
        let mnemonic = Mnemonic::parse(words.split_whitespace().collect::<Vec<_>>().join(" "));
        match mnemonic {
            Ok(mnemonic) if mnemonic.word_count() == WORDS => Ok(Self(mnemonic)),
            _ => Err(SeedError::Words),
        }
    }

    /// Durable before it returns: coins may be sent to these keys a moment later.
    fn write(&self, path: &Path) -> Result<(), SeedError> {
        let io = |source: io::Error| match source.kind() {
            ErrorKind::AlreadyExists => SeedError::Exists(path.to_owned()),
            _ => SeedError::Io { path: path.to_owned(), source },
        };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
        writeln!(file, "{}", self.0).map_err(io)?;
        file.sync_all().map_err(io)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, metadata, set_permissions, write};

    use super::*;

    const WORDS_OF_ZEROS: &str = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon \
        abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon art";

    #[test]
    fn new_words_are_kept_for_their_owner_only_and_never_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        assert!(matches!(Seed::open(&path), Err(SeedError::Missing(_))));
        let seed = Seed::create(&path).unwrap();
        assert_eq!(seed.words().split(' ').count(), 24);
        assert_eq!(metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Seed::open(&path).unwrap().words(), seed.words());
        assert!(matches!(Seed::create(&path), Err(SeedError::Exists(_))));
        assert!(matches!(Seed::restore(&path, WORDS_OF_ZEROS), Err(SeedError::Exists(_))));
        assert_eq!(Seed::open(&path).unwrap().words(), seed.words());
        assert!(!format!("{seed:?}").contains(seed.words().split(' ').next().unwrap()));
    }

    #[test]
    fn a_seed_others_can_read_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        Seed::create(&path).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o644] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = Seed::open(&path).unwrap_err().to_string();
            assert!(error.ends_with(&format!("chmod 600 {}", path.display())), "{error}");
        }
        set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        Seed::open(&path).unwrap();
    }

    #[test]
    fn mistyped_words_are_refused_and_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        let twelve = "abandon ".repeat(11) + "about";
        let swapped = WORDS_OF_ZEROS.replace("art", "zoo");
        for words in ["", "hello", &twelve, &swapped] {
            let error = Seed::restore(&path, words).unwrap_err();
            assert!(matches!(error, SeedError::Words), "{words}");
            assert!(!format!("{error:?} {error}").contains("abandon"));
        }
        write(&path, "not words").unwrap();
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Seed::open(&path), Err(SeedError::Words)));
        std::fs::remove_file(&path).unwrap();
        let spaced = WORDS_OF_ZEROS.to_uppercase().replace(' ', "\n  ");
        assert_eq!(Seed::restore(&path, &spaced).unwrap().words(), WORDS_OF_ZEROS);
    }
}
