//! `oa-operations`: steers a node from another machine over a network that loses and cuts, and tells whether any operation
//! was lost, done twice, or told wrong. Takes root, `ip`, `iptables` and `ss`.
//!
//! `cargo run -p oa-tests --bin oa-operations -- --operations 1000`
//!
//! Exit codes: 0 all is well, 1 it is not, 2 the run could not be finished.

use std::process::ExitCode;

use clap::Parser;
use oa_tests::exit;
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
    exit::end(steer(&Args::parse()).await)
}

async fn steer(args: &Args) -> anyhow::Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(exit::by_clock);
    let config = Config { seed, operations: args.operations, rounds: args.rounds };
    let mut say = |line: String| exit::say(line);
    let hosts = Hosts::new()?;
    // The hosts go away however it ends.
    let report = tokio::select! {
        report = operations::run(&config, &hosts, &mut say) => report?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    };
    exit::say(&report);
    Ok(exit::code(&report.violations))
}
