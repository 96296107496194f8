//! A relay that behaves as a script says: caps, refusals, lost events, authentication of each key, garbage.
//!
//! It is small and slow on purpose, and remembers what it was asked, so that tests can count.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use oa_nips::nostr::filter::MatchEventOptions;
use oa_nips::nostr::{Event, Filter, JsonUtil, Kind, PublicKey, RelayUrl};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

/// How the relay behaves.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// Whether a REQ or NEG-OPEN needs each of its `#p` keys, and any other the node's key, authenticated.
    pub(crate) auth: bool,
    /// Keys whose authentication is refused.
    pub(crate) auth_refused: HashSet<PublicKey>,
    /// What NEG-OPEN is answered with.
    pub(crate) negentropy: Sync,
    /// Events given to one REQ at most.
    pub(crate) cap: usize,
    /// Every n-th live event is lost.
    pub(crate) lose_every: Option<usize>,
    /// OKs are kept back until so many events have come.
    pub(crate) ok_after: usize,
    /// What an event is answered with instead of `OK true`.
    pub(crate) ok_false: Option<String>,
    /// Sent as they are to each new connection.
    pub(crate) greeting: Vec<String>,
    /// A filter without recipients for mail is refused.
    pub(crate) no_wide: bool,
    /// How long each REQ's answer is put off.
    pub(crate) slow: Duration,
}

/// NIP-77 as it is met in the wild.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    Known,
    Error,
    Notice,
    Silence,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            auth: false,
            auth_refused: HashSet::new(),
            negentropy: Sync::Known,
            cap: 500,
            lose_every: None,
            ok_after: 0,
            ok_false: None,
            greeting: Vec::new(),
            no_wide: false,
            slow: Duration::ZERO,
        }
    }
}

/// The relay. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    tasks: Option<JoinSet<()>>,
}

#[derive(Debug)]
struct State {
    script: Mutex<Script>,
    stored: Mutex<Vec<Event>>,
    live: Mutex<Vec<mpsc::UnboundedSender<Event>>>,
    /// Every frame that came, by its label.
    asked: Mutex<Vec<(String, Value)>>,
    connections: Mutex<usize>,
    written: Mutex<usize>,
    pings: Mutex<usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Relay {
    pub(crate) async fn start(script: Script) -> Self {
        let state = Arc::new(State {
            script: Mutex::new(script),
            stored: Mutex::default(),
            live: Mutex::default(),
            asked: Mutex::default(),
            connections: Mutex::default(),
            written: Mutex::default(),
            pings: Mutex::default(),
        });
        let mut relay = Self { address: "127.0.0.1:0".parse().unwrap(), state, tasks: None };
        relay.listen().await;
        relay
    }

    /// Listens, again on the same port after [`Self::stop`].
    pub(crate) async fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let (state, mut tasks) = (self.state.clone(), JoinSet::new());
        tasks.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let state = state.clone();
                sessions.spawn(async move {
                    if let Ok(ws) = tokio_tungstenite::accept_async(stream).await {
                        *lock(&state.connections) += 1;
                        Session::new(state).run(ws).await;
                    }
                });
            }
        });
        self.tasks = Some(tasks);
    }

    /// Cuts all connections and gives up the port; what is stored stays.
    pub(crate) async fn stop(&mut self) {
        if let Some(mut tasks) = self.tasks.take() {
            tasks.shutdown().await;
        }
    }

    pub(crate) fn url(&self) -> RelayUrl {
        RelayUrl::parse(&format!("ws://{}", self.address)).unwrap()
    }

    /// Stores an event without telling anybody.
    pub(crate) fn store(&self, events: impl IntoIterator<Item = Event>) {
        lock(&self.state.stored).extend(events);
    }

    /// Takes an event as if somebody had published it.
    pub(crate) fn publish(&self, event: &Event) {
        self.state.take(event);
    }

    pub(crate) fn stored(&self) -> Vec<Event> {
        lock(&self.state.stored).clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut lock(&self.state.script));
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> usize {
        *lock(&self.state.connections)
    }

    /// How many frames have been written.
    pub(crate) fn written(&self) -> usize {
        *lock(&self.state.written)
    }

    /// How many pings have come.
    pub(crate) fn pings(&self) -> usize {
        *lock(&self.state.pings)
    }

    /// How many connections there are.
    pub(crate) fn open(&self) -> usize {
        lock(&self.state.live).iter().filter(|session| !session.is_closed()).count()
    }

    /// The frames with this label that came so far.
    pub(crate) fn asked(&self, label: &str) -> Vec<Value> {
        lock(&self.state.asked).iter().filter(|(l, _)| l == label).map(|(_, frame)| frame.clone()).collect()
    }
}

