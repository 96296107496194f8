//! Mail coming in: into the inbox, or dealt with on the spot.

use oa_nips::nostr::{EventId, PublicKey};

use crate::agent::envelope::{Envelope, EnvelopeId, Trust};
use crate::agent::mailbox::{self, Fill, Peer, Recent, Refusal};
use crate::agent::manifest::Overflow;
use crate::agent::{AgentId, Lifecycle};
use crate::store::backend::{BackendError, Table};
use crate::store::row::{AgentRow, DeadLetter, Outgoing, Refused, key};
use crate::store::unit::Tx;
use crate::store::write::{FLOOR, OutRange, Verdict, handled, out, tick};

/// Refusals an agent's log keeps.
const REFUSALS_KEPT: u64 = 1000;

/// A stranger who asks again is told the code again after an hour.
const PAIRING_AGAIN_MS: u64 = 3600 * 1000;
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
        // Rules change: what was handed on is known to whom it was addressed, and the other way round.
        let via = envelope.plumbed.as_ref().and_then(|plumbed| plumbed.via).map(|(via, _)| via);
        for agent in [Some(agent), via].into_iter().flatten() {
            if tx.has(Table::Seen, &key::seen(agent, &envelope.id))? {
                return Ok(Verdict::Duplicate);
            }
        }
        let Some(origin) = envelope.origin.clone() else { return Ok(Verdict::Stale) };
        let peer_key = key::peer(agent, &origin.peer);
        let mut peer: Peer = tx.get(Table::Peers, &peer_key)?.unwrap_or_default();
        let is_strangers = trust == Trust::Stranger;
        let recent = Recent::new(&envelope.text, origin.protocol, envelope.sent_at_ms);
        let floor_s = floor_s(tx, &row, envelope.accepted_at_ms)?;
        let fill = Fill { depth: row.inbox_depth, strangers: row.inbox_strangers, sender: peer.queued };
        let admitted = if row.lifecycle == Lifecycle::Terminated {
            Err(Refusal::Terminated)
        } else if !envelope.text.is_empty() && peer.is_twin(&recent) {
            Err(Refusal::Twin)
        } else {
            mailbox::timely(envelope.sent_at_ms, floor_s, envelope.accepted_at_ms)
                .and_then(|()| mailbox::fits(fill, trust))
        };
        for agent in [Some(agent), via].into_iter().flatten() {
            see(tx, agent, &envelope.id, envelope.sent_at_ms, envelope.accepted_at_ms);
        }
        peer.remember(recent, envelope.accepted_at_ms);
        let verdict = match admitted {
            Err(Refusal::Full) if overflow == Overflow::DeadLetter && !is_strangers => {
                let at_ms = envelope.accepted_at_ms;
                let reason = Refusal::Full.to_string();
                tick::bury(tx, &mut row, DeadLetter { envelope, reason, at_ms, effects: Vec::new() });
                Verdict::Buried(OutRange { agent, from: row.outbox_next, to: row.outbox_next })
            }
            Err(Refusal::Full) if overflow == Overflow::DropOldest && !is_strangers => {
                let dropped = tick::drop_oldest(tx, &mut row)?;
                // The one that made room may be this sender's own, whose row is in hand here.
                if dropped != Some(origin.peer) {
                    peer.queued += 1;
                }
                Verdict::Queued(tick::enqueue(tx, &mut row, envelope, is_strangers))
            }
            Err(reason) => {
                let at_ms = envelope.accepted_at_ms;
                let refused = Refused { from: Some(origin.peer), reason, detail: String::new(), at_ms };
                log_refusal(tx, &mut row, &refused);
                Verdict::Refused(reason)
            }
            Ok(()) => {
                peer.queued += 1;
                Verdict::Queued(tick::enqueue(tx, &mut row, envelope, is_strangers))
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
    /// Its name and when its author dates it, where it could be opened; a repeat changes nothing, and what is too
    /// old or too far ahead does nothing but get logged.
    pub envelope: Option<(EnvelopeId, u64)>,
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
    /// Logs it, and says why: somebody relied on it.
    Decline { from: PublicKey, reason: Refusal, reply: Outgoing },
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
        // What could not be opened has no other name than its event's.
        if self.envelope.is_none() && tx.has(Table::HandledIds, self.event.1.as_bytes())? {
            return Ok(Verdict::Duplicate);
        }
        handled(tx, self.event.0, &self.event.1);
        let mut answer_with = self.answer;
        if let Some((id, sent_at_ms)) = self.envelope {
            if tx.has(Table::Seen, &key::seen(self.agent, &id))? {
                return Ok(Verdict::Duplicate);
            }
            see(tx, self.agent, &id, sent_at_ms, self.at_ms);
            let timely = mailbox::timely(sent_at_ms, floor_s(tx, &row, self.at_ms)?, self.at_ms);
            let stands = matches!(answer_with, Answer::Own | Answer::Decline { .. });
            if let (Err(reason), false) = (timely, stands) {
                let detail = "a command out of its time".to_owned();
                answer_with = Answer::Refuse { from: None, reason, detail };
            }
        }
        let from = row.outbox_next;
        let verdict = answer(tx, &mut row, answer_with, self.at_ms)?;
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
        Answer::Decline { from, reason, reply } => {
            log_refusal(tx, row, &Refused { from: Some(from), reason, detail: String::new(), at_ms });
            out::enqueue(tx, row, reply, at_ms);
        }
        Answer::Claimed { by, reply } => {
            // Two claims at once: the first is the owner.
            if row.claim.take().is_none() {
                return Ok(Verdict::Stale);
            }
            super::agent::own(tx, row, Some(by))?;
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
            if peer.pairing.is_none() || at_ms >= peer.paired_at_ms + PAIRING_AGAIN_MS {
                (peer.pairing, peer.paired_at_ms) = (Some(code), at_ms);
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

/// The floor under an agent's mail. The node's own never reaches into the last days, whatever a clock once said.
fn floor_s(tx: &Tx<'_>, row: &AgentRow, now_ms: u64) -> Result<u64, BackendError> {
    let node_s: u64 = tx.get(Table::Meta, FLOOR.as_bytes())?.unwrap_or(0);
    let highest_s = (now_ms / 1000).saturating_sub(mailbox::FLOOR_BEHIND_S);
    Ok(row.floor_s.max(node_s.min(highest_s)))
}

/// Remembers a message. A date far ahead is remembered as near: the floor must be able to pass it.
fn see(tx: &mut Tx<'_>, agent: AgentId, id: &EnvelopeId, sent_at_ms: u64, now_ms: u64) {
    let dated_ms = sent_at_ms.min(now_ms.saturating_add(mailbox::FUTURE_S_MAX * 1000));
    tx.put_bytes(Table::Seen, key::seen(agent, id), (dated_ms / 1000).to_be_bytes().to_vec());
}

fn log_refusal(tx: &mut Tx<'_>, row: &mut AgentRow, refused: &Refused) {
    tx.put(Table::Refusals, key::numbered(row.id, row.refused_next), refused);
    if let Some(old) = row.refused_next.checked_sub(REFUSALS_KEPT) {
        tx.remove(Table::Refusals, key::numbered(row.id, old));
    }
    row.refused_next += 1;
}
