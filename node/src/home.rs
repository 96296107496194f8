//! The home folder of a node: who may use it, and where things are in it.
//!
//! One process at a time runs in a home and holds its lock; it is released when [`Home`] is dropped, also by
//! `kill -9`. Every other program reads a few files here and speaks the operator protocol for the rest.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// Longest lock file that is read: it holds a process id.
const PID_BYTES_MAX: u64 = 32;

/// A home folder, locked for this process unless it was only [peeked](Home::peek) at.
#[derive(Debug)]
pub struct Home {
    dir: PathBuf,
    /// The open lock file: closing it releases the lock.
    _lock: Option<File>,
}

/// Why a home cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Another process runs in it.
    #[error("the home {} is in use by {}", .dir.display(), holder(*.pid))]
    Locked { dir: PathBuf, pid: Option<u32> },
    /// There is none.
    #[error("there is no home at {}", .0.display())]
    Missing(PathBuf),
    /// Something else has that name.
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// This user may not write there, or nobody may.
    #[error("the home {} cannot be written", .dir.display())]
    NotWritable { dir: PathBuf, source: io::Error },
    /// No room for a lock file, which has ten bytes.
    #[error("the disk that holds {} is full", .0.display())]
    DiskFull(PathBuf),
    /// The operating system's reason.
    #[error("cannot use {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Who holds a lock, for people.
fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl HomeError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "stop that process, or choose another home",
            Self::Missing(_) => {
                "`oa up`, `oa connect` or `oa-node init` makes one; --home or OA_HOME names another"
            }
            Self::NotAFolder(_) => "choose another home",
            Self::NotWritable { .. } => "run as the user who owns it, or choose another home",
            Self::DiskFull(_) => "make room and start again; nothing was lost",
            Self::Io { .. } => "see what the operating system says",
        }
    }
}

impl Home {
    /// Creates the folder if need be, for its owner only, and locks it for this process.
    ///
    /// # Errors
    /// [`HomeError::Locked`] when another process, or another handle of this one, has it.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, HomeError> {
        let home = Self::prepare(dir)?;
        let lock = lock(&home.dir)?;
        Ok(Self { _lock: Some(lock), ..home })
    }

    /// The folder as it is, not locked: for programs that only read it.
    ///
    /// # Errors
    /// [`HomeError::Missing`], [`HomeError::NotAFolder`]
    pub fn peek(dir: impl AsRef<Path>) -> Result<Self, HomeError> {
        let dir = absolute(dir.as_ref())?;
        match std::fs::metadata(&dir) {
            Ok(found) if found.is_dir() => Ok(Self { dir, _lock: None }),
            Ok(_) => Err(HomeError::NotAFolder(dir)),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(HomeError::Missing(dir)),
            Err(source) => Err(HomeError::Io { path: dir, source }),
        }
    }

    /// The folder, created if need be, not locked: for a client that only keeps its own file there.
    ///
    /// # Errors
    /// [`HomeError::NotWritable`] and the like.
    pub fn prepare(dir: impl AsRef<Path>) -> Result<Self, HomeError> {
        let dir = absolute(dir.as_ref())?;
        // Exists already: no error. Its mode is then its owner's business; each secret in it has its own.
        match DirBuilder::new().recursive(true).mode(0o700).create(&dir) {
            Ok(()) => Ok(Self { dir, _lock: None }),
            Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotADirectory) => {
                Err(HomeError::NotAFolder(dir))
            }
            Err(source) => Err(failed(&dir, &dir, source)),
        }
    }

    /// Whether this process holds the lock.
    pub fn is_locked(&self) -> bool {
        self._lock.is_some()
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The node's database.
    pub fn db(&self) -> PathBuf {
        self.dir.join("node.db")
    }

    /// What the bundled relay keeps.
    pub fn relay(&self) -> PathBuf {
        self.dir.join("relay")
    }

    /// The node's seed, see [`Seed`](crate::signer::Seed).
    pub fn seed(&self) -> PathBuf {
        self.dir.join("seed")
    }

    /// The operator's key, where operator and node are one, see [`KeyFile`](crate::signer::KeyFile).
    pub fn operator_key(&self) -> PathBuf {
        self.dir.join("operator.key")
    }

    /// Which bunker (NIP-46) has the operator's key, where it is not in [`Home::operator_key`].
    pub fn bunker(&self) -> PathBuf {
        self.dir.join("bunker.json")
    }

    /// The key that the bunker knows this home by: not the operator's, but with it the bunker signs in his name.
    pub fn bunker_key(&self) -> PathBuf {
        self.dir.join("bunker.key")
    }

    /// The keys of agents that can move, see [`KeyCase`](crate::signer::KeyCase).
    pub fn keys(&self) -> PathBuf {
        self.dir.join("keys")
    }

    /// Which nodes a client of this home talks to, and how.
    pub fn client(&self) -> PathBuf {
        self.dir.join("client.json")
    }

    /// A server's configuration.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// Which ticks run, see [`Running`](crate::engine::running::Running).
    pub fn running(&self) -> PathBuf {
        self.dir.join("running")
    }

    /// Says that the seed was made here, and no node has run with it yet.
    pub fn unused(&self) -> PathBuf {
        self.dir.join("unused")
    }
}

