//! Between node and wallet: reads what passes, with the node's own key, and says when the node must die.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::{SinkExt as _, StreamExt as _};
use oa_nips::kind;
use oa_nips::nostr::{Event, EventId};
use oa_nips::port::Signer as _;
use oa_node::signer::{Conversations, LocalSigner};
use oa_wallet::nwc::uri::Uri;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::task::AbortOnDropHandle;

use super::{Config, Hit};

/// Times that one payment is hit, so that it comes to an end.
const HITS_MAX: u32 = 3;
/// Kills that wait to be carried out: the first ends the node.
const DEATHS: usize = 16;
/// After an answer went on, a kill falls within this, in microseconds.
const AFTER_US: u64 = 12_000;

/// The tap; dropping it ends it.
#[derive(Debug)]
pub(super) struct Tap {
    url: String,
    shared: Arc<Shared>,
    deaths: tokio::sync::Mutex<mpsc::Receiver<()>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    uri: Uri,
    signer: LocalSigner,
    plan: Mutex<Plan>,
    die: mpsc::Sender<()>,
    buried: Notify,
}

#[derive(Debug)]
struct Plan {
    is_armed: bool,
    random: u64,
    left: u32,
    kills: [u32; 4],
    /// Payments that were hit, by invoice.
    hits: HashMap<String, u32>,
    /// Requests that were seen, by invoice.
    requests: BTreeMap<String, BTreeSet<EventId>>,
    /// Those that the wallet refused as too many: nothing was done, and they stay refused.
    turned_away: BTreeSet<EventId>,
    /// What is to happen with an answer, by its request.
    answers: HashMap<EventId, Hit>,
    /// Whether a kill is under way.
    is_dying: bool,
}

/// xorshift64
pub(super) fn next(mut x: u64) -> u64 {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    x
}

impl Plan {
    fn random(&mut self) -> u64 {
        self.random = next(self.random);
        self.random
    }

    /// Notes a payment's request; whether, and when, this one is hit.
    fn request(&mut self, id: EventId, invoice: &str) -> Option<Hit> {
        self.requests.entry(invoice.to_owned()).or_default().insert(id);
        let random = self.random();
        if !self.is_armed || self.is_dying || self.left == 0 || random.is_multiple_of(3) {
            return None;
        }
        let hits = self.hits.entry(invoice.to_owned()).or_default();
        if *hits >= HITS_MAX {
            return None;
        }
        *hits += 1;
        let at = usize::try_from(random / 3 % 4).unwrap_or_default();
        let hit = Hit::ALL.get(at).copied()?;
        if matches!(hit, Hit::Answer | Hit::Answered) {
            self.answers.insert(id, hit);
        }
        Some(hit)
    }

    /// Takes note of a kill; whether it is to be.
    fn kill(&mut self, hit: Hit) -> bool {
        if self.is_dying || self.left == 0 {
            return false;
        }
        (self.is_dying, self.left) = (true, self.left - 1);
        if let Some(count) = self.kills.get_mut(hit as usize) {
            *count += 1;
        }
        true
    }
}

impl Tap {
    pub(super) async fn start(config: Config, uri: &Uri, upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("ws://{}", listener.local_addr()?);
        let (die, deaths) = mpsc::channel(DEATHS);
        let plan = Plan {
            is_armed: false,
            random: config.seed | 1,
            left: config.kills,
            kills: [0; 4],
            hits: HashMap::new(),
            requests: BTreeMap::new(),
            turned_away: BTreeSet::new(),
            answers: HashMap::new(),
            is_dying: false,
        };
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            uri: uri.clone(),
            signer: LocalSigner::new(uri.keys(), Conversations::default()),
            plan: Mutex::new(plan),
            die,
            buried: Notify::new(),
        });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { url, shared, deaths: tokio::sync::Mutex::new(deaths), _task: AbortOnDropHandle::new(task) })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Kills from now on.
    pub(super) fn arm(&self) {
        self.shared.plan().is_armed = true;
    }

    /// Waits until the node must die.
    pub(super) async fn next_kill(&self) {
        self.deaths.lock().await.recv().await;
    }

    /// The node is dead.
    pub(super) fn buried(&self) {
        self.shared.plan().is_dying = false;
        self.shared.buried.notify_waiters();
    }

    pub(super) fn kills(&self) -> [u32; 4] {
        self.shared.plan().kills
    }

    /// How many different requests to pay an invoice there were, beside those that were turned away.
    pub(super) fn requests(&self, invoice: &str) -> usize {
        let plan = self.shared.plan();
        plan.requests.get(invoice).map_or(0, |requests| requests.difference(&plan.turned_away).count())
    }

    /// How many requests to pay were turned away.
    pub(super) fn turned_away(&self) -> usize {
        let plan = self.shared.plan();
        plan.requests.values().map(|requests| requests.intersection(&plan.turned_away).count()).sum()
    }
}

