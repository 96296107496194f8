//! The file servers: one for every file of an agent's tree and of the node's.
//!
//! A server is made once and serves all agents; whose tree it is comes with the call. `mounts` is the tree that
//! every agent has; a manifest can take from it and add what operators have put under `/srv`.

mod about;
mod approvals;
mod bundle;
mod bunker;
mod children;
mod config;
mod creator;
mod ctl;
mod export;
mod file;
mod find;
#[cfg(test)]
pub(crate) mod fixture;
mod http;
mod hud;
mod identity;
mod kept;
mod letters;
mod mail;
mod metrics;
mod new;
mod node;
mod nostr;
mod peers;
mod plumbing;
mod powers;
mod program;
mod secrets;
mod srv;
mod state;
mod streams;
mod task;
mod wallet;
mod ws;

use std::collections::BTreeMap;
use std::sync::Arc;

use oa_nips::nostr::RelayUrl;
use oa_nips::port::Subscribe;

use crate::approvals::Index;
use crate::discovery::Finder;
use crate::drivers::http::Client;
use crate::elsewhere::Reach;
use crate::feeds::Feeds;
use crate::keyring::Keyring;
use crate::money::Money;
use crate::namespace::mount::Mounts;
use crate::namespace::path::Path;
use crate::namespace::service::FileType;
use crate::operator::Roles;
use crate::outbox::Directory;
use crate::sockets::Sockets;
use crate::store::Store;
use crate::subscriptions::Subscriptions;
use crate::time::Time;

pub(crate) use approvals::Approvals;
pub(crate) use config::shown;
pub(crate) use creator::Creator;
pub(crate) use ctl::claim;
pub(crate) use file::OneFile;
pub(crate) use http::Door;
pub(crate) use node::node_mounts;
pub(crate) use srv::Mounted;
pub use srv::Srv;
pub(crate) use state::StateFolder;
pub(crate) use task::begin as begin_task;
pub(crate) use wallet::may_use as may_use_wallet;

/// What file servers stand on.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) store: Store,
    /// What waits for consent.
    pub(crate) wishes: Arc<Index>,
    pub(crate) time: Arc<dyn Time>,
    /// The node's own relays.
    pub(crate) relays: Arc<[String]>,
    pub(crate) roles: Roles,
    /// What operators let manifests mount.
    pub(crate) srv: Arc<BTreeMap<String, Srv>>,
    /// Who signs for agents.
    pub(crate) keyring: Arc<dyn Keyring>,
    /// How bunkers that have agents' keys are reached.
    pub(crate) reach: Reach,
    /// Who asks relays.
    pub(crate) subscribe: Arc<dyn Subscribe>,
    /// The node's own relays, as they are asked.
    pub(crate) own: Arc<[RelayUrl]>,
    /// Who asks other hosts.
    pub(crate) http: Arc<Client>,
    /// The websockets that agents keep open.
    pub(crate) sockets: Arc<Sockets>,
    /// Who finds other agents.
    pub(crate) finder: Arc<Finder>,
    /// What is remembered of people.
    pub(crate) directory: Arc<Directory>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    /// The accounts, where the node has a wallet.
    pub(crate) money: Option<Money>,
    /// What happens.
    pub(crate) feeds: Arc<Feeds>,
    /// How the node was started.
    pub(crate) config: Arc<serde_json::Value>,
}

/// A path that is written in this program.
pub(crate) fn at(path: &'static str) -> Path {
    path.parse().expect("paths of this program are paths")
}

/// The tree of every agent.
pub(crate) fn mounts(parts: &Parts, creator: &Arc<Creator>) -> Mounts {
    let mut mounts = own_files();
    about::mount(&mut mounts, parts);
    ctl::mount(&mut mounts, parts, creator);
    program::mount(&mut mounts, creator);
    bundle::mount(&mut mounts, parts);
    bunker::mount(&mut mounts, parts, creator);
    kept::mount(&mut mounts, parts);
    mail::mount(&mut mounts, parts);
    letters::mount(&mut mounts, parts);
    peers::mount(&mut mounts, parts);
    find::mount(&mut mounts, parts, "/peers/find");
    children::mount(&mut mounts, parts, creator);
    task::mount(&mut mounts, parts);
    export::mount(&mut mounts);
    streams::mount(&mut mounts, parts);
    metrics::mount(&mut mounts, parts);
    hud::mount(&mut mounts, creator);
    identity::mount(&mut mounts, parts);
    nostr::mount(&mut mounts, parts, creator);
    http::mount(&mut mounts, parts);
    ws::mount(&mut mounts, parts);
    wallet::mount(&mut mounts, parts);
    mounts.mount(at("/approvals"), Arc::new(Approvals::new(parts)), "consent");
    mounts
}

/// The agent's own files.
pub(crate) fn own_files() -> Mounts {
    let mut mounts = Mounts::default();
    mounts.mount(at("/memory"), Arc::new(StateFolder::new(at("/memory"))), "state");
    mounts.mount(at("/tmp"), Arc::new(StateFolder::new(at("/tmp"))), "scratch");
    let goals = StateFolder::checked(at("/goals"), state::check_goal);
    mounts.mount(at("/goals"), Arc::new(goals), "state");
    let schedule = StateFolder::checked(at("/schedule"), state::check_alarm);
    mounts.mount(at("/schedule"), Arc::new(schedule), "alarms");
    let reply = OneFile::append(|_, _| Box::pin(async { Ok(Default::default()) })).fixed();
    mounts.mount_file(at("/reply"), FileType::Append, Arc::new(reply), "reply");
    mounts
}
