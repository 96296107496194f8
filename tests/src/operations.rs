//! Operations on a node from another machine, over a network that loses and cuts: none lost, none done twice, and the
//! client told the truth about each.
//!
//! Node, relay and client are on [hosts](crate::hosts) of their own, where 2 % of the packets are lost. The client asks
//! for operations of all kinds, some over one connection that it holds, by the protocol alone, and some by `oa`, one
//! process each. Meanwhile connections are cut and the relay is killed and started again. Then [`verdict`] compares
//! what the client was told with what the node has. [`waiting`] does the same to commands that wait for a node which is
//! away.
//!
//! - [`plan`]: what is asked, by seed
//! - `stage`: relay, node and client
//! - `asker`: the two ways to ask
//! - `trouble`: what is cut, and when
//! - [`verdict`]: what must hold

mod asker;
pub mod plan;
mod stage;
mod trouble;
pub mod verdict;
pub mod waiting;

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::stream::{self, StreamExt as _};
use oa_nips::nostr::{Keys, PublicKey};
use tokio::sync::watch;

use self::asker::{Asker, Held, Way};
use self::plan::Operation;
use self::stage::Stage;
use self::verdict::{Outcome, Told};
use crate::hosts::Hosts;
use crate::world::{Home, World};

/// Who ask over the one connection; each waits for its answer.
const HELD: usize = 8;
/// Who ask by `oa`.
const COMMANDS: usize = 6;
/// What is prepared at once, before anything is lost.
const PREPARED: usize = 16;

/// How much.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Decides what is asked.
    pub seed: u64,
    /// How many operations.
    pub operations: u64,
    /// How often commands wait for a node that is killed while it does them.
    pub rounds: u32,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Report {
    /// To run the same again.
    pub seed: u64,
    /// What was asked: over the one connection, and by `oa`.
    pub asked: [usize; 2],
    /// Of them, by what the client was told: done, refused, not done, unknown.
    pub told: [[usize; 4]; 2],
    /// How often requests were sent again over the one connection.
    pub again: u64,
    /// What was cut.
    pub cuts: Vec<String>,
    /// Packets lost by chance, and all.
    pub lost: (u64, u64),
    /// The commands that waited.
    pub waited: waiting::Tally,
    /// How long the operations took, without what was done before and after.
    pub took: Duration,
    /// How long the commands that waited took.
    pub waiting_took: Duration,
    /// What must not be; nothing, if all is well.
    pub violations: Vec<String>,
}

/// Runs to the end on these hosts; `say` hears how it goes on.
///
/// # Errors
/// When the run itself cannot go on. What must not be is in the report.
pub async fn run(config: &Config, hosts: &Hosts, say: &mut (dyn FnMut(String) + Send)) -> Result<Report> {
    let world = World::new()?;
    let mut stage = Stage::start(&world, hosts).await?;
    let operations: Vec<Operation> = (0..config.operations).map(|n| Operation::new(config.seed, n)).collect();
    let client =
        Client { node: stage.node_key(), keys: stage.operator.clone(), laptop: stage.laptop.clone() };
    client.prepare(hosts, &operations).await?;
    say(format!("seed {}: {} operations", config.seed, config.operations));
    hosts.lose()?;
    let began = Instant::now();
    let (progress, seen) = watch::channel(0);
    let asking = client.ask(hosts, operations, progress);
    let (asked, cuts) = tokio::join!(asking, trouble::make(config, hosts, &mut stage, seen, say));
    let ((outcomes, again), cuts) = (asked?, cuts?);
    let took = began.elapsed();
    let lost = hosts.lost()?;
    say("asked; now for commands that wait".to_owned());
    let mut violations = verdict::judge(&outcomes, &stage.state(&outcomes).await?);
    let began = Instant::now();
    let waited = waiting::run(config, hosts, &mut stage, say).await?;
    hosts.lose_nothing()?;
    violations.extend(waited.violations.iter().cloned());
    let mut told = [[0; 4]; 2];
    for outcome in &outcomes {
        let row = told.get_mut(usize::from(outcome.way == Way::Command));
        row.and_then(|row| row.get_mut(outcome.told.column())).into_iter().for_each(|count| *count += 1);
    }
    let asked = told.map(|row| row.iter().sum());
    let waiting_took = began.elapsed();
    Ok(Report { seed: config.seed, asked, told, again, cuts, lost, waited, took, waiting_took, violations })
}

