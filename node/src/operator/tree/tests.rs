//! What needs a whole node: a stream that grows fast, read by somebody slow, as a watch reads it; a dead letter that
//! is put back.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use oa_nips::files::{Code, FileType, Request, Stat, Verb};
use oa_nips::hex::Hex;
use oa_nips::nostr::{Keys, PublicKey, RelayUrl};
use tokio::sync::Semaphore;

use super::{Operation, Place, change, key};
use crate::Node;
use crate::agent::manifest::{Level, Manifest, Npub};
use crate::agent::{AgentId, Lifecycle};
use crate::approvals::{self, Stage};
use crate::drivers::nostr::RelaySpec;
use crate::engine::running::Running;
use crate::keyring::{Addresses, SeedKeyring};
use crate::namespace::Error;
use crate::namespace::path::Path;
use crate::namespace::service::{
    self, Answer, Change, ChangeKey, Class, Context, Effect, FileService, LookUp, Span,
};
use crate::node::{Config, Parts};
use crate::notice::Notice;
use crate::program::{Agent, Fault, Run, Tick};
use crate::serve::Srv;
use crate::signer::Seed;
use crate::store::Store;
use crate::store::memory::MemoryBackend;
use crate::store::write::{AgentChange, Failed, Verdict, Write};
use crate::time::{System, Time as _};

/// Lines that come between two looks of the reader: a tenth of a second of 10,000 a second.
const BETWEEN: u64 = 1_000;
/// How often it looks.
const LOOKS: u64 = 50;
const KIB: usize = 1024;
/// What it takes at once: one frame.
const TAKEN: usize = 16 * KIB;
/// What a stream keeps.
const KEPT: u64 = 1024 * 1024;

/// A node that nobody hears, with one agent, alice.
async fn node(operator: PublicKey, more: impl FnOnce(Config) -> Config) -> (Node, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(Arc::new(MemoryBackend::default())).unwrap();
    let addresses = Arc::new(Addresses::load(&store).unwrap());
    // The discard port: nobody listens there.
    let url = RelayUrl::parse("ws://127.0.0.1:9").unwrap();
    let config = Config { operators: vec![operator], ..Config::new(vec![RelaySpec { url, wide: false }]) };
    let parts = Parts {
        store,
        keyring: Arc::new(SeedKeyring::new(Seed::generate(), addresses.clone())),
        addresses,
        running: Running::open(&dir.path().join("running")).unwrap(),
        time: Arc::new(System),
    };
    let node = Node::start(more(config), parts).await.unwrap();
    node.ensure_agent(Manifest::new("alice", "echo")).await.unwrap();
    (node, dir)
}

fn line(number: u64) -> Notice {
    let (to, relay) = (format!("{number:08}"), "wss://relay.example".to_owned());
    Notice::MailOut { agent: "alice".into(), to, protocol: oa_nips::mail::Protocol::Nip17, relay }
}

/// The number in a line, if it is one of ours.
fn number(line: &[u8]) -> Option<u64> {
    let line: serde_json::Value = serde_json::from_slice(line).unwrap();
    line["to"].as_str()?.parse().ok()
}

