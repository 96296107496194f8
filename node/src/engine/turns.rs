//! Turns: while a tick of an agent runs nobody else changes that agent's files, and the other way round.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use crate::agent::AgentId;

/// Turns known before those that nobody has are let go of.
const KNOWN: usize = 1024;

/// One turn for each agent.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<AgentId, Arc<Turn<()>>>>);

impl Turns {
    /// Waits for the agent's turn; it ends when the guard is dropped. Those who wait have it in the order they came.
    pub(crate) async fn of(&self, agent: AgentId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if turns.len() >= KNOWN {
                turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            }
            turns.entry(agent).or_default().clone()
        };
        turn.lock_owned().await
    }
}

/// Whether somebody waits for a turn that another has.
pub(crate) fn is_wanted(turn: &OwnedMutexGuard<()>) -> bool {
    // One is in the table, one with who has it.
    Arc::strong_count(OwnedMutexGuard::mutex(turn)) > 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_is_wanted_while_somebody_waits_for_it() {
        let turns = Turns::default();
        let turn = turns.of(AgentId(1)).await;
        let _other = turns.of(AgentId(2)).await;
        assert!(!is_wanted(&turn));
        let mut waits = Box::pin(turns.of(AgentId(1)));
        assert!(futures_util::poll!(&mut waits).is_pending());
        assert!(is_wanted(&turn));
        drop(turn);
        assert!(!is_wanted(&waits.await));
    }
}
