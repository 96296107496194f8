//! A hundred thousand agents that sleep: what they cost, and how soon one of them answers.
//!
//! They are written into the home of a node before it starts, each as after its first tick. Waking is a direct
//! message to one of them, from the text to the opened reply; a second message to the same one shows what of that
//! is waking.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use oa_nips::nostr::{Keys, PublicKey};
use oa_node::signer::Seed;
use oa_node::store::Store;
use oa_node::store::sqlite::SqliteBackend;

use super::report::{Report, Row, Target};
use super::spread::Spread;
use super::{Size, agents, replies};
use crate::client::Client;
use crate::world::{DEADLINE, Home, Process, World};

/// DESIGN section 11: MiB, milliseconds, milliseconds.
const MEMORY_TARGET: Target = Target::AtMost(250.0);
const START_TARGET: Target = Target::AtMost(5_000.0);
const WAKE_TARGET: Target = Target::AtMost(10.0);
/// After the start, until memory is looked at.
const SETTLE: Duration = Duration::from_secs(5);
/// Between two messages.
const PAUSE: Duration = Duration::from_millis(30);

/// Measures it.
///
/// # Errors
/// When something does not start, or a message is not answered.
pub(crate) async fn measure(report: &mut Report, size: Size) -> Result<()> {
    let count = size.of(100_000, 10_000);
    report.doing(&format!("{count} dormant agents"));
    let world = World::new()?;
    let home = world.home("dormant")?;
    let keys = create(&home, count).await?;
    let began = Instant::now();
    let mut node = home.run().start().await?;
    let started = began.elapsed().as_secs_f64() * 1000.0;
    let name = |what: &str| format!("{count} dormant agents, {what}");
    report.row(Row::new(name("start to ready"), started, "ms").target(START_TARGET))?;
    tokio::time::sleep(SETTLE).await;
    let settled = memory_mib(&node)?;
    let (wake, again) = wake(&node, &keys, size.of(300, 20)).await?;
    let note = format!("after {} of them woke {:.0} MiB", wake.len(), memory_mib(&node)?);
    report.row(Row::new(name("resident memory"), settled, "MiB").target(MEMORY_TARGET).note(note))?;
    let row = Row::new(name("wake, DM → reply p99"), wake.percentile_ms(99), "ms");
    report.row(row.target(WAKE_TARGET).spread(&wake))?;
    let row = Row::new(name("awake, DM → reply p99"), again.percentile_ms(99), "ms");
    report.row(row.spread(&again).note("the second message to each"))?;
    node.terminate(DEADLINE).await?;
    Ok(())
}

async fn create(home: &Home, count: u32) -> Result<Vec<PublicKey>> {
    let config = format!("{}wide = true\n", replies::config(home, "echo", 0));
    home.write("config.toml", &config)?;
    let folder = oa_node::home::Home::open(home.dir())?;
    let seed = Seed::generate();
    seed.save(&folder.seed())?;
    let store = Store::new(Arc::new(SqliteBackend::open(&folder.db())?))?;
    let keys = agents::create_asleep(&store, &seed, count, "echo").await?;
    store.close().await;
    Ok(keys)
}

fn memory_mib(node: &Process) -> Result<f64> {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    let bytes = node.rss_bytes()? as f64;
    Ok(bytes / f64::from(1 << 20))
}

/// Writes to `count` agents far from each other, twice to each.
async fn wake(node: &Process, keys: &[PublicKey], count: usize) -> Result<(Spread, Spread)> {
    let mut client = Client::connect(&node.relay()?, Keys::generate(), DEADLINE).await?;
    let (mut wake, mut again) = (Spread::default(), Spread::default());
    let warm = count / 10;
    let step = keys.len() / (count + warm);
    ensure!(step > 0, "too few agents");
    for n in 0..count + warm {
        let key = keys.get(n * step).copied().context("within the number of agents")?;
        for spread in [&mut wake, &mut again] {
            let took = replies::ask(&mut client, key, "are you there?").await?;
            if n >= warm {
                spread.add(took);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok((wake, again))
}
