//! A node in this process, with programs that misbehave and a signer that is slow: what an agent's life survives.

#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::sync::atomic::Ordering;
use std::time::Duration;

use oa_nips::kind;
use oa_nips::mail::{Draft, Protocol};
use oa_nips::nostr::nips::nip44;
use oa_nips::nostr::{EventId, Filter, Keys, PublicKey};
use oa_nips::record::{Head, Record};
use oa_node::agent::Lifecycle;
use oa_node::agent::manifest::{Manifest, Npub, Policy, Publishing};
use oa_tests::client::forge::now_ms;
use oa_tests::client::{Client, Letter};
use oa_tests::local::{Plot, World};
use oa_tests::world::eventually;

const SOON: Duration = Duration::from_secs(10);
/// Three retries take 1 + 2 + 4 seconds.
const RETRIES: Duration = Duration::from_secs(20);

fn manifest(name: &str) -> Manifest {
    let mut manifest = Manifest::new(name, "echo");
    manifest.dm.policy = Policy::Open;
    manifest
}

/// Sends a message dated `n` milliseconds from now: what is found at once is told apart by when it was written.
async fn dm_at(client: &Client, to: PublicKey, text: &str, protocol: Protocol, n: u64) -> EventId {
    let letter = Letter::new(client.keys(), &Draft::text(to, text, now_ms() + n), protocol).unwrap();
    client.put(&letter.event, SOON).await.unwrap();
    letter.id
}

#[tokio::test]
async fn a_poisonous_message_holds_up_its_sender_alone_and_stops_nobody() {
    let world = World::start(Plot::default()).await.unwrap();
    let agent = world.node.ensure_agent(manifest("alice")).await.unwrap();
    let mut poisoner = world.client().await.unwrap();
    let mut friend = world.client().await.unwrap();
    dm_at(&poisoner, agent, "panic", Protocol::Nip17, 0).await;
    let behind = dm_at(&poisoner, agent, "and then?", Protocol::Nip17, 1).await;
    // While the first is retried, others are answered, and the poisoner's next waits behind it.
    let reply = friend.ask(agent, "hello", Protocol::Nip17, SOON).await.unwrap();
    assert_eq!(reply.text(), Some("You said: hello"));
    assert!(friend.ask(agent, "fail", Protocol::Nip17, Duration::from_millis(300)).await.is_err());
    assert_eq!(poisoner.answer(behind, RETRIES).await.unwrap().text(), Some("You said: and then?"));
    let row = world.agent("alice").unwrap();
    assert_eq!(row.lifecycle, Lifecycle::Active, "a stranger stops nobody with one message");
    assert_eq!(world.store.dead_letters(row.id).unwrap()[0].1.reason, "the program panicked: as asked");
    assert!(world.plot.runs.load(Ordering::Relaxed) >= 4 + 2, "four tries of the poison, and the rest");
    world.end().await;
}

#[tokio::test]
async fn the_third_poison_in_a_row_stops_the_agent() {
    let world = World::start(Plot::default()).await.unwrap();
    let mut owner = world.client().await.unwrap();
    let mut owned = manifest("alice");
    owned.owner = Some(Npub(owner.public_key()));
    let agent = world.node.ensure_agent(owned).await.unwrap();
    // Three strangers at once, so that the retries run beside each other.
    for _ in 0..3 {
        world.client().await.unwrap().dm(agent, "fail", Protocol::Nip17, SOON).await.unwrap();
    }
    let told = owner.next(RETRIES).await.unwrap();
    assert!(told.text().unwrap().contains("quarantined"), "{told:?}");
    let row = world.agent("alice").unwrap();
    assert_eq!((row.lifecycle, row.failures), (Lifecycle::Quarantined, 3));
    world.end().await;
}

#[tokio::test]
async fn an_owners_poison_quarantines_and_the_owner_is_told() {
    let world = World::start(Plot::default()).await.unwrap();
    let mut owner = world.client().await.unwrap();
    let mut owned = manifest("alice");
    owned.owner = Some(Npub(owner.public_key()));
    let agent = world.node.ensure_agent(owned).await.unwrap();
    owner.dm(agent, "fail", Protocol::Nip17, SOON).await.unwrap();
    let told = owner.next(RETRIES).await.unwrap();
    let text = told.text().unwrap();
    assert!(text.contains("quarantined") && text.contains("as asked"), "{text}");
    assert_eq!(world.agent("alice").unwrap().lifecycle, Lifecycle::Quarantined);
    world.end().await;
}

