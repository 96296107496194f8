//! `oa-crash`: kills node and relay while people write, and tells whether every message has one reply.
//!
//! `cargo run --release -p oa-tests --bin oa-crash -- --kills 100 --dms 1000`
//!
//! The harness can be checked in turn: with a bug planted into the node it must fail.
//! `cargo run --release -p oa-tests --features planted-bugs --bin oa-crash -- --plant ack-before-commit`
//!
//! Exit codes: 0 all is well (with `--plant`: the bug was found), 1 it is not, 2 the run could not be finished.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use oa_tests::crash::{self, Config};
use oa_tests::exit::{self, UNFINISHED, by_clock, say};

/// Kills node and relay while people write, and checks that every message has one reply.
#[derive(Debug, Parser)]
#[command(name = "oa-crash")]
struct Args {
    /// Decides whom each kill hits and when, the senders' keys and protocols [default: by the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Kills that must hit unfinished work
    #[arg(long, default_value_t = 100)]
    kills: u64,
    /// Of them, kills that must hit each phase
    #[arg(long, default_value_t = 10)]
    each: u64,
    /// Messages in all
    #[arg(long, default_value_t = 1000)]
    dms: u64,
    /// Who write them
    #[arg(long, default_value_t = 4)]
    senders: usize,
    /// Run with this bug in the node, and succeed when it is found
    #[arg(long)]
    plant: Option<Bug>,
}

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Bug {
    /// Mail counts as dealt with before it is in the inbox
    AckBeforeCommit,
}

fn main() -> ExitCode {
    #[cfg(feature = "planted-bugs")]
    if let Some(code) = planted::program() {
        return code;
    }
    let args = Args::parse();
    match args.plant {
        None => run(&args),
        #[cfg(feature = "planted-bugs")]
        Some(Bug::AckBeforeCommit) => planted::check(),
        #[cfg(not(feature = "planted-bugs"))]
        Some(Bug::AckBeforeCommit) => {
            say("this program has no bug planted: build it with --features planted-bugs");
            ExitCode::from(UNFINISHED)
        }
    }
}

fn run(args: &Args) -> ExitCode {
    let seed = args.seed.unwrap_or_else(by_clock);
    let Args { senders, dms, kills, each, .. } = *args;
    say(format!("seed {seed}: {senders} senders, {dms} messages, {kills} kills, {each} in each phase"));
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format!("no runtime: {error}"));
            return ExitCode::from(UNFINISHED);
        }
    };
    let config = Config { seed, senders, dms, kills, each };
    match runtime.block_on(crash::run(&config, &mut |line| say(line))) {
        Ok(report) => {
            say(&report);
            exit::code(&report.violations)
        }
        Err(error) => {
            say(format!("seed {seed}: {error:#}"));
            ExitCode::from(UNFINISHED)
        }
    }
}

/// This program is its own `oa` and `oa-node` then, made with the bug: a folder with two links to it takes the place
/// of the real ones.
#[cfg(feature = "planted-bugs")]
mod planted {
    use oa_tests::exit::FOUND;

    use super::*;

    /// Is what it is called.
    pub(super) fn program() -> Option<ExitCode> {
        let name = std::env::args_os().next()?;
        match std::path::Path::new(&name).file_name()?.to_str()? {
            "oa" => Some(oa_cli::oa()),
            "oa-node" => Some(oa_cli::oa_node()),
            _ => None,
        }
    }

    /// Runs itself on those programs, with the same arguments but one; its failure is success.
    pub(super) fn check() -> ExitCode {
        match ended() {
            Ok(Some(code)) if code == i32::from(FOUND) => {
                say("the planted bug was found");
                ExitCode::SUCCESS
            }
            Ok(Some(0)) => {
                say("the planted bug was NOT found");
                ExitCode::from(FOUND)
            }
            Ok(_) => ExitCode::from(UNFINISHED),
            Err(error) => {
                say(format!("cannot plant: {error}"));
                ExitCode::from(UNFINISHED)
            }
        }
    }

    fn ended() -> std::io::Result<Option<i32>> {
        let (exe, dir) = (std::env::current_exe()?, tempfile::tempdir()?);
        for name in ["oa", "oa-node"] {
            std::os::unix::fs::symlink(&exe, dir.path().join(name))?;
        }
        let is_plant = |arg: &String| arg.starts_with("--plant");
        let args: Vec<String> = std::env::args().skip(1).collect();
        // `--plant BUG` and `--plant=BUG` are both left out.
        let at = args.iter().position(is_plant).unwrap_or(args.len());
        let takes = if args.get(at).is_some_and(|arg| arg.contains('=')) { 1 } else { 2 };
        let rest = args.iter().enumerate().filter(|(n, _)| !(at..at + takes).contains(n)).map(|(_, arg)| arg);
        let status =
            std::process::Command::new(&exe).args(rest).env("OA_TEST_PROGRAMS", dir.path()).status()?;
        Ok(status.code())
    }
}
