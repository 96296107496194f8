//! The two ways to ask: over one connection that is held, by the protocol alone (the same `op`, signed afresh, until it
//! is answered), and by `oa`, a process for each operation.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use oa_nips::files::{self, Assembler, Code, Frame, FramesKind, Message, OpId, Request, Verb};
use oa_nips::hex::Hex;
use oa_nips::kind;
use oa_nips::nostr::{Event, Filter, Keys, PublicKey, RelayUrl, Timestamp};
use oa_nips::port::{Ack, Publish, Signer};
use oa_node::codes;
use oa_node::drivers::nostr::{self as pool, Incoming, OneKey, Pool};
use oa_node::signer::{Conversations, LocalSigner};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::plan::{Act, Operation};
use super::stage::relay_url;
use super::verdict::{Outcome, Told};
use crate::client::forge::now_s;
use crate::world::{DEADLINE, Home};

/// After this silence a request is sent again.
const AGAIN: Duration = Duration::from_secs(2);
/// How long the relay may take for one event, before it is sent again.
const TAKE: Duration = Duration::from_secs(2);
/// After this it is given up. A node whose connection is half open finds out within 45 s.
const PATIENCE: Duration = Duration::from_secs(90);
/// Frames of one reply that wait.
const FRAMES: usize = 64;
/// Events that wait.
const INCOMING: usize = 1024;

/// How an operation is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Over the connection that is held.
    Held,
    /// By `oa`.
    Command,
}

/// Somebody who asks for one operation after the other.
#[derive(Debug)]
pub(super) struct Asker<'a> {
    pub(super) number: usize,
    pub(super) way: Way,
    pub(super) held: &'a Held,
    pub(super) laptop: &'a Home,
    pub(super) progress: &'a watch::Sender<u64>,
}

impl Asker<'_> {
    pub(super) async fn run(self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for operation in operations {
            let told = match self.way {
                Way::Held => self.held.ask(operation.act()).await,
                Way::Command => command(self.laptop, &operation.act()).await?,
            };
            outcomes.push(Outcome { operation, asker: self.number, way: self.way, told });
            self.progress.send_modify(|count| *count += 1);
        }
        Ok(outcomes)
    }
}

/// Asks by `oa`, and reads what it says as its user would.
async fn command(home: &Home, act: &Act) -> Result<Told> {
    let verb = match act.verb {
        Verb::Stat => "stat",
        Verb::List => "ls",
        Verb::Read => "cat",
        Verb::Write => "write",
        Verb::Append => "append",
        Verb::Call => "call",
        Verb::Mkdir => "mkdir",
        Verb::Remove => "rm",
        Verb::Rename => "mv",
        Verb::Watch => bail!("nothing is watched here"),
    };
    let mut args = vec![verb, &act.path];
    if matches!(act.verb, Verb::Write | Verb::Append | Verb::Call | Verb::Rename) {
        args.push(&act.body);
    }
    let done = home.oa(&args).await?;
    // The exit codes are those of DESIGN section 10.
    Ok(match done.code {
        Some(0) => Told::Done(done.stdout.into_bytes()),
        Some(5) if done.stderr.contains("outcome unknown") => Told::Unknown(done.stderr),
        Some(5) => Told::NotDone(done.stderr),
        Some(1 | 3 | 4) => Told::Refused(done.stderr),
        code => bail!("oa {verb} {} ended with {code:?}: {}", act.path, done.stderr),
    })
}

type Waiting = Arc<Mutex<HashMap<OpId, mpsc::Sender<Frame>>>>;

/// A connection that is held, and dialled again when it breaks.
#[derive(Debug)]
pub(super) struct Held {
    signer: LocalSigner,
    node: PublicKey,
    relay: RelayUrl,
    pool: Pool,
    waiting: Waiting,
    again: AtomicU64,
    _router: AbortOnDropHandle<()>,
}

impl Held {
    pub(super) async fn connect(node: PublicKey, keys: Keys) -> Result<Self> {
        let signer = LocalSigner::new(keys, Conversations::default());
        let relay = RelayUrl::parse(&relay_url())?;
        let (sender, incoming) = mpsc::channel(INCOMING);
        let keyring = Arc::new(OneKey(Arc::new(signer.clone())));
        let pool = Pool::start(pool::Config::client([&relay]), keyring, None, sender);
        let since = Timestamp::from_secs(now_s().saturating_sub(files::VALID_S));
        pool.stand("op", Filter::new().kind(kind::FILES_REPLY).pubkey(signer.public_key()).since(since));
        ensure!(pool.ready(1, DEADLINE).await == 1, "no relay");
        let waiting = Waiting::default();
        let router = tokio::spawn(route(incoming, signer.clone(), node, waiting.clone()));
        let (again, router) = (AtomicU64::new(0), AbortOnDropHandle::new(router));
        Ok(Self { signer, node, relay, pool, waiting, again, _router: router })
    }

