//! What every command is given, and how it is told to end.

use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::output::Output;
use crate::passphrase::PassphraseSource;

/// What every command is given.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) home: PathBuf,
    pub(crate) output: Output,
    /// Opens encrypted keys.
    pub(crate) passphrase: PassphraseSource,
}

/// Ctrl-C and SIGTERM, caught from when this is made: a signal that comes while things start is not lost.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Catches them from now on.
    pub(crate) fn catch() -> std::io::Result<Self> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate })
    }

    /// Ends with the first.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
