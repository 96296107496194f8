//! Trajectories on relays: the session's event and a batch of records, encrypted to the owner.

use oa_nips::nostr::nips::nip44;
use oa_nips::nostr::{PublicKey, Timestamp};
use oa_nips::record::{Record, canonical};
use oa_nips::trajectory::{self, Session};
use serde_json::{Value, json};

use crate::support::{self, given, keys, recompute};

pub(crate) fn events(case: &Value) -> Value {
    let (agent, owner) = (keys(case, "agent_secret"), keys(case, "owner_secret"));
    let (author, to): (PublicKey, PublicKey) = (agent.public_key(), owner.public_key());
    let at = Timestamp::from_secs(given(case, "at"));
    let said: Session = given(case, "session");
    let records: Vec<Record> = given(case, "records");
    let first = records[0].header.seq;

    let texts = [canonical(&said), canonical(&records)];
    let sealed = |n: usize| support::encrypt(&agent, &to, &case["nonces"][n], &texts[n]);
    let made = [
        trajectory::session(author, to, said.session, sealed(0), at),
        trajectory::batch(author, to, said.session, first, sealed(1), at),
    ];
    let events = made.map(|event| support::sign(event, &agent));

    let read = |n: usize| nip44::decrypt(owner.secret_key(), &author, &events[n].content).unwrap();
    assert_eq!(serde_json::from_str::<Session>(&read(0)).unwrap(), said);
    assert_eq!(serde_json::from_str::<Vec<Record>>(&read(1)).unwrap(), records);
    json!({ "contents": texts, "events": events.each_ref().map(support::value) })
}

#[test]
fn a_trajectory_is_published_as_these_events() {
    recompute("trajectory", "events", events);
}
