//! The newest bytes of a stream that never ends: logs, traces, output of programs.
//!
//! Offsets are absolute: they count every byte ever pushed, and stay what they are when old ones are let go. Whoever
//! reads on from where it was learns by the offset of what it gets how much it missed. What a ring still has begins
//! at the beginning of a line.

mod rings;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

pub use self::rings::{Config, Folder, Rings};
use crate::namespace::service::{Span, Watch};

/// What a ring costs a budget besides its bytes.
const RING_BYTES: usize = 256;

/// A bounded stream of lines, pushed by few and read by many.
#[derive(Debug)]
pub struct Ring {
    bytes_max: usize,
    kept: Mutex<Kept>,
    /// Where the stream ends; its waking is coalesced by what it is.
    end: watch::Sender<u64>,
    /// The bytes of all rings of a budget, this one's among them.
    used: Arc<AtomicUsize>,
    /// When it was last pushed to or read, by the budget's count.
    used_at: AtomicU64,
}

#[derive(Debug)]
struct Kept {
    bytes: VecDeque<u8>,
    /// The offset of the first of them.
    start: u64,
}

impl Kept {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Lets old lines go until there is room for `more` bytes.
    fn make_room(&mut self, more: usize, bytes_max: usize) {
        let excess = (self.bytes.len() + more).saturating_sub(bytes_max);
        if excess == 0 {
            return;
        }
        // The line that the last excess byte is in goes as a whole: what is kept begins where a line does.
        let last = excess.saturating_sub(1);
        let rest = self.bytes.iter().skip(last).position(|byte| *byte == b'\n');
        let gone = rest.map_or(self.bytes.len(), |rest| last + rest + 1);
        self.bytes.drain(..gone);
        self.start += gone as u64;
    }
}

