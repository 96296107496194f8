//! How many ticks agents had in the last minute: a count a second, and nothing for an agent that had none.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::agent::AgentId;

/// The window, in seconds.
pub(crate) const WINDOW_S: u64 = 60;

/// Counts ticks by the second.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Seconds since 1970 in which an agent ticked, and how often; the oldest first.
    agents: HashMap<AgentId, VecDeque<(u64, u32)>>,
    /// When those that are idle were last forgotten: seconds since 1970.
    swept_s: u64,
}

impl Pace {
    /// An agent ticked.
    pub(crate) fn count(&self, agent: AgentId, now_ms: u64) {
        let now_s = now_ms / 1000;
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now_s >= counts.swept_s + WINDOW_S {
            counts.swept_s = now_s;
            counts.agents.retain(|_, seconds| is_recent(seconds.back(), now_s));
        }
        let seconds = counts.agents.entry(agent).or_default();
        while seconds.front().is_some_and(|first| !is_recent(Some(first), now_s)) {
            seconds.pop_front();
        }
        match seconds.back_mut() {
            // A clock that was set back adds to the newest second there is.
            Some((second, count)) if *second >= now_s => *count = count.saturating_add(1),
            _ => seconds.push_back((now_s, 1)),
        }
    }

    /// Ticks in the last [`WINDOW_S`].
    pub(crate) fn per_minute(&self, agent: AgentId, now_ms: u64) -> u64 {
        let now_s = now_ms / 1000;
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = counts.agents.get(&agent).into_iter().flatten();
        seconds.filter(|second| is_recent(Some(second), now_s)).map(|(_, count)| u64::from(*count)).sum()
    }
}

fn is_recent(second: Option<&(u64, u32)>, now_s: u64) -> bool {
    second.is_some_and(|(at_s, _)| at_s + WINDOW_S > now_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: AgentId = AgentId(1);

    #[test]
    fn a_minute_is_counted_and_what_is_older_is_not() {
        let pace = Pace::default();
        for second in 0..120 {
            (0..3).for_each(|n| pace.count(ALICE, second * 1000 + n));
        }
        assert_eq!(pace.per_minute(ALICE, 119_999), 180);
        assert_eq!(pace.per_minute(ALICE, 149_000), 90);
        assert_eq!(pace.per_minute(ALICE, 179_000), 0);
        assert_eq!(pace.per_minute(AgentId(2), 119_999), 0);
    }

    #[test]
    fn idle_agents_are_forgotten_and_a_clock_set_back_loses_nothing() {
        let pace = Pace::default();
        (0..1000).for_each(|agent| pace.count(AgentId(agent), 1_000_000));
        pace.count(ALICE, 1_090_000);
        assert_eq!(pace.0.lock().unwrap().agents.len(), 1);
        pace.count(ALICE, 1_080_000);
        assert_eq!(pace.per_minute(ALICE, 1_090_000), 2);
        assert_eq!(pace.0.lock().unwrap().agents[&ALICE].len(), 1);
    }
}
