//! Many things at once, and slow parties on either side.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use oa_nips::kind;
use oa_nips::nostr::{EventId, Filter, Keys};
use oa_nips::port::{Ack, Publish as _, Subscribe as _};
use oa_node::drivers::nostr::{Incoming, Limits, Pool};
use tokio::sync::mpsc;

use crate::node::{
    Book, DEADLINE, Node, Ring, config, event, eventually, ids, letters, note, rarely_swept, wrap,
};
use crate::relay::{Relay, Script};

#[tokio::test]
async fn a_thousand_events_are_in_flight_on_one_connection() {
    // The relay answers only once it has them all: a client that waits for each OK would never end.
    let relay = Relay::start(Script { ok_after: 1_000, ..Script::default() }).await;
    let node = Node::start(config(&[relay.url()]), Ring::new(0));
    let mut publishing = tokio::task::JoinSet::new();
    for i in 0..1_000 {
        let (pool, url, event) = (node.pool.clone(), relay.url(), note(&i.to_string()));
        publishing.spawn(async move { pool.publish(&url, &event, DEADLINE).await });
    }
    let acks = publishing.join_all().await;
    assert!(
        acks.iter().all(|ack| *ack == Ack::Accepted),
        "{:?}",
        acks.iter().find(|ack| **ack != Ack::Accepted)
    );
    assert_eq!(relay.stored().len(), 1_000);
    assert_eq!(relay.connections(), 1);
}

#[tokio::test]
async fn large_answers_and_large_publishes_do_not_wait_for_each_other() {
    // The relay does not read while it writes. A client that does not read while it writes would never end.
    let relay = Relay::start(Script::default()).await;
    let (author, text) = (Keys::generate(), "x".repeat(60_000));
    let me = author.public_key();
    relay.store((0..400).map(|i| wrap(&author, me, i, &text)));
    let node = Node::start(config(&[relay.url()]), Ring::new(0));
    let publishing = (0..200).map(|i| {
        let (pool, url, event) = (&node.pool, relay.url(), event(&author, kind::LEGACY_DM, me, i, &text));
        async move { pool.publish(&url, &event, DEADLINE).await }
    });
    let fetching = (0..3).map(|_| async {
        node.pool
            .fetch(&relay.url(), Filter::new().kind(kind::WRAP), DEADLINE)
            .await
            .map(|events| events.len())
    });
    let (acks, fetched) =
        tokio::join!(futures_util::future::join_all(publishing), futures_util::future::join_all(fetching));
    assert!(acks.iter().all(|ack| *ack == Ack::Accepted));
    assert!(fetched.iter().all(|fetched| matches!(fetched, Ok(400))), "{fetched:?}");
}

/// The next thing that comes in, written into the book and taken off `open`.
async fn take_one(
    taken: &mut mpsc::Receiver<Incoming>,
    book: &Book,
    open: &mut HashSet<EventId>,
) -> Incoming {
    let next = tokio::time::timeout(DEADLINE, taken.recv()).await;
    let mut next = next.unwrap_or_else(|_| panic!("{} never came", open.len())).unwrap();
    let events = match &mut next {
        Incoming::Event { event, .. } => std::slice::from_ref(&**event),
        Incoming::Sweep(sweep) => sweep.events.as_slice(),
        Incoming::Down { reason, .. } => panic!("{reason}"),
        Incoming::Up { .. } => &[],
    };
    for event in events {
        open.remove(&event.id);
        book.pages().handled.insert(event.id, event.created_at.as_secs());
    }
    next
}

