//! Leases of agents that can move: each is of the agent's own key, which another node with another seed may have too, in
//! a file or through a bunker.
//!
//! An agent ticks here only while the node has its own lease and the agent's. The lease is taken for as long as the agent
//! lives here; it is left when the agent is removed, or stopped to go on elsewhere, so that the other node need not wait.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use oa_nips::lease::filter;
use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{Event, PublicKey};
use oa_nips::port::RowWrite;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Leasing, Tenure};
use crate::agent::{AgentId, Lifecycle};
use crate::bundle::MIGRATED;
use crate::drivers::nostr::Pool;
use crate::keyring::{Adopted, Keyring};
use crate::lease::driver::{self, Handle, Heard};
use crate::lease::{LeaseState, Memory, MemoryError, Start};
use crate::store::Store;
use crate::store::row::AgentRow;
use crate::store::write::{Verdict, Write};
use crate::time::Time;

/// The space of the rows that remember leases.
const SPACE: &str = "lease";
/// How often it is looked who has come or gone. 250 ms: who has just made an agent waits for it, and it costs a read an
/// agent.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The agents that can move, each with its lease once that is being taken.
#[derive(Debug, Default)]
pub(super) struct Own(RwLock<HashMap<AgentId, Option<Held>>>);

#[derive(Debug)]
struct Held {
    key: PublicKey,
    handle: Handle,
    heard: mpsc::Sender<Heard>,
}

impl Own {
    fn with<T>(&self, look: impl FnOnce(&HashMap<AgentId, Option<Held>>) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn remove(&self, agent: AgentId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&agent);
    }

    fn set(&self, agent: AgentId, held: Option<Held>) -> Option<Held> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(agent, held).flatten()
    }
}

impl Tenure {
    /// From now on an agent has a lease of its own to wait for.
    pub(crate) fn moves(&self, agent: AgentId) {
        let mut own = self.own.0.write().unwrap_or_else(PoisonError::into_inner);
        own.entry(agent).or_insert(None);
    }

    /// The epoch under which something may be done for an agent now; nothing when it must wait.
    pub(crate) fn epoch_of(&self, agent: AgentId) -> Option<u64> {
        let node = self.epoch()?;
        if !self.is_kept {
            return Some(node);
        }
        self.own.with(|own| match own.get(&agent) {
            None => Some(node),
            Some(None) => None,
            Some(Some(held)) => held.handle.standing().borrow().epoch(self.time.now_ms()),
        })
    }

    /// How the lease of an agent that can move stands, for its status.
    pub(crate) fn status_of(&self, agent: AgentId) -> Value {
        let epoch = self.epoch_of(agent);
        json!({ "held": epoch.is_some(), "epoch": epoch, "why": self.why_of(agent) })
    }

    /// Why nothing may be done for an agent now; nothing when it may.
    pub(crate) fn why_of(&self, agent: AgentId) -> Option<String> {
        if self.epoch_of(agent).is_some() {
            return None;
        }
        let why = self.own.with(|own| {
            let held = own.get(&agent).and_then(Option::as_ref)?;
            held.handle.standing().borrow().why().map(str::to_owned)
        });
        why.or_else(|| self.why()).or_else(|| Some("the lease of its key is not looked for yet".to_owned()))
    }

    /// Hands on what a relay said of an agent's lease.
    pub(crate) fn heard_of(&self, event: Box<Event>) {
        self.own.with(|own| {
            if let Some(held) = own.values().flatten().find(|held| held.key == event.pubkey) {
                // One too many is made up for by the next renewal.
                let _ = held.heard.try_send(Heard::Lease(event));
            }
        });
    }

    /// A relay is there again.
    pub(crate) fn relay_up(&self) {
        self.own.with(|own| {
            for held in own.values().flatten() {
                let _ = held.heard.try_send(Heard::RelayUp);
            }
        });
    }

    /// Leaves all of them to others; whatever ticks, answers or publishes has ended.
    pub(crate) async fn release_own(&self) {
        let agents: Vec<AgentId> = self.own.with(|own| own.keys().copied().collect());
        let held: Vec<Held> = agents.into_iter().filter_map(|agent| self.own.set(agent, None)).collect();
        futures_util::future::join_all(held.into_iter().map(|held| held.handle.release())).await;
    }
}

