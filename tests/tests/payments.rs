//! Payments under kills of the node, in the short form; `oa-payments` runs the long one.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use oa_tests::payments::{self, Config};

#[tokio::test(flavor = "multi_thread")]
async fn no_payment_is_made_twice_leaked_or_forgotten_whenever_the_node_is_killed() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let config = Config { seed, kills: 12, payments: 48 };
    let report = payments::run(config, Path::new(env!("CARGO_BIN_EXE_oa-payments"))).await;
    let report = report.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    println!("seed {seed}\n{report}");
    assert!(report.violations.is_empty(), "seed {seed}\n{report}");
    assert_eq!(report.kills.iter().sum::<u32>(), config.kills, "too few kills hit: {report}");
    assert!(report.made > 0 && report.failed > 0, "both ends are wanted: {report}");
}
