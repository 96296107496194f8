//! The driver with relays in memory, in real time: terms are a few seconds long.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use oa_nips::lease::State as Says;
use oa_nips::nostr::filter::MatchEventOptions;
use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{Filter, Keys};
use oa_nips::port::{FetchError, SignerError};

use super::*;
use crate::time::System;

/// No test takes longer.
const DEADLINE: Duration = Duration::from_secs(20);

fn config() -> Config {
    Config {
        term: Duration::from_secs(4),
        renew_every: Duration::from_millis(1200),
        skew: Duration::from_secs(1),
        claim_within: Duration::from_millis(500),
        settle: Duration::from_millis(900),
        retry_first: Duration::from_millis(20),
        retry_last: Duration::from_millis(200),
        node: None,
    }
}

/// Relays that keep the newest lease, and pass each on to whoever listens.
#[derive(Debug, Default)]
struct Relays(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    newest: HashMap<RelayUrl, Event>,
    listeners: Vec<mpsc::Sender<Heard>>,
    away: bool,
}

impl Relays {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn newest(&self) -> Option<Published> {
        self.inner().newest.values().next().map(|event| Published::read(event).unwrap())
    }

    fn set_away(&self, away: bool) {
        self.inner().away = away;
    }

    fn listen(&self) -> mpsc::Receiver<Heard> {
        let (heard, receiver) = mpsc::channel(64);
        self.inner().listeners.push(heard);
        receiver
    }
}

impl Publish for Relays {
    fn publish<'a>(&'a self, relay: &'a RelayUrl, event: &'a Event, _: Duration) -> BoxedFuture<'a, Ack> {
        Box::pin(async move {
            let mut inner = self.inner();
            if inner.away {
                return Ack::Unreached("away".to_owned());
            }
            let new = Published::read(event).unwrap();
            if inner.newest.get(relay).is_some_and(|old| !new.replaces(&Published::read(old).unwrap())) {
                return Ack::Refused("replaced: have newer event".to_owned());
            }
            inner.newest.insert(relay.clone(), event.clone());
            for listener in &inner.listeners {
                let _ = listener.try_send(Heard::Lease(Box::new(event.clone())));
            }
            Ack::Accepted
        })
    }
}

impl Subscribe for Relays {
    fn fetch<'a>(
        &'a self,
        relay: &'a RelayUrl,
        filter: Filter,
        _: Duration,
    ) -> BoxedFuture<'a, Result<Vec<Event>, FetchError>> {
        Box::pin(async move {
            let inner = self.inner();
            if inner.away {
                return Err(FetchError::NotConnected(relay.clone()));
            }
            let matches = |event: &&Event| filter.match_event(event, MatchEventOptions::new());
            Ok(inner.newest.get(relay).filter(matches).cloned().into_iter().collect())
        })
    }
}

#[derive(Debug)]
struct Key(Keys);

impl Signer for Key {
    fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }

    fn is_immediate(&self) -> bool {
        true
    }

    fn sign(&self, event: oa_nips::nostr::UnsignedEvent) -> BoxedFuture<'_, Result<Event, SignerError>> {
        Box::pin(async move { Ok(event.sign_with_keys(&self.0).unwrap()) })
    }

    fn nip44_encrypt<'a>(
        &'a self,
        _: &'a PublicKey,
        _: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        unreachable!("a lease is public")
    }

    fn nip44_decrypt<'a>(
        &'a self,
        _: &'a PublicKey,
        _: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        unreachable!("a lease is public")
    }

    fn nip04_encrypt<'a>(
        &'a self,
        _: &'a PublicKey,
        _: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        unreachable!("a lease is public")
    }

    fn nip04_decrypt<'a>(
        &'a self,
        _: &'a PublicKey,
        _: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        unreachable!("a lease is public")
    }
}

/// A database of one row.
#[derive(Debug, Default)]
struct Row {
    kept: Mutex<Option<LeaseState>>,
    is_broken: bool,
}

