//! What changes in a host folder, by whomever: inotify on its folders, told to watchers and kept as a list of paths
//! for triggers. Ends when its [`Follower`] is dropped.

mod journal;

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oa_nips::files::{Code, FileType};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

pub use self::journal::Changed;
use self::journal::Journal;
use super::TEMP_PREFIX;
use super::beneath::Root;
use crate::namespace::blocks::Watchers;
use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::service::Watch;

/// Folders that are followed: each costs the kernel about a kilobyte.
const FOLDERS_MAX: usize = 1000;
/// Bytes of notices that are read at once: some hundred.
const NOTICES_BYTES: usize = 16 * 1024;

/// Follows a folder until it is dropped.
#[derive(Debug)]
pub(super) struct Follower {
    told: Arc<Told>,
    task: JoinHandle<()>,
}

/// What the following knows, for those who ask.
#[derive(Debug, Default)]
struct Told {
    watchers: Watchers,
    journal: Mutex<Journal>,
    followed: Mutex<Followed>,
}

/// The folders that are followed, by the kernel's number.
#[derive(Debug, Default)]
struct Followed {
    folders: BTreeMap<i32, Path>,
    /// Whether there are folders that are not.
    is_partial: bool,
}

impl Told {
    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn followed(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, path: &Path) {
        self.journal().push(path);
        self.watchers.changed(path);
    }

    fn missed(&self) {
        self.journal().miss();
        self.watchers.all_changed();
    }
}

impl Follower {
    /// Begins to read the notices; in a runtime.
    #[expect(deprecated, reason = "the other way is unsafe; the descriptor here stays the same and open")]
    pub(super) fn start(notices: Notices) -> std::io::Result<Self> {
        let told = Arc::clone(&notices.told);
        let fd = AsyncFd::with_interest(Inotify(Arc::clone(&notices.fd)), Interest::READABLE)?;
        Ok(Self { told, task: tokio::spawn(notices.run(fd)) })
    }

    pub(super) fn changes(&self, since: u64) -> Changed {
        self.told.journal().since(since)
    }

    pub(super) fn watch(&self, path: &Path) -> Result<Watch, Error> {
        let followed = self.told.followed();
        let parent = path.parent();
        if followed.is_partial && !followed.folders.values().any(|at| at == path || *at == parent) {
            let reason = format!("over {FOLDERS_MAX} folders, this one is not followed");
            return Err(Error::new(Code::Unavailable, path, reason));
        }
        Ok(self.told.watchers.watch(path))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The descriptor, as the runtime wants it.
struct Inotify(Arc<OwnedFd>);

impl std::os::fd::AsRawFd for Inotify {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

/// The kernel's notices of one folder and those in it.
#[derive(Debug)]
pub(super) struct Notices {
    root: Arc<Root>,
    fd: Arc<OwnedFd>,
    told: Arc<Told>,
}

/// One notice, out of the kernel's buffer.
struct Notice {
    folder: i32,
    what: ReadFlags,
    name: Option<String>,
}

impl Notices {
    /// Asks for notices of all folders there are. Waits for the disk.
    pub(super) fn open(root: Arc<Root>) -> std::io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let notices = Self { root, fd: Arc::new(fd), told: Arc::default() };
        notices.follow_one(&Path::root())?;
        notices.follow_beneath(Path::root(), |_| {});
        Ok(notices)
    }

    async fn run(self, fd: AsyncFd<Inotify>) {
        let this = Arc::new(self);
        loop {
            let Ok(mut ready) = fd.readable().await else { return };
            match this.read() {
                Ok(notices) => {
                    let this = Arc::clone(&this);
                    // Following a new folder waits for the disk.
                    let applying = move || notices.iter().for_each(|notice| this.apply(notice));
                    if tokio::task::spawn_blocking(applying).await.is_err() {
                        return;
                    }
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    tracing::warn!(%errno, "a host folder is no longer followed");
                    this.told.missed();
                    return;
                }
            }
        }
    }

    fn read(&self) -> Result<Vec<Notice>, Errno> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); NOTICES_BYTES];
        let mut reader = Reader::new(&self.fd, &mut buffer);
        let mut notices = Vec::new();
        loop {
            let notice = reader.next()?;
            let name = notice.file_name().map(|name| name.to_string_lossy().into_owned());
            notices.push(Notice { folder: notice.wd(), what: notice.events(), name });
            if reader.is_buffer_empty() {
                return Ok(notices);
            }
        }
    }

    fn apply(&self, notice: &Notice) {
        if notice.what.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.follow_beneath(Path::root(), |_| {});
            self.told.missed();
            return;
        }
        if notice.what.contains(ReadFlags::IGNORED) {
            self.told.followed().folders.remove(&notice.folder);
            return;
        }
        let Some(folder) = self.told.followed().folders.get(&notice.folder).cloned() else { return };
        let path = match &notice.name {
            Some(name) if name.starts_with(TEMP_PREFIX) => return,
            Some(name) => match folder.join(name) {
                Ok(path) => path,
                // No path can hold this name, so nobody can ask for the file.
                Err(_) => return,
            },
            None => folder,
        };
        let is_dir = notice.what.contains(ReadFlags::ISDIR);
        if is_dir && notice.what.contains(ReadFlags::MOVED_FROM) {
            self.leave(&path);
        }
        if is_dir && notice.what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            // What it got before it was followed is told as if it came now.
            if self.follow_one(&path).is_ok() {
                self.follow_beneath(path.clone(), |found| self.told.changed(found));
            }
        }
        self.told.changed(&path);
    }

    fn follow_one(&self, path: &Path) -> Result<(), Errno> {
        let done = self.add(path);
        match done {
            // It is gone again, or no folder any more.
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => {
                let mut followed = self.told.followed();
                if !followed.is_partial {
                    tracing::warn!(%path, %errno, FOLDERS_MAX, "not all of a host folder is followed");
                }
                followed.is_partial = true;
            }
        }
        done
    }

    fn add(&self, path: &Path) -> Result<(), Errno> {
        if self.told.followed().folders.len() >= FOLDERS_MAX {
            return Err(Errno::NOSPC);
        }
        let fd = self.root.fd(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        let what = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVE
            | WatchFlags::ONLYDIR;
        // By its descriptor: its name may mean something else by now.
        let number = inotify::add_watch(&self.fd, format!("/proc/self/fd/{}", fd.as_raw_fd()), what)?;
        self.told.followed().folders.insert(number, path.clone());
        Ok(())
    }

    /// Follows the folders in one that is followed, and names all that is found.
    fn follow_beneath(&self, folder: Path, mut found: impl FnMut(&Path)) {
        let mut waiting = vec![folder];
        while let Some(folder) = waiting.pop() {
            // It may be gone again, or hold more than is listed.
            let Ok(stats) = self.root.list(&folder) else { continue };
            for stat in stats {
                let Ok(path) = folder.join(&stat.name) else { continue };
                found(&path);
                if stat.file_type == FileType::Dir && self.follow_one(&path).is_ok() {
                    waiting.push(path);
                }
            }
        }
    }

    /// No longer follows a folder that went elsewhere, and those in it.
    fn leave(&self, path: &Path) {
        let beneath = path.beneath();
        self.told.followed().folders.retain(|number, folder| {
            let goes = folder == path || folder.as_str().starts_with(&beneath);
            if goes {
                let _ = inotify::remove_watch(&self.fd, *number);
            }
            !goes
        });
    }
}
