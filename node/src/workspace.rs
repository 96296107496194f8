//! Changes in a mounted host folder wake the agent that mounts it, where its manifest says `trigger = true`.
//!
//! A burst of changes becomes one envelope: it is waited until nothing has changed for a moment, but not for long. An
//! envelope names the first paths as the agent sees them, and how many there are. What the agent changed itself is not
//! among them (`folder`). What changes while the node is down wakes nobody.

mod folder;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oa_nips::hex::Hex;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::folder::Folder;
use crate::agent::envelope::{Envelope, Heard, Kind};
use crate::agent::manifest::Manifest;
use crate::agent::{AgentId, Lifecycle};
use crate::codes;
use crate::namespace::mount::Access;
use crate::namespace::path::Path;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::row::AgentRow;
use crate::store::write::{Poke, Verdict, Write};
use crate::tenure::Tenure;
use crate::time::Time;

/// How often it is looked for changes, which costs a lock for each folder.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Nothing must have changed for so long, in milliseconds: an editor's save is several changes.
const QUIET_MS: u64 = 400;
/// But a folder that never rests is told of after so long.
const RESTLESS_MS: u64 = 5_000;
/// One agent is woken once in so long: of two agents that share a folder each may wake the other.
const BETWEEN_MS: u64 = 5_000;
/// Paths in one envelope.
const PATHS_MAX: usize = 100;
/// Paths that wait to be told to one agent; of more only the number.
const WAITING_MAX: usize = 4_096;
/// Agents looked at together at the start.
const PAGE: usize = 256;

/// A folder that an agent wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    /// Its name under `/srv`.
    folder: String,
    /// Where the agent has it.
    at: Path,
}

/// What an agent is to be told.
#[derive(Debug, Default)]
struct Waiting {
    /// Paths in the agent's tree.
    paths: BTreeSet<Path>,
    /// Whether there were more, or nobody knows which.
    is_partial: bool,
    /// When the first and the last came, in milliseconds since 1970.
    first_ms: u64,
    last_ms: u64,
}

/// Which agents hear of which folders.
#[derive(Debug)]
pub(crate) struct Workspaces {
    store: Store,
    time: Arc<dyn Time>,
    tenure: Tenure,
    folders: BTreeMap<String, Arc<Folder>>,
    wishes: Mutex<BTreeMap<AgentId, Vec<Wish>>>,
}

impl Workspaces {
    /// Nobody hears of these folders yet.
    pub(crate) fn new(
        store: Store,
        time: Arc<dyn Time>,
        tenure: Tenure,
        folders: BTreeMap<String, Arc<Folder>>,
    ) -> Arc<Self> {
        Arc::new(Self { store, time, tenure, folders, wishes: Mutex::default() })
    }

    /// Reads anew what an agent wants: its manifest has changed, or it has come or gone.
    pub(crate) fn refresh(&self, agent: AgentId) {
        if self.folders.is_empty() {
            return;
        }
        let found = self.store.agent(agent).and_then(|row| Ok(row.zip(self.store.manifest(agent)?)));
        match found {
            Ok(Some((row, manifest))) if row.lifecycle != Lifecycle::Terminated => {
                self.set(agent, wishes(&manifest, &self.folders));
            }
            Ok(_) => self.set(agent, Vec::new()),
            Err(error) => tracing::error!(%agent, %error, "its mounts cannot be read"),
        }
    }

    fn set(&self, agent: AgentId, wishes: Vec<Wish>) {
        let mut all = self.wishes();
        if wishes.is_empty() {
            all.remove(&agent);
        } else {
            all.insert(agent, wishes);
        }
    }

