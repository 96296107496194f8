//! Tick records: salts, digests, headers, chains, and the randomness they come from.

use oa_nips::hex::{Hash, Hex};
use oa_nips::nostr::hashes::{Hash as _, HashEngine, Hmac, HmacEngine, sha256};
use oa_nips::record::{self, Chain, Fields, Head, Record, SessionId, canonical, state_hash};
use serde_json::{Value, json};

use crate::support::{given, recompute, refuse, variant};

fn state(case: &Value) -> Hash {
    let changes = case["changes"].as_array().unwrap().iter();
    let change =
        |change: &'_ Value| (given::<String>(change, "path"), given::<Option<String>>(change, "content"));
    let changes: Vec<_> = changes.map(change).collect();
    let changes =
        changes.iter().map(|(path, content)| (path.as_str(), content.as_ref().map(String::as_bytes)));
    state_hash(&given(case, "before"), changes)
}

pub(crate) fn made(case: &Value) -> Value {
    let head: Head = given(case, "head");
    let seed: Hash = given(case, "seed");
    let (agent, session): (Hash, SessionId) = (given(case, "agent"), given(case, "session"));
    let fields: Fields = given(case, "fields");
    let mut record = Record::new(agent, session, &head, given(case, "state"), fields, seed.as_bytes());
    for name in given::<Vec<String>>(case, "redact") {
        record.redact(&name);
    }
    let mut chain = Chain::new(agent, session, head);
    chain.push(&record).unwrap();
    json!({
        "header": canonical(&record.header),
        "hash": record.header.hash(),
        "record": canonical(&record),
        "head": chain.head(),
    })
}

#[test]
fn records_have_their_bytes_and_hashes() {
    recompute("record", "records", made);
}

#[test]
fn the_records_are_one_chain() {
    let mut head = Head::GENESIS;
    for case in crate::support::cases("record", "records") {
        assert_eq!(given::<Head>(&case["given"], "head"), head);
        head = given(&case["gives"], "head");
    }
}

#[test]
fn states_have_their_hashes() {
    recompute("record", "states", |case| json!(state(case)));
}

#[test]
fn values_have_their_canonical_json() {
    recompute("record", "canonical", |case| Value::from(canonical(case)));
}

#[test]
fn bad_records_are_refused() {
    refuse("record", |case| {
        let record: Record = serde_json::from_str(case["record"].as_str().unwrap()).map_err(|_| "Syntax")?;
        let head = given(case, "head");
        let mut chain = Chain::new(given(case, "agent"), given(case, "session"), head);
        chain.push(&record).map_err(variant)?;
        // Nothing that is taken leaves the chain where it was.
        assert_ne!(*chain.head(), head);
        Ok(())
    });
}

#[test]
fn the_first_record_stands_after_zeros() {
    assert_eq!(Head::GENESIS, Head { seq: 0, hash: Hex::ZERO, state: Hex::ZERO });
    assert_eq!(record::INTEGER_MAX, 9_007_199_254_740_991);
}

/// What the node derives a tick's randomness by: the formula of the document, written out.
#[test]
fn a_tick_has_its_randomness() {
    fn hmac(key: &[u8], parts: &[&[u8]]) -> Hash {
        let mut engine = HmacEngine::<sha256::Hash>::new(key);
        parts.iter().for_each(|part| engine.input(part));
        Hex(Hmac::<sha256::Hash>::from_engine(engine).to_byte_array())
    }
    recompute("record", "randomness", |case| {
        let (secret, envelope): (Hash, Hash) = (given(case, "secret"), given(case, "envelope"));
        let seed = hmac(secret.as_bytes(), &[b"oa/random/v1\0", envelope.as_bytes()]);
        let block = |n: u64| hmac(seed.as_bytes(), &[&n.to_be_bytes()]).to_string();
        json!({ "seed": seed, "stream": block(0) + &block(1) })
    });
}
