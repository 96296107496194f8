//! Files with a secret in them: read by their owner only, never written over.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The longest secret file that is read; a seed has some 80 bytes, an nsec 63.
const SECRET_BYTES_MAX: u64 = 4096;

/// Read and write for the owner, nothing for anybody else.
const PRIVATE: u32 = 0o600;

/// The bits of everybody but the owner, and of those not even in the owner's group.
pub(super) const OTHERS: u32 = 0o077;
pub(super) const WORLD: u32 = 0o007;

/// Why a secret was not read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is none.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// Others on this machine can read it, or could have.
    #[error("{} can be read by others (mode {mode:03o})", .path.display())]
    Exposed { path: PathBuf, mode: u32 },
    /// A folder, a device, or far too long.
    #[error("{} is no file with a secret in it", .0.display())]
    Unlike(PathBuf),
    /// The operating system's reason.
    #[error("cannot read {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl LoadError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exposed { path, .. } => Some(format!("chmod 600 {}", quoted(path))),
            Self::Missing(_) | Self::Unlike(_) | Self::Io { .. } => None,
        }
    }
}

/// Why a secret was not written.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// Something is there, and a secret is never written over.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// The operating system's reason; nothing is left behind.
    #[error("cannot write {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl SaveError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exists(path) => {
                Some(format!("move {} away first, if nobody needs its secret", path.display()))
            }
            Self::Io { .. } => None,
        }
    }
}

/// A path as a shell takes it.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,@%".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// The content of a secret file, of which nobody but the owner can read anything.
pub(super) fn load(path: &Path) -> Result<Vec<u8>, LoadError> {
    load_closed(path, OTHERS)
}

/// The content of a secret file whose mode has none of the bits in `closed`.
pub(super) fn load_closed(path: &Path, closed: u32) -> Result<Vec<u8>, LoadError> {
    let failed = |source: io::Error| match source.kind() {
        ErrorKind::NotFound => LoadError::Missing(path.to_owned()),
        _ => LoadError::Io { path: path.to_owned(), source },
    };
    let file = File::open(path).map_err(failed)?;
    // Of the open file: what is checked is what is read.
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() > SECRET_BYTES_MAX {
        return Err(LoadError::Unlike(path.to_owned()));
    }
    let mode = metadata.mode() & 0o777;
    if mode & closed != 0 {
        return Err(LoadError::Exposed { path: path.to_owned(), mode });
    }
    let mut content = Vec::new();
    file.take(SECRET_BYTES_MAX).read_to_end(&mut content).map_err(failed)?;
    Ok(content)
}

/// Writes a secret to a file that is not there yet, durably.
pub(super) fn save(path: &Path, content: &[u8]) -> Result<(), SaveError> {
    let failed = |source| SaveError::Io { path: path.to_owned(), source };
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path).map_err(|source| {
            match source.kind() {
                ErrorKind::AlreadyExists => SaveError::Exists(path.to_owned()),
                _ => failed(source),
            }
        })?;
    let written = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| sync_folder(path));
    written.map_err(|source| {
        // Half a secret would stand in the way of the next attempt; the first error is the one to tell.
        let _ = std::fs::remove_file(path);
        failed(source)
    })
}

/// Makes the name of a new file durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_saved_is_private_and_loads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        save(&path, b"secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(load(&path).unwrap(), b"secret");
    }

    #[test]
    fn nothing_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        save(&path, b"first").unwrap();
        let error = save(&path, b"second").unwrap_err();
        assert!(matches!(error, SaveError::Exists(_)), "{error:?}");
        assert_eq!(load(&path).unwrap(), b"first");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
        assert!(matches!(save(&link, b"x").unwrap_err(), SaveError::Exists(_)), "links are not followed");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my seed");
        save(&path, b"secret").unwrap();
        for mode in [0o644, 0o640, 0o604, 0o620, 0o601] {
            set_mode(&path, mode);
            let error = load(&path).unwrap_err();
            assert!(matches!(&error, LoadError::Exposed { mode: found, .. } if *found == mode), "{error:?}");
            assert_eq!(error.hint().unwrap(), format!("chmod 600 '{}'", path.display()));
            assert!(error.to_string().contains(&format!("{mode:o}")), "{error}");
        }
        for mode in [0o600, 0o400] {
            set_mode(&path, mode);
            assert_eq!(load(&path).unwrap(), b"secret");
        }
    }

    #[test]
    fn what_is_no_secret_file_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(load(&dir.path().join("none")).unwrap_err(), LoadError::Missing(_)));
        assert!(matches!(load(dir.path()).unwrap_err(), LoadError::Unlike(_)));
        let long = dir.path().join("long");
        save(&long, &[b'x'; 5_000]).unwrap();
        assert!(matches!(load(&long).unwrap_err(), LoadError::Unlike(_)));
        let error = save(&dir.path().join("no folder/seed"), b"x").unwrap_err();
        assert!(matches!(error, SaveError::Io { .. }), "{error:?}");
    }

    #[test]
    fn paths_are_quoted_for_a_shell() {
        assert_eq!(quoted(Path::new("/home/a/.oa/seed")), "/home/a/.oa/seed");
        assert_eq!(quoted(Path::new("/a b/c$d")), "'/a b/c$d'");
        assert_eq!(quoted(Path::new("/it's")), r"'/it'\''s'");
    }
}