#[tokio::test]
async fn a_slow_reader_of_a_fast_stream_learns_what_it_missed_and_nothing_grows() {
    let operator = Keys::generate().public_key();
    let (node, _dir) = node(operator, |config| config).await;
    let admin = node.admin();
    for path in ["/agents/alice/logs/events.jsonl", "/node/log"] {
        let place = || Place::find(&admin, &operator, path).unwrap();
        let mut watch = place().watch(&admin).unwrap();
        let (_, _, mut at) = place().piece(&admin, 0, 0).await.unwrap();
        let (mut rest, mut next, mut seen, mut missed) = (Vec::new(), 0, 0_u64, 0_u64);
        let mut take = |offset: u64, bytes: &[u8], at: &mut u64| {
            if offset > *at {
                // What was let go ends where a line does, so that the piece of a line before it is lost with it.
                rest.clear();
            }
            *at = offset + bytes.len() as u64;
            rest.extend_from_slice(bytes);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let whole: Vec<u8> = rest.drain(..=end).collect();
                let Some(number) = number(&whole) else { continue };
                assert!(number >= next, "{path}: in order, and each once");
                missed += number - next;
                seen += 1;
                next = number + 1;
            }
        };
        let mut gaps = 0;
        for look in 0..LOOKS {
            (0..BETWEEN).for_each(|n| admin.shared.feeds.notice(&line(look * BETWEEN + n)));
            assert!(watch.has_changed().unwrap(), "{path}: it is woken, once for all of them");
            watch.borrow_and_update();
            let (offset, bytes, length) = place().piece(&admin, at, TAKEN).await.unwrap();
            assert!(bytes.len() <= TAKEN && length - offset <= KEPT, "{path}: {length} - {offset}");
            gaps += u64::from(offset > at);
            take(offset, &bytes, &mut at);
        }
        assert!(gaps > 0, "{path}: more came than is kept");
        // Then it catches up.
        loop {
            let (offset, bytes, length) = place().piece(&admin, at, TAKEN).await.unwrap();
            assert!(
                offset == at || length - at > KEPT - TAKEN as u64,
                "{path}: nothing goes that there is room for"
            );
            take(offset, &bytes, &mut at);
            if at == length {
                break;
            }
        }
        assert_eq!(next, LOOKS * BETWEEN, "{path}: the last line came");
        assert_eq!(seen + missed, LOOKS * BETWEEN, "{path}: each line was read or known to be missed");
        assert!(missed > 0);
    }
    node.shutdown().await;
}

/// Old lines go while it is read: what comes still stands where it says.
#[tokio::test]
async fn what_is_let_go_between_two_looks_is_not_taken_for_what_was_asked_for() {
    let operator = Keys::generate().public_key();
    let (node, _dir) = node(operator, |config| config).await;
    let admin = node.admin();
    let place = || Place::find(&admin, &operator, "/agents/alice/logs/events.jsonl").unwrap();
    let (_, _, base) = place().piece(&admin, 0, 0).await.unwrap();
    let push = |number| admin.shared.feeds.notice(&line(number));
    push(0);
    // Each line is as long as the first.
    let length = place().piece(&admin, base, 0).await.unwrap().2 - base;
    let full = KEPT / length + 1;
    (1..full).for_each(push);
    let is_over = AtomicBool::new(false);
    let wrong = std::thread::scope(|scope| {
        scope.spawn(|| (full..).take_while(|_| !is_over.load(Ordering::Relaxed)).for_each(push));
        // The writer ends also when what is looked at here fails.
        let over = Over(&is_over);
        let look = || {
            let place = place();
            let read = place.piece(&admin, 0, 4 * KIB);
            let (offset, bytes, _) = read.now_or_never().unwrap().unwrap();
            if bytes.is_empty() {
                return None;
            }
            let first = number(bytes.split(|byte| *byte == b'\n').next().unwrap_or_default());
            (first != Some((offset - base) / length)).then_some((offset, first))
        };
        let wrong = (0..10_000).find_map(|_| look());
        drop(over);
        wrong
    });
    assert_eq!(wrong, None);
    node.shutdown().await;
}

/// Says that something is over when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Counts how often it is called, which nobody can take back.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl FileService for Count {
    fn stat<'a>(&'a self, _: &'a Context<'a>, _: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async { Ok(service::file("", FileType::Call, 0)) })
    }

    fn list<'a>(&'a self, _: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move { Err(Error::not_dir(path)) })
    }

    fn read<'a>(&'a self, _: &'a Context<'a>, path: &'a Path, _: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move { Err(Error::denied(path)) })
    }

    fn class(&self, _: &Path, _: &Change) -> Class {
        Class::AtMostOnce
    }

    fn act<'a>(&'a self, _: &'a Context<'a>, _: &'a Path, _: &'a Change) -> Answer<'a, Vec<u8>> {
        Box::pin(async { Ok((self.0.fetch_add(1, Ordering::SeqCst) + 1).to_string().into_bytes()) })
    }
}

/// Counts, and then fails while it is told to.
#[derive(Debug, Default)]
struct Counter {
    fails: AtomicBool,
}

impl Agent for Counter {
    fn on_trigger<'a>(&'a self, tick: &'a mut Tick) -> Run<'a> {
        Box::pin(async move {
            let count = tick.ns.call("/tools/count", b"one more").await?;
            if self.fails.load(Ordering::SeqCst) {
                return Err(Fault::Failed("as asked".to_owned()));
            }
            tick.ns.append("/memory/counts", &[&count[..], b";"].concat()).await?;
            Ok(())
        })
    }
}

