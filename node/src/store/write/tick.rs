//! A tick's commit, its failure, and the envelopes the node makes itself.

use oa_nips::nostr::PublicKey;
use oa_nips::port::RowWrite;
use oa_nips::record::{self, Head, Record};
use serde_json::Value;

use crate::agent::alarm::Alarm;
use crate::agent::envelope::{Envelope, Kind, Trust};
use crate::agent::mailbox::{self, Bucket, Fill, Peer, Refusal};
use crate::agent::{AgentId, Lifecycle};
use crate::store::backend::{BackendError, Table};
use crate::store::packed;
use crate::store::row::{AgentRow, DeadLetter, OutRow, Outgoing, Waiting, key};
use crate::store::unit::Tx;
use crate::store::write::{FileChange, OutRange, Verdict, out};

/// Dead letters an agent keeps.
const DEAD_LETTERS_KEPT: u64 = 100;

/// All that a tick did, to land at once.
#[derive(Debug, Clone)]
pub struct TickCommit {
    pub agent: AgentId,
    /// The agent must still be at this version and lease.
    pub expect_version: u64,
    pub lease_epoch: u64,
    /// The envelope's place in the inbox, which must still hold it.
    pub seq: u64,
    /// Files of the agent's state.
    pub files: Vec<FileChange>,
    pub alarms: Vec<AlarmChange>,
    /// What goes out, signed where the signer is immediate.
    pub out: Vec<OutRow>,
    /// The correspondent whose bucket was drawn on.
    pub bucket: Option<(PublicKey, Bucket)>,
    /// Rows of machines that persist through the node.
    pub rows: Vec<RowWrite>,
    /// What the agent waits for from now on: active, or dormant after its last tick for a while.
    pub lifecycle: Lifecycle,
    pub record: Box<Record>,
    /// The chain after the record.
    pub head: Head,
}

/// An alarm set, or with nothing cancelled.
#[derive(Debug, Clone)]
pub struct AlarmChange {
    pub id: String,
    pub alarm: Option<Alarm>,
}

impl TickCommit {
    pub(super) fn apply(self, tx: &mut Tx<'_>) -> Result<Verdict, BackendError> {
        let agent = self.agent;
        let Some(mut row) = tx.get::<AgentRow>(Table::Agents, &key::agent(agent))? else {
            return Ok(Verdict::NoAgent);
        };
        let inbox = key::numbered(agent, self.seq);
        let waiting: Option<Waiting> = tx.get(Table::Inbox, &inbox)?;
        let (true, Some(waiting)) = (
            row.version == self.expect_version
                && row.lease_epoch == self.lease_epoch
                && row.lifecycle.ticks()
                && row.head.hash == self.record.header.prev,
            waiting,
        ) else {
            return Ok(Verdict::Stale);
        };
        for write in self.rows {
            if super::row(tx, write)? != Verdict::Done {
                return Ok(Verdict::Stale);
            }
        }
        leave_inbox(tx, &mut row, self.seq, &waiting, self.bucket)?;
        put_files(tx, agent, self.files, &self.alarms)?;
        let from = row.outbox_next;
        for item in &self.out {
            out::enqueue_row(tx, &mut row, item);
        }
        let record = packed::pack(&self.record);
        tx.put_bytes(Table::Records, key::numbered(agent, self.record.header.seq), record);
        row.head = self.head;
        row.lifecycle = self.lifecycle;
        // Hearing of a failure, or going to sleep after one, is no success.
        if !matches!(waiting.envelope.kind, Kind::Error | Kind::Sleep) {
            row.failures = 0;
        }
        tx.put(Table::Agents, key::agent(agent), &row);
        Ok(Verdict::Landed(OutRange { agent, from, to: row.outbox_next }))
    }
}

fn put_files(
    tx: &mut Tx<'_>,
    agent: AgentId,
    files: Vec<FileChange>,
    alarms: &[AlarmChange],
) -> Result<(), BackendError> {
    for (path, content) in files {
        let key = key::named(agent, path.as_str());
        match content {
            Some(content) => tx.put_bytes(Table::Files, key, content),
            None => tx.remove(Table::Files, key),
        }
    }
    for change in alarms {
        set_alarm(tx, agent, &change.id, change.alarm.as_ref())?;
    }
    Ok(())
}

