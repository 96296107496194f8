//! The crash harness in its short form; `oa-crash` runs the long one.

use std::time::{SystemTime, UNIX_EPOCH};

use oa_tests::crash::{self, Config};

#[tokio::test(flavor = "multi_thread")]
async fn every_message_has_one_reply_whatever_is_killed() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let config = Config { seed, senders: 4, dms: 120, kills: 15, each: 2 };
    let report = crash::run(&config, &mut |line| println!("{line}")).await;
    let report = report.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.tally.kills >= config.kills && report.tally.lacking(config.each).is_empty(), "{report}");
}
