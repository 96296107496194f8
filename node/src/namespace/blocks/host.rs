//! A folder of this machine, and nothing else of it.
//!
//! Every path is opened by the kernel beneath the folder's descriptor (`openat2` with `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS`), so neither `..` nor a symbolic link leads out, nor one that is put in its place meanwhile.
//! Only folders and regular files are served; symbolic links, devices, pipes and sockets are not listed and refused
//! by name, without being opened. Names that are not UTF-8, or that no [`Path`] can hold, are left out and counted.
//!
//! A written file is on disk, whole, when the write is answered: it is written beside its place and moved there.
//! What waits for the disk runs on threads for that; dropping the service ends the following of changes.

mod beneath;
mod change;
mod follow;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oa_nips::files::{Code, FileType};
use rustix::io::Errno;
use tokio::sync::Semaphore;

pub use self::beneath::Identity;
use self::beneath::Root;
pub use self::follow::Changed;
use self::follow::Follower;
use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::service::{
    Answer, Change, Class, Context, FileService, LookUp, Span, Stat, Watch, not_taken,
};

/// Calls that wait for the disk at once, of one folder: a slow one must not take all of the process's threads.
const CALLS_AT_ONCE_MAX: usize = 16;

/// Names that begin like this are ours, for files on their way: not listed, and refused.
const TEMP_PREFIX: &str = ".oa~";

/// What a folder allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Whether it is changed.
    pub access: Access,
    /// Whether changes that others make are followed: takes one of the user's inotify instances, of which there are
    /// often 128.
    pub follow: Follow,
    /// Largest file that is written, and largest piece that is read, in bytes.
    pub file_bytes_max: usize,
    /// Most entries of a folder that is listed.
    pub entries_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            access: Access::ReadOnly,
            follow: Follow::Nothing,
            file_bytes_max: 16 * 1024 * 1024,
            entries_max: 10_000,
        }
    }
}

/// Whether a folder is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Never.
    ReadOnly,
    /// By whoever reaches it.
    ReadWrite,
}

/// Whether a folder can be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// No.
    Nothing,
    /// Yes, in the first 1,000 folders.
    Changes,
}

/// Why a folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not there, no folder, or not for this user.
    #[error("{path} cannot be opened as a folder")]
    NoFolder { path: String, source: Errno },
    /// Nothing keeps an agent inside it here.
    #[error("host folders need a kernel with openat2 (Linux 5.6), which this one lacks or forbids")]
    Unsupported { source: Errno },
    /// It cannot be followed: most likely the user's inotify instances are used up.
    #[error("{path} cannot be followed (is fs.inotify.max_user_instances reached?)")]
    Follow { path: String, source: std::io::Error },
    /// The process ends.
    #[error("the program is ending")]
    Ending,
}

/// A folder of this machine.
#[derive(Debug)]
pub struct Host {
    config: Config,
    root: Arc<Root>,
    follower: Option<Follower>,
    calls: Arc<Semaphore>,
}

impl Host {
    /// Opens a folder; symbolic links on the way to it are followed, from it on none.
    ///
    /// # Errors
    /// [`OpenError`]
    pub async fn open(folder: impl Into<std::path::PathBuf>, config: Config) -> Result<Self, OpenError> {
        let folder = folder.into();
        let shown = folder.display().to_string();
        let unfollowed = |source| OpenError::Follow { path: shown.clone(), source };
        let opening = tokio::task::spawn_blocking(move || {
            let root = Arc::new(Root::open(&folder, config)?);
            let follow = config.follow == Follow::Changes;
            let notices = follow.then(|| follow::Notices::open(Arc::clone(&root)));
            Ok::<_, OpenError>((root, notices))
        });
        let (root, notices) = opening.await.map_err(|_| OpenError::Ending)??;
        let notices = notices.transpose().map_err(unfollowed)?;
        let follower = notices.map(Follower::start).transpose().map_err(unfollowed)?;
        Ok(Self { config, root, follower, calls: Arc::new(Semaphore::new(CALLS_AT_ONCE_MAX)) })
    }

