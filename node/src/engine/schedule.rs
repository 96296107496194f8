//! Who ticks next: one tick of an agent at a time, fair among agents, bounded in all. Pure.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use crate::agent::AgentId;

/// Where an agent stands with the scheduler; one that is not in the map has nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the queue.
    Queued,
    /// Has a worker; whether something came in meanwhile.
    Ticking { more: bool },
}

/// How a worker left an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nothing waits.
    Empty,
    /// More waits.
    More,
    /// What waits may not run before this time, in milliseconds since 1970.
    Until(u64),
}

/// The queue of agents that have something to do.
#[derive(Debug)]
pub struct Schedule {
    queue: VecDeque<AgentId>,
    states: HashMap<AgentId, State>,
    later: BinaryHeap<Reverse<(u64, AgentId)>>,
    ticking: usize,
    workers: usize,
}

impl Schedule {
    /// A schedule for so many workers.
    pub fn new(workers: usize) -> Self {
        Self { queue: VecDeque::new(), states: HashMap::new(), later: BinaryHeap::new(), ticking: 0, workers }
    }

    /// Something is in the agent's inbox.
    pub fn arrived(&mut self, agent: AgentId) {
        match self.states.get_mut(&agent) {
            Some(State::Ticking { more }) => *more = true,
            Some(State::Queued) => {}
            None => {
                self.states.insert(agent, State::Queued);
                self.queue.push_back(agent);
            }
        }
    }

    /// The agent to start now, if a worker is free.
    pub fn start(&mut self) -> Option<AgentId> {
        if self.ticking >= self.workers {
            return None;
        }
        let agent = self.queue.pop_front()?;
        self.states.insert(agent, State::Ticking { more: false });
        self.ticking += 1;
        Some(agent)
    }

    /// A worker is done with the agent for now.
    pub fn left(&mut self, agent: AgentId, left: Left) {
        let Some(State::Ticking { more }) = self.states.remove(&agent) else { return };
        self.ticking -= 1;
        match left {
            _ if more => self.arrived(agent),
            Left::More => self.arrived(agent),
            Left::Until(at_ms) => self.later.push(Reverse((at_ms, agent))),
            Left::Empty => {}
        }
    }

    /// Lets those go on whose time has come.
    pub fn wake(&mut self, now_ms: u64) {
        while let Some(Reverse((at_ms, agent))) = self.later.peek().copied() {
            if at_ms > now_ms {
                break;
            }
            self.later.pop();
            self.arrived(agent);
        }
    }

    /// When [`Schedule::wake`] has something to do, in milliseconds since 1970.
    pub fn next_wake_ms(&self) -> Option<u64> {
        self.later.peek().map(|Reverse((at_ms, _))| *at_ms)
    }

    /// Whether nobody ticks.
    pub fn is_idle(&self) -> bool {
        self.ticking == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: AgentId = AgentId(1);
    const B: AgentId = AgentId(2);

    #[test]
    fn an_agent_ticks_once_at_a_time_and_again_for_what_came_meanwhile() {
        let mut schedule = Schedule::new(4);
        schedule.arrived(A);
        schedule.arrived(A);
        assert_eq!(schedule.start(), Some(A));
        schedule.arrived(A);
        assert_eq!(schedule.start(), None);
        schedule.left(A, Left::Empty);
        assert_eq!(schedule.start(), Some(A));
        schedule.left(A, Left::Empty);
        assert_eq!(schedule.start(), None);
        assert!(schedule.is_idle());
    }

    #[test]
    fn workers_are_bounded_and_agents_take_turns() {
        let mut schedule = Schedule::new(1);
        schedule.arrived(A);
        schedule.arrived(B);
        assert_eq!(schedule.start(), Some(A));
        assert_eq!(schedule.start(), None);
        schedule.left(A, Left::More);
        assert_eq!(schedule.start(), Some(B));
        schedule.left(B, Left::More);
        assert_eq!(schedule.start(), Some(A));
    }

    #[test]
    fn who_must_wait_waits_unless_something_else_arrives() {
        let mut schedule = Schedule::new(1);
        schedule.arrived(A);
        schedule.start();
        schedule.left(A, Left::Until(500));
        schedule.wake(499);
        assert_eq!(schedule.start(), None);
        assert_eq!(schedule.next_wake_ms(), Some(500));
        schedule.wake(500);
        assert_eq!(schedule.start(), Some(A));
    }
}