/// Changes an agent's files from outside. No tick of it runs meanwhile: whoever writes has its turn.
pub(super) fn change_files(
    tx: &mut Tx<'_>,
    agent: AgentId,
    files: Vec<FileChange>,
    alarms: Vec<AlarmChange>,
) -> Result<Verdict, BackendError> {
    let Some(mut row) = tx.get::<AgentRow>(Table::Agents, &key::agent(agent))? else {
        return Ok(Verdict::NoAgent);
    };
    let written = files.iter().map(|(path, content)| (path.as_str(), content.as_deref()));
    row.head.state = record::state_hash(&row.head.state, written);
    row.version += 1;
    put_files(tx, agent, files, &alarms)?;
    tx.put(Table::Agents, key::agent(agent), &row);
    Ok(Verdict::Done)
}

/// Puts an envelope at the end of the inbox; the caller stores the row.
pub(super) fn enqueue(tx: &mut Tx<'_>, row: &mut AgentRow, envelope: Envelope, is_strangers: bool) -> u64 {
    put_last(tx, row, Waiting { envelope, is_strangers, failures: 0, crashes: 0, journaled: false })
}

/// As [`enqueue`] for an envelope that was given up before; somebody wants it, so it counts against no quota.
pub(super) fn enqueue_again(tx: &mut Tx<'_>, row: &mut AgentRow, envelope: Envelope, journaled: bool) -> u64 {
    put_last(tx, row, Waiting { envelope, is_strangers: false, failures: 0, crashes: 0, journaled })
}

fn put_last(tx: &mut Tx<'_>, row: &mut AgentRow, waiting: Waiting) -> u64 {
    let seq = row.inbox_next;
    row.inbox_next += 1;
    row.inbox_depth += 1;
    row.inbox_strangers += u32::from(waiting.is_strangers);
    tx.put(Table::Inbox, key::numbered(row.id, seq), &waiting);
    seq
}

pub(super) fn leave_inbox(
    tx: &mut Tx<'_>,
    row: &mut AgentRow,
    seq: u64,
    waiting: &Waiting,
    bucket: Option<(PublicKey, Bucket)>,
) -> Result<(), BackendError> {
    tx.remove(Table::Inbox, key::numbered(row.id, seq));
    row.inbox_depth = row.inbox_depth.saturating_sub(1);
    row.inbox_strangers = row.inbox_strangers.saturating_sub(u32::from(waiting.is_strangers));
    let sender = waiting.envelope.sender();
    for key in [sender, bucket.map(|(peer, _)| peer)]
        .into_iter()
        .flatten()
        .collect::<std::collections::BTreeSet<_>>()
    {
        let peer_key = key::peer(row.id, &key);
        let mut peer: Peer = tx.get(Table::Peers, &peer_key)?.unwrap_or_default();
        if sender == Some(key) {
            peer.queued = peer.queued.saturating_sub(1);
        }
        if let Some((_, bucket)) = bucket.filter(|(peer, _)| *peer == key) {
            peer.bucket = Some(bucket);
        }
        tx.put(Table::Peers, peer_key, &peer);
    }
    Ok(())
}

/// Notes that messages were sent to a correspondent.
pub(super) fn draw(
    tx: &mut Tx<'_>,
    agent: AgentId,
    peer: &PublicKey,
    bucket: Bucket,
) -> Result<Verdict, BackendError> {
    let peer_key = key::peer(agent, peer);
    let mut known: Peer = tx.get(Table::Peers, &peer_key)?.unwrap_or_default();
    known.bucket = Some(bucket);
    tx.put(Table::Peers, peer_key, &known);
    Ok(Verdict::Done)
}

/// Drops the oldest envelope that waits, and answers whose it was; the caller stores the row.
pub(super) fn drop_oldest(tx: &mut Tx<'_>, row: &mut AgentRow) -> Result<Option<PublicKey>, BackendError> {
    let keys = tx.keys(Table::Inbox, &key::agent(row.id))?;
    let Some(seq) = keys.first().and_then(|key| key::number(key)) else { return Ok(None) };
    let Some(waiting) = tx.get::<Waiting>(Table::Inbox, &key::numbered(row.id, seq))? else {
        return Ok(None);
    };
    leave_inbox(tx, row, seq, &waiting, None)?;
    Ok(waiting.envelope.sender())
}

