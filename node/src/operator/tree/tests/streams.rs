//! A stream that grows fast, read by somebody slow, as a watch reads it.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use oa_nips::nostr::Keys;

use super::node;
use crate::notice::Notice;
use crate::operator::tree::Place;

/// Lines that come between two looks of the reader: a tenth of a second of 10,000 a second.
const BETWEEN: u64 = 1_000;
/// How often it looks.
const LOOKS: u64 = 50;
const KIB: usize = 1024;
/// What it takes at once: one frame.
const TAKEN: usize = 16 * KIB;
/// What a stream keeps.
const KEPT: u64 = 1024 * 1024;

fn line(number: u64) -> Notice {
    let (to, relay) = (format!("{number:08}"), "wss://relay.example".to_owned());
    Notice::MailOut { agent: "alice".into(), to, protocol: oa_nips::mail::Protocol::Nip17, relay }
}

/// The number in a line, if it is one of ours.
fn number(line: &[u8]) -> Option<u64> {
    let line: serde_json::Value = serde_json::from_slice(line).unwrap();
    line["to"].as_str()?.parse().ok()
}

#[tokio::test]
async fn a_slow_reader_of_a_fast_stream_learns_what_it_missed_and_nothing_grows() {
    let operator = Keys::generate().public_key();
    let (node, _dir) = node(operator, |config| config).await;
    let admin = node.admin();
    for path in ["/agents/alice/logs/events.jsonl", "/node/log"] {
        let place = || Place::find(&admin, &operator, path).unwrap();
        let mut watch = place().watch(&admin).unwrap();
        let (_, _, mut at) = place().piece(&admin, 0, 0).await.unwrap();
        let (mut rest, mut next, mut seen, mut missed) = (Vec::new(), 0, 0_u64, 0_u64);
        let mut take = |offset: u64, bytes: &[u8], at: &mut u64| {
            if offset > *at {
                // What was let go ends where a line does, so that the piece of a line before it is lost with it.
                rest.clear();
            }
            *at = offset + bytes.len() as u64;
            rest.extend_from_slice(bytes);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let whole: Vec<u8> = rest.drain(..=end).collect();
                let Some(number) = number(&whole) else { continue };
                assert!(number >= next, "{path}: in order, and each once");
                missed += number - next;
                seen += 1;
                next = number + 1;
            }
        };
        let mut gaps = 0;
        for look in 0..LOOKS {
            (0..BETWEEN).for_each(|n| admin.shared.feeds.notice(&line(look * BETWEEN + n)));
            assert!(watch.has_changed().unwrap(), "{path}: it is woken, once for all of them");
            watch.borrow_and_update();
            let (offset, bytes, length) = place().piece(&admin, at, TAKEN).await.unwrap();
            assert!(bytes.len() <= TAKEN && length - offset <= KEPT, "{path}: {length} - {offset}");
            gaps += u64::from(offset > at);
            take(offset, &bytes, &mut at);
        }
        assert!(gaps > 0, "{path}: more came than is kept");
        // Then it catches up.
        loop {
            let (offset, bytes, length) = place().piece(&admin, at, TAKEN).await.unwrap();
            assert!(
                offset == at || length - at > KEPT - TAKEN as u64,
                "{path}: nothing goes that there is room for"
            );
            take(offset, &bytes, &mut at);
            if at == length {
                break;
            }
        }
        assert_eq!(next, LOOKS * BETWEEN, "{path}: the last line came");
        assert_eq!(seen + missed, LOOKS * BETWEEN, "{path}: each line was read or known to be missed");
        assert!(missed > 0);
    }
    node.shutdown().await;
}

/// Old lines go while it is read: what comes still stands where it says.
#[tokio::test]
async fn what_is_let_go_between_two_looks_is_not_taken_for_what_was_asked_for() {
    let operator = Keys::generate().public_key();
    let (node, _dir) = node(operator, |config| config).await;
    let admin = node.admin();
    let place = || Place::find(&admin, &operator, "/agents/alice/logs/events.jsonl").unwrap();
    let (_, _, base) = place().piece(&admin, 0, 0).await.unwrap();
    let push = |number| admin.shared.feeds.notice(&line(number));
    push(0);
    // Each line is as long as the first.
    let length = place().piece(&admin, base, 0).await.unwrap().2 - base;
    let full = KEPT / length + 1;
    (1..full).for_each(push);
    let is_over = AtomicBool::new(false);
    let wrong = std::thread::scope(|scope| {
        scope.spawn(|| (full..).take_while(|_| !is_over.load(Ordering::Relaxed)).for_each(push));
        // The writer ends also when what is looked at here fails.
        let over = Over(&is_over);
        let look = || {
            let place = place();
            let read = place.piece(&admin, 0, 4 * KIB);
            let (offset, bytes, _) = read.now_or_never().unwrap().unwrap();
            if bytes.is_empty() {
                return None;
            }
            let first = number(bytes.split(|byte| *byte == b'\n').next().unwrap_or_default());
            (first != Some((offset - base) / length)).then_some((offset, first))
        };
        let wrong = (0..10_000).find_map(|_| look());
        drop(over);
        wrong
    });
    assert_eq!(wrong, None);
    node.shutdown().await;
}

/// Says that something is over when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
