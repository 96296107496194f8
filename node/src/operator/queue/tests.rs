//! Queues on a memory store, with a host that counts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use oa_nips::files::{Frame, Verb};
use oa_nips::hex::Hex;
use oa_nips::nostr::{Keys, Timestamp};

use super::*;
use crate::store::memory::MemoryBackend;
use crate::store::row::OpRow;

const NOW_S: u64 = 1_790_000_000;

#[derive(Debug)]
struct Clock(AtomicU64);

impl Time for Clock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed) * 1000
    }
}

/// Runs commands by writing their body down, once for each op, as the server does.
#[derive(Debug)]
struct Counting {
    store: Store,
    did: Mutex<Vec<String>>,
    letters: Mutex<Vec<Draft>>,
    is_known: AtomicBool,
    has_lease: AtomicBool,
    /// Dies between effect and settling when it sees this body.
    dies_at: Mutex<Option<String>>,
}

impl Host for Counting {
    fn may_act(&self) -> bool {
        self.has_lease.load(Ordering::Relaxed)
    }

    fn has_role(&self, _: &PublicKey) -> Result<bool, BackendError> {
        Ok(self.is_known.load(Ordering::Relaxed))
    }

    fn run<'a>(&'a self, caller: &'a PublicKey, request: &'a Request) -> BoxedFuture<'a, Reply> {
        Box::pin(async move {
            if let Some(done) = self.store.op(caller, &request.op)? {
                return done.reply;
            }
            let body = String::from_utf8(request.body.clone()).unwrap();
            if body == "fails" {
                return Err(OpError::new(Code::Io, "no"));
            }
            let reply: Reply = Ok(format!("did {body}").into_bytes());
            let row = OpRow { request: Hex::ZERO, reply: reply.clone(), begun: false, at_ms: 0 };
            self.store.write(Write::Op(*caller, request.op, Box::new(row))).await?;
            self.did.lock().unwrap().push(body.clone());
            if *self.dies_at.lock().unwrap() == Some(body) {
                std::future::pending::<()>().await;
            }
            reply
        })
    }

    fn letters(&self, drafts: Vec<Draft>) -> Vec<Write> {
        self.letters.lock().unwrap().extend(drafts);
        Vec::new()
    }

    fn landed(&self, _: &[Verdict]) {}
}

struct Desk {
    queues: Arc<Queues>,
    host: Arc<Counting>,
    clock: Arc<Clock>,
    caller: PublicKey,
    node: PublicKey,
}

impl Desk {
    fn new() -> Self {
        let store = Store::new(Arc::new(MemoryBackend::default())).unwrap();
        let (caller, node) = (Keys::generate().public_key(), Keys::generate().public_key());
        Self::on(store, Arc::new(Clock(AtomicU64::new(NOW_S))), caller, node)
    }

    fn on(store: Store, clock: Arc<Clock>, caller: PublicKey, node: PublicKey) -> Self {
        let host = Arc::new(Counting {
            store: store.clone(),
            did: Mutex::default(),
            letters: Mutex::default(),
            is_known: AtomicBool::new(true),
            has_lease: AtomicBool::new(true),
            dies_at: Mutex::default(),
        });
        let queues = Queues::load(store, clock.clone(), node, host.clone()).unwrap();
        Self { queues, host, clock, caller, node }
    }

    /// The node again, after it died.
    fn again(self) -> Self {
        let desk = Self::on(self.host.store.clone(), self.clock.clone(), self.caller, self.node);
        desk.queues.resume();
        desk
    }

    fn rumor(&self, seq: u32, body: &str, for_s: u64) -> UnsignedEvent {
        let mut op = [9; 16];
        op[0] = seq as u8;
        let request = Request::new(Hex(op), Verb::Call, "/x", body.as_bytes().to_vec());
        let command = Command { queue: Hex([4; 16]), seq, request, expires_s: NOW_S + for_s };
        command.rumor(self.caller, self.node, Timestamp::from_secs(NOW_S)).unwrap()
    }

    async fn take(&self, seq: u32, body: &str, for_s: u64) -> Taken {
        self.queues.take(&self.caller, &self.rumor(seq, body, for_s)).await.unwrap()
    }

    fn did(&self) -> Vec<String> {
        self.host.did.lock().unwrap().clone()
    }

    /// Waits until so many replies have been handed over, and what they answer is settled: a reply is there before that.
    async fn replies(&self, count: usize) -> Vec<Frame> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let letters = self.host.letters.lock().unwrap().clone();
            let is_driven = self.queues.lanes().values().any(|lane| lane.is_driven);
            if letters.len() >= count && !is_driven {
                return letters.iter().map(|draft| Frame::parse(&draft.content).unwrap()).collect();
            }
            assert!(Instant::now() < deadline, "{} of {count} replies", letters.len());
            tokio::task::yield_now().await;
        }
    }

    fn rows(&self) -> usize {
        self.host.store.pairs(Table::Rows, Vec::new(), 100).unwrap().len()
    }
}

