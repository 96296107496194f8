//! Mail coming in: into the inbox, or dealt with on the spot.

use oa_nips::nostr::{EventId, PublicKey};

use crate::agent::envelope::{Envelope, EnvelopeId, Trust};
use crate::agent::mailbox::{self, Fill, Peer, Recent, Refusal};
use crate::agent::manifest::Overflow;
use crate::agent::{AgentId, Lifecycle};
use crate::store::backend::{BackendError, Table};
use crate::store::row::{AgentRow, Outgoing, Refused, key};
use crate::store::unit::Tx;
use crate::store::write::{FLOOR, OutRange, Verdict, handled, out, tick};

/// Refusals an agent's log keeps.
const REFUSALS_KEPT: u64 = 1000;

/// Wrong codes after which a claim closes: nobody guesses 30 bits in ten tries.
const CLAIM_MISSES_MAX: u32 = 10;

/// Mail that was opened and may be heard.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub agent: AgentId,
    pub envelope: Envelope,
    pub trust: Trust,
    pub overflow: Overflow,
    /// The event it came in, and its `created_at`.
    pub event: (u64, EventId),
}

impl Delivery {
    pub(super) fn apply(self, tx: &mut Tx<'_>) -> Result<Verdict, BackendError> {
        let Self { agent, envelope, trust, overflow, event } = self;
        let Some(mut row) = tx.get::<AgentRow>(Table::Agents, &key::agent(agent))? else {
            return Ok(Verdict::NoAgent);
        };
        handled(tx, event.0, &event.1);
        let seen = key::seen(agent, &envelope.id);
        if tx.has(Table::Seen, &seen)? {
            return Ok(Verdict::Duplicate);
        }
        let Some(origin) = envelope.origin.clone() else { return Ok(Verdict::Stale) };
        let peer_key = key::peer(agent, &origin.peer);
        let mut peer: Peer = tx.get(Table::Peers, &peer_key)?.unwrap_or_default();
        let recent = Recent::new(&envelope.text, origin.protocol, envelope.sent_at_ms);
        let node_floor_s: u64 = tx.get(Table::Meta, FLOOR.as_bytes())?.unwrap_or(0);
        let fill = Fill { depth: row.inbox_depth, strangers: row.inbox_strangers, sender: peer.queued };
        let admitted = if row.lifecycle == Lifecycle::Terminated {
            Err(Refusal::Terminated)
        } else if !envelope.text.is_empty() && peer.is_twin(&recent) {
            Err(Refusal::Twin)
        } else {
            mailbox::timely(envelope.sent_at_ms, row.floor_s.max(node_floor_s), envelope.accepted_at_ms)
                .and_then(|()| mailbox::fits(fill, trust))
        };
        // A date far ahead is remembered as if it were now: the floor must be able to pass it.
        let dated_ms = envelope.sent_at_ms.min(envelope.accepted_at_ms + mailbox::FUTURE_S_MAX * 1000);
        tx.put_bytes(Table::Seen, seen, (dated_ms / 1000).to_be_bytes().to_vec());
        peer.remember(recent, envelope.accepted_at_ms);
        let verdict = match admitted {
            Err(Refusal::Full) if overflow == Overflow::DeadLetter => {
                tick::bury(tx, &mut row, envelope, Refusal::Full.to_string())?;
                Verdict::Buried
            }
            Err(Refusal::Full) if overflow == Overflow::DropOldest => {
                tick::drop_oldest(tx, &mut row)?;
                peer.queued += 1;
                Verdict::Queued(tick::enqueue(tx, &mut row, envelope, trust == Trust::Stranger))
            }
            Err(reason) => {
                let at_ms = envelope.accepted_at_ms;
                let refused = Refused { from: Some(origin.peer), reason, detail: String::new(), at_ms };
                log_refusal(tx, &mut row, &refused);
                Verdict::Refused(reason)
            }
            Ok(()) => {
                peer.queued += 1;
                Verdict::Queued(tick::enqueue(tx, &mut row, envelope, trust == Trust::Stranger))
            }
        };
        tx.put(Table::Peers, peer_key, &peer);
        tx.put(Table::Agents, key::agent(agent), &row);
        Ok(verdict)
    }
}

/// A mail that makes no tick.
#[derive(Debug, Clone)]
pub struct Settled {
    pub agent: AgentId,
    /// The event it came in, and its `created_at`.
    pub event: (u64, EventId),
    /// Its name, where it could be opened; a repeat changes nothing.
    pub envelope: Option<EnvelopeId>,
    pub at_ms: u64,
    pub answer: Answer,
}

