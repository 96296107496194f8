//! The tree as the file system asks it: few at once, each within its deadline, errors as numbers.

use std::sync::Arc;
use std::time::Duration;

use fuser::Errno;
use oa_nips::files::{OpError, Stat, Verb};
use tokio::sync::Semaphore;

use super::Config;
use super::errno::errno;
use super::tree::{Answer, RemoteTree};

/// The slowest transfer that is still waited for: what is read or written extends the deadline by its time at this
/// rate.
const BYTES_PER_S_MIN: u64 = 256 * 1024;

/// What the file system asks.
pub(super) struct Remote {
    tree: Arc<dyn RemoteTree>,
    slots: Semaphore,
    deadline: Duration,
}

impl Remote {
    /// A tree within the limits of a mount.
    pub(super) fn new(tree: Arc<dyn RemoteTree>, config: &Config) -> Self {
        Self { tree, slots: Semaphore::new(config.in_flight), deadline: config.deadline }
    }

    /// What a path is.
    pub(super) async fn stat(&self, path: &str) -> Result<Stat, Errno> {
        self.ask(Verb::Stat, path, 0, self.tree.stat(path)).await
    }

    /// The entries of a folder.
    pub(super) async fn list(&self, path: &str) -> Result<Vec<Stat>, Errno> {
        self.ask(Verb::List, path, 0, self.tree.list(path)).await
    }

    /// A whole file, of which `size_hint` bytes are expected.
    pub(super) async fn read_all(&self, path: &str, size_hint: u64) -> Result<Vec<u8>, Errno> {
        self.ask(Verb::Read, path, size_hint, self.tree.read(path, 0, 0)).await
    }

    /// A part of a stream; never more than `count` bytes.
    pub(super) async fn read(&self, path: &str, offset: u64, count: u32) -> Result<Vec<u8>, Errno> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let count = u64::from(count);
        let mut bytes = self.ask(Verb::Read, path, count, self.tree.read(path, offset, count)).await?;
        bytes.truncate(usize::try_from(count).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    /// Replaces a file.
    pub(super) async fn write(&self, path: &str, body: Vec<u8>) -> Result<(), Errno> {
        self.ask(Verb::Write, path, len(&body), self.tree.write(path, body)).await
    }

    /// Adds one message.
    pub(super) async fn append(&self, path: &str, body: Vec<u8>) -> Result<(), Errno> {
        self.ask(Verb::Append, path, len(&body), self.tree.append(path, body)).await
    }

    /// Asks a call file.
    pub(super) async fn call(&self, path: &str, body: Vec<u8>) -> Result<Vec<u8>, Errno> {
        self.ask(Verb::Call, path, len(&body), self.tree.call(path, body)).await
    }

    /// Creates a folder.
    pub(super) async fn mkdir(&self, path: &str) -> Result<(), Errno> {
        self.ask(Verb::Mkdir, path, 0, self.tree.mkdir(path)).await
    }

    /// Removes a file or an empty folder.
    pub(super) async fn remove(&self, path: &str) -> Result<(), Errno> {
        self.ask(Verb::Remove, path, 0, self.tree.remove(path)).await
    }

    /// Moves a file or folder.
    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        self.ask(Verb::Rename, from, 0, self.tree.rename(from, to)).await
    }

    /// Waits for a slot and for the answer, both within the deadline. The sentence of an error goes to the log: a
    /// program is only told a number.
    async fn ask<T>(&self, verb: Verb, path: &str, bytes: u64, answer: Answer<'_, T>) -> Result<T, Errno> {
        let deadline = self.deadline + Duration::from_secs(bytes / BYTES_PER_S_MIN);
        let answer = async {
            match self.slots.acquire().await {
                Ok(_slot) => answer.await,
                Err(_closed) => Err(OpError::new(oa_nips::files::Code::Unavailable, "the mount ends")),
            }
        };
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                // Programs show little of why a change was refused, and ask for what is not there all the time.
                if verb.is_mutating() {
                    tracing::warn!(?verb, path, %error, "refused");
                } else {
                    tracing::info!(?verb, path, code = ?error.code, %error, "refused");
                }
                Err(errno(error.code))
            }
            Err(_elapsed) => {
                tracing::warn!(?verb, path, deadline_s = deadline.as_secs(), "no answer in time");
                Err(Errno::EIO)
            }
        }
    }
}

fn len(body: &[u8]) -> u64 {
    u64::try_from(body.len()).unwrap_or(u64::MAX)
}
