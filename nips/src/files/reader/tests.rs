//! The reader alone, and reader and sender over a line that loses, doubles and shuffles.

use proptest::prelude::*;

use super::*;
use crate::files::sender::{Taken, WatchSender};
use crate::files::{Code, FRAME_BODY_BYTES_MAX};
use crate::hex::Hex;

fn op(n: u64) -> OpId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    Hex(bytes)
}

fn frame(of: u64, seq: u64, offset: u64, text: &str) -> StreamFrame {
    let bytes = text.as_bytes().to_vec();
    let length = offset + bytes.len() as u64;
    StreamFrame::new(op(of), seq, &Piece { offset, bytes, length, edition: None })
}

fn texts(actions: &[Action]) -> Vec<(u64, String)> {
    let text = |action: &Action| match action {
        Action::Piece(News { piece, missed }) => {
            Some((*missed, String::from_utf8(piece.bytes.clone()).unwrap()))
        }
        _ => None,
    };
    actions.iter().filter_map(text).collect()
}

#[test]
fn frames_come_out_in_order_and_once() {
    let (mut reader, ask) = WatchReader::new(op(1), 0, 100, 0);
    assert_eq!(ask, Action::Ask { op: op(1), offset: 0, credit: 100 });
    assert_eq!(reader.frame(frame(1, 1, 2, "cd"), op(2), 1), []);
    assert_eq!(texts(&reader.frame(frame(1, 0, 0, "ab"), op(2), 2)), [(0, "ab".into()), (0, "cd".into())]);
    assert_eq!(reader.frame(frame(1, 1, 2, "cd"), op(2), 3), [], "a repeat");
    assert_eq!(reader.frame(frame(9, 2, 4, "ef"), op(2), 4), [], "of another watch");
    assert_eq!(texts(&reader.frame(frame(1, 2, 7, "h"), op(2), 5)), [(3, "h".into())], "three let go");
}

#[test]
fn a_lost_frame_is_asked_for_again_from_where_the_reader_is() {
    let (mut reader, _) = WatchReader::new(op(1), 0, 100, 0);
    reader.frame(frame(1, 0, 0, "ab"), op(2), 0);
    reader.frame(frame(1, 2, 4, "ef"), op(2), 10);
    assert_eq!(reader.due_ms(), 10 + GAP_MS);
    assert_eq!(reader.tick(op(2), 10 + GAP_MS - 1), None);
    let ask = reader.tick(op(2), 10 + GAP_MS);
    // Two bytes wait to be taken: there is room for the rest of the window.
    assert_eq!(ask, Some(Action::Ask { op: op(2), offset: 2, credit: 98 }));
    assert_eq!(reader.frame(frame(1, 1, 2, "cd"), op(3), 5000), [], "the old watch is over");
    assert_eq!(texts(&reader.frame(frame(2, 0, 2, "cdef"), op(3), 5000)), [(0, "cdef".into())]);
}

#[test]
fn so_is_one_that_cannot_be_read() {
    let (mut reader, _) = WatchReader::new(op(1), 0, 100, 0);
    let broken = StreamFrame { body: "?".into(), ..frame(1, 0, 0, "") };
    assert_eq!(reader.frame(broken, op(2), 10), []);
    assert!(matches!(reader.tick(op(2), 10 + GAP_MS), Some(Action::Ask { offset: 0, .. })));
}

#[test]
fn too_many_that_wait_for_one_are_given_up() {
    let (mut reader, _) = WatchReader::new(op(1), 0, 1000, 0);
    let max = HELD_MAX as u64;
    for seq in 1..=max {
        assert_eq!(reader.frame(frame(1, seq, seq, "x"), op(2), 0), []);
    }
    let given_up = reader.frame(frame(1, max + 1, max + 1, "x"), op(2), 0);
    assert_eq!(given_up, [Action::Ask { op: op(2), offset: 0, credit: 1000 }]);
    assert_eq!(reader.op(), op(2));
}

