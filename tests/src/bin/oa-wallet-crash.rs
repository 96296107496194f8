//! `oa-wallet-crash`: ends wallets in the midst of payments, and tells whether their books are right afterwards.
//!
//! `cargo run -p oa-tests --bin oa-wallet-crash -- --terms 30 --kills 30`, and with `--fake` for play money.
//!
//! Exit codes: 0 all is well, 1 it is not, 2 the run could not be finished. Forced closures after SIGKILL are counted;
//! they are none of the wallet's faults.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use oa_tests::wallet_crash::{Config, Report, lightning, play};

/// Ends wallets in the midst of payments.
#[derive(Debug, Parser)]
#[command(name = "oa-wallet-crash")]
struct Args {
    /// Decides whom a blow hits and when, and what is paid [default: by the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// SIGTERMs that must hit payments under way
    #[arg(long, default_value_t = 30)]
    terms: u32,
    /// SIGKILLs that must
    #[arg(long, default_value_t = 30)]
    kills: u32,
    /// Payments of a round, in each direction
    #[arg(long, default_value_t = 4)]
    payments: u32,
    /// The first round, to have one again that is known
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Play money instead of two Lightning wallets
    #[arg(long)]
    fake: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(report) if report.violations.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

async fn run(args: &Args) -> anyhow::Result<Report> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let Args { terms, kills, payments, first, .. } = *args;
    let config = Config { seed: args.seed.unwrap_or(clock), terms, kills, payments, first };
    say(&format!("seed {}", config.seed));
    let report = if args.fake {
        play::run(&config, &mut |line| say(&line)).await?
    } else {
        lightning::run(&config, &mut |line| say(&line)).await?
    };
    say(&report.to_string());
    Ok(report)
}

fn say(line: &str) {
    // A reader that has gone away is no failure.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