async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_a_replayed_letter_did_outside_is_not_done_again_unless_that_is_asked_for() {
    let (operator, count, program) =
        (Keys::generate().public_key(), Arc::new(Count::default()), Arc::new(Counter::default()));
    let (node, _dir) = node(operator, |mut config| {
        config.tools.push(("count".to_owned(), count.clone()));
        config.programs.add("echo", program.clone());
        config
    })
    .await;
    let admin = node.admin();
    let (store, alice) = (&admin.shared.store, AgentId(0));
    let ops = AtomicU8::new(1);
    let ask = async |verb, path: &str, body: &str| {
        let op = ops.fetch_add(1, Ordering::Relaxed);
        let request = Request::new(Hex([op; 16]), verb, path, body.as_bytes().to_vec());
        change(&admin, asked(&operator, &request, false)).await.unwrap()
    };
    let counts = || store.file(alice, "/memory/counts").unwrap().unwrap_or_default();
    // Its tick fails after the call, and the envelope is given up.
    let bury = async |text: &str| {
        program.fails.store(true, Ordering::SeqCst);
        ask(Verb::Append, "/agents/alice/inbox/new", text).await;
        let failed = || store.inbox(alice, 9).unwrap().into_iter().find(|(_, waiting)| waiting.failures > 0);
        eventually("the tick fails", || failed().is_some()).await;
        let seq = failed().unwrap().0;
        let failed = Failed {
            agent: alice,
            seq,
            reason: "as asked".to_owned(),
            effects: Vec::new(),
            is_crash: false,
            max: 1,
            then: None,
            at_ms: 0,
            told: None,
        };
        assert!(matches!(store.write(Write::Fail(failed)).await, Ok(Verdict::Buried(_))));
        program.fails.store(false, Ordering::SeqCst);
        store.dead_letters(alice).unwrap()[0].0
    };
    let letter = bury(r#"{"text": "one"}"#).await;
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    ask(Verb::Call, "/agents/alice/deadletter/ctl", &format!("replay {letter}")).await;
    eventually("the replay commits", || counts() == b"1;").await;
    assert_eq!(count.0.load(Ordering::SeqCst), 1, "called once in all");
    let letter = bury(r#"{"text": "two"}"#).await;
    ask(Verb::Call, "/agents/alice/deadletter/ctl", &format!("rerun {letter} --fresh confirmed")).await;
    eventually("the new run commits", || counts() == b"1;3;").await;
    assert_eq!(count.0.load(Ordering::SeqCst), 3, "called again");
    node.shutdown().await;
}

fn asked<'a>(caller: &'a PublicKey, request: &'a Request, was_begun: bool) -> Operation<'a> {
    Operation { caller, request, digest: Hex([1; 32]), at_ms: System.now_ms(), was_begun }
}

/// Does each key's work once, and can tell whose it has done; somebody who is away for a while.
#[derive(Debug, Default)]
struct Desk {
    done: Mutex<HashSet<ChangeKey>>,
    acts: AtomicU64,
    is_away: AtomicBool,
}

impl FileService for Desk {
    fn stat<'a>(&'a self, _: &'a Context<'a>, _: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async { Ok(service::file("", FileType::Call, 0)) })
    }

    fn list<'a>(&'a self, _: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move { Err(Error::not_dir(path)) })
    }

    fn read<'a>(&'a self, _: &'a Context<'a>, path: &'a Path, _: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move { Err(Error::denied(path)) })
    }

    fn class(&self, _: &Path, _: &Change) -> Class {
        Class::Queryable
    }

    fn act<'a>(&'a self, cx: &'a Context<'a>, _: &'a Path, _: &'a Change) -> Answer<'a, Vec<u8>> {
        Box::pin(async {
            self.acts.fetch_add(1, Ordering::SeqCst);
            self.done.lock().unwrap().insert(cx.key);
            Ok(b"acted".to_vec())
        })
    }

    fn look_up<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, _: &'a Change) -> Answer<'a, LookUp> {
        Box::pin(async move {
            if self.is_away.load(Ordering::SeqCst) {
                return Err(Error::new(Code::Unavailable, path, "nobody is here"));
            }
            let is_done = self.done.lock().unwrap().contains(&cx.key);
            Ok(if is_done { LookUp::Done(b"looked up".to_vec()) } else { LookUp::NotDone })
        })
    }
}

