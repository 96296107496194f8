//! Reading: typed, each call one look at what is committed.

use std::collections::HashSet;

use oa_nips::files::OpError;
use oa_nips::hex::Hex;
use oa_nips::nostr::{EventId, PublicKey, RelayUrl};
use oa_nips::port::Row;
use oa_nips::record::Record;
use serde::de::DeserializeOwned;

use crate::agent::AgentId;
use crate::agent::alarm::Alarm;
use crate::agent::envelope::EnvelopeId;
use crate::agent::mailbox::Peer;
use crate::agent::manifest::Manifest;
use crate::store::Store;
use crate::store::backend::{BackendError, Range, Table};
use crate::store::packed;
use crate::store::row::{AgentRow, DeadLetter, JournalRow, OpRow, OutId, OutRow, Refused, Waiting, key};
use crate::store::unit::decode;
use crate::store::write::{FLOOR, row_key, split_row};

/// An alarm that is due, by its place in the order of alarms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub agent: AgentId,
    pub id: String,
    pub due_ms: u64,
}

type Result<T> = std::result::Result<T, BackendError>;

impl Store {
    fn get<T: DeserializeOwned>(&self, table: Table, key: &[u8]) -> Result<Option<T>> {
        self.backend.get(table, key)?.map(|bytes| decode(table, &bytes)).transpose()
    }

    fn scan<T: DeserializeOwned>(&self, table: Table, range: &Range) -> Result<Vec<(Vec<u8>, T)>> {
        let pairs = self.backend.scan(table, range)?;
        pairs.into_iter().map(|(key, bytes)| Ok((key, decode(table, &bytes)?))).collect()
    }

    fn numbered<T: DeserializeOwned>(
        &self,
        table: Table,
        agent: AgentId,
        range: Range,
    ) -> Result<Vec<(u64, T)>> {
        debug_assert!(range.from.starts_with(&agent.0.to_be_bytes()), "a range of this agent");
        let rows = self.scan(table, &range)?;
        Ok(rows.into_iter().filter_map(|(key, row)| Some((key::number(&key)?, row))).collect())
    }

    /// A fact about the store.
    pub fn meta(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.backend.get(Table::Meta, name.as_bytes())
    }

    /// The floor under every agent's, in seconds since 1970.
    pub fn floor_s(&self) -> Result<u64> {
        Ok(self.get(Table::Meta, FLOOR.as_bytes())?.unwrap_or(0))
    }

    /// An agent.
    pub fn agent(&self, id: AgentId) -> Result<Option<AgentRow>> {
        self.get(Table::Agents, &key::agent(id))
    }

    /// Every agent, also those that are gone, from `from` on. The node itself is none.
    pub fn agents(&self, from: AgentId, limit: usize) -> Result<Vec<AgentRow>> {
        let range =
            Range { from: key::agent(from), to: Some(key::agent(AgentId::NODE)), reverse: false, limit };
        Ok(self.scan(Table::Agents, &range)?.into_iter().map(|(_, row)| row).collect())
    }

    /// The number after the last agent's.
    pub fn next_agent_id(&self) -> Result<AgentId> {
        let last = Range { from: Vec::new(), to: Some(key::agent(AgentId::NODE)), reverse: true, limit: 1 };
        let row = self.scan::<AgentRow>(Table::Agents, &last)?.pop();
        Ok(AgentId(row.map_or(0, |(_, row)| row.id.0 + 1)))
    }

    /// The keys of every agent that is addressed by mail.
    pub fn addresses(&self) -> Result<Vec<(PublicKey, AgentId)>> {
        let rows: Vec<(Vec<u8>, AgentId)> = self.scan(Table::Pubkeys, &Range::prefix([]))?;
        Ok(rows.into_iter().filter_map(|(key, id)| Some((PublicKey::from_slice(&key).ok()?, id))).collect())
    }

    /// The agent of a name.
    pub fn agent_named(&self, name: &str) -> Result<Option<AgentId>> {
        self.get(Table::Names, name.as_bytes())
    }

    /// The names in use, sorted, with their agents.
    pub fn names(&self, limit: usize) -> Result<Vec<(String, AgentId)>> {
        let rows: Vec<(Vec<u8>, AgentId)> = self.scan(Table::Names, &Range::prefix([]).limit(limit))?;
        Ok(rows.into_iter().filter_map(|(key, id)| Some((String::from_utf8(key).ok()?, id))).collect())
    }

