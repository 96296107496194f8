//! The store's one writer: a thread that decides units, and one that makes them durable.
//!
//! A unit waits in a bounded queue; the first thread decides it on all that was decided before it, says so to who asked,
//! and goes on. The second flushes what was gathered meanwhile, once for many units, and then answers them. When a flush
//! fails every unit that waits is told so, and the store takes no more.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::store::backend::{Backend, BackendError};
use crate::store::decided::{Answer, Decided, Gathered, Verdicts};
use crate::store::unit::Tx;
use crate::store::write::Write;

/// Units waiting for the writer; beyond it callers wait, which is what slows everything down to the disk's pace.
const QUEUE_UNITS: usize = 1024;
/// Units taken from the queue at once.
const TAKEN_UNITS: usize = 256;

/// What waits for the writer.
#[derive(Debug)]
enum Job {
    /// A unit to be committed.
    Commit {
        unit: Vec<Write>,
        decided: Option<oneshot::Sender<Verdicts>>,
        durable: oneshot::Sender<Verdicts>,
    },
    /// The end, once everything before it is durable.
    Stop,
}

/// The queue to the writer; when the last clone is dropped the threads end.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    jobs: mpsc::Sender<Job>,
}

/// The threads of a writer.
#[derive(Debug)]
pub(super) struct Threads {
    writer: JoinHandle<()>,
    flusher: JoinHandle<()>,
}

impl Threads {
    /// Waits until both have ended.
    pub(super) fn join(self) {
        // They have nothing to say; a panic in one was reported where it happened.
        let _ = self.writer.join();
        let _ = self.flusher.join();
    }
}

/// Starts the threads; `stopped` is cancelled when a flush fails, and when either ends.
pub(super) fn start(
    backend: Arc<dyn Backend>,
    gathered: Arc<Gathered>,
    stopped: CancellationToken,
) -> std::io::Result<(Queue, Threads)> {
    let (jobs, queue) = mpsc::channel(QUEUE_UNITS);
    let decided = Decided::new(gathered.clone(), backend.clone());
    let ends = Ends { gathered: gathered.clone(), stopped: Some(stopped.clone().drop_guard()) };
    let flush = move || flush(&*backend, ends);
    let flusher = std::thread::Builder::new().name("store-flush".to_owned()).spawn(flush)?;
    let decide = move || decide(&decided, &gathered, queue, stopped);
    let writer = std::thread::Builder::new().name("store".to_owned()).spawn(decide)?;
    Ok((Queue { jobs }, Threads { writer, flusher }))
}

impl Queue {
    /// Hands in a unit; its verdicts come once it is durable. The place in line is taken when this returns.
    pub(super) async fn push(&self, unit: Vec<Write>) -> oneshot::Receiver<Verdicts> {
        let (durable, verdicts) = oneshot::channel();
        // When the writer is gone the answer is dropped, and the receiver says so.
        let _ = self.jobs.send(Job::Commit { unit, decided: None, durable }).await;
        verdicts
    }

    /// As [`Queue::push`]; the verdicts come twice, and first once they are decided.
    pub(super) async fn push_ahead(
        &self,
        unit: Vec<Write>,
    ) -> (oneshot::Receiver<Verdicts>, oneshot::Receiver<Verdicts>) {
        let ((soon, decided), (durable, verdicts)) = (oneshot::channel(), oneshot::channel());
        let _ = self.jobs.send(Job::Commit { unit, decided: Some(soon), durable }).await;
        (decided, verdicts)
    }

    /// Ends the writer after what is in line.
    pub(super) async fn stop(&self) {
        let _ = self.jobs.send(Job::Stop).await;
    }
}

/// However a thread ends, a panic too: nothing more is kept.
struct Ends {
    gathered: Arc<Gathered>,
    stopped: Option<DropGuard>,
}

impl Drop for Ends {
    fn drop(&mut self) {
        // Those that wait are told by their answers being dropped.
        drop(self.gathered.stop(BackendError::Stopped("it was closed".to_owned())));
        drop(self.stopped.take());
    }
}

fn flush(backend: &dyn Backend, ends: Ends) {
    if let Err(error) = ends.gathered.flush_all(backend) {
        tracing::error!(%error, "store refuses further work");
    }
}

/// Tells the flusher that the writer is gone, however that was.
struct Over<'a>(&'a Gathered);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn decide(view: &Decided, gathered: &Gathered, mut queue: mpsc::Receiver<Job>, stopped: CancellationToken) {
    let _stopped = stopped.drop_guard();
    let _over = Over(gathered);
    let mut jobs = Vec::with_capacity(TAKEN_UNITS);
    while queue.blocking_recv_many(&mut jobs, TAKEN_UNITS) > 0 {
        for job in jobs.drain(..) {
            let Job::Commit { unit, decided, durable } = job else { return };
            let mut tx = Tx::new(view);
            let verdicts = gathered.failed().and_then(|()| tx.apply(unit));
            let answer = Answer { to: durable, verdicts: verdicts.clone() };
            gathered.gather(tx.into_layer(), answer);
            if let Some(decided) = decided {
                // Nobody has to wait for it.
                let _ = decided.send(verdicts);
            }
        }
    }
}