#[tokio::test]
async fn an_operation_that_was_begun_before_a_crash_is_looked_up_and_done_if_it_was_not() {
    let (operator, desk) = (Keys::generate().public_key(), Arc::new(Desk::default()));
    let (node, _dir) = node(operator, |mut config| {
        let srv = Srv { service: desk.clone(), agents: None, what: "a desk".to_owned(), folder: None };
        config.srv.insert("desk".to_owned(), srv);
        config
    })
    .await;
    let bob = r#"{"name":"bob","program":"echo","mounts":[{"path":"/workspace","from":["desk"],"access":"read_write"}]}"#;
    node.ensure_agent(serde_json::from_str(bob).unwrap()).await.unwrap();
    let admin = node.admin();
    let request = |op: u8| Request::new(Hex([op; 16]), Verb::Call, "/agents/bob/workspace", b"x".to_vec());
    let ask = async |op: u8, was_begun| change(&admin, asked(&operator, &request(op), was_begun)).await;
    let kept = |op: u8| admin.shared.store.op(&operator, &Hex([op; 16])).unwrap();

    assert_eq!(ask(1, false).await.unwrap(), b"acted");
    assert!(!kept(1).unwrap().begun);
    // It was done, and the node ended before it was answered.
    desk.done.lock().unwrap().insert(key(&operator, &Hex([2; 16])));
    desk.is_away.store(true, Ordering::SeqCst);
    assert_eq!(ask(2, true).await.unwrap_err().code, Code::Unavailable);
    assert_eq!(kept(2), None, "who cannot be told the truth now is told it later");
    desk.is_away.store(false, Ordering::SeqCst);
    assert_eq!(ask(2, true).await.unwrap(), b"looked up");
    assert_eq!((kept(2).unwrap().begun, desk.acts.load(Ordering::SeqCst)), (false, 1));
    // It was begun and not done.
    assert_eq!(ask(3, true).await.unwrap(), b"acted");
    assert_eq!(desk.acts.load(Ordering::SeqCst), 2);
    node.shutdown().await;
}

/// Does what it is asked to when it is let go on.
#[derive(Debug)]
struct Slow {
    class: Class,
    begun: Semaphore,
    goes_on: Semaphore,
}

impl Slow {
    async fn work(&self) {
        self.begun.add_permits(1);
        self.goes_on.acquire().await.unwrap().forget();
    }
}

impl FileService for Slow {
    fn stat<'a>(&'a self, _: &'a Context<'a>, _: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async { Ok(service::file("", FileType::Call, 0)) })
    }

    fn list<'a>(&'a self, _: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move { Err(Error::not_dir(path)) })
    }

    fn read<'a>(&'a self, _: &'a Context<'a>, path: &'a Path, _: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move { Err(Error::denied(path)) })
    }

    fn class(&self, _: &Path, _: &Change) -> Class {
        self.class
    }

    fn change<'a>(&'a self, _: &'a Context<'a>, _: &'a Path, _: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async {
            self.work().await;
            Ok(Effect::default())
        })
    }

    fn act<'a>(&'a self, _: &'a Context<'a>, _: &'a Path, _: &'a Change) -> Answer<'a, Vec<u8>> {
        Box::pin(async {
            self.work().await;
            Ok(Vec::new())
        })
    }
}

/// Wishes for it.
#[derive(Debug)]
struct Wisher;

impl Agent for Wisher {
    fn on_trigger<'a>(&'a self, tick: &'a mut Tick) -> Run<'a> {
        Box::pin(async move {
            let _ = tick.ns.call("/tools/slow", b"x").await;
            Ok(())
        })
    }
}

/// An agent that has wished for something which needs consent.
struct Wish {
    node: Node,
    slow: Arc<Slow>,
    operator: PublicKey,
    agent: AgentId,
    id: String,
    ops: AtomicU8,
    _dir: tempfile::TempDir,
}

