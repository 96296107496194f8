//! What is done outside is not done again: for a letter that is put back, and after a crash.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use oa_nips::files::{Code, FileType, Request, Verb};
use oa_nips::hex::Hex;
use oa_nips::nostr::Keys;

use super::{asked, eventually, node};
use crate::agent::AgentId;
use crate::namespace::Error;
use crate::namespace::path::Path;
use crate::namespace::service::{
    self, Answer, Change, ChangeKey, Class, Context, FileService, LookUp, Span, Stat,
};
use crate::operator::tree::{change, key};
use crate::program::{Agent, Fault, Run, Tick};
use crate::serve::Srv;
use crate::store::write::{Failed, Verdict, Write};

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
