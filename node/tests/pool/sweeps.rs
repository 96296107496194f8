//! The catch-up: what a relay has and the node has not dealt with comes, once, verified, and in order.

use std::sync::Arc;
use std::time::Duration;

use oa_nips::kind;
use oa_nips::nostr::{Filter, Keys};
use oa_nips::port::{Ack, Publish as _, Subscribe as _};
use oa_node::drivers::nostr::{Incoming, Pool, RelaySpec};
use tokio::sync::mpsc;

use crate::node::{
    Book, DEADLINE, HOUR_S, Node, Ring, config, event, ids, letters, note, rarely_swept, wrap,
};
use crate::relay::{Relay, Script, Sync};

#[tokio::test]
async fn stored_mail_comes_by_sweep_and_new_mail_live() {
    let (relay, ring) = (Relay::start(Script::default()).await, Ring::new(3));
    let stored = letters(&ring.keys(), 40, 47 * HOUR_S);
    relay.store(stored.clone());
    let mut node = Node::start(config(&[relay.url()]), ring.clone());
    let log = node.until("a complete sweep", |log| log.complete() > 0).await;
    assert_eq!(log.ids(), ids(&stored));
    let late = wrap(&Keys::generate(), ring.first(), 47 * HOUR_S, "backdated, as wraps are");
    relay.publish(&late);
    let log = node.until("the live event", |log| log.live.iter().any(|event| event.id == late.id)).await;
    assert_eq!(log.live.iter().filter(|event| event.id != late.id).count(), log.live.len() - 1);
    assert_eq!(relay.connections(), 1);
}

#[tokio::test]
async fn with_nobody_to_listen_for_nothing_is_swept() {
    // Or the cursor would pass the mail of agents that come later.
    let (relay, ring) = (Relay::start(Script::default()).await, Ring::new(1));
    let stored = letters(&ring.keys(), 5, HOUR_S);
    relay.store(stored.clone());
    let mut node = Node::start(config(&[relay.url()]), Ring::new(0));
    assert_eq!(node.pool.ready(1, DEADLINE).await, 1);
    assert_eq!(node.pool.publish(&relay.url(), &note("x"), DEADLINE).await, Ack::Accepted);
    node.pool.listen(ring.keys());
    let log = node.until("a sweep", |log| !log.sweeps.is_empty()).await;
    assert_eq!(log.sweeps[0].0.len(), 5);
}

#[tokio::test]
async fn what_has_been_dealt_with_is_not_handed_over_again() {
    let (relay, ring) = (Relay::start(Script::default()).await, Ring::new(1));
    let stored = letters(&ring.keys(), 30, HOUR_S);
    relay.store(stored.clone());
    let mut node = Node::start(config(&[relay.url()]), ring);
    let log = node.until("three complete sweeps", |log| log.complete() > 2).await;
    let swept: usize = log.sweeps.iter().map(|(ids, _)| ids.len()).sum();
    assert_eq!(swept, 30);
}

#[tokio::test]
async fn a_relay_that_comes_back_on_its_port_brings_what_was_missed() {
    let (mut relay, ring) = (Relay::start(Script::default()).await, Ring::new(1));
    let mut node = Node::start(config(&[relay.url()]), ring.clone());
    node.until("the first sweep", |log| log.complete() > 0).await;
    for round in 1..=3 {
        relay.stop().await;
        node.until("the relay's end", |log| log.downs.len() >= round).await;
        let ack = node.pool.publish(&relay.url(), &note("x"), DEADLINE).await;
        assert!(matches!(ack, Ack::Unreached(_)), "{ack:?}");
        let missed = letters(&ring.keys(), 10, HOUR_S);
        relay.store(missed.clone());
        relay.listen().await;
        node.until_all(&ids(&missed)).await;
    }
    assert_eq!(node.pool.ready(1, DEADLINE).await, 1);
    assert_eq!(node.pool.publish(&relay.url(), &note("x"), DEADLINE).await, Ack::Accepted);
}

#[tokio::test]
async fn lost_live_events_come_with_the_next_sweep() {
    let relay = Relay::start(Script { lose_every: Some(3), ..Script::default() }).await;
    let ring = Ring::new(4);
    let mut node = Node::start(config(&[relay.url()]), ring.clone());
    node.until("the first sweep", |log| log.complete() > 0).await;
    let sent = letters(&ring.keys(), 90, 0);
    sent.iter().for_each(|letter| relay.publish(letter));
    let log = node.until_all(&ids(&sent)).await;
    assert!(log.live.len() < 90, "nothing was lost");
}

