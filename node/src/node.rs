//! A node: the parts of this crate wired together, started in order and ended in order.
//!
//! The only way in is a relay. Whoever runs a node (a command line, a test) starts it, listens to its notices, and
//! shuts it down; everything else comes as events.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use oa_nips::files::OpError;
use oa_nips::kind;
use oa_nips::nip05;
use oa_nips::nostr::{Event, EventId, Filter, PublicKey, RelayUrl, Timestamp};
use oa_nips::port::Signer;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::AgentId;
use crate::agent::manifest::Manifest;
use crate::bundle::restoring::{self, Restoring};
use crate::bunker::{book, desk, message};
use crate::discovery::Finder;
use crate::drivers::http::Client;
use crate::elsewhere::{self, Reach};
use crate::drivers::nostr::{self as pool, Pool, RelaySpec, SweepConfig};
use crate::engine::hooks::Hooks;
use crate::engine::running::{Running, Slot};
use crate::engine::shared::{Manifests, Programs, Shared};
use crate::engine::turns::Turns;
use crate::feeds::Feeds;
use crate::keyring::{Addresses, Keyring};
use crate::lease::MemoryError;
pub use crate::maintenance::JournalLimits;
use crate::money::{self, Money};
use crate::namespace::Path;
use crate::namespace::path::PathError;
use crate::namespace::service::{FileService, FileType};
use crate::notice::{Notice, Notices};
use crate::operator::{Admin, Door, Herald, Roles, Server};
use crate::outbox::{Carrier, Directory};
use crate::plumber::Plumber;
use crate::profiles::Place;
use crate::signer::KeyCase;
use crate::secrets::Vault;
use crate::sockets::{self, Sockets};
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::write::{AgentChange, Write};
use crate::subscriptions::{self, Subscriptions};
use crate::tenure::own::Landlord;
use crate::tenure::{self, Keeper, Leasing};
use crate::time::Time;
use crate::workspace::{self, Workspaces};
use crate::{
    alarms, approvals, engine, feeds, mailin, maintenance, operator, outbox, profiles, publisher, serve,
};

