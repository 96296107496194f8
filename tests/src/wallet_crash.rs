//! Kills the wallet process in the midst of payments in both directions, and compares the books afterwards.
//!
//! - [`lightning`]: two real Lightning wallets with a channel between them; SIGTERM and SIGKILL
//! - [`play`]: one wallet of play money, whose accounts pay each other; SIGKILL
//! - `round`: payments under way when the blow falls, and what became of each
//!
//! A blow counts when it hit a payment that had begun and was not over. Whoever pays uses our client, as a node does:
//! it sends the same request again until the wallet, started anew, answers.

pub mod lightning;
pub mod play;
mod round;

use std::fmt;
use std::time::Duration;

use anyhow::Result;

/// How much is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Decides whom a blow hits and when, and what is paid.
    pub seed: u64,
    /// SIGTERMs that must hit payments under way.
    pub terms: u32,
    /// SIGKILLs that must.
    pub kills: u32,
    /// Payments of a round, in each direction.
    pub payments: u32,
    /// The first round: each has its own dice, so that one can be had again without those before it.
    pub first: u64,
}

/// How a wallet is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// SIGTERM
    Term,
    /// SIGKILL
    Kill,
}

/// What came of the blows of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Blows that hit payments under way.
    pub hits: u32,
    /// Payments that were under way.
    pub under_way: u32,
    /// Channels that were closed by force after them.
    pub closed: u32,
    /// Satoshi that those closures cost both sides together.
    pub cost_sat: u64,
}

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// After SIGTERM.
    pub term: Tally,
    /// After SIGKILL.
    pub kill: Tally,
    /// Payments that reached their payee.
    pub settled: u32,
    /// Payments that did not, and cost nothing.
    pub failed: u32,
    /// The longest that a wallet took to be ready again.
    pub restart: Duration,
    /// What must not be.
    pub violations: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    /// The tally of a kind.
    pub fn of(&mut self, blow: Blow) -> &mut Tally {
        match blow {
            Blow::Term => &mut self.term,
            Blow::Kill => &mut self.kill,
        }
    }

    /// Notes a blow that hit payments under way.
    fn hit(&mut self, blow: Blow, under_way: u32) {
        let tally = self.of(blow);
        tally.hits += 1;
        tally.under_way += under_way;
    }

    /// Notes what must not be, where it is.
    fn check<T>(&mut self, outcome: Result<T>) {
        self.violations.extend(outcome.err().map(|error| format!("{error:#}")));
    }

    /// Which blow is still wanted, SIGTERM first.
    fn wanted(&self, config: &Config) -> Option<Blow> {
        if self.term.hits < config.terms {
            Some(Blow::Term)
        } else if self.kill.hits < config.kills {
            Some(Blow::Kill)
        } else {
            None
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, tally) in [("SIGTERM", self.term), ("SIGKILL", self.kill)] {
            let Tally { hits, under_way, closed, cost_sat } = tally;
            writeln!(
                f,
                "{name}: {hits} in mid-payment ({under_way} payments under way), {closed} forced closures ({cost_sat} sat)"
            )?;
        }
        let Self { settled, failed, restart, took, violations, .. } = self;
        writeln!(
            f,
            "payments settled {settled}, failed {failed}; ready again within {restart:.1?}; {took:.0?}"
        )?;
        write!(f, "violations {}", violations.len())?;
        violations.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}