impl Shared {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the node killed, and waits until it is dead: nothing more passes here.
    async fn die(&self, hit: Hit) {
        let buried = self.buried.notified();
        if self.plan().kill(hit) && self.die.send(()).await.is_ok() {
            buried.await;
        }
    }

    /// The invoice that a request is to pay, if it is one.
    async fn pays(&self, event: &Event) -> Option<String> {
        let text = self.signer.nip44_decrypt(&self.uri.wallet, &event.content).await.ok()?;
        let request: Value = serde_json::from_str(&text).ok()?;
        (request.get("method")?.as_str()? == "pay_invoice")
            .then(|| Some(request.get("params")?.get("invoice")?.as_str()?.to_owned()))?
    }

    /// What is to become of a message of the node's.
    async fn node_says(&self, message: &Message) -> Option<Hit> {
        let event = event(message, 1).filter(|event| event.kind == kind::WALLET_REQUEST)?;
        let invoice = self.pays(&event).await?;
        self.plan().request(event.id, &invoice)
    }

    /// What is to become of a message of the relay's.
    async fn relay_says(&self, message: &Message) -> Option<Hit> {
        let event = event(message, 2).filter(|event| event.kind == kind::WALLET_RESPONSE)?;
        let request = event.tags.event_ids().next()?;
        let text = self.signer.nip44_decrypt(&self.uri.wallet, &event.content).await.ok()?;
        let answer: Value = serde_json::from_str(&text).ok()?;
        let mut plan = self.plan();
        if answer.pointer("/error/code").and_then(Value::as_str) == Some("RATE_LIMITED") {
            plan.turned_away.insert(*request);
        }
        plan.answers.remove(request)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let shared = shared.clone();
        while connections.try_join_next().is_some() {}
        // A node that was killed leaves a broken socket behind, which is what is tested.
        connections.spawn(async move { drop(carry(socket, &shared).await) });
    }
}

async fn carry(socket: TcpStream, shared: &Shared) -> Result<()> {
    socket.set_nodelay(true)?;
    let (upstream, _) = tokio_tungstenite::connect_async_with_config(&shared.upstream, None, true).await?;
    let (mut to_relay, mut from_relay) = upstream.split();
    let (mut to_node, mut from_node) = tokio_tungstenite::accept_async(socket).await?.split();
    loop {
        tokio::select! {
            biased;
            message = from_node.next() => {
                let message = message.context("the node has left")??;
                match shared.node_says(&message).await {
                    Some(Hit::Request) => shared.die(Hit::Request).await,
                    Some(Hit::Requested) => {
                        to_relay.send(message).await?;
                        shared.die(Hit::Requested).await;
                    }
                    _ => to_relay.send(message).await?,
                }
            }
            message = from_relay.next() => {
                let message = message.context("the relay has left")??;
                match shared.relay_says(&message).await {
                    Some(Hit::Answer) => shared.die(Hit::Answer).await,
                    Some(hit) => {
                        to_node.send(message).await?;
                        let after = Duration::from_micros(shared.plan().random() % AFTER_US);
                        tokio::time::sleep(after).await;
                        shared.die(hit).await;
                    }
                    None => to_node.send(message).await?,
                }
            }
        }
    }
}

/// The event of a message, at this place in it.
fn event(message: &Message, place: usize) -> Option<Event> {
    let Message::Text(text) = message else { return None };
    let mut parts: Vec<Value> = serde_json::from_str(text).ok()?;
    if parts.first()?.as_str()? != "EVENT" || place >= parts.len() {
        return None;
    }
    serde_json::from_value(parts.swap_remove(place)).ok()
}
