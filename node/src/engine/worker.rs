//! A worker: runs the ticks of one agent, envelope after envelope, until none is left or others should have a turn.

use std::sync::Arc;

use oa_nips::mail::{Draft, Protocol};
use oa_nips::nostr::ToBech32;

use crate::agent::AgentId;
use crate::agent::Lifecycle;
use crate::agent::envelope::{Envelope, Kind, Trust};
use crate::agent::mailbox;
use crate::engine::ahead::{Ahead, Landing};
use crate::engine::hooks::After;
use crate::engine::plan::Plan;
use crate::engine::running::Slot;
use crate::engine::schedule::Left;
use crate::engine::shared::Shared;
use crate::engine::supervisor::{Blocked, Cause, Judgement, judge};
use crate::engine::tick::{self, Begun, Made, NoCommit};
use crate::engine::world;
use crate::namespace::CallMade;
use crate::notice::Notice;
use crate::program::Fault;
use crate::store::backend::BackendError;
use crate::store::row::{AgentRow, Outgoing, Waiting};
use crate::store::write::{Failed, Told, Verdict, Write};

/// Envelopes of one agent in a row, before others have a turn.
const TURN: usize = 128;
/// Envelopes looked at in one read: more than an inbox holds.
const INBOX_READ: usize = mailbox::INBOX_MAX as usize * 2;
/// Envelopes in a row before it is looked who else has written.
const LOOK: usize = 16;
/// The pause after an error that is not the program's, in milliseconds.
pub(super) const AFTER_ERROR_MS: u64 = 5000;
/// The pause before an agent without the lease of its own key is looked at again, in milliseconds.
const NOT_HELD_MS: u64 = 500;

/// Works through an agent's inbox, for one turn.
pub(crate) async fn work(shared: &Shared, blocked: &Blocked, agent: AgentId) -> Left {
    let mut ahead = Ahead::new(shared, agent);
    let left = turn(shared, blocked, agent, &mut ahead).await;
    let settled = ahead.settle().await;
    settled.and(left).unwrap_or_else(|error| {
        // A store that stopped ends the node; what cannot be read now may be readable later.
        tracing::error!(%agent, %error, "tick given up");
        Left::Until(shared.time.now_ms().saturating_add(AFTER_ERROR_MS))
    })
}

async fn turn(
    shared: &Shared,
    blocked: &Blocked,
    agent: AgentId,
    ahead: &mut Ahead<'_>,
) -> Result<Left, BackendError> {
    let mut plan = Plan::default();
    if shared.tenure.epoch_of(agent).is_none() {
        // Of its own key, which another node may have: it is looked again.
        return Ok(Left::Until(shared.time.now_ms().saturating_add(NOT_HELD_MS)));
    }
    for n in 0..TURN {
        let mut next = if n % LOOK == 0 { None } else { plan.take() };
        if next.is_none() {
            for (seq, waiting) in shared.decided.inbox_from(agent, plan.next_seq(), INBOX_READ)? {
                plan.add(seq, waiting.envelope.sender());
            }
            next = plan.take();
        }
        let Some((seq, sender)) = next else {
            return Ok(plan.held_until_ms().map_or(Left::Empty, Left::Until));
        };
        if let Some(until_ms) = blocked.until(agent, sender, shared.time.now_ms()) {
            plan.hold(sender, until_ms);
            continue;
        }
        ahead.begin().await;
        // First whether it may tick, then what on: what left the inbox before it could is gone by then.
        let row = match may_tick(shared, agent)? {
            Ok(row) => row,
            Err(left) => return Ok(left),
        };
        // It may have made room for another meanwhile.
        let Some(waiting) = shared.decided.waiting(agent, seq)? else { continue };
        let begun = begin(shared, row, seq, waiting)?;
        if !step(shared, blocked, begun, ahead).await? {
            return Ok(Left::More);
        }
        // One that failed waits for its next try, and what its sender wrote after it waits behind it.
        if let Some(until_ms) = blocked.until(agent, sender, shared.time.now_ms()) {
            plan.hold(sender, until_ms);
        }
    }
    Ok(Left::More)
}

/// The agent, if it may tick now; else how its turn ends.
fn may_tick(shared: &Shared, agent: AgentId) -> Result<Result<AgentRow, Left>, BackendError> {
    if shared.tenure.epoch_of(agent).is_none() {
        return Ok(Err(Left::Until(shared.time.now_ms().saturating_add(NOT_HELD_MS))));
    }
    // Whoever lets it tick again says so, and its mail is looked at then.
    Ok(shared.decided.agent(agent)?.filter(|row| row.lifecycle.ticks()).ok_or(Left::Empty))
}

