//! Reading an agent out of a store.
//!
//! Whoever reads has the agent's turn, so that neither a tick nor an operator changes its files, alarms, journals or
//! chain meanwhile. Mail goes on coming in: what arrives after the agent's row was read is left out as a whole, its
//! place in the inbox and that it was seen, so that whoever goes on from the bundle takes it in anew.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use oa_nips::nostr::PublicKey;
use oa_nips::record::Record;
use serde::de::DeserializeOwned;

use super::{About, Bundle, MIGRATED, RECORDS_MAX, VERSION};
use crate::agent::envelope::EnvelopeId;
use crate::agent::mailbox::{FLOOR_BEHIND_S, Peer};
use crate::agent::{AgentId, Lifecycle};
use crate::store::Store;
use crate::store::backend::{BackendError, Pair, Table};
use crate::store::row::{AgentRow, DeadLetter, JournalRow, OutRow, Outgoing, Stage, Waiting, key};
use crate::store::write::Holdings;

/// Rows read at once.
const PAGE: usize = 4096;

type Result<T> = std::result::Result<T, BackendError>;
/// The codes by which strangers can be let in.
type Codes = BTreeMap<PublicKey, String>;

impl Bundle {
    /// Reads an agent as it is now; nothing if there is none, or it is gone. The caller has the agent's turn.
    ///
    /// # Errors
    /// What the store said.
    pub fn gather(store: &Store, id: AgentId, node: PublicKey, now_ms: u64) -> Result<Option<Self>> {
        let row = store.agent(id)?.filter(|row| row.lifecycle != Lifecycle::Terminated);
        let (Some(row), Some(manifest)) = (row, store.manifest(id)?) else { return Ok(None) };
        let floor_s = floor_s(store, &row, now_ms)?;
        let mut seen = seen(store, id, floor_s)?;
        // After what was seen: whatever is in the inbox by then and was not when the row was read is in neither list.
        let (inbox, late): (Vec<_>, Vec<_>) =
            numbered::<Waiting>(store, Table::Inbox, id)?.into_iter().partition(|(n, _)| *n < row.inbox_next);
        let late: HashSet<EnvelopeId> = late.into_iter().map(|(_, waiting)| waiting.envelope.id).collect();
        seen.retain(|(id, _)| !late.contains(id));
        let mut letters = numbered::<DeadLetter>(store, Table::DeadLetters, id)?;
        letters.retain(|(n, _)| *n < row.dead_next);
        let may_run = inbox.iter().map(|(_, waiting)| waiting.envelope.id);
        let may_run: BTreeSet<EnvelopeId> =
            may_run.chain(letters.iter().map(|(_, letter)| letter.envelope.id)).collect();
        let (peers, codes) = peers(store, id)?;
        let is_open =
            |(n, item): &(u64, OutRow)| *n < row.outbox_next && !matches!(item.stage, Stage::Finished(_));
        let mut outbox: Vec<_> = numbered(store, Table::Outbox, id)?.into_iter().filter(is_open).collect();
        outbox.retain(|(_, item)| !tells_code(item, &codes));
        let holdings = Holdings {
            files: files(store, id)?,
            alarms: store.alarms(id)?,
            peers,
            seen,
            journal: journal(store, id, &may_run)?,
            inbox,
            letters,
            outbox,
            records: records(store, &row)?,
        };
        let about = about(row, node, floor_s, now_ms);
        Ok(Some(Self { about, manifest: manifest.to_toml(), holdings }))
    }
}

fn about(row: AgentRow, node: PublicKey, floor_s: u64, now_ms: u64) -> About {
    let migrated = row.lifecycle == Lifecycle::Stopped && row.reason.as_deref() == Some(MIGRATED);
    let (lifecycle, reason) = if migrated { (Lifecycle::Dormant, None) } else { (row.lifecycle, row.reason) };
    About {
        v: VERSION,
        exported_at_ms: now_ms,
        node,
        number: row.id,
        pubkey: row.pubkey,
        name: row.name,
        owner: row.owner,
        lifecycle,
        reason,
        migrated,
        created_at_ms: row.created_at_ms,
        floor_s,
        session: row.session,
        head: row.head,
        published: row.published,
        failures: row.failures,
        profiled_at_s: row.profiled_at_s,
        inbox_next: row.inbox_next,
        outbox_next: row.outbox_next,
        letters_next: row.dead_next,
        refused_next: row.refused_next,
    }
}

