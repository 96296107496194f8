//! A worker: runs the ticks of one agent, envelope after envelope, until none is left or others should have a turn.

use std::sync::Arc;

use oa_nips::mail::{Draft, Protocol};
use oa_nips::nostr::ToBech32;

use crate::agent::AgentId;
use crate::agent::Lifecycle;
use crate::agent::envelope::{Envelope, Kind, Trust};
use crate::agent::mailbox::{self, Hearing};
use crate::agent::manifest::Manifest;
use crate::engine::running::Slot;
use crate::engine::schedule::Left;
use crate::engine::shared::Shared;
use crate::engine::supervisor::{Blocked, Cause, Judgement, judge};
use crate::engine::tick::{self, Begun, NoCommit};
use crate::notice::Notice;
use crate::program::Fault;
use crate::store::backend::BackendError;
use crate::store::row::{AgentRow, Outgoing, Waiting};
use crate::store::write::{Failed, Told, Verdict, Write};

/// Envelopes of one agent in a row, before others have a turn.
const TURN: usize = 16;
/// The pause after an error that is not the program's, in milliseconds.
pub(super) const AFTER_ERROR_MS: u64 = 5000;
/// Envelopes looked at for one that may run, while none of their senders is blocked.
const LOOK: usize = 1;

/// Works through an agent's inbox.
pub(crate) async fn work(shared: &Shared, blocked: &Blocked, agent: AgentId) -> Left {
    for _ in 0..TURN {
        match step(shared, blocked, agent).await {
            Ok(None) => {}
            Ok(Some(left)) => return left,
            Err(error) => {
                // A store that stopped ends the node; what cannot be read now may be readable later.
                tracing::error!(%agent, %error, "tick given up");
                return Left::Until(shared.time.now_ms().saturating_add(AFTER_ERROR_MS));
            }
        }
    }
    Left::More
}

/// One envelope; answers how the agent is left when there is nothing more to do now.
async fn step(shared: &Shared, blocked: &Blocked, agent: AgentId) -> Result<Option<Left>, BackendError> {
    let Some(row) = shared.store.agent(agent)? else { return Ok(Some(Left::Empty)) };
    if !row.lifecycle.ticks() {
        return Ok(Some(Left::Empty));
    }
    let (seq, waiting) = match pick(shared, blocked, agent)? {
        Picked::Envelope(seq, waiting) => (seq, waiting),
        Picked::Nothing(left) => return Ok(Some(left)),
    };
    let manifest = shared.manifests.get(&shared.store, agent, row.version)?;
    let trust = trust(shared, &row, &manifest, &waiting.envelope)?;
    let begun = Begun { row: &row, manifest: &manifest, seq, waiting: &waiting, trust };
    let _slot = shared.running.enter(agent, waiting.envelope.id.0);
    let Some(program) = shared.programs.get(&manifest.program) else {
        let reason = format!("there is no program {:?}", manifest.program);
        return fail(shared, blocked, &begun, Cause::Program, reason).await;
    };
    let started = std::time::Instant::now();
    match Box::pin(tick::run(shared, &begun, &*program)).await {
        Ok(commit) => {
            let outcome = if commit.out.is_empty() { "done" } else { "replied" };
            let record_seq = commit.record.header.seq;
            match shared.store.write(Write::Commit(Box::new(commit))).await? {
                Verdict::Landed(range) => {
                    shared.outbox.nudge(range);
                    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                    let agent = || row.name.clone();
                    shared.notices.tell(|| Notice::Tick {
                        agent: agent(),
                        seq: record_seq,
                        outcome,
                        duration_ms,
                    });
                }
                // Something else changed the agent meanwhile: the envelope still waits, and runs on what is now.
                verdict => tracing::debug!(%agent, ?verdict, "tick did not commit"),
            }
            Ok(None)
        }
        Err(NoCommit::Fault(Fault::Violation(reason))) => {
            fail(shared, blocked, &begun, Cause::Violation, format!("security violation: {reason}")).await
        }
        Err(error) => fail(shared, blocked, &begun, Cause::Program, error.to_string()).await,
    }
}

enum Picked {
    Envelope(u64, Box<Waiting>),
    Nothing(Left),
}

