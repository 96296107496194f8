//! Relays that go and come, nodes that are killed, networks that lose: all mail is answered, once.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oa_nips::mail::Draft;
use oa_nips::mail::Protocol::{self, Nip04, Nip17};
use oa_nips::nostr::{EventId, Keys, PublicKey};
use oa_tests::client::forge::now_ms;
use oa_tests::client::{Client, Letter};
use oa_tests::split::{Plan, Split};
use oa_tests::world::{DEADLINE, World, free_port};

/// Sweeps often enough for a test.
const SWEEP_MS: u64 = 500;

fn plan() -> Plan {
    Plan { sweep_every_ms: SWEEP_MS, ..Plan::default() }
}

fn protocol(n: usize) -> Protocol {
    if n.is_multiple_of(2) { Nip17 } else { Nip04 }
}

/// Writes so many notes, not waiting for answers.
async fn write(alice: &Client, agent: PublicKey, from: usize, count: usize) -> Result<Vec<EventId>> {
    let mut asked = Vec::new();
    for n in from..from + count {
        asked.push(alice.dm(agent, &format!("note number {n}"), protocol(n), DEADLINE).await?);
    }
    Ok(asked)
}

/// Waits for an answer to each, and sees that none came twice.
async fn answered(alice: &mut Client, asked: Vec<EventId>) -> Result<()> {
    let many = asked.len();
    let mut texts = Vec::new();
    for (n, id) in asked.into_iter().enumerate() {
        let mail = alice.answer(id, 2 * DEADLINE).await.with_context(|| format!("message {n} of {many}"))?;
        texts.push(mail.text().unwrap_or_default().to_owned());
    }
    texts.sort();
    texts.dedup();
    ensure!(texts.len() == many, "each is answered for itself: {texts:?}");
    let more = alice.next(Duration::ZERO).await;
    ensure!(more.is_err(), "{more:?} came too");
    Ok(())
}

#[tokio::test]
async fn a_relay_that_restarts() -> Result<()> {
    let world = World::new()?;
    let mut split = Split::start(&world, plan()).await?;
    let agent = split.agent("concierge")?;
    let mut alice = split.client().await?;
    let mut asked = write(&alice, agent, 0, 10).await?;
    split.relay.kill().await?;
    split.relay.restart().await?;
    alice.reconnect(DEADLINE).await?;
    asked.extend(write(&alice, agent, 10, 10).await?);
    answered(&mut alice, asked).await
}

#[tokio::test]
async fn a_node_that_restarts() -> Result<()> {
    let world = World::new()?;
    let mut split = Split::start(&world, plan()).await?;
    let agent = split.agent("concierge")?;
    let mut alice = split.client().await?;
    let mut asked = write(&alice, agent, 0, 10).await?;
    split.node.kill().await?;
    // Written while nobody is there.
    asked.extend(write(&alice, agent, 10, 10).await?);
    split.node.restart().await?;
    asked.extend(write(&alice, agent, 20, 5).await?);
    answered(&mut alice, asked).await
}

#[tokio::test]
async fn both_at_once() -> Result<()> {
    let world = World::new()?;
    let mut split = Split::start(&world, plan()).await?;
    let agent = split.agent("concierge")?;
    let mut alice = split.client().await?;
    let mut asked = Vec::new();
    for round in 0..3 {
        asked.extend(write(&alice, agent, round * 10, 10).await?);
        split.relay.kill().await?;
        split.node.kill().await?;
        let (relay, node) = tokio::join!(split.relay.restart(), split.node.restart());
        relay?;
        node?;
        alice.reconnect(DEADLINE).await?;
    }
    asked.extend(write(&alice, agent, 30, 5).await?);
    answered(&mut alice, asked).await
}

#[tokio::test]
async fn up_with_all_in_one_process() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let mut up = home.up().start().await?;
    let agent = up.agent("concierge")?;
    let mut alice = Client::connect(&up.relay()?, Keys::generate(), DEADLINE).await?;
    let mut asked = Vec::new();
    for round in 0..3 {
        asked.extend(write(&alice, agent, round * 10, 10).await?);
        up.kill().await?;
        up.restart().await?;
        alice.reconnect(DEADLINE).await?;
    }
    answered(&mut alice, asked).await
}

#[tokio::test]
async fn a_relay_that_loses_every_third_event_without_a_word() -> Result<()> {
    let world = World::new()?;
    let split = Split::start(&world, plan()).await?;
    let agent = split.agent("concierge")?;
    let mut alice = split.client().await?;
    split.proxy.lose_every(3);
    let asked = write(&alice, agent, 0, 40).await?;
    answered(&mut alice, asked).await?;
    ensure!(split.proxy.lost() >= 13, "{} were lost", split.proxy.lost());
    ensure!(split.proxy.connections() == 1, "nobody noticed anything");
    Ok(())
}

#[tokio::test]
async fn a_connection_that_is_cut_again_and_again() -> Result<()> {
    let world = World::new()?;
    let split = Split::start(&world, plan()).await?;
    let agent = split.agent("concierge")?;
    let mut alice = split.client().await?;
    let mut asked = Vec::new();
    for round in 0..4 {
        asked.extend(write(&alice, agent, round * 5, 5).await?);
        split.proxy.cut();
    }
    answered(&mut alice, asked).await?;
    ensure!(split.proxy.connections() >= 2, "{} connections", split.proxy.connections());
    Ok(())
}

#[tokio::test]
async fn dead_relays_among_the_configured_ones() -> Result<()> {
    let world = World::new()?;
    // One refuses connections, one takes them and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let dead = [format!("ws://127.0.0.1:{}", free_port()?), format!("ws://{}", silent.local_addr()?)];
    let split = Split::start(&world, Plan { relays: dead.to_vec(), ..plan() }).await?;
    let agent = split.agent("concierge")?;
    let mut alice = split.client().await?;
    let began = std::time::Instant::now();
    let asked = write(&alice, agent, 0, 10).await?;
    answered(&mut alice, asked).await?;
    ensure!(began.elapsed() < Duration::from_secs(10), "dead relays held it up for {:?}", began.elapsed());
    Ok(())
}

#[tokio::test]
async fn mail_that_waited_for_a_node_is_answered_in_the_order_it_was_written() -> Result<()> {
    let world = World::new()?;
    let mut split = Split::start(&world, plan()).await?;
    let agent = split.agent("concierge")?;
    let mut alice = split.client().await?;
    split.node.kill().await?;
    // Wraps are dated at random and their order at the relay says nothing; what counts is the rumor's millisecond.
    let began_ms = now_ms() - 1_000;
    let draft = |n| Draft::text(agent, format!("note number {n}"), began_ms + n);
    let asked: Vec<Letter> =
        (0..20).map(|n| Letter::new(alice.keys(), &draft(n), Nip17)).collect::<Result<_>>()?;
    for letter in asked.iter().rev() {
        alice.put(&letter.event, DEADLINE).await?;
    }
    split.node.restart().await?;
    for (n, letter) in asked.iter().enumerate() {
        let reply = alice.answer(letter.id, 2 * DEADLINE).await?;
        let wanted = format!("Noted as #{}: number {n}", n + 1);
        ensure!(reply.text() == Some(&wanted), "{:?} and not {wanted:?}", reply.text());
    }
    Ok(())
}
