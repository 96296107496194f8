//! The outbox: items enqueued with what decided them, moved on as signer and relays answer.

use oa_nips::kind;
use oa_nips::nostr::UnsignedEvent;

use crate::agent::AgentId;
use crate::store::backend::{BackendError, Table};
use crate::store::row::{AgentRow, Audience, OutId, OutRow, Outgoing, Parcel, Stage, key};
use crate::store::unit::Tx;
use crate::store::write::{OutRange, Verdict, handled};

/// Adds an unsigned item.
pub(super) fn enqueue(tx: &mut Tx<'_>, row: &mut AgentRow, outgoing: Outgoing, at_ms: u64) -> OutId {
    enqueue_row(tx, row, &OutRow { outgoing, stage: Stage::Unsigned, at_ms })
}

/// Adds an item, signed or not.
pub(super) fn enqueue_row(tx: &mut Tx<'_>, row: &mut AgentRow, item: &OutRow) -> OutId {
    let id = OutId { agent: row.id, n: row.outbox_next };
    row.outbox_next += 1;
    put(tx, id, item);
    id
}

/// Adds an item that no tick decided.
pub(super) fn send(
    tx: &mut Tx<'_>,
    agent: AgentId,
    outgoing: Outgoing,
    at_ms: u64,
) -> Result<Verdict, BackendError> {
    let Some(mut row) = tx.get::<AgentRow>(Table::Agents, &key::agent(agent))? else {
        return Ok(Verdict::NoAgent);
    };
    let from = row.outbox_next;
    enqueue(tx, &mut row, outgoing, at_ms);
    tx.put(Table::Agents, key::agent(agent), &row);
    Ok(Verdict::Landed(OutRange { agent, from, to: row.outbox_next }))
}

/// Moves an item on.
pub(super) fn update(tx: &mut Tx<'_>, id: OutId, item: &OutRow) -> Result<Verdict, BackendError> {
    if !tx.has(Table::OutboxOpen, &key::numbered(id.agent, id.n))? {
        return Ok(Verdict::Duplicate);
    }
    put(tx, id, item);
    Ok(Verdict::Done)
}

pub(super) fn put(tx: &mut Tx<'_>, id: OutId, item: &OutRow) {
    let key = key::numbered(id.agent, id.n);
    match &item.stage {
        Stage::Unsigned => tx.put_bytes(Table::OutboxOpen, key.clone(), Vec::new()),
        Stage::Signed(parcels) => {
            // The agent's own copies come back from its relays; they need not be opened again. What is addressed to
            // somebody else must be: they may live on this node too.
            let is_own_copy =
                |parcel: &&Parcel| parcel.audience == Audience::Own && parcel.event.kind == kind::WRAP;
            for parcel in parcels.iter().filter(is_own_copy) {
                handled(tx, parcel.event.created_at.as_secs(), &parcel.event.id);
            }
            tx.put_bytes(Table::OutboxOpen, key.clone(), Vec::new());
        }
        Stage::Finished(_) => tx.remove(Table::OutboxOpen, key.clone()),
    }
    tx.put(Table::Outbox, key, item);
}

/// Tick records on their way to whoever may read them.
#[derive(Debug, Clone)]
pub struct Published {
    pub agent: AgentId,
    /// The first record that is not in the events.
    pub up_to: u64,
    /// Encrypted already, unsigned.
    pub events: Vec<UnsignedEvent>,
    pub at_ms: u64,
}

impl Published {
    pub(super) fn apply(self, tx: &mut Tx<'_>) -> Result<Verdict, BackendError> {
        let Some(mut row) = tx.get::<AgentRow>(Table::Agents, &key::agent(self.agent))? else {
            return Ok(Verdict::NoAgent);
        };
        if row.published >= self.up_to {
            return Ok(Verdict::Duplicate);
        }
        row.published = self.up_to;
        let from = row.outbox_next;
        for event in self.events {
            enqueue(tx, &mut row, Outgoing::Event { event }, self.at_ms);
        }
        tx.put(Table::Agents, key::agent(self.agent), &row);
        Ok(Verdict::Landed(OutRange { agent: self.agent, from, to: row.outbox_next }))
    }
}
