//! The folder that is mounted on: what it must be, what a killed `oa mount` left there, how it is given back.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::io::Errno;

/// The first column of `mount`.
pub(super) const SOURCE: &str = "oa";
/// The type of the file system is `fuse.oa` by way of `fusermount3`, and `fuse` when root mounts by itself.
pub(super) const SUBTYPE: &str = "oa";
/// Mounts and unmounts for users; root does without, but has it too.
const FUSERMOUNT: &str = "fusermount3";
/// How long it may take.
const FUSERMOUNT_DEADLINE: Duration = Duration::from_secs(5);
/// Where FUSE begins.
const DEVICE: &str = "/dev/fuse";

/// A folder that can be mounted on.
#[derive(Debug)]
pub(crate) struct Point {
    path: PathBuf,
    was_stale: bool,
}

/// Why a folder cannot be mounted on, or not be unmounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PointError {
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    #[error("{} is not a folder", .0.display())]
    NotFolder(PathBuf),
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    #[error("{} is mounted already", .0.display())]
    Mounted(PathBuf),
    /// Another program's file system died there.
    #[error("{} is what another program left of a mount", .0.display())]
    Foreign(PathBuf),
    #[error("{FUSERMOUNT} is missing")]
    NoFusermount,
    #[error("{DEVICE} cannot be opened")]
    NoDevice(#[source] io::Error),
    #[error("cannot look at {}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("cannot unmount {}: {reason}", .path.display())]
    Stays { path: PathBuf, reason: String },
}

impl PointError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Missing(path) => Some(format!("mkdir -p '{}'", path.display())),
            Self::NotEmpty(_) | Self::NotFolder(_) => Some("choose an empty folder".to_owned()),
            Self::Mounted(path) | Self::Foreign(path) | Self::Stays { path, .. } => {
                Some(format!("{FUSERMOUNT} -u '{}'", path.display()))
            }
            Self::NoFusermount => Some("apt install fuse3".to_owned()),
            Self::NoDevice(_) => Some(
                "modprobe fuse; in a container, give it the device: --device /dev/fuse --cap-add SYS_ADMIN"
                    .to_owned(),
            ),
            Self::Unreadable { .. } => None,
        }
    }
}

impl Point {
    /// Looks whether a folder can be mounted on, and clears away what a killed `oa mount` left there.
    ///
    /// # Errors
    /// Says what is wrong with the folder, or missing on this machine.
    pub(crate) async fn prepare(folder: &Path) -> Result<Self, PointError> {
        let unreadable = |source| PointError::Unreadable { path: folder.to_owned(), source };
        is_possible()?;
        let mut was_stale = false;
        if is_stale(folder) {
            let path = std::path::absolute(folder).map_err(unreadable)?;
            if !is_ours(&path) {
                return Err(PointError::Foreign(path));
            }
            unmount(&path).await?;
            was_stale = true;
        }
        let path = match folder.canonicalize() {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(PointError::Missing(folder.to_owned()));
            }
            Err(error) => return Err(unreadable(error)),
        };
        if is_ours(&path) {
            return Err(PointError::Mounted(path));
        }
        match path.read_dir().map(|mut entries| entries.next().is_some()) {
            Ok(false) => Ok(Self { path, was_stale }),
            Ok(true) => Err(PointError::NotEmpty(path)),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(PointError::NotFolder(path)),
            Err(error) => Err(unreadable(error)),
        }
    }

    /// Whether a killed `oa mount` was cleared away.
    pub(crate) fn was_stale(&self) -> bool {
        self.was_stale
    }

    pub(super) fn into_path(self) -> PathBuf {
        self.path
    }
}

/// Whether this machine can mount at all.
///
/// # Errors
/// [`PointError::NoDevice`], [`PointError::NoFusermount`]
fn is_possible() -> Result<(), PointError> {
    std::fs::OpenOptions::new().read(true).write(true).open(DEVICE).map_err(PointError::NoDevice)?;
    match std::process::Command::new(FUSERMOUNT).arg("-V").output() {
        Ok(_) => Ok(()),
        Err(_missing) if rustix::process::geteuid().is_root() => Ok(()),
        Err(_missing) => Err(PointError::NoFusermount),
    }
}

