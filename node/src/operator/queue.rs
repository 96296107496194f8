//! Commands that came as mail while the node was away: each runs once, after those before it in its queue.
//!
//! A command is a row in space `op.queue` from when it is taken to when it is settled; the queue's own row says which
//! place is next. Running it goes through the same record of operations as a live request, so a crash between its
//! effect and its settling repeats the answer and not the effect. Settling removes the row, moves the queue on and
//! hands the reply to the outbox, in one transaction.
//!
//! A command waits for those before it until they have come or it expires itself: nothing runs out of its order.

mod lane;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oa_nips::files::queued::{self, Command, EXPIRES_S_MAX};
use oa_nips::files::{Code, OpError, Reply, Request};
use oa_nips::kind;
use oa_nips::mail::{self, Draft};
use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{EventId, JsonUtil as _, PublicKey, UnsignedEvent};
use oa_nips::port::RowWrite;
use tokio_util::sync::CancellationToken;

use self::lane::{Lane, LaneKey, Step, parse_key};
use crate::store::Store;
use crate::store::backend::{BackendError, Table};
use crate::store::write::{Verdict, Write};
use crate::tenure::Tenure;
use crate::time::Time;

/// The rows of this machine.
pub(crate) const SPACE: &str = "op.queue";
/// Commands of one caller that wait. 1,000: of the largest, 22 MB of rows.
const WAITING_MAX: usize = 1_000;
/// Queues of one caller that are remembered. 5,000: each is remembered for 8 days.
const QUEUES_MAX: usize = 5_000;
/// A queue is forgotten this long after its last command: by then every command of it has expired for a day, and one
/// that comes again is refused for that.
const FORGET_S: u64 = EXPIRES_S_MAX + LATE_S_MAX;
/// A command that comes this long after it expired is not even answered.
const LATE_S_MAX: u64 = 24 * 3600;
/// How often commands are looked for that have expired, and queues that are over.
const TEND_EVERY: Duration = Duration::from_secs(30);
/// Rows read at once at the start.
const PAGE: usize = 1_000;

/// What a queue needs of the node.
pub(crate) trait Host: Debug + Send + Sync {
    /// Whether the node may act under its key now. While it may not, commands wait: nothing runs, and nothing is given
    /// up for want of a role.
    fn may_act(&self) -> bool;

    /// Whether `caller` has any role now.
    ///
    /// # Errors
    /// What the store said.
    fn has_role(&self, caller: &PublicKey) -> Result<bool, BackendError>;

    /// Does what is asked, once for each (caller, op), as if it had been asked live.
    fn run<'a>(&'a self, caller: &'a PublicKey, request: &'a Request) -> BoxedFuture<'a, Reply>;

    /// The writes by which the node's own key sends these letters.
    fn letters(&self, drafts: Vec<Draft>) -> Vec<Write>;

    /// Such writes have landed.
    fn landed(&self, verdicts: &[Verdict]);
}

/// What became of a rumor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is kept, and runs in its turn.
    Queued,
    /// It was there before.
    Duplicate,
    /// It is no command that can be taken, for this reason; nobody is told.
    Refused(String),
}

/// All queues of a node.
#[derive(Debug)]
pub(crate) struct Queues {
    store: Store,
    time: Arc<dyn Time>,
    node: PublicKey,
    host: Arc<dyn Host>,
    lanes: Mutex<HashMap<LaneKey, Lane>>,
    /// Commands are taken one at a time.
    taking: tokio::sync::Mutex<()>,
}

impl Queues {
    /// The queues of a store; what was under way when the node last ended goes on with [`Queues::resume`].
    ///
    /// # Errors
    /// What the store said.
    pub(crate) fn load(
        store: Store,
        time: Arc<dyn Time>,
        node: PublicKey,
        host: Arc<dyn Host>,
    ) -> Result<Arc<Self>, BackendError> {
        let mut lanes: HashMap<LaneKey, Lane> = HashMap::new();
        let prefix = [SPACE.as_bytes(), b"\0"].concat();
        let mut from = prefix.clone();
        loop {
            let page = store.pairs(Table::Rows, from, PAGE)?;
            let (count, last) = (page.len(), page.last().map(|(key, _)| key.clone()));
            for (key, _) in &page {
                let Some(name) = key.strip_prefix(prefix.as_slice()) else { continue };
                let Some((lane, seq)) = std::str::from_utf8(name).ok().and_then(parse_key) else { continue };
                let Some(row) = store.row(SPACE, &lane.row(seq))? else { continue };
                let lane = lanes.entry(lane).or_default();
                match seq {
                    None => lane.restore(row),
                    Some(seq) => {
                        let rumor = UnsignedEvent::from_json(&row.value).ok();
                        let command = rumor.and_then(|rumor| Command::read(&rumor, &node).ok());
                        // One that cannot be read any more has expired.
                        lane.waiting.insert(seq, command.map_or(0, |command| command.expires_s));
                    }
                }
            }
            match last {
                Some(last) if count == PAGE && last.starts_with(&prefix) => {
                    from = [last.as_slice(), &[0]].concat();
                }
                _ => break,
            }
        }
        let (lanes, taking) = (Mutex::new(lanes), tokio::sync::Mutex::default());
        Ok(Arc::new(Self { store, time, node, host, lanes, taking }))
    }

