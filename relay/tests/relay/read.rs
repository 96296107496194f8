//! Reading: stored events, live ones, and reconciliation by NIP-77.

use std::collections::HashSet;

use negentropy::{Id, Negentropy, NegentropyStorageVector};
use oa_nips::nostr::{Event, EventBuilder, Keys, Kind, Timestamp};
use oa_relay::Limits;
use serde_json::{Value, json};

use crate::client::{Client, note, relay};

/// More than the filter limit these tests set.
const MANY: usize = 30;

fn notes(count: usize) -> Vec<Event> {
    let keys = Keys::generate();
    let at = |index: usize| Timestamp::from(1_700_000_000 + index as u64);
    let sign = |index| EventBuilder::text_note("n").custom_created_at(at(index)).sign_with_keys(&keys);
    (0..count).map(|index| sign(index).expect("signs")).collect()
}

#[tokio::test]
async fn stored_events_come_newest_first_within_the_limit() {
    let relay = relay(Limits { filter_limit_max: 10, ..Limits::default() }).await;
    let mut client = Client::connect(&relay).await;
    let mut events = notes(MANY);
    for event in &events {
        assert!(client.publish(event).await.0);
    }
    events.reverse();
    assert_eq!(client.request("all", json!({})).await, events[..10]);
    assert_eq!(client.request("over", json!({ "limit": 20 })).await, events[..10]);
    assert_eq!(client.request("under", json!({ "limit": 3 })).await, events[..3]);
    let until = events[10].created_at.as_secs();
    assert_eq!(client.request("page", json!({ "until": until })).await, events[10..20]);
}

#[tokio::test]
async fn a_live_event_reaches_each_subscription_that_matches() {
    let relay = relay(Limits::default()).await;
    let (mut reader, mut other, mut writer) =
        (Client::connect(&relay).await, Client::connect(&relay).await, Client::connect(&relay).await);
    let keys = Keys::generate();
    assert_eq!(reader.request("mine", json!({ "authors": [keys.public_key().to_hex()] })).await, []);
    assert_eq!(other.request("none", json!({ "kinds": [7] })).await, []);
    let ephemeral = EventBuilder::new(Kind::Custom(21_059), "gone").sign_with_keys(&keys).expect("signs");
    for event in [note(&keys, "kept"), ephemeral.clone()] {
        assert_eq!(writer.publish(&event).await, (true, String::new()));
        assert_eq!(reader.live().await, event);
    }
    reader.send(json!(["CLOSE", "mine"])).await;
    assert_eq!(reader.request("ephemeral", json!({ "ids": [ephemeral.id.to_hex()] })).await, []);
    let reaction = EventBuilder::new(Kind::Reaction, "+").sign_with_keys(&keys).expect("signs");
    assert!(writer.publish(&reaction).await.0);
    assert_eq!(other.live().await, reaction, "the first thing that matched");
}

#[tokio::test]
async fn subscriptions_are_bounded_by_closed() {
    let relay = relay(Limits { subscriptions_per_connection_max: 2, ..Limits::default() }).await;
    let mut client = Client::connect(&relay).await;
    for id in ["a", "b", "a"] {
        assert_eq!(client.request(id, json!({})).await, []);
    }
    client.send(json!(["REQ", "c", {}])).await;
    assert_eq!(client.message().await, json!(["CLOSED", "c", "rate-limited: too many REQs"]));
}

#[tokio::test]
async fn reconciliation_finds_every_id_whatever_the_filter_limit() {
    let relay = relay(Limits { filter_limit_max: 10, ..Limits::default() }).await;
    let mut client = Client::connect(&relay).await;
    let events = notes(MANY);
    for event in &events {
        assert!(client.publish(event).await.0);
    }
    // The client has every third event, and one of its own.
    let extra = note(&Keys::generate(), "only here");
    let mut storage = NegentropyStorageVector::new();
    for event in events.iter().step_by(3).chain([&extra]) {
        storage
            .insert(event.created_at.as_secs(), Id::from_byte_array(event.id.to_bytes()))
            .expect("inserts");
    }
    storage.seal().expect("seals");
    let mut negentropy = Negentropy::owned(storage, 0).expect("no frame limit");
    let mut message = Some(negentropy.initiate().expect("starts"));
    let (mut have, mut need) = (Vec::new(), Vec::new());
    let mut verb = json!(["NEG-OPEN", "sync", { "kinds": [1] }]);
    while let Some(bytes) = message {
        verb.as_array_mut().expect("an array").push(hex(&bytes).into());
        client.send(verb).await;
        let answer = client.message().await;
        assert_eq!((&answer[0], &answer[1]), (&Value::from("NEG-MSG"), &Value::from("sync")), "{answer}");
        let bytes = unhex(answer[2].as_str().expect("hex"));
        message = negentropy.reconcile_with_ids(&bytes, &mut have, &mut need).expect("reconciles");
        verb = json!(["NEG-MSG", "sync"]);
    }
    let ids = |ids: Vec<Id>| ids.iter().map(|id| *id.as_bytes()).collect::<HashSet<_>>();
    assert_eq!(ids(have), HashSet::from([extra.id.to_bytes()]));
    let missing = events.iter().enumerate().filter(|(index, _)| index % 3 != 0);
    assert_eq!(ids(need), missing.map(|(_, event)| event.id.to_bytes()).collect());
    client.send(json!(["NEG-CLOSE", "sync"])).await;
    assert_eq!(client.request("still", json!({ "limit": 1 })).await.len(), 1, "the connection goes on");
}

#[tokio::test]
async fn a_reconciliation_over_the_limit_is_refused_and_not_cut() {
    let relay = relay(Limits { negentropy_items_max: 5, ..Limits::default() }).await;
    let mut client = Client::connect(&relay).await;
    for event in notes(6) {
        assert!(client.publish(&event).await.0);
    }
    client.send(json!(["NEG-OPEN", "sync", {}, "6100000200"])).await;
    let notice = client.message().await;
    assert_eq!(notice, json!(["NOTICE", "error: negentropy set has over 5 events: narrow the filter"]));
    assert_eq!(client.close_code().await, Some(1008));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(digit).collect()
}
