//! An agent is stopped while something that it was granted is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use oa_nips::files::{FileType, Request, Verb};
use oa_nips::hex::Hex;
use oa_nips::nostr::{Keys, PublicKey};
use tokio::sync::Semaphore;

use super::{asked, eventually, node};
use crate::Node;
use crate::agent::manifest::{Level, Manifest, Npub};
use crate::agent::{AgentId, Lifecycle};
use crate::approvals::{self, Stage};
use crate::namespace::Error;
use crate::namespace::path::Path;
use crate::namespace::service::{self, Answer, Change, Class, Context, Effect, FileService, Span, Stat};
use crate::operator::tree::change;
use crate::program::{Agent, Run, Tick};
use crate::store::write::{AgentChange, Write};

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
    // It is on disk an instant before it is known here: a stop may still name what has just ended, and never omits any.
    let wishes = wish.node.admin().shared.wishes.clone();
    eventually("it ends", || wishes.doing(wish.agent).is_empty()).await;
    assert_eq!(wish.state(), Stage::Done);
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
