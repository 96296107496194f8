//! The address of a bunker in a file: it may hold a secret, so nobody else may read it.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::bunker::uri::{BunkerUri, UriError};
use crate::signer::LoadError;
use crate::signer::file;

/// Why a file gave no address. Never says what is in it.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The file was not read.
    #[error(transparent)]
    File(#[from] LoadError),
    /// What is in it is none.
    #[error("{}", .path.display())]
    Wrong { path: PathBuf, source: UriError },
}

impl AddressError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Wrong { .. } => Some("the file holds one line, bunker://…?relay=…".to_owned()),
        }
    }
}

impl BunkerUri {
    /// Reads the address in a file that only its owner can read.
    ///
    /// # Errors
    /// Name the file, never what is in it.
    pub fn load(path: &Path) -> Result<Self, AddressError> {
        let content = Zeroizing::new(file::load(path)?);
        // What is not UTF-8 is no address either.
        let text = std::str::from_utf8(&content).unwrap_or_default();
        text.parse().map_err(|source| AddressError::Wrong { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_address_is_read_from_a_file_that_nobody_else_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bunker");
        let key = "fa984bd7dbb282f07e16e7ae87b26a2a7b9b90b7246a44771f0cf5ae58018f52";
        std::fs::write(&path, format!("bunker://{key}?relay=wss://a.example&secret=hush\n")).unwrap();
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let error = BunkerUri::load(&path).unwrap_err();
        assert_eq!(error.hint().unwrap(), format!("chmod 600 {}", path.display()));
        mode(0o600);
        assert_eq!(BunkerUri::load(&path).unwrap().secret.unwrap().reveal(), "hush");
        for wrong in [b"bunker://hush".as_slice(), b"\xff\xfe", b""] {
            std::fs::write(&path, wrong).unwrap();
            let error = BunkerUri::load(&path).unwrap_err();
            assert!(matches!(error, AddressError::Wrong { .. }) && !format!("{error:?}").contains("hush"));
        }
    }
}
