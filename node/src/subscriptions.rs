//! Agents' subscriptions: filters in `/nostr/subscriptions/<id>.json`, whose events wake the agent.
//!
//! [`Subscriptions`] is told when an agent's files have changed, and keeps a standing subscription for each at the
//! relay pool. What the pool hears that is neither mail nor a request comes to [`Subscriptions::hear`]; the task
//! finds whom it wakes ([`index`]), verifies it, and puts it into inboxes. An event wakes an agent once, however often
//! and by however many relays it is told: its id is the envelope's. Relays are asked for what is newer than the
//! subscription, and after a start for what is newer than the last minute in which all of them were heard.

pub(crate) mod index;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oa_nips::filter;
use oa_nips::hex::Hex;
use oa_nips::nostr::{Event, EventId, Filter, JsonUtil, PublicKey, Timestamp};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::envelope::Envelope;
use crate::agent::mailbox::{FUTURE_S_MAX, Refusal};
use crate::agent::{AgentId, Lifecycle};
use crate::drivers::nostr::Pool;
use crate::engine::Engine;
use crate::plumber::{Item, Place, Plumber, Route};
use crate::store::backend::BackendError;
use crate::store::write::{Poke, Verdict, Write};
use crate::store::{Pending, Store};
use crate::time::Time;

use self::index::{AGENT_MAX, Action, Index, Wish};

/// Where the files are in an agent's state.
pub(crate) const FOLDER: &str = "/nostr/subscriptions/";

/// Events that wait to be looked at, each of which some filter matches. One too many is let go and counted: the rates
/// are far below what can be looked at.
const WAITING: usize = 1024;
/// Envelopes on their way to disk at once.
const PENDING: usize = 64;
/// Largest event that wakes an agent, in bytes of JSON.
const EVENT_BYTES_MAX: usize = 64 * 1024;
/// Stored events that a relay is asked for when it is connected.
const STORED_MAX: usize = 500;
/// Clocks differ: what is dated so much before the subscription is heard too, in seconds.
const SLACK_S: u64 = 60;
/// Older events wake nobody, in seconds: that they did is remembered for a day longer.
const BEHIND_S_MAX: u64 = 6 * 24 * 3600;
/// After a start relays are asked for so much before they were last heard, in seconds.
const OVERLAP_S: u64 = 15 * 60;
/// How often it is noted that all relays are heard.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// Deliveries remembered, so that what several relays tell is verified once.
const RECENT: usize = 4096;
/// The fact in the store: until when all relays were heard, in seconds since 1970.
const HEARD: &str = "subscriptions_heard";

/// Where subscriptions stand.
pub(crate) trait Stands: Debug + Send + Sync {
    /// Keeps a subscription of that name, in place of an earlier one.
    fn stand(&self, name: &str, filter: Filter);

    /// Ends it.
    fn unstand(&self, name: &str);

    /// Whether every relay serves all that is wanted, or has refused it.
    fn are_heard(&self) -> bool;
}

impl Stands for Pool {
    fn stand(&self, name: &str, filter: Filter) {
        Self::stand(self, name, filter);
    }

    fn unstand(&self, name: &str) {
        Self::unstand(self, name);
    }

    fn are_heard(&self) -> bool {
        self.status().iter().all(|relay| relay.connected && relay.subscribed)
    }
}

/// What an agent's files ask for, by id; and its key.
type Wishes = (PublicKey, BTreeMap<String, Wish>);

/// What all agents of a node subscribe to.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    store: Store,
    stands: Arc<dyn Stands>,
    time: Arc<dyn Time>,
    index: Mutex<Index>,
    queue: mpsc::Sender<Event>,
    /// Events that matched and found the queue full.
    lost: AtomicU64,
}

