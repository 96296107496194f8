//! Watches of a log in memory, told to a caller who opens every frame. Time is the test's.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use oa_nips::files::FRAME_BODY_BYTES_MAX;
use oa_nips::files::reader::{Action, News, WatchReader};
use oa_nips::files::watch::Piece;
use oa_nips::hex::Hex;
use oa_nips::nostr::secp256k1::schnorr::Signature;
use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{Event, Keys, RelayUrl, UnsignedEvent};
use oa_nips::port::{Ack, Publish, Signer, SignerError};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::operator::post::Post;
use crate::time::System;

/// A relay that hands everything to the test.
#[derive(Debug)]
struct Line {
    out: mpsc::UnboundedSender<Event>,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
}

impl Publish for Line {
    fn publish<'a>(&'a self, _: &'a RelayUrl, event: &'a Event, _: Duration) -> BoxedFuture<'a, Ack> {
        Box::pin(async move {
            let now = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
            self.at_once_max.fetch_max(now, Ordering::Relaxed);
            tokio::task::yield_now().await;
            let _ = self.out.send(event.clone());
            self.at_once.fetch_sub(1, Ordering::Relaxed);
            Ack::Accepted
        })
    }
}

/// Keys that cost nothing: what is "encrypted" can be read, and signatures are all the same.
#[derive(Debug)]
struct Glass(PublicKey);

impl Signer for Glass {
    fn public_key(&self) -> PublicKey {
        self.0
    }

    fn is_immediate(&self) -> bool {
        true
    }

    fn sign(&self, mut event: UnsignedEvent) -> BoxedFuture<'_, Result<Event, SignerError>> {
        let UnsignedEvent { pubkey, created_at, kind, tags, content, .. } = event.clone();
        let signature = Signature::from_slice(&[7; 64]).unwrap();
        let event = Event::new(event.id(), pubkey, created_at, kind, tags, content, signature);
        Box::pin(async { Ok(event) })
    }

    fn nip44_encrypt<'a>(
        &'a self,
        _: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(async { Ok(text.to_owned()) })
    }

    fn nip44_decrypt<'a>(
        &'a self,
        _: &'a PublicKey,
        _: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        unreachable!("nothing comes in")
    }

    fn nip04_encrypt<'a>(
        &'a self,
        _: &'a PublicKey,
        _: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        unreachable!("nothing legacy")
    }

    fn nip04_decrypt<'a>(
        &'a self,
        _: &'a PublicKey,
        _: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        unreachable!("nothing legacy")
    }
}

#[derive(Debug, Default)]
struct Known(AtomicBool);

impl Listeners for Known {
    fn has_role(&self, _: &PublicKey) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A log of which the last `kept` bytes are there.
#[derive(Debug)]
struct Log {
    written: watch::Sender<u64>,
    kept: u64,
    is_gone: AtomicBool,
}

struct Tail {
    log: Arc<Log>,
    changed: watch::Receiver<u64>,
}

fn byte(at: u64) -> u8 {
    (at % 251) as u8
}

impl Source for Tail {
    fn changed(&mut self) -> BoxedFuture<'_, ()> {
        Box::pin(async { drop(self.changed.changed().await) })
    }

    fn read(&self, offset: u64, count: usize) -> BoxedFuture<'_, Result<Piece, OpError>> {
        Box::pin(async move {
            if self.log.is_gone.load(Ordering::Relaxed) {
                return Err(OpError::new(Code::NotFound, "gone"));
            }
            let length = *self.log.written.borrow();
            let offset = offset.max(length.saturating_sub(self.log.kept)).min(length);
            let end = length.min(offset + count as u64);
            Ok(Piece { offset, bytes: (offset..end).map(byte).collect(), length, edition: None })
        })
    }
}

struct Desk {
    watches: Watches,
    roles: Arc<Known>,
    line: Arc<Line>,
    log: Arc<Log>,
    caller: PublicKey,
    heard: mpsc::UnboundedReceiver<Event>,
}

