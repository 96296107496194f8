//! Agents' websockets: files in `/ws/connections/<id>.json`, each of which the node keeps connected.
//!
//! A connection does not fit a tick, so it is the node's: [`Sockets`] is told when an agent's files or manifest have
//! changed, and keeps one `link` for each file, dialled again when it breaks. What comes over it is put into the
//! agent's inbox, paced and bounded by `buffer`; a message that the node had heard and not written down when it died
//! is lost, as it would be with any client.

pub(crate) mod buffer;
mod link;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oa_nips::hex::Hex;
use oa_nips::nostr::types::url::Url;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::buffer::Message;
use self::link::{Link, Order};
use crate::agent::envelope::{Envelope, Heard, Kind};
use crate::agent::manifest::{Manifest, Ws};
use crate::agent::site;
use crate::agent::{AgentId, Lifecycle};
use crate::codes;
use crate::drivers::http::Client;
use crate::secrets::Vault;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::row::AgentRow;
use crate::store::write::{Poke, Verdict, Write};
use crate::tenure::Tenure;
use crate::time::Time;

/// Where the files are in an agent's state.
pub(crate) const FOLDER: &str = "/ws/connections/";
/// Connections of one agent, and of a node: each may hold half a megabyte.
pub(crate) const AGENT_MAX: usize = 8;
const NODE_MAX: usize = 256;
/// Largest message, in bytes, either way.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Headers of one handshake, and their bytes.
const HEADERS_MAX: usize = 20;
const HEADER_BYTES_MAX: usize = 8 * 1024;
/// Messages on their way into inboxes; when it is full the connections wait, and refuse their oldest.
const ARRIVALS: usize = 256;
/// Messages that wait to be sent over one connection.
const ORDERS: usize = 16;

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    pub(crate) url: String,
    /// Sent with the handshake; `{secret:name}` stands for a secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) headers: BTreeMap<String, String>,
}

/// Why a connection cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WantedError {
    #[error("the url is neither ws nor wss")]
    Scheme,
    #[error(transparent)]
    Url(#[from] site::TargetError),
    #[error("{0} is not on the allowlist of the manifest's [ws]")]
    NotAllowed(String),
    #[error("headers: at most {HEADERS_MAX}, with {HEADER_BYTES_MAX} bytes")]
    Headers,
    #[error("headers: {0:?} is the websocket's own, or no header")]
    Header(String),
}

impl Wanted {
    /// Reads and checks what a file says, under what a manifest allows.
    ///
    /// # Errors
    /// See [`WantedError`].
    pub(crate) fn check(&self, rules: &Ws) -> Result<Url, WantedError> {
        let url = self.target()?;
        if !rules.allow.iter().any(|site| site.covers(&url)) {
            return Err(WantedError::NotAllowed(url.host_str().unwrap_or_default().to_owned()));
        }
        let bytes: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if self.headers.len() > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
            return Err(WantedError::Headers);
        }
        match self.headers.keys().find(|name| !may_be_set(name)) {
            Some(name) => Err(WantedError::Header(name.clone())),
            None => Ok(url),
        }
    }

    /// The URL as it is compared and dialled: with https for wss.
    fn target(&self) -> Result<Url, WantedError> {
        let http = match self.url.split_once("://") {
            Some((scheme, place)) if scheme.eq_ignore_ascii_case("wss") => format!("https://{place}"),
            Some((scheme, place)) if scheme.eq_ignore_ascii_case("ws") => format!("http://{place}"),
            _ => return Err(WantedError::Scheme),
        };
        Ok(site::target(&http)?)
    }
}

/// Whether a header is an agent's to set.
fn may_be_set(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let is_name =
        !lower.is_empty() && lower.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
    let own =
        ["host", "connection", "upgrade", "content-length", "transfer-encoding", "te", "trailer", "expect"];
    let is_own = own.contains(&lower.as_str()) || lower.starts_with("sec-") || lower.starts_with("proxy-");
    is_name && (!is_own || lower == "sec-websocket-protocol")
}

/// How far a connection is, named by what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Waits for the host.
    Dialling,
    /// Waits for messages.
    Connected,
    /// Waits to be dialled again.
    Waiting,
    /// Waits for a manifest that allows it, or for room.
    Refused,
}

/// How a connection does.
#[derive(Debug)]
pub(crate) struct Status {
    shown: Mutex<Shown>,
    time: Arc<dyn Time>,
}

#[derive(Debug, Clone, Serialize)]
struct Shown {
    url: String,
    state: Stage,
    /// Since when, in seconds since 1970.
    since: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    received: u64,
    sent: u64,
    refused: u64,
}

