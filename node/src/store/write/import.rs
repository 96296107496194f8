//! Taking in an agent from a bundle: all of its rows at once, or none.

use std::collections::{BTreeMap, BTreeSet};

use oa_nips::nostr::PublicKey;
use oa_nips::record::Record;

use crate::agent::alarm::Alarm;
use crate::agent::envelope::EnvelopeId;
use crate::agent::mailbox::Peer;
use crate::agent::manifest::Manifest;
use crate::agent::{AgentId, Lifecycle};
use crate::store::backend::{BackendError, Table};
use crate::store::packed;
use crate::store::row::{AgentRow, DeadLetter, JournalRow, OutRow, Stage, Waiting, key};
use crate::store::unit::Tx;
use crate::store::write::{OutRange, Verdict, known, out, tick};

/// An agent as it is to stand in this store.
#[derive(Debug, Clone)]
pub struct Import {
    /// What its inbox holds is counted when it is taken in.
    pub row: AgentRow,
    pub manifest: Manifest,
    pub holdings: Holdings,
}

/// What belongs to an agent besides its row and its manifest. Every list is sorted by what names its items, and names
/// none twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holdings {
    /// Its files by path, without alarms.
    pub files: Vec<(String, Vec<u8>)>,
    /// `/schedule`, by id.
    pub alarms: Vec<(String, Alarm)>,
    /// Whom it knows. Nobody has a code here, nor anything that waits.
    pub peers: Vec<(PublicKey, Peer)>,
    /// What was taken in and is above its floor, with when it was sent, in seconds since 1970.
    pub seen: Vec<(EnvelopeId, u64)>,
    /// What waits for its tick.
    pub inbox: Vec<(u64, Waiting)>,
    /// What was given up.
    pub letters: Vec<(u64, DeadLetter)>,
    /// What ticks did outside, of those envelopes that may run again: envelope, ordinal, line.
    pub journal: Vec<(EnvelopeId, u32, JournalRow)>,
    /// What is on its way out, with its signed bytes.
    pub outbox: Vec<(u64, OutRow)>,
    /// Its newest tick records.
    pub records: Vec<Record>,
}

/// What an agent that is gone leaves behind, and an agent that takes its place does not want. What it has seen and
/// what it has sent stay: neither is to happen again.
pub(crate) const LEFT_BEHIND: [Table; 7] = [
    Table::Files,
    Table::Peers,
    Table::Inbox,
    Table::DeadLetters,
    Table::Journal,
    Table::Records,
    Table::Refusals,
];

