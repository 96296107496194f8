//! What every command is given, and how it is told to end.

use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

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

/// Ctrl-C, SIGTERM and perhaps the end of stdin, caught from when this is made: a signal that comes while things start is not lost.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Cancelled when whoever started this is gone.
    alone: CancellationToken,
}

impl Signals {
    /// Catches them from now on.
    pub(crate) fn catch() -> std::io::Result<Self> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, alone: CancellationToken::new() })
    }

    /// The same, and with `until_eof` also the end of stdin: of a program that ends with the one that started it,
    /// however that ends.
    pub(crate) fn catch_and(until_eof: bool) -> std::io::Result<Self> {
        let signals = Self::catch()?;
        if until_eof {
            let alone = signals.alone.clone();
            // A thread of its own, which the runtime's end need not wait for.
            std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
                // What comes is of no interest, and an error is an end too.
                let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
                alone.cancel();
            })?;
        }
        Ok(signals)
    }

    /// Ends with the first.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = self.alone.cancelled() => {}
        }
    }
}
