//! The node's memory across crashes: agents, inboxes, files, outboxes, records, in one database.
//!
//! [`Store`] is a cheap handle. Writes go as units ([`write::Write`]) to one writer, which decides them one after
//! another and makes many of them durable with one flush; reads see what is durable and never wait for it. Only what
//! sends nothing out before its own commit is durable may read what is decided and not on disk yet. Rows stand on
//! ordered tables of bytes, the [`backend::Backend`] trait, kept by SQLite or in memory.

pub mod backend;
pub mod conformance;
mod decided;
mod layer;
pub mod memory;
mod packed;
pub mod read;
pub mod row;
pub mod sqlite;
mod unit;
pub mod write;
mod writer;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use backend::{Backend, BackendError};
use decided::{Decided, Gathered};
use write::{Verdict, Write};

/// A handle to the store.
#[derive(Debug, Clone)]
pub struct Store {
    /// What is read: the durable, or what is decided.
    backend: Arc<dyn Backend>,
    decided: Arc<Decided>,
    queue: writer::Queue,
    threads: Arc<Mutex<Option<writer::Threads>>>,
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
        answered(&mut self.0).await
    }
}

/// A unit that is decided, or about to be, and not durable yet.
#[derive(Debug)]
pub(crate) struct HandedIn {
    decided: oneshot::Receiver<Result<Vec<Verdict>, BackendError>>,
    /// Its way to disk.
    pub(crate) durable: Pending,
}

impl HandedIn {
    /// Waits until the unit is decided: nothing but a store that stops changes these verdicts, and whatever is handed in
    /// from now on is decided on them. What is sent out because of them waits for the disk.
    pub(crate) async fn verdicts(&mut self) -> Result<Vec<Verdict>, BackendError> {
        answered(&mut self.decided).await
    }
}

async fn answered(
    answer: &mut oneshot::Receiver<Result<Vec<Verdict>, BackendError>>,
) -> Result<Vec<Verdict>, BackendError> {
    answer.await.unwrap_or_else(|_| Err(BackendError::Stopped("it was closed".to_owned())))
}

impl Store {
    /// A store on a backend.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(backend: Arc<dyn Backend>) -> std::io::Result<Self> {
        let stopped = CancellationToken::new();
        let gathered = Arc::<Gathered>::default();
        let decided = Arc::new(Decided::new(gathered.clone(), backend.clone()));
        let (queue, threads) = writer::start(backend.clone(), gathered, stopped.clone())?;
        Ok(Self { backend, decided, queue, threads: Arc::new(Mutex::new(Some(threads))), stopped })
    }

    /// The same store, whose reads see what is decided as well, on disk or not yet. For those who send nothing out but
    /// after a commit of their own: when that is durable, so is all that they read.
    pub(crate) fn as_decided(&self) -> Self {
        Self { backend: self.decided.clone(), ..self.clone() }
    }

    /// Ends when a write failed: then nothing more can be kept.
    pub async fn stopped(&self) {
        self.stopped.cancelled().await;
    }

    /// Hands in a unit. Units land in the order of these calls' returns.
    pub async fn submit(&self, unit: Vec<Write>) -> Pending {
        Pending(self.queue.push(unit).await)
    }

    /// As [`Store::submit`], for who goes on as soon as the unit is decided.
    pub(crate) async fn hand_in(&self, unit: Vec<Write>) -> HandedIn {
        let (decided, durable) = self.queue.push_ahead(unit).await;
        HandedIn { decided, durable: Pending(durable) }
    }

    /// Waits until everything that was handed in before is durable.
    ///
    /// # Errors
    /// What the backend said; then some of it is not.
    pub(crate) async fn settled(&self) -> Result<(), BackendError> {
        self.commit(Vec::new()).await.map(drop)
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
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(threads) = threads {
            // Both have nothing to say.
            let _ = tokio::task::spawn_blocking(move || threads.join()).await;
        }
    }
}
