//! The operator protocol's server: requests on paths, from those who may, answered once.
//!
//! A request's frames are put together, its caller is checked, and its operation is looked up: one that was done
//! before is answered from its record. What a mutating operation changes and the record of its reply land in one
//! transaction.
//!
//! - `door`: who is let in at all; `frames`, `limit`: what may be on its way here; `post`: what goes back
//! - `watch`, `source`: files that are read as they grow
//! - `queue`: commands that came as mail
//! - `front`, `tree`, `admin`: what paths there are, and what is done

mod admin;
mod door;
mod frames;
mod front;
mod limit;
mod post;
mod queue;
mod roles;
mod source;
mod tree;
mod watch;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oa_nips::files::watch::Asked;
use oa_nips::files::{self, Code, Frame, OpError, OpId, Reply, Request, VALID_S, Verb};
use oa_nips::hex::{Hash, Hex};
use oa_nips::mail::Draft;
use oa_nips::nostr::hashes::{Hash as _, HashEngine, sha256};
use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{Event, PublicKey, RelayUrl};
use oa_nips::port::Publish;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use admin::{Admin, Herald};
pub(crate) use door::Door;
pub(crate) use queue::{Queues, Taken};
pub(crate) use roles::Roles;

use self::frames::{Assembled, Assemblies};
use self::front::Front;
use self::limit::Rates;
use self::post::{Post, To};
use self::tree::Operation;
use self::watch::{Listeners as _, Watches};
use crate::namespace::rights::Role;
use crate::store::backend::BackendError;
use crate::store::write::{Verdict, Write};

/// Events being dealt with at once, those that wait for a slow call among them.
const AT_ONCE: usize = 256;
/// Operations of one caller that are being done; one more is refused.
const CALLER_AT_ONCE: usize = 192;

/// A queued command whose operation is being done live is looked at again after this.
const SAME_OP_AGAIN: Duration = Duration::from_millis(100);

/// A request's frame, and where it was heard.
pub(crate) type Heard = (RelayUrl, Event);

/// The server.
#[derive(Debug)]
pub(crate) struct Server {
    front: Arc<Front>,
    post: Post,
    watches: Watches,
    assemblies: Assemblies,
    rates: Rates,
    /// Operations under way: a repeat that comes meanwhile is answered by the first.
    under_way: Mutex<HashSet<(PublicKey, OpId)>>,
}

/// Starts answering, and going on with queued commands; ends when the sender of requests does.
///
/// # Errors
/// When the store does not tell which commands wait.
pub(crate) fn start(
    server: Server,
    mut requests: mpsc::Receiver<Heard>,
) -> Result<(Arc<Queues>, JoinHandle<()>), BackendError> {
    let server = Arc::new(server);
    let shared = &server.front.admin.shared;
    let me = server.post.signer.public_key();
    let queues = Queues::load(shared.store.clone(), shared.time.clone(), me, server.clone())?;
    let ending = CancellationToken::new();
    let tending = tokio::spawn(queues.clone().tend(shared.tenure.clone(), ending.clone()));
    let task = tokio::spawn(async move {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let mut tasks = JoinSet::new();
        while let Some((relay, event)) = requests.recv().await {
            while tasks.try_join_next().is_some() {}
            let Ok(permit) = permits.clone().acquire_owned().await else { break };
            let server = server.clone();
            tasks.spawn(async move {
                server.heard(relay, &event).await;
                drop(permit);
            });
        }
        ending.cancel();
        server.watches.shutdown().await;
        while tasks.join_next().await.is_some() {}
        let _ = tending.await;
    });
    Ok((queues, task))
}

impl Server {
    /// A server that says what it says through `publish`.
    pub(crate) fn new(admin: Arc<Admin>, publish: Arc<dyn Publish>) -> Self {
        let shared = &admin.shared;
        let post = Post { signer: shared.keyring.node(), publish, time: shared.time.clone() };
        let front = Arc::new(Front { admin });
        Self {
            watches: Watches::new(post.clone(), front.clone()),
            front,
            post,
            assemblies: Assemblies::default(),
            rates: Rates::default(),
            under_way: Mutex::default(),
        }
    }

    async fn heard(&self, relay: RelayUrl, event: &Event) {
        let caller = event.pubkey;
        let me = self.post.signer.public_key();
        // Nobody else gets an answer, not even a refusal.
        if !files::is_for(event, &me) || !self.front.has_role(&caller) || event.verify().is_err() {
            tracing::debug!(%caller, "request from somebody without a role");
            return;
        }
        let to = To { caller, relay };
        let Ok(json) = self.post.signer.nip44_decrypt(&caller, &event.content).await else { return };
        let now_s = self.post.time.now_ms() / 1000;
        let is_stale = event.created_at.as_secs().abs_diff(now_s) > VALID_S;
        match Asked::parse(&json) {
            Ok(Asked::Feed(feed)) if !is_stale => self.watches.feed(to, feed),
            Ok(Asked::Feed(_)) => {}
            Ok(Asked::Frame(frame)) if is_stale => {
                let message =
                    format!("the request is dated over {VALID_S} s from the node's time, which is {now_s}");
                self.reply(&to, frame.op, &Err(OpError::new(Code::Stale, message))).await;
            }
            Ok(Asked::Frame(frame)) => self.asked(&to, frame).await,
            Err(error) => {
                tracing::debug!(%caller, %error, "no frame");
                // One that can be answered is told what is wrong with it; a verb of a later release, say.
                if let Some(op) = files::op_of(&json) {
                    self.reply(&to, op, &Err(frames::invalid(error))).await;
                }
            }
        }
    }

