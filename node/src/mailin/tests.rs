//! What mail waits for: flushes are counted, and held back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use oa_nips::envelope::Envelope as Message;
use oa_nips::mail::{Body, Mail, Protocol};
use oa_nips::nostr::Keys;

use super::*;
use crate::agent::AgentId;
use crate::agent::manifest::{Manifest, Policy};
use crate::drivers::nostr::RelaySpec;
use crate::engine;
use crate::engine::running::Running;
use crate::keyring::{Addresses, SeedKeyring};
use crate::node::{Config, Node, Parts};
use crate::operator::Roles;
use crate::signer::Seed;
use crate::store::Store;
use crate::store::backend::{Backend, Change, Pair, Range, Table};
use crate::store::memory::MemoryBackend;
use crate::subscriptions::Stands;
use crate::time::{System, Time as _};

/// Strangers, of whom all are decided while one flush is made.
const STRANGERS: usize = 200;
/// No wait is longer.
const DEADLINE: Duration = Duration::from_secs(20);

/// A disk whose flushes are counted, and wait while they are held.
#[derive(Debug, Default)]
struct Disk {
    inner: MemoryBackend,
    flushes: AtomicUsize,
    /// Those with mail that came in; answers have theirs when they go out.
    of_mail: AtomicUsize,
    is_held: Mutex<bool>,
    freed: Condvar,
}

impl Disk {
    fn hold(&self, is_held: bool) {
        *self.is_held.lock().unwrap() = is_held;
        self.freed.notify_all();
    }

    fn flushes(&self) -> usize {
        self.flushes.load(Ordering::SeqCst)
    }
}

impl Backend for Disk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        self.inner.get(table, key)
    }

    fn scan(&self, table: Table, range: &Range) -> Result<Vec<Pair>, BackendError> {
        self.inner.scan(table, range)
    }

    fn flush(&self, changes: &[Change]) -> Result<(), BackendError> {
        let mut is_held = self.is_held.lock().unwrap();
        while *is_held {
            is_held = self.freed.wait(is_held).unwrap();
        }
        drop(is_held);
        self.flushes.fetch_add(1, Ordering::SeqCst);
        if changes.iter().any(|change| change.table == Table::Seen) {
            self.of_mail.fetch_add(1, Ordering::SeqCst);
        }
        self.inner.flush(changes)
    }
}

#[derive(Debug)]
struct Nothing;

impl Stands for Nothing {
    fn stand(&self, _: &str, _: oa_nips::nostr::Filter) {}

    fn unstand(&self, _: &str) {}

    fn are_heard(&self) -> bool {
        true
    }
}

/// The mail loop of a node that hears nothing but what the test hands it.
struct World {
    node: Node,
    disk: Arc<Disk>,
    mail: MailIn,
    agent: AgentId,
    pending: VecDeque<(Pending, decide::Decided)>,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new(policy: Policy) -> Self {
        let (dir, disk) = (tempfile::tempdir().unwrap(), Arc::new(Disk::default()));
        let store = Store::new(disk.clone()).unwrap();
        let addresses = Arc::new(Addresses::load(&store).unwrap());
        // The discard port: nobody listens there.
        let url = RelayUrl::parse("ws://127.0.0.1:9").unwrap();
        let parts = Parts {
            store,
            keyring: Arc::new(SeedKeyring::new(Seed::generate(), addresses.clone())),
            addresses,
            running: Running::open(&dir.path().join("running")).unwrap(),
            time: Arc::new(System),
        };
        let config = Config::new(vec![RelaySpec { url, wide: false }]);
        let node = Node::start(config, parts).await.unwrap();
        let mut manifest = Manifest::new("alice", "echo");
        manifest.dm.policy = policy;
        let key = node.ensure_agent(manifest).await.unwrap();
        let shared = node.admin().shared.clone();
        let agent = shared.keyring.whose(&key).unwrap();
        let cancel = CancellationToken::new();
        let (engine, _) = engine::start(shared.clone(), DEADLINE, cancel.clone());
        let (requests, _) = Door::new(shared.store.clone(), shared.manifests.clone(), Roles::default());
        let (subscriptions, _) =
            Subscriptions::new(shared.store.clone(), Arc::new(Nothing), Arc::new(System));
        let (bunker, _) = mpsc::channel(1);
        let mail = MailIn {
            shared,
            engine,
            queues: Arc::default(),
            requests,
            subscriptions,
            bunker,
            lease: None,
            left: Arc::default(),
            relays: Vec::new(),
            ended: cancel.clone(),
            deaf: cancel,
        };
        let mut world = Self { node, disk, mail, agent, pending: VecDeque::new(), _dir: dir };
        world.quiet().await;
        world
    }

