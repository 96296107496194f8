//! Creating agents, and changing what is not a tick's to change.

use oa_nips::nostr::{PublicKey, UnsignedEvent};
use oa_nips::record::SessionId;

use crate::agent::envelope::{Envelope, Kind};
use crate::agent::mailbox::Peer;
use crate::agent::manifest::{Manifest, Npub};
use crate::agent::{AgentId, Lifecycle};
use crate::store::backend::{BackendError, Table};
use crate::store::row::{AgentRow, Claim, Outgoing, key};
use crate::store::unit::Tx;
use crate::store::write::{OutRange, Verdict, known, out, row_key, split_row, tick};

/// An agent to be. The caller has picked the id that nobody has, derived the key and written its profile events.
#[derive(Debug, Clone)]
pub struct NewAgent {
    pub id: AgentId,
    pub pubkey: PublicKey,
    pub manifest: Manifest,
    pub session: SessionId,
    pub at_ms: u64,
    /// Kinds 0, 10002 and 10050, unsigned.
    pub profile: Vec<UnsignedEvent>,
}

/// The row of the node itself: nobody finds it by name, and it has no manifest and no ticks.
pub(super) fn put_node(tx: &mut Tx<'_>, pubkey: PublicKey, at_ms: u64) -> Result<Verdict, BackendError> {
    let key = key::agent(AgentId::NODE);
    if tx.has(Table::Agents, &key)? {
        return Ok(Verdict::Duplicate);
    }
    let mut row = AgentRow::new(AgentId::NODE, pubkey, at_ms);
    row.lifecycle = Lifecycle::Stopped;
    // For logs; no agent can be called so.
    "the node".clone_into(&mut row.name);
    tx.put(Table::Agents, key, &row);
    tx.put(Table::Pubkeys, pubkey.to_bytes().to_vec(), &AgentId::NODE);
    Ok(Verdict::Done)
}

impl NewAgent {
    pub(super) fn apply(self, tx: &mut Tx<'_>) -> Result<Verdict, BackendError> {
        let name = self.manifest.name.clone();
        if tx.has(Table::Names, name.as_bytes())? {
            return Ok(Verdict::NameTaken);
        }
        if tx.has(Table::Agents, &key::agent(self.id))? {
            return Ok(Verdict::Stale);
        }
        let mut row = AgentRow {
            name: name.clone(),
            owner: self.manifest.owner.map(|npub| npub.0),
            session: self.session,
            ..AgentRow::new(self.id, self.pubkey, self.at_ms)
        };
        let created = Envelope::from_node(Kind::Created, &format!("created:{}", self.id), self.at_ms);
        tick::enqueue(tx, &mut row, created, false);
        for event in self.profile {
            out::enqueue(tx, &mut row, Outgoing::Event { event }, self.at_ms);
        }
        known::note_owner(tx, &row);
        known::note_roles(tx, &row, &self.manifest);
        tx.put_bytes(Table::Manifests, key::agent(self.id), self.manifest.to_toml().into_bytes());
        tx.put(Table::Names, name.into_bytes(), &self.id);
        tx.put(Table::Pubkeys, self.pubkey.to_bytes().to_vec(), &self.id);
        tx.put(Table::Agents, key::agent(self.id), &row);
        Ok(Verdict::Landed(OutRange { agent: self.id, from: 0, to: row.outbox_next }))
    }
}

/// The rows that name the agents whose profiles are to be published anew.
pub(crate) const PROFILES: &str = "profiles";

/// Marks an agent; each mark has another version, so that none is taken for an earlier one.
fn mark_profile(tx: &mut Tx<'_>, id: AgentId) -> Result<(), BackendError> {
    let key = row_key(PROFILES, &id.to_string());
    let version =
        tx.bytes(Table::Rows, &key)?.and_then(|bytes| split_row(&bytes)).map_or(0, |row| row.version);
    tx.put_bytes(Table::Rows, key, (version + 1).to_be_bytes().to_vec());
    Ok(())
}

/// What an operator or owner changes.
#[derive(Debug, Clone)]
pub enum AgentChange {
    /// Goes on, stops, sleeps.
    Lifecycle(Lifecycle, Option<String>),
    /// Obeys somebody else, or nobody.
    Owner(Option<PublicKey>),
    /// Has a new manifest of the same name.
    Manifest(Box<Manifest>),
    /// Shows itself anew, at this time in seconds since 1970.
    Profiled(u64),
    /// Lets somebody in, or not any more.
    Allow(PublicKey, bool),
    /// May be claimed with a code.
    Claim(Claim),
    /// Is gone: its name is free, its files stay until nobody can want them, its key is never used again.
    Remove,
}

