//! `oa-payments`: kills a node around payments, and tells whether any was made twice, leaked or forgotten.
//!
//! `cargo run -p oa-tests --bin oa-payments -- --kills 100`
//!
//! Exit codes: 0 all is well, 1 it is not, 2 the run could not be finished.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use oa_tests::exit;
use oa_tests::payments::{self, Config, child};

/// Kills a node around payments.
#[derive(Debug, Parser)]
#[command(name = "oa-payments")]
struct Args {
    /// Decides what is paid, and who is killed when [default: by the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Kills
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// Is the node: home, and what it does
    #[arg(long, num_args = 2, hide = true)]
    child: Option<Vec<String>>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match &args.child {
        Some(child) => be_child(child).await,
        None => kill(&args).await,
    };
    exit::end(ended)
}

async fn be_child(args: &[String]) -> anyhow::Result<ExitCode> {
    let [home, what] = args else { anyhow::bail!("two arguments") };
    child::run(Path::new(home), what).await?;
    Ok(u8::try_from(child::DONE).map_or(ExitCode::SUCCESS, ExitCode::from))
}

async fn kill(args: &Args) -> anyhow::Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(exit::by_clock);
    let config = Config { seed, kills: args.kills, payments: args.kills * 2 + 30 };
    let report = payments::run(config, &std::env::current_exe()?).await?;
    exit::say(format!("seed {seed}\n{report}"));
    Ok(exit::code(&report.violations))
}