    /// Waits until the node writes nothing of its own any more.
    async fn quiet(&mut self) {
        let (mut before, mut since) = (self.disk.flushes(), std::time::Instant::now());
        while since.elapsed() < Duration::from_millis(300) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if self.disk.flushes() != before {
                (before, since) = (self.disk.flushes(), std::time::Instant::now());
            }
        }
    }

    fn letter(&self, author: PublicKey, n: usize, body: Body) -> Opened {
        let mut id = [7; 32];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        let id = EventId::from_byte_array(id);
        let sent_at_ms = System.now_ms();
        let recipients = Vec::new();
        let protocol = Protocol::Nip17;
        let mail = Mail { id, protocol, author, recipients, sent_at_ms, auto_hop: 0, reply_to: None, body };
        Opened::Mail { agent: self.agent, mail: Box::new(mail), event: (sent_at_ms / 1000, id), pow_bits: 0 }
    }

    async fn take(&mut self, opened: Opened) {
        assert!(self.mail.take(opened, None, &mut self.pending).await.unwrap());
    }

    /// Has all of it land.
    async fn land(&mut self) {
        self.disk.hold(false);
        self.mail.drain(&mut self.pending, 0).await.unwrap();
    }
}

/// Whether it is done within a while.
async fn soon<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(DEADLINE / 10, future).await.ok()
}

#[tokio::test]
async fn a_flood_of_strangers_costs_a_few_flushes_and_holds_nobody_up() {
    let mut world = World::new(Policy::Pairing).await;
    let before = world.disk.of_mail.load(Ordering::SeqCst);
    world.disk.hold(true);
    let flood = async {
        for n in 0..STRANGERS {
            let opened = world.letter(Keys::generate().public_key(), n, Body::Text("hi".to_owned()));
            world.take(opened).await;
        }
    };
    assert!(soon(flood).await.is_some(), "each waited for its own flush");
    // All are decided while one flush is made, however slow the writer's thread is here.
    let last = world.pending.back().and_then(|(_, decided)| decided.from).unwrap();
    let began = std::time::Instant::now();
    while world.mail.shared.decided.peer(world.agent, &last).unwrap().is_none() {
        assert!(began.elapsed() < DEADLINE, "the last one is not decided");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.land().await;
    let flushes = world.disk.of_mail.load(Ordering::SeqCst) - before;
    assert!(flushes <= STRANGERS / 20, "{flushes} flushes for {STRANGERS} strangers");
    let peers = world.mail.shared.store.peers(world.agent, 2 * STRANGERS).unwrap();
    let codes: std::collections::HashSet<String> =
        peers.into_iter().filter_map(|(_, peer)| peer.pairing).collect();
    assert_eq!(codes.len(), STRANGERS, "each has a code of their own");
    // As it was when each had to be on disk before the next was judged.
    let before = world.disk.of_mail.load(Ordering::SeqCst);
    for n in STRANGERS..2 * STRANGERS {
        let opened = world.letter(Keys::generate().public_key(), n, Body::Text("hi".to_owned()));
        world.take(opened).await;
        world.land().await;
    }
    assert_eq!(world.disk.of_mail.load(Ordering::SeqCst) - before, STRANGERS, "one by one");
    world.node.shutdown().await;
}

#[tokio::test]
async fn a_stranger_who_writes_twice_at_once_has_one_code_and_one_answer() {
    let mut world = World::new(Policy::Pairing).await;
    world.disk.hold(true);
    let (stranger, before) = (Keys::generate().public_key(), outbox(&world));
    let twice = async {
        for n in 0..2 {
            let opened = world.letter(stranger, n, Body::Text(format!("hi {n}")));
            world.take(opened).await;
        }
    };
    assert!(soon(twice).await.is_some());
    world.land().await;
    let code = world.mail.shared.store.peer(world.agent, &stranger).unwrap().unwrap().pairing;
    assert!(code.is_some());
    assert_eq!(outbox(&world) - before, 1, "told once");
    world.node.shutdown().await;
}

/// How many items an agent has sent.
fn outbox(world: &World) -> u64 {
    world.mail.shared.store.agent(world.agent).unwrap().unwrap().outbox_next
}

#[tokio::test]
async fn a_ping_waits_for_the_one_before_it_and_for_nobody_elses() {
    let mut world = World::new(Policy::Open).await;
    world.disk.hold(true);
    let ping = |n: usize| Body::Envelope(Message::Ping { nonce: n.to_string() });
    let pings = async {
        for n in 0..STRANGERS {
            let opened = world.letter(Keys::generate().public_key(), n, ping(n));
            world.take(opened).await;
        }
    };
    assert!(soon(pings).await.is_some(), "each waited for its own flush");
    let author = world.pending.back().and_then(|(_, decided)| decided.from).unwrap();
    let again = world.letter(author, STRANGERS, ping(STRANGERS));
    assert!(soon(world.take(again)).await.is_none(), "it was judged by a bucket that is not drawn on yet");
    world.land().await;
    world.node.shutdown().await;
}

#[tokio::test]
async fn what_somebody_else_decided_at_the_same_instant_is_asked_for_again_at_once() {
    let world = World::new(Policy::Open).await;
    let settle = async |verdicts: Vec<Verdict>, n: usize| {
        let ping = Body::Envelope(Message::Ping { nonce: n.to_string() });
        let opened = world.letter(Keys::generate().public_key(), n, ping);
        let decided = decide::decide(&world.mail.shared, opened, None).unwrap().unwrap();
        assert!(!decided.also.is_empty());
        world.mail.settled((verdicts, decided)).await;
        world.mail.left.notified().now_or_never().is_some()
    };
    assert!(!settle(vec![Verdict::Duplicate], 1).await);
    assert!(settle(vec![Verdict::Done, Verdict::Stale], 2).await, "its sender would wait for the next sweep");
    world.node.shutdown().await;
}