    /// An agent's manifest.
    pub fn manifest(&self, id: AgentId) -> Result<Option<Manifest>> {
        let Some(bytes) = self.backend.get(Table::Manifests, &key::agent(id))? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        Manifest::read(&text).map(Some).map_err(|error| BackendError::Corrupt {
            path: format!("manifest of agent {id}"),
            detail: error.to_string(),
        })
    }

    /// The oldest envelopes of an inbox.
    pub fn inbox(&self, id: AgentId, limit: usize) -> Result<Vec<(u64, Waiting)>> {
        self.numbered(Table::Inbox, id, Range::prefix(key::agent(id)).limit(limit))
    }

    /// The envelopes of an inbox from a place on.
    pub fn inbox_from(&self, id: AgentId, seq: u64, limit: usize) -> Result<Vec<(u64, Waiting)>> {
        let to = Range::prefix(key::agent(id)).to;
        self.numbered(Table::Inbox, id, Range { from: key::numbered(id, seq), to, reverse: false, limit })
    }

    /// One envelope of an inbox.
    pub fn waiting(&self, id: AgentId, seq: u64) -> Result<Option<Waiting>> {
        self.get(Table::Inbox, &key::numbered(id, seq))
    }

    /// The agents with something in their inbox.
    pub fn agents_with_mail(&self) -> Result<Vec<AgentId>> {
        let mut agents = Vec::new();
        let mut from = Vec::new();
        loop {
            let range = Range { from, to: None, reverse: false, limit: 1 };
            let Some((first, _)) = self.backend.scan(Table::Inbox, &range)?.pop() else { return Ok(agents) };
            let Some(bytes) = first.first_chunk() else { return Ok(agents) };
            let id = u32::from_be_bytes(*bytes);
            agents.push(AgentId(id));
            let Some(next) = id.checked_add(1) else { return Ok(agents) };
            from = key::agent(AgentId(next));
        }
    }

    /// The agents with which somebody has, or had, a role.
    pub fn agents_that_know(&self, who: &PublicKey) -> Result<Vec<AgentId>> {
        let pairs = self.backend.scan(Table::Known, &Range::prefix(who.to_bytes()))?;
        let id = |(key, _): (Vec<u8>, _)| Some(AgentId(u32::from_be_bytes(*key.last_chunk()?)));
        Ok(pairs.into_iter().filter_map(id).collect())
    }

    /// Whether an envelope was taken in, lately.
    pub fn is_seen(&self, id: AgentId, envelope: &EnvelopeId) -> Result<bool> {
        Ok(self.backend.get(Table::Seen, &key::seen(id, envelope))?.is_some())
    }

    /// What an agent knows of a correspondent.
    pub fn peer(&self, id: AgentId, peer: &PublicKey) -> Result<Option<Peer>> {
        self.get(Table::Peers, &key::peer(id, peer))
    }

    /// An agent's correspondents.
    pub fn peers(&self, id: AgentId, limit: usize) -> Result<Vec<(PublicKey, Peer)>> {
        let rows = self.scan(Table::Peers, &Range::prefix(key::agent(id)).limit(limit))?;
        let parse = |(key, peer): (Vec<u8>, Peer)| {
            let public = key.last_chunk::<32>()?;
            Some((PublicKey::from_slice(public).ok()?, peer))
        };
        Ok(rows.into_iter().filter_map(parse).collect())
    }

    /// A file of an agent's state.
    pub fn file(&self, id: AgentId, path: &str) -> Result<Option<Vec<u8>>> {
        self.backend.get(Table::Files, &key::named(id, path))
    }

    /// The agents that have files whose paths begin with `prefix`. Costs one look for each agent that has any file.
    pub fn agents_with_files(&self, prefix: &str) -> Result<Vec<AgentId>> {
        let (mut agents, mut id) = (Vec::new(), AgentId(0));
        loop {
            let range = Range { from: key::named(id, prefix), to: None, reverse: false, limit: 1 };
            let Some((found, _)) = self.backend.scan(Table::Files, &range)?.pop() else { return Ok(agents) };
            let Some((owner, path)) = found.split_first_chunk() else { return Ok(agents) };
            let owner = AgentId(u32::from_be_bytes(*owner));
            let has_it = path.starts_with(prefix.as_bytes());
            if has_it {
                agents.push(owner);
            }
            // Past the prefix of this agent, or before that of a later one, where the next look begins.
            let next = if has_it || owner == id { owner.0.checked_add(1) } else { Some(owner.0) };
            let Some(next) = next else { return Ok(agents) };
            id = AgentId(next);
        }
    }