    /// How many entries listings have left out because of their names so far.
    pub fn skipped(&self) -> u64 {
        self.root.skipped.load(Ordering::Relaxed)
    }

    /// What changed since a number that an earlier call answered; 0 for all that is known. Wake by watching `/`.
    ///
    /// # Errors
    /// `Unavailable` when the folder is not followed.
    pub fn changes(&self, since: u64) -> Result<Changed, Error> {
        Ok(self.follower(&Path::root())?.changes(since))
    }

    /// What is at a path, told apart from whatever is put there later; nothing where there is nothing.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub async fn identity(&self, path: &Path) -> Result<Option<Identity>, Error> {
        self.run(path, |root, path| root.identity(path)).await
    }

    fn follower(&self, path: &Path) -> Result<&Follower, Error> {
        let unfollowed = || Error::new(Code::Unavailable, path, "changes in this folder are not followed");
        self.follower.as_ref().ok_or_else(unfollowed)
    }

    /// Does what waits for the disk, away from the tasks that must not.
    async fn run<T, W>(&self, path: &Path, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: FnOnce(&Root, &Path) -> Result<T, Error> + Send + 'static,
    {
        check_names(path)?;
        let ending = || Error::new(Code::Unavailable, path, "the program is ending");
        let permit = Arc::clone(&self.calls).acquire_owned().await.map_err(|_| ending())?;
        let (root, asked) = (Arc::clone(&self.root), path.clone());
        let working = tokio::task::spawn_blocking(move || {
            // Carried by the work: it goes on when nobody waits for it any more.
            let _permit = permit;
            work(&root, &asked)
        });
        working.await.map_err(|_| ending())?
    }
}

/// Refuses names that are ours.
fn check_names(path: &Path) -> Result<(), Error> {
    if path.components().any(|name| name.starts_with(TEMP_PREFIX)) {
        return Err(Error::new(Code::PermissionDenied, path, "is a name that is reserved"));
    }
    Ok(())
}

/// Counts what listings leave out.
type Skipped = AtomicU64;

impl FileService for Host {
    fn stat<'a>(&'a self, _cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(self.run(path, Root::stat))
    }

    fn list<'a>(&'a self, _cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(self.run(path, Root::list))
    }

    fn read<'a>(&'a self, _cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(self.run(path, move |root, path| root.read(path, span)))
    }

    fn class(&self, _path: &Path, change: &Change) -> Class {
        match change {
            Change::Write(_) => Class::Idempotent,
            Change::Mkdir | Change::Remove | Change::Rename(_) => Class::Queryable,
            Change::Append(_) | Change::Call(_) => Class::AtMostOnce,
        }
    }

    fn act<'a>(&'a self, _cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            if self.config.access == Access::ReadOnly {
                return Err(Error::new(Code::PermissionDenied, path, "is in a folder that is only read"));
            }
            match change {
                Change::Call(_) => return Err(not_taken(path, change)),
                Change::Rename(to) => check_names(to)?,
                _ => {}
            }
            let change = change.clone();
            self.run(path, move |root, path| root.change(path, &change)).await?;
            Ok(Vec::new())
        })
    }

    /// Tells by what is there now: a folder that was to be made, or nothing where something was to go.
    fn look_up<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, LookUp> {
        Box::pin(async move {
            let found = present(self.stat(cx, path).await)?;
            let is_done = match change {
                Change::Mkdir => found.is_some_and(|stat| stat.file_type == FileType::Dir),
                Change::Remove => found.is_none(),
                Change::Rename(to) => found.is_none() && present(self.stat(cx, to).await)?.is_some(),
                Change::Write(_) | Change::Append(_) | Change::Call(_) => return Ok(LookUp::Unknown),
            };
            Ok(if is_done { LookUp::Done(Vec::new()) } else { LookUp::NotDone })
        })
    }

    fn watch(&self, _cx: &Context<'_>, path: &Path) -> Result<Watch, Error> {
        self.follower(path)?.watch(path)
    }
}

/// What is there, if anything is.
fn present(stat: Result<Stat, Error>) -> Result<Option<Stat>, Error> {
    match stat {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if matches!(error.code, Code::NotFound | Code::NotDir) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
