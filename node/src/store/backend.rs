//! What a store stands on: ordered tables of bytes, changed by one durable transaction at a time.
//!
//! Everything that decides (dedup, quotas, conditional commits) is written once above this trait, in
//! `store::unit`; a backend only keeps bytes. One conformance suite, [`super::conformance`], runs on each.

use std::fmt::Debug;

/// One table. The discriminants are not stored; the names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Facts about the store as a whole: format version, node key, floor.
    Meta,
    /// Agent → its row.
    Agents,
    /// Agent → manifest TOML.
    Manifests,
    /// Name → agent.
    Names,
    /// Public key → agent.
    Pubkeys,
    /// (agent, envelope id) → when it was sent: dedup.
    Seen,
    /// (agent, seq) → envelope waiting for its tick.
    Inbox,
    /// (agent, public key) → what is known of a correspondent.
    Peers,
    /// (agent, path) → content of a file of the agent's state.
    Files,
    /// (agent, alarm id) → alarm.
    Alarms,
    /// (due, agent, alarm id): alarms in the order they fire.
    AlarmsDue,
    /// (agent, n) → outgoing item.
    Outbox,
    /// (agent, n) of items that are not finished.
    OutboxOpen,
    /// (agent, n) → dead letter.
    DeadLetters,
    /// (agent, seq) → tick record.
    Records,
    /// (created_at, event id) of wraps and legacy messages dealt with, for reconciliation.
    Handled,
    /// Event id → created_at of the same.
    HandledIds,
    /// Relay → cursor of the last sweep.
    Cursors,
    /// (caller, op) → request hash and reply.
    Ops,
    /// (agent, n) → mail that was refused, and why; bounded.
    Refusals,
    /// (space, key) → row of a machine that persists through the node.
    Rows,
    /// (agent, envelope, ordinal) → what a tick did on the outside.
    Journal,
    /// (public key, agent): who has, or had, a role with which agent.
    Known,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 23] = [
        Self::Meta,
        Self::Agents,
        Self::Manifests,
        Self::Names,
        Self::Pubkeys,
        Self::Seen,
        Self::Inbox,
        Self::Peers,
        Self::Files,
        Self::Alarms,
        Self::AlarmsDue,
        Self::Outbox,
        Self::OutboxOpen,
        Self::DeadLetters,
        Self::Records,
        Self::Handled,
        Self::HandledIds,
        Self::Cursors,
        Self::Ops,
        Self::Refusals,
        Self::Rows,
        Self::Journal,
        Self::Known,
    ];

    /// The table's name in a database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Agents => "agents",
            Self::Manifests => "manifests",
            Self::Names => "names",
            Self::Pubkeys => "pubkeys",
            Self::Seen => "seen",
            Self::Inbox => "inbox",
            Self::Peers => "peers",
            Self::Files => "files",
            Self::Alarms => "alarms",
            Self::AlarmsDue => "alarms_due",
            Self::Outbox => "outbox",
            Self::OutboxOpen => "outbox_open",
            Self::DeadLetters => "dead_letters",
            Self::Records => "records",
            Self::Handled => "handled",
            Self::HandledIds => "handled_ids",
            Self::Cursors => "cursors",
            Self::Ops => "ops",
            Self::Refusals => "refusals",
            Self::Rows => "rows",
            Self::Journal => "journal",
            Self::Known => "known",
        }
    }
}

/// A put, or with no value a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// In which table.
    pub table: Table,
    /// The key.
    pub key: Vec<u8>,
    /// The new value, or nothing to remove the key.
    pub value: Option<Vec<u8>>,
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Which keys to read, in which direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// First key, included.
    pub from: Vec<u8>,
    /// End, excluded; nothing for the end of the table.
    pub to: Option<Vec<u8>>,
    /// From the end backwards.
    pub reverse: bool,
    /// Most pairs to answer.
    pub limit: usize,
}

impl Range {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let from: Vec<u8> = prefix.into();
        let to = after_prefix(&from);
        Self { from, to, reverse: false, limit: usize::MAX }
    }

    /// At most `limit` pairs.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// The last first.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { reverse: true, ..self }
    }
}

/// The first key after all that begin with `prefix`.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// Why a backend does not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BackendError {
    /// No room to write; nothing was lost, and the store refuses further work.
    #[error("the disk that holds {path} is full")]
    DiskFull { path: String },
    /// The bytes are damaged; nothing was changed.
    #[error("{path} is damaged: {detail}")]
    Corrupt { path: String, detail: String },
    /// Written by a later release.
    #[error("{path} has format {found}, this program knows up to {known}")]
    NewerFormat { path: String, found: i64, known: i64 },
    /// A write failed before; what is in memory may not be on disk.
    #[error("the store stopped after a failed write: {0}")]
    Stopped(String),
    /// Anything else the operating system or the database said.
    #[error("{path}: {detail}")]
    Io { path: String, detail: String },
}

/// Ordered tables of bytes.
///
/// Reads see everything flushed and never wait for a writer. There is one writer.
pub trait Backend: Debug + Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// [`BackendError::Corrupt`], [`BackendError::Io`]
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError>;

    /// The pairs of a range, in order.
    ///
    /// # Errors
    /// [`BackendError::Corrupt`], [`BackendError::Io`]
    fn scan(&self, table: Table, range: &Range) -> Result<Vec<Pair>, BackendError>;

    /// Makes all changes or none, durably: when this returns, a power cut does not undo them.
    ///
    /// # Errors
    /// After any error the backend refuses further flushes with [`BackendError::Stopped`].
    fn flush(&self, changes: &[Change]) -> Result<(), BackendError>;
}
