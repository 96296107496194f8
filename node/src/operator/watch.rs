//! The watches under way: one small task each, which sleeps unless there is something to send.
//!
//! A watch holds no bytes. It reads one frame's worth when it has credit and one of the server's places to send from,
//! so that ten thousand readers of one file cost ten thousand rows, and not their frames at once. It ends when its
//! reader says so, falls silent or loses its role; when the file fails; and with the server.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oa_nips::files::sender::{Taken, WatchSender};
use oa_nips::files::watch::{Feed, StreamFrame, Word};
use oa_nips::files::{Code, FramesKind, OpError, OpId, Request};
use oa_nips::nostr::PublicKey;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::post::{PIPELINE, Post, To};
use super::source::Source;
use crate::time::millis;

/// Watches at once, of all callers. 16,384: some 2 KiB each.
pub(super) const WATCHES_MAX: usize = 16_384;
/// Of one caller: nobody takes the last quarter from all others.
const CALLER_WATCHES_MAX: usize = WATCHES_MAX / 4 * 3;
/// Frames of all watches that are being read, signed or sent. 64: some 5 MB.
const SENDING_MAX: usize = 64;

/// Tells who may still listen.
pub(super) trait Listeners: Debug + Send + Sync {
    /// Whether `caller` has any role at this node.
    fn has_role(&self, caller: &PublicKey) -> bool;
}

/// All watches of a server.
#[derive(Debug)]
pub(super) struct Watches {
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Shared {
    post: Post,
    roles: Arc<dyn Listeners>,
    rows: Mutex<HashMap<Key, Arc<Row>>>,
    sending: Arc<Semaphore>,
    /// What the machines' clocks count from.
    since: Instant,
    ending: CancellationToken,
}

type Key = (PublicKey, OpId);

/// What a watch is told from outside.
#[derive(Debug)]
struct Row {
    told: Mutex<Told>,
    wake: Notify,
}

#[derive(Debug, Clone)]
struct Told {
    credit: u64,
    is_over: bool,
    to: To,
}

impl Watches {
    /// No watches yet.
    pub(super) fn new(post: Post, roles: Arc<dyn Listeners>) -> Self {
        let shared = Shared {
            post,
            roles,
            rows: Mutex::default(),
            sending: Arc::new(Semaphore::new(SENDING_MAX)),
            since: Instant::now(),
            ending: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared), tasks: TaskTracker::new() }
    }

    /// Whether this watch is under way: a request that comes again is not begun twice.
    pub(super) fn has(&self, caller: &PublicKey, op: OpId) -> bool {
        self.shared.rows().contains_key(&(*caller, op))
    }

    /// Begins to send what `source` has from the request's offset on.
    ///
    /// # Errors
    /// [`Code::RateLimited`] when there are too many.
    pub(super) fn begin(&self, to: To, request: &Request, source: Box<dyn Source>) -> Result<(), OpError> {
        let key = (to.caller, request.op);
        let row = Arc::new(Row {
            told: Mutex::new(Told { credit: request.count, is_over: false, to }),
            wake: Notify::new(),
        });
        let mut rows = self.shared.rows();
        if rows.len() >= WATCHES_MAX {
            return Err(OpError::new(Code::RateLimited, format!("there are {WATCHES_MAX} watches already")));
        }
        // Counted only when it could matter.
        if rows.len() >= CALLER_WATCHES_MAX
            && rows.keys().filter(|(caller, _)| *caller == key.0).count() >= CALLER_WATCHES_MAX
        {
            let message = format!("you have {CALLER_WATCHES_MAX} watches already");
            return Err(OpError::new(Code::RateLimited, message));
        }
        if rows.contains_key(&key) {
            return Ok(());
        }
        rows.insert(key, row.clone());
        drop(rows);
        let now_ms = self.shared.now_ms();
        let session = Session {
            machine: WatchSender::new(request.op, request.offset, request.count, now_ms),
            place: Place { shared: self.shared.clone(), key },
            row,
            source,
            is_level: false,
            sending: JoinSet::new(),
        };
        self.tasks.spawn(session.run());
        Ok(())
    }

    /// Hands a reader's word to its watch; one to none is passed over.
    pub(super) fn feed(&self, to: To, feed: Feed) {
        let row = self.shared.rows().get(&(to.caller, feed.op)).cloned();
        let Some(row) = row else { return };
        {
            let mut told = row.told();
            match feed.word {
                Word::Credit(bytes) => told.credit = told.credit.max(bytes),
                Word::Stop => told.is_over = true,
            }
            told.to = to;
        }
        row.wake.notify_one();
    }

