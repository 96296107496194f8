//! A node: the parts of this crate wired together, started in order and ended in order.
//!
//! The only way in is a relay. Whoever runs a node (a command line, a test) starts it, listens to its notices, and
//! shuts it down; everything else comes as events.

mod bring;
mod relays;
mod start;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use oa_nips::files::OpError;
use oa_nips::nip05;
use oa_nips::nostr::{PublicKey, RelayUrl};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::manifest::Manifest;
use crate::drivers::nostr::{RelaySpec, SweepConfig};
use crate::engine::running::{Running, Slot};
use crate::engine::shared::{Programs, Shared};
use crate::keyring::{Addresses, Keyring};
use crate::lease::MemoryError;
pub use crate::maintenance::JournalLimits;
use crate::namespace::path::PathError;
use crate::namespace::service::FileService;
use crate::notice::Notice;
use crate::operator::Admin;
use crate::profiles::Place;
use crate::signer::KeyCase;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::write::{AgentChange, Write};
use crate::tenure::{Keeper, Leasing};
use crate::time::Time;
use crate::{money, serve};

/// Names in the document of a domain.
const NAMES_MAX: usize = 10_000;

/// What a node is started with.
#[derive(Debug)]
pub struct Config {
    /// Its relays.
    pub relays: Vec<RelaySpec>,
    /// The relays that agents name as theirs, as others reach them.
    pub published: Vec<RelayUrl>,
    /// The domain at which agents have names (NIP-05); it must answer with [`Node::names`].
    pub domain: Option<String>,
    /// Who may do everything, by the operator protocol.
    pub operators: Vec<PublicKey>,
    /// Who may consent to what any agent asks for.
    pub approvers: Vec<PublicKey>,
    /// Who may see how the node and its agents do.
    pub viewers: Vec<PublicKey>,
    /// How often relays are swept.
    pub sweep: SweepConfig,
    /// An agent that nothing came to for this long sleeps.
    pub dormant_after: Duration,
    /// Hosts that relays named by others may have although they are private.
    pub allow_private: Vec<String>,
    /// Private hosts that agents' requests may reach, each with or without a port, where their manifests allow it too;
    /// nothing else is ever asked without TLS.
    pub http_private: Vec<String>,
    /// How much replay material is kept of ticks that are over.
    pub journals: JournalLimits,
    /// The programs agents can run.
    pub programs: Programs,
    /// Where agents that can move have their keys; without it there are none here.
    pub keys: Option<KeyCase>,
    /// How it keeps the lease of its key; without one it acts as if no other node could have it.
    pub leasing: Option<Leasing>,
    /// Its wallet; without one no agent has an account.
    pub wallet: Option<money::Config>,
    /// What manifests may mount, by its name under `/srv`.
    pub srv: BTreeMap<String, serve::Srv>,
    /// Call files that every agent finds under `/tools`, by name.
    pub tools: Vec<(String, Arc<dyn FileService>)>,
}

impl Config {
    /// Everything by default, on these relays.
    pub fn new(relays: Vec<RelaySpec>) -> Self {
        let published = relays.iter().map(|relay| relay.url.clone()).collect();
        Self {
            relays,
            published,
            domain: None,
            operators: Vec::new(),
            approvers: Vec::new(),
            viewers: Vec::new(),
            sweep: SweepConfig::default(),
            dormant_after: Duration::from_secs(300),
            allow_private: Vec::new(),
            http_private: Vec::new(),
            journals: JournalLimits::default(),
            programs: Programs::default(),
            tools: Vec::new(),
            keys: None,
            leasing: None,
            wallet: None,
            srv: BTreeMap::new(),
        }
    }
}