impl Row {
    fn copy(&self) -> Arc<Self> {
        Arc::new(Self { kept: Mutex::new(self.load().unwrap()), is_broken: false })
    }
}

impl Memory for Row {
    fn load(&self) -> Result<Option<LeaseState>, MemoryError> {
        Ok(self.kept.lock().unwrap().clone())
    }

    fn save<'a>(&'a self, state: &'a LeaseState) -> BoxedFuture<'a, Result<(), MemoryError>> {
        Box::pin(async move {
            if self.is_broken {
                return Err(MemoryError("the disk is full".to_owned()));
            }
            *self.kept.lock().unwrap() = Some(state.clone());
            Ok(())
        })
    }
}

struct Site {
    keys: Keys,
    relays: Arc<Relays>,
}

impl Site {
    fn new() -> Self {
        Self { keys: Keys::generate(), relays: Arc::default() }
    }

    fn start(&self, memory: &Arc<Row>, how: Start) -> Handle {
        let parts = Parts {
            signer: Arc::new(Key(self.keys.clone())),
            publish: self.relays.clone(),
            subscribe: self.relays.clone(),
            memory: memory.clone(),
            time: Arc::new(System),
            relays: vec![RelayUrl::parse("wss://relay.example").unwrap()],
            need: Need::overlapping(1),
            boot: id(random()),
            fresh_instance: id(random()),
            place: None,
            heard: self.relays.listen(),
        };
        start(config(), how, parts).unwrap()
    }
}

fn random() -> [u8; 32] {
    Keys::generate().secret_key().to_secret_bytes()
}

/// Waits until the standing is so, and answers it.
async fn until(handle: &Handle, is: impl Fn(&Standing) -> bool) -> Standing {
    let mut standing = handle.standing();
    let waited = tokio::time::timeout(DEADLINE, standing.wait_for(|standing| is(standing))).await;
    match waited {
        Ok(Ok(standing)) => standing.clone(),
        other => panic!("{other:?}, {:?}", handle.standing().borrow()),
    }
}

async fn held(handle: &Handle) -> u64 {
    let standing = until(handle, |standing| matches!(standing, Standing::Held { .. })).await;
    standing.epoch(System.now_ms()).unwrap()
}

async fn waits(handle: &Handle, words: &str) -> Standing {
    until(handle, |standing| standing.why().is_some_and(|why| why.contains(words))).await
}

