//! Relays that others name: where they may be, and how many.

use std::time::Duration;

use oa_nips::nostr::{Filter, Kind, RelayUrl};
use oa_nips::port::{Ack, FetchError, Publish as _, Subscribe as _};

use crate::node::{DEADLINE, Node, Ring, config, eventually, note};
use crate::relay::{Relay, Script};

#[tokio::test]
async fn a_private_address_that_somebody_names_is_not_dialled() {
    let (own, other) = (Relay::start(Script::default()).await, Relay::start(Script::default()).await);
    let node = Node::start(config(&[own.url()]), Ring::new(0));
    let port = other.address.port();
    for host in ["127.0.0.1", "localhost", "[::ffff:7f00:1]", "0.0.0.0"] {
        let url = RelayUrl::parse(&format!("ws://{host}:{port}")).unwrap();
        let ack = node.pool.publish(&url, &note("x"), DEADLINE).await;
        assert!(matches!(&ack, Ack::Refused(reason) if reason.contains("private")), "{host}: {ack:?}");
        let fetched = node.pool.fetch(&url, Filter::new(), DEADLINE).await;
        assert!(matches!(fetched, Err(FetchError::NotConnected(_))), "{host}: {fetched:?}");
    }
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn a_listed_foreign_relay_is_dialled_once_and_left_when_idle() {
    let (own, other) = (Relay::start(Script::default()).await, Relay::start(Script::default()).await);
    let mut config = config(&[own.url()]);
    config.allow_private = vec!["LOCALHOST".into()];
    config.limits.foreign_idle = Duration::from_millis(300);
    let node = Node::start(config, Ring::new(0));
    let url = RelayUrl::parse(&format!("ws://localhost:{}", other.address.port())).unwrap();
    let stored = note("stored");
    assert_eq!(node.pool.publish(&url, &stored, DEADLINE).await, Ack::Accepted);
    let fetched = node.pool.fetch(&url, Filter::new().id(stored.id), DEADLINE).await.unwrap();
    assert_eq!(fetched, [stored]);
    assert_eq!(other.connections(), 1);
    eventually("it is left", || other.open() == 0).await;
    assert_eq!(node.pool.publish(&url, &note("again"), DEADLINE).await, Ack::Accepted);
    assert_eq!(other.connections(), 2);
}

#[tokio::test]
async fn a_foreign_relay_that_failed_is_not_dialled_again_at_once() {
    let mut other = Relay::start(Script::default()).await;
    other.stop().await;
    let mut config = config(&[]);
    config.allow_private = vec!["127.0.0.1".into()];
    config.limits.foreign_retry = Duration::from_secs(2);
    let node = Node::start(config, Ring::new(0));
    let (url, event) = (other.url(), note("x"));
    let first = node.pool.publish(&url, &event, DEADLINE).await;
    assert!(matches!(first, Ack::Unreached(_)), "{first:?}");
    other.listen().await;
    assert_eq!(node.pool.publish(&url, &event, DEADLINE).await, first);
    assert_eq!(other.connections(), 0);
    let mut last = first;
    let accepted = async {
        while last != Ack::Accepted {
            tokio::time::sleep(Duration::from_millis(20)).await;
            last = node.pool.publish(&url, &event, DEADLINE).await;
        }
    };
    tokio::time::timeout(DEADLINE, accepted).await.expect("it is never dialled again");
}

#[tokio::test]
async fn nobody_authenticates_to_a_foreign_relay() {
    let script = Script { auth: true, ok_false: Some("auth-required: who?".into()), ..Script::default() };
    let other = Relay::start(script).await;
    let mut config = config(&[]);
    config.allow_private = vec!["127.0.0.1".into()];
    let node = Node::start(config, Ring::new(1));
    let ack = node.pool.publish(&other.url(), &note("x"), DEADLINE).await;
    assert_eq!(ack, Ack::Refused("auth-required: who?".into()));
    let fetched = node.pool.fetch(&other.url(), Filter::new().kind(Kind::TextNote), DEADLINE).await;
    assert!(matches!(fetched, Err(FetchError::Closed(..))), "{fetched:?}");
    assert_eq!(other.asked("AUTH").len(), 0);
}

#[tokio::test]
async fn more_foreign_relays_than_may_be_open_take_turns() {
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(Relay::start(Script::default()).await);
    }
    let mut config = config(&[]);
    config.allow_private = vec!["127.0.0.1".into()];
    config.limits.foreign_max = 2;
    let node = Node::start(config, Ring::new(0));
    let event = note("to all");
    let acks = futures_util::future::join_all(others.iter().map(|other| {
        let (pool, url, event) = (node.pool.clone(), other.url(), event.clone());
        async move { pool.publish(&url, &event, DEADLINE).await }
    }));
    assert_eq!(acks.await, vec![Ack::Accepted; 5]);
}
