//! Where mail ends: by operators' rules, by agents' own, and by none; and agents that agents make.

#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use oa_nips::files::{Code, Verb};
use oa_nips::mail::{Draft, Protocol};
use oa_nips::nostr::{Keys, PublicKey};
use oa_node::agent::mailbox::Refusal;
use oa_node::agent::manifest::{Manifest, Policy};
use oa_tests::caller::Caller;
use oa_tests::client::Letter;
use oa_tests::client::forge::now_ms;
use oa_tests::local::{Plot, World};
use oa_tests::world::eventually;
use serde_json::Value;

use crate::deeds::{did, has_done};

const SOON: Duration = Duration::from_secs(15);
const RULES: &str = "/node/plumbing";

fn open(name: &str) -> Manifest {
    let mut manifest = Manifest::new(name, "echo");
    manifest.dm.policy = Policy::Open;
    manifest
}

/// A world and somebody who steers it.
async fn world() -> (World, Caller) {
    let operator = Keys::generate();
    let plot = Plot { operators: vec![operator.public_key()], ..Plot::default() };
    let world = World::start(plot).await.unwrap();
    let caller = Caller::new(&world, operator).await.unwrap();
    (world, caller)
}

async fn write(caller: &mut Caller, path: &str, text: &str) -> Result<(), (Code, String)> {
    let reply = caller.ask(Verb::Write, path, text).await.unwrap();
    reply.map(drop).map_err(|error| (error.code, error.message))
}

/// The rules by which an agent's ticks came, in order.
fn rules(world: &World, name: &str) -> Vec<String> {
    let row = world.agent(name).unwrap();
    let records = world.store.records(row.id, 0, 1000).unwrap();
    let rules = records.iter().filter_map(|record| record.fields.get("trigger")?.get("rule")?.as_str());
    rules.map(str::to_owned).collect()
}

