//! One queue of one caller: which place is next, and who waits.

use std::collections::{BTreeMap, BTreeSet};

use oa_nips::files::queued::QueueId;
use oa_nips::nostr::PublicKey;
use oa_nips::port::Row;
use serde::{Deserialize, Serialize};

/// Whose queue, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LaneKey {
    pub(super) caller: PublicKey,
    pub(super) queue: QueueId,
}

impl LaneKey {
    /// The key of a command's row, or of the queue's own.
    pub(super) fn row(&self, seq: Option<u32>) -> String {
        let queue = format!("{}/{}", self.caller.to_hex(), self.queue);
        seq.map_or_else(|| queue.clone(), |seq| format!("{queue}/{seq:010}"))
    }
}

/// Reads the key of a row.
pub(super) fn parse_key(name: &str) -> Option<(LaneKey, Option<u32>)> {
    let mut parts = name.split('/');
    let caller = PublicKey::from_hex(parts.next()?).ok()?;
    let queue = parts.next()?.parse().ok()?;
    let seq = parts.next().map(str::parse).transpose().ok()?;
    Some((LaneKey { caller, queue }, seq))
}

/// A queue.
#[derive(Debug, Clone, Default)]
pub(super) struct Lane {
    /// The place that runs next.
    pub(super) next: u32,
    /// Who waits, and until when: seconds since 1970.
    pub(super) waiting: BTreeMap<u32, u64>,
    /// Places further on whose commands have expired already.
    pub(super) given_up: BTreeSet<u32>,
    /// When something last happened: seconds since 1970.
    pub(super) touched_s: u64,
    /// The version of the queue's own row; 0 when there is none.
    pub(super) version: u64,
    /// Whether a task runs it.
    pub(super) is_driven: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The command at this place runs, unless it has expired.
    Run(u32),
    /// The command at this place is given up: it has expired.
    Expire(u32),
}

impl Step {
    pub(super) fn seq(self) -> u32 {
        let (Self::Run(seq) | Self::Expire(seq)) = self;
        seq
    }
}

/// A queue's own row.
#[derive(Debug, Serialize, Deserialize)]
struct LaneRow {
    next: u32,
    touched_s: u64,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    given_up: BTreeSet<u32>,
}

impl Lane {
    /// Whether a command at this place came before.
    pub(super) fn knows(&self, seq: u32) -> bool {
        seq < self.next || self.waiting.contains_key(&seq) || self.given_up.contains(&seq)
    }

    /// What to do next, if anything.
    pub(super) fn step(&self, now_s: u64) -> Option<Step> {
        match self.waiting.get(&self.next) {
            Some(expires_s) if *expires_s > now_s => Some(Step::Run(self.next)),
            Some(_) => Some(Step::Expire(self.next)),
            None => {
                let expired = self.waiting.iter().find(|(_, expires_s)| **expires_s <= now_s);
                expired.map(|(seq, _)| Step::Expire(*seq))
            }
        }
    }

    /// Takes note that it is done.
    pub(super) fn settle(&mut self, step: Step, now_s: u64) {
        self.waiting.remove(&step.seq());
        self.given_up.insert(step.seq());
        while self.given_up.remove(&self.next) {
            self.next += 1;
        }
        self.touched_s = now_s;
    }

    pub(super) fn to_row(&self) -> Vec<u8> {
        let given_up = self.given_up.clone();
        let row = LaneRow { next: self.next, touched_s: self.touched_s, given_up };
        serde_json::to_vec(&row).unwrap_or_default()
    }

    pub(super) fn restore(&mut self, row: Row) {
        if let Ok(LaneRow { next, touched_s, given_up }) = serde_json::from_slice(&row.value) {
            (self.next, self.touched_s, self.given_up) = (next, touched_s, given_up);
        }
        self.version = row.version;
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::hex::Hex;
    use oa_nips::nostr::Keys;

    use super::*;

    #[test]
    fn places_run_in_order_and_only_what_expires_is_given_up_before() {
        let mut lane = Lane { waiting: [(1, 100), (2, 50)].into(), ..Lane::default() };
        assert_eq!(lane.step(10), None, "the first has not come");
        assert_eq!(lane.step(60), Some(Step::Expire(2)));
        lane.settle(Step::Expire(2), 60);
        assert_eq!((lane.next, lane.step(60)), (0, None));
        lane.waiting.insert(0, 55);
        assert_eq!(lane.step(60), Some(Step::Expire(0)), "what came too late moves the queue on");
        lane.settle(Step::Expire(0), 60);
        assert_eq!(lane.step(60), Some(Step::Run(1)));
        lane.settle(Step::Run(1), 61);
        // Past the one that was given up before its turn.
        assert_eq!((lane.next, lane.touched_s, lane.step(1000)), (3, 61, None));
        assert!(lane.knows(2) && !lane.knows(3));
    }

    #[test]
    fn keys_of_rows_are_read_back() {
        let key = LaneKey { caller: Keys::generate().public_key(), queue: Hex([7; 16]) };
        for seq in [None, Some(0), Some(9_999)] {
            assert_eq!(parse_key(&key.row(seq)), Some((key, seq)));
        }
        for odd in ["", "x/y", "a/b/c/d"] {
            assert_eq!(parse_key(odd), None);
        }
    }
}
