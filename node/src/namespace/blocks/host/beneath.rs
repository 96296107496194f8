//! The folder's descriptor, and what is opened beneath it. The only place that opens a path.

use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

use oa_nips::files::{Code, FileType, Stat};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Config, OpenError, Skipped, TEMP_PREFIX};
use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::service::{Span, dir, file};

/// How often an opening is tried again that a rename elsewhere got in the way of.
const TRIES_MAX: usize = 8;

/// An open folder.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    pub(super) config: Config,
    pub(super) skipped: Skipped,
    /// One change at a time: a size is checked before a file grows.
    pub(super) changing: Mutex<()>,
}

/// What stands at a name, by what the host says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Dir,
    /// With its bytes and its permissions.
    File {
        size: u64,
        mode: Mode,
    },
    /// A symbolic link, device, pipe or socket.
    Special,
}

impl Kind {
    pub(super) fn of(stat: &rustix::fs::Stat) -> Self {
        let mode = Mode::from_raw_mode(stat.st_mode) & (Mode::RWXU | Mode::RWXG | Mode::RWXO);
        match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::Directory => Self::Dir,
            rustix::fs::FileType::RegularFile => {
                Self::File { size: u64::try_from(stat.st_size).unwrap_or(0), mode }
            }
            _ => Self::Special,
        }
    }
}

/// Tells what stands at a path from whatever is put there later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    number: u64,
    /// Seconds and nanoseconds since 1970; of a folder 0.
    changed: (i64, i64),
    /// Of a folder 0.
    size: i64,
}

impl Root {
    pub(super) fn open(folder: &std::path::Path, config: Config) -> Result<Self, OpenError> {
        let no_folder = |source| OpenError::NoFolder { path: folder.display().to_string(), source };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(folder, flags, Mode::empty()).map_err(no_folder)?;
        let root = Self { fd, config, skipped: Skipped::default(), changing: Mutex::default() };
        let opened = root.fd(&Path::root(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        match opened {
            Ok(_) => Ok(root),
            Err(source @ (Errno::NOSYS | Errno::PERM)) => Err(OpenError::Unsupported { source }),
            Err(source) => Err(no_folder(source)),
        }
    }

    /// Opens a path beneath the folder, through no link of any kind. Never waits for the other end of a pipe.
    pub(super) fn fd(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let relative = path.as_str().trim_start_matches('/');
        let relative = if relative.is_empty() { "." } else { relative };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        // Beside O_PATH the kernel takes only flags that mean something.
        let always = if flags.contains(OFlags::PATH) {
            OFlags::CLOEXEC
        } else {
            OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY
        };
        let mut tries = 0;
        loop {
            tries += 1;
            match rustix::fs::openat2(&self.fd, relative, flags | always, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries < TRIES_MAX => {}
                opened => return opened,
            }
        }
    }

    /// Opens a regular file. What it is is looked at first: opening a device may already do something.
    pub(super) fn file(&self, path: &Path, flags: OFlags) -> Result<(OwnedFd, u64), Error> {
        let opened = |flags| self.fd(path, flags, Mode::empty()).map_err(|errno| failed(path, errno));
        regular(path, &opened(OFlags::PATH)?)?;
        let fd = opened(flags)?;
        let size = regular(path, &fd)?;
        Ok((fd, size))
    }

    /// Opens the folder that a path is in, and says by what name.
    pub(super) fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a str), Error> {
        let name = path.name().ok_or_else(|| Error::denied(path))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = self.fd(&path.parent(), flags, Mode::empty()).map_err(|errno| failed(path, errno))?;
        Ok((fd, name))
    }

    pub(super) fn stat(&self, path: &Path) -> Result<Stat, Error> {
        let fd = self.fd(path, OFlags::PATH, Mode::empty()).map_err(|errno| failed(path, errno))?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| failed(path, errno))?;
        line(path.name().unwrap_or_default(), Kind::of(&stat)).ok_or_else(|| special(path))
    }

    pub(super) fn identity(&self, path: &Path) -> Result<Option<Identity>, Error> {
        let stat = match self.fd(path, OFlags::PATH, Mode::empty()) {
            Ok(fd) => rustix::fs::fstat(&fd).map_err(|errno| failed(path, errno))?,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(failed(path, errno)),
        };
        // What is put into a folder changes its time, and is told by itself.
        let is_dir = Kind::of(&stat) == Kind::Dir;
        let (seconds, nanoseconds) = if is_dir { (0, 0) } else { (stat.st_mtime, stat.st_mtime_nsec) };
        let size = if is_dir { 0 } else { stat.st_size };
        Ok(Some(Identity {
            number: stat.st_ino,
            changed: (seconds, i64::try_from(nanoseconds).unwrap_or(0)),
            size,
        }))
    }

