//! Bundles: an agent goes from one node to another, and nobody who writes to it notices more than a pause.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::time::Duration;

use oa_nips::files::{Code, OpError, Request, Verb};
use oa_nips::hex::Hex;
use oa_nips::mail::Protocol;
use oa_nips::nostr::{Filter, Keys, Kind, PublicKey};
use oa_node::agent::manifest::{Manifest, Policy};
use oa_node::agent::{AgentId, Lifecycle};
use oa_node::codes;
use oa_node::signer::Seed;
use oa_tests::caller::Caller;
use oa_tests::client::Client;
use oa_tests::client::forge::now_s;
use oa_tests::local::{Plot, World};
use oa_tests::secrets::Secrets;
use oa_tests::world::{Home, World as Machine, eventually};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
/// How long a silence must last to count as one.
const SILENCE: Duration = Duration::from_millis(700);

/// A node with alice, who has heard `one` and has a file; its operator, and somebody who writes.
struct Cast {
    world: World,
    operator: Keys,
    alice: PublicKey,
    friend: Client,
}

async fn cast() -> Cast {
    let operator = Keys::generate();
    let world = World::start(plot(&operator)).await.unwrap();
    let mut manifest = Manifest::new("alice", "echo");
    manifest.dm.policy = Policy::Open;
    let alice = world.node.ensure_agent(manifest).await.unwrap();
    let mut friend = world.client().await.unwrap();
    assert_eq!(ask(&mut friend, alice, "one").await, "You said: one");
    assert_eq!(ask(&mut friend, alice, "do write /memory/x kept").await, "did: ");
    Cast { world, operator, alice, friend }
}

fn plot(operator: &Keys) -> Plot {
    Plot { operators: vec![operator.public_key()], ..Plot::default() }
}

async fn ask(friend: &mut Client, agent: PublicKey, text: &str) -> String {
    friend.ask(agent, text, Protocol::Nip17, SOON).await.unwrap().text().unwrap().to_owned()
}

/// Has a bundle made, and fetches it in pieces.
async fn export(world: &World, operator: &Keys, how: &str) -> Vec<u8> {
    let mut caller = Caller::new(world, operator.clone()).await.unwrap();
    let said = caller.ask(Verb::Call, "/agents/alice/export", how).await.unwrap().unwrap();
    let said: Value = serde_json::from_slice(&said).unwrap();
    assert_eq!(said["migrated"], how == "migrate");
    let path = format!("/agents/alice{}", said["path"].as_str().unwrap());
    let bundle = caller.ask(Verb::Read, &path, "").await.unwrap().unwrap();
    assert_eq!(said["bytes"], bundle.len());
    bundle
}

/// Has a bundle taken in.
async fn import(world: &World, operator: &Keys, order: Value, bundle: &[u8]) -> Result<Value, OpError> {
    let mut caller = Caller::new(world, operator.clone()).await.unwrap();
    let body = format!("{order}\n{}", String::from_utf8_lossy(bundle));
    let said = caller.ask(Verb::Call, "/agents/import", &body).await.unwrap()?;
    Ok(serde_json::from_slice(&said).unwrap())
}

/// Whether a call is not even answered.
async fn is_unheard(world: &World, caller: Keys, path: &str, body: &str) -> bool {
    let mut caller = Caller::new(world, caller).await.unwrap();
    let op = Hex(codes::random().first_chunk().copied().unwrap());
    caller.send(&Request::new(op, Verb::Call, path, body.as_bytes().to_vec()), now_s()).await.unwrap();
    caller.reply(op, SILENCE).await.is_none()
}

/// Waits until a restored agent goes on.
async fn goes_on(world: &World, name: &str) {
    let ticks = || async {
        let row = world.agent(name)?;
        anyhow::ensure!(row.lifecycle.ticks(), "{:?}", row.reason);
        anyhow::Ok(())
    };
    eventually(SOON, ticks).await.unwrap();
}

