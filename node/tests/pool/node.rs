//! The node's side of the pool, as little of it as tests need: keys, a ledger, and somebody who takes what comes in.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use oa_nips::kind;
use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{
    Event, EventBuilder, EventId, Keys, PublicKey, RelayUrl, Tag, Timestamp, UnsignedEvent,
};
use oa_nips::port::{Signer, SignerError};
use oa_node::drivers::nostr::{Config, Incoming, Keyring, Ledger, Pool, RelaySpec, SweepConfig};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// An hour in seconds.
pub(crate) const HOUR_S: u64 = 3600;
/// No test waits longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A key that signs.
#[derive(Debug)]
pub(crate) struct Local(pub(crate) Keys);

impl Signer for Local {
    fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }

    fn is_immediate(&self) -> bool {
        true
    }

    fn sign(&self, event: UnsignedEvent) -> BoxedFuture<'_, Result<Event, SignerError>> {
        Box::pin(async { event.sign_with_keys(&self.0).map_err(|e| SignerError::Refused(e.to_string())) })
    }

    fn nip44_encrypt<'a>(
        &'a self,
        _: &'a PublicKey,
        _: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        never()
    }

    fn nip44_decrypt<'a>(
        &'a self,
        _: &'a PublicKey,
        _: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        never()
    }

    fn nip04_encrypt<'a>(
        &'a self,
        _: &'a PublicKey,
        _: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        never()
    }

    fn nip04_decrypt<'a>(
        &'a self,
        _: &'a PublicKey,
        _: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        never()
    }
}

fn never<'a>() -> BoxedFuture<'a, Result<String, SignerError>> {
    Box::pin(async { Err(SignerError::Unavailable("the pool only signs".into())) })
}

/// The node's keys.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) node: Keys,
    pub(crate) agents: HashMap<PublicKey, Keys>,
}

impl Ring {
    pub(crate) fn new(agents: usize) -> Arc<Self> {
        let agents = (0..agents).map(|_| Keys::generate()).map(|keys| (keys.public_key(), keys)).collect();
        Arc::new(Self { node: Keys::generate(), agents })
    }

    pub(crate) fn keys(&self) -> Vec<PublicKey> {
        self.agents.keys().copied().collect()
    }

    pub(crate) fn first(&self) -> PublicKey {
        self.keys()[0]
    }
}

impl Keyring for Ring {
    fn node(&self) -> Arc<dyn Signer> {
        Arc::new(Local(self.node.clone()))
    }

    fn agent(&self, key: &PublicKey) -> Option<Arc<dyn Signer>> {
        Some(Arc::new(Local(self.agents.get(key)?.clone())))
    }
}

/// What has been dealt with.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<Pages>);

#[derive(Debug, Default)]
pub(crate) struct Pages {
    pub(crate) handled: HashMap<EventId, u64>,
    pub(crate) cursors: HashMap<RelayUrl, u64>,
}

impl Book {
    pub(crate) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap()
    }
}

impl Ledger for Book {
    fn handled(&self, since_s: u64, _: Option<&[PublicKey]>) -> Result<Vec<(u64, EventId)>, String> {
        let pages = self.pages();
        Ok(pages.handled.iter().filter(|(_, at)| **at >= since_s).map(|(id, at)| (*at, *id)).collect())
    }

    fn is_handled(&self, id: &EventId) -> Result<bool, String> {
        Ok(self.pages().handled.contains_key(id))
    }

    fn cursor(&self, relay: &RelayUrl) -> Result<Option<u64>, String> {
        Ok(self.pages().cursors.get(relay).copied())
    }
}

/// What came in so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct Log {
    /// Live events, in order.
    pub(crate) live: Vec<Event>,
    /// The batches of sweeps: events and whether complete.
    pub(crate) sweeps: Vec<(Vec<EventId>, bool)>,
    pub(crate) ups: usize,
    pub(crate) downs: Vec<String>,
}

impl Log {
    /// All ids that came, whichever way.
    pub(crate) fn ids(&self) -> HashSet<EventId> {
        let live = self.live.iter().map(|event| event.id);
        live.chain(self.sweeps.iter().flat_map(|(ids, _)| ids.iter().copied())).collect()
    }

    pub(crate) fn complete(&self) -> usize {
        self.sweeps.iter().filter(|(_, complete)| *complete).count()
    }
}

/// A node: a pool and somebody who takes what comes in and writes it into the book.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) pool: Pool,
    pub(crate) ring: Arc<Ring>,
    log: watch::Receiver<Log>,
    _tasks: JoinSet<()>,
}

