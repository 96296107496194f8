//! `oa-effects`: kills a node around calls that reach outside, and tells whether any was made twice or forgotten.
//!
//! `cargo run -p oa-tests --bin oa-effects -- --kills 100`
//!
//! Exit codes: 0 all is well, 1 it is not, 2 the run could not be finished.

use std::process::ExitCode;

use clap::Parser;
use oa_tests::effects::{self, Config, child};
use oa_tests::exit;

/// Kills a node around calls that reach outside.
#[derive(Debug, Parser)]
#[command(name = "oa-effects")]
struct Args {
    /// Decides which calls are hit, and how [default: by the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Kills for each of the three classes of calls
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// Is the node: service, home, envelopes
    #[arg(long, num_args = 3, hide = true)]
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
    let [service, home, envelopes] = args else { anyhow::bail!("three arguments") };
    child::run(service.parse()?, std::path::Path::new(home), envelopes.parse()?).await?;
    Ok(ExitCode::SUCCESS)
}

async fn kill(args: &Args) -> anyhow::Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(exit::by_clock);
    let config = Config { seed, envelopes: args.kills * 4 + 20, kills: args.kills };
    let report = effects::run(config, &std::env::current_exe()?).await?;
    exit::say(format!("seed {seed}\n{report}"));
    Ok(exit::code(&report.violations))
}
