//! `oa-operations`: steers a node from another machine over a network that loses and cuts, and tells whether any operation
//! was lost, done twice, or told wrong. Takes root, `ip`, `iptables` and `ss`.
//!
//! `cargo run -p oa-tests --bin oa-operations -- --operations 1000`
//!
//! Exit codes: 0 all is well, 1 it is not, 2 the run could not be finished.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use oa_tests::hosts::Hosts;
use oa_tests::operations::{self, Config};

/// Steers a node over a network that loses and cuts.
#[derive(Debug, Parser)]
#[command(name = "oa-operations")]
struct Args {
    /// Decides what is asked [default: by the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// How many operations
    #[arg(long, default_value_t = 1000)]
    operations: u64,
    /// How often commands wait for a node that is killed while it does them
    #[arg(long, default_value_t = 6)]
    rounds: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    steer(&Args::parse()).await.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "{error:#}");
        ExitCode::from(2)
    })
}

async fn steer(args: &Args) -> anyhow::Result<ExitCode> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let config =
        Config { seed: args.seed.unwrap_or(clock), operations: args.operations, rounds: args.rounds };
    let mut say = |line: String| {
        let _ = writeln!(std::io::stdout(), "{line}");
    };
    let hosts = Hosts::new()?;
    // The hosts go away however it ends.
    let report = tokio::select! {
        report = operations::run(&config, &hosts, &mut say) => report?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    };
    say(report.to_string());
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
