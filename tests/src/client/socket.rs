//! One websocket to a relay: publishes with their OKs, queries, and mail opened as it comes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use oa_nips::kind;
use oa_nips::mail::{self, Mail};
use oa_nips::nostr::nips::{nip04, nip44};
use oa_nips::nostr::{Event, EventId, Filter, JsonUtil as _, Keys, RelayMessage};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::{Bytes, Message, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Events on their way out; whoever publishes more waits.
const OUTGOING: usize = 1024;
/// Events that wait to be opened; the socket waits when it is full.
const OPENING: usize = 1024;
/// Name of the subscription to one's own mail.
const MINE: &str = "mine";
/// How long a connection may take to come about.
const DIAL: Duration = Duration::from_secs(2);

type Ws = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A relay's OK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whether it has the event.
    pub accepted: bool,
    /// Its words.
    pub message: String,
}

/// A connection; dropping it ends it.
#[derive(Debug)]
pub(super) struct Socket {
    outgoing: mpsc::Sender<Message>,
    asked: Arc<Asked>,
    tasks: [JoinHandle<()>; 3],
}

/// What the relay still has to answer.
#[derive(Debug, Default)]
struct Asked {
    publishes: Mutex<HashMap<EventId, oneshot::Sender<Answer>>>,
    queries: Mutex<HashMap<String, Query>>,
    count: AtomicU64,
}