    /// The paths of an agent's files that begin with `prefix`.
    pub fn file_paths(&self, id: AgentId, prefix: &str) -> Result<Vec<String>> {
        let pairs = self.backend.scan(Table::Files, &Range::prefix(key::named(id, prefix)))?;
        Ok(pairs.into_iter().filter_map(|(key, _)| String::from_utf8(key.get(4..)?.to_vec()).ok()).collect())
    }

    /// An alarm.
    pub fn alarm(&self, id: AgentId, alarm: &str) -> Result<Option<Alarm>> {
        self.get(Table::Alarms, &key::named(id, alarm))
    }

    /// An agent's alarms by their ids.
    pub fn alarms(&self, id: AgentId) -> Result<Vec<(String, Alarm)>> {
        let rows = self.scan(Table::Alarms, &Range::prefix(key::agent(id)))?;
        let parse =
            |(key, alarm): (Vec<u8>, Alarm)| Some((String::from_utf8(key.get(4..)?.to_vec()).ok()?, alarm));
        Ok(rows.into_iter().filter_map(parse).collect())
    }

    /// The next alarms of all agents, the earliest first.
    pub fn alarms_due(&self, limit: usize) -> Result<Vec<Due>> {
        let pairs = self.backend.scan(Table::AlarmsDue, &Range::prefix([]).limit(limit))?;
        let parse = |(key, _): (Vec<u8>, Vec<u8>)| {
            let (due, rest) = key.split_first_chunk()?;
            let (agent, id) = rest.split_first_chunk()?;
            Some(Due {
                agent: AgentId(u32::from_be_bytes(*agent)),
                id: String::from_utf8(id.to_vec()).ok()?,
                due_ms: u64::from_be_bytes(*due),
            })
        };
        Ok(pairs.into_iter().filter_map(parse).collect())
    }

    /// The outgoing items that are not finished, from `from` on.
    pub fn outbox_open(&self, from: Option<OutId>, limit: usize) -> Result<Vec<OutId>> {
        let from = from.map(|id| key::numbered(id.agent, id.n)).unwrap_or_default();
        let range = Range { from, to: None, reverse: false, limit };
        let pairs = self.backend.scan(Table::OutboxOpen, &range)?;
        Ok(pairs.into_iter().filter_map(|(key, _)| key::out(&key)).collect())
    }

    /// An outgoing item.
    pub fn outgoing(&self, id: OutId) -> Result<Option<OutRow>> {
        self.get(Table::Outbox, &key::numbered(id.agent, id.n))
    }

    /// The newest outgoing items of an agent, the newest first.
    pub fn outbox(&self, id: AgentId, limit: usize) -> Result<Vec<(u64, OutRow)>> {
        self.numbered(Table::Outbox, id, Range::prefix(key::agent(id)).reversed().limit(limit))
    }

    /// An agent's dead letters, the oldest first.
    pub fn dead_letters(&self, id: AgentId) -> Result<Vec<(u64, DeadLetter)>> {
        self.numbered(Table::DeadLetters, id, Range::prefix(key::agent(id)))
    }

    /// One dead letter.
    pub fn dead_letter(&self, id: AgentId, n: u64) -> Result<Option<DeadLetter>> {
        self.get(Table::DeadLetters, &key::numbered(id, n))
    }

    /// How many dead letters an agent has.
    pub fn dead_letter_count(&self, id: AgentId) -> Result<usize> {
        Ok(self.backend.scan(Table::DeadLetters, &Range::prefix(key::agent(id)))?.len())
    }

    /// Tick records from `seq` on.
    pub fn records(&self, id: AgentId, seq: u64, limit: usize) -> Result<Vec<Record>> {
        let to = Range::prefix(key::agent(id)).to;
        let range = Range { from: key::numbered(id, seq), to, reverse: false, limit };
        self.backend.scan(Table::Records, &range)?.iter().map(|(_, bytes)| packed::unpack(bytes)).collect()
    }