impl Subscriptions {
    /// Nobody's subscriptions yet, and the events that [`start`] looks at.
    pub(crate) fn new(
        store: Store,
        stands: Arc<dyn Stands>,
        time: Arc<dyn Time>,
    ) -> (Arc<Self>, mpsc::Receiver<Event>) {
        let (queue, events) = mpsc::channel(WAITING);
        let (index, lost) = (Mutex::default(), AtomicU64::new(0));
        (Arc::new(Self { store, stands, time, index, queue, lost }), events)
    }

    /// Reads an agent's files anew: they have changed, or the agent is gone.
    pub(crate) fn refresh(&self, agent: AgentId) {
        self.refresh_since(agent, 0);
    }

    /// As [`Subscriptions::refresh`]; what is new is asked for from `since_s` on at the earliest.
    fn refresh_since(&self, agent: AgentId, since_s: u64) {
        // Held over reading and setting: of two at once the later has read the later files.
        let mut index = self.index();
        let actions = match self.wishes(agent, since_s) {
            Ok(Some((key, wishes))) => index.set(agent, key, wishes),
            Ok(None) => return,
            Err(error) => return tracing::error!(%agent, %error, "subscriptions cannot be read"),
        };
        for action in actions {
            match action {
                Action::Stand(name, filter) => self.stands.stand(&name, filter),
                Action::Unstand(name) => self.stands.unstand(&name),
            }
        }
    }

    fn wishes(&self, agent: AgentId, since_s: u64) -> Result<Option<Wishes>, BackendError> {
        let Some(row) = self.store.agent(agent)? else { return Ok(None) };
        let mut wishes = BTreeMap::new();
        if row.lifecycle == Lifecycle::Terminated {
            return Ok(Some((row.pubkey, wishes)));
        }
        for path in self.store.file_paths(agent, FOLDER)?.into_iter().take(AGENT_MAX) {
            let id = path.strip_prefix(FOLDER).and_then(|name| name.strip_suffix(".json"));
            let (Some(id), Some(content)) = (id, self.store.file(agent, &path)?) else { continue };
            match filter::parse(&content) {
                Ok(source) => drop(wishes.insert(id.to_owned(), self.wish(source, since_s))),
                // It was checked when it was written, by other rules perhaps.
                Err(error) => tracing::warn!(%agent, path, %error, "not listened to"),
            }
        }
        Ok(Some((row.pubkey, wishes)))
    }

    fn wish(&self, source: Filter, since_s: u64) -> Wish {
        let oldest_s = (self.time.now_ms() / 1000).saturating_sub(BEHIND_S_MAX);
        let since = source.since.map_or(0, |since| since.as_secs()).max(since_s).max(oldest_s);
        let limit = source.limit.unwrap_or(STORED_MAX).min(STORED_MAX);
        let asked = source.clone().since(Timestamp::from_secs(since.saturating_sub(SLACK_S))).limit(limit);
        Wish { source, asked }
    }

    /// Takes an event that a relay told, verified or not, if it is anybody's.
    pub(crate) fn hear(&self, event: Event) {
        if self.index().matches(&event).is_empty() {
            return;
        }
        if self.queue.try_send(event).is_err() {
            let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
            if lost.is_power_of_two() {
                tracing::warn!(lost, "too many events at once for subscriptions");
            }
        }
    }

    /// How an agent's subscriptions do.
    pub(crate) fn status(&self, agent: AgentId) -> Value {
        self.index().status(agent)
    }

    /// How the node's do: listened to, and events that were too many.
    pub(crate) fn totals(&self) -> (usize, u64) {
        (self.index().listened(), self.lost.load(Ordering::Relaxed))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // No change of the index can panic half way.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_timely(&self, event: &Event) -> bool {
        let (at_s, now_s) = (event.created_at.as_secs(), self.time.now_ms() / 1000);
        at_s.saturating_add(BEHIND_S_MAX) >= now_s && at_s <= now_s.saturating_add(FUTURE_S_MAX)
    }
}