/// Events from the pool that wait to be opened; when it is full the sockets wait.
const INCOMING: usize = 1024;
/// Names in the document of a domain.
const NAMES_MAX: usize = 10_000;
/// A standing subscription looks this far back: clocks differ, and requests are valid for a minute.
const REQUESTS_SINCE_S: u64 = 60;

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
    /// Starts a node. Mail that waits begins to be worked through at once.
    ///
    /// # Errors
    /// When the configuration cannot work, or the store does not answer or is another node's.
    pub async fn start(config: Config, parts: Parts) -> Result<Self, StartError> {
        let Parts { store, keyring, addresses, running: (running, ran), time } = parts;
        let own: Vec<RelayUrl> = config.relays.iter().map(|relay| relay.url.clone()).collect();
        if own.is_empty() {
            return Err(StartError::NoRelay);
        }
        own_store(&store, &keyring.node().public_key(), time.now_ms()).await?;
        addresses.add(keyring.node().public_key(), AgentId::NODE);
        let (incoming, heard) = mpsc::channel(INCOMING);
        let ledger = Arc::new(Handled(store.clone(), time.clone()));
        let pool = start_pool(&config, ledger, &keyring, addresses.keys(), incoming.clone());
        let (tenure, keeper) = tenure::start(config.leasing.clone(), &pool, &keyring, &store, &time)?;
        let feeds = Arc::new(Feeds::new(store.clone(), time.clone()));
        let notices = Notices::new(feeds.clone());
        let directory = Arc::new(Directory::new(Arc::new(pool.clone()), own.clone()));
        let ends = Ends::default();
        let carrier = Carrier {
            store: store.clone(),
            keyring: keyring.clone(),
            publish: Arc::new(pool.clone()),
            directory: directory.clone(),
            own: own.clone(),
            notices: notices.clone(),
            feeds: feeds.clone(),
            time: time.clone(),
            tenure: tenure.clone(),
        };
        let (outbox, outbox_task) = outbox::start(carrier, ends.delivering.clone());
        let relays = own.iter().map(ToString::to_string).collect();
        let roles = Roles {
            operators: config.operators.iter().copied().collect(),
            approvers: config.approvers.iter().copied().collect(),
            viewers: config.viewers.iter().copied().collect(),
        };
        let wishes = Arc::new(approvals::Index::load(&store)?);
        let freezer = approvals::Freezer {
            wishes: wishes.clone(),
            keyring: keyring.clone(),
            approvers: config.approvers.clone(),
            time: time.clone(),
            fx: config.wallet.as_ref().and_then(money::Config::fx),
        };
        let (subscriptions, subscribed) =
            Subscriptions::new(store.clone(), Arc::new(pool.clone()), time.clone());
        let connect = |wallet| Money::connect(wallet, &pool, store.clone(), time.clone());
        let money = config.wallet.as_ref().map(connect);
        let reach = Reach {
            keyring: keyring.clone(),
            case: config.keys.clone().map(Arc::new),
            tenure: tenure.clone(),
            time: time.clone(),
            back: Arc::default(),
        };
        reach.adopt_all(&store)?;
        let http = Arc::new(Client::of_node(&config.http_private));
        let finder = Finder::new(Arc::new(pool.clone()), own.clone().into(), http.clone(), time.clone());
        let vault = Vault::new(store.clone(), keyring.clone());
        let (sockets, arriving) =
            Sockets::new(store.clone(), http.clone(), vault, tenure.clone(), time.clone());
        let parts = serve::Parts {
            sockets: sockets.clone(),
            money: money.clone(),
            wishes: wishes.clone(),
            store: store.clone(),
            time: time.clone(),
            relays,
            roles: roles.clone(),
            srv: Arc::new(config.srv.clone()),
            keyring: keyring.clone(),
            reach: reach.clone(),
            subscribe: Arc::new(pool.clone()),
            own: own.clone().into(),
            finder: Arc::new(finder),
            http,
            directory: directory.clone(),
            subscriptions: subscriptions.clone(),
            feeds: feeds.clone(),
            config: serve::shown(&config),
        };
        let place = Place { relays: config.published.clone(), domain: config.domain.clone() };
        let creator = serve::Creator::new(&store, keyring.clone(), config.programs.clone(), place.clone())?;
        let creator = Arc::new(creator);
        let mut every = serve::mounts(&parts, &creator);
        for (name, tool) in config.tools {
            let at = Path::root().join("tools").and_then(|tools| tools.join(&name));
            let at = at.map_err(|reason| StartError::Tool { name, source: reason })?;
            every.mount_file(at, FileType::Call, tool, "tool");
        }
        let mounted = Arc::new(serve::Mounted::new(every, (*parts.srv).clone()));
        creator.set_mounted(&mounted);
        let manifests = Arc::new(Manifests::default());
        let plumber = Arc::new(Plumber::new(store.clone(), keyring.clone(), manifests.clone()));
        let shared = Arc::new(Shared {
            store,
            keyring,
            time,
            notices,
            feeds: feeds.clone(),
            directory,
            outbox,
            running,
            mounts: mounted,
            turns: Turns::default(),
            hooks: Hooks::new(wishes.clone()),
            wishes,
            consent: Arc::new(freezer),
            roles: roles.clone(),
            tenure: tenure.clone(),
            manifests,
            plumber: plumber.clone(),
            programs: config.programs,
        });
        engine::count_crashes(&shared, ran).await?;
        let (engine, engine_task) = engine::start(shared.clone(), config.dormant_after, ends.ticking.clone());
        for agent in shared.store.agents_with_mail()? {
            engine.arrived(agent).await;
        }
        let (requests, asked) = Door::new(shared.store.clone(), shared.manifests.clone(), roles.clone());
        let (to_bunker, asked_of_bunker) = mpsc::channel(desk::WAITING);
        let (queues, left) = (Arc::new(OnceLock::new()), Arc::new(Notify::new()));
        let mail = mailin::MailIn {
            shared: shared.clone(),
            engine: engine.clone(),
            requests,
            queues: queues.clone(),
            subscriptions: subscriptions.clone(),
            bunker: to_bunker,
            left: left.clone(),
            relays: own.clone(),
            lease: keeper.heard.clone(),
            ended: ends.hearing.clone(),
            deaf: ends.deaf.clone(),
        };
        let mailin = mailin::start(mail, heard);
        let mut bringers = vec![
            alarms::start(shared.clone(), engine.clone(), ends.bringing.clone()),
            publisher::start(shared.clone(), ends.bringing.clone()),
            maintenance::start(shared.clone(), config.journals, ends.bringing.clone()),
        ];
        bringers.extend(config.leasing.map(|leasing| {
            let landlord = Landlord {
                leasing,
                pool: pool.clone(),
                keyring: shared.keyring.clone(),
                store: shared.store.clone(),
                time: shared.time.clone(),
                tenure: shared.tenure.clone(),
            };
            landlord.start(ends.bringing.clone())
        }));
        bringers.push(elsewhere::start(shared.clone(), reach.back, left.clone(), ends.bringing.clone()));
        bringers.push(mailin::catch_up(left, tenure, pool.clone(), ends.bringing.clone()));
        bringers.push(start_bunker(&pool, &shared, &own, asked_of_bunker, &ends).await?);
        bringers.extend(money.map(|money| money::start(money, &shared, ends.bringing.clone())));
        listen_to_operators(&pool, &shared);
        let restoring = Restoring {
            shared: shared.clone(),
            subscribe: Arc::new(pool.clone()),
            relays: own.clone(),
            incoming,
        };
        bringers.push(restoring::start(restoring, ends.bringing.clone()));
        let shower = feeds::Publisher {
            feeds: feeds.clone(),
            keyring: shared.keyring.clone(),
            publish: Arc::new(pool.clone()),
            relays: own.clone(),
            tenure: shared.tenure.clone(),
        };
        bringers.push(feeds::publish(shower, ends.bringing.clone()));
        bringers.push(profiles::start(shared.clone(), place, ends.bringing.clone()));
        let kick = Arc::new(Notify::new());
        bringers.push(approvals::start(shared.clone(), kick.clone(), ends.bringing.clone()));
        let (waker, ending) = (subscriptions.clone(), ends.bringing.clone());
        bringers.push(subscriptions::start(waker, plumber, engine.clone(), subscribed, ending));
        let (told, population) = watch::channel(0);
        let folders = config.srv.iter().filter_map(|(name, srv)| Some((name.clone(), srv.folder.clone()?)));
        let workspaces = Workspaces::new(
            shared.store.clone(),
            shared.time.clone(),
            shared.tenure.clone(),
            folders.collect(),
        );
        let waked = engine.clone();
        let arrived = move |agent| waked.arrived_soon(agent);
        bringers.push(workspace::start(workspaces.clone(), arrived, ends.bringing.clone()));
        let waked = engine.clone();
        let arrived = move |agent| waked.arrived_soon(agent);
        bringers.push(sockets::start(sockets.clone(), arriving, arrived, ends.bringing.clone()));
        let herald = Herald {
            told,
            sockets,
            workspaces,
            engine,
            feeds,
            pool: pool.clone(),
            addresses,
            approvals: kick,
            subscriptions,
        };
        shared.hooks.set(Box::new(herald));
        let me = shared.keyring.node().public_key();
        let mounts = serve::node_mounts(&parts, &creator, &pool, me);
        let admin = Arc::new(Admin { shared, pool: pool.clone(), creator, mounts, roles });
        let server = Server::new(admin.clone(), Arc::new(pool));
        let (commands, operator) = operator::start(server, asked)?;
        let _ = queues.set(commands);
        let tasks = Tasks { bringers, engine: engine_task, outbox: outbox_task, mailin, operator };
        Ok(Self { admin, keeper, ends, tasks, population })
    }

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

