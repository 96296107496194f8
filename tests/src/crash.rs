//! The crash harness: senders write, node and relay are killed, and in the end every message has one reply.
//!
//! Some senders write numbered notes to a concierge, NIP-17 and NIP-04 mixed, while its node, its relay or both are
//! killed with `kill -9` and started again. After each kill the copied database tells which unfinished work it hit,
//! and in which [`phase`]; kills that hit nothing do not count. The run goes on until enough kills have hit each
//! phase and every message is answered. Then [`verdict`] compares: one reply each, in order, an unbroken chain of
//! records, nothing given up.
//!
//! - [`plan`]: what happens, by seed
//! - [`phase`]: what a kill hit
//! - [`verdict`]: what must hold
//! - `stage`: relay and node as processes
//! - `memory`: what they remember, read from copies
//! - `sender`: a correspondent

mod memory;
pub mod phase;
pub mod plan;
mod sender;
mod stage;
pub mod verdict;

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use oa_nips::mail::Protocol;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::phase::{Phase, Tally};
use self::plan::Plan;
use self::sender::Sender;
use self::stage::Stage;
use self::verdict::{Sent, Violation};
use crate::world::World;

/// How long nothing may be answered before what is unanswered is given up.
const STALL: Duration = Duration::from_secs(30);
/// Messages released for a kill after all that were asked for are written.
const EXTRA: u64 = 4;
/// Messages of one sender: the concierge keeps 500 notes for each.
const NOTES_MAX: u64 = 490;
/// Kills in a row that may hit nothing.
const MISSES_MAX: u64 = 25;

/// How long and how hard.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Decides the plan.
    pub seed: u64,
    /// Who writes.
    pub senders: usize,
    /// Messages in all, at least.
    pub dms: u64,
    /// Kills that hit unfinished work, at least.
    pub kills: u64,
    /// Of them in each phase, at least.
    pub each: u64,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// To run the same plan again.
    pub seed: u64,
    /// Messages written: by NIP-17 and by NIP-04.
    pub dms: (usize, usize),
    /// The kills.
    pub tally: Tally,
    /// How long it took.
    pub took: Duration,
    /// What must not be; nothing, if all is well.
    pub violations: Vec<Violation>,
}

/// The senders at work.
struct Senders {
    allowed: Vec<watch::Sender<u64>>,
    answered: Vec<watch::Receiver<u64>>,
    tasks: JoinSet<Result<Vec<Sent>>>,
    end: CancellationToken,
}

/// Runs to the end; `say` hears how it goes on.
///
/// # Errors
/// When the run itself cannot go on: a program does not start, or no kill hits. What must not be is in the report.
pub async fn run(config: &Config, say: &mut (dyn FnMut(String) + Send)) -> Result<Report> {
    let began = Instant::now();
    let (world, plan) = (World::new()?, Plan::new(config.seed));
    let mut stage = Stage::start(&world).await?;
    let mut senders = Senders::start(config, plan, &stage);
    let tally = kills(config, plan, &mut stage, &mut senders, say).await?;
    senders.allow(config.dms);
    senders.settled(say).await?;
    let sent = senders.finish().await?;
    let mut replies = Vec::new();
    for number in 0..config.senders {
        replies.extend(sender::replies(&stage.relay_url(), number, &plan.keys(number)).await?);
    }
    let mut violations = verdict::replies(&sent, &replies);
    violations.extend(verdict::aftermath(&sent, &stage.end().await?));
    let sealed = sent.iter().filter(|sent| sent.protocol == Protocol::Nip17).count();
    let dms = (sealed, sent.len() - sealed);
    Ok(Report { seed: config.seed, dms, tally, took: began.elapsed(), violations })
}

/// Kills, until enough have hit.
async fn kills(
    config: &Config,
    plan: Plan,
    stage: &mut Stage,
    senders: &mut Senders,
    say: &mut (dyn FnMut(String) + Send),
) -> Result<Tally> {
    let mut tally = Tally::default();
    // A tenth is kept for kills that hit nothing.
    let batch = (config.dms * 9 / 10 / config.kills.max(1)).max(1);
    let mut missed = 0;
    for round in 0.. {
        let lacking = tally.lacking(config.each);
        if tally.kills >= config.kills && lacking.is_empty() {
            break;
        }
        ensure!(missed < MISSES_MAX, "{missed} kills in a row hit nothing; seed {}", config.seed);
        let mut strike = plan.strike(round, &lacking);
        strike.cues = strike.cues.min(batch);
        let since = stage.told();
        let allowed = senders.allowed();
        let room = config.dms.saturating_sub(allowed);
        senders.allow(allowed + if room > 0 { batch.min(room) } else { EXTRA });
        let came = stage.due(since, &strike).await?;
        senders.check().await?;
        let hits = stage.kill(strike.dead).await?.hits(strike.dead);
        tally.count(strike.dead, &hits);
        missed = if hits.is_empty() { missed + 1 } else { 0 };
        let late = if came { "" } else { " (its cue did not come)" };
        say(format!(
            "kill {round} of the {} for {}{late}: {hits}; {} of {} messages answered",
            strike.dead,
            strike.aim,
            senders.answered(),
            senders.allowed(),
        ));
    }
    Ok(tally)
}

