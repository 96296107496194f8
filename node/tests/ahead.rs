//! Ticks run ahead of the disk: the next sees what those before it did, nobody else does, and what is lost is lost whole.
#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use oa_nips::hex::Hex;
use oa_nips::nostr::RelayUrl;
use oa_nips::record::Chain;
use oa_node::Node;
use oa_node::agent::envelope::{Envelope, Kind};
use oa_node::agent::manifest::Manifest;
use oa_node::agent::{AgentId, Lifecycle};
use oa_node::drivers::nostr::RelaySpec;
use oa_node::engine::running::Running;
use oa_node::keyring::{Addresses, SeedKeyring};
use oa_node::namespace::Path;
use oa_node::namespace::service::{Answer, Change, Context, Effect, FileService, FileType, Span, Stat, file};
use oa_node::node::{Config, Parts};
use oa_node::program::{Agent, Run, Tick};
use oa_node::signer::Seed;
use oa_node::store::Store;
use oa_node::store::backend::{Backend, BackendError, Change as Row, Pair, Range, Table};
use oa_node::store::memory::MemoryBackend;
use oa_node::store::write::{NewAgent, Poke, Verdict, Write};
use oa_node::time::System;

const ALICE: AgentId = AgentId(0);
/// Envelopes that wait for it: more than run ahead.
const POKES: u32 = 40;
/// As many ticks may be on their way to disk.
const AHEAD: usize = 16;
const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Door {
    #[default]
    Open,
    Shut,
    Broken,
}

/// A disk whose flushes can be held up, and can fail.
#[derive(Debug, Default)]
struct Disk {
    inner: MemoryBackend,
    door: Mutex<Door>,
    moved: Condvar,
}

impl Disk {
    fn set(&self, door: Door) {
        *self.door.lock().unwrap() = door;
        self.moved.notify_all();
    }
}

impl Backend for Disk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        self.inner.get(table, key)
    }

    fn scan(&self, table: Table, range: &Range) -> Result<Vec<Pair>, BackendError> {
        self.inner.scan(table, range)
    }

    fn flush(&self, changes: &[Row]) -> Result<(), BackendError> {
        let door = self.moved.wait_while(self.door.lock().unwrap(), |door| *door == Door::Shut).unwrap();
        if *door == Door::Broken {
            return Err(BackendError::Io { path: "disk".to_owned(), detail: "planted".to_owned() });
        }
        drop(door);
        self.inner.flush(changes)
    }
}

/// Counts its ticks in a file, and shuts the disk in the first.
#[derive(Debug)]
struct Counter {
    disk: Arc<Disk>,
    /// What the ticks found, in their order.
    found: Arc<Mutex<Vec<u32>>>,
    /// The tick that asks `/tools/disk` what is on disk.
    asks: Option<u32>,
    told: Arc<AtomicU32>,
}

impl Agent for Counter {
    fn on_trigger<'a>(&'a self, tick: &'a mut Tick) -> Run<'a> {
        Box::pin(async move {
            let n = tick.ns.read("/memory/n").await.map_or(0, |text| number(&text));
            if n == 0 {
                // Its creation is on disk before anybody is asked who looks there.
                tick.ns.call("/tools/disk", b"").await?;
                self.disk.set(Door::Shut);
            }
            self.found.lock().unwrap().push(n);
            if self.asks == Some(n) {
                self.told.store(number(&tick.ns.call("/tools/disk", b"").await?), Ordering::Relaxed);
            }
            tick.ns.write("/memory/n", (n + 1).to_string().as_bytes()).await?;
            Ok(())
        })
    }
}

fn number(text: &[u8]) -> u32 {
    std::str::from_utf8(text).unwrap().parse().unwrap()
}

/// Answers what the disk has of the counter.
#[derive(Debug)]
struct OnDisk(Store);

impl FileService for OnDisk {
    fn stat<'a>(&'a self, _: &'a Context<'a>, _: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async { Ok(file("disk", FileType::Call, 0)) })
    }

    fn list<'a>(&'a self, _: &'a Context<'a>, _: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn read<'a>(&'a self, _: &'a Context<'a>, _: &'a Path, _: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn change<'a>(&'a self, _: &'a Context<'a>, _: &'a Path, _: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async {
            let reply = self.0.file(ALICE, "/memory/n").unwrap().unwrap_or_else(|| b"0".to_vec());
            Ok(Effect { reply, ..Effect::default() })
        })
    }
}

struct World {
    disk: Arc<Disk>,
    store: Store,
    found: Arc<Mutex<Vec<u32>>>,
    told: Arc<AtomicU32>,
    node: Node,
    _dir: tempfile::TempDir,
}

