//! The store's one writer: a thread that decides units, and one that makes them durable.
//!
//! A unit waits in a bounded queue; the first thread decides it on all that was decided before it, and goes on. The second
//! flushes what was gathered meanwhile, once for many units, and then answers them. When a flush fails every unit that
//! waits is told so, and the store takes no more.
//!
//! One unit is decided at a time, by whoever holds the [`Desk`]. Where none waits, who hands in the next decides it on the
//! spot instead of waiting for a thread to wake up: so an agent's ticks follow one another, and share a flush.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    Commit(Unit),
    /// The end, once everything before it is durable.
    Stop,
}

/// Writes that land together, and who waits for that.
#[derive(Debug)]
struct Unit {
    writes: Vec<Write>,
    decided: Option<oneshot::Sender<Verdicts>>,
    durable: oneshot::Sender<Verdicts>,
}

/// Where units are decided, one at a time.
#[derive(Debug)]
struct Desk {
    view: Decided,
    gathered: Arc<Gathered>,
    /// Units that are in the queue, or were taken from it and are not decided yet.
    queued: AtomicUsize,
    /// Held by whoever decides.
    seat: Mutex<()>,
}

impl Desk {
    /// Decides a unit on all that was decided before it, and has what it changes flushed.
    fn decide(
        &self,
        writes: Vec<Write>,
        durable: oneshot::Sender<Verdicts>,
        _: &MutexGuard<'_, ()>,
    ) -> Verdicts {
        let mut tx = Tx::new(&self.view);
        let verdicts = self.gathered.failed().and_then(|()| tx.apply(writes));
        self.gathered.gather(tx.into_layer(), Answer { to: durable, verdicts: verdicts.clone() });
        verdicts
    }

    /// The seat, if nobody waits for it, and if what is decided now has room.
    fn free(&self) -> Option<MutexGuard<'_, ()>> {
        let seat = self.seat.try_lock().ok()?;
        // Whoever is in the queue was there first.
        (self.queued.load(Ordering::Acquire) == 0 && self.gathered.has_room()).then_some(seat)
    }
}

/// The queue to the writer; when the last clone is dropped the threads end.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    jobs: mpsc::Sender<Job>,
    desk: Arc<Desk>,
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
    let view = Decided::new(gathered.clone(), backend.clone());
    let desk = Desk { view, gathered: gathered.clone(), queued: AtomicUsize::new(0), seat: Mutex::new(()) };
    let desk = Arc::new(desk);
    let ends = Ends { gathered: gathered.clone(), stopped: Some(stopped.clone().drop_guard()) };
    let flush = move || flush(&*backend, ends);
    let flusher = std::thread::Builder::new().name("store-flush".to_owned()).spawn(flush)?;
    let decide = {
        let desk = desk.clone();
        move || decide(&desk, queue, stopped)
    };
    let writer = std::thread::Builder::new().name("store".to_owned()).spawn(decide)?;
    Ok((Queue { jobs, desk }, Threads { writer, flusher }))
}

impl Queue {
    /// Hands in a unit; its verdicts come once it is durable. The place in line is taken when this returns.
    pub(super) async fn push(&self, writes: Vec<Write>) -> oneshot::Receiver<Verdicts> {
        let (durable, verdicts) = oneshot::channel();
        self.line_up(Unit { writes, decided: None, durable }).await;
        verdicts
    }

    /// As [`Queue::push`]; the verdicts come twice, and first once they are decided.
    pub(super) async fn push_ahead(
        &self,
        writes: Vec<Write>,
    ) -> (oneshot::Receiver<Verdicts>, oneshot::Receiver<Verdicts>) {
        let ((soon, decided), (durable, verdicts)) = (oneshot::channel(), oneshot::channel());
        if self.jobs.is_closed() {
            return (decided, verdicts);
        }
        if let Some(seat) = self.desk.free() {
            // Whoever asked holds the other end.
            let _ = soon.send(self.desk.decide(writes, durable, &seat));
        } else {
            self.line_up(Unit { writes, decided: Some(soon), durable }).await;
        }
        (decided, verdicts)
    }

    async fn line_up(&self, unit: Unit) {
        // When the writer is gone the answers are dropped, and the receivers say so.
        let Ok(place) = self.jobs.reserve().await else { return };
        self.desk.queued.fetch_add(1, Ordering::AcqRel);
        place.send(Job::Commit(unit));
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

fn decide(desk: &Desk, mut queue: mpsc::Receiver<Job>, stopped: CancellationToken) {
    let _stopped = stopped.drop_guard();
    let _over = Over(&desk.gathered);
    let mut jobs = Vec::with_capacity(TAKEN_UNITS);
    while queue.blocking_recv_many(&mut jobs, TAKEN_UNITS) > 0 {
        for job in jobs.drain(..) {
            let Job::Commit(Unit { writes, decided, durable }) = job else { return };
            let seat = desk.seat.lock().unwrap_or_else(PoisonError::into_inner);
            let verdicts = desk.decide(writes, durable, &seat);
            desk.queued.fetch_sub(1, Ordering::AcqRel);
            drop(seat);
            if let Some(decided) = decided {
                // Nobody has to wait for it.
                let _ = decided.send(verdicts);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::port::RowWrite;

    use super::*;
    use crate::store::Store;
    use crate::store::memory::MemoryBackend;
    use crate::store::write::Verdict;

    #[tokio::test]
    async fn units_land_in_the_order_they_were_handed_in_wherever_they_are_decided() {
        let store = Store::new(Arc::new(MemoryBackend::default())).unwrap();
        // Each is only done after the one before it.
        let unit = |expect_version| {
            let (space, key) = ("test".to_owned(), "row".to_owned());
            vec![Write::Row(RowWrite { space, key, expect_version, value: Some(Vec::new()) })]
        };
        let (mut lined_up, mut handed_in) = (Vec::new(), Vec::new());
        for n in 0..5_000 {
            if n % 7 < 3 {
                lined_up.push(store.submit(unit(n)).await);
            } else {
                handed_in.push(store.hand_in(unit(n)).await);
            }
        }
        for mut handed_in in handed_in {
            assert_eq!(handed_in.verdicts().await.unwrap(), [Verdict::Done]);
            assert_eq!(handed_in.durable.verdicts().await.unwrap(), [Verdict::Done]);
        }
        for pending in lined_up {
            assert_eq!(pending.verdicts().await.unwrap(), [Verdict::Done]);
        }
        store.close().await;
        assert!(store.hand_in(unit(5_000)).await.verdicts().await.is_err(), "it is closed");
    }
}
