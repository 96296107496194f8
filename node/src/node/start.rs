//! How a node comes to be, in the order in which its parts need one another.

use std::sync::{Arc, OnceLock};

use oa_nips::nostr::{Event, PublicKey, RelayUrl};
use tokio::sync::{Notify, mpsc, watch};

use super::bring::Bringing;
use super::relays::{self, BORN, Handled};
use super::{Config, Ends, Node, Parts, StartError, Tasks};
use crate::agent::AgentId;
use crate::bunker::desk;
use crate::discovery::Finder;
use crate::drivers::http::Client;
use crate::drivers::nostr::Pool;
use crate::elsewhere::Reach;
use crate::engine::hooks::Hooks;
use crate::engine::running::Running;
use crate::engine::shared::{Manifests, Shared};
use crate::engine::turns::Turns;
use crate::engine::{self};
use crate::feeds::Feeds;
use crate::keyring::Keyring;
use crate::mailin::{self, MailIn};
use crate::money::Money;
use crate::namespace::Path;
use crate::namespace::service::FileType;
use crate::notice::Notices;
use crate::operator::{self, Admin, Door, Herald, Roles, Server};
use crate::outbox::{self, Carrier, Directory, Outbox};
use crate::plumber::Plumber;
use crate::profiles::Place;
use crate::secrets::Vault;
use crate::sockets::{Arrivals, Sockets};
use crate::store::Store;
use crate::store::write::Write;
use crate::subscriptions::Subscriptions;
use crate::tenure::{self, Tenure};
use crate::time::Time;
use crate::workspace::Workspaces;
use crate::{approvals, serve};

/// Events from the pool that wait to be opened; when it is full the sockets wait.
const INCOMING: usize = 1024;

/// What agents asked to hear of, on its way to them.
#[derive(Debug)]
pub(super) struct Ears {
    /// Events that are subscribed to.
    pub(super) subscribed: mpsc::Receiver<Event>,
    /// Messages of websockets.
    pub(super) arriving: Arrivals,
}

impl Node {
    /// Starts a node. Mail that waits begins to be worked through at once.
    ///
    /// # Errors
    /// When the configuration cannot work, or the store does not answer or is another node's.
    pub async fn start(config: Config, parts: Parts) -> Result<Self, StartError> {
        let Parts { store, keyring, addresses, running: (running, ran), time } = parts;
        if config.relays.is_empty() {
            return Err(StartError::NoRelay);
        }
        let me = keyring.node().public_key();
        own_store(&store, &me, time.now_ms()).await?;
        addresses.add(me, AgentId::NODE);
        let (incoming, heard) = mpsc::channel(INCOMING);
        let handled = Handled(store.clone(), time.clone());
        let pool = relays::start(&config, handled, &keyring, addresses.keys(), incoming.clone());
        let (tenure, keeper) = tenure::start(config.leasing.clone(), &pool, &keyring, &store, &time)?;
        let ends = Ends::default();
        let (parts, ears) = services(&config, &pool, &tenure, (store, keyring, time))?;
        let notices = Notices::new(parts.feeds.clone());
        let carrier = carrier(&parts, &pool, &tenure, &notices);
        let (outbox, outbox_task) = outbox::start(carrier, ends.delivering.clone());
        let (creator, mounted) = tree(&config, &parts)?;
        let shared = shared(&config, &parts, mounted, notices, (outbox, running));
        engine::count_crashes(&shared, ran).await?;
        let (engine, engine_task) = engine::start(shared.clone(), config.dormant_after, ends.ticking.clone());
        for agent in shared.store.agents_with_mail()? {
            engine.arrived(agent).await;
        }
        let (store, manifests) = (shared.store.clone(), shared.manifests.clone());
        let (requests, asked) = Door::new(store, manifests, parts.roles.clone());
        let (bunker, asked_of_bunker) = mpsc::channel(desk::WAITING);
        let (queues, left) = (Arc::new(OnceLock::new()), Arc::new(Notify::new()));
        let mail = MailIn {
            shared: shared.clone(),
            engine: engine.clone(),
            requests,
            queues: queues.clone(),
            subscriptions: parts.subscriptions.clone(),
            bunker,
            left: left.clone(),
            relays: parts.own.to_vec(),
            lease: keeper.heard.clone(),
            ended: ends.hearing.clone(),
            deaf: ends.deaf.clone(),
        };
        let mailin = mailin::start(mail, heard);
        let (told, population) = watch::channel(0);
        let folders = config.srv.iter().filter_map(|(name, srv)| Some((name.clone(), srv.folder.clone()?)));
        let (store, time) = (shared.store.clone(), shared.time.clone());
        let workspaces = Workspaces::new(store, time, shared.tenure.clone(), folders.collect());
        let herald = Herald {
            told,
            sockets: parts.sockets.clone(),
            workspaces: workspaces.clone(),
            engine: engine.clone(),
            feeds: parts.feeds.clone(),
            pool: pool.clone(),
            addresses,
            approvals: Arc::new(Notify::new()),
            subscriptions: parts.subscriptions.clone(),
        };
        let bringing = Bringing {
            config: &config,
            pool: &pool,
            parts: &parts,
            shared: &shared,
            engine: &engine,
            cancel: &ends.bringing,
        };
        let mut bringers = bringing.of_the_node(herald.approvals.clone(), left, incoming);
        bringers.extend(bringing.of_agents(ears, workspaces));
        bringers.push(bringing.bunker(asked_of_bunker).await?);
        shared.hooks.set(Box::new(herald));
        relays::listen_to_operators(&pool, &shared);
        let mounts = serve::node_mounts(&parts, &creator, &pool, me);
        let admin = Arc::new(Admin { shared, pool: pool.clone(), creator, mounts, roles: parts.roles });
        let server = Server::new(admin.clone(), Arc::new(pool));
        let (commands, operator) = operator::start(server, asked)?;
        let _ = queues.set(commands);
        let tasks = Tasks { bringers, engine: engine_task, outbox: outbox_task, mailin, operator };
        Ok(Self { admin, keeper, ends, tasks, population })
    }
}

