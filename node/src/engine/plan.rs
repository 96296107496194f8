//! In which order an agent's envelopes run: senders take turns, each one's oldest first, so that a flood by one delays
//! nobody else. Pure; it holds numbers and keys, not envelopes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use oa_nips::nostr::PublicKey;

/// Who sent an envelope; the node's own, and alarms, share one turn.
pub type Sender = Option<PublicKey>;

/// The envelopes of one agent that are known to wait.
#[derive(Debug, Default)]
pub struct Plan {
    lines: BTreeMap<Sender, Line>,
    /// Senders that have something waiting: how often they had a turn, and the place of their oldest.
    turns: BTreeSet<(u64, u64, Sender)>,
    next_seq: u64,
    held_until_ms: Option<u64>,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<u64>,
    had: u64,
    is_held: bool,
}

impl Plan {
    /// The place from which envelopes are not known yet.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Takes in an envelope; they come in the order of their places.
    pub fn add(&mut self, seq: u64, sender: Sender) {
        self.next_seq = seq + 1;
        // Who is new begins with those who had the fewest turns.
        let fewest = self.turns.first().map_or(0, |(had, ..)| *had);
        let line = self.lines.entry(sender).or_insert_with(|| Line { had: fewest, ..Line::default() });
        if line.is_held {
            return;
        }
        line.waiting.push_back(seq);
        if line.waiting.len() == 1 {
            line.had = line.had.max(fewest);
            self.turns.insert((line.had, seq, sender));
        }
    }

    /// The envelope to run next.
    pub fn take(&mut self) -> Option<(u64, Sender)> {
        let (had, seq, sender) = self.turns.pop_first()?;
        let line = self.lines.get_mut(&sender)?;
        line.waiting.pop_front();
        line.had = had + 1;
        if let Some(next) = line.waiting.front() {
            self.turns.insert((line.had, *next, sender));
        }
        Some((seq, sender))
    }

    /// Lets a sender's envelopes wait until a time, in milliseconds since 1970: what it wrote after one that failed
    /// must not pass it.
    pub fn hold(&mut self, sender: Sender, until_ms: u64) {
        self.held_until_ms = Some(self.held_until_ms.map_or(until_ms, |held| held.min(until_ms)));
        let line = self.lines.entry(sender).or_default();
        if let Some(seq) = line.waiting.front() {
            self.turns.remove(&(line.had, *seq, sender));
        }
        line.waiting.clear();
        line.is_held = true;
    }

    /// When the first of those held may go on.
    pub fn held_until_ms(&self) -> Option<u64> {
        self.held_until_ms
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::Keys;

    use super::*;

    fn taken(plan: &mut Plan) -> Vec<u64> {
        std::iter::from_fn(|| plan.take().map(|(seq, _)| seq)).collect()
    }

    #[test]
    fn senders_take_turns_and_keep_their_own_order() {
        let [flood, friend] = [(); 2].map(|()| Some(Keys::generate().public_key()));
        let mut plan = Plan::default();
        (1..=3).for_each(|seq| plan.add(seq, flood));
        (4..=5).for_each(|seq| plan.add(seq, friend));
        assert_eq!(taken(&mut plan), [1, 4, 2, 5, 3]);
        assert_eq!(plan.next_seq(), 6);
    }

    #[test]
    fn who_comes_late_is_next_but_does_not_make_up_for_turns_it_never_wanted() {
        let [flood, late] = [(); 2].map(|()| Some(Keys::generate().public_key()));
        let mut plan = Plan::default();
        (0..10).for_each(|seq| plan.add(seq, flood));
        (0..5).for_each(|_| assert!(plan.take().is_some()));
        (10..14).for_each(|seq| plan.add(seq, late));
        assert_eq!(taken(&mut plan), [5, 10, 6, 11, 7, 12, 8, 13, 9]);
    }

    #[test]
    fn who_is_held_loses_its_place_and_nobody_else_does() {
        let [bad, good] = [(); 2].map(|()| Some(Keys::generate().public_key()));
        let mut plan = Plan::default();
        (0..4).for_each(|seq| plan.add(seq, if seq % 2 == 0 { bad } else { good }));
        plan.hold(bad, 500);
        plan.add(4, bad);
        assert_eq!(taken(&mut plan), [1, 3]);
        assert_eq!(plan.held_until_ms(), Some(500));
    }
}
