//! Whom agents know by a role: an index from people to the agents that may answer them.
//!
//! An entry says where to look, not what is allowed: that is read from the agent each time. So entries may be too
//! many, and none is ever missing.

use oa_nips::nostr::PublicKey;

use crate::agent::manifest::Manifest;
use crate::store::backend::Table;
use crate::store::row::{AgentRow, key};
use crate::store::unit::Tx;

/// Notes an agent's owner.
pub(super) fn note_owner(tx: &mut Tx<'_>, row: &AgentRow) {
    row.owner.iter().for_each(|owner| note(tx, row, owner));
}

/// Notes everybody who has a role by a manifest.
pub(super) fn note_roles(tx: &mut Tx<'_>, row: &AgentRow, manifest: &Manifest) {
    let people = manifest.roles.approvers.iter().chain(&manifest.roles.viewers);
    people.for_each(|npub| note(tx, row, &npub.0));
}

fn note(tx: &mut Tx<'_>, row: &AgentRow, who: &PublicKey) {
    tx.put_bytes(Table::Known, key::known(who, row.id), Vec::new());
}