    /// Mail that was refused, the newest first.
    pub fn refusals(&self, id: AgentId, limit: usize) -> Result<Vec<(u64, Refused)>> {
        self.numbered(Table::Refusals, id, Range::prefix(key::agent(id)).reversed().limit(limit))
    }

    /// Events dealt with whose `created_at` is `since_s` or later.
    pub fn handled(&self, since_s: u64) -> Result<Vec<(u64, EventId)>> {
        let range =
            Range { from: since_s.to_be_bytes().to_vec(), to: None, reverse: false, limit: usize::MAX };
        let pairs = self.backend.scan(Table::Handled, &range)?;
        let parse = |(key, _): (Vec<u8>, Vec<u8>)| {
            let (at, id) = key.split_first_chunk()?;
            Some((u64::from_be_bytes(*at), EventId::from_slice(id).ok()?))
        };
        Ok(pairs.into_iter().filter_map(parse).collect())
    }

    /// Whether an event was dealt with.
    pub fn is_handled(&self, id: &EventId) -> Result<bool> {
        Ok(self.backend.get(Table::HandledIds, id.as_bytes())?.is_some())
    }

    /// Until when a relay has been swept, in seconds since 1970.
    pub fn cursor(&self, relay: &RelayUrl) -> Result<Option<u64>> {
        self.get(Table::Cursors, relay.as_str().as_bytes())
    }

    /// The reply to an operation done before.
    pub fn op(&self, caller: &PublicKey, op: &Hex<16>) -> Result<Option<OpRow>> {
        self.get(Table::Ops, &key::op(caller, op))
    }

    /// A row of a machine that persists through the node.
    pub fn row(&self, space: &str, name: &str) -> Result<Option<Row>> {
        Ok(self.backend.get(Table::Rows, &row_key(space, name))?.and_then(|bytes| split_row(&bytes)))
    }

    /// The rows of one space, by key; the version of each is in it.
    pub fn rows(&self, space: &str, prefix: &str, limit: usize) -> Result<Vec<(String, Row)>> {
        let skip = space.len() + 1;
        let pairs = self.backend.scan(Table::Rows, &Range::prefix(row_key(space, prefix)).limit(limit))?;
        let parse = |(key, bytes): (Vec<u8>, Vec<u8>)| {
            let name = String::from_utf8(key.get(skip..)?.to_vec()).ok()?;
            Some((name, split_row(&bytes)?))
        };
        Ok(pairs.into_iter().filter_map(parse).collect())
    }

    /// The rows of one space from key `from` on, included, by key.
    pub fn rows_from(&self, space: &str, from: &str, limit: usize) -> Result<Vec<(String, Row)>> {
        let skip = space.len() + 1;
        let range = Range { from: row_key(space, from), ..Range::prefix(row_key(space, "")) }.limit(limit);
        let parse = |(key, bytes): (Vec<u8>, Vec<u8>)| {
            let name = String::from_utf8(key.get(skip..)?.to_vec()).ok()?;
            Some((name, split_row(&bytes)?))
        };
        Ok(self.backend.scan(Table::Rows, &range)?.into_iter().filter_map(parse).collect())
    }

    /// What the runs of a tick did on the outside, by ordinal.
    pub fn journal(&self, id: AgentId, envelope: &EnvelopeId) -> Result<Vec<JournalRow>> {
        let rows = self.scan(Table::Journal, &Range::prefix(key::journal(id, envelope)))?;
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    /// The envelopes of an agent whose journals are needed: they wait, or can be put back.
    pub(crate) fn journals_needed(&self, id: AgentId) -> Result<HashSet<EnvelopeId>> {
        let letters = self.dead_letters(id)?.into_iter().map(|(_, letter)| letter.envelope.id);
        let waiting = self.inbox(id, usize::MAX)?.into_iter();
        let waiting =
            waiting.filter(|(_, waiting)| waiting.journaled).map(|(_, waiting)| waiting.envelope.id);
        Ok(letters.chain(waiting).collect())
    }

    /// Raw pairs of a table, for maintenance.
    pub(crate) fn pairs(&self, table: Table, from: Vec<u8>, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.backend.scan(table, &Range { from, to: None, reverse: false, limit })
    }
}

/// A store that does not answer, said to a remote caller.
impl From<BackendError> for OpError {
    fn from(error: BackendError) -> Self {
        Self::new(oa_nips::files::Code::Io, error.to_string())
    }
}
