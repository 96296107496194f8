//! Durable ticks: the engine in this process, with a program that does one memory write, and inboxes filled before.
//!
//! The node's one relay is dead, so that nothing but ticks happens. The same on a store in memory shows how much of
//! it is the disk and its database.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use oa_nips::nostr::RelayUrl;
use oa_node::Node;
use oa_node::agent::AgentId;
use oa_node::drivers::nostr::RelaySpec;
use oa_node::engine::running::Running;
use oa_node::keyring::Addresses;
use oa_node::keyring::SeedKeyring;
use oa_node::node::{Config, Parts};
use oa_node::program::{Agent, Run, Tick};
use oa_node::signer::Seed;
use oa_node::store::Store;
use oa_node::store::backend::Backend;
use oa_node::store::memory::MemoryBackend;
use oa_node::store::sqlite::SqliteBackend;
use oa_node::time::System;

use super::report::{Report, Row, Target};
use super::{Size, agents};

/// Nobody listens at the discard port.
const DEAD_RELAY: &str = "ws://127.0.0.1:9";
/// The program's name: a manifest only takes one that every node has.
const PROGRAM: &str = "echo";
/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long all ticks may take.
const DEADLINE: Duration = Duration::from_secs(300);
/// DESIGN section 11.
const TARGET: Target = Target::AtLeast(30_000.0);

/// Writes one small file a tick.
#[derive(Debug, Default)]
struct OneWrite(Arc<AtomicU64>);

impl Agent for OneWrite {
    fn on_trigger<'a>(&'a self, tick: &'a mut Tick) -> Run<'a> {
        Box::pin(async move {
            let n = self.0.fetch_add(1, Ordering::Relaxed);
            tick.ns.write("/memory/count", format!("tick {n:012}").as_bytes()).await?;
            Ok(())
        })
    }
}

/// Measures it on both stores.
///
/// # Errors
/// What the store said, or when ticks do not end.
pub(crate) async fn measure(report: &mut Report, size: Size) -> Result<()> {
    let (count, each) = size.of((1_000, 200), (100, 50));
    let runs = [("ticks: one memory write", "SQLite"), ("ticks: the same, store in memory", "memory")];
    for (name, kind) in runs {
        report.doing(&format!("{} ticks, {kind}", count * each));
        let dir = tempfile::tempdir()?;
        let backend: Arc<dyn Backend> = match kind {
            "SQLite" => Arc::new(SqliteBackend::open(&dir.path().join("node.db"))?),
            _ => Arc::new(MemoryBackend::default()),
        };
        let (per_s, cpu) = run(dir.path(), backend, count, each).await?;
        let note =
            format!("{count} agents, {each} envelopes each, {:.0} µs CPU a tick", cpu.as_secs_f64() * 1e6);
        let row = Row::new(name, per_s, "/s").note(note);
        report.row(if kind == "SQLite" { row.target(TARGET) } else { row })?;
    }
    Ok(())
}

/// Ticks a second, and processor time of one tick.
async fn run(dir: &Path, backend: Arc<dyn Backend>, count: u32, each: u32) -> Result<(f64, Duration)> {
    let store = Store::new(backend)?;
    let seed = Seed::generate();
    agents::create_asleep(&store, &seed, count, PROGRAM).await?;
    agents::poke(&store, count, each).await?;

    let ticks = Arc::new(AtomicU64::new(0));
    let mut config = Config::new(vec![RelaySpec { url: RelayUrl::parse(DEAD_RELAY)?, wide: false }]);
    config.programs.add(PROGRAM, Arc::new(OneWrite(ticks.clone())));
    let addresses = Arc::new(Addresses::load(&store)?);
    let parts = Parts {
        store: store.clone(),
        keyring: Arc::new(SeedKeyring::new(seed, addresses.clone())),
        addresses,
        running: Running::open(&dir.join("running"))?,
        time: Arc::new(System),
    };
    let (pid, total) = (std::process::id(), u64::from(count) * u64::from(each));
    let (began, cpu_before) = (Instant::now(), super::cpu::used(pid)?);
    let node = Node::start(config, parts).await?;
    let mut look = tokio::time::interval(LOOK_EVERY);
    while ticks.load(Ordering::Relaxed) < total {
        ensure!(began.elapsed() < DEADLINE, "{} of {total} ticks", ticks.load(Ordering::Relaxed));
        look.tick().await;
    }
    // The last ticks began; the time ends when they are on disk.
    while !store.agents_with_mail()?.is_empty() {
        ensure!(began.elapsed() < DEADLINE, "ticks do not commit");
        look.tick().await;
    }
    let (took, cpu) = (began.elapsed(), super::cpu::used(pid)?.saturating_sub(cpu_before));
    check(&store, count, each)?;
    node.shutdown().await;
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    let per_s = total as f64 / took.as_secs_f64();
    Ok((per_s, cpu / u32::try_from(total)?))
}

/// Every tick is in its agent's chain, after the one that put it to sleep.
fn check(store: &Store, count: u32, each: u32) -> Result<()> {
    for agent in [0, count / 2, count - 1] {
        let row = store.agent(AgentId(agent))?.context("it was created")?;
        ensure!(row.head.seq == u64::from(each) + 1, "agent {agent} ticked {} times", row.head.seq);
        ensure!(store.file(AgentId(agent), "/memory/count")?.is_some(), "agent {agent} wrote nothing");
    }
    Ok(())
}
