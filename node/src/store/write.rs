//! The writes a store knows, what each checks, and what it answers.

mod agent;
mod import;
mod journal;
mod known;
mod letter;
mod mail;
mod out;
mod tick;

use oa_nips::hex::Hex;
use oa_nips::nostr::{EventId, PublicKey, RelayUrl};
use oa_nips::port::{Row, RowWrite};

pub(crate) use agent::PROFILES;
pub use agent::{AgentChange, NewAgent};
pub(crate) use import::LEFT_BEHIND;
pub(crate) use import::handed_over;
pub use import::{Answered, Holdings, Import};
pub use journal::Journaled;
pub use letter::LetterChange;
pub use mail::{Answer, Delivery, Settled};
pub use out::Published;
pub use tick::{AlarmChange, AlarmFiring, Failed, Poke, TickCommit, Told};

use crate::agent::AgentId;
use crate::agent::envelope::EnvelopeId;
use crate::agent::mailbox::{Bucket, Refusal};
use crate::namespace::Path;
use crate::store::backend::{BackendError, Table};
use crate::store::row::{OpRow, OutId, OutRow, Outgoing, key};
use crate::store::unit::Tx;

/// One write.
#[derive(Debug, Clone)]
pub enum Write {
    /// Creates an agent with its first envelope.
    CreateAgent(Box<NewAgent>),
    /// Takes in an agent from a bundle.
    Import(Box<Import>),
    /// Notes what an agent answered while it was elsewhere.
    Answered(Answered),
    /// Gives the node itself a mailbox and an outbox, if it has none: key, time in milliseconds since 1970.
    Node(PublicKey, u64),
    /// Changes what an operator or owner may change of an agent.
    ChangeAgent(AgentId, AgentChange),
    /// Takes mail into an inbox: dedup, floor, quotas.
    Deliver(Box<Delivery>),
    /// Notes mail as dealt with without a tick: answered by the node, refused, or unreadable.
    Settle(Box<Settled>),
    /// Commits a tick.
    Commit(Box<TickCommit>),
    /// Counts a failure against an envelope, and gives it up when there were too many.
    Fail(Failed),
    /// Puts an envelope of the node's own making into an inbox.
    Poke(Box<Poke>),
    /// Puts a dead letter back into the inbox, or drops it.
    Letter(AgentId, u64, LetterChange),
    /// Notes what a tick is about to do, or has done, on the outside.
    Journal(Box<Journaled>),
    /// Changes files of an agent's state between its ticks.
    Files(AgentId, Vec<FileChange>, Vec<AlarmChange>),
    /// Lets an alarm go off: its envelope and its next time.
    Fire(Box<AlarmFiring>),
    /// Sets what may still be said to a correspondent, after it was drawn on.
    Draw(AgentId, PublicKey, Bucket),
    /// Adds an outgoing item.
    Send(AgentId, Box<Outgoing>, u64),
    /// Moves an outgoing item on.
    Out(OutId, Box<OutRow>),
    /// Hands tick records to the outbox.
    Publish(Box<Published>),
    /// Notes events as dealt with, for reconciliation: (created_at, id).
    Handled(Vec<(u64, EventId)>),
    /// Moves a relay's cursor, in seconds since 1970.
    Cursor(RelayUrl, u64),
    /// Raises the floor of every agent, in seconds since 1970.
    Floor(u64),
    /// Keeps the reply to an operation.
    Op(PublicKey, Hex<16>, Box<OpRow>),
    /// Forgets rows whose time is over; see `maintenance`.
    Forget(Table, Vec<Vec<u8>>),
    /// Lets go of the journals of ticks that are over.
    Prune(Vec<(AgentId, EnvelopeId)>),
    /// Lets go of rows of an agent that is gone, if it still is, at this version.
    Clear { agent: AgentId, version: u64, table: Table, keys: Vec<Vec<u8>> },
    /// Writes a row of a machine that persists through the node.
    Row(RowWrite),
    /// Sets a fact about the store.
    Meta(&'static str, Vec<u8>),
}

/// A file of an agent's state by its path, and its content; nothing removes it.
pub type FileChange = (Path, Option<Vec<u8>>);

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Done,
    /// Done, and these items of the outbox are new.
    Landed(OutRange),
    /// An envelope is in the inbox at this place.
    Queued(u64),
    /// Nothing changed: it was there already.
    Duplicate,
    /// Mail was refused and logged.
    Refused(Refusal),
    /// An envelope was given up, and these items of the outbox tell of it.
    Buried(OutRange),
    /// The condition no longer holds; nothing of the unit was done.
    Stale,
    /// The name is taken; nothing of the unit was done.
    NameTaken,
    /// There is no such agent; nothing of the unit was done.
    NoAgent,
}

/// Items added to an outbox: from the first up to, not including, the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutRange {
    pub agent: AgentId,
    pub from: u64,
    pub to: u64,
}

impl OutRange {
    /// The items.
    pub fn ids(self) -> impl Iterator<Item = OutId> {
        (self.from..self.to).map(move |n| OutId { agent: self.agent, n })
    }
}