/// Starts listening for agents that subscribed before, and waking those whose events come; ends when `cancel` does.
pub(crate) fn start(
    subscriptions: Arc<Subscriptions>,
    plumber: Arc<Plumber>,
    engine: Engine,
    events: mpsc::Receiver<Event>,
    cancel: CancellationToken,
) -> JoinHandle<()> {
    let waker = Waker::new(subscriptions, plumber, move |agent| engine.arrived_soon(agent));
    tokio::spawn(async move {
        if let Err(error) = waker.run(events, cancel).await {
            tracing::error!(%error, "subscriptions can no longer wake anybody");
        }
    })
}

/// An event on its way into an inbox.
#[derive(Debug)]
struct Delivery {
    agent: AgentId,
    /// In whose inbox: the plumber may hand it on.
    to: AgentId,
    ids: Vec<String>,
    event: EventId,
    verdicts: Pending,
}

struct Waker {
    subscriptions: Arc<Subscriptions>,
    plumber: Arc<Plumber>,
    /// Told of what is in an inbox.
    arrived: Box<dyn Fn(AgentId) + Send + Sync>,
    recent: Recent,
    pending: VecDeque<Delivery>,
}

impl Waker {
    fn new(
        subscriptions: Arc<Subscriptions>,
        plumber: Arc<Plumber>,
        arrived: impl Fn(AgentId) + Send + Sync + 'static,
    ) -> Self {
        let (recent, pending) = (Recent::default(), VecDeque::new());
        Self { subscriptions, plumber, arrived: Box::new(arrived), recent, pending }
    }

