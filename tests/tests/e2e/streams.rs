//! An agent at work, as owner and public see it: streams, metrics, mail and peers as files.

#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use oa_nips::files::{Code, Verb};
use oa_nips::hud::Batch;
use oa_nips::kind;
use oa_nips::mail::Protocol;
use oa_nips::nostr::{Filter, Keys, RelayUrl, ToBech32 as _};
use oa_node::agent::manifest::{Manifest, Policy};
use oa_node::drivers::nostr::{self as pool, Incoming, OneKey, Pool};
use oa_node::signer::{Conversations, LocalSigner};
use oa_tests::caller::Caller;
use oa_tests::local::{Plot, World};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

const SOON: Duration = Duration::from_secs(20);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(20);

async fn world() -> (World, Caller) {
    world_of(Keys::generate()).await
}

async fn world_of(operator: Keys) -> (World, Caller) {
    let plot = Plot { operators: vec![operator.public_key()], ..Plot::default() };
    let world = World::start(plot).await.unwrap();
    let mut manifest = Manifest::new("alice", "echo");
    manifest.dm.policy = Policy::Open;
    manifest.hud.public = true;
    world.node.ensure_agent(manifest).await.unwrap();
    let caller = Caller::new(&world, operator).await.unwrap();
    (world, caller)
}

async fn read(caller: &mut Caller, path: &str) -> String {
    let path = format!("/agents/alice{path}");
    String::from_utf8(caller.ask(Verb::Read, &path, "").await.unwrap().unwrap()).unwrap()
}

async fn json(caller: &mut Caller, path: &str) -> Value {
    serde_json::from_str(&read(caller, path).await).unwrap()
}

/// Reads until a file says what is waited for.
async fn until(caller: &mut Caller, path: &str, is: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + SOON;
    loop {
        let text = read(caller, path).await;
        if is(&text) {
            return text;
        }
        assert!(Instant::now() < deadline, "{path}: {text}");
        sleep(PAUSE).await;
    }
}

#[tokio::test]
async fn a_message_is_followed_through_every_stream() {
    let (world, mut caller) = world().await;
    for path in ["/logs/trace", "/logs/events.jsonl", "/hud/stream", "/outbox/stream", "/logs/ticks"] {
        read(&mut caller, path).await;
    }
    let alice = world.agent("alice").unwrap().pubkey;
    let mut stranger = world.client().await.unwrap();
    let npub = stranger.public_key().to_bech32().unwrap();
    let said = stranger.ask(alice, "hello", Protocol::Nip17, SOON).await.unwrap();
    assert_eq!(said.text(), Some("You said: hello"));

    let trace = until(&mut caller, "/logs/trace", |trace| trace.contains("replied in")).await;
    assert!(trace.contains(&format!("begins: dm from {npub} (stranger)")), "{trace}");
    let ticks = until(&mut caller, "/logs/ticks", |ticks| ticks.contains("\"replied\"")).await;
    assert_eq!(ticks.lines().count(), 2, "creation and message: {ticks}");
    until(&mut caller, "/logs/trajectory", |records| records.lines().count() == 2).await;
    until(&mut caller, "/logs/events.jsonl", |events| {
        ["\"mail_in\"", "\"mail_out\"", "\"replied\""].iter().all(|what| events.contains(what))
    })
    .await;
    until(&mut caller, "/outbox/stream", |items| items.contains("\"sent\":true")).await;
    let hud = until(&mut caller, "/hud/stream", |hud| hud.contains("\"replied\"")).await;
    assert!(!hud.contains("hello") && !hud.contains(&npub), "an onlooker sees no words and no people: {hud}");

    assert!(json(&mut caller, "/metrics/apm").await["value"].as_u64().unwrap() >= 1);
    assert_eq!(json(&mut caller, "/metrics/queue").await, serde_json::json!({ "depth": 0, "oldest": null }));
    let peer = json(&mut caller, &format!("/peers/{npub}.json")).await;
    assert_eq!([&peer["trust"], &peer["waiting"]], [&Value::from("stranger"), &Value::from(0)]);
    let listed = caller.ask(Verb::List, "/agents/alice/outbox", "").await.unwrap().unwrap();
    let last = String::from_utf8(listed).unwrap().matches(".json").count() - 1;
    assert_eq!(json(&mut caller, &format!("/outbox/{last}.json")).await["text"], "You said: hello");
    assert_eq!(json(&mut caller, "/memory/export").await, serde_json::json!({}));
    let log = caller.ask(Verb::Read, "/node/log", "").await.unwrap().unwrap();
    assert!(String::from_utf8(log).unwrap().contains("\"relay_up\""));
    let config = caller.ask(Verb::Read, "/node/config", "").await.unwrap().unwrap();
    assert!(String::from_utf8(config).unwrap().contains(&world.relay_url()));
    world.end().await;
}

