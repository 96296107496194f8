//! Direct message → reply over NIP-17: a real `oa-node run` with its bundled relay, and raw clients over websockets.
//!
//! A time begins before the client wraps its message and ends when it has opened the reply: eight hops, a client's
//! cryptography included. What the clients cost is told apart, because they share the machine.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use oa_nips::mail::Protocol;
use oa_nips::nostr::{EventId, Keys, PublicKey};

use super::report::{Report, Row, Target};
use super::spread::Spread;
use super::{Size, agents, cpu};
use crate::client::{Client, Letter};
use crate::world::{DEADLINE, Home, Process, World};

/// DESIGN section 11, on relay-builder; the relay of our own that follows is to reach 8 ms and 1,200/s.
const IDLE_TARGET: Target = Target::AtMost(15.0);
const SUSTAINED_TARGET: Target = Target::AtLeast(300.0);
/// Between two messages of an idle node: the end of the one before is over by then.
const PAUSE: Duration = Duration::from_millis(30);
/// Clients that load a node.
const SENDERS: usize = 8;
/// Messages of one client that wait for their replies.
const WINDOW: usize = 8;
/// Before it counts.
const WARM_UP: Duration = Duration::from_secs(2);

/// A node's `config.toml`: its own relay, and `count` agents `NAME-0` and on that run `program`.
pub(crate) fn config(home: &Home, program: &str, count: usize) -> String {
    let mut text = format!("[relay]\nlisten = \"{}\"\n", home.listen());
    for n in 0..count {
        let manifest = agents::manifest(&format!("{program}-{n}"), program);
        let replies = manifest.replies;
        text.push_str(&format!(
            "\n[[agents]]\nname = \"{}\"\nprogram = \"{program}\"\n[agents.dm]\npolicy = \"open\"\n\
             [agents.replies]\nburst = {}\nper_minute = {}\n",
            manifest.name, replies.burst, replies.per_minute
        ));
    }
    text
}

/// One message at a time, by one client, to an agent that is awake.
///
/// # Errors
/// When something does not start, or a message is not answered.
pub(crate) async fn idle(report: &mut Report, size: Size) -> Result<()> {
    for (program, text) in [("echo", "how are you today?"), ("concierge", "ping")] {
        report.doing(&format!("DM → reply, idle, {program}"));
        let world = World::new()?;
        let home = world.home("idle")?;
        home.write("config.toml", &config(&home, program, 1))?;
        let mut node = home.run().start().await?;
        let agent = node.agent(&format!("{program}-0"))?;
        let mut client = Client::connect(&node.relay()?, Keys::generate(), DEADLINE).await?;
        let spread = one_by_one(&mut client, agent, text, size.of(500, 40)).await?;
        let row = Row::new(format!("DM → reply, idle, {program}"), spread.percentile_ms(50), "ms");
        report.row(row.target(IDLE_TARGET).spread(&spread).note(format!("{} messages", spread.len())))?;
        drop(client);
        node.terminate(DEADLINE).await?;
    }
    Ok(())
}

