//! A reader's side of a chain: records of one session, from outside, one after the other.

use super::{ChainError, Head, RECORD_BYTES_MAX, Record, SessionId, canonical};
use crate::hex::Hash;

/// Follows the records of one session and keeps the head. A record that is refused changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    agent: Hash,
    session: SessionId,
    head: Head,
}

impl Chain {
    /// The chain of an agent's session from `head` on; [`Head::GENESIS`] for all of it.
    pub fn new(agent: Hash, session: SessionId, head: Head) -> Self {
        Self { agent, session, head }
    }

    /// Where it stands.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// Those of [`Record::verify`], and when the record is too large or of another agent or session: the hash of
    /// the header before binds the past, not the name on the next record.
    pub fn push(&mut self, record: &Record) -> Result<(), ChainError> {
        let seq = record.header.seq;
        if record.header.agent != self.agent || record.header.session != self.session {
            return Err(ChainError::Foreign { seq });
        }
        if canonical(record).len() > RECORD_BYTES_MAX {
            return Err(ChainError::TooLarge { seq });
        }
        self.head = record.verify(&self.head)?;
        Ok(())
    }
}