#[tokio::test]
async fn commands_run_once_in_their_order_however_they_come() {
    let desk = Desk::new();
    assert_eq!(desk.take(2, "c", 60).await, Taken::Queued);
    assert_eq!(desk.take(1, "b", 60).await, Taken::Queued);
    assert_eq!(desk.take(1, "b", 60).await, Taken::Duplicate);
    assert_eq!(desk.take(0, "fails", 60).await, Taken::Queued);
    let replies = desk.replies(3).await;
    assert_eq!(desk.did(), ["b", "c"]);
    let ok: Vec<bool> = replies.iter().map(|frame| frame.error.is_none()).collect();
    assert_eq!(ok, [false, true, true], "a command that fails is answered, and the next runs");
    let letter = desk.host.letters.lock().unwrap()[1].clone();
    assert_eq!((letter.recipient, letter.reply_to), (desk.caller, desk.rumor(1, "b", 60).id));
    for seq in 0..3 {
        assert_eq!(desk.take(seq, "again", 60).await, Taken::Duplicate);
    }
    assert_eq!(desk.rows(), 1, "only the queue's own row is left");
}

#[tokio::test]
async fn a_crash_repeats_the_answer_and_not_the_effect() {
    let desk = Desk::new();
    *desk.host.dies_at.lock().unwrap() = Some("a".to_owned());
    desk.take(0, "a", 60).await;
    desk.take(1, "b", 60).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while desk.did().is_empty() {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    assert_eq!(desk.rows(), 2);
    let desk = desk.again();
    let replies = desk.replies(2).await;
    assert_eq!(desk.did(), ["b"], "the first was done before");
    assert!(replies.iter().all(|frame| frame.error.is_none()));
    assert_eq!(desk.take(0, "a", 60).await, Taken::Duplicate);
    // And with nothing left to do, the place is remembered.
    let desk = desk.again();
    assert_eq!(desk.take(1, "b", 60).await, Taken::Duplicate);
    assert_eq!(desk.take(2, "c", 60).await, Taken::Queued);
    desk.replies(1).await;
}

#[tokio::test]
async fn a_gap_is_waited_for_and_what_expires_meanwhile_is_told_so() {
    let desk = Desk::new();
    desk.take(1, "b", 60).await;
    desk.take(2, "c", 600).await;
    desk.clock.0.store(NOW_S + 100, Ordering::Relaxed);
    desk.queues.resume();
    let replies = desk.replies(1).await;
    assert_eq!(replies[0].error.as_ref().unwrap().code, Code::Stale);
    assert!(desk.did().is_empty());
    // The missing one comes: the rest goes on, past the one that was given up, also after a restart.
    let desk = desk.again();
    assert_eq!(desk.take(1, "b", 600).await, Taken::Duplicate);
    desk.take(0, "a", 600).await;
    desk.replies(2).await;
    assert_eq!(desk.did(), ["a", "c"]);
}

#[tokio::test]
async fn the_callers_role_counts_when_a_command_runs() {
    let desk = Desk::new();
    desk.take(1, "b", 60).await;
    desk.host.is_known.store(false, Ordering::Relaxed);
    assert!(matches!(desk.take(0, "a", 60).await, Taken::Refused(_)), "takes up no room");
    desk.host.is_known.store(true, Ordering::Relaxed);
    desk.take(0, "a", 60).await;
    desk.replies(2).await;
    assert_eq!(desk.did(), ["a", "b"]);
}

#[tokio::test]
async fn what_is_no_command_or_long_over_is_refused() {
    let desk = Desk::new();
    let mut rumor = desk.rumor(0, "a", 60);
    "{}".clone_into(&mut rumor.content);
    assert!(matches!(desk.queues.take(&desk.caller, &rumor).await.unwrap(), Taken::Refused(_)));
    desk.clock.0.store(NOW_S + 61 + LATE_S_MAX, Ordering::Relaxed);
    assert!(matches!(desk.take(0, "a", 60).await, Taken::Refused(_)));
    assert_eq!(desk.rows(), 0);
}

#[tokio::test]
async fn a_queue_is_forgotten_when_none_of_its_commands_could_come_again() {
    let desk = Desk::new();
    desk.take(0, "a", EXPIRES_S_MAX).await;
    desk.replies(1).await;
    desk.clock.0.store(NOW_S + FORGET_S, Ordering::Relaxed);
    desk.queues.forget().await.unwrap();
    assert_eq!(desk.rows(), 1);
    desk.clock.0.store(NOW_S + FORGET_S + 1, Ordering::Relaxed);
    desk.queues.forget().await.unwrap();
    assert_eq!(desk.rows(), 0);
    assert!(matches!(desk.take(0, "a", EXPIRES_S_MAX).await, Taken::Refused(_)));
}

#[tokio::test]
async fn commands_wait_for_the_lease_and_none_is_given_up() {
    let desk = Desk::new();
    desk.host.has_lease.store(false, Ordering::Relaxed);
    for seq in 0..3 {
        assert_eq!(desk.take(seq, &format!("c{seq}"), 100).await, Taken::Queued);
    }
    desk.queues.resume();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(desk.did().is_empty(), "{:?}", desk.did());
    desk.host.has_lease.store(true, Ordering::Relaxed);
    desk.queues.resume();
    desk.replies(3).await;
    assert_eq!(desk.did(), ["c0", "c1", "c2"]);
}