impl Status {
    fn new(url: String, state: Stage, error: Option<String>, time: Arc<dyn Time>) -> Self {
        let since = time.now_ms() / 1000;
        Self { shown: Mutex::new(Shown { url, state, since, error, received: 0, sent: 0, refused: 0 }), time }
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stage(&self, state: Stage, error: Option<String>) {
        let mut shown = self.shown();
        shown.state = state;
        shown.since = self.time.now_ms() / 1000;
        // What went wrong last is of interest while it is dialled again.
        if error.is_some() || state == Stage::Connected {
            shown.error = error;
        }
    }

    fn sent(&self) {
        self.shown().sent += 1;
    }

    fn received(&self) {
        self.shown().received += 1;
    }

    /// Counts messages that were refused, and says so.
    fn refused(&self, agent: &str, id: &str, count: u64) {
        let mut shown = self.shown();
        let before = shown.refused;
        shown.refused += count;
        // Each time it has doubled: a flood must not become one of the log.
        if count > 0 && before.checked_ilog2() != shown.refused.checked_ilog2() {
            tracing::warn!(agent, id, refused = shown.refused, "messages of a websocket are refused");
        }
    }
}

/// Why a message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendError {
    #[error("there is no such connection")]
    NotThere,
    #[error("it is not connected now")]
    NotConnected,
    #[error("more messages than the manifest's [ws] allows a minute")]
    TooOften,
    #[error("too many messages wait to be sent")]
    Busy,
    #[error("the connection broke while it was sent: it may have arrived")]
    Unknown,
}

/// A message on its way into an inbox.
#[derive(Debug)]
pub(crate) struct Arrival {
    agent: AgentId,
    id: String,
    message: Message,
    /// Refused before it.
    missed: u64,
    status: Arc<Status>,
}

/// A connection that is kept.
#[derive(Debug)]
struct Kept {
    wanted: Wanted,
    per_minute: u32,
    is_allowed: bool,
    status: Arc<Status>,
    orders: mpsc::Sender<Order>,
    _task: Option<AbortOnDropHandle<()>>,
}

/// All websockets of a node's agents.
#[derive(Debug)]
pub(crate) struct Sockets {
    store: Store,
    client: Arc<Client>,
    vault: Arc<Vault>,
    tenure: Tenure,
    time: Arc<dyn Time>,
    arrivals: mpsc::Sender<Arrival>,
    kept: Mutex<BTreeMap<(AgentId, String), Kept>>,
}

/// What [`start`] puts into inboxes.
pub(crate) type Arrivals = mpsc::Receiver<Arrival>;

impl Sockets {
    /// No connections yet.
    pub(crate) fn new(
        store: Store,
        client: Arc<Client>,
        vault: Vault,
        tenure: Tenure,
        time: Arc<dyn Time>,
    ) -> (Arc<Self>, Arrivals) {
        let (arrivals, arriving) = mpsc::channel(ARRIVALS);
        let (vault, kept) = (Arc::new(vault), Mutex::default());
        (Arc::new(Self { store, client, vault, tenure, time, arrivals, kept }), arriving)
    }

    /// Reads anew what an agent wants: its files, manifest or lifecycle have changed. In a runtime.
    pub(crate) fn refresh(&self, agent: AgentId) {
        // Held over reading and setting: of two at once the later has read the later files.
        let mut kept = self.kept();
        let wanted = match self.wanted(agent) {
            Ok(wanted) => wanted,
            Err(error) => return tracing::error!(%agent, %error, "websockets cannot be read"),
        };
        let Some((row, manifest, mut wanted)) = wanted else {
            kept.retain(|(whose, _), _| *whose != agent);
            return;
        };
        let rules = &manifest.ws;
        kept.retain(|(whose, id), old| {
            let stays = |new: &Wanted| {
                *new == old.wanted
                    && rules.per_minute == old.per_minute
                    && new.check(rules).is_ok() == old.is_allowed
            };
            *whose != agent || (wanted.get(id).is_some_and(stays) && wanted.remove(id).is_some())
        });
        for (id, wanted) in wanted {
            let url = if kept.len() < NODE_MAX {
                wanted.check(rules).map_err(|error| error.to_string())
            } else {
                Err(format!("the node has {NODE_MAX} websockets already"))
            };
            let new = self.keep(&row, rules.per_minute, &id, wanted, url);
            kept.insert((agent, id), new);
        }
    }

    fn keep(
        &self,
        row: &AgentRow,
        per_minute: u32,
        id: &str,
        wanted: Wanted,
        url: Result<Url, String>,
    ) -> Kept {
        let (orders, receiver) = mpsc::channel(ORDERS);
        let is_allowed = url.is_ok();
        let (stage, error) =
            url.as_ref().map_or_else(|e| (Stage::Refused, Some(e.clone())), |_| (Stage::Dialling, None));
        let status = Arc::new(Status::new(wanted.url.clone(), stage, error, self.time.clone()));
        let task = url.ok().map(|url| {
            let link = Link {
                agent: row.id,
                name: row.name.clone(),
                id: id.to_owned(),
                wanted: wanted.clone(),
                url,
                per_minute,
                client: self.client.clone(),
                vault: self.vault.clone(),
                status: status.clone(),
                orders: receiver,
                arrivals: self.arrivals.clone(),
                tenure: self.tenure.clone(),
                time: self.time.clone(),
            };
            AbortOnDropHandle::new(tokio::spawn(link.run()))
        });
        Kept { wanted, per_minute, is_allowed, status, orders, _task: task }
    }

