//! Publishing: what is taken, what is refused, and that the sender is always told.

use oa_nips::nostr::{EventBuilder, JsonUtil, Keys, Kind, Tag, Timestamp};
use oa_relay::Limits;
use serde_json::{Value, json};

use crate::client::{Client, note, relay};

#[tokio::test]
async fn an_event_is_acknowledged_and_stored_once() {
    let relay = relay(Limits::default()).await;
    let mut client = Client::connect(&relay).await;
    let event = note(&Keys::generate(), "hello");
    assert_eq!(client.publish(&event).await, (true, String::new()));
    let (accepted, reason) = client.publish(&event).await;
    assert!(accepted && reason.starts_with("duplicate:"), "{reason}");
    let stored = client.request("a", json!({ "authors": [event.pubkey.to_hex()] })).await;
    assert_eq!(stored, [event]);
}

#[tokio::test]
async fn forged_events_are_refused() {
    let relay = relay(Limits::default()).await;
    let mut client = Client::connect(&relay).await;
    let event = note(&Keys::generate(), "mine");
    let mut json: Value = serde_json::from_str(&event.as_json()).expect("json");
    json["sig"] = note(&Keys::generate(), "other").sig.to_string().into();
    client.send(json!(["EVENT", json])).await;
    let answer = client.message().await;
    assert_eq!(answer, json!(["OK", event.id.to_hex(), false, "invalid: invalid event signature"]));

    let mut json: Value = serde_json::from_str(&event.as_json()).expect("json");
    json["content"] = "not mine".into();
    client.send(json!(["EVENT", json])).await;
    let answer = client.message().await;
    assert_eq!(answer, json!(["OK", event.id.to_hex(), false, "invalid: invalid event ID"]));
    assert_eq!(client.request("a", json!({})).await, []);
}

#[tokio::test]
async fn a_large_event_is_taken_and_a_larger_one_refused_by_an_ok() {
    let relay = relay(Limits::default()).await;
    let mut client = Client::connect(&relay).await;
    let keys = Keys::generate();
    let large = note(&keys, &"a".repeat(200 * 1024));
    assert_eq!(client.publish(&large).await, (true, String::new()));
    let (accepted, reason) = client.publish(&note(&keys, &"a".repeat(1024 * 1024))).await;
    assert!(
        !accepted && reason.starts_with("blocked: event is ") && reason.ends_with("at most 262144"),
        "{reason}"
    );
    assert_eq!(client.request("a", json!({})).await, [large]);
}

#[tokio::test]
async fn a_message_over_the_limit_ends_the_connection_with_1009() {
    let relay = relay(Limits { message_bytes_max: 64 * 1024, ..Limits::default() }).await;
    let mut client = Client::connect(&relay).await;
    let keys = Keys::generate();
    assert_eq!(client.publish(&note(&keys, "fits")).await, (true, String::new()));
    client.send_event(&note(&keys, &"a".repeat(300 * 1024))).await;
    assert_eq!(client.message().await, json!(["NOTICE", "invalid: message too large"]));
    assert_eq!(client.close_code().await, Some(1009));
}

#[tokio::test]
async fn an_unreadable_message_gets_a_notice_and_1008() {
    let relay = relay(Limits::default()).await;
    for text in ["not json", "[]", r#"["EVENT",{}]"#, r#"["REQ"]"#, r#"["NEG-OPEN","n",{},"zz"]"#] {
        let mut client = Client::connect(&relay).await;
        client.send_text(text.to_owned()).await;
        let notice = client.message().await;
        assert!(
            notice[0] == "NOTICE" && notice[1].as_str().expect("text").starts_with("error: "),
            "{notice}"
        );
        assert_eq!(client.close_code().await, Some(1008), "{text}");
    }
}

#[tokio::test]
async fn an_older_version_of_a_replaceable_event_is_told_why() {
    let relay = relay(Limits::default()).await;
    let mut client = Client::connect(&relay).await;
    let keys = Keys::generate();
    let now = Timestamp::now().as_secs();
    for (kind, tags) in [(Kind::Metadata, vec![]), (Kind::Custom(39_200), vec![Tag::identifier("d")])] {
        let version = |secs| {
            let event =
                EventBuilder::new(kind, "{}").tags(tags.clone()).custom_created_at(Timestamp::from(secs));
            event.sign_with_keys(&keys).expect("signs")
        };
        let (old, new) = (version(now - 1), version(now));
        assert_eq!(client.publish(&new).await, (true, String::new()));
        let (accepted, reason) = client.publish(&old).await;
        assert!(!accepted && reason.starts_with("blocked: replaced:"), "{reason}");
        assert_eq!(client.publish(&new).await.1, "duplicate: already have this event");
    }
    let (accepted, reason) = client.publish(&future(&keys, now + 3_600)).await;
    assert!(!accepted && reason.starts_with("blocked: created_at is"), "{reason}");
}

fn future(keys: &Keys, secs: u64) -> oa_nips::nostr::Event {
    EventBuilder::text_note("later")
        .custom_created_at(Timestamp::from(secs))
        .sign_with_keys(keys)
        .expect("signs")
}

#[tokio::test]
async fn two_hundred_events_at_once_pass_the_rate_limit() {
    let relay = relay(Limits::default()).await;
    let mut client = Client::connect(&relay).await;
    let keys = Keys::generate();
    let events: Vec<_> = (0..200).map(|index| note(&keys, &index.to_string())).collect();
    for event in &events {
        client.send_event(event).await;
    }
    for event in &events {
        assert_eq!(client.message().await, json!(["OK", event.id.to_hex(), true, ""]));
    }
}

#[tokio::test]
async fn the_rate_limit_refuses_by_an_ok() {
    let relay = relay(Limits { events_per_minute_max: 3, ..Limits::default() }).await;
    let mut client = Client::connect(&relay).await;
    let keys = Keys::generate();
    let mut answers = Vec::new();
    for index in 0..6 {
        answers.push(client.publish(&note(&keys, &index.to_string())).await);
    }
    assert!(answers[0].0);
    assert_eq!(answers[5], (false, "rate-limited: slow down".to_owned()));
}
