//! The relay pool against a scripted relay and against the bundled one.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first surprise"
)]

#[path = "pool/node.rs"]
mod node;
#[path = "pool/relay.rs"]
mod relay;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use oa_nips::kind;
use oa_nips::nostr::{Event, EventBuilder, EventId, Filter, Keys, Kind, PublicKey, RelayUrl};
use oa_nips::port::{Ack, FetchError, Publish, Subscribe};
use oa_node::drivers::nostr::{Config, Incoming, Limits, Pool, RelaySpec, SweepConfig};
use tokio::sync::mpsc;

use self::node::{Book, DEADLINE, Node, Ring, config, event, eventually, ids, wrap};
use self::relay::{Relay, Script, Sync};

const HOUR_S: u64 = 3600;

/// Events of one author, a second apart, for each of `to` in turn.
fn letters(to: &[PublicKey], n: usize, newest_back_s: u64) -> Vec<Event> {
    let author = Keys::generate();
    let one = |i: usize| wrap(&author, to[i % to.len()], newest_back_s + i as u64, &format!("{i}"));
    (0..n).map(one).collect()
}

/// One relay, swept on connect and then for a reason only.
fn rarely_swept(relay: &Relay) -> Config {
    let mut config = config(&[relay.url()]);
    config.sweep = Some(SweepConfig::default());
    config
}

fn note(text: &str) -> Event {
    EventBuilder::text_note(text).sign_with_keys(&Keys::generate()).unwrap()
}

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
async fn each_agent_authenticates_on_the_one_connection() {
    let ring = Ring::new(5);
    let refused = ring.keys()[4];
    let script = Script { auth: true, auth_refused: HashSet::from([refused]), ..Script::default() };
    let relay = Relay::start(script).await;
    let stored = letters(&ring.keys()[..4], 8, HOUR_S);
    relay.store(stored.clone());
    let mut node = Node::start(config(&[relay.url()]), ring.clone());
    node.until_all(&ids(&stored)).await;
    assert_eq!(node.pool.ready(1, DEADLINE).await, 1);
    for key in &ring.keys()[..4] {
        let letter = wrap(&Keys::generate(), *key, 0, "hello");
        relay.publish(&letter);
        node.until_all(&ids(&[letter])).await;
    }
    let signers: HashSet<_> =
        relay.asked("AUTH").iter().map(|frame| frame[1]["pubkey"].as_str().unwrap().to_owned()).collect();
    let expected = ring.keys().into_iter().chain([ring.node.public_key()]).map(|key| key.to_hex());
    assert_eq!(signers, expected.collect());
    assert_eq!(relay.connections(), 1);
    eventually("the refused agent is shown", || node.pool.status()[0].unlistened == 1).await;
}

