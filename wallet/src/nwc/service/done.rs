//! What has been answered: on disk for what changed something, in memory for the rest.

use std::collections::{HashMap, VecDeque};

use oa_nips::nostr::{Event, EventId};

/// Answers to reads, and ids of refusals, that are remembered. A request comes twice when two relays carry it, which
/// takes seconds.
const RECENT_MAX: usize = 1024;

/// The requests that need no work.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// When each was written, and the version of its row.
    kept: HashMap<EventId, (u64, u64)>,
    recent: HashMap<EventId, Option<Box<Event>>>,
    order: VecDeque<EventId>,
}

impl Done {
    /// Its answer is on disk.
    pub(super) fn keep(&mut self, id: EventId, at: u64, version: u64) {
        self.kept.insert(id, (at, version));
    }

    /// Its answer is remembered for a while; or, with nothing, that it was refused.
    pub(super) fn remember(&mut self, id: EventId, answer: Option<Box<Event>>) {
        if self.recent.insert(id, answer).is_some() {
            return;
        }
        self.order.push_back(id);
        while self.order.len() > RECENT_MAX {
            if let Some(old) = self.order.pop_front() {
                self.recent.remove(&old);
            }
        }
    }

    pub(super) fn is_kept(&self, id: &EventId) -> bool {
        self.kept.contains_key(id)
    }

    pub(super) fn knows(&self, id: &EventId) -> bool {
        self.is_kept(id) || self.recent.contains_key(id)
    }

    pub(super) fn recall(&self, id: &EventId) -> Option<Box<Event>> {
        self.recent.get(id).cloned().flatten()
    }

    /// Forgets what was written before, and says which rows these are, with their versions.
    pub(super) fn older_than(&mut self, at: u64) -> Vec<(EventId, u64)> {
        self.kept
            .extract_if(|_, (written, _)| *written < at)
            .map(|(id, (_, version))| (id, version))
            .collect()
    }
}