#[tokio::test]
async fn a_dead_letter_is_read_and_dropped_and_an_ended_agent_takes_none_back() {
    let (world, mut caller) = world().await;
    let alice = world.agent("alice").unwrap().pubkey;
    let stranger = world.client().await.unwrap();
    stranger.dm(alice, "violate", Protocol::Nip17, SOON).await.unwrap();
    until(&mut caller, "/deadletter/count", |count| count == "1").await;
    let letters = caller.ask(Verb::List, "/agents/alice/deadletter", "").await.unwrap().unwrap();
    assert!(String::from_utf8(letters).unwrap().contains("\"0\""));
    let letter = json(&mut caller, "/deadletter/0").await;
    assert_eq!(letter["envelope"]["text"], "violate");
    assert!(letter["reason"].as_str().unwrap().contains("as asked"), "{letter}");
    let mut ctl =
        async |command: &str| caller.ask(Verb::Call, "/agents/alice/deadletter/ctl", command).await.unwrap();
    // A violation ends an agent, and an ended one takes nothing back.
    assert_eq!(ctl("replay 0").await.unwrap_err().code, Code::Unavailable);
    assert_eq!(ctl("rerun 0 --fresh").await.unwrap_err().code, Code::ApprovalRequired);
    ctl("drop 0").await.unwrap();
    assert_eq!(ctl("drop 0").await.unwrap_err().code, Code::NotFound);
    assert_eq!(read(&mut caller, "/deadletter/count").await, "0");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_put_back_once_however_many_ask_and_is_the_same_message() {
    let operator = Keys::generate();
    let (world, mut caller) = world_of(operator.clone()).await;
    let mut other = Caller::new(&world, operator).await.unwrap();
    let alice = world.agent("alice").unwrap().pubkey;
    let stranger = world.client().await.unwrap();
    stranger.dm(alice, "fail", Protocol::Nip17, SOON).await.unwrap();
    until(&mut caller, "/deadletter/count", |count| count == "1").await;
    let first = json(&mut caller, "/deadletter/0").await;
    let path = "/agents/alice/deadletter/ctl";
    let (one, two) =
        tokio::join!(caller.ask(Verb::Call, path, "replay 0"), other.ask(Verb::Call, path, "replay 0"));
    let done = [one.unwrap(), two.unwrap()];
    let put_back: Vec<Value> =
        done.iter().flatten().map(|reply| serde_json::from_slice(reply).unwrap()).collect();
    assert_eq!(put_back.len(), 1, "{done:?}");
    assert_eq!((&put_back[0]["did"], &put_back[0]["envelope"]), (&"replay".into(), &first["envelope"]["id"]));
    assert_eq!(
        caller.ask(Verb::Call, path, "replay 0").await.unwrap().unwrap_err().code,
        Code::NotFound,
        "it is no letter any more"
    );
    // It is tried as before, and fails as before: the same message under the next number.
    until(&mut caller, "/deadletter/count", |count| count == "1").await;
    let again = json(&mut caller, "/deadletter/1").await;
    assert_eq!(again["envelope"]["id"], first["envelope"]["id"]);
    world.end().await;
}

#[tokio::test]
async fn the_public_sees_what_it_may_signed_by_the_agent() {
    let (world, mut caller) = world().await;
    let alice = world.agent("alice").unwrap().pubkey;
    let (sender, mut incoming) = mpsc::channel(64);
    let url = RelayUrl::parse(&world.relay_url()).unwrap();
    let key = OneKey(Arc::new(LocalSigner::new(Keys::generate(), Conversations::default())));
    let looking = Pool::start(pool::Config::client([&url]), Arc::new(key), None, sender);
    looking.stand("hud", Filter::new().kind(kind::HUD).author(alice));
    assert_eq!(looking.ready(1, SOON).await, 1);
    // Relays do not keep what is ephemeral: the agent works until somebody has seen it.
    let seen = async {
        let mut types = Vec::new();
        while types.iter().all(|seen| seen != "tick_end") {
            caller.ask(Verb::Call, "/agents/alice/ctl", "tick").await?.ok().context("ticks")?;
            let Ok(Some(Incoming::Event { event, .. })) = timeout(PAUSE * 10, incoming.recv()).await else {
                continue;
            };
            event.verify()?;
            let batch = Batch::read(&event.content).context("a batch")?;
            for event in &batch.events {
                ensure!(!event.contains_key("message") && !event.contains_key("trust"), "{event:?}");
                types.extend(event.get("type").and_then(Value::as_str).map(str::to_owned));
            }
        }
        anyhow::Ok(())
    };
    timeout(SOON, seen).await.unwrap().unwrap();
    caller.ask(Verb::Write, "/agents/alice/hud/settings", "public = false").await.unwrap().unwrap();
    assert!(read(&mut caller, "/hud/settings").await.starts_with("public = false"));
    world.end().await;
}