/// Waits until an agent has refused something so.
async fn refuses(world: &World, name: &str, reason: Refusal, rule: &str) {
    let row = world.agent(name).unwrap();
    let look = async || {
        let refused = world.store.refusals(row.id, 100)?;
        let is_it = |detail: &str| detail.contains(rule);
        let found = refused.iter().any(|(_, refused)| refused.reason == reason && is_it(&refused.detail));
        ensure!(found, "{reason:?} by {rule} is not among {refused:?}");
        Ok(())
    };
    eventually(SOON, look).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_rules_hand_mail_on_and_drop_it() {
    let (world, mut caller) = world().await;
    let alice = world.node.ensure_agent(open("alice")).await.unwrap();
    let bob = world.node.ensure_agent(open("bob")).await.unwrap();
    world.node.ensure_agent(Manifest::new("carol", "echo")).await.unwrap();
    let mut client = world.client().await.unwrap();

    let wrong = "[[rule]]\nname = \"bills\"\nto = \"agent dave\"\n";
    let (code, said) = write(&mut caller, RULES, wrong).await.unwrap_err();
    assert!(code == Code::InvalidInput && said.contains("line 1") && said.contains("dave"), "{said}");
    let table = r#"
        [[rule]]
        name = "bills"
        for = ["alice"]
        from = ["dm"]
        sender = ["stranger"]
        text = "invoice*"
        to = "agent bob"

        [[rule]]
        name = "spam"
        text = "*cheap*"
        to = "nowhere"

        [[rule]]
        name = "private"
        text = "private*"
        to = "agent carol"
    "#;
    write(&mut caller, RULES, table).await.unwrap();
    let read = caller.ask(Verb::Read, RULES, "").await.unwrap().unwrap();
    assert_eq!(String::from_utf8(read).unwrap(), table);

    // Bob answers for himself, to whom wrote.
    client.dm(alice, "invoice 1", Protocol::Nip17, SOON).await.unwrap();
    let answer = client.next(SOON).await.unwrap();
    assert_eq!((answer.author, answer.text()), (bob, Some("You said: invoice 1")));
    assert_eq!(rules(&world, "bob"), ["bills"]);
    client.dm(alice, "cheap watches", Protocol::Nip17, SOON).await.unwrap();
    refuses(&world, "alice", Refusal::Dropped, "spam").await;
    // Carol hears nobody she does not know, by whatever way.
    client.dm(alice, "private matter", Protocol::Nip17, SOON).await.unwrap();
    refuses(&world, "alice", Refusal::NotAllowed, "private, to carol").await;
    let trigger: Value = serde_json::from_str(&did(&mut client, alice, "read /trigger").await).unwrap();
    assert_eq!((&trigger["rule"], &trigger["addressed_to"]), (&"default-dm".into(), &Value::Null));
    assert_eq!(rules(&world, "alice"), ["default-dm"]);

    // They hold after a restart, and until they are taken back.
    let world = world.stop().await.again().await.unwrap();
    let draft = Draft::text(alice, "invoice 2", now_ms());
    let twice = [(); 2].map(|()| Letter::new(client.keys(), &draft, Protocol::Nip17).unwrap());
    let [first, second] = twice.map(|letter| letter.event);
    client.put(&first, SOON).await.unwrap();
    assert_eq!(client.next(SOON).await.unwrap().author, bob);
    write(&mut caller, RULES, "").await.unwrap();
    // It has ended in one place, whatever the rules are when it comes again in another wrap.
    client.put(&second, SOON).await.unwrap();
    client.dm(alice, "invoice 3", Protocol::Nip17, SOON).await.unwrap();
    let answer = client.next(SOON).await.unwrap();
    assert_eq!((answer.author, answer.text()), (alice, Some("You said: invoice 3")));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_own_rules_drop_what_it_does_not_want_and_alarms_too() {
    let (world, mut caller) = world().await;
    let mut manifest = open("alice");
    let text = "name = \"alice\"\n[[plumb]]\nname = \"tea\"\nfrom = [\"alarm\"]\ntext = \"tea\"\nto = \"nowhere\"\n\
                [[plumb]]\nname = \"quiet\"\nfrom = [\"dm\"]\ntext = \"psst*\"\nto = \"nowhere\"\n";
    manifest.plumb = Manifest::parse(text).unwrap().plumb;
    let alice = world.node.ensure_agent(manifest.clone()).await.unwrap();
    let mut client = world.client().await.unwrap();
    client.dm(alice, "psst, a secret", Protocol::Nip17, SOON).await.unwrap();
    refuses(&world, "alice", Refusal::Dropped, "quiet").await;
    // Both are due at once; the one that is dropped goes off before the other.
    for (id, text) in [("a", "tea"), ("b", "coffee")] {
        let alarm = format!(r#"{{"at":{},"text":"{text}"}}"#, 1 + u8::from(id == "b"));
        let said = has_done(&mut client, alice, &format!("write /schedule/{id}.json {alarm}")).await;
        assert!(said.starts_with("did"), "{said}");
    }
    let row = world.agent("alice").unwrap();
    let gone_off = async || {
        ensure!(world.store.alarms(row.id)?.is_empty(), "an alarm is left");
        rules(&world, "alice").iter().find(|rule| *rule == "default-alarm").context("no alarm")?;
        Ok(())
    };
    eventually(SOON, gone_off).await.unwrap();
    let alarms = rules(&world, "alice").into_iter().filter(|rule| rule == "default-alarm").count();
    assert_eq!(alarms, 1, "coffee alone");
    // A manifest cannot send mail to somebody else.
    let other = manifest.to_toml().replace("\"nowhere\"", "\"agent bob\"");
    let (code, said) = write(&mut caller, "/agents/alice/manifest", &other).await.unwrap_err();
    assert!(code == Code::InvalidInput && said.contains("plumb"), "{said}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_lives_under_its_parents_limits_and_after_it() {
    let (world, mut caller) = world().await;
    let owner = Keys::generate();
    let mut manifest = open("alice");
    manifest.owner = Some(oa_node::agent::manifest::Npub(owner.public_key()));
    manifest.http.per_day = 10;
    let alice = world.node.ensure_agent(manifest).await.unwrap();
    let mut client = world.client_of(owner.clone()).await.unwrap();
    let made =
        did(&mut client, alice, r#"call /children/new {"name":"scout","about":"looks","share":0.5}"#).await;
    let made: Value = serde_json::from_str(&made).unwrap();
    let scout = PublicKey::parse(made["npub"].as_str().unwrap()).unwrap();
    // It answers at once, and knows its owner.
    let answer = client.ask(scout, "hello", Protocol::Nip17, SOON).await.unwrap();
    assert_eq!(answer.text(), Some("You said: hello"));
    let row = world.agent("alice-scout").unwrap();
    assert_eq!(row.owner, Some(owner.public_key()));
    let shown: Value =
        serde_json::from_str(&did(&mut client, alice, "read /children/scout.json").await).unwrap();
    assert_eq!((&shown["name"], &shown["share"]["http_per_day"]), (&"alice-scout".into(), &5.into()));

    // Who its parent is nobody changes; nobody gives one to another.
    let manifest = world.store.manifest(row.id).unwrap().unwrap();
    let orphan = Manifest { parent: None, ..manifest.clone() };
    let (code, said) =
        write(&mut caller, "/agents/alice-scout/manifest", &orphan.to_toml()).await.unwrap_err();
    assert!(code == Code::InvalidInput && said.contains("parent"), "{said}");
    let forged = Manifest { name: "eve".into(), ..manifest.clone() };
    let refused = caller.ask(Verb::Call, "/agents/new", &forged.to_toml()).await.unwrap().unwrap_err();
    assert!(refused.code == Code::InvalidInput && refused.message.contains("parent"), "{refused:?}");
    // A grandchild, by the owner's hand; and a supervised agent makes none by itself.
    let mut steering = Caller::new(&world, owner.clone()).await.unwrap();
    let path = "/agents/alice-scout/children/new";
    steering.ask(Verb::Call, path, "name = \"a\"").await.unwrap().unwrap();
    assert_eq!(world.agent("alice-scout-a").unwrap().owner, Some(owner.public_key()));
    let mut tame = manifest;
    tame.autonomy.level = oa_node::agent::manifest::Level::Supervised;
    write(&mut caller, "/agents/alice-scout/manifest", &tame.to_toml()).await.unwrap();
    let said = has_done(&mut client, scout, r#"call /children/new {"name":"b"}"#).await;
    assert!(said.starts_with("refused: ApprovalRequired"), "{said}");

    // Its parent goes, and it stays.
    caller.ask(Verb::Call, "/agents/alice/ctl", "remove").await.unwrap().unwrap();
    let answer = client.ask(scout, "still there?", Protocol::Nip17, SOON).await.unwrap();
    assert_eq!(answer.text(), Some("You said: still there?"));
    let world = world.stop().await.again().await.unwrap();
    let answer = client.ask(scout, "and now?", Protocol::Nip17, SOON).await.unwrap();
    assert_eq!(answer.text(), Some("You said: and now?"));
    world.end().await;
}
