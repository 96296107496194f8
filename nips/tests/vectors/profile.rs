//! Kinds 0, 10002 and 10050, written and read.

use oa_nips::nostr::{Event, RelayUrl, Timestamp};
use oa_nips::profile::{self, Profile};
use serde_json::{Value, json};

use crate::support::{self, given, keys, recompute};

pub(crate) fn events(case: &Value) -> Value {
    let agent = keys(case, "agent_secret");
    let (author, at) = (agent.public_key(), Timestamp::from_secs(given(case, "at")));
    let relays: Vec<RelayUrl> = given(case, "relays");
    let nip05 = case.get("nip05").map(|_| given(case, "nip05"));
    let profile = Profile { name: given(case, "name"), about: given(case, "about"), nip05 };
    let made = [
        profile.event(author, at),
        profile::relay_list(author, &relays, at),
        profile::dm_relays(author, &relays, at),
    ];
    made.into_iter().map(|event| support::value(&support::sign(event, &agent))).collect()
}

pub(crate) fn read(case: &Value) -> Value {
    let event: Event = serde_json::from_value(case.clone()).unwrap();
    json!({ "dm_relays": profile::read_dm_relays(&event), "is_bot": profile::is_bot(&event) })
}

#[test]
fn an_agent_shows_itself_with_these_events() {
    recompute("profile", "events", events);
}

#[test]
fn what_others_say_of_themselves_is_read() {
    recompute("profile", "read", read);
}