impl Import {
    /// `NameTaken`; `Stale` when somebody has the number or the key, unless it is the same agent, and gone.
    pub(super) fn apply(self, tx: &mut Tx<'_>) -> Result<Verdict, BackendError> {
        let Self { mut row, manifest, holdings } = self;
        let id = row.id;
        if tx.has(Table::Names, row.name.as_bytes())? {
            return Ok(Verdict::NameTaken);
        }
        let gone: Option<AgentRow> = tx.get(Table::Agents, &key::agent(id))?;
        let is_other = |old: &AgentRow| old.lifecycle != Lifecycle::Terminated || old.pubkey != row.pubkey;
        if gone.as_ref().is_some_and(is_other) || tx.has(Table::Pubkeys, &row.pubkey.to_bytes())? {
            return Ok(Verdict::Stale);
        }
        if let Some(gone) = gone {
            clear(tx, id)?;
            row.version = row.version.max(gone.version + 1);
            row.lease_epoch = row.lease_epoch.max(gone.lease_epoch);
            row.outbox_next = row.outbox_next.max(gone.outbox_next);
            row.profiled_at_s = row.profiled_at_s.max(gone.profiled_at_s);
        }
        for (path, content) in holdings.files {
            tx.put_bytes(Table::Files, key::named(id, &path), content);
        }
        for (name, alarm) in &holdings.alarms {
            tick::set_alarm(tx, id, name, Some(alarm))?;
        }
        let mut peers: BTreeMap<PublicKey, Peer> = holdings.peers.into_iter().collect();
        (row.inbox_depth, row.inbox_strangers) = (0, 0);
        for (n, waiting) in holdings.inbox {
            row.inbox_depth += 1;
            row.inbox_strangers += u32::from(waiting.is_strangers);
            if let Some(sender) = waiting.envelope.sender() {
                peers.entry(sender).or_default().queued += 1;
            }
            tx.put(Table::Inbox, key::numbered(id, n), &waiting);
        }
        peers.iter().for_each(|(who, peer)| tx.put(Table::Peers, key::peer(id, who), peer));
        for (envelope, sent_at_s) in holdings.seen {
            tx.put_bytes(Table::Seen, key::seen(id, &envelope), sent_at_s.to_be_bytes().to_vec());
        }
        for (n, letter) in holdings.letters {
            tx.put(Table::DeadLetters, key::numbered(id, n), &letter);
        }
        for (envelope, ordinal, line) in holdings.journal {
            tx.put(Table::Journal, key::journal_line(id, &envelope, ordinal), &line);
        }
        let first = holdings.outbox.first().map_or(row.outbox_next, |(n, _)| *n);
        for (n, item) in holdings.outbox {
            // What is known here may have gone further than the bundle says.
            if !tx.has(Table::Outbox, &key::numbered(id, n))? {
                out::put(tx, crate::store::row::OutId { agent: id, n }, &item);
            }
        }
        for record in &holdings.records {
            tx.put_bytes(Table::Records, key::numbered(id, record.header.seq), packed::pack(record));
        }
        known::note_owner(tx, &row);
        known::note_roles(tx, &row, &manifest);
        tx.put_bytes(Table::Manifests, key::agent(id), manifest.to_toml().into_bytes());
        tx.put(Table::Names, row.name.clone().into_bytes(), &id);
        tx.put(Table::Pubkeys, row.pubkey.to_bytes().to_vec(), &id);
        tx.put(Table::Agents, key::agent(id), &row);
        Ok(Verdict::Landed(OutRange { agent: id, from: first, to: row.outbox_next }))
    }
}

fn clear(tx: &mut Tx<'_>, id: AgentId) -> Result<(), BackendError> {
    tick::cancel_alarms(tx, id)?;
    for table in LEFT_BEHIND {
        for key in tx.keys(table, &key::agent(id))? {
            tx.remove(table, key);
        }
    }
    Ok(())
}

/// Envelopes that were answered elsewhere: they count as seen, and leave the inbox.
#[derive(Debug, Clone)]
pub struct Answered {
    pub agent: AgentId,
    pub envelopes: BTreeSet<EnvelopeId>,
    /// When that was found out, in milliseconds since 1970: they are remembered at least as long as if they had been
    /// sent then.
    pub at_ms: u64,
}

impl Answered {
    pub(super) fn apply(self, tx: &mut Tx<'_>) -> Result<Verdict, BackendError> {
        let id = self.agent;
        let Some(mut row) = tx.get::<AgentRow>(Table::Agents, &key::agent(id))? else {
            return Ok(Verdict::NoAgent);
        };
        for envelope in &self.envelopes {
            let seen = key::seen(id, envelope);
            if !tx.has(Table::Seen, &seen)? {
                tx.put_bytes(Table::Seen, seen, (self.at_ms / 1000).to_be_bytes().to_vec());
            }
        }
        for place in tx.keys(Table::Inbox, &key::agent(id))? {
            let waiting: Option<Waiting> = tx.get(Table::Inbox, &place)?;
            let (Some(seq), Some(waiting)) = (key::number(&place), waiting) else { continue };
            if self.envelopes.contains(&waiting.envelope.id) {
                tick::leave_inbox(tx, &mut row, seq, &waiting, None)?;
            }
        }
        tx.put(Table::Agents, key::agent(id), &row);
        Ok(Verdict::Done)
    }
}

/// An item that somebody else sends: it leaves the outbox unsent.
pub(crate) fn handed_over(item: OutRow) -> OutRow {
    OutRow { stage: Stage::Finished(Vec::new()), ..item }
}
