//! The node's side of one watch, as a machine: what to read next, what to send, when the reader is gone.
//!
//! It holds no bytes: a reader without credit costs these few numbers. Time is in milliseconds on a clock of the
//! caller's that never goes back.

use super::watch::{BEAT_MS, Piece, READER_SILENCE_MS, StreamFrame};
use super::{FRAME_BODY_BYTES_MAX, OpError, OpId};

/// One watch.
#[derive(Debug)]
pub struct WatchSender {
    op: OpId,
    seq: u64,
    /// The next byte to send.
    offset: u64,
    /// Which content of a value the bytes before `offset` belong to.
    edition: Option<u64>,
    length: u64,
    /// Bytes granted and bytes sent, since the beginning.
    credit: u64,
    sent: u64,
    sent_ms: u64,
    heard_ms: u64,
}

/// What is to be read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The first byte.
    pub offset: u64,
    /// Most bytes; one frame's at most.
    pub count: usize,
}

/// What becomes of a piece that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is sent.
    Frame(StreamFrame),
    /// It belongs to another content than what was sent before: read again, from where [`WatchSender::want`] says.
    Again,
    /// There is nothing new in it: wait for a change.
    Nothing,
}

impl WatchSender {
    /// A watch that begins at `offset` with a credit of so many bytes.
    pub fn new(op: OpId, offset: u64, credit: u64, now_ms: u64) -> Self {
        let (length, sent) = (0, 0);
        Self { op, seq: 0, offset, edition: None, length, credit, sent, sent_ms: now_ms, heard_ms: now_ms }
    }

    /// What to read; nothing while there is no credit.
    pub fn want(&self) -> Option<Wanted> {
        let left = usize::try_from(self.credit.saturating_sub(self.sent)).unwrap_or(usize::MAX);
        (left > 0).then_some(Wanted { offset: self.offset, count: left.min(FRAME_BODY_BYTES_MAX) })
    }

    /// The next byte to send.
    pub fn position(&self) -> u64 {
        self.offset
    }

    /// Takes the reader's credit, in all since the beginning, and that it is there.
    pub fn grant(&mut self, credit: u64, now_ms: u64) {
        self.credit = self.credit.max(credit);
        self.heard_ms = now_ms;
    }

    /// Takes what was read at [`WatchSender::want`].
    pub fn take(&mut self, mut piece: Piece, now_ms: u64) -> Taken {
        let Some(wanted) = self.want() else { return Taken::Nothing };
        self.length = piece.length;
        let is_value = piece.edition.is_some();
        let is_other = piece.edition != self.edition;
        // A value that changed is sent whole. What only grows and is shorter now was begun anew.
        let begins_anew = is_other || (!is_value && piece.length < self.offset);
        if begins_anew && self.offset > 0 {
            (self.offset, self.edition) = (0, None);
            return Taken::Again;
        }
        self.edition = piece.edition;
        piece.bytes.truncate(wanted.count);
        let missed = if is_value { 0 } else { piece.offset.saturating_sub(self.offset) };
        let is_news = !piece.bytes.is_empty() || missed > 0 || (is_value && is_other);
        if !is_news {
            return if self.seq == 0 { Taken::Frame(self.beat(now_ms)) } else { Taken::Nothing };
        }
        let frame = StreamFrame { missed, ..StreamFrame::new(self.op, self.seq, &piece) };
        let count = piece.bytes.len() as u64;
        self.offset = piece.offset.saturating_add(count);
        self.sent = self.sent.saturating_add(count);
        self.spoke(now_ms);
        Taken::Frame(frame)
    }

    /// Learns the file's length without sending anything of it.
    pub fn measured(&mut self, length: u64) {
        self.length = length;
    }

    /// The frame that says the node is there, and how long the file is.
    pub fn beat(&mut self, now_ms: u64) -> StreamFrame {
        let frame = StreamFrame { beat: true, ..self.empty() };
        self.spoke(now_ms);
        frame
    }

    /// The last frame.
    pub fn end(&self, error: OpError) -> StreamFrame {
        StreamFrame { end: Some(error.cut()), ..self.empty() }
    }

    /// When a beat is due.
    pub fn beat_ms(&self) -> u64 {
        self.sent_ms.saturating_add(BEAT_MS)
    }

    /// When the reader is given up, unless it is heard.
    pub fn abandoned_ms(&self) -> u64 {
        self.heard_ms.saturating_add(READER_SILENCE_MS)
    }

    fn empty(&self) -> StreamFrame {
        let piece =
            Piece { offset: self.offset, bytes: Vec::new(), length: self.length, edition: self.edition };
        StreamFrame::new(self.op, self.seq, &piece)
    }