impl State {
    fn take(&self, event: &Event) {
        if !event.kind.is_ephemeral() {
            lock(&self.stored).push(event.clone());
        }
        lock(&self.live).retain(|session| session.send(event.clone()).is_ok());
    }

    fn matching(&self, filter: &Filter) -> Vec<Event> {
        let mut found: Vec<_> = lock(&self.stored)
            .iter()
            .filter(|event| filter.match_event(event, MatchEventOptions::new()))
            .cloned()
            .collect();
        found.sort_by_key(|event| (std::cmp::Reverse(event.created_at), event.id));
        found
    }
}

type Neg = Negentropy<'static, NegentropyStorageVector>;

struct Session {
    state: Arc<State>,
    subs: HashMap<String, Filter>,
    negotiations: HashMap<String, Neg>,
    authed: HashSet<PublicKey>,
    held_back: Vec<Value>,
    lived: usize,
}

impl Session {
    fn new(state: Arc<State>) -> Self {
        Self {
            state,
            subs: HashMap::new(),
            negotiations: HashMap::new(),
            authed: HashSet::new(),
            held_back: Vec::new(),
            lived: 0,
        }
    }

    fn script(&self) -> Script {
        lock(&self.state.script).clone()
    }

    async fn run(mut self, ws: tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>) {
        let (live, mut events) = mpsc::unbounded_channel();
        lock(&self.state.live).push(live);
        let (mut sink, mut stream) = ws.split();
        let mut greeting = self.script().greeting;
        if self.script().auth {
            greeting.push(json!(["AUTH", "challenge"]).to_string());
        }
        for text in greeting {
            let _ = sink.send(Message::text(text)).await;
        }
        loop {
            // Serial, as real relays are: while an answer is being written nothing is read.
            let answers = tokio::select! {
                biased;
                Some(event) = events.recv() => self.live(&event),
                message = stream.next() => match message {
                    Some(Ok(Message::Text(text))) => self.take(&text).await,
                    Some(Ok(message)) => {
                        *lock(&self.state.pings) += usize::from(message.is_ping());
                        let _ = sink.flush().await; // the pong
                        Vec::new()
                    }
                    _ => return,
                },
            };
            for answer in answers {
                if sink.send(Message::text(answer.to_string())).await.is_err() {
                    return;
                }
                *lock(&self.state.written) += 1;
            }
        }
    }

    fn live(&mut self, event: &Event) -> Vec<Value> {
        let subs = self.subs.iter().filter(|(_, filter)| filter.match_event(event, MatchEventOptions::new()));
        let answers: Vec<_> = subs.map(|(sub, _)| json!(["EVENT", sub, event])).collect();
        self.lived += usize::from(!answers.is_empty());
        match self.script().lose_every {
            Some(n) if self.lived.is_multiple_of(n) => Vec::new(),
            _ => answers,
        }
    }

    async fn take(&mut self, text: &str) -> Vec<Value> {
        let frame: Value = serde_json::from_str(text).unwrap();
        let label = frame[0].as_str().unwrap().to_owned();
        lock(&self.state.asked).push((label.clone(), frame.clone()));
        let sub = frame[1].as_str().unwrap_or_default().to_owned();
        match label.as_str() {
            "EVENT" => self.event(&frame[1]),
            "AUTH" => self.auth(&frame[1]),
            "REQ" => {
                let slow = self.script().slow;
                if !slow.is_zero() {
                    tokio::time::sleep(slow).await;
                }
                self.req(&sub, &frame[2])
            }
            "CLOSE" => {
                self.subs.remove(&sub);
                Vec::new()
            }
            "NEG-OPEN" => self.neg_open(&sub, &frame[2], frame[3].as_str().unwrap()),
            "NEG-MSG" => self.neg_msg(&sub, frame[2].as_str().unwrap()),
            _ => Vec::new(),
        }
    }

