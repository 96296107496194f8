//! `oa mount DIR`: the node's tree as a folder, until Ctrl-C.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use crate::context::Signals;
use crate::error::{Error, Kind, Result, chain};
use crate::fuse::{self, Config, MountError, Point, PointError, RemoteTree, Unmounted};
use crate::lifecycle;
use crate::output::Output;

/// `oa mount`
#[derive(Debug, Args)]
pub(crate) struct Mount {
    /// An empty folder; only you will see what is in it
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// Mounts the tree that `connect` reaches, and stays until Ctrl-C, SIGTERM, or somebody unmounts it.
///
/// # Errors
/// What is wrong with the folder or missing on this machine, before anybody is asked; what `connect` says; a tree
/// that cannot be listed.
pub(crate) async fn run<T: RemoteTree>(
    output: Output,
    args: Mount,
    connect: impl AsyncFnOnce() -> Result<T>,
) -> Result<()> {
    let mut signals = Signals::catch()?;
    let point = Point::prepare(&args.dir).await?;
    if point.was_stale() {
        output.note(format!("{}: an oa mount that was killed was still there; cleared", args.dir.display()));
    }
    let tree = connect().await?;
    tree.list("/").await?;
    let mounted = fuse::mount(Arc::new(tree), point, Config::default()).await?;
    let path = mounted.path().to_owned();
    lifecycle::ready(output, &json!({ "event": "ready", "mount": path }));
    output.say(format!("The node's tree is at {}. Ctrl-C unmounts it.", path.display()));
    tokio::select! {
        biased;
        () = signals.next() => {}
        () = mounted.ended() => output.note(format!("{} was unmounted", path.display())),
    }
    tell(output, &mounted.unmount().await?);
    lifecycle::stopping(output);
    Ok(())
}

/// What was open is cut off; whoever loses something by it is to know.
fn tell(output: Output, unmounted: &Unmounted) {
    let Unmounted::Busy { unsent } = unmounted else { return };
    output.note("files were still open; they are cut off");
    for path in unsent {
        output.note(format!("not saved: {path}"));
    }
}

impl From<PointError> for Error {
    fn from(error: PointError) -> Self {
        let kind = match &error {
            PointError::Missing(_) => Kind::NotFound,
            PointError::NotFolder(_) | PointError::NotEmpty(_) => Kind::Usage,
            PointError::Unreadable { .. } => Kind::Denied,
            _ => Kind::Failed,
        };
        Self { kind, hint: error.hint(), message: chain(&error) }
    }
}

impl From<MountError> for Error {
    fn from(error: MountError) -> Self {
        Self::new(Kind::Failed, chain(&error)).hint(
            "users need /dev/fuse and fusermount3 (apt install fuse3), containers --cap-add SYS_ADMIN too",
        )
    }
}