/// The floor as it holds for the agent's mail now: below it, what was seen is forgotten.
fn floor_s(store: &Store, row: &AgentRow, now_ms: u64) -> Result<u64> {
    let highest_s = (now_ms / 1000).saturating_sub(FLOOR_BEHIND_S);
    Ok(row.floor_s.max(store.floor_s()?.min(highest_s)))
}

/// Every pair of an agent in a table.
fn pairs(store: &Store, table: Table, id: AgentId) -> Result<Vec<Pair>> {
    let (prefix, mut all) = (key::agent(id), Vec::new());
    let mut from = prefix.clone();
    loop {
        let page = store.pairs(table, from, PAGE)?;
        let is_full = page.len() == PAGE;
        let last = page.last().map(|(key, _)| [key.as_slice(), &[0]].concat());
        all.extend(page.into_iter().take_while(|(key, _)| key.starts_with(&prefix)));
        match last.filter(|last| is_full && last.starts_with(&prefix)) {
            Some(next) => from = next,
            None => return Ok(all),
        }
    }
}

fn numbered<T: DeserializeOwned>(store: &Store, table: Table, id: AgentId) -> Result<Vec<(u64, T)>> {
    let mut rows = Vec::new();
    for (key, bytes) in pairs(store, table, id)? {
        let n = key::number(&key).ok_or_else(|| corrupt(table, "a key is too short"))?;
        rows.push((n, decode(table, &bytes)?));
    }
    Ok(rows)
}

/// What stands after the agent's number in a key.
fn rest(table: Table, key: &[u8]) -> Result<&[u8]> {
    key.get(4..).ok_or_else(|| corrupt(table, "a key is too short"))
}

fn files(store: &Store, id: AgentId) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for (key, content) in pairs(store, Table::Files, id)? {
        let path = String::from_utf8(rest(Table::Files, &key)?.to_vec());
        files.push((path.map_err(|_| corrupt(Table::Files, "a path is no text"))?, content));
    }
    Ok(files)
}

/// Whom the agent knows, and the codes that let them in. What waits is counted where it waits.
fn peers(store: &Store, id: AgentId) -> Result<(Vec<(PublicKey, Peer)>, Codes)> {
    let (mut peers, mut codes) = (Vec::new(), Codes::new());
    for (key, bytes) in pairs(store, Table::Peers, id)? {
        let who = PublicKey::from_slice(rest(Table::Peers, &key)?);
        let who = who.map_err(|_| corrupt(Table::Peers, "a key is none"))?;
        let mut peer: Peer = decode(Table::Peers, &bytes)?;
        codes.extend(peer.pairing.take().map(|code| (who, code)));
        peers.push((who, Peer { paired_at_ms: 0, queued: 0, ..peer }));
    }
    Ok((peers, codes))
}

/// Whether a message tells somebody the code that lets them in: where it is not known, it is of no use to them.
fn tells_code(item: &OutRow, codes: &Codes) -> bool {
    let Outgoing::Mail { draft, .. } = &item.outgoing else { return false };
    codes.get(&draft.recipient).is_some_and(|code| draft.content.contains(code.as_str()))
}

/// What was taken in from the floor on: what is older is refused whether it was seen or not.
fn seen(store: &Store, id: AgentId, floor_s: u64) -> Result<Vec<(EnvelopeId, u64)>> {
    let mut seen = Vec::new();
    for (key, value) in pairs(store, Table::Seen, id)? {
        let envelope = EnvelopeId::from_slice(rest(Table::Seen, &key)?);
        let sent_s = value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        let both = envelope.zip(sent_s).ok_or_else(|| corrupt(Table::Seen, "a row is too short"))?;
        seen.extend(Some(both).filter(|(_, sent_s)| *sent_s >= floor_s));
    }
    Ok(seen)
}

fn journal(
    store: &Store,
    id: AgentId,
    may_run: &BTreeSet<EnvelopeId>,
) -> Result<Vec<(EnvelopeId, u32, JournalRow)>> {
    let mut lines = Vec::new();
    for envelope in may_run {
        let rows = store.journal(id, envelope)?;
        lines.extend((0..).zip(rows).map(|(ordinal, row)| (*envelope, ordinal, row)));
    }
    Ok(lines)
}

fn records(store: &Store, row: &AgentRow) -> Result<Vec<Record>> {
    let first = row.head.seq.saturating_sub(RECORDS_MAX as u64);
    store.records(row.id, first, RECORDS_MAX)
}

fn decode<T: DeserializeOwned>(table: Table, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| corrupt(table, &error.to_string()))
}

fn corrupt(table: Table, detail: &str) -> BackendError {
    BackendError::Corrupt { path: format!("table {}", table.name()), detail: detail.to_owned() }
}
