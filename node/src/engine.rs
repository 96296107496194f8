//! The tick engine: agents with something in their inbox get a worker, one tick of an agent at a time.
//!
//! [`schedule::Schedule`] decides who is next, [`plan::Plan`] in which order one agent's envelopes run,
//! `tick` runs one, `ahead` lets the next begin before it is on disk, [`supervisor`] decides what a failure means. The
//! actor here only carries out: it starts workers, hears how they left an agent, and wakes those that had to wait.

mod ahead;
pub mod clock;
pub(crate) mod hooks;
pub mod plan;
pub mod running;
pub mod schedule;
pub(crate) mod shared;
pub mod supervisor;
mod tick;
pub(crate) mod turns;
mod worker;
pub(crate) mod world;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

pub use shared::Programs;
pub(crate) use tick::Begun;
pub use tick::DEADLINE;
pub(crate) use worker::count_crashes;

use crate::agent::AgentId;
use crate::agent::envelope::{Envelope, Kind};
use crate::engine::schedule::{Left, Schedule};
use crate::engine::shared::Shared;
use crate::feeds::Feeds;
use crate::store::write::{Poke, Write};
use crate::time::millis;

/// Ticks at once: one is mostly waiting for its commit, so many share a flush.
pub const WORKERS: usize = running::SLOTS;
/// Arrivals waiting for the actor; a sender waits when it is full.
const ARRIVALS: usize = 4096;
/// Agents sent to sleep at once: one flush.
const DOZE_MAX: usize = 256;
/// How long a shutdown waits for ticks that run.
const DRAIN: Duration = Duration::from_secs(35);

/// A handle to the engine.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    arrivals: mpsc::Sender<AgentId>,
    feeds: Arc<Feeds>,
}

impl Engine {
    /// As [`Engine::arrived`] for those who cannot wait: a full queue is filled from a task.
    pub(crate) fn arrived_soon(&self, agent: AgentId) {
        self.feeds.changes.changed(agent);
        if let Err(mpsc::error::TrySendError::Full(agent)) = self.arrivals.try_send(agent) {
            let engine = self.clone();
            tokio::spawn(async move { engine.arrived(agent).await });
        }
    }

    /// Something was committed to the agent's inbox.
    pub(crate) async fn arrived(&self, agent: AgentId) {
        self.feeds.changes.changed(agent);
        // Fails only at the end, when what waits is found at the next start.
        let _ = self.arrivals.send(agent).await;
    }
}

/// Starts the engine; it ends when `cancel` does, after the ticks that run.
pub(crate) fn start(
    shared: Arc<Shared>,
    dormant_after: Duration,
    cancel: CancellationToken,
) -> (Engine, JoinHandle<()>) {
    let (arrivals, queue) = mpsc::channel(ARRIVALS);
    let feeds = shared.feeds.clone();
    let actor = Actor {
        shared,
        schedule: Schedule::new(WORKERS),
        workers: JoinSet::new(),
        blocked: Arc::default(),
        awake: HashMap::new(),
        dormant_after_ms: millis(dormant_after),
    };
    (Engine { arrivals, feeds }, tokio::spawn(actor.run(queue, cancel)))
}

#[derive(Debug)]
struct Actor {
    shared: Arc<Shared>,
    schedule: Schedule,
    workers: JoinSet<(AgentId, Left)>,
    blocked: Arc<supervisor::Blocked>,
    /// Agents that ticked since they were last dormant, and when last: milliseconds since 1970.
    awake: HashMap<AgentId, u64>,
    dormant_after_ms: u64,
}

impl Actor {
    async fn run(mut self, mut queue: mpsc::Receiver<AgentId>, cancel: CancellationToken) {
        let mut doze =
            tokio::time::interval(Duration::from_millis((self.dormant_after_ms / 4).clamp(50, 30_000)));
        let mut arrived = Vec::new();
        let mut tenure = self.shared.tenure.clone();
        loop {
            self.fill();
            let wake_ms = self.schedule.next_wake_ms();
            let wait_ms = wake_ms.map(|at| at.saturating_sub(self.shared.time.now_ms()));
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                Some(left) = self.workers.join_next() => match left {
                    Ok((agent, left)) => self.left(agent, left),
                    Err(error) => tracing::error!(%error, "a worker ended badly"),
                },
                n = queue.recv_many(&mut arrived, 256) => {
                    if n == 0 { break }
                    arrived.drain(..).for_each(|agent| self.schedule.arrived(agent));
                }
                () = tenure.changed() => {}
                () = wait(wait_ms) => self.schedule.wake(self.shared.time.now_ms()),
                _ = doze.tick() => self.doze().await,
            }
        }
        let drain = async { while self.workers.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drain).await.is_err() {
            tracing::warn!("ticks that still run are given up; their envelopes wait for the next start");
        }
    }

    fn fill(&mut self) {
        // Who does not hold the lease does not tick; what waits, waits.
        if self.shared.tenure.epoch().is_none() {
            return;
        }
        while let Some(agent) = self.schedule.start() {
            let (shared, blocked) = (self.shared.clone(), self.blocked.clone());
            self.workers.spawn(async move {
                // Program panics are caught in the tick; one of our own must not keep the agent from ever ticking.
                let work = AssertUnwindSafe(worker::work(&shared, &blocked, agent)).catch_unwind().await;
                let after_panic =
                    |_| Left::Until(shared.time.now_ms().saturating_add(worker::AFTER_ERROR_MS));
                (agent, work.unwrap_or_else(after_panic))
            });
        }
    }

    fn left(&mut self, agent: AgentId, left: Left) {
        self.awake.insert(agent, self.shared.time.now_ms());
        self.schedule.left(agent, left);
    }

    /// Sends those to sleep that nothing came to for a while.
    async fn doze(&mut self) {
        let now_ms = self.shared.time.now_ms();
        let idle_ms = self.dormant_after_ms;
        let is_tired = |last_ms: u64| now_ms.saturating_sub(last_ms) >= idle_ms;
        let tired: Vec<_> = self.awake.extract_if(|_, last_ms| is_tired(*last_ms)).take(DOZE_MAX).collect();
        let mut dozing = Vec::new();
        for (agent, last_ms) in tired {
            let envelope = Envelope::from_node(Kind::Sleep, &format!("sleep:{agent}:{last_ms}"), now_ms);
            let active = self.shared.store.agent(agent).ok().flatten();
            if active.is_none_or(|row| row.lifecycle != crate::agent::Lifecycle::Active) {
                continue;
            }
            let poke = Write::Poke(Box::new(Poke { agent, envelope }));
            dozing.push((agent, self.shared.store.submit(vec![poke]).await));
        }
        for (agent, pending) in dozing {
            if pending.verdicts().await.is_ok() {
                self.schedule.arrived(agent);
            }
        }
    }
}

async fn wait(ms: Option<u64>) {
    match ms {
        Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        None => std::future::pending().await,
    }
}