    /// Takes a rumor that was opened with the node's key and whose author, `caller`, is proven. Once this has
    /// answered, the wrap it came in is dealt with; a wrap that comes again does no harm.
    ///
    /// # Errors
    /// What the store said; then nothing was taken.
    pub(crate) async fn take(
        self: &Arc<Self>,
        caller: &PublicKey,
        rumor: &UnsignedEvent,
    ) -> Result<Taken, BackendError> {
        let command = match Command::read(rumor, &self.node) {
            Ok(command) => command,
            Err(error) => return Ok(Taken::Refused(error.to_string())),
        };
        let now_s = self.now_s();
        if command.expires_s.saturating_add(LATE_S_MAX) < now_s {
            return Ok(Taken::Refused("it expired long ago".to_owned()));
        }
        // Nobody else takes up room.
        if !self.host.has_role(caller)? {
            return Ok(Taken::Refused("its caller has no role".to_owned()));
        }
        let _turn = self.taking.lock().await;
        let key = LaneKey { caller: *caller, queue: command.queue };
        if let Some(taken) = self.judge(&key, command.seq) {
            return Ok(taken);
        }
        let value = Some(mail::to_json(rumor).into_bytes());
        let row =
            RowWrite { space: SPACE.to_owned(), key: key.row(Some(command.seq)), expect_version: 0, value };
        if self.store.write(Write::Row(row)).await? == Verdict::Stale {
            return Ok(Taken::Duplicate);
        }
        let mut lanes = self.lanes();
        let lane = lanes.entry(key).or_default();
        lane.waiting.insert(command.seq, command.expires_s);
        lane.touched_s = now_s;
        drop(lanes);
        self.drive(key);
        Ok(Taken::Queued)
    }

    /// Why a command at this place is not taken, if it is not.
    fn judge(&self, key: &LaneKey, seq: u32) -> Option<Taken> {
        let lanes = self.lanes();
        let lane = lanes.get(key);
        if lane.is_some_and(|lane| lane.knows(seq)) {
            return Some(Taken::Duplicate);
        }
        let of_caller = || lanes.iter().filter(|(other, _)| other.caller == key.caller);
        let waiting: usize = of_caller().map(|(_, lane)| lane.waiting.len()).sum();
        if waiting >= WAITING_MAX {
            return Some(Taken::Refused(format!("{WAITING_MAX} commands wait already")));
        }
        (lane.is_none() && of_caller().count() >= QUEUES_MAX)
            .then(|| Taken::Refused(format!("there are {QUEUES_MAX} queues already")))
    }

    /// Goes on with all queues.
    pub(crate) fn resume(self: &Arc<Self>) {
        let keys: Vec<LaneKey> = self.lanes().keys().copied().collect();
        keys.into_iter().for_each(|key| self.drive(key));
    }

