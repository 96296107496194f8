//! Dead letters: put back into the inbox as they are, put back as something new, or dropped.

use crate::agent::envelope::EnvelopeId;
use crate::agent::mailbox::{INBOX_MAX, Peer};
use crate::agent::{AgentId, Lifecycle};
use crate::store::backend::{BackendError, Table};
use crate::store::row::{AgentRow, DeadLetter, key};
use crate::store::unit::Tx;
use crate::store::write::{Verdict, tick};

/// What becomes of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterChange {
    /// Goes back to the end of the inbox under its own name, with its journal: what was done outside is not done
    /// again.
    Replay,
    /// Goes back under another name, accepted at this time in milliseconds since 1970. Its journal goes: whatever was
    /// done outside is done again.
    Rerun { id: EnvelopeId, at_ms: u64 },
    /// Goes, and its journal with it.
    Drop,
}

impl LetterChange {
    /// `Stale` when the letter is gone, when the agent is terminated, and when the inbox is full.
    pub(super) fn apply(self, agent: AgentId, n: u64, tx: &mut Tx<'_>) -> Result<Verdict, BackendError> {
        let Some(mut row) = tx.get::<AgentRow>(Table::Agents, &key::agent(agent))? else {
            return Ok(Verdict::NoAgent);
        };
        let place = key::numbered(agent, n);
        let Some(DeadLetter { mut envelope, .. }) = tx.get(Table::DeadLetters, &place)? else {
            return Ok(Verdict::Stale);
        };
        let cannot_wait = row.lifecycle == Lifecycle::Terminated || row.inbox_depth >= INBOX_MAX;
        if cannot_wait && self != Self::Drop {
            return Ok(Verdict::Stale);
        }
        tx.remove(Table::DeadLetters, place);
        let journal = tx.keys(Table::Journal, &key::journal(agent, &envelope.id))?;
        let is_journaled = self == Self::Replay && !journal.is_empty();
        if self != Self::Replay {
            journal.into_iter().for_each(|line| tx.remove(Table::Journal, line));
        }
        match self {
            Self::Drop => return Ok(Verdict::Done),
            Self::Replay => {}
            Self::Rerun { id, at_ms } => {
                let seen = key::seen(agent, &id);
                if tx.has(Table::Seen, &seen)? {
                    return Ok(Verdict::Stale);
                }
                tx.put_bytes(Table::Seen, seen, (at_ms / 1000).to_be_bytes().to_vec());
                (envelope.id, envelope.accepted_at_ms) = (id, at_ms);
            }
        }
        if let Some(sender) = envelope.sender() {
            let peer_key = key::peer(agent, &sender);
            let mut peer: Peer = tx.get(Table::Peers, &peer_key)?.unwrap_or_default();
            peer.queued += 1;
            tx.put(Table::Peers, peer_key, &peer);
        }
        let seq = tick::enqueue_again(tx, &mut row, envelope, is_journaled);
        tx.put(Table::Agents, key::agent(agent), &row);
        Ok(Verdict::Queued(seq))
    }
}
