//! A tick's journal: lines that are on disk before the world is touched, under the conditions of the tick; and their
//! end, when nobody can need them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};

use crate::agent::AgentId;
use crate::agent::envelope::EnvelopeId;
use crate::namespace::journal::Line;
use crate::store::backend::{BackendError, Table};
use crate::store::row::{AgentRow, DeadLetter, JournalRow, Waiting, key};
use crate::store::unit::Tx;
use crate::store::write::Verdict;

/// Lines of one tick's journal.
#[derive(Debug, Clone)]
pub struct Journaled {
    pub agent: AgentId,
    /// The envelope's place in the inbox.
    pub seq: u64,
    /// Its name.
    pub envelope: EnvelopeId,
    /// The lease under which the tick runs.
    pub lease_epoch: u64,
    /// The ordinal of the first line.
    pub first: u32,
    pub lines: Vec<Line>,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

impl Journaled {
    /// `Stale` when the tick may no longer run: then it must touch nothing.
    pub(super) fn apply(self, tx: &mut Tx<'_>) -> Result<Verdict, BackendError> {
        let Some(row) = tx.get::<AgentRow>(Table::Agents, &key::agent(self.agent))? else {
            return Ok(Verdict::NoAgent);
        };
        let inbox = key::numbered(self.agent, self.seq);
        let waiting = tx.get::<Waiting>(Table::Inbox, &inbox)?;
        let Some(mut waiting) = waiting.filter(|waiting| waiting.envelope.id == self.envelope) else {
            return Ok(Verdict::Stale);
        };
        if row.lease_epoch != self.lease_epoch || !row.lifecycle.ticks() {
            return Ok(Verdict::Stale);
        }
        if !waiting.journaled {
            waiting.journaled = true;
            tx.put(Table::Inbox, inbox, &waiting);
        }
        for (ordinal, line) in (self.first..).zip(self.lines) {
            let key = key::journal_line(self.agent, &self.envelope, ordinal);
            tx.put(Table::Journal, key, &JournalRow { line, at_ms: self.at_ms });
        }
        Ok(Verdict::Done)
    }
}

/// Lets go of journals, but of none whose envelope waits or is a dead letter by now.
pub(super) fn prune(tx: &mut Tx<'_>, over: Vec<(AgentId, EnvelopeId)>) -> Result<Verdict, BackendError> {
    let mut needed: BTreeMap<AgentId, HashSet<EnvelopeId>> = BTreeMap::new();
    for (agent, envelope) in over {
        let needed = match needed.entry(agent) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(needed_by(tx, agent)?),
        };
        if needed.contains(&envelope) {
            continue;
        }
        for line in tx.keys(Table::Journal, &key::journal(agent, &envelope))? {
            tx.remove(Table::Journal, line);
        }
    }
    Ok(Verdict::Done)
}

fn needed_by(tx: &Tx<'_>, agent: AgentId) -> Result<HashSet<EnvelopeId>, BackendError> {
    let mut needed = HashSet::new();
    for place in tx.keys(Table::Inbox, &key::agent(agent))? {
        let waiting = tx.get::<Waiting>(Table::Inbox, &place)?.filter(|waiting| waiting.journaled);
        needed.extend(waiting.map(|waiting| waiting.envelope.id));
    }
    for place in tx.keys(Table::DeadLetters, &key::agent(agent))? {
        needed.extend(tx.get::<DeadLetter>(Table::DeadLetters, &place)?.map(|letter| letter.envelope.id));
    }
    Ok(needed)
}