    fn wishes(&self) -> MutexGuard<'_, BTreeMap<AgentId, Vec<Wish>>> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what all agents want.
    async fn load(&self) -> Result<(), BackendError> {
        let mut from = AgentId(0);
        while !self.folders.is_empty() {
            let page = self.store.agents(from, PAGE)?;
            let Some(last) = page.last() else { break };
            from = AgentId(last.id.0.saturating_add(1));
            page.iter().for_each(|row| self.refresh(row.id));
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

/// The folders that a manifest wants to hear of, of those there are.
fn wishes(manifest: &Manifest, folders: &BTreeMap<String, Arc<Folder>>) -> Vec<Wish> {
    let specs = manifest.mounts.iter().filter(|spec| spec.trigger && spec.access != Access::Disabled);
    let wishes =
        specs.flat_map(|spec| spec.from.iter().map(|name| Wish { folder: name.clone(), at: spec.at() }));
    wishes.filter(|wish| folders.contains_key(&wish.folder)).collect()
}

/// Starts waking agents; ends when `cancel` does.
pub(crate) fn start(
    workspaces: Arc<Workspaces>,
    arrived: impl Fn(AgentId) + Send + Sync + 'static,
    cancel: CancellationToken,
) -> JoinHandle<()> {
    let waker = Waker::new(workspaces, Box::new(arrived));
    tokio::spawn(async move { cancel.run_until_cancelled(waker.run()).await.unwrap_or(()) })
}

struct Waker {
    workspaces: Arc<Workspaces>,
    arrived: Box<dyn Fn(AgentId) + Send + Sync>,
    /// Up to where each folder's changes are known.
    known: BTreeMap<String, u64>,
    waiting: BTreeMap<AgentId, Waiting>,
    /// When each agent was woken last, in milliseconds since 1970.
    woken: BTreeMap<AgentId, u64>,
    /// Names this run's envelopes, with a number.
    boot: Hex<32>,
    number: u64,
}

impl Waker {
    fn new(workspaces: Arc<Workspaces>, arrived: Box<dyn Fn(AgentId) + Send + Sync>) -> Self {
        let known = |(name, folder): (&String, &Arc<Folder>)| Some((name.clone(), folder.changes(0)?.next));
        let known = workspaces.folders.iter().filter_map(known).collect();
        let (waiting, woken) = (BTreeMap::new(), BTreeMap::new());
        Self { workspaces, arrived, known, waiting, woken, boot: Hex(codes::random()), number: 0 }
    }

    async fn run(mut self) {
        if self.known.is_empty() {
            return;
        }
        if let Err(error) = self.workspaces.load().await {
            tracing::error!(%error, "folders wake nobody who mounted them before");
        }
        let mut every = tokio::time::interval(LOOK_EVERY);
        loop {
            every.tick().await;
            let now_ms = self.workspaces.time.now_ms();
            self.look(now_ms);
            if let Err(error) = self.tell(now_ms).await {
                tracing::warn!(%error, "changes in folders are told later");
            }
        }
    }

    /// Takes note of what has changed.
    fn look(&mut self, now_ms: u64) {
        let wishes = self.workspaces.wishes().clone();
        for (name, folder) in &self.workspaces.folders {
            let Some(since) = self.known.get_mut(name) else { continue };
            let Some(changed) = folder.changes(*since).filter(|changed| changed.next != *since) else {
                continue;
            };
            *since = changed.next;
            for (agent, wish) in
                wishes.iter().flat_map(|(agent, all)| all.iter().map(move |wish| (agent, wish)))
            {
                if wish.folder != *name {
                    continue;
                }
                let waiting = self.waiting.entry(*agent).or_default();
                let before = (waiting.paths.len(), waiting.is_partial);
                waiting.is_partial |= !changed.is_complete;
                for path in &changed.paths {
                    let Some(seen) = seen(&wish.at, path) else { continue };
                    if waiting.paths.len() < WAITING_MAX {
                        waiting.paths.insert(seen);
                    } else {
                        waiting.is_partial = true;
                    }
                }
                if before == (0, false) {
                    waiting.first_ms = now_ms;
                }
                waiting.last_ms = now_ms;
            }
        }
    }

    /// Tells those for whom it is time.
    async fn tell(&mut self, now_ms: u64) -> Result<(), BackendError> {
        if self.workspaces.tenure.epoch().is_none() {
            return Ok(());
        }
        let woken = |agent: &AgentId| self.woken.get(agent).copied().unwrap_or(0);
        let is_time = |(agent, waiting): &(&AgentId, &Waiting)| {
            let rests = now_ms.saturating_sub(waiting.last_ms) >= QUIET_MS;
            let is_long = now_ms.saturating_sub(waiting.first_ms) >= RESTLESS_MS;
            (rests || is_long) && now_ms.saturating_sub(woken(agent)) >= BETWEEN_MS
        };
        let due: Vec<AgentId> = self.waiting.iter().filter(is_time).map(|(agent, _)| *agent).collect();
        for agent in due {
            let Some(row) = self.workspaces.store.agent(agent)? else { continue };
            if row.lifecycle != Lifecycle::Terminated && !row.lifecycle.ticks() {
                continue;
            }
            let Some(waiting) = self.waiting.remove(&agent) else { continue };
            let foreign = self.foreign(agent, &waiting).await;
            if foreign.is_empty() && !waiting.is_partial {
                continue;
            }
            let envelope = self.envelope(&row, &foreign, waiting.is_partial, now_ms);
            let poke = Write::Poke(Box::new(Poke { agent, envelope }));
            match self.workspaces.store.write(poke).await? {
                Verdict::Queued(_) => {
                    self.woken.insert(agent, now_ms);
                    (self.arrived)(agent);
                }
                Verdict::Refused(reason) if row.lifecycle != Lifecycle::Terminated => {
                    tracing::warn!(agent = row.name, %reason, "changes in a folder wait for room in the inbox");
                    self.woken.insert(agent, now_ms);
                    self.waiting.insert(agent, waiting);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The paths that are not as the agent itself left them.
    async fn foreign(&self, agent: AgentId, waiting: &Waiting) -> Vec<Path> {
        let wishes = self.workspaces.wishes().get(&agent).cloned().unwrap_or_default();
        let mut foreign = Vec::new();
        for path in &waiting.paths {
            let mut is_own = false;
            for wish in &wishes {
                let folder = self.workspaces.folders.get(&wish.folder);
                let inside = path.strip(wish.at.as_str()).and_then(|rest| format!("/{rest}").parse().ok());
                if let Some((folder, inside)) = folder.zip(inside) {
                    is_own |= folder.is_own(agent, &inside).await;
                }
            }
            if !is_own {
                foreign.push(path.clone());
            }
        }
        foreign
    }

    fn envelope(&mut self, row: &AgentRow, paths: &[Path], is_partial: bool, now_ms: u64) -> Envelope {
        self.number += 1;
        let name = format!("workspace:{}:{}:{}", row.id, self.boot, self.number);
        let shown: Vec<&str> = paths.iter().take(PATHS_MAX).map(Path::as_str).collect();
        let data = json!({ "paths": shown, "count": paths.len(), "complete": !is_partial && shown.len() == paths.len() });
        // Whoever changed a file did not write to the agent, and neither commands it nor is answered.
        let heard = Heard { author: row.pubkey, subscriptions: Vec::new(), auto_hop: 0 };
        let envelope = Envelope::from_node(Kind::Workspace, &name, now_ms);
        Envelope { data: Some(data), heard: Some(heard), ..envelope }.by_rule("default-workspace", None)
    }
}

/// A folder's path as the agent sees it.
fn seen(at: &Path, inside: &Path) -> Option<Path> {
    inside.components().try_fold(at.clone(), |path, name| path.join(name).ok())
}

#[cfg(test)]
mod tests;
