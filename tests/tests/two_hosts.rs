//! Two machines and a relay between, over a network that loses and cuts, in the short form; `oa-operations` runs the long
//! one.

use std::time::{SystemTime, UNIX_EPOCH};

use oa_tests::hosts::Hosts;
use oa_tests::operations::{self, Config};

#[tokio::test(flavor = "multi_thread")]
async fn operations_over_a_bad_network_are_done_once_and_told_as_they_are() {
    let hosts = match Hosts::new() {
        Ok(hosts) => hosts,
        Err(error) => return eprintln!("NOT TESTED: no hosts can be made of network namespaces: {error:#}"),
    };
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let config = Config { seed, operations: 300, rounds: 3 };
    let report = operations::run(&config, &hosts, &mut |line| println!("{line}")).await;
    let report = report.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
    let [[held, ..], [by_oa, ..]] = report.told;
    assert!(held > 100 && by_oa > 100, "too little was done: {report}");
    assert!(report.lost.0 > 0 && report.cuts.len() == 10, "too little was lost or cut: {report}");
}
