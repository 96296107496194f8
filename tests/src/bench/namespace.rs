//! The namespace in process: what a read, a write, a list and a call of a file cost a program.

use std::time::{Duration, Instant};

use anyhow::Result;
use oa_nips::nostr::Keys;
use oa_node::program::{Agent, Bench, Fault, Run, Tick};
use serde_json::json;

use super::Size;
use super::report::{Report, Row};
use crate::client::forge::now_ms;

/// Does one thing many times, and notes how long it took.
#[derive(Debug)]
struct Again {
    what: What,
    times: u32,
    took: std::sync::Mutex<Duration>,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Read,
    Write,
    List,
    Trigger,
}

impl Agent for Again {
    fn on_trigger<'a>(&'a self, tick: &'a mut Tick) -> Run<'a> {
        Box::pin(async move {
            let content = [b'x'; 100];
            tick.ns.write("/memory/notes/1.json", &content).await?;
            let began = Instant::now();
            for _ in 0..self.times {
                match self.what {
                    What::Read => drop(tick.ns.read("/memory/notes/1.json").await?),
                    What::Write => tick.ns.write("/memory/notes/1.json", &content).await?,
                    What::List => drop(tick.ns.list("/memory/notes").await?),
                    What::Trigger => drop(tick.ns.read("/trigger").await?),
                }
            }
            let took = began.elapsed();
            *self.took.lock().map_err(|_| Fault::Failed("poisoned".to_owned()))? = took;
            Ok(())
        })
    }
}

/// Measures each.
///
/// # Errors
/// What a file operation said.
pub(crate) async fn measure(report: &mut Report, size: Size) -> Result<()> {
    report.doing("namespace operations");
    let times = size.of(500_000, 20_000);
    for (name, what) in [
        ("namespace: read of 100 bytes", What::Read),
        ("namespace: write of 100 bytes", What::Write),
        ("namespace: list of one file", What::List),
        ("namespace: read of /trigger", What::Trigger),
    ] {
        let program = Again { what, times, took: std::sync::Mutex::default() };
        let mut bench = Bench::new(Keys::generate().public_key());
        bench.tick(&program, &json!({ "text": "x" }), "{}", now_ms()).await?;
        let took = program.took.into_inner().unwrap_or_default();
        report.row(
            Row::new(name, took.as_secs_f64() * 1e9 / f64::from(times), "ns").note("in a tick, in memory"),
        )?;
    }
    Ok(())
}