impl AgentChange {
    pub(super) fn apply(self, id: AgentId, tx: &mut Tx<'_>) -> Result<Verdict, BackendError> {
        let Some(mut row) = tx.get::<AgentRow>(Table::Agents, &key::agent(id))? else {
            return Ok(Verdict::NoAgent);
        };
        // Anything that a tick goes by makes those that run start over.
        let mut bumps = true;
        match self {
            Self::Lifecycle(lifecycle, reason) => {
                if row.lifecycle == Lifecycle::Terminated {
                    return Ok(Verdict::Stale);
                }
                (row.lifecycle, row.reason) = (lifecycle, reason);
                row.failures = 0;
                if lifecycle.ticks() {
                    tick::wind_alarms(tx, id)?;
                }
            }
            Self::Owner(owner) => {
                mark_profile(tx, id)?;
                own(tx, &mut row, owner)?;
            }
            Self::Manifest(manifest) => {
                if manifest.name != row.name {
                    return Ok(Verdict::Stale);
                }
                mark_profile(tx, id)?;
                // An owner who was there before is no change: he may have lost the agent by other ways since.
                let before = stored(tx, id)?.and_then(|before| before.owner);
                if let Some(owner) = manifest.owner
                    && manifest.owner != before
                {
                    row.owner = Some(owner.0);
                }
                known::note_owner(tx, &row);
                known::note_roles(tx, &row, &manifest);
                tx.put_bytes(Table::Manifests, key::agent(id), manifest.to_toml().into_bytes());
            }
            Self::Profiled(at_s) => {
                bumps = false;
                row.profiled_at_s = row.profiled_at_s.max(at_s);
            }
            Self::Allow(peer, allowed) => {
                let mut known: Peer = tx.get(Table::Peers, &key::peer(id, &peer))?.unwrap_or_default();
                known.allowed = allowed;
                known.pairing = None;
                tx.put(Table::Peers, key::peer(id, &peer), &known);
            }
            Self::Claim(claim) => row.claim = Some(claim),
            Self::Remove => {
                row.lifecycle = Lifecycle::Terminated;
                tick::cancel_alarms(tx, id)?;
                tx.remove(Table::Names, row.name.clone().into_bytes());
                tx.remove(Table::Pubkeys, row.pubkey.to_bytes().to_vec());
            }
        }
        row.version += u64::from(bumps);
        tx.put(Table::Agents, key::agent(id), &row);
        Ok(Verdict::Done)
    }
}

/// Gives an agent an owner, or takes him away: in its row, and in its manifest, which people write back whole.
pub(super) fn own(tx: &mut Tx<'_>, row: &mut AgentRow, owner: Option<PublicKey>) -> Result<(), BackendError> {
    row.owner = owner;
    known::note_owner(tx, row);
    if let Some(mut manifest) = stored(tx, row.id)? {
        manifest.owner = owner.map(Npub);
        tx.put_bytes(Table::Manifests, key::agent(row.id), manifest.to_toml().into_bytes());
    }
    Ok(())
}

/// The manifest as it is kept.
fn stored(tx: &Tx<'_>, id: AgentId) -> Result<Option<Manifest>, BackendError> {
    let Some(bytes) = tx.bytes(Table::Manifests, &key::agent(id))? else { return Ok(None) };
    Manifest::read(&String::from_utf8_lossy(&bytes)).map(Some).map_err(|error| BackendError::Corrupt {
        path: format!("manifest of agent {id}"),
        detail: error.to_string(),
    })
}

/// Lets go of rows that an agent has left behind; `Stale` when it is not gone, or came back meanwhile.
pub(super) fn clear(
    tx: &mut Tx<'_>,
    id: AgentId,
    version: u64,
    table: Table,
    keys: Vec<Vec<u8>>,
) -> Result<Verdict, BackendError> {
    let row: Option<AgentRow> = tx.get(Table::Agents, &key::agent(id))?;
    if !row.is_some_and(|row| row.lifecycle == Lifecycle::Terminated && row.version == version) {
        return Ok(Verdict::Stale);
    }
    keys.into_iter().for_each(|key| tx.remove(table, key));
    Ok(Verdict::Done)
}