    /// Settles what expires and forgets what is over, until `cancel`.
    pub(crate) async fn tend(self: Arc<Self>, mut tenure: Tenure, cancel: CancellationToken) {
        self.resume();
        let mut every = tokio::time::interval(TEND_EVERY);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                // What waited for the lease need not wait longer.
                () = tenure.changed() => self.resume(),
                _ = every.tick() => {
                    self.resume();
                    if let Err(error) = self.forget().await {
                        tracing::warn!(%error, "no queue forgotten");
                    }
                }
            }
        }
    }

    async fn forget(&self) -> Result<(), BackendError> {
        let _turn = self.taking.lock().await;
        let now_s = self.now_s();
        let is_over = |lane: &Lane| {
            !lane.is_driven && lane.waiting.is_empty() && lane.touched_s.saturating_add(FORGET_S) < now_s
        };
        let over: Vec<(LaneKey, u64)> = {
            let lanes = self.lanes();
            lanes.iter().filter(|(_, lane)| is_over(lane)).map(|(key, lane)| (*key, lane.version)).collect()
        };
        for (key, version) in over {
            if version > 0 {
                self.store.write(Write::Row(row(key.row(None), version, None))).await?;
            }
            self.lanes().remove(&key);
        }
        Ok(())
    }

    /// Runs what can run of a queue, in a task of its own; nothing if one does already.
    fn drive(self: &Arc<Self>, key: LaneKey) {
        let now_s = self.now_s();
        let mut lanes = self.lanes();
        let Some(lane) = lanes.get_mut(&key) else { return };
        if lane.is_driven || lane.step(now_s).is_none() || !self.host.may_act() {
            return;
        }
        lane.is_driven = true;
        drop(lanes);
        let queues = self.clone();
        tokio::spawn(async move {
            while let Some(step) = queues.next_step(&key) {
                if let Err(error) = queues.perform(&key, step).await {
                    tracing::error!(%error, "a queue stands still");
                    if let Some(lane) = queues.lanes().get_mut(&key) {
                        lane.is_driven = false;
                    }
                    return;
                }
            }
        });
    }

    /// The next thing to do; without one the queue is driven no more, decided under the one lock.
    fn next_step(&self, key: &LaneKey) -> Option<Step> {
        let mut lanes = self.lanes();
        let lane = lanes.get_mut(key)?;
        // The time is read under the lock, or somebody who saw a later one might count on this driver in vain.
        let step = lane.step(self.now_s()).filter(|_| self.host.may_act());
        lane.is_driven = step.is_some();
        step
    }

    async fn perform(&self, key: &LaneKey, step: Step) -> Result<(), BackendError> {
        let seq = step.seq();
        let kept = self.store.row(SPACE, &key.row(Some(seq)))?;
        let rumor = kept.and_then(|row| UnsignedEvent::from_json(&row.value).ok());
        let command = rumor.as_ref().and_then(|rumor| Command::read(rumor, &self.node).ok());
        let mut letters = Vec::new();
        if let (Some(command), Some(id)) = (command, rumor.and_then(|rumor| rumor.id)) {
            let reply = match step {
                // Nobody else gets an answer.
                _ if !self.host.has_role(&key.caller)? => None,
                Step::Expire(_) => Some(Err(OpError::new(Code::Stale, "it expired before it could run"))),
                Step::Run(_) => Some(self.host.run(&key.caller, &command.request).await),
            };
            if let Some(reply) = reply {
                letters = self.drafts(key, id, &command.request, &reply);
            }
        }
        self.settle(key, step, letters).await
    }

    fn drafts(&self, key: &LaneKey, command: EventId, request: &Request, reply: &Reply) -> Vec<Draft> {
        let draft = |content| Draft {
            recipient: key.caller,
            kind: kind::FILES_REPLY.as_u16(),
            content,
            at_ms: self.time.now_ms(),
            reply_to: Some(command),
            auto_hop: 0,
        };
        queued::reply_contents(request.op, reply).into_iter().map(draft).collect()
    }

    async fn settle(&self, key: &LaneKey, step: Step, letters: Vec<Draft>) -> Result<(), BackendError> {
        let (mut lane, seq) = (self.lanes().get(key).cloned().unwrap_or_default(), step.seq());
        let version = lane.version;
        lane.settle(step, self.now_s());
        let mut unit = vec![
            Write::Row(row(key.row(Some(seq)), 1, None)),
            Write::Row(row(key.row(None), version, Some(lane.to_row()))),
        ];
        unit.extend(self.host.letters(letters));
        let verdicts = self.store.commit(unit).await?;
        if verdicts.contains(&Verdict::Stale) {
            return Err(BackendError::Corrupt {
                path: format!("{SPACE} {}", key.row(Some(seq))),
                detail: "somebody else changed the row of a queue".to_owned(),
            });
        }
        self.host.landed(&verdicts);
        if let Some(lane) = self.lanes().get_mut(key) {
            lane.version = version + 1;
            lane.settle(step, self.now_s());
        }
        Ok(())
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, HashMap<LaneKey, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_s(&self) -> u64 {
        self.time.now_ms() / 1000
    }
}

fn row(key: String, expect_version: u64, value: Option<Vec<u8>>) -> RowWrite {
    RowWrite { space: SPACE.to_owned(), key, expect_version, value }
}

#[cfg(test)]
mod tests;
