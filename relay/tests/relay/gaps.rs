//! No silent gaps in a live subscription: the two ways relay-builder alone loses events.

use std::collections::HashSet;

use oa_nips::nostr::{Event, Keys};
use oa_relay::Limits;
use serde_json::json;

use crate::client::{Client, note, relay};

/// Several times relay-builder's broadcast buffer of 1,024.
const MANY: usize = 6_000;

/// Enough that the paused reader's events overflow the buffers of both kernels.
const BODY_BYTES: usize = 4_000;

fn notes(keys: &Keys, count: usize, bytes: usize) -> Vec<Event> {
    let body = "x".repeat(bytes);
    (0..count).map(|index| note(keys, &format!("{index} {body}"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_publishes_without_pause_gets_all_it_subscribed_to() {
    let relay = relay(Limits::default()).await;
    let mut busy = Client::connect(&relay).await;
    let keys = Keys::generate();
    assert_eq!(busy.request("mine", json!({ "authors": [keys.public_key().to_hex()] })).await, []);
    let events = notes(&keys, MANY, 0);
    // Messages in flight at any time: enough that the relay always has a next one to read.
    let (mut sent, mut answered, mut live) = (0, 0, HashSet::new());
    while live.len() < MANY || answered < MANY {
        while sent < MANY && sent < answered + 500 {
            busy.send_event(&events[sent]).await;
            sent += 1;
        }
        let message = busy.message().await;
        match message[0].as_str() {
            Some("OK") => answered += 1,
            Some("EVENT") => assert!(live.insert(message[2]["id"].to_string()), "once each"),
            _ => panic!("{message}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_paused_gets_everything_or_is_closed() {
    let relay = relay(Limits::default()).await;
    let (mut reader, mut writer) = (Client::connect(&relay).await, Client::connect(&relay).await);
    assert_eq!(reader.request("all", json!({ "limit": 0 })).await, []);
    let events = notes(&Keys::generate(), MANY, BODY_BYTES);
    for batch in events.chunks(100) {
        for event in batch {
            writer.send_event(event).await;
        }
        for _ in batch {
            assert_eq!(writer.message().await[2], true);
        }
    }
    let mut got = 0;
    while got < MANY {
        match reader.next().await {
            Ok(_) => got += 1,
            Err(close) => {
                assert_eq!(close.map(|frame| u16::from(frame.code)), Some(1013), "told to sync after {got}");
                return;
            }
        }
    }
}
