//! A websocket proxy between a node and its relay, for what relays and networks do: it counts connections, loses
//! live events, puts in what a relay should not send, and cuts.
//!
//! A subscription is live once the relay has said EOSE to it; what it asked for before is never lost, so a sweep
//! finds everything.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use oa_nips::nostr::{Event, JsonUtil as _};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Messages put in that wait to be sent.
const PUT_IN: usize = 1024;

/// A proxy; dropping it ends it and all its connections.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    upstream: String,
    total: AtomicUsize,
    /// Every n-th live event is lost; 0 for none.
    lose_every: AtomicU64,
    live: AtomicU64,
    lost: AtomicU64,
    open: Mutex<HashMap<usize, Connection>>,
}

/// A connection as the proxy's owner acts on it.
#[derive(Debug)]
struct Connection {
    put_in: mpsc::Sender<Message>,
    cut: CancellationToken,
    /// Live subscriptions that ask for wraps.
    mail: HashSet<String>,
}

impl Proxy {
    /// Starts one before the relay at `upstream`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("ws://{}", listener.local_addr()?);
        let shared = Arc::new(Shared { upstream: upstream.to_owned(), ..Shared::default() });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { url, shared, _task: AbortOnDropHandle::new(task) })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Connections there have been.
    pub fn connections(&self) -> usize {
        self.shared.total.load(Ordering::SeqCst)
    }

    /// Connections there are.
    pub fn open(&self) -> usize {
        self.shared.open().len()
    }

    /// Loses every `n`-th live event from now on.
    pub fn lose_every(&self, n: u64) {
        self.shared.lose_every.store(n, Ordering::SeqCst);
    }

    /// How many events were lost.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::SeqCst)
    }

    /// Sends an event to whoever listens for mail, as if the relay had: whatever it is.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn put_in(&self, event: &Event) -> Result<()> {
        let open = self.shared.open();
        let mut heard = 0;
        for connection in open.values() {
            for subscription in &connection.mail {
                let text = format!(r#"["EVENT","{subscription}",{}]"#, event.as_json());
                connection.put_in.try_send(Message::text(text))?;
                heard += 1;
            }
        }
        ensure!(heard > 0, "nobody listens for mail");
        Ok(())
    }

    /// Cuts all connections, without a word.
    pub fn cut(&self) {
        self.shared.open().values().for_each(|connection| connection.cut.cancel());
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, HashMap<usize, Connection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let shared = shared.clone();
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let number = shared.total.fetch_add(1, Ordering::SeqCst);
            // How a connection ends is the business of those it connected.
            let _ = carry(socket, &shared, number).await;
            shared.open().remove(&number);
        });
    }
}

async fn carry(socket: TcpStream, shared: &Shared, number: usize) -> Result<()> {
    socket.set_nodelay(true)?;
    let (upstream, _) = tokio_tungstenite::connect_async_with_config(&shared.upstream, None, true).await?;
    let (mut to_relay, mut from_relay) = upstream.split();
    let (mut to_node, mut from_node) = tokio_tungstenite::accept_async(socket).await?.split();
    let (put_in, mut to_put_in) = mpsc::channel(PUT_IN);
    let cut = CancellationToken::new();
    shared.open().insert(number, Connection { put_in, cut: cut.clone(), mail: HashSet::new() });
    let mut lines = Lines::default();
    loop {
        tokio::select! {
            biased;
            () = cut.cancelled() => return Ok(()),
            message = from_node.next() => {
                let message = message.context("the node has left")??;
                lines.node_says(&message);
                to_relay.send(message).await?;
            }
            message = from_relay.next() => {
                let message = message.context("the relay has left")??;
                if lines.relay_says(&message, shared, number) {
                    to_node.send(message).await?;
                }
            }
            Some(message) = to_put_in.recv() => to_node.send(message).await?,
        }
    }
}

/// What is known of a connection's subscriptions.
#[derive(Debug, Default)]
struct Lines {
    mail: HashSet<String>,
    live: HashSet<String>,
}

