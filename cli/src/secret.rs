//! Files that hold a connection, which is money: for their owner only, and refused otherwise.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::error::{Error, Kind, Result};

/// A connection has some 300 bytes.
const BYTES_MAX: u64 = 8192;

/// The text of a file that nobody else can read.
///
/// # Errors
/// [`Kind::NotFound`] without the file; otherwise with the command that mends it.
pub(crate) fn read(path: &Path) -> Result<String> {
    let failed = |error: std::io::Error| {
        let kind = if error.kind() == ErrorKind::NotFound { Kind::NotFound } else { Kind::Failed };
        Error::new(kind, format!("{}: {error}", path.display()))
    };
    let file = File::open(path).map_err(failed)?;
    // Of the open file: what is checked is what is read.
    guarded(path, &file.metadata().map_err(failed)?)?;
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn guarded(path: &Path, found: &Metadata) -> Result<()> {
    let mode = found.mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let message = format!("{} can be read by others (mode {mode:03o})", path.display());
    Err(Error::new(Kind::Failed, message).hint(format!("chmod 600 {}", path.display())))
}

#[cfg_attr(not(feature = "wallet"), expect(dead_code, reason = "only a wallet has such a file"))]
/// Refuses a file that others can read; there need be none.
///
/// # Errors
/// With the command that mends it.
pub(crate) fn guard(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(found) => guarded(path, &found),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::new(Kind::Failed, format!("{}: {error}", path.display()))),
    }
}

#[cfg_attr(not(feature = "wallet"), expect(dead_code, reason = "only a wallet's home makes such files"))]
/// Writes a file that is not there yet, durably.
///
/// # Errors
/// When anything is there, or the file system's words.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let failed = |error: std::io::Error| Error::new(Kind::Failed, format!("{}: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    writeln!(file, "{text}").and_then(|()| file.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_others_can_read_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.nwc");
        assert_eq!(read(&path).unwrap_err().kind, Kind::NotFound);
        write(&path, "secret").unwrap();
        assert_eq!(read(&path).unwrap(), "secret\n");
        assert!(write(&path, "other").is_err(), "nothing is written over");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.hint.unwrap(), format!("chmod 600 {}", path.display()));
        assert!(!error.message.contains("secret"), "{}", error.message);
    }
}