    /// An agent, what it may and what it wants; nothing when it wants nothing now.
    #[expect(clippy::type_complexity, reason = "three things of one agent, taken apart at once")]
    fn wanted(
        &self,
        agent: AgentId,
    ) -> Result<Option<(AgentRow, Manifest, BTreeMap<String, Wanted>)>, BackendError> {
        let Some(row) = self.store.agent(agent)?.filter(|row| connects(row.lifecycle)) else {
            return Ok(None);
        };
        let mut wanted = BTreeMap::new();
        for path in self.store.file_paths(agent, FOLDER)?.into_iter().take(AGENT_MAX) {
            let id = path.strip_prefix(FOLDER).and_then(|name| name.strip_suffix(".json"));
            let (Some(id), Some(content)) = (id, self.store.file(agent, &path)?) else { continue };
            match serde_json::from_slice(&content) {
                Ok(one) => drop(wanted.insert(id.to_owned(), one)),
                Err(error) => tracing::warn!(%agent, path, %error, "no websocket"),
            }
        }
        if wanted.is_empty() {
            return Ok(None);
        }
        Ok(self.store.manifest(agent)?.map(|manifest| (row, manifest, wanted)))
    }

    /// Sends a message; answers when the kernel has it.
    ///
    /// # Errors
    /// See [`SendError`]: only [`SendError::Unknown`] may have sent it.
    pub(crate) async fn send(&self, agent: AgentId, id: &str, message: Message) -> Result<(), SendError> {
        let orders = {
            let kept = self.kept();
            let one = kept.get(&(agent, id.to_owned())).ok_or(SendError::NotThere)?;
            if one.status.shown().state != Stage::Connected {
                return Err(SendError::NotConnected);
            }
            one.orders.clone()
        };
        let (told, hears) = oneshot::channel();
        orders.try_send((message, told)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Busy,
            mpsc::error::TrySendError::Closed(_) => SendError::NotConnected,
        })?;
        // A link that ends with the order in hand may have sent it.
        hears.await.unwrap_or(Err(SendError::Unknown))
    }

    /// How an agent's connections do, by id.
    pub(crate) fn status(&self, agent: AgentId) -> Value {
        let kept = self.kept();
        let own = kept.iter().filter(|((whose, _), _)| *whose == agent);
        let shown = |((_, id), one): (&(AgentId, String), &Kept)| {
            (id.clone(), serde_json::to_value(one.status.shown().clone()).unwrap_or_default())
        };
        Value::Object(own.map(shown).collect::<Map<_, _>>())
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<(AgentId, String), Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an agent in this state has connections: one that is stopped hears nothing.
fn connects(lifecycle: Lifecycle) -> bool {
    lifecycle.ticks()
}

/// Starts keeping the connections that agents had, and waking agents with what comes; ends when `cancel` does.
pub(crate) fn start(
    sockets: Arc<Sockets>,
    mut arriving: Arrivals,
    arrived: impl Fn(AgentId) + Send + Sync + 'static,
    cancel: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let store = sockets.store.clone();
        // One look for each agent that has files, of which there may be many.
        match tokio::task::spawn_blocking(move || store.agents_with_files(FOLDER)).await {
            Ok(Ok(agents)) => agents.into_iter().for_each(|agent| sockets.refresh(agent)),
            Ok(Err(error)) => tracing::error!(%error, "websockets are not opened"),
            Err(error) => tracing::error!(%error, "websockets are not opened"),
        }
        let (boot, mut number) = (Hex(codes::random()), 0_u64);
        while let Some(Some(arrival)) = cancel.run_until_cancelled(arriving.recv()).await {
            number += 1;
            let name = format!("ws:{boot}:{number}");
            if let Err(error) = deliver(&sockets, arrival, &name, &arrived).await {
                tracing::error!(%error, "websockets can no longer wake anybody");
                break;
            }
        }
        sockets.kept().clear();
    })
}

async fn deliver(
    sockets: &Sockets,
    arrival: Arrival,
    name: &str,
    arrived: &(dyn Fn(AgentId) + Send + Sync),
) -> Result<(), BackendError> {
    let Arrival { agent, id, message, missed, status } = arrival;
    let Some(row) = sockets.store.agent(agent)? else { return Ok(()) };
    let mut data = json!({ "connection": id, "missed": missed });
    let (key, content) = match message {
        Message::Text(text) => ("text", text),
        Message::Binary(bytes) => ("base64", STANDARD.encode(bytes)),
    };
    if let Some(data) = data.as_object_mut() {
        data.insert(key.to_owned(), content.into());
    }
    // Whoever is at the other end neither commands the agent nor is answered by it.
    let heard = Heard { author: row.pubkey, subscriptions: Vec::new(), auto_hop: 0 };
    let envelope = Envelope::from_node(Kind::Ws, name, sockets.time.now_ms());
    let envelope = Envelope { data: Some(data), heard: Some(heard), ..envelope }.by_rule("default-ws", None);
    match sockets.store.write(Write::Poke(Box::new(Poke { agent, envelope }))).await? {
        Verdict::Queued(_) => {
            status.received();
            arrived(agent);
        }
        _ => status.refused(&row.name, &id, 1),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