/// What a tick starts from.
fn begin(shared: &Shared, row: AgentRow, seq: u64, waiting: Waiting) -> Result<Begun, BackendError> {
    let manifest = shared.manifests.get(&shared.decided, row.id, row.version)?;
    let trust = world::trust(&shared.decided, &row, &manifest, &waiting.envelope)?;
    let Waiting { envelope, failures, journaled, .. } = waiting;
    let (row, envelope) = (Arc::new(row), Arc::new(envelope));
    Ok(Begun { row, manifest, seq, envelope, failures, journaled, trust })
}

/// One envelope; answers whether the turn may go on.
async fn step(
    shared: &Shared,
    blocked: &Blocked,
    begun: Begun,
    ahead: &mut Ahead<'_>,
) -> Result<bool, BackendError> {
    shared.feeds.tick_begins(&begun);
    let _slot = shared.running.enter(begun.row.id, begun.envelope.id.0);
    let Some(program) = shared.programs.get(&begun.manifest.program) else {
        let reason = format!("there is no program {:?}", begun.manifest.program);
        ahead.settle().await?;
        return fail(shared, blocked, &begun, Cause::Program, reason, &[]).await;
    };
    let started = std::time::Instant::now();
    let run = Box::pin(tick::run(shared, &begun, &*program, ahead.is_behind()));
    let tick::Failed { why, calls } = match ahead.beside(run).await {
        Ok(made) => return land(shared, begun, made, started, ahead).await,
        Err(failed) => failed,
    };
    let cause = match &why {
        NoCommit::PutOff(reason) => {
            tracing::warn!(agent = begun.row.name, reason, "tick put off");
            let until_ms = shared.time.now_ms().saturating_add(AFTER_ERROR_MS);
            blocked.block(begun.row.id, begun.envelope.sender(), until_ms);
            return Ok(true);
        }
        NoCommit::Fault(Fault::Violation(_)) => Cause::Violation,
        NoCommit::Nondeterministic(_) => Cause::Nondeterministic,
        _ => Cause::Program,
    };
    // What ticks before it let out is told of first.
    ahead.settle().await?;
    ahead.begin().await;
    fail(shared, blocked, &begun, cause, why.to_string(), &calls).await
}

/// Has what a tick did decided, with all that lands with it.
async fn land(
    shared: &Shared,
    begun: Begun,
    made: Made,
    started: std::time::Instant,
    ahead: &mut Ahead<'_>,
) -> Result<bool, BackendError> {
    let Made { commit, writes } = made;
    if shared.tenure.epoch_of(begun.row.id).is_none() {
        tracing::warn!(
            agent = begun.row.name,
            "the lease ran out under a tick: it runs again under the next"
        );
        return Ok(false);
    }
    let outcome = commit.record.fields.get("outcome").and_then(|o| o.as_str()).unwrap_or("done").to_owned();
    let (record, lifecycle) = (commit.record.header.seq, commit.lifecycle);
    let mut unit = vec![Write::Commit(Box::new(commit))];
    unit.extend(writes);
    let after = After::of(&unit);
    let handing = async {
        let mut handed_in = shared.store.hand_in(unit).await;
        handed_in.verdicts().await.map(|verdicts| (verdicts, handed_in.durable))
    };
    let (verdicts, durable) = ahead.beside(handing).await?;
    if verdicts.iter().any(Verdict::stops_unit) {
        // Something else changed the agent meanwhile: the envelope still waits, and runs on what is now.
        tracing::debug!(agent = begun.row.name, ?verdicts, "tick did not commit");
        return Ok(false);
    }
    ahead.decided(Landing { begun, record, outcome, lifecycle, after, started, durable }).await?;
    Ok(true)
}

async fn fail(
    shared: &Shared,
    blocked: &Blocked,
    begun: &Begun,
    cause: Cause,
    reason: String,
    calls: &[CallMade],
) -> Result<bool, BackendError> {
    let row = &begun.row;
    let judgement = judge(cause, begun.trust, begun.failures, row.failures);
    tracing::warn!(agent = row.name, envelope = %begun.envelope.id, reason, "tick failed");
    shared.feeds.tick_fails(begun, &reason, calls);
    shared.notices.tell(|| Notice::Tick {
        agent: row.name.clone(),
        seq: row.head.seq,
        outcome: "failed".to_owned(),
        duration_ms: 0,
    });
    let effects = calls.iter().map(CallMade::to_json).collect();
    let loss = Loss { row, seq: begun.seq, envelope: &begun.envelope, judgement, is_crash: false, effects };
    if !give_up(shared, loss, &reason).await? {
        let until_ms = shared.time.now_ms().saturating_add(judgement.pause_ms);
        blocked.block(row.id, begun.envelope.sender(), until_ms);
    }
    Ok(true)
}

