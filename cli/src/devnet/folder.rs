//! The folder that a devnet is in: one of its own that goes away with it, or one that was named and stays.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use oa_nips::hex::Hex;
use oa_node::codes;

use crate::error::{Error, Kind, Result};

/// A folder. Dropping it removes it, unless it was named.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    is_kept: bool,
}

impl Folder {
    /// A new one among the temporary files, for its owner only.
    ///
    /// # Errors
    /// What the file system said.
    pub(crate) fn temporary() -> Result<Self> {
        let path = std::env::temp_dir().join(name());
        make(&path)?;
        Ok(Self { path, is_kept: false })
    }

    /// A named one, which has to be new or empty: the chain that a devnet's coins are on ends with it.
    ///
    /// # Errors
    /// When something is in it, or the file system's words.
    pub(crate) fn named(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| Error::new(Kind::Failed, format!("{}: {error}", path.display()));
        if !path.exists() {
            make(path)?;
        } else if std::fs::read_dir(path).map_err(failed)?.next().is_some() {
            let message = format!("{} is not empty", path.display());
            return Err(Error::new(Kind::Usage, message)
                .hint("a devnet begins anew each time, its coins too: name a new folder"));
        }
        Ok(Self { path: path.canonicalize().map_err(failed)?, is_kept: true })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it stays.
    pub(crate) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Removes it, unless it was named.
    ///
    /// # Errors
    /// What the file system said.
    pub(crate) fn remove(mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_kept, true) {
            return Ok(());
        }
        std::fs::remove_dir_all(&self.path)
            .map_err(|error| Error::new(Kind::Failed, format!("{}: {error}", self.path.display())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_kept {
            // Nobody is left to be told.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A name that nobody else has.
fn name() -> String {
    let drawn = Hex(codes::random()).to_string();
    format!("oa-devnet-{}", drawn.get(..16).unwrap_or_default())
}

fn make(path: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(|error| Error::new(Kind::Failed, format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_unless_it_was_named() {
        let folder = Folder::temporary().unwrap();
        let path = folder.path().to_owned();
        std::fs::write(path.join("a"), "x").unwrap();
        folder.remove().unwrap();
        assert!(!path.exists());
        let path = Folder::temporary().unwrap().path().to_owned();
        assert!(!path.exists(), "also when it is dropped");
        let dir = tempfile::tempdir().unwrap();
        let named = dir.path().join("devnet");
        std::fs::write(Folder::named(&named).unwrap().path().join("a"), "x").unwrap();
        assert!(named.join("a").exists());
        assert_eq!(Folder::named(&named).unwrap_err().kind, Kind::Usage, "it is not empty");
    }
}
