//! What the kernel asks, handed to [`Fs`] on the runtime and answered from there: the thread that reads the kernel's
//! requests never waits, so that one slow file does not hold up the others.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use oa_nips::files::{FileType, Stat};
use rustix::fs::OFlags;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::attr::{Owner, TTL, kind_of, ttl};
use super::fs::Fs;
use super::handle::{Closer, Place};
use super::inodes::Inode;

/// Requests of the kernel that are under way or wait for their turn. What is beyond is refused with `EBUSY`.
const REQUESTS_MAX: usize = 1024;
/// Numbers are not used twice.
const GENERATION: Generation = Generation(0);
/// The number of names in a folder that was read for names alone; the kernel is told the true one when it looks one
/// up. The same as libfuse says.
const UNKNOWN: INodeNo = INodeNo(0xffff_ffff);
/// No opened file goes through the page cache: it is one for all handles, and would mix the versions that they see;
/// and it ends where the size ends that was known before.
const OPENED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO;

/// A mount's side towards the kernel.
pub(super) struct Kernel {
    fs: Arc<Fs>,
    runtime: Handle,
    requests: Arc<Semaphore>,
    owner: Owner,
    ended: CancellationToken,
}

impl Kernel {
    /// Answers from `runtime`; `ended` is cancelled when the kernel has let go of the mount.
    pub(super) fn new(fs: Arc<Fs>, runtime: Handle, ended: CancellationToken) -> Self {
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        Self { fs, runtime, requests, owner: Owner::current(), ended }
    }

    /// Does the work elsewhere, then answers.
    fn answer<R, T, F>(
        &self,
        reply: R,
        refuse: fn(R, Errno),
        work: impl FnOnce(Arc<Fs>) -> F,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) where
        R: Send + 'static,
        F: Future<Output = Result<T, Errno>> + Send + 'static,
    {
        let Ok(place) = Arc::clone(&self.requests).try_acquire_owned() else {
            tracing::warn!(limit = REQUESTS_MAX, "too many requests at once");
            return refuse(reply, Errno::EBUSY);
        };
        let work = work(Arc::clone(&self.fs));
        self.runtime.spawn(async move {
            match work.await {
                Ok(done) => answer(reply, done),
                Err(error) => refuse(reply, error),
            }
            drop(place);
        });
    }

    /// Answers with an entry: how names and numbers come to the kernel.
    fn entry<F>(&self, reply: ReplyEntry, work: impl FnOnce(Arc<Fs>) -> F)
    where
        F: Future<Output = Result<Inode, Errno>> + Send + 'static,
    {
        let owner = self.owner;
        self.answer(reply, ReplyEntry::error, work, move |reply, inode| {
            reply.entry_with_ttls(&ttl(&inode), &TTL, &owner.attr(&inode), GENERATION);
        });
    }

    fn empty<F>(&self, reply: ReplyEmpty, work: impl FnOnce(Arc<Fs>) -> F)
    where
        F: Future<Output = Result<(), Errno>> + Send + 'static,
    {
        self.answer(reply, ReplyEmpty::error, work, |reply, ()| reply.ok());
    }
}

fn flags(flags: OpenFlags) -> OFlags {
    OFlags::from_bits_retain(flags.0.cast_unsigned())
}