async fn one_by_one(client: &mut Client, agent: PublicKey, text: &str, count: usize) -> Result<Spread> {
    let mut spread = Spread::default();
    let warm = count / 10;
    for n in 0..warm + count {
        let took = ask(client, agent, text).await?;
        if n >= warm {
            spread.add(took);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(spread)
}

/// How long one reply takes.
///
/// # Errors
/// When there is none.
pub(crate) async fn ask(client: &mut Client, agent: PublicKey, text: &str) -> Result<Duration> {
    let began = Instant::now();
    let letter = Letter::text(client.keys(), agent, text, Protocol::Nip17)?;
    client.send(&letter.event).await?;
    client.answer(letter.id, DEADLINE).await.context("DM → reply")?;
    Ok(began.elapsed())
}

/// Several clients, each with a window of messages in flight.
///
/// # Errors
/// When something does not start, or a message is not answered.
pub(crate) async fn sustained(report: &mut Report, size: Size) -> Result<()> {
    let runs = [
        ("DM → reply, sustained, 8 echoes", "echo", SENDERS, "how are you today?"),
        ("DM → reply, sustained, 1 echo", "echo", 1, "how are you today?"),
        ("DM → reply, sustained, 8 concierges", "concierge", SENDERS, "ping"),
    ];
    for (name, program, agents, text) in runs {
        report.doing(name);
        let world = World::new()?;
        let home = world.home("sustained")?;
        home.write("config.toml", &config(&home, program, agents))?;
        let mut node = home.run().start().await?;
        let relay = node.relay()?;
        let mut senders = Vec::new();
        for n in 0..SENDERS {
            let agent = node.agent(&format!("{program}-{}", n % agents))?;
            senders.push((Client::connect(&relay, Keys::generate(), DEADLINE).await?, agent));
        }
        let measured = size.of(Duration::from_secs(12), Duration::from_secs(2));
        let load = load(&node, senders, text, measured).await?;
        report.row(load.row(name, measured))?;
        node.terminate(DEADLINE).await?;
    }
    Ok(())
}

/// What a load came to.
#[derive(Debug)]
struct Load {
    spread: Spread,
    node_cpu: Duration,
    clients_cpu: Duration,
}

impl Load {
    fn row(&self, name: &str, measured: Duration) -> Row {
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
        let count = self.spread.len() as f64;
        let each_us = |cpu: Duration| cpu.as_secs_f64() * 1e6 / count.max(1.0);
        let (node, clients) = (each_us(self.node_cpu), each_us(self.clients_cpu));
        let note = format!("CPU a reply: node with relay {node:.0} µs, clients {clients:.0} µs");
        let row = Row::new(name, count / measured.as_secs_f64(), "/s");
        row.target(SUSTAINED_TARGET).spread(&self.spread).note(note)
    }
}

async fn load(
    node: &Process,
    senders: Vec<(Client, PublicKey)>,
    text: &'static str,
    measured: Duration,
) -> Result<Load> {
    let (from, until) = (Instant::now() + WARM_UP, Instant::now() + WARM_UP + measured);
    let senders =
        senders.into_iter().map(|(client, agent)| tokio::spawn(send(client, agent, text, from, until)));
    let senders: Vec<_> = senders.collect();
    let (node_pid, own_pid) = (node.pid()?, std::process::id());
    tokio::time::sleep_until(from.into()).await;
    let before = (cpu::used(node_pid)?, cpu::used(own_pid)?);
    tokio::time::sleep_until(until.into()).await;
    let after = (cpu::used(node_pid)?, cpu::used(own_pid)?);
    let mut spread = Spread::default();
    for sender in senders {
        spread.merge(sender.await??);
    }
    let node_cpu = after.0.saturating_sub(before.0);
    Ok(Load { spread, node_cpu, clients_cpu: after.1.saturating_sub(before.1) })
}

/// Keeps a window full until the time is over, and waits for the last replies; the times of those that came between
/// `from` and `until`.
async fn send(
    mut client: Client,
    agent: PublicKey,
    text: &str,
    from: Instant,
    until: Instant,
) -> Result<Spread> {
    let (mut waiting, mut spread) = (HashMap::<EventId, Instant>::new(), Spread::default());
    loop {
        while waiting.len() < WINDOW && Instant::now() < until {
            let began = Instant::now();
            let letter = Letter::text(client.keys(), agent, text, Protocol::Nip17)?;
            waiting.insert(letter.id, began);
            client.send(&letter.event).await?;
        }
        if waiting.is_empty() {
            return Ok(spread);
        }
        let reply = client.next(DEADLINE).await.context("DM → reply under load")?;
        let Some(began) = reply.reply_to.and_then(|id| waiting.remove(&id)) else { continue };
        let now = Instant::now();
        if (from..until).contains(&now) {
            spread.add(now - began);
        }
    }
}
