//! The reader's side of one watch, as a machine: what came in its order, each byte once, and asked for again when
//! frames are lost or the node falls silent.
//!
//! A watch has one `op` as long as it lasts. A frame that is missing, or a silence, ends it: the reader asks anew
//! under a fresh `op`, from the first byte it does not have. Time is in milliseconds on a clock of the caller's that
//! never goes back; `fresh` is random, and used where a new `op` is needed.

use std::collections::BTreeMap;

use super::watch::{Feed, KEEP_ALIVE_MS, Piece, SILENCE_MS, StreamFrame, Word};
use super::{OpError, OpId};

/// Frames kept that came before one that is missing. More than a node has on their way at once.
pub const HELD_MAX: usize = 64;
/// How long a frame may be missing, in milliseconds: others overtook it on the way, or it is lost.
pub const GAP_MS: u64 = 3_000;
/// After what silence a question is asked again, in milliseconds; twice as long each time, up to [`SILENCE_MS`].
pub const ASK_AGAIN_MS: u64 = 5_000;

/// One watch.
#[derive(Debug)]
pub struct WatchReader {
    op: OpId,
    /// The first byte that is not there yet.
    offset: u64,
    next_seq: u64,
    held: BTreeMap<u64, StreamFrame>,
    missing_since_ms: Option<u64>,
    /// Most bytes on their way to whoever takes the pieces, and how many are.
    window: u64,
    ahead: u64,
    /// Bytes granted and received since `op` began.
    granted: u64,
    received: u64,
    heard_ms: u64,
    spoke_ms: u64,
    /// Questions that nothing answered yet.
    unanswered: u32,
}

/// What the reader does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Sends a request to watch from `offset`, with a credit of so many bytes.
    Ask { op: OpId, offset: u64, credit: u64 },
    /// Sends a word to the watch.
    Feed(Feed),
    /// Hands over what came; its bytes are to be given back by [`WatchReader::taken`].
    Piece(News),
    /// The node ended it; nothing follows.
    End(OpError),
}

/// A piece, and what was lost before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// What came.
    pub piece: Piece,
    /// Bytes that were let go before they could be sent.
    pub missed: u64,
}

impl WatchReader {
    /// A watch from `offset` on, for somebody who takes at most `window` bytes ahead; and its question.
    pub fn new(op: OpId, offset: u64, window: u64, now_ms: u64) -> (Self, Action) {
        let mut reader = Self {
            op,
            offset,
            next_seq: 0,
            held: BTreeMap::new(),
            missing_since_ms: None,
            window: window.max(1),
            ahead: 0,
            granted: 0,
            received: 0,
            heard_ms: now_ms,
            spoke_ms: now_ms,
            unanswered: 0,
        };
        let ask = reader.ask(op, now_ms);
        (reader, ask)
    }

    /// The `op` that frames must have.
    pub fn op(&self) -> OpId {
        self.op
    }

    /// Takes a frame; one of another watch changes nothing.
    pub fn frame(&mut self, frame: StreamFrame, fresh: OpId, now_ms: u64) -> Vec<Action> {
        if frame.op != self.op {
            return Vec::new();
        }
        (self.heard_ms, self.unanswered) = (now_ms, 0);
        // What cannot be read is as good as lost.
        let piece = frame.piece();
        if frame.seq >= self.next_seq && piece.is_ok() {
            self.held.insert(frame.seq, frame);
        }
        let mut actions = Vec::new();
        while let Some(frame) = self.held.remove(&self.next_seq) {
            actions.extend(self.apply(&frame));
            if matches!(actions.last(), Some(Action::End(_))) {
                return actions;
            }
        }
        let is_whole = self.held.is_empty() && piece.is_ok();
        self.missing_since_ms = (!is_whole).then(|| self.missing_since_ms.unwrap_or(now_ms));
        if self.held.len() > HELD_MAX {
            actions.push(self.ask(fresh, now_ms));
        }
        actions
    }

    /// Takes note that whoever gets the pieces has taken so many bytes of them.
    pub fn taken(&mut self, bytes: u64, now_ms: u64) -> Option<Action> {
        self.ahead = self.ahead.saturating_sub(bytes);
        let is_low = self.granted.saturating_sub(self.received) <= self.window / 2;
        (is_low && self.grantable() > self.granted).then(|| self.feed(now_ms))
    }

    /// Does what time has made due.
    pub fn tick(&mut self, fresh: OpId, now_ms: u64) -> Option<Action> {
        let is_lost = self.missing_since_ms.is_some_and(|since| now_ms >= since.saturating_add(GAP_MS));
        let is_silent = now_ms >= self.heard_ms.saturating_add(self.patience_ms());
        if is_lost || is_silent {
            return Some(self.ask(fresh, now_ms));
        }
        (now_ms >= self.spoke_ms.saturating_add(KEEP_ALIVE_MS)).then(|| self.feed(now_ms))
    }

    /// Asks anew at once, because the node could not take the last question.
    pub fn again(&mut self, fresh: OpId, now_ms: u64) -> Action {
        self.ask(fresh, now_ms)
    }

    /// When [`WatchReader::tick`] is due, unless something comes before.
    pub fn due_ms(&self) -> u64 {
        let silent = self.heard_ms.saturating_add(self.patience_ms());
        let alive = self.spoke_ms.saturating_add(KEEP_ALIVE_MS);
        let lost = self.missing_since_ms.map_or(u64::MAX, |since| since.saturating_add(GAP_MS));
        silent.min(alive).min(lost)
    }

    /// The word that ends it.
    pub fn stop(&self) -> Feed {
        Feed { op: self.op, word: Word::Stop }
    }

    fn apply(&mut self, frame: &StreamFrame) -> Option<Action> {
        if let Some(error) = &frame.end {
            return Some(Action::End(error.clone()));
        }
        self.next_seq = frame.seq.saturating_add(1);
        let piece = frame.piece().ok().filter(|_| !frame.beat)?;
        let count = piece.bytes.len() as u64;
        self.received = self.received.saturating_add(count);
        self.ahead = self.ahead.saturating_add(count);
        // Offsets are the truth of what was missed; the number in the frame is for those who do not count.
        let missed = if piece.edition.is_none() { piece.offset.saturating_sub(self.offset) } else { 0 };
        self.offset = piece.offset.saturating_add(count);
        Some(Action::Piece(News { piece, missed }))
    }

    fn ask(&mut self, op: OpId, now_ms: u64) -> Action {
        (self.op, self.next_seq, self.received) = (op, 0, 0);
        self.held.clear();
        self.missing_since_ms = None;
        (self.heard_ms, self.spoke_ms) = (now_ms, now_ms);
        self.unanswered = self.unanswered.saturating_add(1);
        self.granted = self.grantable();
        Action::Ask { op, offset: self.offset, credit: self.granted }
    }

    fn feed(&mut self, now_ms: u64) -> Action {
        self.spoke_ms = now_ms;
        self.granted = self.granted.max(self.grantable());
        Action::Feed(Feed { op: self.op, word: Word::Credit(self.granted) })
    }

    /// What may be granted under this `op` by now: what came, and room for what has not.
    fn grantable(&self) -> u64 {
        self.received.saturating_add(self.window.saturating_sub(self.ahead))
    }

    fn patience_ms(&self) -> u64 {
        match self.unanswered {
            0 => SILENCE_MS,
            asked => ASK_AGAIN_MS.saturating_mul(1 << (asked - 1).min(8)).min(SILENCE_MS),
        }
    }
}

#[cfg(test)]
mod tests;