    async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        cancel: CancellationToken,
    ) -> Result<(), BackendError> {
        self.load(&cancel).await?;
        let mut note = tokio::time::interval(NOTE_EVERY);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                verdicts = next(&mut self.pending) => self.settled(verdicts?),
                event = events.recv(), if self.pending.len() < PENDING => {
                    let Some(event) = event else { break };
                    self.take(event).await;
                }
                _ = note.tick() => self.note(events.is_empty()).await?,
            }
        }
        while !self.pending.is_empty() {
            let verdicts = next(&mut self.pending).await?;
            self.settled(verdicts);
        }
        Ok(())
    }

    /// Listens for those who subscribed before the node was started.
    async fn load(&self, cancel: &CancellationToken) -> Result<(), BackendError> {
        let subscriptions = &self.subscriptions;
        let heard =
            subscriptions.store.meta(HEARD)?.and_then(|bytes| serde_json::from_slice::<u64>(&bytes).ok());
        let since_s = heard.map_or(0, |heard_s| heard_s.saturating_sub(OVERLAP_S));
        // One look for each agent that has files, of which there may be many.
        let store = subscriptions.store.clone();
        let looking = tokio::task::spawn_blocking(move || store.agents_with_files(FOLDER)).await;
        for agent in looking.map_err(|error| BackendError::Stopped(error.to_string()))?? {
            if cancel.is_cancelled() {
                break;
            }
            subscriptions.refresh_since(agent, since_s);
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Notes that all that was told until now has been dealt with.
    async fn note(&self, is_idle: bool) -> Result<(), BackendError> {
        let Subscriptions { store, stands, time, .. } = &*self.subscriptions;
        if !is_idle
            || !self.pending.is_empty()
            || self.subscriptions.index().is_empty()
            || !stands.are_heard()
        {
            return Ok(());
        }
        let now_s = serde_json::to_vec(&(time.now_ms() / 1000)).unwrap_or_default();
        store.write(Write::Meta(HEARD, now_s)).await.map(drop)
    }

    async fn take(&mut self, event: Event) {
        if !self.subscriptions.is_timely(&event) {
            return;
        }
        let mut woken = self.subscriptions.index().matches(&event);
        let id = Hex(event.id.to_bytes());
        woken.retain(|agent, _| {
            let is_seen = self.subscriptions.store.is_seen(*agent, &id).unwrap_or(false);
            !is_seen && !self.recent.contains(*agent, event.id)
        });
        if woken.is_empty() {
            return;
        }
        if let Err(error) = event.verify() {
            return tracing::warn!(id = %event.id, %error, "forged event dropped");
        }
        let is_large = event.as_json().len() > EVENT_BYTES_MAX;
        let now_ms = self.subscriptions.time.now_ms();
        for (agent, ids) in woken {
            self.recent.insert(agent, event.id);
            if is_large {
                self.subscriptions.index().hold_back(agent, &ids);
                continue;
            }
            if !self.subscriptions.index().draw(agent, &ids, now_ms) {
                continue;
            }
            let (to, envelope) = match self.plumbed(agent, &event, &ids, now_ms) {
                Ok(Some(placed)) => placed,
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!(%agent, %error, "event left");
                    continue;
                }
            };
            let poke = Write::Poke(Box::new(Poke { agent: to, envelope }));
            let verdicts = self.subscriptions.store.submit(vec![poke]).await;
            self.pending.push_back(Delivery { agent, to, ids, event: event.id, verdicts });
        }
    }

    /// Whose inbox an event goes to that woke `agent`; nothing where a rule drops it.
    fn plumbed(
        &self,
        agent: AgentId,
        event: &Event,
        ids: &[String],
        now_ms: u64,
    ) -> Result<Option<(AgentId, Envelope)>, BackendError> {
        let Some(row) = self.subscriptions.store.agent(agent)? else { return Ok(None) };
        let item = Item::of_event(event, &row.pubkey, self.plumber.is_agents(&event.pubkey));
        let Route { rule, place } = self.plumber.place(&item, &row)?;
        let envelope = Envelope::from_event(event, ids.to_vec(), now_ms);
        Ok(match place {
            Place::Inbox => Some((agent, envelope.by_rule(rule, None))),
            Place::Agent((to, _)) => Some((to.id, envelope.by_rule(rule, Some((agent, row.pubkey))))),
            Place::Nowhere => {
                tracing::info!(agent = row.name, id = %event.id, rule, "event dropped by a rule");
                None
            }
        })
    }

    fn settled(&mut self, (Delivery { agent, to, ids, event, .. }, verdict): (Delivery, Option<Verdict>)) {
        match verdict {
            Some(Verdict::Queued(_)) => {
                self.subscriptions.index().wake(agent, &ids);
                (self.arrived)(to);
            }
            Some(Verdict::Refused(Refusal::Terminated) | Verdict::NoAgent) => {
                self.subscriptions.refresh(agent)
            }
            Some(Verdict::Refused(reason)) => {
                tracing::debug!(%agent, %reason, "event held back");
                self.subscriptions.index().hold_back(agent, &ids);
                // There may be room when it is told again.
                self.recent.remove(agent, event);
            }
            _ => {}
        }
    }
}

async fn next(pending: &mut VecDeque<Delivery>) -> Result<(Delivery, Option<Verdict>), BackendError> {
    let Some(front) = pending.front_mut() else { return std::future::pending().await };
    let verdicts = front.verdicts.wait().await;
    let delivery = pending.pop_front();
    let verdict = verdicts?.into_iter().next();
    delivery
        .map(|delivery| (delivery, verdict))
        .ok_or_else(|| BackendError::Stopped("no delivery".to_owned()))
}

/// The last deliveries.
#[derive(Debug, Default)]
struct Recent {
    known: HashSet<(AgentId, EventId)>,
    order: VecDeque<(AgentId, EventId)>,
}

impl Recent {
    fn contains(&self, agent: AgentId, event: EventId) -> bool {
        self.known.contains(&(agent, event))
    }

    fn insert(&mut self, agent: AgentId, event: EventId) {
        if !self.known.insert((agent, event)) {
            return;
        }
        self.order.push_back((agent, event));
        if self.order.len() > RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn remove(&mut self, agent: AgentId, event: EventId) {
        self.known.remove(&(agent, event));
    }
}

#[cfg(test)]
mod tests;