    /// Ends all, and waits for them.
    pub(super) async fn shutdown(&self) {
        self.shared.ending.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Shared {
    fn rows(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Row>>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        millis(self.since.elapsed())
    }
}

impl Row {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A row's place among all, given back however the watch ends.
struct Place {
    shared: Arc<Shared>,
    key: Key,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.rows().remove(&self.key);
    }
}

/// One watch.
struct Session {
    machine: WatchSender,
    place: Place,
    row: Arc<Row>,
    source: Box<dyn Source>,
    /// Whether everything that there was has been sent.
    is_level: bool,
    sending: JoinSet<()>,
}

/// What a session wakes for.
enum Next {
    Ending,
    Told,
    Sent,
    Room(OwnedSemaphorePermit),
    Changed,
    Due,
}

/// The watch is over.
struct Over;

impl Session {
    async fn run(mut self) {
        let mut is_on = if self.machine.want().is_none() { self.beat().await } else { Ok(()) };
        while is_on.is_ok() {
            is_on = match self.next().await {
                Next::Ending => Err(Over),
                Next::Told => self.told(),
                Next::Sent => Ok(()),
                Next::Room(permit) => self.send(permit).await,
                Next::Changed => {
                    self.is_level = false;
                    Ok(())
                }
                Next::Due => self.due().await,
            };
        }
        if !self.place.shared.ending.is_cancelled() {
            while self.sending.join_next().await.is_some() {}
        }
    }

    async fn next(&mut self) -> Next {
        let shared = &self.place.shared;
        let has_credit = self.machine.want().is_some();
        let due_ms = self.machine.beat_ms().min(self.machine.abandoned_ms());
        let (is_full, is_level) = (self.sending.len() >= PIPELINE, self.is_level);
        tokio::select! {
            biased;
            () = shared.ending.cancelled() => Next::Ending,
            () = self.row.wake.notified() => Next::Told,
            Some(_) = self.sending.join_next(), if !self.sending.is_empty() => Next::Sent,
            permit = shared.sending.clone().acquire_owned(), if has_credit && !is_level && !is_full => {
                permit.map_or(Next::Ending, Next::Room)
            }
            () = self.source.changed(), if has_credit && is_level => Next::Changed,
            () = sleep_until(shared.since + Duration::from_millis(due_ms)) => Next::Due,
        }
    }

    fn told(&mut self) -> Result<(), Over> {
        let Told { credit, is_over, .. } = *self.row.told();
        if is_over {
            return Err(Over);
        }
        self.machine.grant(credit, self.place.shared.now_ms());
        Ok(())
    }

    /// Reads and sends one frame.
    async fn send(&mut self, permit: OwnedSemaphorePermit) -> Result<(), Over> {
        let Some(wanted) = self.machine.want() else { return Ok(()) };
        match self.source.read(wanted.offset, wanted.count).await {
            Ok(piece) => match self.machine.take(piece, self.place.shared.now_ms()) {
                Taken::Frame(frame) => self.post(&frame, Some(permit)),
                Taken::Again => {}
                Taken::Nothing => self.is_level = true,
            },
            Err(error) => return self.fail(error),
        }
        Ok(())
    }

    async fn due(&mut self) -> Result<(), Over> {
        let shared = &self.place.shared;
        if shared.now_ms() >= self.machine.abandoned_ms() {
            tracing::debug!(caller = %self.place.key.0, "a watch whose reader fell silent ends");
            return Err(Over);
        }
        // Who has no role any more gets no answer, not even an end.
        if !shared.roles.has_role(&self.place.key.0) {
            return Err(Over);
        }
        self.beat().await
    }

    async fn beat(&mut self) -> Result<(), Over> {
        let from = self.machine.position();
        match self.source.read(from, 0).await {
            Ok(piece) => {
                self.machine.measured(piece.length);
                let frame = self.machine.beat(self.place.shared.now_ms());
                self.post(&frame, None);
                Ok(())
            }
            Err(error) => self.fail(error),
        }
    }

    fn fail(&mut self, error: OpError) -> Result<(), Over> {
        let end = self.machine.end(error);
        self.post(&end, None);
        Err(Over)
    }

    fn post(&mut self, frame: &StreamFrame, permit: Option<OwnedSemaphorePermit>) {
        let (post, json) = (self.place.shared.post.clone(), frame.to_json());
        let to = self.row.told().to.clone();
        self.sending.spawn(async move {
            post.send(FramesKind::Stream, to, json).await;
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests;
