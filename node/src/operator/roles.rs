//! Who a caller is to an agent, and to the node.

use std::collections::HashSet;

use oa_nips::nostr::PublicKey;

use crate::agent::manifest::Manifest;
use crate::engine::shared::Manifests;
use crate::namespace::rights::Role;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::row::AgentRow;

/// The roles that the node's configuration gives; agents' manifests give more, each for that agent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roles {
    pub(crate) operators: HashSet<PublicKey>,
    pub(crate) approvers: HashSet<PublicKey>,
    pub(crate) viewers: HashSet<PublicKey>,
}

impl Roles {
    /// Who somebody is to the node as a whole.
    pub(crate) fn in_node(&self, caller: &PublicKey) -> Role {
        if self.operators.contains(caller) {
            Role::Operator
        } else if self.approvers.contains(caller) {
            Role::Approver
        } else if self.viewers.contains(caller) {
            Role::Viewer
        } else {
            Role::Stranger
        }
    }

    /// Who somebody is to one agent: the greatest of what node and agent make them.
    pub(crate) fn in_agent(&self, caller: &PublicKey, row: &AgentRow, manifest: &Manifest) -> Role {
        let is_in = |list: &[crate::agent::manifest::Npub]| list.iter().any(|npub| npub.0 == *caller);
        let here = if row.owner == Some(*caller) {
            Role::Owner
        } else if is_in(&manifest.roles.approvers) {
            Role::Approver
        } else if is_in(&manifest.roles.viewers) {
            Role::Viewer
        } else {
            Role::Stranger
        };
        here.max(self.in_node(caller))
    }

    /// The greatest role that somebody has anywhere in the node: who has none gets no answer.
    pub(crate) fn anywhere(
        &self,
        store: &Store,
        manifests: &Manifests,
        caller: &PublicKey,
    ) -> Result<Role, BackendError> {
        let mut best = self.in_node(caller);
        if best == Role::Operator {
            return Ok(best);
        }
        for id in store.agents_that_know(caller)? {
            let Some(row) = store.agent(id)? else { continue };
            let manifest = manifests.get(store, id, row.version)?;
            best = best.max(self.in_agent(caller, &row, &manifest));
        }
        Ok(best)
    }
}
