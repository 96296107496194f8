//! Wallets that are ended in mid-payment, in the short form; `oa-wallet-crash` runs the long one.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use oa_tests::wallet_crash::{Config, Report, lightning, play};

fn config(terms: u32, kills: u32) -> Result<Config> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    Ok(Config { seed, terms, kills, payments: 4, first: 0 })
}

fn check(config: &Config, report: Result<Report>) -> Result<()> {
    let report = report.with_context(|| format!("seed {}", config.seed))?;
    ensure!(report.violations.is_empty(), "seed {}\n{report}", config.seed);
    let hits = (report.term.hits, report.kill.hits);
    ensure!(hits == (config.terms, config.kills), "seed {}: too few hits: {report}", config.seed);
    ensure!(report.settled > 0, "seed {}: nothing was paid: {report}", config.seed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_books_of_lightning_wallets_are_right_whatever_ends_them() -> Result<()> {
    let config = config(2, 2)?;
    check(&config, lightning::run(&config, &mut drop).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_books_of_play_money_are_right_whatever_ends_it() -> Result<()> {
    let config = config(2, 8)?;
    check(&config, play::run(&config, &mut drop).await)
}