impl Desk {
    fn new(kept: u64) -> Self {
        let caller = Keys::generate().public_key();
        let node = Arc::new(Glass(Keys::generate().public_key()));
        let (out, heard) = mpsc::unbounded_channel();
        let line = Arc::new(Line { out, at_once: AtomicUsize::new(0), at_once_max: AtomicUsize::new(0) });
        let roles = Arc::new(Known(AtomicBool::new(true)));
        let log = Arc::new(Log { written: watch::Sender::new(0), kept, is_gone: AtomicBool::new(false) });
        let post = Post { signer: node, publish: line.clone(), time: Arc::new(System) };
        let watches = Watches::new(post, roles.clone());
        Self { watches, roles, line, log, caller, heard }
    }

    fn to(&self) -> To {
        To { caller: self.caller, relay: RelayUrl::parse("ws://127.0.0.1:1").unwrap() }
    }

    fn begin(&self, op: OpId, offset: u64, credit: u64) -> Result<(), OpError> {
        self.begin_for(self.to(), op, offset, credit)
    }

    fn begin_for(&self, to: To, op: OpId, offset: u64, credit: u64) -> Result<(), OpError> {
        let source = Tail { log: self.log.clone(), changed: self.log.written.subscribe() };
        self.watches.begin(to, &Request::watch(op, "/log", offset, credit), Box::new(source))
    }

    fn feed(&self, op: OpId, word: Word) {
        self.watches.feed(self.to(), Feed { op, word });
    }

    fn count(&self) -> usize {
        self.watches.shared.rows().len()
    }

    /// The next frame, within this time of the test's clock.
    async fn next(&mut self, within: Duration) -> Option<StreamFrame> {
        let event = tokio::time::timeout(within, self.heard.recv()).await.ok().flatten()?;
        Some(StreamFrame::parse(&event.content).unwrap())
    }

    async fn frame(&mut self) -> StreamFrame {
        self.next(Duration::from_secs(16)).await.expect("a frame")
    }

    async fn ended(&self) {
        let ended = async {
            while self.count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(1), ended).await.expect("the watch ends");
    }
}

const OP: OpId = Hex([1; 16]);