fn heard(world: &World) -> Vec<String> {
    world.plot.heard.lock().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_agent_goes_on_and_answers_nothing_twice() {
    let Cast { world, operator, alice, mut friend } = cast().await;
    let bundle = export(&world, &operator, "").await;
    let exported = world.agent("alice").unwrap();
    // What the export does not know: one that was answered by either protocol, and one that nobody answered.
    assert_eq!(ask(&mut friend, alice, "two").await, "You said: two");
    let old = friend.ask(alice, "two by the old way", Protocol::Nip04, SOON).await.unwrap();
    assert_eq!(old.text(), Some("You said: two by the old way"));
    let copies = || async {
        let open = world.store.outbox_open(None, 9)?;
        anyhow::ensure!(open.is_empty(), "its copies are on their way");
        anyhow::Ok(())
    };
    eventually(SOON, copies).await.unwrap();
    let stopped = world.stop().await;
    let three = friend.dm(alice, "three", Protocol::Nip17, SOON).await.unwrap();

    let world = stopped.without_its_store(plot(&operator)).await.unwrap();
    let said = import(&world, &operator, json!({ "mode": "restore" }), &bundle).await.unwrap();
    assert_eq!((said["name"].as_str(), said["mode"].as_str()), (Some("alice"), Some("restore")));
    let answer = friend.answer(three, SOON).await.unwrap();
    assert_eq!((answer.author, answer.text()), (alice, Some("You said: three")));
    assert!(friend.next(SILENCE).await.is_err(), "nothing is said twice");
    assert_eq!(heard(&world), ["three"]);
    // Same mind, same chain.
    assert_eq!(ask(&mut friend, alice, "do read /memory/x").await, "did: kept");
    let row = world.agent("alice").unwrap();
    assert_eq!((row.id, row.pubkey, row.session), (exported.id, exported.pubkey, exported.session));
    let records = world.store.records(row.id, exported.head.seq, 9).unwrap();
    assert_eq!(records.len(), 2, "of three, and of the question");
    let mut head = exported.head;
    for record in &records {
        head = record.verify(&head).unwrap();
    }
    assert_eq!(head, row.head);
    // Once is enough.
    let again = import(&world, &operator, json!({ "mode": "restore" }), &bundle).await.unwrap_err();
    assert_eq!(again.code, Code::Exists, "{again:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_migrates_stops_here_and_goes_on_there() {
    let Cast { world, operator, alice, mut friend } = cast().await;
    let early = export(&world, &operator, "").await;
    let bundle = export(&world, &operator, "migrate").await;
    let row = world.agent("alice").unwrap();
    assert_eq!((row.lifecycle, row.reason.as_deref()), (Lifecycle::Stopped, Some("migrated")));
    let two = friend.dm(alice, "two", Protocol::Nip17, SOON).await.unwrap();
    assert!(friend.answer(two, SILENCE).await.is_err(), "it is stopped");
    let world = world.stop().await.without_its_store(plot(&operator)).await.unwrap();
    let refused = import(&world, &operator, json!({ "mode": "migrate" }), &early).await.unwrap_err();
    assert!(refused.code == Code::InvalidInput && refused.message.contains("was not stopped"), "{refused:?}");
    import(&world, &operator, json!({ "mode": "migrate" }), &bundle).await.unwrap();
    assert_eq!(friend.answer(two, SOON).await.unwrap().text(), Some("You said: two"));
    goes_on(&world, "alice").await;
    assert_eq!(heard(&world), ["two"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_answers_under_its_own_key() {
    let Cast { world, operator, alice, mut friend } = cast().await;
    let bundle = export(&world, &operator, "").await;
    let other = Keys::generate();
    let second = world.neighbour(plot(&other)).await.unwrap();
    let said = import(&second, &other, json!({ "mode": "clone", "name": "bob" }), &bundle).await.unwrap();
    let bob = PublicKey::parse(said["npub"].as_str().unwrap()).unwrap();
    assert_ne!(bob, alice);
    assert_eq!(ask(&mut friend, bob, "do read /memory/x").await, "did: kept");
    assert_eq!(ask(&mut friend, bob, "hello").await, "You said: hello");
    assert_eq!(ask(&mut friend, alice, "still there?").await, "You said: still there?");
    let row = second.agent("bob").unwrap();
    assert_eq!((row.owner, row.id), (Some(other.public_key()), AgentId(0)));
    assert_eq!(second.store.records(row.id, 0, 9).unwrap().len(), 2, "a chain of its own");
    // On its own node too, beside the one it comes from.
    let said = import(&world, &operator, json!({ "mode": "clone", "name": "carol" }), &bundle).await.unwrap();
    let carol = PublicKey::parse(said["npub"].as_str().unwrap()).unwrap();
    assert_eq!(ask(&mut friend, carol, "hello").await, "You said: hello");
    let taken = import(&world, &operator, json!({ "mode": "clone" }), &bundle).await.unwrap_err();
    assert_eq!(taken.code, Code::Exists, "{taken:?}");
    second.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_in_changes_nothing_and_says_why() {
    let Cast { world, operator, alice: _, friend: _ } = cast().await;
    let bundle = export(&world, &operator, "").await;
    let other = Keys::generate();
    let second = world.neighbour(plot(&other)).await.unwrap();
    let restore = json!({ "mode": "restore" });
    let text = String::from_utf8(bundle.clone()).unwrap();
    let cases = [
        (restore.clone(), text.clone(), "seed words"),
        (restore.clone(), text[..text.len() / 2].to_owned(), "cut off"),
        (restore.clone(), text.replace("a2VwdA", "b2VwdA"), "damaged"),
        (restore.clone(), text.replacen("\"v\":1", "\"v\":7", 1), "format 7"),
        (restore.clone(), String::new(), "no bundle"),
        (json!({ "mode": "steal" }), text.clone(), "restore"),
        (json!({ "mode": "clone", "sha256": "00".repeat(32) }), text.clone(), "what was sent"),
        (json!({ "mode": "clone", "name": "No Name" }), text.clone(), "name"),
    ];
    for (order, body, word) in cases {
        let error = import(&second, &other, order, body.as_bytes()).await.unwrap_err();
        assert!(error.code == Code::InvalidInput && error.message.contains(word), "{word}: {error:?}");
    }
    assert!(second.node.agents().unwrap().is_empty());
    // Nobody but operators takes anything in, and nobody else's node makes a bundle.
    let stranger = Keys::generate();
    let order = format!("{restore}\n{text}");
    assert!(is_unheard(&second, stranger, "/agents/import", &order).await);
    assert!(is_unheard(&world, other, "/agents/alice/export", "").await);
    second.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bundle_holds_a_key() {
    let Cast { world, operator, .. } = cast().await;
    let mut secrets = Secrets::default();
    let seed = Seed::from_words(world.words()).unwrap();
    secrets.words("seed", world.words());
    secrets.key("node", seed.node().secret_key()).unwrap();
    secrets.key("alice", seed.agent(0).unwrap().secret_key()).unwrap();
    secrets.key("operator", operator.secret_key()).unwrap();
    for how in ["", "migrate"] {
        let bundle = export(&world, &operator, how).await;
        assert_eq!(secrets.search(&bundle), Vec::<String>::new());
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_is_too_large_for_a_message_comes_in_pieces() {
    let Cast { world, operator, .. } = cast().await;
    let bundle = String::from_utf8(export(&world, &operator, "").await).unwrap();
    let mut caller = Caller::new(&world, operator.clone()).await.unwrap();
    let (first, second) = bundle.split_at(bundle.len() / 2);
    for (offset, piece) in [(first.len(), second), (0, first)] {
        let path = format!("/agents/import/here/{offset}");
        caller.ask(Verb::Write, &path, piece).await.unwrap().unwrap();
    }
    let order = json!({ "mode": "clone", "name": "bob", "upload": "here" });
    let said = caller.ask(Verb::Call, "/agents/import", &order.to_string()).await.unwrap().unwrap();
    assert!(String::from_utf8(said).unwrap().contains("bob"));
    let order = json!({ "mode": "clone", "name": "carol", "upload": "elsewhere" });
    let error = caller.ask(Verb::Call, "/agents/import", &order.to_string()).await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    world.end().await;
}

/// Makes a home a server's, on a relay of another process.
fn on_relay(home: &Home, relay: &str) {
    let config = std::fs::read_to_string(home.dir().join("config.toml")).unwrap();
    assert!(config.contains(relay), "{config}");
    home.write("config.toml", &config.replace("enabled = true", "enabled = false")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_comes_back_from_its_words() {
    let machine = Machine::new().unwrap();
    let relay = machine.home("relay").unwrap().relay().start().await.unwrap();
    let url = relay.relay().unwrap();
    let old = machine.home("old").unwrap();
    old.oa_node(&["init", "--relay", &url]).await.unwrap().ok().unwrap();
    on_relay(&old, &url);
    let mut node = old.run().start().await.unwrap();
    let mut client = Client::connect(&url, Keys::generate(), SOON).await.unwrap();
    let mut keys = Vec::new();
    for name in ["alice", "bob"] {
        let made =
            old.oa(&["--json", "agent", "new", name, "--program", "echo", "--dm", "open"]).await.unwrap();
        let made = made.json().unwrap().remove(0);
        keys.push(PublicKey::parse(made["npub"].as_str().unwrap()).unwrap());
    }
    assert_eq!(ask(&mut client, keys[0], "one").await, "You said: one");
    let file = old.dir().join("alice.oa").display().to_string();
    old.oa(&["agent", "export", "alice", "--out", &file]).await.unwrap().ok().unwrap();
    let exists = old.oa(&["agent", "export", "alice", "--out", &file]).await.unwrap();
    assert_eq!(exists.code, Some(1), "{exists:?}");
    // Profiles are on the relay before the node is gone.
    let profiles = || async {
        let filter = Filter::new().kind(Kind::Metadata).authors(keys.clone());
        let found = Client::connect(&url, Keys::generate(), SOON).await?.fetch(&filter, SOON).await?;
        anyhow::ensure!(found.len() == keys.len());
        anyhow::Ok(())
    };
    eventually(SOON, profiles).await.unwrap();
    assert_eq!(node.terminate(SOON).await.unwrap(), 0);

    let new = machine.home("new").unwrap();
    let words = old.dir().join("seed").display().to_string();
    let wrong = new.oa_node(&["init", "--restore", "--words", &words]).await.unwrap();
    assert!(wrong.code == Some(2) && wrong.stderr.contains("--relay"), "{wrong:?}");
    let args = ["--json", "init", "--restore", "--words", &words, "--relay", &url, "--bundle", &file];
    let said = new.oa_node(&args).await.unwrap().json().unwrap().remove(0);
    let agents: Vec<_> = said["agents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|agent| (agent["name"].as_str().unwrap(), agent["whole"].as_bool().unwrap()))
        .collect();
    assert_eq!(agents, [("concierge", false), ("alice", true), ("bob", false)]);
    on_relay(&new, &url);
    let node = new.run().start().await.unwrap();
    assert_eq!((node.agent("alice").unwrap(), node.agent("bob").unwrap()), (keys[0], keys[1]));
    assert_eq!(ask(&mut client, keys[0], "two").await, "You said: two");
    assert!(client.next(SILENCE).await.is_err(), "one is not answered again");
    let ticks = new.oa(&["--json", "logs", "alice"]).await.unwrap().json().unwrap();
    assert_eq!(ticks.iter().map(|tick| tick["seq"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    // A clone beside her, by the same command line.
    let clone = ["--json", "agent", "import", &file, "--mode", "clone", "--name", "carol"];
    let said = new.oa(&clone).await.unwrap().json().unwrap().remove(0);
    let carol = PublicKey::parse(said["npub"].as_str().unwrap()).unwrap();
    assert_eq!(ask(&mut client, carol, "three").await, "You said: three");
    let listed = new.oa(&["--json", "agent", "list"]).await.unwrap().json().unwrap();
    assert_eq!(listed.len(), 4, "{listed:?}");
}
