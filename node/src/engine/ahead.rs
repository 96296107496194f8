//! Ticks of one agent that are decided and not on disk yet: the next runs on what they decided, while they land.
//!
//! What a tick lets out (its mail, and news of it) leaves as it lands, in the order of the ticks. Nobody else changes
//! the agent's files until all have landed, because others stand on what is on disk. A flush that fails fails all of
//! them, and the store with them.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::time::Instant;

use tokio::sync::OwnedMutexGuard;

use crate::agent::{AgentId, Lifecycle};
use crate::engine::hooks::After;
use crate::engine::shared::Shared;
use crate::engine::tick::Begun;
use crate::engine::turns;
use crate::notice::Notice;
use crate::store::Pending;
use crate::store::backend::BackendError;
use crate::time::millis;

/// Ticks of one agent on their way to disk at once. More would share more of a flush, and keep whoever wants the agent's
/// turn waiting longer.
const AHEAD_MAX: usize = 16;

/// A tick that is decided.
#[derive(Debug)]
pub(super) struct Landing {
    pub(super) begun: Begun,
    /// Its place in the chain of records.
    pub(super) record: u64,
    pub(super) outcome: String,
    pub(super) lifecycle: Lifecycle,
    pub(super) after: After,
    pub(super) started: Instant,
    pub(super) durable: Pending,
}

/// The ticks of one agent that are on their way, and its turn while there are any.
#[derive(Debug)]
pub(super) struct Ahead<'a> {
    shared: &'a Shared,
    agent: AgentId,
    turn: Option<OwnedMutexGuard<()>>,
    landing: VecDeque<Landing>,
    failed: Option<BackendError>,
}

impl<'a> Ahead<'a> {
    pub(super) fn new(shared: &'a Shared, agent: AgentId) -> Self {
        Self { shared, agent, turn: None, landing: VecDeque::new(), failed: None }
    }

    /// Whether the disk is behind what the next tick runs on.
    pub(super) fn is_behind(&self) -> bool {
        !self.landing.is_empty()
    }

    /// Takes the agent's turn for a tick, unless it is held for those before it.
    pub(super) async fn begin(&mut self) {
        if self.turn.is_none() {
            self.turn = Some(self.shared.turns.of(self.agent).await);
        }
    }

    /// Does something while ticks land.
    pub(super) async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.land(), if !self.landing.is_empty() => {}
            }
        }
    }

    /// A tick is decided. If nothing forbids it the next may begin at once; else this waits until all have landed.
    ///
    /// # Errors
    /// What the store said: then nothing more is kept.
    pub(super) async fn decided(&mut self, landing: Landing) -> Result<(), BackendError> {
        let Begun { row, manifest, .. } = &landing.begun;
        // What others are told of it may be what the next tick asks them about; and onlookers see one tick after another.
        let waits = !landing.after.is_quiet()
            || self.landing.len() + 1 >= AHEAD_MAX
            || self.shared.feeds.is_shown(row.id, &manifest.hud)
            || self.turn.as_ref().is_some_and(turns::is_wanted);
        self.landing.push_back(landing);
        if waits { self.settle().await } else { Ok(()) }
    }

    /// Waits until all have landed, and lets go of the turn.
    ///
    /// # Errors
    /// What the store said: then nothing more is kept.
    pub(super) async fn settle(&mut self) -> Result<(), BackendError> {
        while !self.landing.is_empty() {
            self.land().await;
        }
        self.turn = None;
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Waits for the first to land, and tells of it.
    async fn land(&mut self) {
        let Some(first) = self.landing.front_mut() else { return };
        let verdicts = first.durable.wait().await;
        let Some(Landing { begun, record, outcome, lifecycle, after, started, .. }) =
            self.landing.pop_front()
        else {
            return;
        };
        match verdicts {
            Ok(verdicts) => {
                self.shared.hooks.landed(after, &verdicts, &self.shared.outbox);
                let duration_ms = millis(started.elapsed());
                self.shared.feeds.tick_ends(&begun, lifecycle, duration_ms);
                let agent = &begun.row.name;
                let notice = || Notice::Tick { agent: agent.clone(), seq: record, outcome, duration_ms };
                self.shared.notices.tell_tick(begun.row.id, notice);
            }
            Err(error) => drop(self.failed.get_or_insert(error)),
        }
    }
}