    pub(super) fn list(&self, path: &Path) -> Result<Vec<Stat>, Error> {
        let failed = |errno| failed(path, errno);
        let fd = self.fd(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).map_err(failed)?;
        let mut stats = Vec::new();
        for entry in Dir::read_from(&fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else {
                self.skip();
                continue;
            };
            if matches!(name, "." | "..") {
                continue;
            }
            if name.starts_with(TEMP_PREFIX) {
                self.drop_stale(&fd, name);
                continue;
            }
            if path.join(name).is_err() {
                self.skip();
                continue;
            }
            // It may be gone by now.
            let Some(stat) = kind_at(&fd, name).map_err(failed)?.and_then(|kind| line(name, kind)) else {
                continue;
            };
            if stats.len() >= self.config.entries_max {
                let reason = format!("over {} entries", self.config.entries_max);
                return Err(Error::new(Code::TooLarge, path, reason));
            }
            stats.push(stat);
        }
        stats.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(stats)
    }

    fn skip(&self) {
        self.skipped.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    pub(super) fn read(&self, path: &Path, span: Span) -> Result<Vec<u8>, Error> {
        use std::io::{Seek as _, SeekFrom};
        let (fd, size) = self.file(path, OFlags::RDONLY)?;
        let rest = usize::try_from(size.saturating_sub(span.offset)).unwrap_or(usize::MAX);
        let count = span.count.min(rest);
        if count > self.config.file_bytes_max {
            return Err(Error::too_large(path, self.config.file_bytes_max));
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut opened = std::fs::File::from(fd);
        let io = |error: std::io::Error| Error::io(path, error.to_string());
        opened.seek(SeekFrom::Start(span.offset)).map_err(io)?;
        let mut content = Vec::with_capacity(count);
        opened.take(count as u64).read_to_end(&mut content).map_err(io)?;
        Ok(content)
    }
}

/// What stands at a name in an open folder, if anything does. Links are not followed.
pub(super) fn kind_at(folder: impl AsFd, name: &str) -> Result<Option<Kind>, Errno> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Kind::of(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The size of an open file, if it is a regular one.
fn regular(path: &Path, fd: &OwnedFd) -> Result<u64, Error> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| failed(path, errno))?;
    match Kind::of(&stat) {
        Kind::File { size, .. } => Ok(size),
        Kind::Dir => Err(Error::is_dir(path)),
        Kind::Special => Err(special(path)),
    }
}

fn line(name: &str, kind: Kind) -> Option<Stat> {
    match kind {
        Kind::Dir => Some(dir(name)),
        Kind::File { size, .. } => Some(file(name, FileType::Value, size)),
        Kind::Special => None,
    }
}

/// The refusal of what is neither a folder nor a regular file.
pub(super) fn special(path: &Path) -> Error {
    Error::new(Code::PermissionDenied, path, "is neither a folder nor a plain file")
}

/// What the kernel said, as the namespace says it.
pub(super) fn failed(path: &Path, errno: Errno) -> Error {
    let denied = |reason: &str| Error::new(Code::PermissionDenied, path, reason);
    match errno {
        Errno::NOENT => Error::not_found(path),
        Errno::NOTDIR => Error::not_dir(path),
        Errno::ISDIR => Error::is_dir(path),
        Errno::LOOP => denied("a symbolic link is in the way"),
        Errno::XDEV => denied("leads out of the folder"),
        Errno::NXIO | Errno::NODEV => special(path),
        Errno::ACCESS | Errno::PERM | Errno::ROFS => denied("the host does not allow it"),
        Errno::EXIST => Error::new(Code::Exists, path, "is there already"),
        Errno::NOTEMPTY => crate::namespace::blocks::tree::not_empty(path),
        Errno::NAMETOOLONG => Error::new(Code::InvalidPath, path, "is too long for the host"),
        Errno::INVAL => Error::invalid(path, "the host does not take it"),
        Errno::AGAIN => Error::new(Code::Unavailable, path, "is being moved about, try again"),
        errno => Error::io(path, errno.to_string()),
    }
}
