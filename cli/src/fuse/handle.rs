//! An opened file: what each type of file makes of reads, writes and closes.

mod append;
mod call;
mod stream;
mod value;

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::Errno;
use oa_nips::files::FileType;
use rustix::fs::OFlags;

use self::append::Append;
use self::call::Call;
use self::stream::Stream;
use self::value::Value;
use super::buffer::{Budget, FILE_BYTES_MAX};
use super::inodes::Inodes;
use super::process::{self, Pid};
use super::remote::Remote;

/// Where an opened file is, and where its content goes.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    /// Who to ask.
    pub(super) remote: &'a Remote,
    /// Who knows the path: a file that is open may be moved or removed.
    pub(super) inodes: &'a Inodes,
    /// Which file.
    pub(super) ino: u64,
    /// For what it holds.
    pub(super) budget: &'a Budget,
    /// The mount, as programs see it.
    pub(super) point: &'a Path,
}

impl Site<'_> {
    /// The path by now.
    ///
    /// # Errors
    /// `ESTALE` after it was removed.
    fn path(&self) -> Result<Arc<str>, Errno> {
        self.inodes.path(self.ino)
    }
}

/// Where a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// To this offset.
    At(u64),
    /// To the end, whatever offset the kernel believes in (`O_APPEND`).
    End,
}

/// A process by its table of descriptors, as the kernel numbers them.
pub(super) type Owner = u64;

/// Who closes a descriptor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closer {
    /// The process, or a child of it that is about to run another program.
    pub(super) owner: Owner,
    /// The thread.
    pub(super) pid: Pid,
}

/// An opened file.
#[derive(Debug)]
pub(super) struct Handle {
    file: File,
    access: Access,
    opener: Pid,
    /// Who has written since it was last sent: only when they close is anything complete. A program that starts
    /// another closes a copy of each descriptor, in the midst of whatever it is writing.
    writers: Mutex<HashSet<Owner>>,
    /// The tree did not take what was last sent, and somebody was told.
    was_refused: AtomicBool,
}

#[derive(Debug)]
enum File {
    Value(Value),
    Append(Append),
    Call(Call),
    Stream(Stream),
}

/// What it was opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Both,
}

impl Access {
    fn of(flags: OFlags) -> Self {
        // O_RDONLY is no bit but the absence of the two others.
        match (flags.contains(OFlags::WRONLY), flags.contains(OFlags::RDWR)) {
            (_, true) => Self::Both,
            (true, false) => Self::Write,
            (false, false) => Self::Read,
        }
    }
}

impl Handle {
    /// Opens what is there. A file that is only read, and is no stream, is read now: what cannot be read is refused
    /// here, and what comes later does not mix into it.
    ///
    /// # Errors
    /// What the tree says; `EACCES` for writing to a stream, `EISDIR`.
    pub(super) async fn open(site: Site<'_>, flags: OFlags, opener: Pid) -> Result<Self, Errno> {
        let inode = site.inodes.get(site.ino)?;
        let access = Access::of(flags);
        let is_truncated = flags.contains(OFlags::TRUNC);
        let file = match (inode.kind, access) {
            (FileType::Dir, _) => return Err(Errno::EISDIR),
            (FileType::Stream, Access::Read) => File::Stream(Stream::default()),
            (FileType::Stream, _) => return Err(Errno::EACCES),
            (FileType::Value, _) if is_truncated => File::Value(Value::emptied(site.budget)),
            // Only at the first write is the rest needed; what can only be written may be opened so.
            (FileType::Value, Access::Write) => File::Value(Value::unread()),
            // What can be read of the other types, if anything, is for the tree to say.
            (FileType::Value, _) | (FileType::Append | FileType::Call, Access::Read) => {
                let value = Value::unread();
                value.load(site).await?;
                File::Value(value)
            }
            (FileType::Append, _) => File::Append(Append::new(site.budget)),
            (FileType::Call, _) => File::Call(Call::new(site.budget)),
        };
        Ok(Self::new(file, access, opener))
    }

    fn new(file: File, access: Access, opener: Pid) -> Self {
        Self { file, access, opener, writers: Mutex::default(), was_refused: AtomicBool::new(false) }
    }

    /// Opens a file that is created with it: the tree knows of it when it is flushed.
    pub(super) fn create(flags: OFlags, opener: Pid, budget: &Budget) -> Self {
        Self::new(File::Value(Value::emptied(budget)), Access::of(flags), opener)
    }

    fn writers(&self) -> MutexGuard<'_, HashSet<Owner>> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a part.
    ///
    /// # Errors
    /// What the tree says.
    pub(super) async fn read(&self, site: Site<'_>, offset: u64, count: u32) -> Result<Vec<u8>, Errno> {
        match &self.file {
            File::Value(value) => value.read(site, offset, count).await,
            File::Append(append) => append.read(site, offset, count).await,
            File::Call(call) => call.read(site, offset, count).await,
            File::Stream(stream) => stream.read(site, offset, count).await,
        }
    }

