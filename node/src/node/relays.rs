//! The node among its relays: what it listens for, under whose keys, and what sweeps compare with.

use std::sync::Arc;

use oa_nips::kind;
use oa_nips::nostr::{EventId, Filter, PublicKey, RelayUrl, Timestamp};
use oa_nips::port::Signer;
use tokio::sync::mpsc;

use super::Config;
use crate::drivers::nostr::{self as pool, Pool};
use crate::engine::shared::Shared;
use crate::keyring::Keyring;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::time::Time;

/// A standing subscription looks this far back: clocks differ, and requests are valid for a minute.
const REQUESTS_SINCE_S: u64 = 60;
/// The fact in the store: when it was made, in seconds since 1970. A relay never swept is swept from there.
pub(super) const BORN: &str = "born";

/// Connects to the node's relays, and listens for the mail of `listen`.
pub(super) fn start(
    config: &Config,
    ledger: Handled,
    keyring: &Arc<dyn Keyring>,
    listen: Vec<PublicKey>,
    incoming: mpsc::Sender<pool::Incoming>,
) -> Pool {
    let pool_config = pool::Config {
        relays: config.relays.clone(),
        listen,
        sweep: Some(config.sweep.clone()),
        allow_private: config.allow_private.clone(),
        limits: pool::Limits::default(),
    };
    let keys = Arc::new(RelayKeys(keyring.clone()));
    Pool::start(pool_config, keys, Some(Arc::new(ledger)), incoming)
}

/// Listens for operators' requests.
pub(super) fn listen_to_operators(pool: &Pool, shared: &Shared) {
    pool.stand("op", to_node(shared).kind(kind::FILES_REQUEST));
}

/// What is addressed to the node itself, from about now on.
pub(super) fn to_node(shared: &Shared) -> Filter {
    let since = Timestamp::from_secs((shared.time.now_ms() / 1000).saturating_sub(REQUESTS_SINCE_S));
    Filter::new().pubkey(shared.keyring.node().public_key()).since(since)
}

/// The node's keys, as relays ask for them.
#[derive(Debug)]
struct RelayKeys(Arc<dyn Keyring>);

impl pool::Keyring for RelayKeys {
    fn node(&self) -> Arc<dyn Signer> {
        self.0.node()
    }

    fn agent(&self, key: &PublicKey) -> Option<Arc<dyn Signer>> {
        self.0.whose(key).map(|id| self.0.agent(id))
    }
}

/// What the store has dealt with, as sweeps ask for it.
#[derive(Debug)]
pub(super) struct Handled(pub(super) Store, pub(super) Arc<dyn Time>);

impl pool::Ledger for Handled {
    fn handled(&self, since_s: u64, _: Option<&[PublicKey]>) -> Result<Vec<(u64, EventId)>, String> {
        self.0.handled(since_s).map_err(|error| error.to_string())
    }

    fn is_handled(&self, id: &EventId) -> Result<bool, String> {
        self.0.is_handled(id).map_err(|error| error.to_string())
    }

    fn cursor(&self, relay: &RelayUrl) -> Result<Option<u64>, String> {
        let born = || -> Result<Option<u64>, BackendError> {
            Ok(self.0.meta(BORN)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
        };
        let cursor = match self.0.cursor(relay) {
            Ok(None) => born(),
            cursor => cursor,
        };
        // A cursor from a clock that was ahead would hide what came since.
        let now_s = self.1.now_ms() / 1000;
        cursor.map(|cursor| cursor.map(|at_s| at_s.min(now_s))).map_err(|error| error.to_string())
    }
}