/// Whether whoever served it is dead: "Transport endpoint is not connected".
pub(super) fn is_stale(folder: &Path) -> bool {
    let error = folder.metadata().err();
    error.and_then(|error| Errno::from_io_error(&error)) == Some(Errno::NOTCONN)
}

/// Whether what is mounted on a path, on top, is an `oa mount`.
fn is_ours(path: &Path) -> bool {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    is_ours_in(&mountinfo, path)
}

/// Lines are `36 35 98:0 /root /mount/point options optional… - type source options`; the last is on top.
fn is_ours_in(mountinfo: &str, path: &Path) -> bool {
    let ours = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let point = unescape(before.split(' ').nth(4)?);
        let mut after = after.split(' ');
        let (fs_type, source) = (after.next()?, after.next()?);
        let is_fuse = fs_type == "fuse" || fs_type.strip_prefix("fuse.") == Some(SUBTYPE);
        (Path::new(&point) == path).then_some(is_fuse && source == SOURCE)
    };
    mountinfo.lines().rev().find_map(ours).unwrap_or(false)
}

/// Blanks, tabs, newlines and backslashes are octal there.
fn unescape(text: &str) -> String {
    let pairs = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    pairs.iter().fold(text.to_owned(), |text, (octal, plain)| text.replace(octal, plain))
}

/// Whether files were open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Busy {
    No,
    /// It is out of sight, and lives on until they are closed.
    Yes,
}

/// Unmounts; lazily if files are open.
///
/// # Errors
/// [`PointError::Stays`]
pub(super) async fn unmount(path: &Path) -> Result<Busy, PointError> {
    if run(command(path, Lazy::No)).await.is_ok() {
        return Ok(Busy::No);
    }
    match run(command(path, Lazy::Yes)).await {
        Ok(()) => Ok(Busy::Yes),
        // Somebody was faster.
        Err(_) if !is_ours(path) => Ok(Busy::No),
        Err(reason) => Err(PointError::Stays { path: path.to_owned(), reason }),
    }
}

/// Unmounts whatever is open, waiting for it.
pub(super) fn unmount_now(path: &Path) {
    match command(path, Lazy::Yes).into_std().output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => tracing::warn!(reason = %said(&output), "not unmounted"),
        Err(error) => tracing::warn!(%error, "not unmounted"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lazy {
    No,
    Yes,
}

/// `fusermount3`, or `umount` where root does without.
fn command(path: &Path, lazy: Lazy) -> tokio::process::Command {
    let has_fusermount = std::process::Command::new(FUSERMOUNT).arg("-V").output().is_ok();
    let mut command = tokio::process::Command::new(if has_fusermount { FUSERMOUNT } else { "umount" });
    match (has_fusermount, lazy) {
        (true, Lazy::No) => command.arg("-u"),
        (true, Lazy::Yes) => command.args(["-u", "-z"]),
        (false, Lazy::No) => &mut command,
        (false, Lazy::Yes) => command.arg("-l"),
    };
    command.arg("--").arg(path).stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(mut command: tokio::process::Command) -> Result<(), String> {
    match tokio::time::timeout(FUSERMOUNT_DEADLINE, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(said(&output)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err(format!("no end within {} s", FUSERMOUNT_DEADLINE.as_secs())),
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_on_top_of_a_path_counts() {
        let mountinfo = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            90 22 0:50 / /home/a/my\\040net rw,nosuid - fuse.oa oa rw,user_id=0\n\
            91 22 0:51 / /home/b/net rw,nosuid - fuse oa rw,user_id=0\n\
            92 22 0:52 / /mnt rw - fuse.oa oa rw\n\
            93 22 0:53 / /mnt rw - fuse.sshfs host rw\n";
        let ours = |path: &str| is_ours_in(mountinfo, Path::new(path));
        assert!(ours("/home/a/my net") && ours("/home/b/net"));
        assert!(!ours("/mnt") && !ours("/") && !ours("/home"));
    }
}