impl Lines {
    fn node_says(&mut self, message: &Message) {
        let Some(parts) = parts(message) else { return };
        let [Some(verb), Some(subscription)] = [0, 1].map(|n| parts.get(n).and_then(Value::as_str)) else {
            return;
        };
        match verb {
            "REQ" => {
                self.live.remove(subscription);
                let wants_mail = |filter: &Value| {
                    let kinds = filter.get("kinds").and_then(Value::as_array);
                    kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == 1059))
                };
                if parts.iter().skip(2).any(wants_mail) {
                    self.mail.insert(subscription.to_owned());
                }
            }
            "CLOSE" => {
                self.live.remove(subscription);
                self.mail.remove(subscription);
            }
            _ => {}
        }
    }

    /// Notes what the relay says; answers whether it is passed on.
    fn relay_says(&mut self, message: &Message, shared: &Shared, number: usize) -> bool {
        let Some(parts) = parts(message) else { return true };
        let [Some(verb), Some(subscription)] = [0, 1].map(|n| parts.get(n).and_then(Value::as_str)) else {
            return true;
        };
        match verb {
            "EOSE" => {
                self.live.insert(subscription.to_owned());
                let mail: HashSet<_> = self.live.intersection(&self.mail).cloned().collect();
                if let Some(connection) = shared.open().get_mut(&number) {
                    connection.mail = mail;
                }
                true
            }
            "EVENT" if self.live.contains(subscription) => {
                let count = shared.live.fetch_add(1, Ordering::SeqCst) + 1;
                let every = shared.lose_every.load(Ordering::SeqCst);
                let is_lost = every > 0 && count.is_multiple_of(every);
                shared.lost.fetch_add(u64::from(is_lost), Ordering::SeqCst);
                !is_lost
            }
            _ => true,
        }
    }
}

fn parts(message: &Message) -> Option<Vec<Value>> {
    let Message::Text(text) = message else { return None };
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use oa_nips::mail::Protocol;
    use oa_nips::nostr::Keys;
    use oa_relay::{Config, Relay, StoreConfig};

    use super::*;
    use crate::client::{Client, Letter, forge};
    use crate::world::DEADLINE;

    async fn relay() -> (Relay, Proxy) {
        let config = Config::new("127.0.0.1:0".parse().unwrap(), StoreConfig::Memory);
        let relay = Relay::start(config).await.unwrap();
        let proxy = Proxy::start(&relay.url()).await.unwrap();
        (relay, proxy)
    }

    #[tokio::test]
    async fn every_third_live_event_is_lost_and_found_again_by_asking() {
        let (_relay, proxy) = relay().await;
        let alice = Client::connect(&_relay.url(), Keys::generate(), DEADLINE).await.unwrap();
        let mut bob = Client::connect(proxy.url(), Keys::generate(), DEADLINE).await.unwrap();
        proxy.lose_every(3);
        for n in 0..6 {
            alice.dm(bob.public_key(), &n.to_string(), Protocol::Nip17, DEADLINE).await.unwrap();
        }
        let mut texts = Vec::new();
        for _ in 0..4 {
            texts.push(bob.next(DEADLINE).await.unwrap().text().unwrap().to_owned());
        }
        assert_eq!(texts, ["0", "1", "3", "4"]);
        assert_eq!((proxy.lost(), proxy.connections(), proxy.open()), (2, 1, 1));
        bob.reconnect(DEADLINE).await.unwrap();
        texts.clear();
        for _ in 0..2 {
            texts.push(bob.next(DEADLINE).await.unwrap().text().unwrap().to_owned());
        }
        texts.sort();
        assert_eq!(texts, ["2", "5"]);
    }

    #[tokio::test]
    async fn what_is_put_in_arrives_and_what_is_cut_has_ended() {
        let (_relay, proxy) = relay().await;
        let mut bob = Client::connect(proxy.url(), Keys::generate(), DEADLINE).await.unwrap();
        let alice = Keys::generate();
        let letter = Letter::text(&alice, bob.public_key(), "psst", Protocol::Nip17).unwrap();
        proxy.put_in(&letter.event).unwrap();
        assert_eq!(bob.next(DEADLINE).await.unwrap().text(), Some("psst"));
        proxy.cut();
        assert!(bob.next(DEADLINE).await.is_err());
        let event = forge::wrap_raw(&alice.public_key(), "x").unwrap();
        assert!(bob.publish(&event, Duration::from_secs(1)).await.is_err());
        assert!(proxy.put_in(&event).is_err());
    }
}
