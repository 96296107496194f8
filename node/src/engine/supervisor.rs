//! What a failure means: try again, give the envelope up, stop the agent. Counters are apart for programs that fail
//! and processes that die, and a failure holds up only the sender whose envelope failed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use oa_nips::nostr::PublicKey;

use crate::agent::envelope::Trust;
use crate::agent::{AgentId, Lifecycle};

/// Tries of one envelope: the first and three more.
pub const TRIES: u32 = 4;
/// Times the process may die under one envelope.
pub const CRASHES: u32 = 20;
/// Envelopes in a row that strangers may lose before the agent is stopped all the same.
pub const STRANGERS_LOSSES: u32 = 3;
/// The pause before the second try; it doubles.
pub const BACKOFF_MS: u64 = 1000;

/// Why a tick did not commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The program failed, panicked or took too long.
    Program,
    /// The process died.
    Process,
    /// A run did not do what the run before it had done.
    Nondeterministic,
    /// The program broke a rule that is not broken by mistake.
    Violation,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// At this many failures of this kind the envelope is given up.
    pub max: u32,
    /// What the agent becomes when it is.
    pub then: Option<Lifecycle>,
    /// The pause before the next try, in milliseconds.
    pub pause_ms: u64,
}

/// Judges a failure. `failed` counts this envelope's failures of this kind before, `losses` the envelopes the agent
/// lost in a row.
///
/// A stranger must not be able to stop an agent with one poisonous message, so that takes several.
pub fn judge(cause: Cause, trust: Trust, failed: u32, losses: u32) -> Judgement {
    let pause_ms = BACKOFF_MS.saturating_mul(1 << failed.min(10));
    let stops = trust != Trust::Stranger || losses + 1 >= STRANGERS_LOSSES;
    let quarantine = stops.then_some(Lifecycle::Quarantined);
    match cause {
        Cause::Program => Judgement { max: TRIES, then: quarantine, pause_ms },
        // Another run would come to the same; the agent itself may go on.
        Cause::Nondeterministic => Judgement { max: 1, then: None, pause_ms: 0 },
        Cause::Process => Judgement { max: CRASHES, then: Some(Lifecycle::Quarantined), pause_ms: 0 },
        Cause::Violation => Judgement { max: 1, then: Some(Lifecycle::Terminated), pause_ms: 0 },
    }
}

/// Blocks after which those that are over are looked for.
const BLOCKED_SWEPT: usize = 1000;

/// Whose envelopes wait, and until when. Lost at a restart, which is as good as a pause.
#[derive(Debug, Default)]
pub(crate) struct Blocked(Mutex<HashMap<(AgentId, Option<PublicKey>), u64>>);

impl Blocked {
    /// Holds a sender's envelopes until `until_ms`.
    pub(crate) fn block(&self, agent: AgentId, sender: Option<PublicKey>, until_ms: u64) {
        let mut blocked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if blocked.len() >= BLOCKED_SWEPT {
            blocked.retain(|_, old_ms| *old_ms > until_ms.saturating_sub(BACKOFF_MS));
        }
        blocked.insert((agent, sender), until_ms);
    }

    /// Until when a sender's envelopes wait, if they do.
    pub(crate) fn until(&self, agent: AgentId, sender: Option<PublicKey>, now_ms: u64) -> Option<u64> {
        let mut blocked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until_ms = *blocked.get(&(agent, sender))?;
        if until_ms > now_ms {
            return Some(until_ms);
        }
        blocked.remove(&(agent, sender));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_tried_four_times_with_growing_pauses() {
        let pauses: Vec<_> =
            (0..3).map(|failed| judge(Cause::Program, Trust::Owner, failed, 0).pause_ms).collect();
        assert_eq!(pauses, [1000, 2000, 4000]);
        assert_eq!(judge(Cause::Program, Trust::Owner, 3, 0).max, 4);
    }

    #[test]
    fn a_stranger_cannot_stop_an_agent_with_one_message() {
        let then = |trust, losses| judge(Cause::Program, trust, 3, losses).then;
        assert_eq!(then(Trust::Stranger, 0), None);
        assert_eq!(then(Trust::Stranger, 2), Some(Lifecycle::Quarantined));
        assert_eq!(then(Trust::Owner, 0), Some(Lifecycle::Quarantined));
    }

    #[test]
    fn crashes_are_counted_apart_and_a_violation_ends_it() {
        assert_eq!(judge(Cause::Process, Trust::Owner, 0, 0).max, CRASHES);
        assert_eq!(judge(Cause::Violation, Trust::Owner, 0, 0).then, Some(Lifecycle::Terminated));
    }

    #[test]
    fn a_block_holds_one_sender_and_ends() {
        let blocked = Blocked::default();
        blocked.block(AgentId(1), None, 100);
        assert_eq!(blocked.until(AgentId(1), None, 99), Some(100));
        assert_eq!(blocked.until(AgentId(2), None, 99), None);
        assert_eq!(blocked.until(AgentId(1), None, 100), None);
    }
}
