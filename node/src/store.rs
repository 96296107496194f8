//! The node's memory across crashes: agents, inboxes, files, outboxes, records, in one database.
//!
//! [`Store`] is a cheap handle. Writes go as units ([`write::Write`]) to one writer thread, which makes many of
//! them durable with one flush; reads see what is committed and never wait for it. Rows stand on ordered tables of
//! bytes, the [`backend::Backend`] trait, kept by SQLite or in memory.

pub mod backend;
pub mod conformance;
pub mod memory;
pub mod read;
pub mod row;
pub mod sqlite;
mod unit;
pub mod write;
mod writer;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use backend::{Backend, BackendError};
use write::{Verdict, Write};

/// A handle to the store.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Arc<dyn Backend>,
    queue: writer::Queue,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    stopped: CancellationToken,
}

/// The verdicts of a unit that is on its way to disk.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Result<Vec<Verdict>, BackendError>>);

impl Pending {
    /// Waits until the unit is durable.
    ///
    /// # Errors
    /// What the backend said; then nothing of the unit was done.
    pub async fn verdicts(mut self) -> Result<Vec<Verdict>, BackendError> {
        self.wait().await
    }

    /// As [`Pending::verdicts`], for who keeps it in a queue; not to be called again once it answered.
    pub(crate) async fn wait(&mut self) -> Result<Vec<Verdict>, BackendError> {
        (&mut self.0).await.unwrap_or_else(|_| Err(BackendError::Stopped("it was closed".to_owned())))
    }
}

impl Store {
    /// A store on a backend.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(backend: Arc<dyn Backend>) -> std::io::Result<Self> {
        let stopped = CancellationToken::new();
        let (queue, thread) = writer::start(backend.clone(), stopped.clone())?;
        Ok(Self { backend, queue, thread: Arc::new(Mutex::new(Some(thread))), stopped })
    }

    /// Ends when a write failed: then nothing more can be kept.
    pub async fn stopped(&self) {
        self.stopped.cancelled().await;
    }

    /// Hands in a unit. Units land in the order of these calls' returns.
    pub async fn submit(&self, unit: Vec<Write>) -> Pending {
        Pending(self.queue.push(unit).await)
    }

    /// Hands in a unit and waits until it is durable; answers a verdict for each write up to the one that stopped it.
    ///
    /// # Errors
    /// What the backend said; then nothing of the unit was done.
    pub async fn commit(&self, unit: Vec<Write>) -> Result<Vec<Verdict>, BackendError> {
        self.submit(unit).await.verdicts().await
    }

    /// A unit of one write.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn write(&self, write: Write) -> Result<Verdict, BackendError> {
        let verdicts = self.commit(vec![write]).await?;
        verdicts.into_iter().next().ok_or_else(|| BackendError::Stopped("no verdict".to_owned()))
    }

    /// Ends the writer once everything handed in is durable; what comes later is refused.
    pub async fn close(&self) {
        self.queue.stop().await;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The thread has nothing to say; a panic in it was reported where it happened.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}
