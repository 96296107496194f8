//! Journaled calls under kills, in the short form; `oa-effects` runs the long one.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use oa_tests::effects::{self, Config};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_outside_is_not_done_again_whatever_is_killed() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let config = Config { seed, envelopes: 68, kills: 12 };
    let report = effects::run(config, Path::new(env!("CARGO_BIN_EXE_oa-effects"))).await;
    let report = report.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    println!("seed {seed}\n{report}");
    assert!(report.violations.is_empty(), "seed {seed}\n{report}");
    let hits = |kills: &[u32; 3]| kills.iter().sum::<u32>() == config.kills;
    assert!(report.kills.iter().all(hits), "too few kills hit: {report}");
}