#[derive(Debug)]
struct Query {
    events: Vec<Event>,
    done: oneshot::Sender<Result<Vec<Event>, String>>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Socket {
    /// Connects once; mail it hears of goes to `mails`.
    pub(super) async fn connect(url: &str, keys: Keys, mails: mpsc::Sender<Mail>) -> Result<Self> {
        let dialled = tokio::time::timeout(DIAL, dial(url)).await;
        let (sink, stream) = dialled.with_context(|| format!("{url} does not answer"))??.split();
        let (outgoing, to_send) = mpsc::channel(OUTGOING);
        let (events, to_open) = mpsc::channel(OPENING);
        let asked = Arc::new(Asked::default());
        let tasks = [
            tokio::spawn(write(sink, to_send)),
            tokio::spawn(read(stream, asked.clone(), events, outgoing.clone())),
            tokio::spawn(open(keys, to_open, mails)),
        ];
        Ok(Self { outgoing, asked, tasks })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.tasks.iter().all(|task| !task.is_finished())
    }

    pub(super) async fn send(&self, event: &Event) -> Result<()> {
        self.text(format!(r#"["EVENT",{}]"#, event.as_json())).await
    }

    async fn text(&self, text: String) -> Result<()> {
        ensure!(self.is_connected(), "the connection has ended");
        self.outgoing.send(Message::text(text)).await.map_err(|_| anyhow!("the connection has ended"))
    }

    pub(super) async fn publish(&self, event: &Event, within: Duration) -> Result<Answer> {
        let (sender, answer) = oneshot::channel();
        lock(&self.asked.publishes).insert(event.id, sender);
        self.send(event).await?;
        let answer = tokio::time::timeout(within, answer).await;
        answer.context("the relay did not answer in time")?.context("the connection has ended")
    }

    pub(super) async fn fetch(&self, filter: &Filter, within: Duration) -> Result<Vec<Event>> {
        let id = format!("q{}", self.asked.count.fetch_add(1, Ordering::Relaxed));
        let events = self.query(&id, filter, within).await?;
        self.text(format!(r#"["CLOSE","{id}"]"#)).await?;
        Ok(events)
    }

    /// Subscribes to one's own mail and waits until all that is stored has come.
    pub(super) async fn listen(&self, filter: &Filter, within: Duration) -> Result<()> {
        self.query(MINE, filter, within).await.map(drop)
    }

    async fn query(&self, id: &str, filter: &Filter, within: Duration) -> Result<Vec<Event>> {
        let (done, answer) = oneshot::channel();
        lock(&self.asked.queries).insert(id.to_owned(), Query { events: Vec::new(), done });
        self.text(format!(r#"["REQ","{id}",{}]"#, filter.as_json())).await?;
        let answer = tokio::time::timeout(within, answer).await;
        let answer =
            answer.context("the relay did not answer in time")?.context("the connection has ended")?;
        answer.map_err(|reason| anyhow!("the relay closed the query: {reason}"))
    }
}

async fn dial(url: &str) -> Result<Ws> {
    let (socket, _) = tokio_tungstenite::connect_async_with_config(url, None, true).await?;
    Ok(socket)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write(mut sink: SplitSink<Ws, Message>, mut to_send: mpsc::Receiver<Message>) {
    while let Some(message) = to_send.recv().await {
        if sink.feed(message).await.is_err() {
            return;
        }
        // What waits already goes out in the same write.
        if to_send.is_empty() && sink.flush().await.is_err() {
            return;
        }
    }
}

async fn read(
    mut stream: SplitStream<Ws>,
    asked: Arc<Asked>,
    events: mpsc::Sender<Event>,
    outgoing: mpsc::Sender<Message>,
) {
    while let Some(Ok(message)) = stream.next().await {
        match message {
            Message::Text(text) if !heard(&text, &asked, &events).await => break,
            Message::Ping(data) => pong(data, &outgoing),
            Message::Close(_) => break,
            _ => {}
        }
    }
    // Whoever waits is told by the dropped senders.
    lock(&asked.publishes).clear();
    lock(&asked.queries).clear();
}

fn pong(data: Bytes, outgoing: &mpsc::Sender<Message>) {
    // A full queue is sign of life enough.
    let _ = outgoing.try_send(Message::Pong(data));
}

/// Sorts one message of the relay; answers false when nobody listens any more.
async fn heard(text: &Utf8Bytes, asked: &Asked, events: &mpsc::Sender<Event>) -> bool {
    match RelayMessage::from_json(text.as_bytes()) {
        Ok(RelayMessage::Event { subscription_id, event }) => {
            if subscription_id.as_str() == MINE {
                return events.send(event.into_owned()).await.is_ok();
            }
            if let Some(query) = lock(&asked.queries).get_mut(subscription_id.as_str()) {
                query.events.push(event.into_owned());
            }
        }
        Ok(RelayMessage::Ok { event_id, status, message }) => {
            if let Some(waiting) = lock(&asked.publishes).remove(&event_id) {
                // Nobody may wait for it any more.
                let _ = waiting.send(Answer { accepted: status, message: message.into_owned() });
            }
        }
        Ok(RelayMessage::EndOfStoredEvents(id)) => {
            if let Some(query) = lock(&asked.queries).remove(id.as_str()) {
                let _ = query.done.send(Ok(query.events));
            }
        }
        Ok(RelayMessage::Closed { subscription_id, message }) => {
            if let Some(query) = lock(&asked.queries).remove(subscription_id.as_str()) {
                let _ = query.done.send(Err(message.into_owned()));
            }
        }
        _ => {}
    }
    true
}

/// Opens what comes; what cannot be opened is nobody's mail.
async fn open(keys: Keys, mut to_open: mpsc::Receiver<Event>, mails: mpsc::Sender<Mail>) {
    while let Some(event) = to_open.recv().await {
        if let Ok(mail) = unwrap(&keys, &event)
            && mails.send(mail).await.is_err()
        {
            return;
        }
    }
}

/// Opens a message with a key at hand.
fn unwrap(keys: &Keys, event: &Event) -> Result<Mail> {
    event.verify()?;
    mail::check_outer(event)?;
    if event.kind == kind::LEGACY_DM {
        let text = nip04::decrypt(keys.secret_key(), &event.pubkey, &event.content)?;
        return Ok(mail::read_legacy(event, text)?);
    }
    let seal = mail::open_seal(&nip44::decrypt(keys.secret_key(), &event.pubkey, &event.content)?)?;
    let rumor = nip44::decrypt(keys.secret_key(), &seal.author, &seal.ciphertext)?;
    Ok(mail::open_rumor(&seal, &rumor)?)
}