/// What a node stands on.
#[derive(Debug)]
pub struct Parts {
    /// Its memory.
    pub store: Store,
    /// Its keys, which know the store's agents by the node's [`Addresses`].
    pub keyring: Arc<dyn Keyring>,
    /// Whose keys are whose, shared with the keyring.
    pub addresses: Arc<Addresses>,
    /// The slots of ticks that run, and those that ran when the process last died.
    pub running: (Running, Vec<Slot>),
    /// The clock.
    pub time: Arc<dyn Time>,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Lease(#[from] MemoryError),
    #[error("no relay is configured")]
    NoRelay,
    #[error("{name:?} cannot name a tool")]
    Tool { name: String, source: PathError },
    #[error("the store does not answer")]
    Store(#[from] BackendError),
    #[error("this store belongs to another node: it was made with {stored}, the seed gives {ours}")]
    OtherNode { stored: String, ours: String },
}

/// A node that runs. Dropping it tells all of it to end; [`Node::shutdown`] does so in order, and waits.
#[derive(Debug)]
pub struct Node {
    admin: Arc<Admin>,
    keeper: Keeper,
    ends: Ends,
    tasks: Tasks,
    /// Changes when agents come and go.
    population: watch::Receiver<u64>,
}

/// What ends the parts of a node; dropped, it ends them all.
#[derive(Debug, Default)]
struct Ends {
    /// Ends what brings new work: alarms, publishing, forgetting.
    bringing: CancellationToken,
    /// Ends ticks.
    ticking: CancellationToken,
    /// Ends deliveries.
    delivering: CancellationToken,
    /// Ends taking mail in. The pool cannot: it has a sender of its own for as long as anybody publishes through it.
    hearing: CancellationToken,
    /// Is ended by mail that cannot be taken in any more.
    deaf: CancellationToken,
}

impl Drop for Ends {
    fn drop(&mut self) {
        for end in [&self.bringing, &self.ticking, &self.delivering, &self.hearing] {
            end.cancel();
        }
    }
}

#[derive(Debug)]
struct Tasks {
    bringers: Vec<JoinHandle<()>>,
    engine: JoinHandle<()>,
    outbox: JoinHandle<()>,
    mailin: JoinHandle<()>,
    operator: JoinHandle<()>,
}

impl Node {
    /// The node's own address.
    pub fn public_key(&self) -> PublicKey {
        self.admin.shared.keyring.node().public_key()
    }

    /// Adds a line to the node's log, which operators read at `/node/log`; it keeps the newest megabyte.
    pub fn log(&self, line: &str) {
        self.admin.shared.feeds.log().push_line(line);
    }

    /// What happens from now on.
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.admin.shared.notices.listen()
    }

    /// Waits until so many relays are connected and subscribed, or the deadline; answers how many are.
    pub async fn ready(&self, at_least: usize, deadline: Duration) -> usize {
        self.admin.pool.ready(at_least, deadline).await
    }

    /// Waits until the node may act under its key, or the deadline; answers why it may not.
    pub async fn held(&self, deadline: Duration) -> Option<String> {
        let mut tenure = self.admin.shared.tenure.clone();
        if tenure.held(deadline).await { None } else { tenure.why() }
    }

    /// The agents there are: name and address.
    ///
    /// # Errors
    /// What the store said.
    pub fn agents(&self) -> Result<Vec<(String, PublicKey)>, BackendError> {
        let store = &self.admin.shared.store;
        let mut agents = Vec::new();
        for (name, id) in store.names(usize::MAX)? {
            if let Some(row) = store.agent(id)? {
                agents.push((name, row.pubkey));
            }
        }
        Ok(agents)
    }

    /// Tells when agents have come or gone.
    pub fn population(&self) -> watch::Receiver<u64> {
        self.population.clone()
    }

    /// The document of the agents' names at the node's domain (NIP-05), if it has one: of the first 10,000 that want to
    /// be found.
    ///
    /// # Errors
    /// What the store said.
    pub fn names(&self) -> Result<Option<String>, BackendError> {
        let Place { relays, domain: Some(_) } = &self.admin.creator.place else { return Ok(None) };
        let Shared { store, manifests, .. } = &*self.admin.shared;
        let mut names = BTreeMap::new();
        for (name, id) in store.names(NAMES_MAX)? {
            let Some(row) = store.agent(id)? else { continue };
            if manifests.get(store, id, row.version)?.profile.publish {
                names.insert(name, row.pubkey);
            }
        }
        Ok(Some(nip05::document(&names, relays)))
    }

    /// Creates the agent of a manifest, unless there is one of that name.
    ///
    /// # Errors
    /// What the store said.
    pub async fn ensure_agent(&self, manifest: Manifest) -> Result<PublicKey, OpError> {
        if let Ok(row) = self.admin.named(&manifest.name) {
            return Ok(row.pubkey);
        }
        self.admin.create(manifest).await.map(|(_, pubkey)| pubkey)
    }

    /// Opens the claim of an agent that has no owner, and answers the code; nothing for one that has.
    ///
    /// # Errors
    /// When there is no such agent, or the store fails.
    pub async fn open_claim(&self, name: &str) -> Result<Option<String>, OpError> {
        let row = self.admin.named(name)?;
        if row.owner.is_some() {
            return Ok(None);
        }
        let (code, claim) = serve::claim(self.admin.shared.time.now_ms());
        self.admin.shared.store.write(Write::ChangeAgent(row.id, AgentChange::Claim(claim))).await?;
        Ok(Some(code))
    }

    /// Makes somebody the owner of an agent.
    ///
    /// # Errors
    /// When there is no such agent, or the store fails.
    pub async fn set_owner(&self, name: &str, owner: PublicKey) -> Result<(), OpError> {
        let row = self.admin.named(name)?;
        if row.owner != Some(owner) {
            self.admin
                .shared
                .store
                .write(Write::ChangeAgent(row.id, AgentChange::Owner(Some(owner))))
                .await?;
        }
        Ok(())
    }

    /// What answers operators.
    #[cfg(test)]
    pub(crate) fn admin(&self) -> Arc<Admin> {
        self.admin.clone()
    }

    /// Ends when the node cannot go on: its store failed, or mail can no longer be taken in.
    pub async fn failed(&self) {
        tokio::select! {
            () = self.admin.shared.store.stopped() => {}
            () = self.ends.deaf.cancelled() => {}
        }
    }

    /// Ends gracefully. The order: first what brings new work, then ticks (those that run may commit), then
    /// deliveries (what is on its way may be answered), then the lease, then the sockets, with which mail and operator requests end,
    /// last the store.
    pub async fn shutdown(self) {
        let Self { admin, keeper, ends, tasks, .. } = self;
        ends.bringing.cancel();
        for task in tasks.bringers {
            ended("background work", task).await;
        }
        ends.ticking.cancel();
        ended("engine", tasks.engine).await;
        ends.delivering.cancel();
        ended("outbox", tasks.outbox).await;
        admin.shared.tenure.release_own().await;
        keeper.release().await;
        admin.pool.shutdown().await;
        ends.hearing.cancel();
        ended("mail in", tasks.mailin).await;
        ended("operator server", tasks.operator).await;
        admin.shared.store.close().await;
    }
}

async fn ended(name: &str, task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(name, %error, "ended badly");
    }
}