    /// Takes what is written; nothing is sent yet.
    ///
    /// # Errors
    /// `EFBIG`, `ENOMEM`; what the tree says where the rest of the file had to be read first.
    pub(super) async fn write(
        &self,
        site: Site<'_>,
        writer: Option<Owner>,
        place: Place,
        data: &[u8],
    ) -> Result<(), Errno> {
        // Before, so that no close in between takes it for complete; after, in case it was sent in between.
        self.writers().extend(writer);
        let written = match &self.file {
            File::Value(value) => value.write(site, place, data).await,
            File::Append(append) => append.write(data),
            File::Call(call) => call.write(site.budget, place, data).await,
            File::Stream(_) => Err(Errno::EACCES),
        };
        self.writers().extend(writer);
        written
    }

    /// Cuts the file, or fills it up with zeros. Messages and requests have no size: only 0 is understood, and means
    /// nothing.
    ///
    /// # Errors
    /// `EFBIG`, `EINVAL`; what the tree says where the rest had to be read first.
    pub(super) async fn resize(&self, site: Site<'_>, size: u64) -> Result<(), Errno> {
        match &self.file {
            File::Value(value) => value.resize(site, len(size)?).await,
            File::Append(_) | File::Call(_) if size == 0 => Ok(()),
            File::Append(_) | File::Call(_) | File::Stream(_) => Err(Errno::EINVAL),
        }
    }

    /// A descriptor is closed: sends what was written, unless others have more to write.
    ///
    /// # Errors
    /// What the tree says.
    pub(super) async fn flush(&self, site: Site<'_>, closer: Closer) -> Result<(), Errno> {
        let is_complete = match &self.file {
            File::Value(value) if value.is_only_emptied() => self.is_last(site, closer.pid),
            _ => {
                let writers = self.writers();
                writers.is_empty() || writers.contains(&closer.owner)
            }
        };
        if is_complete { self.sync(site).await } else { Ok(()) }
    }

    /// Whether no descriptor is left, where nothing was written yet: a shell opens and empties a file, makes a copy
    /// of the descriptor, closes the first, and only then runs what writes. Nobody is to see the empty file.
    fn is_last(&self, site: Site<'_>, closer: Pid) -> bool {
        let path = site.path().map(|path| site.point.join(path.trim_start_matches('/')));
        process::is_same(self.opener, closer) && path.is_ok_and(|path| !process::has_open(closer, &path))
    }

    /// Sends what was written. A request that can still be read for its answer waits for that.
    ///
    /// # Errors
    /// What the tree says.
    pub(super) async fn sync(&self, site: Site<'_>) -> Result<(), Errno> {
        if matches!(self.file, File::Call(_)) && self.access == Access::Both {
            return Ok(());
        }
        let writers = std::mem::take(&mut *self.writers());
        let sent = self.send(site).await;
        self.was_refused.store(sent.is_err(), Ordering::Relaxed);
        if sent.is_err() {
            self.writers().extend(writers);
        }
        sent
    }

    async fn send(&self, site: Site<'_>) -> Result<(), Errno> {
        match &self.file {
            File::Value(value) => value.flush(site).await,
            File::Append(append) => append.flush(site).await,
            File::Call(call) => call.ask(site).await,
            File::Stream(_) => Ok(()),
        }
    }

    /// The last descriptor is closed: sends what nobody was told of yet.
    ///
    /// # Errors
    /// What the tree says, for the log: no program hears it.
    pub(super) async fn release(&self, site: Site<'_>) -> Result<(), Errno> {
        if self.was_refused.load(Ordering::Relaxed) { Ok(()) } else { self.send(site).await }
    }

    /// Bytes of what was written here and not yet sent.
    pub(super) fn unsent_size(&self) -> Option<u64> {
        match &self.file {
            File::Value(value) => value.unsent_size(),
            File::Append(_) | File::Call(_) | File::Stream(_) => None,
        }
    }

    /// Bytes of what it holds, also if the file is gone.
    pub(super) fn size(&self) -> Option<u64> {
        match &self.file {
            File::Value(value) => value.size(),
            File::Append(_) | File::Call(_) | File::Stream(_) => None,
        }
    }
}

/// A size as a length in memory.
///
/// # Errors
/// `EFBIG`
pub(super) fn len(size: u64) -> Result<usize, Errno> {
    usize::try_from(size).ok().filter(|len| *len <= FILE_BYTES_MAX).ok_or(Errno::EFBIG)
}