/// What file servers stand on.
fn services(
    config: &Config,
    pool: &Pool,
    tenure: &Tenure,
    (store, keyring, time): (Store, Arc<dyn Keyring>, Arc<dyn Time>),
) -> Result<(serve::Parts, Ears), StartError> {
    let own: Vec<RelayUrl> = config.relays.iter().map(|relay| relay.url.clone()).collect();
    let port = Arc::new(pool.clone());
    let http = Arc::new(Client::of_node(&config.http_private));
    let reach = Reach {
        keyring: keyring.clone(),
        case: config.keys.clone().map(Arc::new),
        tenure: tenure.clone(),
        time: time.clone(),
        back: Arc::default(),
    };
    reach.adopt_all(&store)?;
    let (subscriptions, subscribed) = Subscriptions::new(store.clone(), port.clone(), time.clone());
    let vault = Vault::new(store.clone(), keyring.clone());
    let (sockets, arriving) = Sockets::new(store.clone(), http.clone(), vault, tenure.clone(), time.clone());
    let connect = |wallet| Money::connect(wallet, pool, &http, store.clone(), time.clone());
    let parts = serve::Parts {
        sockets,
        money: config.wallet.as_ref().map(connect),
        wishes: Arc::new(approvals::Index::load(&store)?),
        relays: own.iter().map(ToString::to_string).collect(),
        roles: Roles {
            operators: config.operators.iter().copied().collect(),
            approvers: config.approvers.iter().copied().collect(),
            viewers: config.viewers.iter().copied().collect(),
        },
        srv: Arc::new(config.srv.clone()),
        reach,
        subscribe: port.clone(),
        finder: Arc::new(Finder::new(
            port.clone(),
            own.clone().into(),
            http.clone(),
            store.clone(),
            time.clone(),
        )),
        http,
        directory: Arc::new(Directory::new(port, own.clone())),
        own: own.into(),
        subscriptions,
        feeds: Arc::new(Feeds::new(store.clone(), time.clone())),
        config: serve::shown(config),
        store,
        keyring,
        time,
    };
    Ok((parts, Ears { subscribed, arriving }))
}

fn carrier(parts: &serve::Parts, pool: &Pool, tenure: &Tenure, notices: &Notices) -> Carrier {
    Carrier {
        store: parts.store.clone(),
        keyring: parts.keyring.clone(),
        publish: Arc::new(pool.clone()),
        directory: parts.directory.clone(),
        own: parts.own.to_vec(),
        notices: notices.clone(),
        feeds: parts.feeds.clone(),
        time: parts.time.clone(),
        tenure: tenure.clone(),
    }
}

/// The trees of agents, and who makes new ones.
fn tree(
    config: &Config,
    parts: &serve::Parts,
) -> Result<(Arc<serve::Creator>, Arc<serve::Mounted>), StartError> {
    let (keyring, programs) = (parts.keyring.clone(), config.programs.clone());
    let creator = Arc::new(serve::Creator::new(&parts.store, keyring, programs, place(config))?);
    let mut every = serve::mounts(parts, &creator);
    for (name, tool) in &config.tools {
        let at = Path::root().join("tools").and_then(|tools| tools.join(name));
        let at = at.map_err(|reason| StartError::Tool { name: name.clone(), source: reason })?;
        every.mount_file(at, FileType::Call, tool.clone(), "tool");
    }
    let mounted = Arc::new(serve::Mounted::new(every, (*parts.srv).clone()));
    creator.set_mounted(&mounted);
    Ok((creator, mounted))
}

/// Where agents say that they are.
pub(super) fn place(config: &Config) -> Place {
    Place { relays: config.published.clone(), domain: config.domain.clone() }
}

fn shared(
    config: &Config,
    parts: &serve::Parts,
    mounts: Arc<serve::Mounted>,
    notices: Notices,
    (outbox, running): (Outbox, Running),
) -> Arc<Shared> {
    let freezer = approvals::Freezer {
        wishes: parts.wishes.clone(),
        keyring: parts.keyring.clone(),
        approvers: config.approvers.clone(),
        time: parts.time.clone(),
        money: parts.money.clone(),
    };
    let manifests = Arc::new(Manifests::default());
    Arc::new(Shared {
        store: parts.store.clone(),
        decided: parts.store.as_decided(),
        keyring: parts.keyring.clone(),
        time: parts.time.clone(),
        notices,
        feeds: parts.feeds.clone(),
        directory: parts.directory.clone(),
        outbox,
        running,
        mounts,
        turns: Turns::default(),
        hooks: Hooks::new(parts.wishes.clone()),
        wishes: parts.wishes.clone(),
        consent: Arc::new(freezer),
        roles: parts.roles.clone(),
        tenure: parts.reach.tenure.clone(),
        plumber: Arc::new(Plumber::new(parts.store.clone(), parts.keyring.clone(), manifests.clone())),
        manifests,
        programs: config.programs.clone(),
    })
}

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
