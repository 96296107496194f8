//! What changes a host folder: each by the descriptor of the folder it is in, and durable when it returns.

use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use oa_nips::files::Code;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::beneath::{Kind, Root, failed, kind_at, special};
use super::{Access, TEMP_PREFIX};
use crate::namespace::blocks::tree::into_itself;
use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::service::Change;

/// Permissions of a new file, before the process's mask.
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);
/// Of a new folder.
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);
/// How often another name is tried for a file on its way.
const NAMES_MAX: usize = 100;

/// A file on its way is left behind only by a crash; this long after it nobody writes to it any more.
const STALE: Duration = Duration::from_hours(1);

/// Numbers files on their way, across all folders of the process.
static TEMPS: AtomicU64 = AtomicU64::new(0);

impl Root {
    pub(super) fn change(&self, path: &Path, change: &Change) -> Result<(), Error> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Write(content) => self.write(path, content),
            Change::Append(more) => self.append(path, more),
            Change::Mkdir => self.mkdir(path),
            Change::Remove => self.remove(path),
            Change::Rename(to) => self.rename(path, to),
            Change::Call(_) => Err(crate::namespace::service::not_taken(path, change)),
        }
    }

    /// Removes what a crash left of a write, when a listing comes across it.
    pub(super) fn drop_stale(&self, folder: impl AsFd, name: &str) {
        let Ok(stat) = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else { return };
        let written = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
        let age = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().saturating_sub(written);
        if self.config.access == Access::ReadWrite
            && age > STALE
            && matches!(Kind::of(&stat), Kind::File { .. })
        {
            let _ = rustix::fs::unlinkat(&folder, name, AtFlags::empty());
        }
    }

    fn write(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        if *path == Path::root() {
            return Err(Error::is_dir(path));
        }
        let errno = |errno| failed(path, errno);
        let (folder, name) = self.parent(path)?;
        let mode = match kind_at(&folder, name).map_err(errno)? {
            Some(Kind::Dir) => return Err(Error::is_dir(path)),
            Some(Kind::Special) => return Err(special(path)),
            Some(Kind::File { mode, .. }) => Some(mode),
            None => None,
        };
        if content.len() > self.config.file_bytes_max {
            return Err(Error::too_large(path, self.config.file_bytes_max));
        }
        let (temp, fd) = Temp::create(folder.as_fd()).map_err(errno)?;
        let mut file = std::fs::File::from(fd);
        file.write_all(content).map_err(|error| io(path, &error))?;
        if let Some(mode) = mode {
            rustix::fs::fchmod(&file, mode).map_err(errno)?;
        }
        rustix::fs::fsync(&file).map_err(errno)?;
        temp.move_to(name).map_err(errno)?;
        sync(&folder, path)
    }

    fn append(&self, path: &Path, more: &[u8]) -> Result<(), Error> {
        if *path == Path::root() {
            return Err(Error::is_dir(path));
        }
        let (folder, name) = self.parent(path)?;
        if kind_at(&folder, name).map_err(|errno| failed(path, errno))?.is_none() {
            return self.write(path, more);
        }
        let (fd, size) = self.file(path, OFlags::WRONLY | OFlags::APPEND)?;
        if size.saturating_add(more.len() as u64) > self.config.file_bytes_max as u64 {
            return Err(Error::too_large(path, self.config.file_bytes_max));
        }
        let mut file = std::fs::File::from(fd);
        // Part of it may have been written when this fails, or when the disk does.
        let unknown = |reason: String| Error::new(Code::OutcomeUnknown, path, reason);
        file.write_all(more).map_err(|error| unknown(error.to_string()))?;
        rustix::fs::fsync(&file).map_err(|errno| unknown(errno.to_string()))
    }

    fn mkdir(&self, path: &Path) -> Result<(), Error> {
        if *path == Path::root() {
            return Err(failed(path, Errno::EXIST));
        }
        let (folder, name) = self.parent(path)?;
        rustix::fs::mkdirat(&folder, name, FOLDER_MODE).map_err(|errno| failed(path, errno))?;
        sync(&folder, path)
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        let errno = |errno| failed(path, errno);
        let (folder, name) = self.parent(path)?;
        let flags = match kind_at(&folder, name).map_err(errno)? {
            None => return Err(Error::not_found(path)),
            Some(Kind::Special) => return Err(special(path)),
            Some(Kind::Dir) => AtFlags::REMOVEDIR,
            Some(Kind::File { .. }) => AtFlags::empty(),
        };
        rustix::fs::unlinkat(&folder, name, flags).map_err(errno)?;
        sync(&folder, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let (old_folder, old_name) = self.parent(from)?;
        let is_dir = match kind_at(&old_folder, old_name).map_err(|errno| failed(from, errno))? {
            None => return Err(Error::not_found(from)),
            Some(Kind::Special) => return Err(special(from)),
            Some(kind) => kind == Kind::Dir,
        };
        if from == to {
            return Ok(());
        }
        if is_dir && *to != Path::root() && to.strip(from.as_str()).is_some() {
            return Err(into_itself(to));
        }
        let errno = |errno| failed(to, errno);
        let (new_folder, new_name) = self.parent(to)?;
        match kind_at(&new_folder, new_name).map_err(errno)? {
            Some(Kind::Special) => return Err(special(to)),
            Some(Kind::Dir) if !is_dir => return Err(Error::is_dir(to)),
            Some(Kind::File { .. }) if is_dir => return Err(Error::not_dir(to)),
            _ => {}
        }
        rustix::fs::renameat(&old_folder, old_name, &new_folder, new_name).map_err(errno)?;
        sync(&new_folder, to)?;
        sync(&old_folder, from)
    }
}

/// Makes what a folder lists durable.
fn sync(folder: &OwnedFd, path: &Path) -> Result<(), Error> {
    rustix::fs::fsync(folder).map_err(|errno| {
        Error::new(Code::OutcomeUnknown, path, format!("done, but maybe not on disk: {errno}"))
    })
}

fn io(path: &Path, error: &std::io::Error) -> Error {
    Error::io(path, error.to_string())
}

/// A file on its way to its place, removed if it does not get there.
#[derive(Debug)]
struct Temp<'a> {
    folder: BorrowedFd<'a>,
    name: String,
    is_there: bool,
}

impl<'a> Temp<'a> {
    fn create(folder: BorrowedFd<'a>) -> Result<(Self, OwnedFd), Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..NAMES_MAX {
            let number = TEMPS.fetch_add(1, Ordering::Relaxed);
            let name = format!("{TEMP_PREFIX}{}-{number}", std::process::id());
            match rustix::fs::openat(folder, &name, flags, FILE_MODE) {
                Ok(fd) => return Ok((Self { folder, name, is_there: true }, fd)),
                // Left by a process of the same number that was killed, or still in use.
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::EXIST)
    }

    fn move_to(mut self, name: &str) -> Result<(), Errno> {
        rustix::fs::renameat(self.folder, &self.name, self.folder, name)?;
        self.is_there = false;
        Ok(())
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if self.is_there {
            let _ = rustix::fs::unlinkat(self.folder, &self.name, AtFlags::empty());
        }
    }
}
