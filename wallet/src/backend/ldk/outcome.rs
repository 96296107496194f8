//! How payments ended, as far as events of this run have said.
//!
//! LDK's payment store is the truth about payments, with two gaps. It does not keep why a payment failed. And it
//! writes a payment down after it has sent it, so that the end of a very quick one may find nothing to update and be
//! written over. What is kept here fills both, for as long as it matters: until the reader of events has
//! acknowledged the end, an event comes again after a restart.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::backend::{FailReason, PaymentHash, Preimage};
use crate::msat::Msat;

/// How many payments are remembered.
const KEPT_MAX: usize = 4_096;

/// An end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Sent { hash: PaymentHash, preimage: Option<Preimage>, fee: Msat },
    Failed { why: FailReason },
}

/// Ends by [`Payment::id`](crate::backend::Payment::id).
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    ends: HashMap<PaymentHash, Outcome>,
    /// Payments begun in this run that never were before: an end of theirs can be of no earlier attempt.
    first_attempts: HashSet<PaymentHash>,
    order: VecDeque<PaymentHash>,
}

impl Outcomes {
    /// A payment is about to be sent. `known`: an earlier attempt failed.
    pub(super) fn begin(&mut self, id: PaymentHash, known: bool) {
        self.ends.remove(&id);
        if known {
            self.first_attempts.remove(&id);
        } else {
            self.first_attempts.insert(id);
        }
        self.keep(id);
    }

    /// An event told of an end.
    pub(super) fn end(&mut self, id: PaymentHash, outcome: Outcome) {
        self.ends.insert(id, outcome);
        self.keep(id);
    }

    pub(super) fn of(&self, id: &PaymentHash) -> Option<&Outcome> {
        self.ends.get(id)
    }

    /// A payment that was sent under `hash` by an event, though the store may not know it.
    pub(super) fn sent(&self, hash: PaymentHash) -> Option<&Outcome> {
        self.ends.get(&hash).filter(|outcome| matches!(outcome, Outcome::Sent { .. }))
    }

    /// Whether an end can be of no other than the present attempt.
    pub(super) fn is_first_attempt(&self, id: &PaymentHash) -> bool {
        self.first_attempts.contains(id)
    }

    fn keep(&mut self, id: PaymentHash) {
        self.order.push_back(id);
        while self.order.len() > KEPT_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            if !self.order.contains(&oldest) {
                self.ends.remove(&oldest);
                self.first_attempts.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u32) -> PaymentHash {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        PaymentHash::from_bytes(bytes)
    }

    #[test]
    fn a_new_attempt_forgets_how_the_last_one_ended() {
        let mut outcomes = Outcomes::default();
        let failed = Outcome::Failed { why: FailReason::NoRoute };
        outcomes.begin(hash(1), false);
        assert!(outcomes.is_first_attempt(&hash(1)));
        outcomes.end(hash(1), failed);
        assert_eq!(outcomes.of(&hash(1)), Some(&failed));
        assert_eq!(outcomes.sent(hash(1)), None);
        outcomes.begin(hash(1), true);
        assert_eq!(outcomes.of(&hash(1)), None);
        assert!(!outcomes.is_first_attempt(&hash(1)), "its end may be the first one's, that comes late");
    }

    #[test]
    fn it_does_not_grow_without_a_bound() {
        let mut outcomes = Outcomes::default();
        let count = u32::try_from(KEPT_MAX).unwrap() + 10;
        for n in 0..count {
            outcomes.begin(hash(n), false);
        }
        assert_eq!(outcomes.first_attempts.len(), KEPT_MAX);
        assert!(!outcomes.is_first_attempt(&hash(0)) && outcomes.is_first_attempt(&hash(count - 1)));
    }
}