async fn paged(negentropy: Sync) {
    let relay = Relay::start(Script { negentropy, ..Script::default() }).await;
    let ring = Ring::new(3);
    let (author, keys) = (Keys::generate(), ring.keys());
    // Two seconds with more than a page each, and an ordinary history around and between them.
    let crowd = |back_s: u64, n: usize| {
        let (author, keys) = (author.clone(), keys.clone());
        (0..n).map(move |i| {
            let kind = if i % 2 == 0 { kind::WRAP } else { kind::LEGACY_DM };
            event(&author, kind, keys[i % 3], back_s, &format!("{back_s} {i}"))
        })
    };
    let mut stored: Vec<_> = crowd(HOUR_S, 700).chain(crowd(HOUR_S + 9, 510)).collect();
    stored.extend(letters(&ring.keys(), 600, HOUR_S - 300));
    relay.store(stored.clone());
    let mut config = config(&[relay.url()]);
    config.limits.negentropy_timeout = Duration::from_millis(200);
    let mut node = Node::start(config, ring);
    let log = node.until("two complete sweeps", |log| log.complete() > 1).await;
    assert_eq!(log.ids().len(), ids(&stored).len());
    assert_eq!(relay.asked("NEG-OPEN").len(), 1, "the relay was asked again for what it lacks");
}

#[tokio::test]
async fn a_relay_that_refuses_reconciliation_is_paged() {
    paged(Sync::Error).await;
}

#[tokio::test]
async fn a_relay_that_does_not_understand_reconciliation_is_paged() {
    paged(Sync::Notice).await;
}

#[tokio::test]
async fn a_relay_that_ignores_reconciliation_is_paged() {
    paged(Sync::Silence).await;
}

#[tokio::test]
async fn a_large_catch_up_comes_in_batches_and_only_the_last_is_complete() {
    let (relay, ring) = (Relay::start(Script { cap: 100, ..Script::default() }).await, Ring::new(2));
    let stored = letters(&ring.keys(), 950, HOUR_S);
    relay.store(stored.clone());
    let mut config = config(&[relay.url()]);
    config.limits.batch_events_max = 300;
    let mut node = Node::start(config, ring);
    let log = node.until("a complete sweep", |log| log.complete() > 0).await;
    let shape: Vec<_> = log.sweeps.iter().map(|(ids, complete)| (ids.len(), *complete)).collect();
    assert_eq!(shape, [(300, false), (300, false), (300, false), (50, true)]);
    assert_eq!(log.ids(), ids(&stored));
}

#[tokio::test]
async fn forged_events_do_not_come_with_a_sweep_or_a_fetch() {
    let (relay, ring) = (Relay::start(Script::default()).await, Ring::new(1));
    let mut stored = letters(&ring.keys(), 20, HOUR_S);
    let forged = stored[7].id;
    stored[7].content = "forged".into();
    relay.store(stored);
    let mut node = Node::start(config(&[relay.url()]), ring);
    let log = node.until("a complete sweep", |log| log.complete() > 0).await;
    assert_eq!(log.ids().len(), 19);
    assert!(!log.ids().contains(&forged));
    let fetched = node.pool.fetch(&relay.url(), Filter::new().kind(kind::WRAP), DEADLINE).await.unwrap();
    assert_eq!(fetched.len(), 19);
}

#[tokio::test]
async fn a_wide_subscription_does_not_fetch_the_mail_of_others_again_and_again() {
    let (relay, ring) = (Relay::start(Script::default()).await, Ring::new(2));
    let (ours, theirs) =
        (letters(&ring.keys(), 20, HOUR_S), letters(&[Keys::generate().public_key()], 30, HOUR_S));
    relay.store(ours.iter().chain(&theirs).cloned());
    let mut config = config(&[]);
    config.relays = vec![RelaySpec { url: relay.url(), wide: true }];
    let mut node = Node::start(config, ring);
    let log = node.until("three complete sweeps", |log| log.complete() > 2).await;
    assert_eq!(log.ids(), ids(&ours));
    let fetches = relay.asked("REQ").iter().filter(|frame| !frame[2]["ids"].is_null()).count();
    assert_eq!(fetches, 1);
    let live = relay.asked("REQ").len() - fetches;
    assert_eq!(live, 1);
}

#[tokio::test]
async fn a_batch_that_was_not_committed_is_offered_again() {
    let (relay, ring) = (Relay::start(Script::default()).await, Ring::new(1));
    relay.store(letters(&ring.keys(), 5, HOUR_S));
    let (incoming, mut taken) = mpsc::channel(8);
    let mut config = rarely_swept(&relay.url());
    config.listen = ring.keys();
    let _pool = Pool::start(config, ring, Some(Arc::<Book>::default()), incoming);
    let mut offered = Vec::new();
    while offered.len() < 2 {
        let next = tokio::time::timeout(DEADLINE, taken.recv()).await.expect("no second offer").unwrap();
        if let Incoming::Sweep(sweep) = next {
            offered.push(sweep.events.len()); // and `done` is dropped
        }
    }
    assert_eq!(offered, [5, 5]);
}