async fn eventually(what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_fresh_key_is_held_without_a_relay_and_published_when_there_is_one() {
    let (site, memory) = (Site::new(), Arc::<Row>::default());
    site.relays.set_away(true);
    let node = site.start(&memory, Start::Fresh);
    assert_eq!(held(&node).await, 1);
    site.relays.set_away(false);
    eventually("it is published", || site.relays.newest().is_some()).await;
    assert_eq!(site.relays.newest().unwrap().lease.state, Says::Held);
}

#[tokio::test]
async fn of_two_nodes_one_holds_and_the_other_says_why_until_it_is_released() {
    let site = Site::new();
    let first = site.start(&Arc::default(), Start::Again);
    assert_eq!(held(&first).await, 1);
    let second = site.start(&Arc::default(), Start::Again);
    waits(&second, "holds the lease of npub1").await;
    first.release().await;
    assert_eq!(held(&second).await, 2);
}

#[tokio::test]
async fn two_that_claim_at_once_do_not_both_hold() {
    let site = Site::new();
    let (first, second) =
        (site.start(&Arc::default(), Start::Again), site.start(&Arc::default(), Start::Again));
    let (a, b) = (first.standing(), second.standing());
    let deadline = Instant::now() + config().settle * 3;
    while Instant::now() < deadline {
        let now_ms = System.now_ms();
        assert!(a.borrow().epoch(now_ms).is_none() || b.borrow().epoch(now_ms).is_none());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let holders = [a, b].iter().filter(|standing| standing.borrow().epoch(System.now_ms()).is_some()).count();
    assert_eq!(holders, 1);
}

#[tokio::test]
async fn a_restart_goes_on_without_relays_and_after_a_release_without_a_rest() {
    let (site, memory) = (Site::new(), Arc::<Row>::default());
    let node = site.start(&memory, Start::Fresh);
    assert_eq!(held(&node).await, 1);
    eventually("it is published", || site.relays.newest().is_some()).await;
    // It dies.
    drop(node);
    site.relays.set_away(true);
    let node = site.start(&memory, Start::Again);
    assert_eq!(held(&node).await, 2);
    site.relays.set_away(false);
    eventually("the new epoch is published", || site.relays.newest().unwrap().lease.epoch == 2).await;
    node.release().await;
    assert_eq!(site.relays.newest().unwrap().lease.state, Says::Released);
    let begun = Instant::now();
    let node = site.start(&memory, Start::Again);
    assert_eq!(held(&node).await, 3);
    assert!(begun.elapsed() < config().settle, "{:?}", begun.elapsed());
    // It proves what it held on trust.
    let beyond_ms = System.now_ms() + 2000;
    until(&node, |standing| matches!(standing, Standing::Held { until_ms, .. } if *until_ms > beyond_ms))
        .await;
}

#[tokio::test]
async fn a_copy_that_starts_later_wins() {
    let (site, memory) = (Site::new(), Arc::<Row>::default());
    let original = site.start(&memory, Start::Fresh);
    assert_eq!(held(&original).await, 1);
    eventually("it is published", || site.relays.newest().is_some()).await;
    let copy = site.start(&memory.copy(), Start::Again);
    assert_eq!(held(&copy).await, 2);
    let lost = until(&original, |standing| matches!(standing, Standing::Lost { .. })).await;
    assert!(lost.why().unwrap().contains("a copy of this store was started later"));
    assert_eq!(held(&copy).await, 2);
}

#[tokio::test]
async fn without_relays_it_stops_and_with_them_it_goes_on() {
    let (site, memory) = (Site::new(), Arc::<Row>::default());
    let node = site.start(&memory, Start::Fresh);
    held(&node).await;
    eventually("it is published", || site.relays.newest().is_some()).await;
    site.relays.set_away(true);
    waits(&node, "0 relays answered").await;
    site.relays.set_away(false);
    assert_eq!(held(&node).await, 2);
}

#[tokio::test]
async fn what_others_sign_or_forge_is_no_lease() {
    let (site, memory) = (Site::new(), Arc::<Row>::default());
    let node = site.start(&memory, Start::Fresh);
    assert_eq!(held(&node).await, 1);
    let lease = Lease {
        v: 1,
        instance: id(random()),
        boot: id(random()),
        epoch: 99,
        expires_at: System.now_ms() / 1000 + 60,
        state: Says::Held,
        node: None,
    };
    let at = Timestamp::from_secs(System.now_ms() / 1000);
    let stranger = Keys::generate();
    let others = lease.event(stranger.public_key(), at).sign_with_keys(&stranger).unwrap();
    let mut forged = lease.event(site.keys.public_key(), at).sign_with_keys(&site.keys).unwrap();
    let genuine = forged.clone();
    forged.sig = others.sig;
    let tell = |event: &Event| {
        for listener in &site.relays.inner().listeners {
            listener.try_send(Heard::Lease(Box::new(event.clone()))).unwrap();
        }
    };
    // They come in this order, and the renewal that follows them is extended as ever.
    tell(&others);
    tell(&forged);
    let beyond_ms = System.now_ms() + 4500;
    until(&node, |standing| matches!(standing, Standing::Held { until_ms, .. } if *until_ms > beyond_ms))
        .await;
    tell(&genuine);
    until(&node, |standing| matches!(standing, Standing::Lost { .. })).await;
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_held() {
    let site = Site::new();
    let memory = Arc::new(Row { kept: Mutex::default(), is_broken: true });
    let node = site.start(&memory, Start::Fresh);
    let lost = until(&node, |standing| matches!(standing, Standing::Lost { .. })).await;
    assert!(lost.why().unwrap().ends_with("the disk is full"));
    node.release().await;
    assert!(site.relays.newest().is_none());
}
