//! The store's one writer: a thread that gathers units into durable flushes.
//!
//! A unit waits in a bounded queue; the thread takes what is there, applies it in order, flushes once, and answers
//! every unit of the flush. When a flush fails every waiting unit is told so, and the store takes no more.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::store::backend::{Backend, BackendError};
use crate::store::unit::Tx;
use crate::store::write::{Verdict, Write};

/// Units waiting for the writer; beyond it callers wait, which is what slows everything down to the disk's pace.
const QUEUE_UNITS: usize = 1024;
/// Units in one flush: enough to make the fsync cheap, few enough to answer soon.
const FLUSH_UNITS: usize = 256;

/// What waits for the writer.
#[derive(Debug)]
enum Job {
    /// A unit to be committed.
    Commit { unit: Vec<Write>, answer: oneshot::Sender<Result<Vec<Verdict>, BackendError>> },
    /// The end, once everything before it is durable.
    Stop,
}

/// The queue to the writer; when the last clone is dropped the thread ends.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    jobs: mpsc::Sender<Job>,
}

/// Starts the thread; `stopped` is cancelled when a flush fails.
pub(super) fn start(
    backend: Arc<dyn Backend>,
    stopped: CancellationToken,
) -> std::io::Result<(Queue, JoinHandle<()>)> {
    let (jobs, queue) = mpsc::channel(QUEUE_UNITS);
    let run = move || run(&*backend, queue, &stopped);
    let thread = std::thread::Builder::new().name("store".to_owned()).spawn(run)?;
    Ok((Queue { jobs }, thread))
}

impl Queue {
    /// Hands in a unit; its verdicts come once it is durable. The place in line is taken when this returns.
    pub(super) async fn push(
        &self,
        unit: Vec<Write>,
    ) -> oneshot::Receiver<Result<Vec<Verdict>, BackendError>> {
        let (answer, verdicts) = oneshot::channel();
        // When the writer is gone the answer is dropped, and the receiver says so.
        let _ = self.jobs.send(Job::Commit { unit, answer }).await;
        verdicts
    }

    /// Ends the writer after what is in line.
    pub(super) async fn stop(&self) {
        let _ = self.jobs.send(Job::Stop).await;
    }
}

fn run(backend: &dyn Backend, mut queue: mpsc::Receiver<Job>, stopped: &CancellationToken) {
    // However the thread ends, a panic too: nothing more is kept.
    let _stopped = stopped.clone().drop_guard();
    let mut jobs = Vec::with_capacity(FLUSH_UNITS);
    while queue.blocking_recv_many(&mut jobs, FLUSH_UNITS) > 0 {
        let mut tx = Tx::new(backend);
        let mut answers = Vec::with_capacity(jobs.len());
        let mut stops = false;
        for job in jobs.drain(..) {
            match job {
                Job::Commit { unit, answer } => answers.push((answer, tx.apply(unit))),
                Job::Stop => stops = true,
            }
        }
        let changes = tx.into_changes();
        let flushed = if changes.is_empty() { Ok(()) } else { backend.flush(&changes) };
        if let Err(error) = &flushed {
            tracing::error!(%error, "store refuses further work");
            stopped.cancel();
        }
        for (answer, verdicts) in answers {
            let _ = answer.send(flushed.clone().and(verdicts));
        }
        if stops {
            return;
        }
    }
}
