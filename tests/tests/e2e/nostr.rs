//! What an agent says and hears in public, through a node and a relay that run: notes, direct messages, events that
//! wake it, and signatures.

#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use oa_nips::files::{Code, Verb};
use oa_nips::mail::Protocol;
use oa_nips::nostr::{Event, EventBuilder, EventId, Filter, Keys, Kind, PublicKey, Tag, ToBech32 as _};
use oa_nips::signed::DataDigest;
use oa_node::agent::manifest::{Manifest, Policy};
use oa_node::store::row::Outgoing;
use oa_tests::caller::Caller;
use oa_tests::client::Client;
use oa_tests::local::{Plot, World};
use oa_tests::world::eventually;
use serde_json::{Value, json};

use crate::deeds::{did, has_done};

const SOON: Duration = Duration::from_secs(15);

async fn agent(world: &World, name: &str) -> PublicKey {
    let mut manifest = Manifest::new(name, "echo");
    manifest.dm.policy = Policy::Open;
    manifest.replies.burst = 1000;
    world.node.ensure_agent(manifest).await.unwrap()
}

/// The events that woke an agent, in order: their authors' npubs and the envelopes' ids.
fn woken(world: &World, name: &str) -> Vec<(String, String)> {
    let row = world.agent(name).unwrap();
    let records = world.store.records(row.id, 0, 1000).unwrap();
    let triggers = records.iter().filter_map(|record| record.fields.get("trigger"));
    let text = |trigger: &Value, key: &str| trigger[key].as_str().unwrap_or_default().to_owned();
    let events = triggers.filter(|trigger| trigger["kind"] == "event");
    events.map(|trigger| (text(trigger, "from"), text(trigger, "id"))).collect()
}

async fn wakes(world: &World, name: &str, event: &Event) {
    let expected = (event.pubkey.to_bech32().unwrap(), event.id.to_hex());
    let look = async || {
        let woken = woken(world, name);
        ensure!(woken.contains(&expected), "{expected:?} is not among {woken:?}");
        Ok(())
    };
    eventually(SOON, look).await.unwrap();
}

async fn stored(client: &Client, id: EventId) -> Event {
    let found = async || {
        let found = client.fetch(&Filter::new().id(id), SOON).await?;
        found.into_iter().next().context("not on the relay")
    };
    eventually(SOON, found).await.unwrap()
}