    fn spoke(&mut self, now_ms: u64) {
        self.seq += 1;
        self.sent_ms = now_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Code;
    use crate::hex::Hex;

    const OP: OpId = Hex([1; 16]);

    fn piece(offset: u64, text: &str, length: u64, edition: Option<u64>) -> Piece {
        Piece { offset, bytes: text.as_bytes().to_vec(), length, edition }
    }

    fn frame(taken: Taken) -> StreamFrame {
        let Taken::Frame(frame) = taken else { unreachable!("{taken:?}") };
        frame
    }

    #[test]
    fn nothing_is_read_without_credit_and_no_more_than_granted_is_sent() {
        let mut watch = WatchSender::new(OP, 0, 0, 0);
        assert_eq!(watch.want(), None);
        watch.grant(3, 10);
        assert_eq!(watch.want(), Some(Wanted { offset: 0, count: 3 }));
        // A source that gives more than was asked for is cut.
        let sent = frame(watch.take(piece(0, "hello", 5, None), 10));
        assert_eq!((sent.piece().unwrap().bytes, sent.length), (b"hel".to_vec(), 5));
        assert_eq!(watch.want(), None);
        // Credit counts from the beginning: one that comes late or twice changes nothing.
        watch.grant(2, 11);
        assert_eq!(watch.want(), None);
        watch.grant(100_000, 12);
        assert_eq!(watch.want(), Some(Wanted { offset: 3, count: FRAME_BODY_BYTES_MAX }));
    }

    #[test]
    fn what_was_let_go_is_told_in_bytes() {
        let mut watch = WatchSender::new(OP, 10, 100, 0);
        let sent = frame(watch.take(piece(15, "xy", 17, None), 0));
        assert_eq!((sent.seq, sent.offset, sent.missed), (0, 15, 5));
        assert_eq!(watch.want().unwrap().offset, 17);
        // All of it let go, and nothing left.
        let sent = frame(watch.take(piece(20, "", 20, None), 0));
        assert_eq!((sent.seq, sent.offset, sent.missed), (1, 20, 3));
        assert_eq!(watch.take(piece(20, "", 20, None), 0), Taken::Nothing);
    }

    #[test]
    fn a_value_is_sent_whole_each_time_it_changes() {
        let mut watch = WatchSender::new(OP, 7, 100, 0);
        // It begins with all of it, wherever the reader wanted to begin.
        assert_eq!(watch.take(piece(7, "", 2, Some(1)), 0), Taken::Again);
        assert_eq!(watch.want().unwrap().offset, 0);
        assert_eq!(frame(watch.take(piece(0, "ab", 2, Some(1)), 0)).offset, 0);
        assert_eq!(watch.take(piece(2, "", 2, Some(1)), 0), Taken::Nothing);
        // Another content, longer: what is read of its middle is not sent.
        assert_eq!(watch.take(piece(2, "c", 3, Some(2)), 0), Taken::Again);
        let sent = frame(watch.take(piece(0, "abc", 3, Some(2)), 0));
        assert_eq!((sent.offset, sent.length, sent.edition, sent.missed), (0, 3, Some(2), 0));
        // And an empty one.
        assert_eq!(watch.take(piece(3, "", 0, Some(3)), 0), Taken::Again);
        let sent = frame(watch.take(piece(0, "", 0, Some(3)), 0));
        assert_eq!((sent.length, sent.edition, sent.beat), (0, Some(3), false));
        assert_eq!(watch.take(piece(0, "", 0, Some(3)), 0), Taken::Nothing);
    }

    #[test]
    fn a_stream_that_is_shorter_than_it_was_begins_anew() {
        let mut watch = WatchSender::new(OP, 50, 100, 0);
        assert_eq!(watch.take(piece(50, "", 3, None), 0), Taken::Again);
        assert_eq!(frame(watch.take(piece(0, "new", 3, None), 0)).offset, 0);
    }

    #[test]
    fn the_first_frame_comes_at_once_and_beats_follow_silence() {
        let mut watch = WatchSender::new(OP, 5, 100, 1000);
        let first = frame(watch.take(piece(5, "", 5, None), 1000));
        assert_eq!((first.seq, first.beat, first.length), (0, true, 5));
        assert_eq!((watch.beat_ms(), watch.abandoned_ms()), (16_000, 61_000));
        watch.measured(9);
        let beat = watch.beat(16_000);
        assert_eq!((beat.seq, beat.offset, beat.length, beat.beat), (1, 5, 9, true));
        assert_eq!(watch.beat_ms(), 31_000);
        let end = watch.end(OpError::new(Code::PermissionDenied, "no longer"));
        assert_eq!((end.seq, end.end.unwrap().code), (2, Code::PermissionDenied));
    }
}