/// A part of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where it really begins: later than it was asked for when that was let go.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Ring {
    /// A ring that keeps this many bytes at most.
    pub fn new(bytes_max: usize) -> Self {
        Self::starting(0, bytes_max, Arc::default())
    }

    fn starting(start: u64, bytes_max: usize, used: Arc<AtomicUsize>) -> Self {
        used.fetch_add(RING_BYTES, Ordering::Relaxed);
        Self {
            bytes_max,
            kept: Mutex::new(Kept { bytes: VecDeque::new(), start }),
            end: watch::Sender::new(start),
            used,
            used_at: AtomicU64::new(0),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line and ends it. One that is longer than the ring counts, and is let go at once.
    pub fn push_line(&self, line: impl AsRef<[u8]>) {
        let line = line.as_ref();
        let length = line.len() + 1;
        let mut kept = self.kept();
        let before = kept.bytes.len();
        kept.make_room(length, self.bytes_max);
        if length > self.bytes_max {
            kept.start += length as u64;
        } else {
            kept.bytes.extend(line);
            kept.bytes.push_back(b'\n');
        }
        self.account(before, kept.bytes.len());
        // Under the lock, so that ends are told in order.
        self.end.send_replace(kept.end());
    }

    /// A part of what is there; what begins before the start begins at the start.
    pub fn read(&self, span: Span) -> Piece {
        let kept = self.kept();
        let offset = span.offset.max(kept.start);
        let skip = usize::try_from(offset - kept.start).unwrap_or(usize::MAX).min(kept.bytes.len());
        let count = span.count.min(kept.bytes.len() - skip);
        let (front, back) = kept.bytes.as_slices();
        let mut bytes = Vec::with_capacity(count);
        bytes.extend(front.iter().skip(skip).take(count));
        bytes.extend(back.iter().skip(skip.saturating_sub(front.len())).take(count - bytes.len()));
        Piece { offset, bytes }
    }

    /// The offset of the oldest byte that is still there.
    pub fn start(&self) -> u64 {
        self.kept().start
    }

    /// How many bytes were ever pushed.
    pub fn end(&self) -> u64 {
        *self.end.borrow()
    }

    /// Wakes when there is more, once for all that came since it was looked at; its value is the end.
    pub fn watch(&self) -> Watch {
        self.end.subscribe()
    }

    /// Whether somebody waits for more.
    fn is_watched(&self) -> bool {
        self.end.receiver_count() > 0
    }

    /// How many bytes are kept.
    fn size(&self) -> usize {
        self.kept().bytes.len()
    }

    /// Lets everything go.
    fn empty(&self) {
        let mut kept = self.kept();
        self.account(kept.bytes.len(), 0);
        kept.start = kept.end();
        kept.bytes = VecDeque::new();
    }

    fn account(&self, before: usize, after: usize) {
        if after >= before {
            self.used.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.empty();
        self.used.fetch_sub(RING_BYTES, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from(offset: u64) -> Span {
        Span { offset, count: usize::MAX }
    }

    #[test]
    fn offsets_stay_and_old_lines_go_as_a_whole() {
        let ring = Ring::new(10);
        ring.push_line("one");
        ring.push_line("two");
        assert_eq!(ring.read(Span::ALL), Piece { offset: 0, bytes: b"one\ntwo\n".to_vec() });
        ring.push_line("six");
        assert_eq!((ring.start(), ring.end()), (4, 12));
        assert_eq!(ring.read(from(0)), Piece { offset: 4, bytes: b"two\nsix\n".to_vec() });
        assert_eq!(ring.read(Span { offset: 9, count: 2 }), Piece { offset: 9, bytes: b"ix".to_vec() });
        assert_eq!(ring.read(from(12)).bytes, b"");
        assert_eq!(ring.read(from(99)).bytes, b"");
        ring.push_line("a line that is too long");
        assert_eq!((ring.start(), ring.end(), ring.size()), (36, 36, 0));
    }

    #[test]
    fn watching_is_coalesced() {
        let ring = Ring::new(1000);
        let mut watch = ring.watch();
        (0..100).for_each(|_| ring.push_line("x"));
        assert!(watch.has_changed().unwrap());
        assert_eq!(*watch.borrow_and_update(), 200);
        assert!(!watch.has_changed().unwrap());
    }

    proptest! {
        #[test]
        fn what_is_kept_is_the_end_of_what_was_pushed(
            lines in proptest::collection::vec("[a-z]{0,12}", 0..60),
            cap in 1_usize..40,
        ) {
            let ring = Ring::new(cap);
            let mut all = Vec::new();
            for line in &lines {
                ring.push_line(line);
                all.extend_from_slice(format!("{line}\n").as_bytes());
                let Piece { offset, bytes } = ring.read(from(0));
                let offset = usize::try_from(offset).unwrap();
                prop_assert_eq!(&all[offset..], &bytes[..]);
                prop_assert!(bytes.len() <= cap);
                prop_assert!(offset == 0 || all[offset - 1] == b'\n', "begins within a line");
                // Nothing goes that there was room for: the line before would not have fitted.
                let before = all[..offset.saturating_sub(1)].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
                prop_assert!(offset == 0 || all.len() - before > cap);
            }
            prop_assert_eq!(ring.used.load(Ordering::Relaxed), RING_BYTES + ring.size());
        }
    }

    #[test]
    fn a_reader_of_a_fast_stream_knows_each_line_it_missed() {
        let ring = Arc::new(Ring::new(4096));
        let lines = 200_000_u64;
        let pushing = {
            let ring = Arc::clone(&ring);
            std::thread::spawn(move || (0..lines).for_each(|number| ring.push_line(format!("{number:07}"))))
        };
        let (mut at, mut seen, mut missed) = (0, 0, 0);
        while at < lines * 8 {
            let Piece { offset, bytes } = ring.read(from(at));
            missed += offset - at;
            for (line, number) in bytes.chunks(8).zip(offset / 8..) {
                assert_eq!(line, format!("{number:07}\n").as_bytes());
                seen += 1;
            }
            at = offset + bytes.len() as u64;
        }
        pushing.join().unwrap();
        assert_eq!(seen + missed / 8, lines);
    }
}