/// The oldest envelope whose sender is not held up.
fn pick(shared: &Shared, blocked: &Blocked, agent: AgentId) -> Result<Picked, BackendError> {
    let now_ms = shared.time.now_ms();
    let look = if blocked.any(agent, now_ms) { mailbox::INBOX_MAX as usize * 2 } else { LOOK };
    let mut earliest = None;
    for (seq, waiting) in shared.store.inbox(agent, look)? {
        match blocked.until(agent, waiting.envelope.sender(), now_ms) {
            None => return Ok(Picked::Envelope(seq, Box::new(waiting))),
            Some(until_ms) => earliest = Some(earliest.unwrap_or(until_ms).min(until_ms)),
        }
    }
    Ok(Picked::Nothing(earliest.map_or(Left::Empty, Left::Until)))
}

/// How far whoever woke the agent is trusted now, which may differ from when the mail came in.
fn trust(
    shared: &Shared,
    row: &AgentRow,
    manifest: &Manifest,
    envelope: &Envelope,
) -> Result<Trust, BackendError> {
    let Some(origin) = &envelope.origin else { return Ok(Trust::Node) };
    let peer = shared.store.peer(row.id, &origin.peer)?.unwrap_or_default();
    let hearing = mailbox::hearing(manifest, row.owner.as_ref(), &peer, &origin.peer, u8::MAX);
    Ok(match hearing {
        // A legacy message cannot command.
        Hearing::Heard(Trust::Owner) if origin.protocol == oa_nips::mail::Protocol::Nip04 => Trust::Allowed,
        Hearing::Heard(trust) => trust,
        Hearing::Pair | Hearing::Refused(_) => Trust::Stranger,
    })
}

async fn fail(
    shared: &Shared,
    blocked: &Blocked,
    begun: &Begun<'_>,
    cause: Cause,
    reason: String,
) -> Result<Option<Left>, BackendError> {
    let (row, waiting) = (begun.row, begun.waiting);
    let judgement = judge(cause, begun.trust, waiting.failures, row.failures);
    tracing::warn!(agent = row.name, envelope = %waiting.envelope.id, reason, "tick failed");
    shared.notices.tell(|| Notice::Tick {
        agent: row.name.clone(),
        seq: row.head.seq,
        outcome: "failed",
        duration_ms: 0,
    });
    if !give_up(shared, row, begun.seq, waiting, judgement, false, &reason).await? {
        let until_ms = shared.time.now_ms().saturating_add(judgement.pause_ms);
        blocked.block(row.id, waiting.envelope.sender(), until_ms);
    }
    Ok(None)
}

/// Counts a failure; answers whether with it the envelope became a dead letter. Then, in the same transaction, the
/// program hears of it, or if the agent was stopped, its owner does.
async fn give_up(
    shared: &Shared,
    row: &AgentRow,
    seq: u64,
    waiting: &Waiting,
    judgement: Judgement,
    is_crash: bool,
    reason: &str,
) -> Result<bool, BackendError> {
    let now_ms = shared.time.now_ms();
    let told = match (judgement.then, row.owner) {
        (Some(lifecycle), Some(owner)) => {
            let text = obituary(row, &waiting.envelope, lifecycle, reason);
            let draft = Draft { auto_hop: 1, ..Draft::text(owner, text, now_ms) };
            Some(Told::Owner(Box::new(Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: None })))
        }
        (Some(_), None) => None,
        // An error about an error would never end.
        (None, _) if waiting.envelope.kind == Kind::Error => None,
        (None, _) => {
            let name = format!("error:{}:{}", row.id, waiting.envelope.id);
            let envelope =
                Envelope { text: reason.to_owned(), ..Envelope::from_node(Kind::Error, &name, now_ms) };
            Some(Told::Program(Box::new(envelope)))
        }
    };
    let Judgement { max, then, .. } = judgement;
    let reason = reason.to_owned();
    let failed =
        Failed { agent: row.id, seq, reason: reason.clone(), is_crash, max, then, at_ms: now_ms, told };
    let Verdict::Buried(range) = shared.store.write(Write::Fail(failed)).await? else { return Ok(false) };
    shared.outbox.nudge(range);
    if let Some(lifecycle) = then {
        let agent = row.name.clone();
        shared.notices.tell(|| Notice::Lifecycle { agent, lifecycle: lifecycle.to_string(), reason });
    }
    Ok(true)
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
        let inbox = shared.store.inbox(agent, mailbox::INBOX_MAX as usize * 2)?;
        let Some((seq, waiting)) = inbox.into_iter().find(|(_, waiting)| waiting.envelope.id == id) else {
            continue;
        };
        let judgement = judge(Cause::Process, Trust::Node, waiting.crashes, row.failures);
        let reason = "the node died while it ran, too many times";
        give_up(shared, &row, seq, &waiting, judgement, true, reason).await?;
    }
    Ok(())
}
