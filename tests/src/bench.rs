//! The benchmark program: real binaries and the real engine on this machine, beside what the machine itself can do.
//!
//! Each group of rows is a file. A group starts what it needs in a home of its own, loads it, prints rows and
//! removes everything. Nothing here runs as a test: a shared machine makes any time true.
//!
//! - `limits`: signatures, conversations, wraps, fsyncs and commits, one after another
//! - `replies`: direct message → reply, one at a time and sustained
//! - `ticks`: durable ticks of a native program
//! - `namespace`: file operations of a program
//! - `operator`: the operator protocol, and a mount
//! - `dormant`: many agents that sleep, and waking them
//! - `up`: from nothing to ready
//! - `wallet`: the ledger, payments, a devnet
//!
//! `docs/BENCHMARKS.md` explains each row and has the numbers.

mod agents;
mod cpu;
mod dormant;
mod limits;
mod machine;
mod namespace;
mod operator;
mod replies;
mod report;
mod spread;
mod ticks;
mod up;
mod wallet;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use report::Report;

/// Measures oa on this machine.
///
/// Prints a table; with --json one object a line on stdout, and the table on stderr. Build everything first:
/// cargo build --release -p oa-cli -p oa-tests
#[derive(Debug, Parser)]
#[command(name = "oa-bench", version, max_term_width = 100)]
struct Args {
    /// Groups of rows to measure [default: all]
    #[arg(value_enum, value_name = "ROW")]
    rows: Vec<Group>,
    /// A tenth of everything: shows that it works, not how fast
    #[arg(long)]
    quick: bool,
    /// One JSON object a row on stdout
    #[arg(long)]
    json: bool,
}

/// A group of rows that is measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// The machine's own limits
    Limits,
    /// DM → reply, one at a time
    Idle,
    /// DM → reply, as many as it can
    Sustained,
    /// Durable ticks of a native program
    Ticks,
    /// File operations of a program
    Namespace,
    /// The operator protocol, and a FUSE mount
    Operator,
    /// 100,000 agents asleep
    Dormant,
    /// `oa up` to ready
    Up,
    /// The ledger, payments through NWC with and without Lightning, `oa devnet`
    Wallet,
}

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// Enough for figures.
    Full,
    /// Enough to see that it works.
    Quick,
}

impl Size {
    /// One of two amounts.
    fn of<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// The program `oa-bench`.
pub fn main() -> ExitCode {
    match measure(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A reader that has gone away is no failure.
            let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> anyhow::Result<()> {
    let groups = if args.rows.is_empty() { Group::value_variants() } else { &args.rows };
    let size = if args.quick { Size::Quick } else { Size::Full };
    let mut report = Report::new(args.json, &machine::Machine::look())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for group in groups {
        match group {
            Group::Limits => limits::measure(&mut report, size)?,
            Group::Idle => runtime.block_on(replies::idle(&mut report, size))?,
            Group::Sustained => runtime.block_on(replies::sustained(&mut report, size))?,
            Group::Ticks => runtime.block_on(ticks::measure(&mut report, size))?,
            Group::Namespace => runtime.block_on(namespace::measure(&mut report, size))?,
            Group::Operator => runtime.block_on(operator::measure(&mut report, size))?,
            Group::Dormant => runtime.block_on(dormant::measure(&mut report, size))?,
            Group::Up => runtime.block_on(up::measure(&mut report, size))?,
            Group::Wallet => runtime.block_on(Box::pin(wallet::measure(&mut report, size)))?,
        }
    }
    report.table()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
        let args = Args::parse_from(["oa-bench", "ticks", "--quick", "up"]);
        assert_eq!((args.rows, args.quick), (vec![Group::Ticks, Group::Up], true));
    }
}