/// Takes and leaves the leases.
#[derive(Debug)]
pub(crate) struct Landlord {
    pub(crate) leasing: Leasing,
    pub(crate) pool: Pool,
    pub(crate) keyring: Arc<dyn Keyring>,
    pub(crate) store: Store,
    pub(crate) time: Arc<dyn Time>,
    pub(crate) tenure: Tenure,
}

impl Landlord {
    /// Begins; ends with `cancel`, and the leases stay until [`Tenure::release_own`].
    pub(crate) fn start(self, cancel: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut look = tokio::time::interval(LOOK_EVERY);
            loop {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    _ = look.tick() => self.look().await,
                }
            }
        })
    }

    async fn look(&self) {
        let all: Vec<(AgentId, bool)> =
            self.tenure.own.with(|own| own.iter().map(|(agent, held)| (*agent, held.is_some())).collect());
        for (agent, is_held) in all {
            let Ok(row) = self.store.agent(agent) else { continue };
            let wants = row.as_ref().is_some_and(lives_here);
            match row {
                Some(row) if wants && !is_held => self.begin(&row),
                _ if is_held && !wants => self.end(agent).await,
                // One that has no row yet is about to be made.
                Some(row) if row.lifecycle == Lifecycle::Terminated => self.tenure.own.remove(agent),
                _ => {}
            }
        }
    }

    fn begin(&self, row: &AgentRow) {
        let is_fresh = match self.keyring.adopted(row.id) {
            Some(Adopted::Own(own)) => own.is_fresh,
            Some(Adopted::Bunker(_)) => false,
            Some(Adopted::Missing(_)) | None => return,
        };
        let start = match self.leasing.start {
            Start::Renounced => Start::Renounced,
            _ if is_fresh => Start::Fresh,
            _ => Start::Again,
        };
        self.pool.stand(&name(&row.pubkey), filter(row.pubkey));
        let memory = Arc::new(Remembered(self.store.clone(), row.id));
        let (parts, news) = self.leasing.parts(self.keyring.agent(row.id), &self.pool, memory, &self.time);
        match driver::start(self.leasing.times.clone(), start, parts) {
            Ok(handle) => {
                self.tenure.own.set(row.id, Some(Held { key: row.pubkey, handle, heard: news }));
            }
            Err(error) => tracing::error!(agent = row.name, %error, "its lease cannot be taken"),
        }
    }

    async fn end(&self, agent: AgentId) {
        if let Some(held) = self.tenure.own.set(agent, None) {
            held.handle.release().await;
            self.pool.unstand(&name(&held.key));
        }
    }
}

/// What its standing subscription is called.
fn name(key: &PublicKey) -> String {
    format!("lease/{}", key.to_hex())
}

/// Whether an agent is to act here, now or when it is resumed.
fn lives_here(row: &AgentRow) -> bool {
    let has_left = row.lifecycle == Lifecycle::Stopped && row.reason.as_deref() == Some(MIGRATED);
    row.lifecycle != Lifecycle::Terminated && !has_left
}

/// The write that forgets what an agent's lease was here, if anything: what is taken in knows more.
pub(crate) fn forget(store: &Store, agent: AgentId) -> Option<RowWrite> {
    let row = store.row(SPACE, &agent.to_string()).ok().flatten()?;
    let (space, key) = (SPACE.to_owned(), agent.to_string());
    Some(RowWrite { space, key, expect_version: row.version, value: None })
}

/// The state of an agent's lease, in the store.
#[derive(Debug)]
struct Remembered(Store, AgentId);

fn failed(error: impl ToString) -> MemoryError {
    MemoryError(error.to_string())
}

impl Memory for Remembered {
    fn load(&self) -> Result<Option<LeaseState>, MemoryError> {
        let row = self.0.row(SPACE, &self.1.to_string()).map_err(failed)?;
        row.map(|row| serde_json::from_slice(&row.value).map_err(failed)).transpose()
    }

    fn save<'a>(&'a self, state: &'a LeaseState) -> BoxedFuture<'a, Result<(), MemoryError>> {
        Box::pin(async move {
            let Self(store, agent) = self;
            let (space, key) = (SPACE.to_owned(), agent.to_string());
            let expect_version = store.row(&space, &key).map_err(failed)?.map_or(0, |row| row.version);
            let value = Some(serde_json::to_vec(state).map_err(failed)?);
            let write = Write::Row(RowWrite { space, key, expect_version, value });
            match store.write(write).await.map_err(failed)? {
                Verdict::Done => Ok(()),
                verdict => Err(failed(format!("{verdict:?}"))),
            }
        })
    }
}