/// A node with one agent whose inbox is full, and a relay that nobody reaches.
async fn world(asks: Option<u32>) -> World {
    let (disk, dir) = (Arc::new(Disk::default()), tempfile::tempdir().unwrap());
    let store = Store::new(disk.clone()).unwrap();
    let seed = Seed::generate();
    let (pubkey, manifest) = (seed.agent(0).unwrap().public_key(), Manifest::new("alice", "echo"));
    let new = NewAgent { id: ALICE, pubkey, manifest, session: Hex([7; 16]), at_ms: 1, profile: Vec::new() };
    let mut unit = vec![Write::CreateAgent(Box::new(new))];
    unit.extend((0..POKES).map(|n| {
        let envelope = Envelope::from_node(Kind::Poke, &format!("poke:{n}"), u64::from(n) + 2);
        Write::Poke(Box::new(Poke { agent: ALICE, envelope }))
    }));
    assert!(!store.commit(unit).await.unwrap().contains(&Verdict::Duplicate));
    let relay = RelayUrl::parse("ws://127.0.0.1:9").unwrap();
    let mut config = Config::new(vec![RelaySpec { url: relay, wide: false }]);
    let (found, told) = (Arc::default(), Arc::default());
    let counter = Counter { disk: disk.clone(), found: Arc::clone(&found), asks, told: Arc::clone(&told) };
    config.programs.add("echo", Arc::new(counter));
    config.tools.push(("disk".to_owned(), Arc::new(OnDisk(store.clone()))));
    let addresses = Arc::new(Addresses::load(&store).unwrap());
    let parts = Parts {
        store: store.clone(),
        keyring: Arc::new(SeedKeyring::new(seed, addresses.clone())),
        addresses,
        running: Running::open(&dir.path().join("running")).unwrap(),
        time: Arc::new(System),
    };
    let node = Node::start(config, parts).await.unwrap();
    World { disk, store, found, told, node, _dir: dir }
}

impl World {
    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        let mut look = tokio::time::interval(Duration::from_millis(2));
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.found());
            look.tick().await;
        }
    }

    /// Waits for as many ticks as surely run ahead: the creation may not have been told of yet, and counts too.
    async fn run_ahead(&self) {
        self.until("many run ahead", || self.found().len() >= AHEAD - 1).await;
        assert!(self.found().len() <= AHEAD, "{:?}", self.found());
    }

    fn found(&self) -> Vec<u32> {
        self.found.lock().unwrap().clone()
    }

    fn waiting(&self) -> usize {
        self.store.inbox(ALICE, 1000).unwrap().len()
    }

    /// The disk has all ticks, one after another.
    async fn ends_well(self) {
        self.until("all land", || self.waiting() == 0).await;
        assert_eq!(self.found(), (0..POKES).collect::<Vec<_>>(), "each saw what the one before it did");
        let row = self.store.agent(ALICE).unwrap().unwrap();
        let records = self.store.records(ALICE, 0, 1000).unwrap();
        let agent = Hex(row.pubkey.to_bytes());
        let mut chain = Chain::new(agent, row.session, oa_nips::record::Head::GENESIS);
        records.iter().for_each(|record| chain.push(record).unwrap());
        assert_eq!((*chain.head(), row.head.seq), (row.head, u64::from(POKES) + 1));
        self.node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticks_see_one_another_before_anybody_else_sees_them() {
    let world = world(None).await;
    world.run_ahead().await;
    assert_eq!(world.store.file(ALICE, "/memory/n").unwrap(), None);
    assert_eq!(world.waiting(), POKES as usize);
    assert_eq!(world.store.agent(ALICE).unwrap().unwrap().head.seq, 1, "that of its creation");
    world.disk.set(Door::Open);
    world.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_at_the_disk_is_asked_once_it_is_there() {
    let world = world(Some(3)).await;
    world.until("the fourth asks", || world.found().len() == 4).await;
    world.disk.set(Door::Open);
    world.until("it is told", || world.waiting() == 0).await;
    assert_eq!(world.told.load(Ordering::Relaxed), 3);
    world.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_flush_fails_all_that_was_built_on_it_fails() {
    let world = world(None).await;
    world.run_ahead().await;
    world.disk.set(Door::Broken);
    tokio::time::timeout(DEADLINE, world.node.failed()).await.unwrap();
    let row = world.store.agent(ALICE).unwrap().unwrap();
    assert_eq!((row.head.seq, row.lifecycle, row.failures), (1, Lifecycle::Active, 0));
    assert_eq!((world.waiting(), world.store.file(ALICE, "/memory/n").unwrap()), (POKES as usize, None));
    let later =
        Write::Poke(Box::new(Poke { agent: ALICE, envelope: Envelope::from_node(Kind::Poke, "late", 1) }));
    assert!(matches!(world.store.write(later).await, Err(BackendError::Stopped(_))));
    world.disk.set(Door::Open);
    assert_eq!(world.waiting(), POKES as usize, "nothing follows what failed");
}
