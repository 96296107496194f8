//! A node with nothing to do does nothing, also while mail waits for an agent that is stopped.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oa_tests::world::{DEADLINE, Process, World, eventually};

/// How long it is watched for.
const WINDOW: Duration = Duration::from_millis(400);
/// What of that it may take: a worker that turns in circles takes all.
const BUSY_MAX: Duration = Duration::from_millis(150);

/// The processor time that a process has taken.
fn busy(process: &Process) -> Result<Duration> {
    /// Of /proc, see proc(5).
    const TICKS_PER_S: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid()?))?;
    // The name before it may have spaces.
    let (_, rest) = stat.rsplit_once(')').context("a stat")?;
    let numbers: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| -> Result<u64> { Ok(numbers.get(at).context("a field")?.parse()?) };
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / TICKS_PER_S))
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_waits_for_a_stopped_agent_costs_nothing() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let mut node = home.up().start().await?;
    home.oa(&["agent", "ctl", "concierge", "stop"]).await?.ok()?;
    home.oa(&["dm", "concierge", "--no-wait", "are you there?"]).await?.ok()?;
    eventually(DEADLINE, async || {
        let inbox = home.oa(&["ls", "/agents/concierge/inbox"]).await?.ok()?;
        ensure!(inbox.lines().any(|line| line.starts_with(|c: char| c.is_ascii_digit())), "{inbox}");
        Ok(())
    })
    .await?;
    eventually(DEADLINE, async || {
        let before = busy(&node)?;
        tokio::time::sleep(WINDOW).await;
        let took = busy(&node)?.saturating_sub(before);
        ensure!(took < BUSY_MAX, "{took:?} of {WINDOW:?}");
        Ok(())
    })
    .await?;
    // It is heard once it may be.
    home.oa(&["agent", "ctl", "concierge", "resume"]).await?.ok()?;
    eventually(DEADLINE, async || {
        let inbox = home.oa(&["ls", "/agents/concierge/inbox"]).await?.ok()?;
        ensure!(!inbox.lines().any(|line| line.starts_with(|c: char| c.is_ascii_digit())), "{inbox}");
        Ok(())
    })
    .await?;
    ensure!(node.terminate(DEADLINE).await? == 0);
    Ok(())
}
