//! What agents say to agents: pings, and work that is asked for, reported on and done.

#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::time::Duration;

use oa_nips::envelope::Envelope;
use oa_nips::kind;
use oa_nips::mail::{Body, Draft, Protocol};
use oa_nips::nostr::{EventId, Keys, PublicKey, ToBech32 as _};
use oa_node::agent::mailbox::Refusal;
use oa_node::agent::manifest::{Manifest, Npub, Policy};
use oa_tests::client::forge::now_ms;
use oa_tests::client::{Client, Letter};
use oa_tests::local::{Plot, World};
use oa_tests::world::eventually;
use serde_json::{Value, json};

use crate::deeds::{did, has_done};

const SOON: Duration = Duration::from_secs(15);

/// An open agent that obeys somebody.
async fn agent(world: &World, name: &str, owner: &Client) -> PublicKey {
    let mut manifest = Manifest::new(name, "echo");
    manifest.dm.policy = Policy::Open;
    manifest.owner = Some(Npub(owner.public_key()));
    manifest.replies.bot_burst = 3;
    manifest.replies.bot_per_hour = 0;
    world.node.ensure_agent(manifest).await.unwrap()
}

/// Sends an agent's message; answers its id.
async fn say(client: &Client, to: PublicKey, message: &Envelope) -> EventId {
    let kind = kind::ENVELOPE.as_u16();
    let draft = Draft { kind, ..Draft::text(to, message.to_json(), now_ms()) };
    let letter = Letter::new(client.keys(), &draft, Protocol::Nip17).unwrap();
    client.put(&letter.event, SOON).await.unwrap();
    letter.id
}

/// The next agent's message that answers one; what is said in words is passed over.
async fn response(client: &mut Client, id: EventId) -> Envelope {
    loop {
        if let Body::Envelope(envelope) = client.answer(id, SOON).await.unwrap().body {
            return envelope;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_answers_pings_without_a_tick_and_not_for_ever() {
    let world = World::start(Plot::default()).await.unwrap();
    let (owner, mut client) = (world.client().await.unwrap(), world.client().await.unwrap());
    let alice = agent(&world, "alice", &owner).await;
    for n in 0..4 {
        let nonce = n.to_string();
        let id = say(&client, alice, &Envelope::Ping { nonce: nonce.clone() }).await;
        if n < 3 {
            assert_eq!(response(&mut client, id).await, Envelope::Pong { nonce });
        }
    }
    let row = world.agent("alice").unwrap();
    let refused = async || {
        let refused = world.store.refusals(row.id, 10)?;
        anyhow::ensure!(
            refused.iter().any(|(_, refused)| refused.reason == Refusal::TooOften),
            "{refused:?}"
        );
        Ok(())
    };
    eventually(SOON, refused).await.unwrap();
    let records = world.store.records(row.id, 0, 10).unwrap();
    assert!(records.iter().all(|record| record.fields["trigger"]["kind"] == "created"), "{records:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delegated_work_is_reported_on_and_handed_back_to_who_asked() {
    let world = World::start(Plot::default()).await.unwrap();
    let mut owner = world.client().await.unwrap();
    let alice = agent(&world, "alice", &owner).await;
    let delegate =
        Envelope::Delegate { task: "sum".into(), spec: json!({ "of": [3, 4] }), budget_usd_micros: Some(9) };
    let id = say(&owner, alice, &delegate).await;
    // Once its own tick has run, there is a task.
    owner.answer(id, SOON).await.unwrap();
    let meta: Value = serde_json::from_str(&did(&mut owner, alice, "read /task/meta.json").await).unwrap();
    assert_eq!(
        (&meta["id"], &meta["task"], &meta["budget_usd_micros"]),
        (&json!(id), &json!("sum"), &json!(9))
    );
    assert_eq!(did(&mut owner, alice, "read /task/spec.json").await, r#"{"of":[3,4]}"#);
    let said = has_done(&mut owner, alice, "write /task/spec.json {}").await;
    assert!(said.starts_with("refused"), "{said}");

    did(&mut owner, alice, "write /task/status half way").await;
    let half =
        Envelope::TaskResponse { task: "sum".into(), accepted: true, message: Some("half way".into()) };
    assert_eq!(response(&mut owner, id).await, half);
    // One at a time.
    let other = say(&owner, alice, &Envelope::TaskRequest { task: "more".into(), spec: json!(null) }).await;
    let Envelope::TaskResponse { accepted, message, .. } = response(&mut owner, other).await else {
        panic!("no answer to the other")
    };
    assert_eq!((accepted, message.as_deref()), (false, Some("busy with sum")));

    let head = world.agent("alice").unwrap().head;
    did(&mut owner, alice, "write /task/result.json {\"sum\":7}").await;
    let Envelope::TaskComplete { task, result, trajectory_hash } = response(&mut owner, id).await else {
        panic!("not complete")
    };
    assert_eq!((task.as_str(), result), ("sum", json!({ "sum": 7 })));
    let row = world.agent("alice").unwrap();
    let chain: Vec<String> =
        world.store.records(row.id, 0, 100).unwrap().iter().map(|r| r.header.prev.to_string()).collect();
    assert!(chain.contains(&trajectory_hash.unwrap()), "the chain from {head:?} on does not have it");
    let said = has_done(&mut owner, alice, "write /task/result.json 8").await;
    assert!(said.starts_with("refused: Unavailable"), "{said}");

    // A stranger delegates nothing, although the agent is open.
    let stranger = world.client_of(Keys::generate()).await.unwrap();
    say(&stranger, alice, &delegate).await;
    let refused = async || {
        let refused = world.store.refusals(row.id, 10)?;
        anyhow::ensure!(
            refused.iter().any(|(_, refused)| refused.reason == Refusal::NotAllowed),
            "{refused:?}"
        );
        Ok(())
    };
    eventually(SOON, refused).await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_finds_its_request() {
    let world = World::start(Plot::default()).await.unwrap();
    let mut owner = world.client().await.unwrap();
    let alice = agent(&world, "alice", &owner).await;
    let mut peer = world.client().await.unwrap();
    let to = peer.public_key().to_bech32().unwrap();
    let request = json!({ "to": to, "message": { "type": "task_request", "task": "dig", "spec": 1 } });
    let said = did(&mut owner, alice, &format!("call /nostr/send {request}")).await;
    let mail = peer.next(SOON).await.unwrap();
    let sent: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((json!(mail.id), mail.author, mail.auto_hop), (sent["id"].clone(), alice, 1));
    assert_eq!(mail.body, Body::Envelope(Envelope::TaskRequest { task: "dig".into(), spec: json!(1) }));
    // What answers it says so to the tick that it wakes.
    let draft = Draft { reply_to: Some(mail.id), ..Draft::text(alice, "do read /trigger", now_ms()) };
    let letter = Letter::new(peer.keys(), &draft, Protocol::Nip17).unwrap();
    peer.put(&letter.event, SOON).await.unwrap();
    let answer = peer.answer(letter.id, SOON).await.unwrap();
    let trigger: Value = serde_json::from_str(answer.text().unwrap().strip_prefix("did: ").unwrap()).unwrap();
    assert_eq!(trigger["in_reply_to"], sent["id"]);
    for wrong in [r#"{"type":"pwn"}"#, r#"["ping"]"#, "7"] {
        let said =
            has_done(&mut owner, alice, &format!(r#"call /nostr/send {{"to":"{to}","message":{wrong}}}"#))
                .await;
        assert!(said.starts_with("refused: InvalidInput"), "{wrong}: {said}");
    }
    world.end().await;
}
