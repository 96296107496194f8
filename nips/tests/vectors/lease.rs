//! Leases: the event of each state, what is read of others' events, and which of two a relay keeps.

use oa_nips::lease::{Lease, Published};
use oa_nips::nostr::{Event, Timestamp};
use serde_json::{Value, json};

use crate::support::{self, given, keys, recompute, refuse, variant};

pub(crate) fn event(case: &Value) -> Value {
    let node = keys(case, "node_secret");
    let lease: Lease = given(case, "lease");
    let event = lease.event(node.public_key(), Timestamp::from_secs(given(case, "at")));
    support::value(&support::sign(event, &node))
}

pub(crate) fn read(case: &Value) -> Result<Published, oa_nips::lease::ReadError> {
    Published::read(&serde_json::from_value::<Event>(case.clone()).unwrap())
}

#[test]
fn a_lease_is_published_as_these_events() {
    recompute("lease", "events", event);
}

#[test]
fn leases_are_read() {
    recompute("lease", "read", |case| json!(read(case).unwrap().lease));
}

#[test]
fn of_several_the_one_that_a_relay_keeps_counts() {
    recompute("lease", "newest", |case| {
        let events: Vec<_> = case.as_array().unwrap().iter().map(|event| read(event).unwrap()).collect();
        let newest = events.iter().find(|one| events.iter().all(|other| !other.replaces(one))).unwrap();
        json!(newest.id)
    });
}

#[test]
fn what_is_no_lease_is_refused() {
    refuse("lease", |case| read(case).map(drop).map_err(variant));
}
