//! Wakes those who watch what is said of an agent: its status, its metrics. A channel for each agent that somebody
//! watches, and none for the rest.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::agent::AgentId;
use crate::namespace::service::Watch;

/// Who watches which agent.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    watched: Mutex<Watched>,
    /// How many agents are watched: a look at it is all that a change of the others costs.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Watched {
    agents: HashMap<AgentId, watch::Sender<u64>>,
    /// Counts changes of all of them, so that a number grows also across watchers that went and came back.
    changes: u64,
}

impl Changes {
    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A watch on an agent, woken once for all that changed since it was looked at.
    pub(crate) fn watch(&self, agent: AgentId) -> Watch {
        let mut watched = self.watched();
        let changes = watched.changes;
        let watch = watched.agents.entry(agent).or_insert_with(|| watch::Sender::new(changes)).subscribe();
        self.count.store(watched.agents.len(), Ordering::Release);
        watch
    }

    /// Whether anybody watches any agent.
    pub(crate) fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Something about an agent may have changed.
    pub(crate) fn changed(&self, agent: AgentId) {
        if !self.any() {
            return;
        }
        let mut watched = self.watched();
        watched.changes += 1;
        let changes = watched.changes;
        // Sending fails when the last watcher is gone.
        if watched.agents.get(&agent).is_some_and(|sender| sender.send(changes).is_err()) {
            watched.agents.remove(&agent);
            self.count.store(watched.agents.len(), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_wakes_the_agents_watchers_once_and_gone_ones_are_forgotten() {
        let changes = Changes::default();
        changes.changed(AgentId(1));
        let (mut alice, bob) = (changes.watch(AgentId(1)), changes.watch(AgentId(2)));
        (0..100).for_each(|_| changes.changed(AgentId(1)));
        assert!(alice.has_changed().unwrap() && !bob.has_changed().unwrap());
        let seen = *alice.borrow_and_update();
        assert!(!alice.has_changed().unwrap());
        drop((alice, bob));
        changes.changed(AgentId(1));
        changes.changed(AgentId(2));
        assert_eq!(changes.count.load(Ordering::Relaxed), 0);
        changes.watch(AgentId(1));
        assert!(*changes.watch(AgentId(1)).borrow() > seen);
    }
}