/// A configuration for tests: quick sweeps of `relays`.
pub(crate) fn config(relays: &[RelayUrl]) -> Config {
    let relays = relays.iter().map(|url| RelaySpec { url: url.clone(), wide: false }).collect();
    let sweep = SweepConfig {
        interval_negentropy: Duration::from_millis(300),
        interval_paging: Duration::from_millis(500),
        ..SweepConfig::default()
    };
    Config { relays, sweep: Some(sweep), ..Config::default() }
}

impl Node {
    pub(crate) fn start(config: Config, ring: Arc<Ring>) -> Self {
        Self::with_book(config, ring, Arc::default())
    }

    pub(crate) fn with_book(mut config: Config, ring: Arc<Ring>, book: Arc<Book>) -> Self {
        config.listen = ring.keys();
        let (incoming, taken) = mpsc::channel(64);
        let (log, seen) = watch::channel(Log::default());
        let pool = Pool::start(config, ring.clone(), Some(book.clone()), incoming);
        let mut tasks = JoinSet::new();
        tasks.spawn(take(taken, book, log));
        Self { pool, ring, log: seen, _tasks: tasks }
    }

    /// Waits until what came in satisfies `enough`.
    pub(crate) async fn until(&mut self, what: &str, enough: impl FnMut(&Log) -> bool) -> Log {
        if let Ok(log) = tokio::time::timeout(DEADLINE, self.log.wait_for(enough)).await {
            return log.unwrap().clone();
        }
        let log = self.log.borrow();
        let (live, sweeps) = (log.live.len(), log.sweeps.len());
        panic!("never came: {what}; {live} live, {sweeps} batches, {:?}", self.pool.status())
    }

    /// Waits until all `ids` have come.
    pub(crate) async fn until_all(&mut self, ids: &HashSet<EventId>) -> Log {
        self.until(&format!("all of {} events", ids.len()), |log| log.ids().is_superset(ids)).await
    }
}

async fn take(mut incoming: mpsc::Receiver<Incoming>, book: Arc<Book>, log: watch::Sender<Log>) {
    while let Some(incoming) = incoming.recv().await {
        match incoming {
            Incoming::Event { event, .. } => {
                book.pages().handled.insert(event.id, event.created_at.as_secs());
                log.send_modify(|log| log.live.push(*event));
            }
            Incoming::Sweep(sweep) => {
                let ids: Vec<_> = sweep.events.iter().map(|event| event.id).collect();
                assert!(sweep.events.is_sorted_by_key(|event| (event.created_at, event.id)));
                let mut pages = book.pages();
                pages.handled.extend(sweep.events.iter().map(|event| (event.id, event.created_at.as_secs())));
                if sweep.complete {
                    pages.cursors.insert(sweep.relay, sweep.started_at_s);
                }
                drop(pages);
                log.send_modify(|log| log.sweeps.push((ids, sweep.complete)));
                let _ = sweep.done.send(());
            }
            Incoming::Up { .. } => log.send_modify(|log| log.ups += 1),
            Incoming::Down { reason, .. } => log.send_modify(|log| log.downs.push(reason)),
        }
    }
}

/// Waits until `holds`, looking again and again.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let looking = async {
        while !holds() {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, looking).await.is_ok(), "never happened: {what}");
}

/// A wrap for `to`, dated `back_s` seconds ago.
pub(crate) fn wrap(author: &Keys, to: PublicKey, back_s: u64, text: &str) -> Event {
    event(author, kind::WRAP, to, back_s, text)
}

/// An event of any kind for `to`.
pub(crate) fn event(
    author: &Keys,
    kind: oa_nips::nostr::Kind,
    to: PublicKey,
    back_s: u64,
    text: &str,
) -> Event {
    let at = Timestamp::from_secs(Timestamp::now().as_secs() - back_s);
    EventBuilder::new(kind, text)
        .tag(Tag::public_key(to))
        .custom_created_at(at)
        .sign_with_keys(author)
        .unwrap()
}

pub(crate) fn ids(events: &[Event]) -> HashSet<EventId> {
    events.iter().map(|event| event.id).collect()
}

/// Events of one author, a second apart, for each of `to` in turn.
pub(crate) fn letters(to: &[PublicKey], n: usize, newest_back_s: u64) -> Vec<Event> {
    let author = Keys::generate();
    let one = |i: usize| wrap(&author, to[i % to.len()], newest_back_s + i as u64, &format!("{i}"));
    (0..n).map(one).collect()
}

/// One relay, swept on connect and then for a reason only.
pub(crate) fn rarely_swept(relay: &RelayUrl) -> Config {
    let mut config = config(std::slice::from_ref(relay));
    config.sweep = Some(SweepConfig::default());
    config
}

/// A text for nobody.
pub(crate) fn note(text: &str) -> Event {
    EventBuilder::text_note(text).sign_with_keys(&Keys::generate()).unwrap()
}