/// What the client's side needs to know.
#[derive(Debug, Clone)]
struct Client {
    node: PublicKey,
    keys: Keys,
    laptop: Home,
}

impl Client {
    /// Makes what operations take away or move.
    async fn prepare(&self, hosts: &Hosts, operations: &[Operation]) -> Result<()> {
        let before: Vec<_> =
            plan::fixtures().into_iter().chain(operations.iter().filter_map(Operation::before)).collect();
        let Self { node, keys, .. } = self.clone();
        hosts
            .client
            .run(move || async move {
                let held = Held::connect(node, keys).await?;
                let made = stream::iter(before).map(|act| held.ask(act)).buffer_unordered(PREPARED);
                let told: Vec<Told> = made.collect().await;
                held.close().await;
                let failed = told.into_iter().find(|told| !matches!(told, Told::Done(_)));
                failed.map_or(Ok(()), |told| anyhow::bail!("not prepared: {told:?}"))
            })
            .await
    }

    /// Asks for all of them; answers what was told of each, and how often something was sent again.
    async fn ask(
        &self,
        hosts: &Hosts,
        operations: Vec<Operation>,
        progress: watch::Sender<u64>,
    ) -> Result<(Vec<Outcome>, u64)> {
        let Self { node, keys, laptop } = self.clone();
        hosts
            .client
            .run(move || async move {
                let held = Held::connect(node, keys).await?;
                let askers = (0..HELD + COMMANDS).map(|number| {
                    let way = if number < HELD { Way::Held } else { Way::Command };
                    Asker { number, way, held: &held, laptop: &laptop, progress: &progress }
                });
                let shares = share(operations);
                let asked = askers.zip(shares).map(|(asker, share)| asker.run(share));
                let asked = futures_util::future::try_join_all(asked).await?;
                let again = held.again();
                held.close().await;
                Ok((asked.into_iter().flatten().collect(), again))
            })
            .await
    }
}

/// Deals the operations out: half of them to those who hold a connection.
fn share(operations: Vec<Operation>) -> Vec<Vec<Operation>> {
    let mut shares: Vec<Vec<Operation>> = vec![Vec::new(); HELD + COMMANDS];
    for (n, operation) in operations.into_iter().enumerate() {
        let asker = if n % 2 == 0 { n / 2 % HELD } else { HELD + n / 2 % COMMANDS };
        shares.get_mut(asker).into_iter().for_each(|share| share.push(operation));
    }
    shares
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed              {}", self.seed)?;
        for (n, what) in ["one connection", "oa"].into_iter().enumerate() {
            let [done, refused, not_done, unknown] = self.told.get(n).copied().unwrap_or_default();
            let asked = self.asked.get(n).copied().unwrap_or_default();
            writeln!(
                f,
                "{what:<17} {asked}: done {done}, refused {refused}, not done {not_done}, unknown {unknown}"
            )?;
        }
        writeln!(f, "sent again        {}", self.again)?;
        writeln!(f, "cuts              {}", self.cuts.join("; "))?;
        let (lost, all) = self.lost;
        writeln!(f, "packets lost      {lost} of {all}")?;
        writeln!(f, "took              {:.1} s", self.took.as_secs_f32())?;
        writeln!(f, "{}", self.waited)?;
        writeln!(f, "took              {:.1} s", self.waiting_took.as_secs_f32())?;
        write!(f, "violations        {}", self.violations.len())?;
        self.violations.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}
