//! The operator protocol as a caller meets it: once is once, strangers hear nothing, what is stale is told so.

#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::time::Duration;

use oa_nips::files::{self, Code, Request, Verb};
use oa_nips::hex::Hex;
use oa_nips::kind;
use oa_nips::mail::Protocol;
use oa_nips::nostr::{Filter, Keys};
use oa_tests::caller::Caller;
use oa_tests::client::forge::now_s;
use oa_tests::local::{Plot, World};
use oa_tests::world::eventually;

const SOON: Duration = Duration::from_secs(10);
/// How long a silence must last to count as one.
const SILENCE: Duration = Duration::from_millis(500);

fn call(op: u8, path: &str, body: &str) -> Request {
    Request::new(Hex([op; 16]), Verb::Call, path, body.as_bytes().to_vec())
}

async fn world() -> (World, Caller, Keys) {
    let operator = Keys::generate();
    let plot = Plot { operators: vec![operator.public_key()], ..Plot::default() };
    let world = World::start(plot).await.unwrap();
    let caller = Caller::new(&world, operator.clone()).await.unwrap();
    (world, caller, operator)
}

#[tokio::test]
async fn an_operation_is_done_once_however_often_it_is_sent() {
    let (world, mut caller, _) = world().await;
    let new = call(1, "/agents/new", "name = \"alice\"\nprogram = \"echo\"");
    let first = caller.perform(&new).await.unwrap().unwrap();
    let again = caller.perform(&new).await.unwrap().unwrap();
    assert_eq!(first, again, "a repeat is answered from the record of the first");
    let twin = caller.perform(&call(2, "/agents/new", "name = \"alice\"")).await.unwrap().unwrap_err();
    assert_eq!(twin.code, Code::Exists);
    let other = caller.perform(&call(1, "/agents/new", "name = \"bob\"")).await.unwrap().unwrap_err();
    assert_eq!((other.code, world.agent("bob").is_err()), (Code::Exists, true), "an op id is one request's");
    // Also after a restart, and also what failed stays answered.
    let (world, ticks) = (world.stop().await.again().await.unwrap(), call(3, "/agents/alice/ctl", "tick"));
    assert_eq!(caller.perform(&new).await.unwrap().unwrap(), first);
    let poked = caller.perform(&ticks).await.unwrap().unwrap();
    assert_eq!(caller.perform(&ticks).await.unwrap().unwrap(), poked);
    let row = world.agent("alice").unwrap();
    assert_eq!(row.inbox_next, 2, "created and poked, once each");
    world.end().await;
}

#[tokio::test]
async fn a_stranger_gets_no_answer_not_even_a_refusal() {
    let (world, _, _) = world().await;
    let mut stranger = Caller::new(&world, Keys::generate()).await.unwrap();
    let read = Request::new(Hex([1; 16]), Verb::Read, "/node/version", Vec::new());
    stranger.send(&read, now_s()).await.unwrap();
    assert_eq!(stranger.reply(read.op, SILENCE).await, None);
    stranger.send(&call(2, "/agents/new", "name = \"evil\""), now_s()).await.unwrap();
    assert_eq!(stranger.reply(Hex([2; 16]), SILENCE).await, None);
    assert!(world.agent("evil").is_err());
    world.end().await;
}

#[tokio::test]
async fn a_stale_request_is_told_the_nodes_time_and_does_nothing() {
    let (world, mut caller, _) = world().await;
    let new = call(1, "/agents/new", "name = \"alice\"");
    caller.send(&new, now_s() + 120).await.unwrap();
    let error = caller.reply(new.op, SOON).await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::Stale);
    assert!(error.message.contains(&now_s().to_string()[..8]), "{}", error.message);
    assert!(world.agent("alice").is_err());
    world.end().await;
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let (world, mut caller, _) = world().await;
    let read = |op, verb, path: &str| Request::new(Hex([op; 16]), verb, path, Vec::new());
    for (op, request, code, word) in [
        (1, read(1, Verb::Read, "/agents/nobody/status"), Code::NotFound, "nobody"),
        (2, read(2, Verb::Read, "/agents/../node"), Code::InvalidPath, "/agents/../node"),
        (3, read(3, Verb::Read, "/agents"), Code::IsDir, "/agents"),
        (4, read(4, Verb::List, "/node/status"), Code::NotDir, "/node/status"),
        (5, read(5, Verb::Remove, "/agents"), Code::PermissionDenied, "/agents"),
        (6, call(6, "/agents/new", "name = \"A\""), Code::InvalidInput, "name"),
        (7, call(7, "/agents/new", "colour = 3"), Code::InvalidInput, "line 1"),
    ] {
        let error = caller.perform(&request).await.unwrap().unwrap_err();
        assert_eq!(error.code, code, "{op}: {}", error.message);
        assert!(error.message.contains(word), "{}", error.message);
    }
    world.end().await;
}

