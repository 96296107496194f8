//! What the parts of a node are told when agents come, go, and have something to do; and the node's own wishes.

use std::sync::Arc;

use oa_nips::files::{Code, OpError};
use oa_nips::nostr::PublicKey;
use tokio::sync::{Notify, watch};

use crate::agent::manifest::Manifest;
use crate::agent::{AgentId, Lifecycle};
use crate::drivers::nostr::Pool;
use crate::engine::Engine;
use crate::engine::hooks::{After, Told};
use crate::engine::shared::Shared;
use crate::feeds::Feeds;
use crate::keyring::Addresses;
use crate::namespace::mount::Mounts;
use crate::operator::roles::Roles;
use crate::serve::Creator;
use crate::sockets::Sockets;
use crate::store::row::AgentRow;
use crate::store::write::Verdict;
use crate::subscriptions::Subscriptions;
use crate::workspace::Workspaces;

/// What answers operators.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    pub(crate) creator: Arc<Creator>,
    /// The node's own tree; agents' trees are [`Shared::mounts`].
    pub(crate) mounts: Mounts,
    pub(crate) roles: Roles,
}

impl Admin {
    /// Creates an agent that the node itself wants.
    pub(crate) async fn create(&self, manifest: Manifest) -> Result<(AgentId, PublicKey), OpError> {
        self.creator.check(&manifest).map_err(|reason| OpError::new(Code::InvalidInput, reason))?;
        let name = manifest.name.clone();
        let (id, pubkey, write) = self.creator.create(manifest, self.shared.time.now_ms());
        let unit = vec![write];
        let after = After::of(&unit);
        let verdicts = self.shared.store.commit(unit).await?;
        if verdicts.iter().any(Verdict::stops_unit) {
            return Err(OpError::new(Code::Exists, format!("there is an agent named {name} already")));
        }
        self.shared.hooks.landed(after, &verdicts, &self.shared.outbox);
        Ok((id, pubkey))
    }

    /// The agent of a name.
    pub(crate) fn named(&self, name: &str) -> Result<AgentRow, OpError> {
        let none = || OpError::new(Code::NotFound, format!("there is no agent named {name}"));
        let id = self.shared.store.agent_named(name)?.ok_or_else(none)?;
        self.shared.store.agent(id)?.ok_or_else(none)
    }
}

/// Carries the news of landed writes to engine, pool and addresses.
#[derive(Debug)]
pub(crate) struct Herald {
    /// Tells whoever runs the node that agents have come, gone or changed.
    pub(crate) told: watch::Sender<u64>,
    pub(crate) engine: Engine,
    pub(crate) feeds: Arc<Feeds>,
    pub(crate) pool: Pool,
    pub(crate) addresses: Arc<Addresses>,
    /// Wakes who makes what was consented to.
    pub(crate) approvals: Arc<Notify>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) workspaces: Arc<Workspaces>,
    pub(crate) sockets: Arc<Sockets>,
}

impl Told for Herald {
    fn becomes(&self, agent: AgentId, lifecycle: Lifecycle, reason: Option<&str>) {
        self.feeds.becomes(agent, lifecycle, reason);
        self.sockets.refresh(agent);
    }

    fn arrived(&self, agent: AgentId) {
        self.engine.arrived_soon(agent);
    }

    fn created(&self, agent: AgentId, key: PublicKey) {
        self.addresses.add(key, agent);
        self.pool.listen(vec![key]);
        self.workspaces.refresh(agent);
        self.told.send_modify(|count| *count += 1);
    }

    fn approvals(&self) {
        self.approvals.notify_one();
    }

    fn subscriptions(&self, agent: AgentId) {
        self.subscriptions.refresh(agent);
        self.sockets.refresh(agent);
    }

    fn manifest(&self, agent: AgentId) {
        self.sockets.refresh(agent);
        self.workspaces.refresh(agent);
        self.told.send_modify(|count| *count += 1);
    }

    fn removed(&self, agent: AgentId, key: PublicKey) {
        self.sockets.refresh(agent);
        self.workspaces.refresh(agent);
        self.feeds.removed(agent);
        self.subscriptions.refresh(agent);
        self.addresses.remove(&key);
        self.pool.unlisten(&key);
        self.told.send_modify(|count| *count += 1);
    }
}
