//! An agent with the whole tree, on a memory store and relays that are made up: for tests of file servers.

mod outside;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{Event, Filter, Keys, PublicKey, RelayUrl};
use oa_nips::port::{FetchError, Signer, Subscribe};

use super::{Creator, Parts, mounts};
use crate::agent::AgentId;
use crate::agent::envelope::{Envelope, Kind, Trust};
use crate::agent::manifest::Manifest;
use crate::discovery::Finder;
use crate::drivers::http::Client;
use crate::elsewhere::Reach;
use crate::engine::Programs;
use crate::feeds::Feeds;
use crate::keyring::{Addresses, Keyring, SeedKeyring};
use crate::namespace::journal::{Line, Pin};
use crate::namespace::{Durable, Error, MemoryState, Namespace, NoConsent, Setting};
use crate::operator::Roles;
use crate::outbox::Directory;
use crate::profiles::Place;
use crate::secrets::Vault;
use crate::signer::Seed;
use crate::sockets::Sockets;
use crate::store::Store;
use crate::store::memory::MemoryBackend;
use crate::store::row::AgentRow;
use crate::subscriptions::{Stands, Subscriptions};
use crate::tenure::Tenure;
use crate::time::System;

/// The tick's time.
pub(super) const NOW_MS: u64 = 1_790_000_000_000;

/// Relays by address, and what they were asked. Those that are not there do not answer.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    pub(crate) stored: Mutex<BTreeMap<RelayUrl, Vec<Event>>>,
    pub(crate) asked: Mutex<Vec<(RelayUrl, Filter)>>,
}

impl Subscribe for Relays {
    fn fetch<'a>(
        &'a self,
        relay: &'a RelayUrl,
        filter: Filter,
        _: Duration,
    ) -> BoxedFuture<'a, Result<Vec<Event>, FetchError>> {
        self.asked.lock().unwrap().push((relay.clone(), filter));
        let stored = self.stored.lock().unwrap().get(relay).cloned();
        Box::pin(async move { stored.ok_or_else(|| FetchError::NotConnected(relay.clone())) })
    }
}

#[derive(Debug)]
struct Nothing;

impl Stands for Nothing {
    fn stand(&self, _: &str, _: Filter) {}

    fn unstand(&self, _: &str) {}

    fn are_heard(&self) -> bool {
        true
    }
}

impl Durable for Nothing {
    fn record(&self, _: u32, _: Vec<Line>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}

/// An agent between its ticks.
pub(super) struct Fixture {
    pub(super) store: Store,
    pub(super) keyring: Arc<SeedKeyring>,
    /// Whom the keyring knows.
    pub(super) addresses: Arc<Addresses>,
    pub(super) relays: Arc<Relays>,
    pub(super) own: RelayUrl,
    pub(super) row: AgentRow,
    pub(super) manifest: Manifest,
    pub(super) files: MemoryState,
    pub(super) feeds: Arc<Feeds>,
    pub(super) mounts: Arc<crate::namespace::mount::Mounts>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with_http(Client::of_node(&[]))
    }

    /// With a client of the test's own.
    pub(super) fn with_http(client: Client) -> Self {
        let store = Store::new(Arc::new(MemoryBackend::default())).unwrap();
        let addresses = Arc::new(Addresses::default());
        let keyring = Arc::new(SeedKeyring::new(Seed::generate(), addresses.clone()));
        let (relays, own) = (Arc::new(Relays::default()), RelayUrl::parse("wss://own.example").unwrap());
        let time: Arc<dyn crate::time::Time> = Arc::new(System);
        let (subscriptions, _) = Subscriptions::new(store.clone(), Arc::new(Nothing), time.clone());
        let feeds = Arc::new(Feeds::new(store.clone(), time.clone()));
        let (http, found) = (Arc::new(client), Arc::new([own.clone()]));
        let finder = Finder::new(relays.clone(), found, http.clone(), store.clone(), time.clone());
        let vault = Vault::new(store.clone(), keyring.clone());
        let (sockets, _) =
            Sockets::new(store.clone(), http.clone(), vault, Tenure::alone(time.clone()), time.clone());
        let parts = Parts {
            sockets,
            wishes: Arc::default(),
            store: store.clone(),
            time,
            relays: Arc::new([own.to_string()]),
            roles: Roles::default(),
            srv: Arc::default(),
            keyring: keyring.clone(),
            reach: Reach {
                keyring: keyring.clone(),
                case: None,
                tenure: Tenure::alone(Arc::new(System)),
                time: Arc::new(System),
                back: Arc::default(),
            },
            subscribe: relays.clone(),
            own: Arc::new([own.clone()]),
            finder: Arc::new(finder),
            http,
            directory: Arc::new(Directory::new(relays.clone(), vec![own.clone()])),
            subscriptions,
            money: None,
            feeds: feeds.clone(),
            config: Arc::default(),
        };
        let place = Place { relays: vec![own.clone()], domain: None };
        let creator = Creator::new(&store, keyring.clone(), Programs::default(), place).unwrap();
        let mounts = Arc::new(mounts(&parts, &Arc::new(creator)));
        let pubkey = keyring.agent(AgentId(0)).public_key();
        let row = AgentRow::new(AgentId(0), pubkey, NOW_MS);
        let manifest = Manifest::new("alice", "echo");
        Self {
            store,
            keyring,
            addresses,
            relays,
            own,
            row,
            manifest,
            files: MemoryState::default(),
            feeds,
            mounts,
        }
    }

    /// The agent's own signer.
    pub(super) fn signer(&self) -> Arc<dyn Signer> {
        self.keyring.agent(AgentId(0))
    }

    /// A tick that the node begins.
    pub(super) fn tick(&self) -> Namespace {
        self.tick_for(Envelope::from_node(Kind::Poke, "test", NOW_MS), Trust::Node)
    }

    /// A tick for an envelope.
    pub(super) fn tick_for(&self, envelope: Envelope, trust: Trust) -> Namespace {
        let setting = Setting {
            mounts: self.mounts.clone(),
            row: Arc::new(self.row.clone()),
            manifest: Arc::new(self.manifest.clone()),
            envelope: Arc::new(envelope),
            committed: Arc::new(self.files.clone()),
            durable: Arc::new(Nothing),
            consent: Arc::new(NoConsent),
        };
        Namespace::new(setting, Pin { program: "test".to_owned(), trust }, Vec::new()).unwrap()
    }

    /// Keeps what a tick wrote.
    pub(super) fn keep(&mut self, ns: Namespace) -> crate::namespace::Done {
        let done = ns.finish().unwrap().unwrap();
        for (path, content) in &done.files {
            match content {
                Some(content) => self.files.0.insert(path.to_string(), content.clone()),
                None => self.files.0.remove(path.as_str()),
            };
        }
        done
    }
}

/// Somebody.
pub(super) fn someone() -> PublicKey {
    Keys::generate().public_key()
}
