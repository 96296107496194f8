//! Where rows are kept: what machines of this crate read ([`Rows`]), and a database of `oa-wallet`'s own ([`Store`]).
//!
//! The ledger does not own a database. It reads rows, and answers with conditional writes ([`RowWrite`]) that whoever
//! runs it puts into the transaction they belong to: a node into that of a tick, `oa-wallet` into one of its own
//! through [`Store::commit`]. [`Draft`] is how one piece of work reads and changes rows. One suite,
//! [`conformance`], runs on every store.

pub mod conformance;
pub(crate) mod draft;
mod memory;
mod sqlite;

use std::fmt::Debug;

use oa_nips::port::{Row, RowWrite};

pub use draft::Draft;
pub use memory::MemoryStore;
pub use sqlite::SqliteStore;

/// A key and its row.
pub type Keyed = (String, Row);

/// Reads rows as they were last committed.
pub trait Rows: Debug {
    /// One row, if it is there.
    ///
    /// # Errors
    /// [`StoreError`]
    fn get(&self, space: &str, key: &str) -> Result<Option<Row>, StoreError>;

    /// The rows of a space from key `from` on, included, in the order of their bytes; at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`]
    fn scan(&self, space: &str, from: &str, limit: usize) -> Result<Vec<Keyed>, StoreError>;
}

/// Keeps rows. There is one writer; readers never wait for it.
pub trait Store: Rows + Send + Sync {
    /// Writes each unit as a whole or not at all, in order, all of them in one durable flush: when this returns, a
    /// power cut undoes nothing. A unit one of whose rows has another version than it expects is left out, and those
    /// after it see none of it.
    ///
    /// # Errors
    /// After any error nothing of the flush is kept, and the store takes no more ([`StoreError::Stopped`]).
    fn commit(&self, units: &[Vec<RowWrite>]) -> Result<Vec<Verdict>, StoreError>;
}

/// What became of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is on disk.
    Done,
    /// This row is not as expected: nothing of the unit was done, and whoever made it reads again.
    Stale { space: String, key: String },
}

/// Why a store does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No room to write; nothing was lost.
    #[error("the disk that holds {path} is full")]
    DiskFull { path: String },
    /// The bytes are damaged; nothing was changed.
    #[error("{place} is damaged: {detail}")]
    Corrupt { place: String, detail: String },
    /// Written by a later release.
    #[error("{path} has format {found}, this program knows up to {known}")]
    NewerFormat { path: String, found: i64, known: i64 },
    /// A write failed before; what was read since may not be on disk.
    #[error("the store stopped after a failed write: {0}")]
    Stopped(String),
    /// Anything else the operating system or the database said.
    #[error("{path}: {detail}")]
    Io { path: String, detail: String },
}