#[tokio::test(start_paused = true)]
async fn a_watch_says_it_is_there_then_what_comes_then_that_it_is_still_there() {
    let mut desk = Desk::new(1000);
    desk.begin(OP, 0, 100).unwrap();
    let first = desk.frame().await;
    assert_eq!((first.seq, first.beat, first.length), (0, true, 0));
    desk.log.written.send_replace(30);
    let news = desk.frame().await;
    assert_eq!((news.seq, news.offset, news.length, news.piece().unwrap().bytes.len()), (1, 0, 30, 30));
    let beat = desk.frame().await;
    assert_eq!((beat.seq, beat.beat, beat.offset, beat.length), (2, true, 30, 30));
    // No more than the credit; the beat tells of the rest.
    desk.log.written.send_replace(500);
    assert_eq!(desk.frame().await.piece().unwrap().bytes.len(), 70);
    let beat = desk.frame().await;
    assert_eq!((beat.beat, beat.offset, beat.length), (true, 100, 500));
    desk.feed(OP, Word::Credit(1000));
    assert_eq!(desk.frame().await.piece().unwrap().bytes.len(), 400);
    desk.feed(OP, Word::Stop);
    desk.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_too_slow_is_told_what_it_missed() {
    let mut desk = Desk::new(100);
    desk.begin(OP, 0, 10).unwrap();
    desk.frame().await;
    desk.log.written.send_replace(50);
    assert_eq!(desk.frame().await.piece().unwrap().bytes.len(), 10);
    desk.log.written.send_replace(1_000_000);
    desk.feed(OP, Word::Credit(1_000));
    let news = desk.frame().await;
    assert_eq!((news.offset, news.missed), (999_900, 999_890));
    assert_eq!(news.piece().unwrap().bytes[0], byte(999_900));
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_its_reader_its_file_its_role_and_the_server() {
    let mut desk = Desk::new(100);
    // Silence of the reader: beats at 15, 30 and 45 s, then nothing.
    desk.begin(OP, 0, 10).unwrap();
    for _ in 0..4 {
        assert!(desk.frame().await.beat);
    }
    assert_eq!(desk.next(Duration::from_secs(16)).await, None);
    desk.ended().await;
    // A word keeps it.
    desk.begin(OP, 0, 10).unwrap();
    for _ in 0..8 {
        assert!(desk.frame().await.beat);
        desk.feed(OP, Word::Credit(10));
    }
    // The file: the reader is told.
    desk.log.is_gone.store(true, Ordering::Relaxed);
    desk.log.written.send_replace(1);
    assert_eq!(desk.frame().await.end.unwrap().code, Code::NotFound);
    desk.ended().await;
    desk.log.is_gone.store(false, Ordering::Relaxed);
    // The role: silence.
    desk.begin(OP, 1, 10).unwrap();
    desk.frame().await;
    desk.roles.0.store(false, Ordering::Relaxed);
    assert_eq!(desk.next(Duration::from_secs(20)).await, None);
    desk.ended().await;
    desk.begin(OP, 1, 10).unwrap();
    desk.watches.shutdown().await;
    assert_eq!(desk.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_watches_of_one_file_share_the_places_to_send_from() {
    const WATCHES: usize = 10_000;
    let mut desk = Desk::new(1 << 20);
    let op = |n: usize| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        Hex(bytes)
    };
    for n in 0..WATCHES {
        desk.begin(op(n), 0, 100).unwrap();
    }
    for n in WATCHES..=CALLER_WATCHES_MAX {
        let begun = desk.begin(op(n), 0, 0);
        assert_eq!(begun.is_ok(), n < CALLER_WATCHES_MAX, "{n}");
    }
    // Somebody else finds a place, until there is none.
    let other = To { caller: Keys::generate().public_key(), ..desk.to() };
    for n in CALLER_WATCHES_MAX..=WATCHES_MAX {
        let begun = desk.begin_for(other.clone(), op(n), 0, 0);
        assert_eq!(begun.is_ok(), n < WATCHES_MAX, "{n}");
    }
    let mut heard = 0;
    while heard < WATCHES_MAX {
        heard += usize::from(desk.frame().await.beat);
    }
    desk.log.written.send_replace(10);
    let (mut got, mut seen) = (0, std::collections::HashSet::new());
    while got < WATCHES {
        let frame = desk.frame().await;
        if !frame.beat {
            assert!(seen.insert(frame.op), "each once");
            got += 1;
        }
    }
    let most = desk.line.at_once_max.load(Ordering::Relaxed);
    assert!(most > 1, "{most}");
    desk.watches.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn reader_and_server_bring_a_long_log_over_in_its_order() {
    const LENGTH: u64 = 3_000_000;
    let mut desk = Desk::new(LENGTH);
    desk.log.written.send_replace(LENGTH);
    let window = 20 * FRAME_BODY_BYTES_MAX as u64;
    let (mut reader, ask) = WatchReader::new(OP, 0, window, 0);
    let Action::Ask { op, offset, credit } = ask else { unreachable!() };
    desk.begin(op, offset, credit).unwrap();
    let mut got = 0;
    while got < LENGTH {
        let frame = desk.frame().await;
        for action in reader.frame(frame, Hex([2; 16]), 0) {
            let Action::Piece(News { piece, missed }) = action else { unreachable!("{action:?}") };
            assert_eq!((piece.offset, missed), (got, 0));
            assert!(piece.bytes.iter().zip(got..).all(|(have, at)| *have == byte(at)));
            got += piece.bytes.len() as u64;
            if let Some(Action::Feed(feed)) = reader.taken(piece.bytes.len() as u64, 0) {
                desk.feed(feed.op, feed.word);
            }
        }
    }
    let most = desk.line.at_once_max.load(Ordering::Relaxed);
    assert!(most > 1 && most <= PIPELINE, "{most} at once");
}