#[test]
fn silence_is_the_end_of_a_watch_and_questions_are_repeated_ever_slower() {
    let (mut reader, _) = WatchReader::new(op(1), 0, 100, 0);
    let mut at = 0;
    for (n, wait) in [(2, 5_000), (3, 10_000), (4, 20_000), (5, 40_000), (6, 40_000)] {
        // Only the word that the reader is there comes between.
        while reader.due_ms() < at + wait {
            let due = reader.due_ms();
            assert!(matches!(reader.tick(op(n), due), Some(Action::Feed(_))));
        }
        at += wait;
        assert_eq!(reader.due_ms(), at);
        assert!(matches!(reader.tick(op(n), at), Some(Action::Ask { .. })), "{n}");
    }
    let beat = StreamFrame { beat: true, ..frame(6, 0, 0, "") };
    assert_eq!(reader.frame(beat, op(7), at), []);
    assert_eq!(
        reader.tick(op(7), at + SILENCE_MS - KEEP_ALIVE_MS).map(|a| matches!(a, Action::Feed(_))),
        Some(true)
    );
    assert!(matches!(reader.tick(op(7), at + SILENCE_MS), Some(Action::Ask { .. })));
}

#[test]
fn credit_follows_what_is_taken() {
    let (mut reader, _) = WatchReader::new(op(1), 0, 100, 0);
    let text = "x".repeat(60);
    reader.frame(frame(1, 0, 0, &text), op(2), 0);
    assert_eq!(reader.tick(op(2), 1), None, "no credit for what nobody took");
    let feed = |credit| Some(Action::Feed(Feed { op: op(1), word: Word::Credit(credit) }));
    assert_eq!(reader.taken(20, 2), feed(120));
    assert_eq!(reader.taken(5, 3), None, "not for every little");
    reader.frame(frame(1, 1, 60, &text[..20]), op(2), 4);
    assert_eq!(reader.taken(55, 5), feed(180));
    assert_eq!(reader.stop(), Feed { op: op(1), word: Word::Stop });
}

#[test]
fn an_end_ends_it_in_its_turn() {
    let (mut reader, _) = WatchReader::new(op(1), 0, 100, 0);
    let error = crate::files::OpError::new(Code::NotFound, "gone");
    let end = StreamFrame { end: Some(error.clone()), ..frame(1, 1, 2, "") };
    assert_eq!(reader.frame(end, op(2), 0), []);
    let actions = reader.frame(frame(1, 0, 0, "ab"), op(2), 0);
    assert_eq!(texts(&actions), [(0, "ab".into())]);
    assert_eq!(actions.last(), Some(&Action::End(error)));
}

/// A file that grows, and lets go of what is old.
struct Log {
    written: u64,
    kept: u64,
}

impl Log {
    fn byte(at: u64) -> u8 {
        (at % 251) as u8
    }

    fn read(&self, offset: u64, count: usize) -> Piece {
        let start = self.written.saturating_sub(self.kept);
        let offset = offset.max(start).min(self.written);
        let end = self.written.min(offset + count as u64);
        Piece { offset, bytes: (offset..end).map(Self::byte).collect(), length: self.written, edition: None }
    }
}

/// What the line does with one frame.
#[derive(Debug, Clone, Copy)]
enum Line {
    Passes,
    Loses,
    Doubles,
    Delays,
}

fn line() -> impl Strategy<Value = Line> {
    prop_oneof![6 => Just(Line::Passes), 1 => Just(Line::Loses), 1 => Just(Line::Doubles), 1 => Just(Line::Delays)]
}

/// Everything of one run: both machines, a clock, and what is on its way.
struct Run {
    log: Log,
    sender: Option<WatchSender>,
    reader: WatchReader,
    ops: u64,
    now_ms: u64,
    got: u64,
    missed: u64,
    untaken: u64,
    window: u64,
    delayed: Vec<StreamFrame>,
}

