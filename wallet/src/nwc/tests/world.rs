//! Relays in memory, a signer, rows in memory, and a client that is connected to them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oa_nips::nostr::filter::MatchEventOptions;
use oa_nips::nostr::nips::{nip04, nip44};
use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{Event, Filter, Keys, PublicKey, RelayUrl, UnsignedEvent};
use oa_nips::port::{Ack, FetchError, Publish, Row, RowWrite, Signer, SignerError, Subscribe};
use tokio::sync::{mpsc, watch};

use crate::nwc::client::{Client, Config, Ports};
use crate::nwc::rows::{Rows, RowsError};
use crate::nwc::uri::Uri;

/// For whatever should happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn clock() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

pub(crate) fn relay(n: u8) -> RelayUrl {
    RelayUrl::parse(&format!("wss://relay{n}.example")).unwrap()
}

/// A signer whose key is here.
#[derive(Debug, Clone)]
pub(crate) struct KeySigner(pub(crate) Keys);

fn refused(error: impl std::fmt::Display) -> SignerError {
    SignerError::Refused(error.to_string())
}

impl Signer for KeySigner {
    fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }

    fn is_immediate(&self) -> bool {
        true
    }

    fn sign(&self, event: UnsignedEvent) -> BoxedFuture<'_, Result<Event, SignerError>> {
        Box::pin(async move { event.sign_with_keys(&self.0).map_err(refused) })
    }

    fn nip44_encrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(async move {
            nip44::encrypt(self.0.secret_key(), peer, text, nip44::Version::V2).map_err(refused)
        })
    }

    fn nip44_decrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(async move { nip44::decrypt(self.0.secret_key(), peer, text).map_err(refused) })
    }

    fn nip04_encrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(async move { nip04::encrypt(self.0.secret_key(), peer, text).map_err(refused) })
    }

    fn nip04_decrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(async move { nip04::decrypt(self.0.secret_key(), peer, text).map_err(refused) })
    }
}

/// Relays that keep what is replaceable and pass on the rest, to those who listen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Net(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    kept: Vec<(RelayUrl, Event)>,
    ears: Vec<(RelayUrl, Filter, mpsc::Sender<Event>)>,
    /// Every so many-th event is lost, and said to be taken.
    lose_every: usize,
    passed: usize,
    log: Vec<Event>,
    down: Vec<RelayUrl>,
}

impl Net {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn lose_every(&self, n: usize) {
        self.lock().lose_every = n;
    }

    /// A relay is not reached any more.
    pub(crate) fn down(&self, relay: RelayUrl) {
        self.lock().down.push(relay);
    }

    /// All relays are reached again.
    pub(crate) fn up(&self) {
        self.lock().down.clear();
    }

    /// What a relay keeps.
    pub(crate) fn kept(&self, relay: &RelayUrl) -> Vec<Event> {
        let state = self.lock();
        let kept = state.kept.iter().filter(|(at, _)| at == relay);
        kept.map(|(_, event)| event.clone()).collect()
    }

    /// Every event that was handed to a relay.
    pub(crate) fn log(&self) -> Vec<Event> {
        self.lock().log.clone()
    }

    /// Listens on relays at once.
    pub(crate) fn listen(&self, relays: &[RelayUrl], filter: Filter) -> mpsc::Receiver<Event> {
        let (ear, heard) = mpsc::channel(4096);
        let mut state = self.lock();
        state.ears.extend(relays.iter().map(|relay| (relay.clone(), filter.clone(), ear.clone())));
        heard
    }

    pub(crate) fn send(&self, relay: &RelayUrl, event: &Event) -> Ack {
        let mut state = self.lock();
        if state.down.contains(relay) {
            return Ack::Unreached("down".to_owned());
        }
        state.log.push(event.clone());
        state.passed += 1;
        if state.lose_every > 0 && state.passed.is_multiple_of(state.lose_every) {
            return Ack::Accepted;
        }
        if event.kind.is_replaceable() {
            state.kept.push((relay.clone(), event.clone()));
        }
        let matches = |filter: &Filter| filter.match_event(event, MatchEventOptions::new());
        for (_, _, ear) in state.ears.iter().filter(|(at, filter, _)| at == relay && matches(filter)) {
            let _ = ear.try_send(event.clone());
        }
        Ack::Accepted
    }
}

impl Publish for Net {
    fn publish<'a>(
        &'a self,
        relay: &'a RelayUrl,
        event: &'a Event,
        _deadline: Duration,
    ) -> BoxedFuture<'a, Ack> {
        Box::pin(async move { self.send(relay, event) })
    }
}

impl Subscribe for Net {
    fn fetch<'a>(
        &'a self,
        relay: &'a RelayUrl,
        filter: Filter,
        _deadline: Duration,
    ) -> BoxedFuture<'a, Result<Vec<Event>, FetchError>> {
        Box::pin(async move {
            let state = self.lock();
            if state.down.contains(relay) {
                return Err(FetchError::NotConnected(relay.clone()));
            }
            let theirs = state
                .kept
                .iter()
                .filter(|(at, event)| at == relay && filter.match_event(event, MatchEventOptions::new()));
            Ok(theirs.map(|(_, event)| event.clone()).collect())
        })
    }
}

/// Rows that last as long as the process.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryRows(pub(crate) Arc<Mutex<BTreeMap<(String, String), Row>>>);

fn ready<T: Send + 'static>(value: Result<T, RowsError>) -> BoxFuture<'static, Result<T, RowsError>> {
    async move { value }.boxed()
}

impl Rows for MemoryRows {
    fn load<'a>(&'a self, space: &'a str) -> BoxFuture<'a, Result<Vec<(String, Row)>, RowsError>> {
        let rows = self.0.lock().unwrap();
        let of_space = rows.iter().filter(|((found, _), _)| found == space);
        ready(Ok(of_space.map(|((_, key), row)| (key.clone(), row.clone())).collect()))
    }

    fn get<'a>(&'a self, space: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Row>, RowsError>> {
        ready(Ok(self.0.lock().unwrap().get(&(space.to_owned(), key.to_owned())).cloned()))
    }

    fn commit(&self, writes: Vec<RowWrite>) -> BoxFuture<'_, Result<(), RowsError>> {
        let mut rows = self.0.lock().unwrap();
        for RowWrite { space, key, expect_version, value } in writes {
            let slot = (space, key);
            let version = rows.get(&slot).map_or(0, |row| row.version);
            if version != expect_version {
                return ready(Err(RowsError::Stale));
            }
            match value {
                Some(value) => drop(rows.insert(slot, Row { version: version + 1, value })),
                None => drop(rows.remove(&slot)),
            }
        }
        ready(Ok(()))
    }
}

/// A client's connection with times that tests can wait for.
pub(crate) fn quick(uri: &Uri) -> Config {
    let ms = Duration::from_millis;
    Config {
        answer_within: ms(800),
        paid_within: ms(800),
        settled_within: ms(4000),
        resend_after: ms(100),
        look_after: ms(50),
        poll_every: ms(50),
        info_deadline: ms(500),
        ..Config::new(uri)
    }
}

/// A client on these relays, whose subscription stands.
pub(crate) fn client(net: &Net, uri: &Uri, config: Config) -> Client {
    let keys = uri.keys();
    let filter = Client::filter(uri.wallet, keys.public_key(), clock() / 1000);
    let events = net.listen(&uri.relays, filter);
    let port = Arc::new(net.clone());
    let ports = Ports { signer: Arc::new(KeySigner(keys)), publish: port.clone(), subscribe: port, clock };
    Client::start(config, ports, events, watch::Sender::new(true).subscribe())
}
