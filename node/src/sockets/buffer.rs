//! What came over a websocket and waits for its turn: paced, bounded, the oldest refused. Pure.

use std::collections::VecDeque;

/// Messages that wait. Each wakes the agent once it has its turn.
const WAITING_MAX: usize = 64;
/// Their bytes: a connection costs no more memory than that.
const WAITING_BYTES_MAX: usize = 512 * 1024;
/// A minute, in milliseconds.
const MINUTE_MS: u64 = 60_000;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    Text(String),
    Binary(Vec<u8>),
}

impl Message {
    /// Its bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// So many a minute, all of them at once at first.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    per_minute: u64,
    /// What is left, in messages times [`MINUTE_MS`].
    left: u64,
    at_ms: u64,
}

impl Pace {
    pub(super) fn new(per_minute: u32, now_ms: u64) -> Self {
        let per_minute = u64::from(per_minute);
        Self { per_minute, left: per_minute * MINUTE_MS, at_ms: now_ms }
    }

    /// Whether one more is all right now.
    pub(super) fn take(&mut self, now_ms: u64) -> bool {
        self.refill(now_ms);
        let takes = self.left >= MINUTE_MS;
        if takes {
            self.left -= MINUTE_MS;
        }
        takes
    }

    /// Until one more is all right, in milliseconds; nothing when none ever is.
    pub(super) fn due_in_ms(&mut self, now_ms: u64) -> Option<u64> {
        self.refill(now_ms);
        let lacks = MINUTE_MS.saturating_sub(self.left);
        (self.per_minute > 0).then(|| lacks.div_ceil(self.per_minute))
    }

    fn refill(&mut self, now_ms: u64) {
        let more = now_ms.saturating_sub(self.at_ms).saturating_mul(self.per_minute);
        self.left = self.left.saturating_add(more).min(self.per_minute * MINUTE_MS);
        self.at_ms = now_ms;
    }
}

/// Messages in their order.
#[derive(Debug)]
pub(super) struct Buffer {
    waiting: VecDeque<Message>,
    bytes: usize,
    pace: Pace,
    /// Refused since the last that had its turn: the next one tells.
    missed: u64,
}

impl Buffer {
    pub(super) fn new(per_minute: u32, now_ms: u64) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, pace: Pace::new(per_minute, now_ms), missed: 0 }
    }

    /// Takes a message in; answers how many older ones were refused for it.
    pub(super) fn push(&mut self, message: Message) -> u64 {
        let mut refused = 0;
        self.bytes += message.len();
        self.waiting.push_back(message);
        while self.waiting.len() > WAITING_MAX || (self.bytes > WAITING_BYTES_MAX && self.waiting.len() > 1) {
            let Some(oldest) = self.waiting.pop_front() else { break };
            self.bytes -= oldest.len();
            refused += 1;
        }
        self.missed += refused;
        refused
    }

    /// Until the next has its turn, in milliseconds; nothing when none waits, or none ever has.
    pub(super) fn due_in_ms(&mut self, now_ms: u64) -> Option<u64> {
        if self.waiting.is_empty() { None } else { self.pace.due_in_ms(now_ms) }
    }

    /// The next, if it has its turn, with how many before it were refused.
    pub(super) fn pop(&mut self, now_ms: u64) -> Option<(Message, u64)> {
        if self.waiting.is_empty() || !self.pace.take(now_ms) {
            return None;
        }
        let message = self.waiting.pop_front()?;
        self.bytes -= message.len();
        Some((message, std::mem::take(&mut self.missed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(n: usize) -> Message {
        Message::Text(n.to_string())
    }

    #[test]
    fn so_many_a_minute_have_their_turn_in_their_order() {
        let mut buffer = Buffer::new(2, 0);
        (0..4).for_each(|n| assert_eq!(buffer.push(text(n)), 0));
        assert_eq!(buffer.pop(0), Some((text(0), 0)));
        assert_eq!(buffer.pop(0), Some((text(1), 0)));
        assert_eq!((buffer.pop(0), buffer.due_in_ms(0)), (None, Some(30_000)));
        assert_eq!((buffer.pop(29_999), buffer.due_in_ms(29_999)), (None, Some(1)));
        assert_eq!(buffer.pop(30_000), Some((text(2), 0)));
        assert_eq!(buffer.pop(1_000_000), Some((text(3), 0)));
        assert_eq!((buffer.pop(1_000_000), buffer.due_in_ms(1_000_000)), (None, None));
        let mut never = Buffer::new(0, 0);
        never.push(text(0));
        assert_eq!((never.pop(u64::MAX), never.due_in_ms(0)), (None, None));
    }

    #[test]
    fn of_too_many_the_oldest_are_refused_and_the_next_says_so() {
        let mut buffer = Buffer::new(1000, 0);
        let refused: u64 = (0..WAITING_MAX + 3).map(|n| buffer.push(text(n))).sum();
        assert_eq!(refused, 3);
        assert_eq!(buffer.pop(0), Some((text(3), 3)));
        assert_eq!(buffer.pop(0), Some((text(4), 0)));
        let large = || Message::Binary(vec![0; WAITING_BYTES_MAX / 2]);
        assert_eq!(buffer.push(large()), 0);
        assert_eq!(buffer.push(large()), (WAITING_MAX - 2) as u64, "bytes are bounded too");
        assert_eq!(buffer.pop(0), Some((large(), WAITING_MAX as u64 - 2)));
    }
}