fn note(keys: &Keys, text: &str, topic: &str) -> Event {
    EventBuilder::text_note(text).tag(Tag::hashtag(topic)).sign_with_keys(keys).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_reaches_the_relay_under_the_id_the_agent_was_told() {
    let world = World::start(Plot::default()).await.unwrap();
    let alice = agent(&world, "alice").await;
    let mut client = world.client().await.unwrap();
    let template = json!({ "kind": 1, "content": "hello, world", "tags": [["t", "oa"]] });
    let reply = did(&mut client, alice, &format!("call /nostr/publish {template}")).await;
    let reply: Value = serde_json::from_str(&reply).unwrap();
    let event = stored(&client, EventId::from_hex(reply["id"].as_str().unwrap()).unwrap()).await;
    event.verify().unwrap();
    assert_eq!((event.pubkey, event.content.as_str(), event.kind), (alice, "hello, world", Kind::TextNote));
    // The record lists it.
    let row = world.agent("alice").unwrap();
    let records = world.store.records(row.id, 0, 100).unwrap();
    let sent = records.last().unwrap().fields["sent"].to_string();
    assert!(sent.contains(&event.id.to_hex()), "{sent}");

    let found = did(&mut client, alice, r##"call /nostr/query {"kinds":[1],"#t":["oa"]}"##).await;
    assert_eq!(serde_json::from_str::<Vec<Event>>(&found).unwrap(), [event]);
    for kind in [0, 3, 5, 13, 1059, 10_002, 10_050, 13_194, 22_242, 23_194, 25_930, 30_000, 39_205] {
        let template = json!({ "kind": kind, "content": "", "tags": [["d", "x"]] });
        let said = has_done(&mut client, alice, &format!("call /nostr/publish {template}")).await;
        assert!(said.starts_with("refused: InvalidInput"), "{kind}: {said}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_message_reaches_whom_it_names_and_draws_on_the_replies() {
    let world = World::start(Plot::default()).await.unwrap();
    let mut manifest = Manifest::new("alice", "echo");
    (manifest.dm.policy, manifest.replies.burst, manifest.replies.per_minute) = (Policy::Open, 2, 0);
    let alice = world.node.ensure_agent(manifest).await.unwrap();
    let (client, mut bob) = (world.client().await.unwrap(), world.client().await.unwrap());
    let [npub, asking] = [&bob, &client].map(|who| who.public_key().to_bech32().unwrap());
    for text in ["one", "two", "three"] {
        let what = format!("do append /nostr/dm/{npub} {text}");
        client.dm(alice, &what, Protocol::Nip17, SOON).await.unwrap();
        if text != "three" {
            let mail = bob.next(SOON).await.unwrap();
            assert_eq!((mail.author, mail.text(), mail.auto_hop), (alice, Some(text), 1));
        }
    }
    // What is left of Bob's bucket is nothing, for answers too; so the third message was refused.
    bob.dm(alice, "and an answer?", Protocol::Nip17, SOON).await.unwrap();
    let row = world.agent("alice").unwrap();
    let all_ran = async || {
        let records = world.store.records(row.id, 0, 100)?;
        let mail = records.iter().filter(|record| record.fields["trigger"]["kind"] == "dm");
        let of = |by: &str| {
            mail.clone().filter(|record| record.fields["trigger"]["from"] == by).collect::<Vec<_>>()
        };
        ensure!(of(&asking).len() == 3, "the third message waits");
        let answer = of(&npub).pop().context("Bob's message waits")?.fields["outcome"].clone();
        ensure!(answer == "held_rate", "{answer}");
        Ok(())
    };
    eventually(SOON, all_ran).await.unwrap();
    let outbox = world.store.outbox(row.id, 100).unwrap();
    let to_bob =
        |item: &Outgoing| matches!(item, Outgoing::Mail { draft, .. } if draft.recipient == bob.public_key());
    assert_eq!(outbox.iter().filter(|(_, item)| to_bob(&item.outgoing)).count(), 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_wake_an_agent_that_subscribed_once_each_and_after_a_restart() {
    let world = World::start(Plot::default()).await.unwrap();
    let alice = agent(&world, "alice").await;
    let mut client = world.client().await.unwrap();
    let author = Keys::generate();
    let filter = json!({ "kinds": [1], "#t": ["oa"] });
    did(&mut client, alice, &format!("write /nostr/subscriptions/oa.json {filter}")).await;
    let (first, other) = (note(&author, "first", "oa"), note(&author, "other", "else"));
    // The relay hears of the subscription a moment after its commit; what was stored by then comes with it.
    for event in [&first, &other, &first] {
        client.put(event, SOON).await.unwrap();
    }
    wakes(&world, "alice", &first).await;
    let status = did(&mut client, alice, "read /status").await;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["subscriptions"]["oa"], json!({ "state": "listened", "woken": 1, "held_back": 0 }));

    // Nobody is answered, and the agent does not hear itself.
    let template = json!({ "kind": 1, "content": "my own", "tags": [["t", "oa"]] });
    did(&mut client, alice, &format!("call /nostr/publish {template}")).await;
    let stopped = world.stop().await;
    let missed = note(&author, "missed", "oa");
    client.put(&missed, SOON).await.unwrap();
    let world = stopped.again().await.unwrap();
    wakes(&world, "alice", &missed).await;
    assert_eq!(woken(&world, "alice").len(), 2, "the first and the missed one, once each");

    // What is removed is not listened for: an agent that listens to the same tells when it has passed.
    did(&mut client, alice, "remove /nostr/subscriptions/oa.json").await;
    let bob = agent(&world, "bob").await;
    did(&mut client, bob, &format!("write /nostr/subscriptions/oa.json {filter}")).await;
    let last = note(&author, "last", "oa");
    client.put(&last, SOON).await.unwrap();
    wakes(&world, "bob", &last).await;
    assert_eq!(woken(&world, "alice").len(), 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_subscribe_and_publish_in_an_agents_name_within_its_limits() {
    let operator = Keys::generate();
    let plot = Plot { operators: vec![operator.public_key()], ..Plot::default() };
    let world = World::start(plot).await.unwrap();
    let alice = agent(&world, "alice").await;
    let mut caller = Caller::new(&world, operator).await.unwrap();
    let client = world.client().await.unwrap();
    let path = "/agents/alice/nostr/subscriptions/notes.json";
    caller.ask(Verb::Write, path, r##"{"kinds":[1],"#t":["oa"]}"##).await.unwrap().unwrap();
    let event = note(&Keys::generate(), "hello", "oa");
    client.put(&event, SOON).await.unwrap();
    wakes(&world, "alice", &event).await;

    let publish = "/agents/alice/nostr/publish";
    let reply =
        caller.ask(Verb::Call, publish, r#"{"kind":1,"content":"from above"}"#).await.unwrap().unwrap();
    let reply: Value = serde_json::from_slice(&reply).unwrap();
    let event = stored(&client, EventId::from_hex(reply["id"].as_str().unwrap()).unwrap()).await;
    assert_eq!((event.pubkey, event.content.as_str()), (alice, "from above"));
    let refused = caller.ask(Verb::Call, publish, r#"{"kind":5,"content":""}"#).await.unwrap().unwrap_err();
    assert_eq!(refused.code, Code::InvalidInput);
    // Its key is the agent's alone.
    for file in ["sign", "decrypt", "encrypt"] {
        let path = format!("/agents/alice/identity/{file}");
        assert_eq!(
            caller.ask(Verb::Call, &path, "x").await.unwrap().unwrap_err().code,
            Code::PermissionDenied
        );
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_is_of_data_and_of_no_event() {
    let world = World::start(Plot::default()).await.unwrap();
    let alice = agent(&world, "alice").await;
    let mut client = world.client().await.unwrap();
    let signature = did(&mut client, alice, "call /identity/sign I was here").await;
    let digest = DataDigest::of(b"I was here");
    assert!(digest.is_signed(&alice, &signature.parse().unwrap()));
    // Events that a stranger would like to have: all but the signature is known, and the id is what is signed.
    for kind in [5, 13, 1059, 10_002, 13_194, 22_242, 23_194, 25_930, 30_000, 39_205] {
        let mut wanted = EventBuilder::new(Kind::from(kind), "").build(alice);
        let id = wanted.id();
        let signed = did(&mut client, alice, &format!("call /identity/sign {id}")).await;
        let signature = signed.parse().unwrap();
        let forged = Event::new(id, alice, wanted.created_at, wanted.kind, wanted.tags, "", signature);
        assert!(forged.verify_id() && !forged.verify_signature(), "{kind}");
        // What is signed has a name before it, whatever the data.
        assert!(DataDigest::of(id.to_string().as_bytes()).is_signed(&alice, &signature), "{kind}");
        if kind == 5 {
            assert!(!client.publish(&forged, SOON).await.unwrap().accepted);
        }
    }
    world.end().await;
}