fn start_pool(
    config: &Config,
    ledger: Arc<Handled>,
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
    Pool::start(pool_config, keys, Some(ledger), incoming)
}

/// Serves agents' keys to those whom their owners invited.
async fn start_bunker(
    pool: &Pool,
    shared: &Shared,
    relays: &[RelayUrl],
    asked: mpsc::Receiver<Event>,
    ends: &Ends,
) -> Result<JoinHandle<()>, BackendError> {
    for gone in book::leftovers(&shared.store)? {
        shared.store.write(Write::Row(gone)).await?;
    }
    let since = Timestamp::from_secs((shared.time.now_ms() / 1000).saturating_sub(REQUESTS_SINCE_S));
    let me = shared.keyring.node().public_key();
    pool.stand("bunker", Filter::new().kind(message::KIND).pubkey(me).since(since));
    let desk = desk::Desk {
        store: shared.store.clone(),
        keyring: shared.keyring.clone(),
        publish: Arc::new(pool.clone()),
        relays: relays.to_vec(),
        tenure: shared.tenure.clone(),
        time: shared.time.clone(),
    };
    Ok(desk::start(desk, asked, ends.bringing.clone()))
}

fn listen_to_operators(pool: &Pool, shared: &Shared) {
    let since = Timestamp::from_secs((shared.time.now_ms() / 1000).saturating_sub(REQUESTS_SINCE_S));
    let me = shared.keyring.node().public_key();
    pool.stand("op", Filter::new().kind(kind::FILES_REQUEST).pubkey(me).since(since));
}

/// The fact in the store: when it was made, in seconds since 1970. A relay never swept is swept from there.
const BORN: &str = "born";

/// A store belongs to the node that made it: its agents' keys come from that node's seed.
async fn own_store(store: &Store, me: &PublicKey, now_ms: u64) -> Result<(), StartError> {
    let mailbox = Write::Node(*me, now_ms);
    match store.meta("node")? {
        Some(stored) if stored != me.to_hex().into_bytes() => Err(StartError::OtherNode {
            stored: String::from_utf8_lossy(&stored).into_owned(),
            ours: me.to_hex(),
        }),
        Some(_) => {
            // Stores of the first release have none.
            if store.agent(AgentId::NODE)?.is_none() {
                store.write(mailbox).await?;
            }
            Ok(())
        }
        None => {
            let born = serde_json::to_vec(&(now_ms / 1000)).unwrap_or_default();
            let node = Write::Meta("node", me.to_hex().into_bytes());
            store.commit(vec![mailbox, node, Write::Meta(BORN, born)]).await?;
            Ok(())
        }
    }
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
struct Handled(Store, Arc<dyn Time>);

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
