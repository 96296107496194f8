//! A tree somewhere else as a folder of this machine, under FUSE: what `oa mount` shows.
//!
//! ```text
//! kernel ── kernel.rs ── fs.rs ── handle/{value,append,call}.rs ── remote.rs ── RemoteTree
//!          (callbacks)  (operations)   (an opened file)        (slots, deadline)
//! ```
//!
//! What a file's type makes of it:
//! - *value*: opening takes a snapshot to read from; what is written is sent whole at `fsync` and `close`, which tell
//!   what went wrong. Two that write: the last to close wins, also with `>>`, which reads, adds and writes.
//! - *append*: what is written through one handle is one message, ended by `fsync` or `close`.
//! - *call*: opened for both, what is written is the request, ended by the first read, which has the reply. Opened for
//!   writing only, `close` makes the request, and its reply is dropped.
//! - *stream*: reads answer what is there; its end is an end for now.
//!
//! A file that is created exists for others when its content was sent; `O_EXCL` and `RENAME_NOREPLACE` look first, and
//! somebody may be faster. Modes, owners and times are made up. There is no page cache, so no shared memory maps
//! (`ENODEV`).
//!
//! A mount lives from [`mount`] to [`Mounted::unmount`], or until somebody else unmounts it, see [`Mounted::ended`].

mod attr;
mod buffer;
mod errno;
mod fs;
mod handle;
mod inodes;
mod kernel;
#[cfg(test)]
mod memory;
mod opened;
mod point;
mod process;
mod remote;
#[cfg(test)]
mod tests;
mod tree;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, MountOption, Session};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub(crate) use self::point::{Point, PointError};
pub(crate) use self::tree::{Answer, RemoteTree};

use self::fs::Fs;
use self::kernel::Kernel;
use self::remote::Remote;

/// How long the kernel may take to let go after it was unmounted.
const ENDING: Duration = Duration::from_secs(5);

/// The limits of a mount.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    /// How long the tree may take to answer; then it is an error (`EIO`). Large files have more, by their size.
    pub(crate) deadline: Duration,
    /// Requests to the tree under way at once; others wait, within their deadline.
    pub(crate) in_flight: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10), in_flight: 64 }
    }
}

/// Why nothing was mounted.
#[derive(Debug, thiserror::Error)]
#[error("cannot mount on {}", .path.display())]
pub(crate) struct MountError {
    path: PathBuf,
    source: io::Error,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unmounted {
    /// Nobody had anything open, or somebody else had unmounted it before.
    Clean,
    /// Files were open: whoever has them gets errors from now on. The paths are those with changes that were not
    /// sent, which are lost.
    Busy { unsent: Vec<String> },
}

/// A tree that is mounted. Dropping it unmounts too, whatever is open.
pub(crate) struct Mounted {
    point: PathBuf,
    fs: Arc<Fs>,
    session: Option<BackgroundSession>,
    ended: CancellationToken,
}

/// Mounts a tree. Its requests run on the runtime that this is called on.
///
/// # Errors
/// What the kernel or `fusermount3` said.
pub(crate) async fn mount(
    tree: Arc<dyn RemoteTree>,
    point: Point,
    config: Config,
) -> Result<Mounted, MountError> {
    let point = point.into_path();
    let fs = Arc::new(Fs::new(Remote::new(tree, &config), point.clone()));
    let ended = CancellationToken::new();
    let kernel = Kernel::new(Arc::clone(&fs), Handle::current(), ended.clone());
    let path = point.clone();
    // The handshake with the kernel blocks.
    let session = tokio::task::spawn_blocking(move || start(kernel, &path)).await;
    let session = session.unwrap_or_else(|_panicked| Err(io::Error::other("the session did not start")));
    match session {
        Ok(session) => Ok(Mounted { point, fs, session: Some(session), ended }),
        Err(source) => Err(MountError { path: point, source }),
    }
}

fn start(kernel: Kernel, path: &Path) -> io::Result<BackgroundSession> {
    let mut config = fuser::Config::default();
    // Only the mounting user sees it: that is fuse's default, and stays. What comes from elsewhere is not run.
    config.mount_options = vec![
        MountOption::FSName(point::SOURCE.to_owned()),
        MountOption::Subtype(point::SUBTYPE.to_owned()),
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoExec,
        MountOption::NoAtime,
    ];
    Session::new(kernel, path, &config)?.spawn()
}

impl Mounted {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.point
    }

    /// Waits until somebody else unmounts it.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Unmounts it. The tree is not asked, so it may be gone.
    ///
    /// # Errors
    /// When neither way of unmounting worked: it stays.
    pub(crate) async fn unmount(mut self) -> Result<Unmounted, PointError> {
        let session = self.session.take();
        if self.has_gone() {
            let_go(session);
            return Ok(Unmounted::Clean);
        }
        let unsent = self.fs.unsent().iter().map(ToString::to_string).collect();
        let unmounted = point::unmount(&self.point).await;
        let_go(session);
        match unmounted? {
            point::Busy::No => {
                if tokio::time::timeout(ENDING, self.ended.cancelled()).await.is_err() {
                    tracing::warn!("unmounted, but the kernel still asks");
                }
                Ok(Unmounted::Clean)
            }
            point::Busy::Yes => Ok(Unmounted::Busy { unsent }),
        }
    }

    /// Whether nothing of it is left. A connection that was cut off (`umount -f`) leaves a dead mount behind; whatever
    /// else is mounted there by now is not this.
    fn has_gone(&self) -> bool {
        self.ended.is_cancelled() && !point::is_stale(&self.point)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.session.is_some() && !self.has_gone() {
            point::unmount_now(&self.point);
        }
        let_go(self.session.take());
    }
}

/// Leaves the session to its thread, which ends with the mount. Dropped, it would unmount the path once more: by then
/// somebody else's, maybe.
fn let_go(session: Option<BackgroundSession>) {
    std::mem::forget(session);
}
