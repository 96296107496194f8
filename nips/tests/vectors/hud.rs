//! The public heads-up display: batches as they are written and read.

use oa_nips::hud::Batch;
use oa_nips::nostr::Timestamp;
use serde_json::{Value, json};

use crate::support::{self, given, keys, recompute, refuse};

fn event(case: &Value) -> Value {
    let agent = keys(case, "agent_secret");
    let batch: Batch = given(case, "batch");
    let event = batch.event(agent.public_key(), Timestamp::from_secs(given(case, "at")));
    support::value(&support::sign(event, &agent))
}

fn read(case: &Value) -> Option<Batch> {
    Batch::read(case.as_str().unwrap())
}

#[test]
fn a_batch_is_published_as_these_events() {
    recompute("hud", "batches", event);
}

#[test]
fn batches_are_read() {
    recompute("hud", "read", |case| json!(read(case).unwrap()));
}

#[test]
fn what_is_no_batch_is_refused() {
    refuse("hud", |case| read(case).map(drop).ok_or_else(|| "NoBatch".to_owned()));
}