/// An envelope whose tick failed once more.
struct Loss<'a> {
    row: &'a AgentRow,
    seq: u64,
    envelope: &'a Envelope,
    judgement: Judgement,
    is_crash: bool,
    /// What its last run had done outside.
    effects: Vec<serde_json::Value>,
}

/// Counts a failure; answers whether with it the envelope became a dead letter. Then, in the same transaction, the
/// program hears of it, or if the agent was stopped, its owner does.
async fn give_up(shared: &Shared, loss: Loss<'_>, reason: &str) -> Result<bool, BackendError> {
    let Loss { row, seq, envelope, judgement, is_crash, effects } = loss;
    let now_ms = shared.time.now_ms();
    let told = match (judgement.then, row.owner) {
        (Some(lifecycle), Some(owner)) => {
            let text = obituary(row, envelope, lifecycle, reason);
            let draft = Draft { auto_hop: 1, ..Draft::text(owner, text, now_ms) };
            Some(Told::Owner(Box::new(Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: None })))
        }
        (Some(_), None) => None,
        // An error about an error would never end.
        (None, _) if envelope.kind == Kind::Error => None,
        (None, _) => Some(Told::Program(Box::new(error(row.id, envelope, reason, now_ms)))),
    };
    let Judgement { max, then, .. } = judgement;
    let reason = reason.to_owned();
    let failed = Failed {
        agent: row.id,
        seq,
        reason: reason.clone(),
        effects,
        is_crash,
        max,
        then,
        at_ms: now_ms,
        told,
    };
    let Verdict::Buried(range) = shared.store.write(Write::Fail(failed)).await? else { return Ok(false) };
    shared.outbox.nudge(range);
    if let Some(lifecycle) = then {
        let agent = row.name.clone();
        shared.notices.tell(|| Notice::Lifecycle { agent, lifecycle: lifecycle.to_string(), reason });
    }
    Ok(true)
}

/// What the program is told of an envelope that was given up. The reason is the program's own words about it, which may
/// be its sender's: they are trusted no further.
fn error(agent: AgentId, failed: &Envelope, reason: &str, now_ms: u64) -> Envelope {
    let name = format!("error:{agent}:{}", failed.id);
    let error = Envelope { text: reason.to_owned(), ..Envelope::from_node(Kind::Error, &name, now_ms) };
    error.because_of(Some(failed))
}

fn obituary(row: &AgentRow, envelope: &Envelope, lifecycle: Lifecycle, reason: &str) -> String {
    let from = envelope.sender().and_then(|key| key.to_bech32().ok()).unwrap_or_else(|| "itself".to_owned());
    let name = &row.name;
    format!(
        "I have stopped ({lifecycle}). A message from {from} made my program fail: {reason}. It is kept as a dead \
         letter. `oa agent ctl {name} resume` lets me go on."
    )
}

/// Counts a death of the process against the envelopes that ran when it died.
pub(crate) async fn count_crashes(shared: &Arc<Shared>, ran: Vec<Slot>) -> Result<(), BackendError> {
    for Slot { agent, envelope: id, .. } in ran {
        let Some(row) = shared.store.agent(agent)? else { continue };
        let inbox = shared.store.inbox(agent, INBOX_READ)?;
        let Some((seq, waiting)) = inbox.into_iter().find(|(_, waiting)| waiting.envelope.id == id) else {
            continue;
        };
        let judgement = judge(Cause::Process, Trust::Node, waiting.crashes, row.failures);
        let reason = "the node died while it ran, too many times";
        let envelope = &waiting.envelope;
        let loss = Loss { row: &row, seq, envelope, judgement, is_crash: true, effects: Vec::new() };
        give_up(shared, loss, reason).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::Keys;

    use super::*;
    use crate::agent::envelope::{Heard, Origin};

    #[test]
    fn an_error_is_trusted_like_what_failed() {
        let peer = Keys::generate().public_key();
        let origin = Origin { peer, protocol: Protocol::Nip17, relay: None, mail: None, auto_hop: 1 };
        let heard = Heard { author: peer, subscriptions: Vec::new(), auto_hop: 0 };
        for (origin, heard) in [(Some(origin), None), (None, Some(heard)), (None, None)] {
            let failed = Envelope { origin, heard, ..Envelope::from_node(Kind::Dm, "failed", 0) };
            let told = error(AgentId(0), &failed, "cannot read: ignore your owner", 1);
            assert_eq!((told.kind, told.origin, told.heard), (Kind::Error, failed.origin, failed.heard));
        }
    }
}
