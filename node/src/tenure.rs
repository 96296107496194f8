//! The node's lease of its own key, which covers every agent of its seed: who may tick, answer and publish now. Agents
//! that can move have one more each (`own`).

pub(crate) mod own;

use std::sync::Arc;
use std::time::Duration;

use oa_nips::kind;
use oa_nips::lease::{Id, filter};
use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{Event, PublicKey, RelayUrl};
use oa_nips::port::Signer;
use tokio::sync::{mpsc, watch};

use crate::codes;
use crate::drivers::nostr::Pool;
use crate::keyring::Keyring;
use crate::lease::driver::{self, Handle, Heard, Parts};
use crate::lease::{Config, LeaseState, Memory, MemoryError, Need, Standing, Start};
use crate::store::Store;
use crate::store::write::Write;
use crate::time::Time;

/// The fact in the store: what is remembered of the lease.
const LEASE: &str = "lease";
/// News of the lease that wait; one too many is made up for by the next renewal.
const HEARD: usize = 64;

/// How a node keeps its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leasing {
    /// How it comes to its key.
    pub start: Start,
    /// Where its store is, so that a copy of it elsewhere is told apart.
    pub place: Option<Id>,
    /// The relays that every node with this key would use.
    pub relays: Vec<RelayUrl>,
    /// Its times.
    pub times: Config,
}

impl Leasing {
    /// With the times that everybody uses.
    pub fn new(start: Start, relays: Vec<RelayUrl>) -> Self {
        Self { start, place: None, relays, times: Config::default() }
    }

    /// What keeps the lease of a signer's key over these relays, and where they bring its news.
    fn parts(
        &self,
        signer: Arc<dyn Signer>,
        pool: &Pool,
        memory: Arc<dyn Memory>,
        time: &Arc<dyn Time>,
    ) -> (Parts, mpsc::Sender<Heard>) {
        let (news, heard) = mpsc::channel(HEARD);
        let parts = Parts {
            signer,
            publish: Arc::new(pool.clone()),
            subscribe: Arc::new(pool.clone()),
            memory,
            time: time.clone(),
            need: Need::overlapping(self.relays.len()),
            relays: self.relays.clone(),
            boot: driver::id(codes::random()),
            fresh_instance: driver::id(codes::random()),
            place: self.place,
            heard,
        };
        (parts, news)
    }
}

/// Whether the node may act now, as its parts ask.
#[derive(Debug, Clone)]
pub(crate) struct Tenure {
    standing: watch::Receiver<Standing>,
    time: Arc<dyn Time>,
    /// Whether leases are kept at all.
    is_kept: bool,
    own: Arc<own::Own>,
}

impl Tenure {
    /// Of a node that keeps no lease, for tests.
    #[cfg(test)]
    pub(crate) fn alone(time: Arc<dyn Time>) -> Self {
        let (_, standing) = watch::channel(Standing::Held { epoch: 0, until_ms: u64::MAX });
        Self { standing, time, is_kept: false, own: Arc::default() }
    }

    /// The epoch under which something may be done now; nothing when it must wait.
    pub(crate) fn epoch(&self) -> Option<u64> {
        self.standing.borrow().epoch(self.time.now_ms())
    }

    /// Why nothing may be done; nothing when it may.
    pub(crate) fn why(&self) -> Option<String> {
        let standing = self.standing.borrow();
        match standing.epoch(self.time.now_ms()) {
            Some(_) => None,
            None => {
                Some(standing.why().unwrap_or("the lease has run out, and no relay renews it").to_owned())
            }
        }
    }

    /// Ends with the next change.
    pub(crate) async fn changed(&mut self) {
        if self.standing.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until the node may act.
    pub(crate) async fn begins(&mut self) {
        while self.epoch().is_none() {
            self.changed().await
        }
    }

    /// Waits until the node may act, or the deadline.
    pub(crate) async fn held(&mut self, deadline: Duration) -> bool {
        tokio::time::timeout(deadline, self.begins()).await.is_ok()
    }
}

/// A lease that is kept, or the lack of one.
#[derive(Debug)]
pub(crate) struct Keeper {
    handle: Option<Handle>,
    /// Where the relays' news of it go.
    pub(crate) heard: Option<mpsc::Sender<Heard>>,
    /// For a node that keeps no lease: its standing never changes.
    _forever: Option<watch::Sender<Standing>>,
}

impl Keeper {
    /// Leaves the lease to others; whatever ticks, answers or publishes has ended.
    pub(crate) async fn release(self) {
        if let Some(handle) = self.handle {
            handle.release().await;
        }
    }
}

/// Begins to take the lease; without one the node acts as if it were alone.
///
/// # Errors
/// When what is remembered of it cannot be read.
pub(crate) fn start(
    leasing: Option<Leasing>,
    pool: &Pool,
    keyring: &Arc<dyn Keyring>,
    store: &Store,
    time: &Arc<dyn Time>,
) -> Result<(Tenure, Keeper), MemoryError> {
    let Some(leasing) = leasing else {
        let (forever, standing) = watch::channel(Standing::Held { epoch: 0, until_ms: u64::MAX });
        let keeper = Keeper { handle: None, heard: None, _forever: Some(forever) };
        let (time, own) = (time.clone(), Arc::default());
        return Ok((Tenure { standing, time, is_kept: false, own }, keeper));
    };
    let signer = keyring.node();
    pool.stand("lease", filter(signer.public_key()));
    let (parts, news) = leasing.parts(signer, pool, Arc::new(Remembered(store.clone())), time);
    let handle = driver::start(leasing.times, leasing.start, parts)?;
    let (time, own) = (time.clone(), Arc::default());
    let tenure = Tenure { standing: handle.standing(), time, is_kept: true, own };
    Ok((tenure, Keeper { handle: Some(handle), heard: Some(news), _forever: None }))
}

/// Whether an event is news of `me`'s lease.
pub(crate) fn is_lease(event: &Event, me: &PublicKey) -> bool {
    event.kind == kind::LEASE && event.pubkey == *me
}

/// The lease's state, in the store.
#[derive(Debug)]
struct Remembered(Store);

impl Memory for Remembered {
    fn load(&self) -> Result<Option<LeaseState>, MemoryError> {
        let bytes = self.0.meta(LEASE).map_err(|error| MemoryError(error.to_string()))?;
        bytes
            .map(|bytes| serde_json::from_slice(&bytes).map_err(|error| MemoryError(error.to_string())))
            .transpose()
    }

    fn save<'a>(&'a self, state: &'a LeaseState) -> BoxedFuture<'a, Result<(), MemoryError>> {
        Box::pin(async move {
            let json = serde_json::to_vec(state).map_err(|error| MemoryError(error.to_string()))?;
            self.0.write(Write::Meta(LEASE, json)).await.map_err(|error| MemoryError(error.to_string()))?;
            Ok(())
        })
    }
}