impl Verdict {
    /// Whether the unit as a whole is given up.
    pub(crate) fn stops_unit(&self) -> bool {
        matches!(self, Self::Stale | Self::NameTaken | Self::NoAgent)
    }

    /// Whether nothing follows mail of which this became: what would was done with it before, or it came out of its time
    /// and asks for nothing. What else is refused may be followed by a letter that says so.
    pub(crate) fn ends_unit(&self) -> bool {
        matches!(self, Self::Duplicate | Self::Refused(Refusal::BelowFloor | Refusal::Future))
    }
}

impl Write {
    pub(super) fn apply(self, tx: &mut Tx<'_>) -> Result<Verdict, BackendError> {
        match self {
            Self::CreateAgent(new) => new.apply(tx),
            Self::Import(import) => import.apply(tx),
            Self::Answered(answered) => answered.apply(tx),
            Self::Node(pubkey, at_ms) => agent::put_node(tx, pubkey, at_ms),
            Self::ChangeAgent(agent, change) => change.apply(agent, tx),
            Self::Deliver(delivery) => delivery.apply(tx),
            Self::Settle(settled) => settled.apply(tx),
            Self::Commit(commit) => commit.apply(tx),
            Self::Fail(failed) => failed.apply(tx),
            Self::Poke(poke) => poke.apply(tx),
            Self::Letter(agent, n, change) => change.apply(agent, n, tx),
            Self::Journal(journaled) => journaled.apply(tx),
            Self::Files(agent, files, alarms) => tick::change_files(tx, agent, files, alarms),
            Self::Fire(firing) => firing.apply(tx),
            Self::Draw(agent, peer, bucket) => tick::draw(tx, agent, &peer, bucket),
            Self::Send(agent, outgoing, at_ms) => out::send(tx, agent, *outgoing, at_ms),
            Self::Out(id, row) => out::update(tx, id, &row),
            Self::Publish(published) => published.apply(tx),
            Self::Handled(events) => {
                events.iter().for_each(|(at_s, id)| handled(tx, *at_s, id));
                Ok(Verdict::Done)
            }
            Self::Cursor(relay, at_s) => {
                tx.put(Table::Cursors, relay.as_str().as_bytes().to_vec(), &at_s);
                Ok(Verdict::Done)
            }
            Self::Floor(floor_s) => raise_floor(tx, floor_s),
            Self::Op(caller, op, row) => {
                tx.put(Table::Ops, key::op(&caller, &op), &row);
                Ok(Verdict::Done)
            }
            Self::Forget(table, keys) => {
                keys.into_iter().for_each(|key| forget(tx, table, key));
                Ok(Verdict::Done)
            }
            Self::Prune(over) => journal::prune(tx, over),
            Self::Clear { agent, version, table, keys } => agent::clear(tx, agent, version, table, keys),
            Self::Row(write) => row(tx, write),
            Self::Meta(name, value) => {
                tx.put_bytes(Table::Meta, name.as_bytes().to_vec(), value);
                Ok(Verdict::Done)
            }
        }
    }
}

/// The key of the node-wide floor in [`Table::Meta`].
pub(super) const FLOOR: &str = "floor";

fn raise_floor(tx: &mut Tx<'_>, floor_s: u64) -> Result<Verdict, BackendError> {
    let old: u64 = tx.get(Table::Meta, FLOOR.as_bytes())?.unwrap_or(0);
    if floor_s > old {
        tx.put(Table::Meta, FLOOR.as_bytes().to_vec(), &floor_s);
    }
    Ok(Verdict::Done)
}

fn handled(tx: &mut Tx<'_>, at_s: u64, id: &EventId) {
    tx.put_bytes(Table::Handled, key::timed(at_s, id.as_bytes()), Vec::new());
    tx.put_bytes(Table::HandledIds, id.as_bytes().to_vec(), at_s.to_be_bytes().to_vec());
}

fn forget(tx: &mut Tx<'_>, table: Table, key: Vec<u8>) {
    if let (Table::Handled, Some(id)) = (table, key.last_chunk::<32>()) {
        tx.remove(Table::HandledIds, id.to_vec());
    }
    tx.remove(table, key);
}

/// Rows carry their version in the first eight bytes.
fn row(tx: &mut Tx<'_>, write: RowWrite) -> Result<Verdict, BackendError> {
    let key = row_key(&write.space, &write.key);
    let version =
        tx.bytes(Table::Rows, &key)?.and_then(|bytes| split_row(&bytes)).map_or(0, |row| row.version);
    if version != write.expect_version {
        return Ok(Verdict::Stale);
    }
    match write.value {
        Some(value) => {
            let bytes = [&(version + 1).to_be_bytes()[..], &value].concat();
            tx.put_bytes(Table::Rows, key, bytes);
        }
        None => tx.remove(Table::Rows, key),
    }
    Ok(Verdict::Done)
}

pub(super) fn row_key(space: &str, key: &str) -> Vec<u8> {
    [space.as_bytes(), b"\0", key.as_bytes()].concat()
}

pub(super) fn split_row(bytes: &[u8]) -> Option<Row> {
    let (version, value) = bytes.split_first_chunk()?;
    Some(Row { version: u64::from_be_bytes(*version), value: value.to_vec() })
}
