//! `oa up` from its start to its ready line.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Size;
use super::report::{Report, Row, Target};
use super::spread::Spread;
use crate::world::{DEADLINE, World};

/// DESIGN section 11, in milliseconds.
const TARGET: Target = Target::AtMost(300.0);
/// From ready to the end of a run.
const SETTLE: Duration = Duration::from_millis(200);

/// Starts it once on a fresh machine, and again and again in the same home.
///
/// # Errors
/// When it does not start or end.
pub(crate) async fn measure(report: &mut Report, size: Size) -> Result<()> {
    report.doing("oa up");
    let world = World::new()?;
    let home = world.home("up")?;
    let first = once(&home).await?;
    report.row(Row::new("up: first run to ready", first.as_secs_f64() * 1000.0, "ms"))?;
    let mut again = Spread::default();
    for _ in 0..size.of(10, 3) {
        again.add(once(&home).await?);
    }
    let row = Row::new("up: later runs to ready", again.percentile_ms(50), "ms");
    report.row(row.target(TARGET).spread(&again))?;
    Ok(())
}

async fn once(home: &crate::world::Home) -> Result<Duration> {
    let began = Instant::now();
    let mut process = home.up().start().await?;
    let took = began.elapsed();
    // What a start leaves to be done is not the next one's.
    tokio::time::sleep(SETTLE).await;
    let code = process.terminate(DEADLINE).await?;
    ensure!(code == 0, "oa up ended with {code}");
    Ok(took)
}
