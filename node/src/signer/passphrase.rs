//! The passphrase that a secret at rest is kept under, and what opening one costs.
//!
//! Where a passphrase comes from (a file, a credential of systemd, a person) is decided by the program; here is what
//! it is and how a key is stretched out of it.

use std::fmt;
use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

use super::file::{self, LoadError, OTHERS, WORLD, quoted};

/// What a new secret costs to open, as the logarithm of scrypt's N: 64 MiB and some 100 ms (NIP-49 suggests 16).
pub(super) const LOG_N: u8 = 16;

/// The most that a file may ask for: 4 GiB. Whoever can write the file could otherwise take all memory.
pub(super) const LOG_N_MAX: u8 = 22;

/// A passphrase in the form that all systems agree on (NFKC), gone from memory when dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// The passphrase of this text, spaces and all; nothing for an empty one, which protects from nobody.
    pub fn new(text: &str) -> Option<Self> {
        // Room for what normalising can add, or the text would be copied while it grows and the copies left behind.
        let mut normal = Zeroizing::new(String::with_capacity(text.len().saturating_mul(4)));
        normal.extend(text.nfkc());
        (!normal.is_empty()).then_some(Self(normal))
    }

    /// The first line of a file that only its owner can read.
    ///
    /// # Errors
    /// Name the file, never what is in it.
    pub fn load(path: &Path) -> Result<Self, PassphraseError> {
        Self::read(path, OTHERS)
    }

    /// The first line of a file in systemd's credentials folder. That folder is closed to everybody but the service;
    /// its files show bits for a group where systemd lets the service in by an access list.
    ///
    /// # Errors
    /// As [`Passphrase::load`].
    pub fn load_credential(path: &Path) -> Result<Self, PassphraseError> {
        Self::read(path, WORLD)
    }

    fn read(path: &Path, closed: u32) -> Result<Self, PassphraseError> {
        let content = Zeroizing::new(file::load_closed(path, closed)?);
        let text = std::str::from_utf8(&content).map_err(|_| PassphraseError::NotText(path.to_owned()))?;
        let line = text.lines().next().unwrap_or_default();
        Self::new(line).ok_or_else(|| PassphraseError::Empty(path.to_owned()))
    }

    /// Its text, for a key to be stretched from.
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

/// Equal in constant time would be of no use here: both are the same person's, typed twice.
impl PartialEq for Passphrase {
    fn eq(&self, other: &Self) -> bool {
        *self.0 == *other.0
    }
}

impl Eq for Passphrase {}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase([redacted])")
    }
}

/// Why a file gave no passphrase.
#[derive(Debug, thiserror::Error)]
pub enum PassphraseError {
    /// The file was not read.
    #[error(transparent)]
    File(#[from] LoadError),
    /// Its first line is empty.
    #[error("the first line of {} is empty, and should be a passphrase", .0.display())]
    Empty(PathBuf),
    /// Not UTF-8.
    #[error("{} holds no text", .0.display())]
    NotText(PathBuf),
}

impl PassphraseError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Empty(path) | Self::NotText(path) => {
                Some(format!("write the passphrase into {}, in one line", quoted(path)))
            }
        }
    }
}

/// Why something sealed stayed closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Cut short, mistyped or of a version that is not known.
    #[error("it is damaged, or of a kind that is not known")]
    Malformed,
    /// It asks for more memory than is given.
    #[error("opening it would take 2^{0} rounds of scrypt, at most 2^{LOG_N_MAX} are done")]
    TooCostly(u8),
    /// Not the passphrase it was sealed under.
    #[error("wrong passphrase")]
    WrongPassphrase,
}

impl OpenError {
    /// What to do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Malformed => "put back a copy of the file",
            Self::TooCostly(_) => "seal it again with the program that made it, at a lower cost",
            Self::WrongPassphrase => "try again; without its passphrase nobody can open it",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn write(path: &Path, content: &[u8], mode: u32) {
        std::fs::write(path, content).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn printing_one_shows_nothing() {
        let passphrase = Passphrase::new("correct horse").unwrap();
        assert_eq!(
            format!("{passphrase:?} {passphrase:#?}"),
            "Passphrase([redacted]) Passphrase([redacted])"
        );
    }

    #[test]
    fn the_same_letters_are_the_same_however_they_are_written() {
        // The example of NIP-49: the same word composed in two ways.
        let one = Passphrase::new("\u{212B}\u{2126}\u{1E9B}\u{0323}").unwrap();
        let other = Passphrase::new("\u{00C5}\u{03A9}\u{1E69}").unwrap();
        assert_eq!(one, other);
        assert_ne!(one, Passphrase::new("ÅΩs").unwrap());
        assert!(Passphrase::new("").is_none());
        assert!(Passphrase::new("  ").is_some(), "spaces are kept");
    }

    #[test]
    fn a_file_gives_its_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        for content in ["horse", "horse\n", "horse\r\n", "horse\nanother\n"] {
            write(&path, content.as_bytes(), 0o600);
            assert_eq!(Passphrase::load(&path).unwrap(), Passphrase::new("horse").unwrap(), "{content:?}");
        }
        for content in ["", "\n", "\nhorse"] {
            write(&path, content.as_bytes(), 0o600);
            assert!(matches!(Passphrase::load(&path), Err(PassphraseError::Empty(_))), "{content:?}");
        }
        write(&path, &[0xff, 0xfe], 0o600);
        assert!(matches!(Passphrase::load(&path), Err(PassphraseError::NotText(_))));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        write(&path, b"horse", 0o440);
        let error = Passphrase::load(&path).unwrap_err();
        assert!(matches!(error, PassphraseError::File(LoadError::Exposed { mode: 0o440, .. })), "{error:?}");
        assert_eq!(error.hint().unwrap(), format!("chmod 600 {}", path.display()));
        // As systemd makes it for a service with a user of its own.
        Passphrase::load_credential(&path).unwrap();
        write(&path, b"horse", 0o444);
        assert!(matches!(
            Passphrase::load_credential(&path),
            Err(PassphraseError::File(LoadError::Exposed { .. }))
        ));
    }
}