impl Filesystem for Kernel {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without the first, opening and cutting a file could not be told from cutting one that is closed.
        if config.add_capabilities(InitFlags::FUSE_ATOMIC_O_TRUNC).is_err() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's fuse is too old"));
        }
        // `ls -l` in one round trip; a slow name does not hold up others in its folder.
        let more = InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO;
        for wanted in [more, InitFlags::FUSE_PARALLEL_DIROPS] {
            if let Err(missing) = config.add_capabilities(wanted) {
                tracing::debug!(?missing, "the kernel is without");
            }
        }
        Ok(())
    }

    fn destroy(&mut self) {
        self.ended.cancel();
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.entry(reply, |fs| async move { fs.lookup(parent.0, &name).await });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let owner = self.owner;
        self.answer(
            reply,
            ReplyAttr::error,
            |fs| async move { fs.stat(ino.0, fh.map(u64::from)).await },
            move |reply, inode| reply.attr(&ttl(&inode), &owner.attr(&inode)),
        );
    }

    /// Sizes are changed; times are kept while the file is known; modes and owners are what they are, and programs
    /// that copy them are not to fail.
    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let owner = self.owner;
        let work = |fs: Arc<Fs>| async move {
            let fh = fh.map(u64::from);
            if let Some(size) = size {
                fs.resize(ino.0, fh, size).await?;
            }
            match mtime {
                Some(TimeOrNow::SpecificTime(at)) => fs.touch(ino.0, at),
                Some(TimeOrNow::Now) => fs.touch(ino.0, SystemTime::now()),
                None => {}
            }
            fs.stat(ino.0, fh).await
        };
        self.answer(reply, ReplyAttr::error, work, move |reply, inode| {
            reply.attr(&ttl(&inode), &owner.attr(&inode));
        });
    }

    fn mkdir(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let name = name.to_owned();
        self.entry(reply, |fs| async move { fs.mkdir(parent.0, &name).await });
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.empty(reply, |fs| async move { fs.unlink(parent.0, &name).await });
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.empty(reply, |fs| async move { fs.rmdir(parent.0, &name).await });
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new) = (name.to_owned(), newname.to_owned());
        self.empty(reply, |fs| async move { fs.rename((parent.0, &name), (newparent.0, &new), flags).await });
    }

    fn open(&self, req: &Request, ino: INodeNo, open: OpenFlags, reply: ReplyOpen) {
        let opener = req.pid();
        self.answer(
            reply,
            ReplyOpen::error,
            |fs| async move { fs.open(ino.0, flags(open), opener).await },
            |reply, fh| reply.opened(FileHandle(fh), OPENED),
        );
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        open: i32,
        reply: ReplyCreate,
    ) {
        let (name, owner, opener) = (name.to_owned(), self.owner, req.pid());
        self.answer(
            reply,
            ReplyCreate::error,
            |fs| async move { fs.create(parent.0, &name, flags(OpenFlags(open)), opener) },
            move |reply, (inode, fh)| {
                reply.created(&Duration::ZERO, &owner.attr(&inode), GENERATION, FileHandle(fh), OPENED);
            },
        );
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.answer(
            reply,
            ReplyData::error,
            |fs| async move { fs.read(ino.0, fh.0, offset, size).await },
            |reply, bytes| reply.data(&bytes),
        );
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        open: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let place = if flags(open).contains(OFlags::APPEND) { Place::End } else { Place::At(offset) };
        let data = data.to_vec();
        let work = |fs: Arc<Fs>| async move {
            fs.write((ino.0, fh.0), lock_owner.map(|owner| owner.0), place, &data).await?;
            u32::try_from(data.len()).map_err(|_| Errno::EFBIG)
        };
        self.answer(reply, ReplyWrite::error, work, |reply, written| reply.written(written));
    }

    fn flush(&self, req: &Request, ino: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        let closer = Closer { owner: owner.0, pid: req.pid() };
        self.empty(reply, move |fs| async move { fs.flush(ino.0, fh.0, closer).await });
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.empty(reply, |fs| async move { fs.sync(ino.0, fh.0).await });
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.empty(reply, |fs| async move { fs.release(ino.0, fh.0).await });
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.fs.open_folder(ino.0) {
            Ok(fh) => reply.opened(FileHandle(fh), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.answer(
            reply,
            ReplyDirectory::error,
            |fs| async move { fs.entries(ino.0, fh.0, offset).await },
            move |mut reply, entries| {
                for (next, entry) in from(&entries, offset) {
                    let (name, kind) = match entry {
                        Entry::Dots(name) => (name, fuser::FileType::Directory),
                        Entry::Named(stat) => (stat.name.as_str(), kind_of(stat.file_type)),
                    };
                    if reply.add(UNKNOWN, next, kind, name) {
                        break;
                    }
                }
                reply.ok();
            },
        );
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let (fs, owner) = (Arc::clone(&self.fs), self.owner);
        self.answer(
            reply,
            ReplyDirectoryPlus::error,
            |fs| async move { fs.entries(ino.0, fh.0, offset).await },
            move |reply, entries| match add_all(&fs, owner, ino.0, from(&entries, offset), reply) {
                Ok(reply) => reply.ok(),
                Err((reply, error)) => reply.error(error),
            },
        );
    }

    fn releasedir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        match self.fs.close_folder(ino.0, fh.0) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    // What follows the kernel does by itself, or does without, once it is told that it is not here.

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}

/// A line of a folder.
enum Entry<'a> {
    Dots(&'static str),
    Named(&'a Stat),
}

/// The lines of a folder from the one with this offset, each with the offset of the next.
fn from(entries: &[Stat], offset: u64) -> impl Iterator<Item = (u64, Entry<'_>)> {
    let dots = [".", ".."].map(Entry::Dots).into_iter();
    let lines = dots.chain(entries.iter().map(Entry::Named));
    (1..).zip(lines).skip(usize::try_from(offset).unwrap_or(usize::MAX))
}

/// Adds lines with all that `stat` would say, as many as there is room for. An error is told only if it is the first
/// line's.
fn add_all<'a>(
    fs: &Fs,
    owner: Owner,
    folder: u64,
    lines: impl Iterator<Item = (u64, Entry<'a>)>,
    mut reply: ReplyDirectoryPlus,
) -> Result<ReplyDirectoryPlus, (ReplyDirectoryPlus, Errno)> {
    let mut is_empty = true;
    for (next, entry) in lines {
        let is_full = match entry {
            // The kernel knows them, and does not count these.
            Entry::Dots(name) => {
                let attr =
                    owner.attr(&Inode { ino: folder, kind: FileType::Dir, size: 0, changed: UNIX_EPOCH });
                reply.add(INodeNo(folder), next, name, &Duration::ZERO, &attr, GENERATION)
            }
            Entry::Named(stat) => match fs.enter(folder, stat) {
                Ok(inode) => {
                    let attr = owner.attr(&inode);
                    let is_full =
                        reply.add(INodeNo(inode.ino), next, &stat.name, &ttl(&inode), &attr, GENERATION);
                    if is_full {
                        fs.forget(inode.ino, 1);
                    }
                    is_full
                }
                Err(error) if is_empty => return Err((reply, error)),
                Err(_) => break,
            },
        };
        if is_full {
            break;
        }
        is_empty = false;
    }
    Ok(reply)
}