impl Wish {
    async fn new(class: Class) -> Self {
        let operator = Keys::generate().public_key();
        let slow = Arc::new(Slow { class, begun: Semaphore::new(0), goes_on: Semaphore::new(0) });
        let (node, dir) = node(operator, |mut config| {
            config.tools.push(("slow".to_owned(), slow.clone()));
            config.programs.add("echo", Arc::new(Wisher));
            config
        })
        .await;
        let mut manifest = Manifest::new("bob", "echo");
        manifest.owner = Some(Npub(operator));
        manifest.autonomy.level = Level::Supervised;
        let key = node.ensure_agent(manifest).await.unwrap();
        let agent = node.admin().shared.keyring.whose(&key).unwrap();
        let mut wish =
            Self { node, slow, operator, agent, id: String::new(), ops: AtomicU8::new(1), _dir: dir };
        wish.ask(Verb::Append, "/agents/bob/inbox/new", r#"{"text":"go"}"#).await;
        let wishes = wish.node.admin().shared.wishes.clone();
        eventually("the wish is frozen", || wishes.waiting_of(agent) == 1).await;
        wish.id = wishes.of(Some(agent)).remove(0);
        wish
    }

    async fn ask(&self, verb: Verb, path: &str, body: &str) -> serde_json::Value {
        let op = self.ops.fetch_add(1, Ordering::Relaxed);
        let request = Request::new(Hex([op; 16]), verb, path, body.as_bytes().to_vec());
        let reply = change(&self.node.admin(), asked(&self.operator, &request, false)).await.unwrap();
        serde_json::from_slice(&reply).unwrap()
    }

    async fn approve(&self) {
        self.ask(Verb::Call, "/approvals/ctl", &format!("approve {}", self.id)).await;
    }

    fn state(&self) -> Stage {
        approvals::one(&self.node.admin().shared.store, &self.id).unwrap().unwrap().1.state
    }

    async fn has_begun(&self) {
        eventually("it begins", || self.slow.begun.available_permits() == 1).await;
    }
}

/// How long a silence must last to count as one.
const SILENCE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_stop_is_answered_after_what_was_granted_and_begun_has_landed() {
    let wish = Wish::new(Class::Transactional).await;
    wish.approve().await;
    wish.has_begun().await;
    let mut stop = Box::pin(wish.ask(Verb::Call, "/agents/bob/ctl", "stop"));
    assert!(tokio::time::timeout(SILENCE, &mut stop).await.is_err(), "answered, and then something landed");
    wish.slow.goes_on.add_permits(1);
    let said = stop.await;
    assert_eq!((wish.state(), said.get("under_way")), (Stage::Done, None));
    wish.node.shutdown().await;
}

#[tokio::test]
async fn a_stop_tells_what_has_begun_outside_and_does_not_wait_for_it() {
    let wish = Wish::new(Class::AtMostOnce).await;
    wish.approve().await;
    wish.has_begun().await;
    let said = wish.ask(Verb::Call, "/agents/bob/ctl", "stop").await;
    assert_eq!(said["under_way"], serde_json::json!([wish.id]));
    wish.slow.goes_on.add_permits(1);
    eventually("it ends", || wish.state() == Stage::Done).await;
    let said = wish.ask(Verb::Call, "/agents/bob/ctl", "stop").await;
    assert_eq!(said.get("under_way"), None);
    wish.node.shutdown().await;
}

#[tokio::test]
async fn what_was_granted_is_not_begun_after_a_stop_that_came_between_the_look_and_the_act() {
    for class in [Class::Transactional, Class::AtMostOnce] {
        let wish = Wish::new(class).await;
        let admin = wish.node.admin();
        // The agent went on when it was looked at, under its turn.
        let begins = admin.shared.wishes.begins(wish.agent).await;
        wish.approve().await;
        let has_turn = || admin.shared.turns.of(wish.agent).now_or_never().is_none();
        eventually("its turn is taken", has_turn).await;
        let stopped = AgentChange::Lifecycle(Lifecycle::Stopped, None);
        admin.shared.store.write(Write::ChangeAgent(wish.agent, stopped)).await.unwrap();
        drop(begins);
        eventually("its turn is over", || !has_turn()).await;
        assert_eq!(wish.slow.begun.available_permits(), 0, "{class:?}");
        assert!(matches!(wish.state(), Stage::Granted { .. }), "it waits with the agent");
        // It goes on with it.
        wish.ask(Verb::Call, "/agents/bob/ctl", "resume").await;
        wish.has_begun().await;
        wish.slow.goes_on.add_permits(1);
        eventually("it ends", || wish.state() == Stage::Done).await;
        wish.node.shutdown().await;
    }
}