#[tokio::test]
async fn an_agent_added_later_authenticates_too() {
    let ring = Ring::new(2);
    let relay = Relay::start(Script { auth: true, ..Script::default() }).await;
    let mut node = Node::start(config(&[relay.url()]), ring.clone());
    node.until("the first sweep", |log| log.complete() > 0).await;
    let (first, second) = (ring.keys()[0], ring.keys()[1]);
    node.pool.unlisten(&second);
    node.pool.ready(1, DEADLINE).await;
    node.pool.listen([second]);
    assert_eq!(node.pool.ready(1, DEADLINE).await, 1);
    for key in [first, second] {
        let letter = wrap(&Keys::generate(), key, 0, "hello");
        relay.publish(&letter);
        node.until_all(&ids(&[letter])).await;
    }
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
async fn a_wide_subscription_that_is_not_granted_becomes_shards() {
    let relay = Relay::start(Script { no_wide: true, auth: true, ..Script::default() }).await;
    let ring = Ring::new(3);
    let stored = letters(&ring.keys(), 9, HOUR_S);
    relay.store(stored.clone());
    let mut config = config(&[]);
    config.relays = vec![RelaySpec { url: relay.url(), wide: true }];
    let mut node = Node::start(config, ring);
    node.until_all(&ids(&stored)).await;
}

#[tokio::test]
async fn a_batch_that_was_not_committed_is_offered_again() {
    let (relay, ring) = (Relay::start(Script::default()).await, Ring::new(1));
    relay.store(letters(&ring.keys(), 5, HOUR_S));
    let (incoming, mut taken) = mpsc::channel(8);
    let mut config = rarely_swept(&relay);
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

#[tokio::test]
async fn a_publish_that_needs_authentication_is_signed_for_by_the_node() {
    let script = Script { auth: true, ok_false: Some("auth-required: who?".into()), ..Script::default() };
    let (relay, ring) = (Relay::start(script).await, Ring::new(0));
    let node = Node::start(config(&[relay.url()]), ring.clone());
    assert_eq!(node.pool.publish(&relay.url(), &note("x"), DEADLINE).await, Ack::Accepted);
    assert_eq!(relay.asked("EVENT").len(), 2);
    assert_eq!(relay.asked("AUTH")[0][1]["pubkey"], ring.node.public_key().to_hex());
}

#[tokio::test]
async fn refusals_become_what_the_port_says() {
    let relay = Relay::start(Script::default()).await;
    let node = Node::start(config(&[relay.url()]), Ring::new(0));
    let mut answers = Vec::new();
    for reason in ["duplicate: have it", "rate-limited: slow", "error: disk", "", "blocked: you", "pow: 28"] {
        relay.change(|script| script.ok_false = Some(reason.into()));
        answers.push(node.pool.publish(&relay.url(), &note(reason), DEADLINE).await);
    }
    let unreached = |reason: &str| Ack::Unreached(reason.into());
    let refused = |reason: &str| Ack::Refused(reason.into());
    let expected = [
        Ack::Accepted,
        unreached("rate-limited: slow"),
        unreached("error: disk"),
        unreached(""),
        refused("blocked: you"),
        refused("pow: 28"),
    ];
    assert_eq!(answers, expected);
}

#[tokio::test]
async fn a_publish_without_an_answer_ends_at_its_deadline() {
    let relay = Relay::start(Script { ok_after: 9, ..Script::default() }).await;
    let node = Node::start(config(&[relay.url()]), Ring::new(0));
    let ack = node.pool.publish(&relay.url(), &note("x"), Duration::from_millis(200)).await;
    assert!(matches!(ack, Ack::Unreached(_)), "{ack:?}");
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
    let mut config = rarely_swept(&relay);
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
    assert!((64..600).contains(&live), "{live} live: nothing had to be let go, or nothing was kept");
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
async fn a_relay_that_falls_silent_is_left() {
    let relay = Relay::start(Script { slow: DEADLINE, ..Script::default() }).await;
    let mut config = config(&[relay.url()]);
    config.limits.ping_interval = Duration::from_millis(100);
    config.limits.silence_max = Duration::from_millis(500);
    let mut node = Node::start(config, Ring::new(1));
    let log = node.until("the end of the connection", |log| !log.downs.is_empty()).await;
    assert!(log.downs[0].contains("silent"), "{:?}", log.downs);
}

#[tokio::test]
async fn a_quiet_relay_that_answers_pings_is_kept() {
    let relay = Relay::start(Script::default()).await;
    let mut config = rarely_swept(&relay);
    config.limits.ping_interval = Duration::from_millis(50);
    config.limits.silence_max = Duration::from_millis(300);
    let mut node = Node::start(config, Ring::new(1));
    node.until("the first sweep", |log| log.complete() > 0).await;
    eventually("many pings", || relay.pings() > 20).await;
    assert_eq!(relay.connections(), 1);
}

#[tokio::test]
async fn frames_that_make_no_sense_are_ignored() {
    let greeting =
        ["", "nonsense", "{}", "[]", "[1,2]", "[\"EVENT\",\"l0\",{}]", "[\"OK\",7]", "[\"NEW\",1]"];
    let greeting = greeting.map(str::to_owned).to_vec();
    let relay = Relay::start(Script { greeting, ..Script::default() }).await;
    let ring = Ring::new(1);
    let mut node = Node::start(config(&[relay.url()]), ring.clone());
    let letter = wrap(&Keys::generate(), ring.first(), 0, "hello");
    node.until("the first sweep", |log| log.complete() > 0).await;
    relay.publish(&letter);
    node.until_all(&ids(&[letter])).await;
    assert_eq!(relay.connections(), 1);
}

#[tokio::test]
async fn a_message_over_the_limit_ends_the_connection_with_a_reason() {
    let greeting = vec![format!("[\"NOTICE\",\"{}\"]", "x".repeat(1 << 20))];
    let relay = Relay::start(Script { greeting, ..Script::default() }).await;
    let mut node = Node::start(config(&[relay.url()]), Ring::new(1));
    let log = node.until("the end of the connection", |log| !log.downs.is_empty()).await;
    assert!(log.downs[0].contains("over the limit"), "{:?}", log.downs);
}

#[tokio::test]
async fn two_hundred_agents_share_one_connection() {
    let (relay, ring) = (Relay::start(Script::default()).await, Ring::new(200));
    let mut node = Node::start(config(&[relay.url()]), ring.clone());
    node.until("the first sweep", |log| log.complete() > 0).await;
    let sent = letters(&ring.keys(), 200, 0);
    sent.iter().for_each(|letter| relay.publish(letter));
    node.until_all(&ids(&sent)).await;
    assert_eq!(relay.connections(), 1);
    let live = relay.asked("REQ").into_iter().filter(|frame| frame[2]["ids"].is_null()).count();
    assert_eq!(live, 1);
}

#[tokio::test]
async fn a_standing_subscription_outlives_a_restart_of_the_relay() {
    let mut relay = Relay::start(Script::default()).await;
    let mut node = Node::start(config(&[relay.url()]), Ring::new(0));
    let me = node.ring.node.public_key();
    node.pool.stand("requests", Filter::new().kind(kind::FILES_REQUEST).pubkey(me));
    for round in 1..=2 {
        assert_eq!(node.pool.ready(1, DEADLINE).await, 1);
        let request = event(&Keys::generate(), kind::FILES_REQUEST, me, 0, &format!("{round}"));
        relay.publish(&request);
        node.until_all(&ids(&[request])).await;
        relay.stop().await;
        node.until("the relay's end", |log| log.downs.len() >= round).await;
        relay.listen().await;
    }
}

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

#[tokio::test]
async fn a_fetch_gives_what_came_until_its_deadline() {
    let relay = Relay::start(Script::default()).await;
    relay.store([note("a"), note("b")]);
    let node = Node::start(config(&[relay.url()]), Ring::new(0));
    let filter = Filter::new().kind(Kind::TextNote);
    assert_eq!(node.pool.fetch(&relay.url(), filter.clone(), DEADLINE).await.unwrap().len(), 2);
    relay.change(|script| script.slow = DEADLINE);
    let late = node.pool.fetch(&relay.url(), filter, Duration::from_millis(200)).await;
    assert!(matches!(late, Err(FetchError::TimedOut(_))), "{late:?}");
}

#[tokio::test]
async fn shutdown_answers_everybody_and_ends() {
    let relay = Relay::start(Script { ok_after: 9, ..Script::default() }).await;
    let node = Node::start(config(&[relay.url()]), Ring::new(1));
    assert_eq!(node.pool.ready(1, DEADLINE).await, 1);
    let (pool, url, event) = (node.pool.clone(), relay.url(), note("x"));
    let waiting = tokio::spawn(async move { pool.publish(&url, &event, DEADLINE).await });
    eventually("the event is on its way", || !relay.asked("EVENT").is_empty()).await;
    tokio::time::timeout(Duration::from_secs(5), node.pool.shutdown()).await.expect("no end");
    assert_eq!(waiting.await.unwrap(), Ack::Unreached("shutting down".into()));
    let ack = node.pool.publish(&relay.url(), &note("y"), DEADLINE).await;
    assert!(matches!(ack, Ack::Unreached(_)), "{ack:?}");
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_connections() {
    let relay = Relay::start(Script::default()).await;
    let (incoming, mut taken) = mpsc::channel(8);
    let config = Config { sweep: None, ..config(&[relay.url()]) };
    let pool = Pool::start(config, Ring::new(0), None, incoming);
    assert_eq!(pool.ready(1, DEADLINE).await, 1);
    drop(pool);
    let ended = async { while taken.recv().await.is_some() {} };
    tokio::time::timeout(DEADLINE, ended).await.expect("a task goes on");
}

#[tokio::test]
async fn it_works_with_the_bundled_relay() {
    let listen = "127.0.0.1:0".parse().unwrap();
    let relay =
        oa_relay::Relay::start(oa_relay::Config::new(listen, oa_relay::StoreConfig::Memory)).await.unwrap();
    let url = RelayUrl::parse(&format!("ws://{}", relay.local_addr())).unwrap();
    let ring = Ring::new(3);
    let writer = Node::start(Config { sweep: None, ..config(std::slice::from_ref(&url)) }, Ring::new(0));
    let before = letters(&ring.keys(), 300, HOUR_S);
    for letter in &before {
        assert_eq!(writer.pool.publish(&url, letter, DEADLINE).await, Ack::Accepted);
    }
    let mut config = config(&[]);
    config.relays = vec![RelaySpec { url: url.clone(), wide: true }];
    let mut node = Node::start(config, ring.clone());
    let log = node.until("a complete sweep", |log| log.complete() > 0).await;
    assert_eq!(log.ids(), ids(&before));
    let after = letters(&ring.keys(), 50, 0);
    for letter in &after {
        assert_eq!(writer.pool.publish(&url, letter, DEADLINE).await, Ack::Accepted);
    }
    node.until_all(&ids(&after)).await;
    node.pool.shutdown().await;
}