impl Run {
    fn act(&mut self, action: Action, is_lost: bool) {
        match action {
            Action::Ask { op, offset, credit } if !is_lost => {
                self.sender = Some(WatchSender::new(op, offset, credit, self.now_ms));
            }
            Action::Feed(Feed { op, word: Word::Credit(credit) }) if !is_lost => {
                if let Some(sender) = &mut self.sender
                    && op == self.reader.op()
                {
                    sender.grant(credit, self.now_ms);
                }
            }
            Action::Piece(News { piece, missed }) => {
                self.missed += missed;
                self.got += missed;
                for (n, byte) in piece.bytes.iter().enumerate() {
                    assert_eq!(*byte, Log::byte(piece.offset + n as u64));
                }
                assert_eq!(piece.offset, self.got, "in order, without a gap that was not told");
                self.got += piece.bytes.len() as u64;
                self.untaken += piece.bytes.len() as u64;
                assert!(self.untaken <= self.window, "never more ahead than the window");
            }
            _ => {}
        }
    }

    fn fresh(&mut self) -> OpId {
        self.ops += 1;
        op(self.ops)
    }

    fn deliver(&mut self, frame: StreamFrame) {
        let fresh = self.fresh();
        for action in self.reader.frame(frame, fresh, self.now_ms) {
            self.act(action, false);
        }
    }

    /// The node's turn: one frame, if there is something to say.
    fn speak(&mut self, line: Line) {
        let Some(sender) = &mut self.sender else { return };
        let frame = match sender.want().map(|wanted| (wanted, self.log.read(wanted.offset, wanted.count))) {
            Some((_, piece)) => sender.take(piece, self.now_ms),
            None => Taken::Nothing,
        };
        let frame = match frame {
            Taken::Frame(frame) => frame,
            _ if self.now_ms >= sender.beat_ms() => sender.beat(self.now_ms),
            _ => return,
        };
        match line {
            Line::Passes => self.deliver(frame),
            Line::Loses => {}
            Line::Doubles => {
                self.deliver(frame.clone());
                self.deliver(frame);
            }
            Line::Delays => self.delayed.push(frame),
        }
    }

    fn rest(&mut self, is_lost: bool) {
        for frame in std::mem::take(&mut self.delayed) {
            self.deliver(frame);
        }
        let taken = std::mem::take(&mut self.untaken);
        if let Some(action) = self.reader.taken(taken, self.now_ms) {
            self.act(action, is_lost);
        }
        let fresh = self.fresh();
        if let Some(action) = self.reader.tick(fresh, self.now_ms) {
            self.act(action, is_lost);
        }
    }
}

proptest! {
    #[test]
    fn every_byte_arrives_once_in_order_or_is_told_to_be_missed(
        steps in proptest::collection::vec((line(), 0..40_000_u64, 0..4_000_u64, any::<bool>()), 1..60),
        window in 1..100_000_u64,
        kept in 1_000..200_000_u64,
    ) {
        let (reader, ask) = WatchReader::new(op(0), 0, window, 0);
        let log = Log { written: 0, kept };
        let mut run = Run {
            log, sender: None, reader, ops: 0, now_ms: 0, got: 0, missed: 0, untaken: 0, window, delayed: Vec::new(),
        };
        run.act(ask, false);
        for (line, written, waited_ms, is_lost) in steps {
            run.log.written += written;
            run.now_ms += waited_ms;
            run.speak(line);
            run.rest(is_lost);
        }
        // A line that works again brings it all to an end, within the bounds of time that both sides keep.
        let turns = 100 + 2 * (run.log.kept / window.min(FRAME_BODY_BYTES_MAX as u64) + 1);
        for _ in 0..turns {
            run.now_ms += 1_000;
            run.speak(Line::Passes);
            run.rest(false);
        }
        prop_assert_eq!(run.got, run.log.written);
        prop_assert!(run.missed <= run.log.written);
    }
}