    /// How often requests were sent again.
    pub(super) fn again(&self) -> u64 {
        self.again.load(Ordering::Relaxed)
    }

    /// Asks until there is an answer.
    pub(super) async fn ask(&self, act: Act) -> Told {
        let op = Hex(codes::random().first_chunk().copied().unwrap_or_default());
        let request = Request::new(op, act.verb, act.path, act.body.into_bytes());
        let (sender, mut frames) = mpsc::channel(FRAMES);
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(op, sender);
        let deadline = Instant::now() + PATIENCE;
        let mut assembler = Assembler::default();
        let mut told = None;
        while told.is_none() && Instant::now() < deadline {
            if let Err(error) = self.send(&request).await {
                told = Some(Told::NotDone(format!("{error:#}")));
                break;
            }
            let again = deadline.min(Instant::now() + AGAIN);
            while let Ok(Some(frame)) = timeout_at(again, frames.recv()).await {
                told = heard(&mut assembler, frame);
                if told.is_some() {
                    break;
                }
            }
            self.again.fetch_add(u64::from(told.is_none()), Ordering::Relaxed);
        }
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&op);
        told.unwrap_or_else(|| Told::Unknown(format!("no answer in {PATIENCE:?}")))
    }

    /// Sends all frames, signed afresh. Whether the relay took them shows in the answer.
    async fn send(&self, request: &Request) -> Result<()> {
        for frame in request.frames() {
            let content = self.signer.nip44_encrypt(&self.node, &frame.to_json()).await?;
            let (me, at) = (self.signer.public_key(), Timestamp::from_secs(now_s()));
            let event = files::event(FramesKind::Request, me, self.node, content, at);
            let _ = self.pool.publish(&self.relay, &self.signer.sign(event).await?, TAKE).await;
        }
        Ok(())
    }

    /// Puts an event on the relay.
    ///
    /// # Errors
    /// When it does not take it in all the time there is.
    pub(super) async fn put(&self, event: &Event) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.pool.publish(&self.relay, event, TAKE).await {
                Ack::Accepted => return Ok(()),
                // It came before, and only the relay's word about it was lost.
                Ack::Refused(reason) if reason.starts_with("duplicate:") => return Ok(()),
                Ack::Refused(reason) => bail!("refused: {reason}"),
                Ack::Unreached(reason) => ensure!(Instant::now() < deadline, "unreached: {reason}"),
            }
        }
    }

    pub(super) async fn close(self) {
        self.pool.shutdown().await;
    }
}

/// What one more frame of a reply says, if the reply is whole now and final.
fn heard(assembler: &mut Assembler, frame: Frame) -> Option<Told> {
    let whole = assembler.push(frame.clone());
    let whole = match whole {
        Ok(whole) => whole?,
        // The file changed between two answers: the later one counts.
        Err(_) => {
            *assembler = Assembler::default();
            assembler.push(frame).ok()??
        }
    };
    *assembler = Assembler::default();
    match Message::into_reply(whole) {
        Ok(body) => Some(Told::Done(body)),
        Err(error) if matches!(error.code, Code::RateLimited | Code::Stale) => None,
        Err(error) if error.code == Code::OutcomeUnknown => Some(Told::Unknown(error.message)),
        Err(error) => Some(Told::Refused(format!("{:?}: {}", error.code, error.message))),
    }
}

/// Brings frames to who waits for them; ends with the connection.
async fn route(
    mut incoming: mpsc::Receiver<Incoming>,
    signer: LocalSigner,
    node: PublicKey,
    waiting: Waiting,
) {
    while let Some(next) = incoming.recv().await {
        let Incoming::Event { event, .. } = next else { continue };
        if event.pubkey != node || event.verify().is_err() {
            continue;
        }
        let Ok(json) = signer.nip44_decrypt(&node, &event.content).await else { continue };
        let Ok(frame) = Frame::parse(&json) else { continue };
        let sender = waiting.lock().unwrap_or_else(PoisonError::into_inner).get(&frame.op).cloned();
        if let Some(sender) = sender {
            // A reader that is slower than the frames asks again.
            let _ = sender.try_send(frame);
        }
    }
}

/// The bytes of a file as they are now.
///
/// # Errors
/// When the node does not give them.
pub(super) async fn read(held: &Held, path: &str) -> Result<Vec<u8>> {
    match held.ask(Act::new(Verb::Read, path, String::new())).await {
        Told::Done(bytes) => Ok(bytes),
        told => Err(anyhow::anyhow!("{told:?}")).with_context(|| path.to_owned()),
    }
}