    fn event(&mut self, event: &Value) -> Vec<Value> {
        let (script, event) = (self.script(), Event::from_json(event.to_string()).unwrap());
        if let Some(reason) = script.ok_false
            && (!reason.starts_with("auth-required") || self.authed.is_empty())
        {
            return vec![json!(["OK", event.id, false, reason])];
        }
        self.state.take(&event);
        self.held_back.push(json!(["OK", event.id, true, ""]));
        if self.held_back.len() < script.ok_after { Vec::new() } else { std::mem::take(&mut self.held_back) }
    }

    fn auth(&mut self, event: &Value) -> Vec<Value> {
        let event = Event::from_json(event.to_string()).unwrap();
        let challenge = event.tags.challenge() == Some("challenge");
        let good = event.verify().is_ok() && event.kind == Kind::Authentication && challenge;
        if !good || self.script().auth_refused.contains(&event.pubkey) {
            return vec![json!(["OK", event.id, false, "restricted: not this key"])];
        }
        self.authed.insert(event.pubkey);
        vec![json!(["OK", event.id, true, ""])]
    }

    /// Why a filter is not served.
    fn refuse(&self, filter: &Value) -> Option<&'static str> {
        let script = self.script();
        let people = filter["#p"].as_array().cloned().unwrap_or_default();
        if script.no_wide && people.is_empty() && filter["ids"].is_null() {
            return Some("restricted: name the recipients");
        }
        let authed = |key: &Value| self.authed.iter().any(|authed| key == &json!(authed));
        (script.auth && (self.authed.is_empty() || !people.iter().all(authed)))
            .then_some("auth-required: each key must authenticate")
    }

    fn req(&mut self, sub: &str, filter: &Value) -> Vec<Value> {
        if let Some(reason) = self.refuse(filter) {
            self.subs.remove(sub);
            return vec![json!(["CLOSED", sub, reason])];
        }
        let filter = Filter::from_json(filter.to_string()).unwrap();
        let limit = filter.limit.unwrap_or(usize::MAX).min(self.script().cap);
        let found = self.state.matching(&filter).into_iter().take(limit);
        let mut answers: Vec<_> = found.map(|event| json!(["EVENT", sub, event])).collect();
        answers.push(json!(["EOSE", sub]));
        self.subs.insert(sub.to_owned(), filter);
        answers
    }

    fn neg_open(&mut self, sub: &str, filter: &Value, message: &str) -> Vec<Value> {
        if let Some(reason) = self.refuse(filter) {
            return vec![json!(["NEG-ERR", sub, reason])];
        }
        match self.script().negentropy {
            Sync::Known => {}
            Sync::Error => return vec![json!(["NEG-ERR", sub, "blocked: not here"])],
            Sync::Notice => return vec![json!(["NOTICE", "ERROR: bad msg: unknown cmd"])],
            Sync::Silence => return Vec::new(),
        }
        let mut storage = NegentropyStorageVector::new();
        for event in self.state.matching(&Filter::from_json(filter.to_string()).unwrap()) {
            storage.insert(event.created_at.as_secs(), Id::from_byte_array(event.id.to_bytes())).unwrap();
        }
        storage.seal().unwrap();
        self.negotiations.insert(sub.to_owned(), Negentropy::owned(storage, 60_000).unwrap());
        self.neg_msg(sub, message)
    }

    fn neg_msg(&mut self, sub: &str, message: &str) -> Vec<Value> {
        let bytes: Vec<u8> = (0..message.len() / 2)
            .map(|i| u8::from_str_radix(&message[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        let Some(negotiation) = self.negotiations.get_mut(sub) else { return Vec::new() };
        let answer: String =
            negotiation.reconcile(&bytes).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        vec![json!(["NEG-MSG", sub, answer])]
    }
}
