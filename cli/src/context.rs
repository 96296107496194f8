//! What every command is given, and how it is told to end.

use std::path::PathBuf;

use crate::output::Output;

/// What every command is given.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) home: PathBuf,
    pub(crate) output: Output,
}

/// Ends with Ctrl-C or SIGTERM.
pub(crate) async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        // Without signals a node runs until it is killed, which it survives.
        Err(_) => std::future::pending().await,
    }
}