impl Senders {
    fn start(config: &Config, plan: Plan, stage: &Stage) -> Self {
        let end = CancellationToken::new();
        let mut senders =
            Self { allowed: Vec::new(), answered: Vec::new(), tasks: JoinSet::new(), end: end.clone() };
        for number in 0..config.senders {
            let (allow, allowed) = watch::channel(0);
            let (answer, answered) = watch::channel(0);
            let (relay, agent) = (stage.relay_url(), stage.agent());
            let sender = Sender { number, plan, relay, agent, allowed, answered: answer, end: end.clone() };
            senders.tasks.spawn(sender.run());
            senders.allowed.push(allow);
            senders.answered.push(answered);
        }
        senders
    }

    /// Messages that may be written by now, of all senders.
    fn allowed(&self) -> u64 {
        self.allowed.iter().map(|allowed| *allowed.borrow()).sum()
    }

    /// Lets the senders write until there are so many in all, each its share.
    fn allow(&self, total: u64) {
        let count = self.allowed.len() as u64;
        for (number, allowed) in (0_u64..).zip(&self.allowed) {
            let share = total / count.max(1) + u64::from(number < total % count.max(1));
            allowed.send_if_modified(|now| std::mem::replace(now, share.max(*now)) < share);
        }
    }

    /// Messages answered so far.
    fn answered(&self) -> u64 {
        self.answered.iter().map(|answered| *answered.borrow()).sum()
    }

    /// Fails when a sender had to give up.
    async fn check(&mut self) -> Result<()> {
        if let Some(ended) = self.tasks.try_join_next() {
            ended??;
            bail!("a sender ended by itself");
        }
        let most = self.allowed.iter().map(|allowed| *allowed.borrow()).max().unwrap_or_default();
        ensure!(most <= NOTES_MAX, "{most} messages of a sender were not enough for the kills");
        Ok(())
    }

    /// Waits until all is answered, or nothing more comes.
    async fn settled(&mut self, say: &mut (dyn FnMut(String) + Send)) -> Result<()> {
        let mut last = (self.answered(), Instant::now());
        while self.answered() < self.allowed() && last.1.elapsed() < STALL {
            self.check().await?;
            let next = self.answered.iter_mut().map(|answered| Box::pin(answered.changed()));
            // Whichever changes first; a stall is looked at again now and then.
            let _ =
                tokio::time::timeout(Duration::from_secs(1), futures_util::future::select_all(next)).await;
            let answered = self.answered();
            if answered > last.0 {
                last = (answered, Instant::now());
            }
        }
        say(format!("{} of {} messages answered", self.answered(), self.allowed()));
        Ok(())
    }

    /// Ends the senders; answers what they wrote.
    async fn finish(mut self) -> Result<Vec<Sent>> {
        self.end.cancel();
        let mut sent = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            sent.extend(ended??);
        }
        Ok(sent)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sealed, legacy) = self.dms;
        let Tally { kills, misses, dead, .. } = &self.tally;
        writeln!(f, "seed              {}", self.seed)?;
        writeln!(f, "messages          {} ({sealed} NIP-17, {legacy} NIP-04)", sealed + legacy)?;
        writeln!(f, "kills that hit    {kills} ({misses} hit nothing)")?;
        for (dead, count) in dead {
            writeln!(f, "  {:<15} {count}", dead.to_string())?;
        }
        writeln!(f, "kills by phase (one may hit several)")?;
        for phase in Phase::ALL {
            writeln!(f, "  {phase:<15} {}", self.tally.of(phase))?;
        }
        writeln!(f, "took              {} s", self.took.as_secs())?;
        write!(f, "violations        {}", self.violations.len())?;
        for violation in &self.violations {
            write!(f, "\n  {violation}")?;
        }
        Ok(())
    }
}