#[tokio::test]
async fn long_requests_and_replies_travel_in_frames() {
    let (world, mut caller, _) = world().await;
    // A manifest of 50 KiB: most of it an allowlist.
    let friends: Vec<String> =
        (0..700).map(|_| format!("{:?}", Keys::generate().public_key().to_hex())).collect();
    let manifest = format!("name = \"alice\"\nprogram = \"echo\"\n[dm]\nallow = [{}]", friends.join(", "));
    assert!(manifest.len() > 2 * files::FRAME_BODY_BYTES_MAX);
    caller.perform(&call(1, "/agents/new", &manifest)).await.unwrap().unwrap();
    let read = Request::new(Hex([2; 16]), Verb::Read, "/agents/alice/manifest", Vec::new());
    let stored = String::from_utf8(caller.perform(&read).await.unwrap().unwrap()).unwrap();
    assert!(stored.len() > 2 * files::FRAME_BODY_BYTES_MAX && stored.contains("npub1"));
    let mut part = Request::new(Hex([3; 16]), Verb::Read, "/agents/alice/manifest", Vec::new());
    (part.offset, part.count) = (7, 100);
    assert_eq!(caller.perform(&part).await.unwrap().unwrap(), &stored.as_bytes()[7..107]);
    world.end().await;
}

#[tokio::test]
async fn an_operator_writes_to_an_agent_and_changes_its_manifest_while_it_lives() {
    let (world, mut caller, operator) = world().await;
    let mut me = world.client_of(operator).await.unwrap();
    caller.perform(&call(1, "/agents/new", "name = \"alice\"\nprogram = \"echo\"")).await.unwrap().unwrap();
    let append = |op, body: &str| {
        Request::new(Hex([op; 16]), Verb::Append, "/agents/alice/inbox/new", body.as_bytes().to_vec())
    };
    let put = append(2, r#"{"text": "hello"}"#);
    let first = caller.perform(&put).await.unwrap().unwrap();
    assert_eq!(caller.perform(&put).await.unwrap().unwrap(), first);
    assert_eq!(me.next(SOON).await.unwrap().text(), Some("You said: hello"));
    assert_eq!(caller.perform(&append(3, "hello")).await.unwrap().unwrap_err().code, Code::InvalidInput);
    let agent = world.agent("alice").unwrap();
    assert_eq!(world.store.peer(agent.id, &me.public_key()).unwrap().unwrap().queued, 0);

    let write = |op, body: &str| {
        Request::new(Hex([op; 16]), Verb::Write, "/agents/alice/manifest", body.as_bytes().to_vec())
    };
    let changed = "name = \"alice\"\nprogram = \"echo\"\nabout = \"new\"\n[dm]\npolicy = \"open\"";
    caller.perform(&write(4, changed)).await.unwrap().unwrap();
    let renamed = caller.perform(&write(5, "name = \"bob\"")).await.unwrap().unwrap_err();
    assert!(renamed.message.contains("alice"), "{}", renamed.message);
    let mut stranger = world.client().await.unwrap();
    let reply = stranger.ask(agent.pubkey, "hi", Protocol::Nip17, SOON).await.unwrap();
    assert_eq!(reply.text(), Some("You said: hi"), "the new policy is in force");
    let profile = Filter::new().author(agent.pubkey).kind(kind::METADATA);
    let shown = async || {
        let events = me.fetch(&profile, SOON).await?;
        anyhow::ensure!(events.iter().any(|event| event.content.contains("new")), "{events:?}");
        Ok(())
    };
    eventually(SOON, shown).await.unwrap();
    world.end().await;
}
