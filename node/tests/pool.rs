//! The relay pool against a scripted relay and against the bundled one.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first surprise"
)]

#[path = "pool/foreign.rs"]
mod foreign;
#[path = "pool/node.rs"]
mod node;
#[path = "pool/pace.rs"]
mod pace;
#[path = "pool/relay.rs"]
mod relay;
#[path = "pool/sweeps.rs"]
mod sweeps;

use std::collections::HashSet;
use std::time::Duration;

use oa_nips::kind;
use oa_nips::nostr::{Filter, Keys, Kind, RelayUrl};
use oa_nips::port::{Ack, FetchError, Publish as _, Subscribe as _};
use oa_node::drivers::nostr::{Config, Pool, RelaySpec};
use tokio::sync::mpsc;

use crate::node::{
    DEADLINE, HOUR_S, Node, Ring, config, event, eventually, ids, letters, note, rarely_swept, wrap,
};
use crate::relay::{Relay, Script};

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
    let mut config = rarely_swept(&relay.url());
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