/// Keeps an envelope as a dead letter; the caller stores the row.
pub(super) fn bury(tx: &mut Tx<'_>, row: &mut AgentRow, letter: DeadLetter) {
    tx.put(Table::DeadLetters, key::numbered(row.id, row.dead_next), &letter);
    if let Some(old) = row.dead_next.checked_sub(DEAD_LETTERS_KEPT) {
        tx.remove(Table::DeadLetters, key::numbered(row.id, old));
    }
    row.dead_next += 1;
}

/// A tick that did not commit, or a process that died under one.
#[derive(Debug, Clone)]
pub struct Failed {
    pub agent: AgentId,
    pub seq: u64,
    /// For the dead letter.
    pub reason: String,
    /// What its runs did outside, which stays done.
    pub effects: Vec<Value>,
    /// Failures are the program's; crashes are the process's, and are counted apart.
    pub is_crash: bool,
    /// At this many the envelope is given up and the agent's lifecycle becomes the one given.
    pub max: u32,
    pub then: Option<Lifecycle>,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What lands with the dead letter, if it comes to that.
    pub told: Option<Told>,
}

/// Who hears of an envelope that was given up.
#[derive(Debug, Clone)]
pub enum Told {
    /// The program, by an envelope.
    Program(Box<Envelope>),
    /// The owner, by a message.
    Owner(Box<Outgoing>),
}

impl Failed {
    pub(super) fn apply(self, tx: &mut Tx<'_>) -> Result<Verdict, BackendError> {
        let Some(mut row) = tx.get::<AgentRow>(Table::Agents, &key::agent(self.agent))? else {
            return Ok(Verdict::NoAgent);
        };
        let inbox = key::numbered(self.agent, self.seq);
        let Some(mut waiting) = tx.get::<Waiting>(Table::Inbox, &inbox)? else {
            return Ok(Verdict::Duplicate);
        };
        let count = if self.is_crash { &mut waiting.crashes } else { &mut waiting.failures };
        *count += 1;
        if *count < self.max {
            tx.put(Table::Inbox, inbox, &waiting);
            return Ok(Verdict::Done);
        }
        leave_inbox(tx, &mut row, self.seq, &waiting, None)?;
        let letter = DeadLetter {
            envelope: waiting.envelope,
            reason: self.reason.clone(),
            at_ms: self.at_ms,
            effects: self.effects,
        };
        bury(tx, &mut row, letter);
        row.failures += 1;
        let from = row.outbox_next;
        match self.told {
            Some(Told::Program(envelope)) => drop(enqueue(tx, &mut row, *envelope, false)),
            Some(Told::Owner(outgoing)) => drop(out::enqueue(tx, &mut row, *outgoing, self.at_ms)),
            None => {}
        }
        if let Some(lifecycle) = self.then {
            (row.lifecycle, row.reason) = (lifecycle, Some(self.reason));
            row.version += 1;
        }
        tx.put(Table::Agents, key::agent(self.agent), &row);
        Ok(Verdict::Buried(OutRange { agent: self.agent, from, to: row.outbox_next }))
    }
}

/// An envelope of the node's own making.
#[derive(Debug, Clone)]
pub struct Poke {
    pub agent: AgentId,
    pub envelope: Envelope,
}

impl Poke {
    pub(super) fn apply(self, tx: &mut Tx<'_>) -> Result<Verdict, BackendError> {
        let Some(mut row) = tx.get::<AgentRow>(Table::Agents, &key::agent(self.agent))? else {
            return Ok(Verdict::NoAgent);
        };
        let via = self.envelope.plumbed.as_ref().and_then(|plumbed| plumbed.via).map(|(via, _)| via);
        let seen =
            [Some(self.agent), via].map(|agent| agent.map(|agent| key::seen(agent, &self.envelope.id)));
        for seen in seen.iter().flatten() {
            if tx.has(Table::Seen, seen)? {
                return Ok(Verdict::Duplicate);
            }
        }
        let sender = match self.envelope.sender() {
            Some(sender) => {
                let peer_key = key::peer(self.agent, &sender);
                let peer: Peer = tx.get(Table::Peers, &peer_key)?.unwrap_or_default();
                Some((peer_key, peer))
            }
            None => None,
        };
        let is_event = matches!(self.envelope.kind, Kind::Event | Kind::Ws | Kind::Workspace);
        if is_event && let Err(reason) = admit(&row, sender.as_ref().map(|(_, peer)| peer)) {
            return Ok(Verdict::Refused(reason));
        }
        // An event says itself how old it is, and must be remembered all the same.
        let dated_ms = if is_event { self.envelope.accepted_at_ms } else { self.envelope.sent_at_ms };
        for seen in seen.into_iter().flatten() {
            tx.put_bytes(Table::Seen, seen, (dated_ms / 1000).to_be_bytes().to_vec());
        }
        if let Some((peer_key, mut peer)) = sender {
            peer.queued += 1;
            tx.put(Table::Peers, peer_key, &peer);
        }
        let seq = enqueue(tx, &mut row, self.envelope, is_event);
        tx.put(Table::Agents, key::agent(self.agent), &row);
        Ok(Verdict::Queued(seq))
    }
}