/// A path that stays right when the process changes its folder.
fn absolute(dir: &Path) -> Result<PathBuf, HomeError> {
    std::path::absolute(dir).map_err(|source| HomeError::Io { path: dir.to_owned(), source })
}

/// What an error of the operating system means here.
fn failed(dir: &Path, path: &Path, source: io::Error) -> HomeError {
    match source.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            HomeError::NotWritable { dir: dir.to_owned(), source }
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => HomeError::DiskFull(dir.to_owned()),
        _ => HomeError::Io { path: path.to_owned(), source },
    }
}

/// Takes the lock of a home and leaves this process' id in it.
fn lock(dir: &Path) -> Result<File, HomeError> {
    let path = dir.join("lock");
    let failed = |source: io::Error| failed(dir, &path, source);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(HomeError::Locked { dir: dir.to_owned(), pid: pid(&file) });
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    // The id is for people; the lock is the lock. Whoever reads it in between sees none.
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
    Ok(file)
}

/// The process that holds the lock, if it wrote its id by now.
fn pid(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn a_new_home_is_private_and_locked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep").join("home");
        let home = Home::open(&path).unwrap();
        assert!(home.is_locked());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(path.join("lock")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(home.db(), path.join("node.db"));
    }

    #[test]
    fn the_second_to_open_is_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = Home::open(dir.path()).unwrap();
        let error = Home::open(dir.path()).unwrap_err();
        let expected =
            format!("the home {} is in use by process {}", dir.path().display(), std::process::id());
        assert_eq!(error.to_string(), expected);
        assert!(matches!(error, HomeError::Locked { pid: Some(_), .. }));
        drop(first);
        Home::open(dir.path()).unwrap();
    }

    #[test]
    fn a_lock_file_that_a_killed_process_left_is_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("lock"), "4194304000 and more than a process id").unwrap();
        let home = Home::open(dir.path()).unwrap();
        let text = std::fs::read_to_string(home.dir().join("lock")).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }

    #[test]
    fn an_unreadable_id_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let _home = Home::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("lock"), "").unwrap();
        let error = Home::open(dir.path()).unwrap_err();
        assert!(error.to_string().ends_with("is in use by another process"), "{error}");
    }

    #[test]
    fn peeking_takes_no_lock_and_creates_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let locked = Home::open(dir.path()).unwrap();
        let peeked = Home::peek(dir.path()).unwrap();
        assert_eq!((peeked.dir(), peeked.is_locked()), (locked.dir(), false));
        drop(peeked);
        assert!(matches!(Home::open(dir.path()), Err(HomeError::Locked { .. })), "the lock is still held");
        let none = dir.path().join("none");
        assert!(matches!(Home::peek(&none), Err(HomeError::Missing(_))));
        assert!(!none.exists());
    }

    #[test]
    fn a_prepared_home_is_there_but_not_locked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("home");
        let home = Home::prepare(&path).unwrap();
        assert!(path.is_dir() && !home.is_locked());
        Home::open(&path).unwrap();
    }

    #[test]
    fn a_file_is_no_home() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(Home::open(&file), Err(HomeError::NotAFolder(_))));
        assert!(matches!(Home::peek(&file), Err(HomeError::NotAFolder(_))));
        assert!(matches!(Home::open(file.join("below")), Err(HomeError::NotAFolder(_))));
    }

    #[test]
    fn a_home_that_cannot_be_written_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o500)).unwrap();
        if rustix::process::geteuid().is_root() {
            // Root writes everywhere; it is told what the kernel would have said.
            for kind in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem] {
                let error = failed(&closed, &closed.join("lock"), kind.into());
                assert!(matches!(error, HomeError::NotWritable { .. }), "{error:?}");
            }
            return;
        }
        for path in [closed.clone(), closed.join("below")] {
            let error = Home::open(&path).unwrap_err();
            assert!(matches!(error, HomeError::NotWritable { .. }), "{error:?}");
            assert_eq!(error.to_string(), format!("the home {} cannot be written", path.display()));
        }
    }
}
