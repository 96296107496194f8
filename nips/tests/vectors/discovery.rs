//! Kind 39200 with an owner's word, and names at a domain: written, read, refused.

use oa_nips::discovery::{AgentProfile, Owner, Program};
use oa_nips::nip05::{self, Name};
use oa_nips::nostr::{Event, Timestamp};
use serde_json::{Value, json};

use crate::support::{self, given, keys, recompute, refuse, refuse_in, variant};

fn statement(case: &Value) -> Event {
    let (agent, owner) = (keys(case, "agent_secret"), keys(case, "owner_secret"));
    let at = Timestamp::from_secs(given(case, "owner_at"));
    support::sign(Owner::statement(owner.public_key(), agent.public_key(), at), &owner)
}

fn event(case: &Value) -> Value {
    let agent = keys(case, "agent_secret");
    let owner = case.get("owner_secret").map(|_| Owner::of(&statement(case), agent.public_key()).unwrap());
    let profile = AgentProfile {
        name: given(case, "name"),
        about: given(case, "about"),
        capabilities: given(case, "capabilities"),
        autonomy: given(case, "autonomy"),
        program: given::<Program>(case, "program"),
        owner,
    };
    let event = profile.event(agent.public_key(), Timestamp::from_secs(given(case, "at")));
    support::value(&support::sign(event, &agent))
}

fn read(case: &Value) -> Result<AgentProfile, oa_nips::discovery::ReadError> {
    AgentProfile::read(&serde_json::from_value::<Event>(case.clone()).unwrap())
}

#[test]
fn an_agent_can_be_found_by_these_events() {
    recompute("discovery", "events", event);
}

#[test]
fn an_owner_says_so_with_this_event() {
    recompute("discovery", "statements", |case| support::value(&statement(case)));
}

#[test]
fn profiles_are_read() {
    recompute("discovery", "read", |case| {
        let AgentProfile { name, about, capabilities, autonomy, program, owner } = read(case).unwrap();
        let owner = owner.map(|owner| owner.pubkey);
        json!({
            "name": name, "about": about, "capabilities": capabilities, "autonomy": autonomy,
            "program": program, "owner": owner,
        })
    });
}

#[test]
fn what_is_no_profile_is_refused() {
    refuse("discovery", |case| read(case).map(drop).map_err(variant));
}

#[test]
fn names_are_looked_up_and_read() {
    recompute("discovery", "names", |case| {
        let name: Name = given::<String>(case, "name").parse().unwrap();
        let found = nip05::read(given::<Value>(case, "document").to_string().as_bytes(), &name).unwrap();
        json!({ "place": name.place(), "pubkey": found.pubkey, "relays": found.relays })
    });
    refuse_in("discovery", "names_refused", |case| {
        let name: Name = given::<String>(case, "name").parse().map_err(variant)?;
        let document = given::<Value>(case, "document").to_string();
        nip05::read(document.as_bytes(), &name).map(drop).map_err(variant)
    });
}