/// What the node does about it.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Nothing: it is the agent's own, come back.
    Own,
    /// Logs it.
    Refuse { from: Option<PublicKey>, reason: Refusal, detail: String },
    /// Makes the sender owner by the claim that was open, and says so.
    Claimed { by: PublicKey, reply: Outgoing },
    /// A wrong code: says so, and after too many closes the claim.
    WrongClaim { reply: Outgoing },
    /// Gives a stranger a code, and says how it is used.
    Pair { with: PublicKey, code: String, reply: Outgoing },
    /// Lets a stranger in at the owner's word, and says so to the owner.
    Allow { peer: PublicKey, reply: Outgoing },
    /// Says something.
    Say { reply: Outgoing },
}

impl Settled {
    pub(super) fn apply(self, tx: &mut Tx<'_>) -> Result<Verdict, BackendError> {
        let Some(mut row) = tx.get::<AgentRow>(Table::Agents, &key::agent(self.agent))? else {
            return Ok(Verdict::NoAgent);
        };
        handled(tx, self.event.0, &self.event.1);
        if let Some(id) = self.envelope {
            let seen = key::seen(self.agent, &id);
            if tx.has(Table::Seen, &seen)? {
                return Ok(Verdict::Duplicate);
            }
            tx.put_bytes(Table::Seen, seen, (self.at_ms / 1000).to_be_bytes().to_vec());
        }
        let from = row.outbox_next;
        let verdict = answer(tx, &mut row, self.answer, self.at_ms)?;
        tx.put(Table::Agents, key::agent(self.agent), &row);
        let out = OutRange { agent: self.agent, from, to: row.outbox_next };
        Ok(if verdict == Verdict::Done { Verdict::Landed(out) } else { verdict })
    }
}

fn answer(tx: &mut Tx<'_>, row: &mut AgentRow, answer: Answer, at_ms: u64) -> Result<Verdict, BackendError> {
    match answer {
        Answer::Own => {}
        Answer::Refuse { from, reason, detail } => {
            log_refusal(tx, row, &Refused { from, reason, detail, at_ms });
            return Ok(Verdict::Refused(reason));
        }
        Answer::Claimed { by, reply } => {
            // Two claims at once: the first is the owner.
            if row.claim.take().is_none() {
                return Ok(Verdict::Stale);
            }
            row.owner = Some(by);
            row.version += 1;
            out::enqueue(tx, row, reply, at_ms);
        }
        Answer::WrongClaim { reply } => {
            let mut claim = row.claim.take();
            if let Some(claim) = &mut claim {
                claim.misses += 1;
            }
            row.claim = claim.filter(|claim| claim.misses < CLAIM_MISSES_MAX);
            out::enqueue(tx, row, reply, at_ms);
        }
        Answer::Pair { with, code, reply } => {
            let peer_key = key::peer(row.id, &with);
            let mut peer: Peer = tx.get(Table::Peers, &peer_key)?.unwrap_or_default();
            if peer.pairing.is_none() {
                peer.pairing = Some(code);
                peer.first_seen_ms = at_ms;
                out::enqueue(tx, row, reply, at_ms);
            }
            peer.last_seen_ms = at_ms;
            tx.put(Table::Peers, peer_key, &peer);
            let (reason, detail) = (Refusal::Pairing, String::new());
            log_refusal(tx, row, &Refused { from: Some(with), reason, detail, at_ms });
        }
        Answer::Allow { peer, reply } => {
            let peer_key = key::peer(row.id, &peer);
            let mut known: Peer = tx.get(Table::Peers, &peer_key)?.unwrap_or_default();
            (known.allowed, known.pairing) = (true, None);
            tx.put(Table::Peers, peer_key, &known);
            out::enqueue(tx, row, reply, at_ms);
        }
        Answer::Say { reply } => {
            out::enqueue(tx, row, reply, at_ms);
        }
    }
    Ok(Verdict::Done)
}

fn log_refusal(tx: &mut Tx<'_>, row: &mut AgentRow, refused: &Refused) {
    tx.put(Table::Refusals, key::numbered(row.id, row.refused_next), refused);
    if let Some(old) = row.refused_next.checked_sub(REFUSALS_KEPT) {
        tx.remove(Table::Refusals, key::numbered(row.id, old));
    }
    row.refused_next += 1;
}