#[tokio::test]
async fn a_slow_node_that_publishes_loses_nothing_and_does_not_lock_up() {
    let (relay, ring) = (Relay::start(Script::default()).await, Ring::new(1));
    let (incoming, mut taken) = mpsc::channel(1);
    let mut config = rarely_swept(&relay.url());
    config.listen = ring.keys();
    config.limits = Limits { backlog_soft: 8, backlog_hard: 64, ..Limits::default() };
    let book = Arc::<Book>::default();
    let pool = Pool::start(config, ring.clone(), Some(book.clone()), incoming);
    let mut open = HashSet::new();
    let mut swept = false;
    while !swept {
        if let Incoming::Sweep(sweep) = take_one(&mut taken, &book, &mut open).await {
            swept = sweep.done.send(()).is_ok();
        }
    }
    let sent = letters(&ring.keys(), 600, 0);
    sent.iter().for_each(|letter| relay.publish(letter));
    open = ids(&sent);
    let mut live = 0;
    while !open.is_empty() {
        // One at a time, and an answer before the next.
        match take_one(&mut taken, &book, &mut open).await {
            Incoming::Event { .. } => {
                live += 1;
                let ack = pool.publish(&relay.url(), &note("answer"), Duration::from_secs(10)).await;
                assert_eq!(ack, Ack::Accepted);
            }
            Incoming::Sweep(sweep) => drop(sweep.done.send(())),
            _ => {}
        }
    }
    assert!((1..600).contains(&live), "{live} live: nothing had to be let go");
}

#[tokio::test]
async fn a_slow_client_without_sweeps_loses_nothing_either() {
    let (relay, ring) = (Relay::start(Script::default()).await, Ring::new(1));
    let (incoming, mut taken) = mpsc::channel(1);
    let mut config = config(&[relay.url()]);
    config.listen = ring.keys();
    config.sweep = None;
    config.limits = Limits { backlog_soft: 4, backlog_hard: 8, ..Limits::default() };
    let pool = Pool::start(config, ring.clone(), None, incoming);
    assert_eq!(pool.ready(1, DEADLINE).await, 1);
    let sent = letters(&ring.keys(), 2_000, 0);
    sent.iter().for_each(|letter| relay.publish(letter));
    let mut came = Vec::new();
    while came.len() < sent.len() {
        let next = tokio::time::timeout(DEADLINE, taken.recv()).await.expect("the rest never came").unwrap();
        if let Incoming::Event { event, .. } = next {
            came.push(event.id);
        }
    }
    assert_eq!(came, sent.iter().map(|letter| letter.id).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_relay_waits_for_a_slow_client() {
    let (relay, ring) = (Relay::start(Script::default()).await, Ring::new(1));
    let (incoming, mut taken) = mpsc::channel(1);
    let mut config = config(&[relay.url()]);
    config.listen = ring.keys();
    config.sweep = None;
    let pool = Pool::start(config, ring.clone(), None, incoming);
    assert_eq!(pool.ready(1, DEADLINE).await, 1);
    // Far more than the sockets' buffers hold.
    let (author, text) = (Keys::generate(), "x".repeat(60_000));
    let sent: Vec<_> = (0..800).map(|i| wrap(&author, ring.first(), i, &text)).collect();
    sent.iter().for_each(|letter| relay.publish(letter));
    let (mut written, mut looks) = (0, 0);
    eventually("the relay stops writing", || {
        looks = if written == relay.written() && written > 0 { looks + 1 } else { 0 };
        written = relay.written();
        looks > 100
    })
    .await;
    assert!(written < sent.len(), "all of it was read");
    let mut open = ids(&sent);
    let book = Book::default();
    while !open.is_empty() {
        take_one(&mut taken, &book, &mut open).await;
    }
}

#[tokio::test]
async fn a_dead_relay_does_not_hold_up_the_living() {
    let living = Relay::start(Script::default()).await;
    let mut dead = Relay::start(Script::default()).await;
    dead.stop().await;
    let node = Node::start(config(&[dead.url(), living.url()]), Ring::new(1));
    assert_eq!(node.pool.ready(1, DEADLINE).await, 1);
    assert_eq!(node.pool.ready(2, Duration::from_millis(300)).await, 1);
    assert_eq!(node.pool.publish(&living.url(), &note("x"), DEADLINE).await, Ack::Accepted);
    let ack = node.pool.publish(&dead.url(), &note("x"), DEADLINE).await;
    assert!(matches!(ack, Ack::Unreached(_)), "{ack:?}");
    let down = node.pool.status().into_iter().find(|status| status.url == dead.url()).unwrap();
    assert!(!down.connected && down.last_error.is_some(), "{down:?}");
}