    async fn asked(&self, to: &To, frame: Frame) {
        let (op, now) = (frame.op, Instant::now());
        // The room that a long request takes is given back once it is answered.
        let Assembled { request, room: _room } = match self.assemblies.push(to.caller, frame, now) {
            Ok(Some(assembled)) => assembled,
            Ok(None) => return,
            Err(error) => return self.reply(to, op, &Err(error)).await,
        };
        if !self.rates.admits(to.caller, now) {
            let error = OpError::new(Code::RateLimited, "too many requests; ask more slowly");
            return self.reply(to, op, &Err(error)).await;
        }
        let reply = if request.verb == Verb::Watch {
            self.watch(to, &request).await.err().map(Err)
        } else {
            self.answer(&to.caller, &request).await
        };
        if let Some(reply) = reply {
            self.reply(to, op, &reply).await;
        }
    }

    /// Begins a watch, which says everything itself.
    async fn watch(&self, to: &To, request: &Request) -> Result<(), OpError> {
        if self.watches.has(&to.caller, request.op) {
            return Ok(());
        }
        let source = self.front.watch(&to.caller, &request.path).await?;
        self.watches.begin(to.clone(), request, source)
    }

    /// Does what is asked, once; nothing to answer when the same operation is under way.
    async fn answer(&self, caller: &PublicKey, request: &Request) -> Option<Reply> {
        if !request.verb.is_mutating() {
            return Some(self.front.read(caller, request).await);
        }
        let under_way = self.begin(caller, request.op)?;
        if !under_way.is_admitted {
            return Some(Err(OpError::new(Code::RateLimited, "too many requests are being answered")));
        }
        Some(self.once(caller, request).await)
    }

    /// Marks an operation as under way; nothing if it is already.
    fn begin(&self, caller: &PublicKey, op: OpId) -> Option<UnderWay<'_>> {
        let mut all = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let is_admitted = all.iter().filter(|(whose, _)| whose == caller).count() < CALLER_AT_ONCE;
        let key = (*caller, op);
        // Not `then_some`: a guard that is made and dropped would free the operation, and wait for this very lock.
        all.insert(key).then(|| UnderWay { all: &self.under_way, key, is_admitted })
    }

    async fn once(&self, caller: &PublicKey, request: &Request) -> Reply {
        let shared = &self.front.admin.shared;
        let digest = digest(request);
        let known = shared.store.op(caller, &request.op)?;
        let was_begun = match known {
            Some(known) if known.request != digest => {
                return Err(OpError::new(Code::Exists, "this op id belongs to another request"));
            }
            Some(known) if !known.begun => return known.reply,
            known => known.is_some(),
        };
        let operation = Operation { caller, request, digest, at_ms: shared.time.now_ms(), was_begun };
        let reply = self.front.change(operation).await;
        // A refusal is an answer too: what was refused is not done later, when it comes again.
        if reply.is_err() && shared.store.op(caller, &request.op)?.is_none() {
            shared.store.write(operation.kept(&reply)).await?;
        }
        reply
    }

    async fn reply(&self, to: &To, op: OpId, reply: &Reply) {
        let frames = files::reply_frames(op, reply);
        self.post.reply(to, frames.iter().map(Frame::to_json).collect()).await;
    }
}

impl queue::Host for Server {
    fn may_act(&self) -> bool {
        self.front.admin.shared.tenure.epoch().is_some()
    }

    fn has_role(&self, caller: &PublicKey) -> Result<bool, BackendError> {
        let Admin { roles, shared, .. } = &*self.front.admin;
        Ok(roles.anywhere(&shared.store, &shared.manifests, caller)? > Role::Stranger)
    }

    fn run<'a>(&'a self, caller: &'a PublicKey, request: &'a Request) -> BoxedFuture<'a, Reply> {
        Box::pin(async move {
            if !request.verb.is_mutating() {
                return self.front.read(caller, request).await;
            }
            let under_way = loop {
                match self.begin(caller, request.op) {
                    Some(under_way) => break under_way,
                    // The same operation was asked for live too.
                    None => tokio::time::sleep(SAME_OP_AGAIN).await,
                }
            };
            let reply = self.once(caller, request).await;
            drop(under_way);
            reply
        })
    }

    fn letters(&self, drafts: Vec<Draft>) -> Vec<Write> {
        self.front.letters(drafts)
    }

    fn landed(&self, verdicts: &[Verdict]) {
        self.front.landed(verdicts);
    }
}

/// An operation that is being done; dropped, it is not any more.
struct UnderWay<'a> {
    all: &'a Mutex<HashSet<(PublicKey, OpId)>>,
    key: (PublicKey, OpId),
    is_admitted: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

fn digest(request: &Request) -> Hash {
    let mut engine = sha256::HashEngine::default();
    let verb = serde_json::to_string(&request.verb).unwrap_or_default();
    for part in [
        verb.as_bytes(),
        b"\0",
        request.path.as_bytes(),
        b"\0",
        &request.offset.to_be_bytes(),
        &request.count.to_be_bytes(),
        &request.body,
    ] {
        engine.input(part);
    }
    Hex(sha256::Hash::from_engine(engine).to_byte_array())
}
