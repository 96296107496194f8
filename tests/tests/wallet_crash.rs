//! Wallets that are ended in mid-payment, in the short form; `oa-wallet-crash` runs the long one.

use std::time::{SystemTime, UNIX_EPOCH};

use oa_tests::wallet_crash::{Config, Report, lightning, play};

fn config(terms: u32, kills: u32) -> Config {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    Config { seed, terms, kills, payments: 4 }
}

fn check(config: &Config, report: anyhow::Result<Report>) {
    let report = report.unwrap_or_else(|error| panic!("seed {}: {error:#}", config.seed));
    println!("seed {}\n{report}", config.seed);
    assert!(report.violations.is_empty(), "seed {}\n{report}", config.seed);
    assert!(report.term.hits == config.terms && report.kill.hits == config.kills, "too few hits: {report}");
    assert!(report.settled > 0, "nothing was paid: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_books_of_lightning_wallets_are_right_whatever_ends_them() {
    let config = config(2, 2);
    check(&config, lightning::run(&config, &mut |line| println!("{line}")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_books_of_play_money_are_right_whatever_ends_it() {
    let config = config(2, 8);
    check(&config, play::run(&config, &mut |line| println!("{line}")).await);
}