#[tokio::test]
async fn a_violation_terminates_at_once() {
    let world = World::start(Plot::default()).await.unwrap();
    let agent = world.node.ensure_agent(manifest("alice")).await.unwrap();
    let client = world.client().await.unwrap();
    client.dm(agent, "violate", Protocol::Nip17, SOON).await.unwrap();
    let terminated = async || {
        let row = world.agent("alice").unwrap();
        anyhow::ensure!(row.lifecycle == Lifecycle::Terminated, "{}", row.lifecycle);
        Ok(())
    };
    eventually(SOON, terminated).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn a_signer_that_is_away_holds_up_its_own_replies_and_nothing_else() {
    let plot = Plot::default();
    plot.signer_away.store(true, Ordering::Relaxed);
    let world = World::start(plot).await.unwrap();
    let agent = world.node.ensure_agent(manifest("alice")).await.unwrap();
    let mut client = world.client().await.unwrap();
    let asked = client.dm(agent, "hello", Protocol::Nip17, SOON).await.unwrap();
    let committed = async || {
        let ticks = world.agent("alice").unwrap().head.seq;
        // The first tick is its creation's.
        anyhow::ensure!(ticks == 2, "{ticks} ticks");
        Ok(())
    };
    eventually(SOON, committed).await.unwrap();
    assert!(client.answer(asked, Duration::from_millis(300)).await.is_err());
    world.plot.signer_away.store(false, Ordering::Relaxed);
    assert_eq!(client.answer(asked, SOON).await.unwrap().text(), Some("You said: hello"));
    assert_eq!(
        world.agent("alice").unwrap().lifecycle,
        Lifecycle::Active,
        "never quarantined for its signer"
    );
    world.end().await;
}

#[tokio::test]
async fn the_owner_gets_the_records_and_can_check_the_chain() {
    let world = World::start(Plot::default()).await.unwrap();
    let mut owner = world.client().await.unwrap();
    let mut live = manifest("alice");
    live.owner = Some(Npub(owner.public_key()));
    live.records = Publishing::Live;
    let agent = world.node.ensure_agent(live).await.unwrap();
    owner.ask(agent, "hello", Protocol::Nip17, SOON).await.unwrap();
    let filter = Filter::new().author(agent).kind(kind::RECORDS);
    let keys: Keys = owner.keys().clone();
    let read = async || {
        let mut records: Vec<Record> = Vec::new();
        for event in owner.fetch(&filter, SOON).await? {
            let json = nip44::decrypt(keys.secret_key(), &agent, &event.content)?;
            records.extend(serde_json::from_str::<Vec<Record>>(&json)?);
        }
        records.sort_by_key(|record| record.header.seq);
        anyhow::ensure!(records.len() >= 2, "{} records", records.len());
        Ok(records)
    };
    let records = eventually(Duration::from_secs(20), read).await.unwrap();
    let head = records.iter().try_fold(Head::GENESIS, |head, record| record.verify(&head)).unwrap();
    assert_eq!(head.seq, world.agent("alice").unwrap().head.seq);
    assert_eq!(records[1].fields["outcome"], "replied");
    world.end().await;
}

#[tokio::test]
async fn an_agent_that_nothing_comes_to_sleeps_and_wakes() {
    let world =
        World::start(Plot { dormant_after: Duration::from_millis(100), ..Plot::default() }).await.unwrap();
    let agent = world.node.ensure_agent(manifest("alice")).await.unwrap();
    let asleep = async || {
        let row = world.agent("alice").unwrap();
        anyhow::ensure!(row.lifecycle == Lifecycle::Dormant, "{}", row.lifecycle);
        Ok(())
    };
    eventually(SOON, asleep).await.unwrap();
    let mut client = world.client().await.unwrap();
    let reply = client.ask(agent, "are you there?", Protocol::Nip04, SOON).await.unwrap();
    assert_eq!(reply.text(), Some("You said: are you there?"));
    eventually(SOON, asleep).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn what_came_while_the_node_was_down_is_answered_in_the_order_it_was_written() {
    let world = World::start(Plot::default()).await.unwrap();
    let agent = world.node.ensure_agent(manifest("alice")).await.unwrap();
    let mut client = world.client().await.unwrap();
    client.ask(agent, "first", Protocol::Nip17, SOON).await.unwrap();
    let world = world.stop().await;
    let mut asked = Vec::new();
    for n in 0..20 {
        let protocol = if n % 2 == 0 { Protocol::Nip17 } else { Protocol::Nip04 };
        asked.push(dm_at(&client, agent, &format!("while away {n}"), protocol, n).await);
    }
    let world = world.again().await.unwrap();
    for (n, id) in asked.into_iter().enumerate() {
        let reply = client.answer(id, SOON).await.unwrap();
        assert_eq!(reply.text(), Some(format!("You said: while away {n}").as_str()));
    }
    let row = world.agent("alice").unwrap();
    let records = world.store.records(row.id, 2, 99).unwrap();
    let heard: Vec<_> = world.plot.heard.lock().unwrap().iter().skip(1).cloned().collect();
    assert_eq!(heard, (0..20).map(|n| format!("while away {n}")).collect::<Vec<_>>());
    assert_eq!(records.len(), 20);
    world.end().await;
}