/// Whether one more event fits: it counts against the strangers' half, and one that does not fit is not remembered, so
/// that it may come again.
fn admit(row: &AgentRow, author: Option<&Peer>) -> Result<(), Refusal> {
    if row.lifecycle == Lifecycle::Terminated {
        return Err(Refusal::Terminated);
    }
    let sender = author.map_or(0, |peer| peer.queued);
    mailbox::fits(Fill { depth: row.inbox_depth, strangers: row.inbox_strangers, sender }, Trust::Stranger)
}

/// An alarm that goes off.
#[derive(Debug, Clone)]
pub struct AlarmFiring {
    pub agent: AgentId,
    pub id: String,
    /// What it must still be due at, in milliseconds since 1970.
    pub due_ms: u64,
    /// What tells of it; nothing where a rule drops that.
    pub envelope: Option<Envelope>,
    /// The alarm from now on; nothing when it was the last time.
    pub next: Option<Alarm>,
}

impl AlarmFiring {
    pub(super) fn apply(self, tx: &mut Tx<'_>) -> Result<Verdict, BackendError> {
        let alarm: Option<Alarm> = tx.get(Table::Alarms, &key::named(self.agent, &self.id))?;
        if alarm.is_none_or(|alarm| alarm.due_ms != self.due_ms) {
            return Ok(Verdict::Stale);
        }
        // An agent that does not tick lets its alarms wait, and counts what it missed when it goes on.
        let row: Option<AgentRow> = tx.get(Table::Agents, &key::agent(self.agent))?;
        if !row.is_some_and(|row| row.lifecycle.ticks()) {
            tx.remove(Table::AlarmsDue, key::due(self.due_ms, self.agent, &self.id));
            return Ok(Verdict::Done);
        }
        set_alarm(tx, self.agent, &self.id, self.next.as_ref())?;
        match self.envelope {
            Some(envelope) => Poke { agent: self.agent, envelope }.apply(tx),
            None => Ok(Verdict::Done),
        }
    }
}

/// Puts an agent's alarms back in the order they fire.
pub(super) fn wind_alarms(tx: &mut Tx<'_>, agent: AgentId) -> Result<(), BackendError> {
    for (id, alarm) in alarms(tx, agent)? {
        set_alarm(tx, agent, &id, Some(&alarm))?;
    }
    Ok(())
}

/// Cancels all of an agent's alarms.
pub(super) fn cancel_alarms(tx: &mut Tx<'_>, agent: AgentId) -> Result<(), BackendError> {
    for (id, _) in alarms(tx, agent)? {
        set_alarm(tx, agent, &id, None)?;
    }
    Ok(())
}

fn alarms(tx: &Tx<'_>, agent: AgentId) -> Result<Vec<(String, Alarm)>, BackendError> {
    let mut alarms = Vec::new();
    for key in tx.keys(Table::Alarms, &key::agent(agent))? {
        let id = key.get(4..).and_then(|id| String::from_utf8(id.to_vec()).ok());
        if let (Some(id), Some(alarm)) = (id, tx.get(Table::Alarms, &key)?) {
            alarms.push((id, alarm));
        }
    }
    Ok(alarms)
}

pub(super) fn set_alarm(
    tx: &mut Tx<'_>,
    agent: AgentId,
    id: &str,
    alarm: Option<&Alarm>,
) -> Result<(), BackendError> {
    let key = key::named(agent, id);
    if let Some(old) = tx.get::<Alarm>(Table::Alarms, &key)? {
        tx.remove(Table::AlarmsDue, key::due(old.due_ms, agent, id));
    }
    match alarm {
        Some(alarm) => {
            tx.put_bytes(Table::AlarmsDue, key::due(alarm.due_ms, agent, id), Vec::new());
            tx.put(Table::Alarms, key, alarm);
        }
        None => tx.remove(Table::Alarms, key),
    }
    Ok(())
}
