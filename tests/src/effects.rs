//! Effects: calls that reach outside, and a node that is killed around them.
//!
//! A service in this process counts what was done, by the key of each call. A [`child`] process is a node whose
//! program calls three tools, one of each class of journaled call, for each of many envelopes. The parent kills the
//! child when a call arrives (its intent is on disk), when it was counted (nobody was told), or when it was
//! acknowledged (the reply may not be on disk), and starts it again until all is done. Then it compares what was
//! counted with what the program was told.

pub mod child;
mod service;

use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use oa_node::agent::AgentId;
use oa_node::store::Store;
use oa_node::store::sqlite::SqliteBackend;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::process::Command;

use service::Ledger;

/// The classes of journaled calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    Idempotent,
    Queryable,
    AtMostOnce,
}

impl Class {
    /// All of them, in the order the program calls them.
    pub const ALL: [Self; 3] = [Self::Idempotent, Self::Queryable, Self::AtMostOnce];

    /// The name of its tool.
    pub fn tool(self) -> &'static str {
        match self {
            Self::Idempotent => "idempotent",
            Self::Queryable => "queryable",
            Self::AtMostOnce => "at-most-once",
        }
    }
}

/// How much is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Decides which calls are hit, and how.
    pub seed: u64,
    /// Envelopes, each of which makes one call of each class.
    pub envelopes: u32,
    /// Kills for each class.
    pub kills: u32,
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Kills by class: when a call arrived, when it was counted, when it was acknowledged.
    pub kills: [[u32; 3]; 3],
    /// Calls whose outcome the program was told to be unknown.
    pub unknown: u32,
    /// What must not be.
    pub violations: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (class, kills) in Class::ALL.iter().zip(self.kills) {
            let [before, counted, acked] = kills;
            writeln!(f, "{:12} killed before/after/acknowledged: {before}/{counted}/{acked}", class.tool())?;
        }
        let (unknown, found) = (self.unknown, self.violations.len());
        writeln!(f, "unknown outcomes {unknown}, violations {found}, {:.1} s", self.took.as_secs_f32())?;
        self.violations.iter().try_for_each(|violation| writeln!(f, "  {violation}"))
    }
}

/// What the program wrote of one call.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Told {
    Done(String),
    Failed(String),
}

/// Runs `program` (this crate's `oa-effects`) as the node that is killed.
///
/// # Errors
/// When it does not come to an end.
pub async fn run(config: Config, program: &Path) -> Result<Report> {
    let started = Instant::now();
    let home = tempfile::tempdir()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let ledger = Arc::new(Ledger::new(config));
    let serving = tokio::spawn(service::serve(listener, ledger.clone()));
    let mut runs = 0;
    loop {
        ensure!(started.elapsed() < Duration::from_secs(900), "not done after 15 minutes");
        runs += 1;
        let mut child = Command::new(program)
            .arg("--child")
            .args([
                &address.to_string(),
                home.path().to_str().context("home")?,
                &config.envelopes.to_string(),
            ])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let status = tokio::select! {
            status = child.wait() => status?,
            () = ledger.next_kill() => {
                child.start_kill()?;
                child.wait().await?
            }
        };
        ledger.buried();
        match status.code() {
            Some(0) => break,
            None | Some(child::RESTART) => {}
            Some(code) => bail!("the node ended with {code} in run {runs}"),
        }
    }
    serving.abort();
    let mut report = ledger.judge(&told(home.path(), config.envelopes)?);
    report.took = started.elapsed();
    Ok(report)
}

/// What the program was told, by envelope.
fn told(home: &Path, envelopes: u32) -> Result<Vec<Vec<Told>>> {
    let store = Store::new(Arc::new(SqliteBackend::open(&home.join("node.db"))?))?;
    let file = |n: u32| {
        let bytes =
            store.file(AgentId(0), &format!("/memory/told/{n}"))?.context("an envelope left nothing")?;
        Ok(serde_json::from_slice(&bytes)?)
    };
    (0..envelopes).map(file).collect()
}
