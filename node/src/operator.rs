//! The operator protocol's server: requests on paths, from those who may, answered once.
//!
//! A request's frames are put together, its caller is checked, and its operation is looked up: one that was done
//! before is answered from its record. What a mutating operation changes and the record of its reply land in one
//! transaction.

mod admin;
mod roles;
mod tree;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oa_nips::files::{self, Assembler, Code, Frame, FramesKind, OpError, OpId, Reply, Request, VALID_S};
use oa_nips::hex::{Hash, Hex};
use oa_nips::nostr::hashes::{Hash as _, HashEngine, sha256};
use oa_nips::nostr::{Event, PublicKey, RelayUrl, Timestamp};
use oa_nips::port::Publish;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

pub(crate) use admin::{Admin, Herald};
pub(crate) use roles::Roles;

use crate::store::row::OpRow;
use crate::store::write::Write;

/// Requests being answered at once.
const AT_ONCE: usize = 64;
/// Requests of several frames being put together at once, and for how long.
const ASSEMBLIES: usize = 64;
const ASSEMBLY_FOR: Duration = Duration::from_secs(60);
/// How long a relay may take to accept a reply.
const REPLY_DEADLINE: Duration = Duration::from_secs(10);

/// A request's frame, and where it was heard.
pub(crate) type Heard = (RelayUrl, Event);

/// What the server needs.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) admin: Arc<Admin>,
    pub(crate) publish: Arc<dyn Publish>,
    pub(crate) assemblies: Mutex<HashMap<(PublicKey, OpId), (Instant, Assembler)>>,
    /// Operations under way: a repeat that comes meanwhile is answered by the first.
    pub(crate) under_way: Mutex<HashSet<(PublicKey, OpId)>>,
}

/// Starts answering; ends when the sender of requests does.
pub(crate) fn start(server: Server, mut requests: mpsc::Receiver<Heard>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let server = Arc::new(server);
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let mut tasks = JoinSet::new();
        while let Some((relay, event)) = requests.recv().await {
            while tasks.try_join_next().is_some() {}
            let Ok(permit) = permits.clone().acquire_owned().await else { break };
            let server = server.clone();
            tasks.spawn(async move {
                server.heard(&relay, &event).await;
                drop(permit);
            });
        }
        while tasks.join_next().await.is_some() {}
    })
}

impl Server {
    async fn heard(&self, relay: &RelayUrl, event: &Event) {
        let node = self.admin.shared.keyring.node();
        let caller = event.pubkey;
        // Nobody else gets an answer, not even a refusal.
        if !tree::has_role(&self.admin, &caller)
            || !files::is_for(event, &node.public_key())
            || event.verify().is_err()
        {
            tracing::debug!(%caller, "request from somebody without a role");
            return;
        }
        let Ok(json) = node.nip44_decrypt(&caller, &event.content).await else { return };
        let frame = match Frame::parse(&json) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::debug!(%caller, %error, "no frame");
                // One that can be answered is told what is wrong with it; a verb of a later release, say.
                if let Some(op) = files::op_of(&json) {
                    let error = OpError::new(Code::InvalidInput, error.to_string());
                    self.reply(relay, &caller, op, &Err(error)).await;
                }
                return;
            }
        };
        let op = frame.op;
        let now_s = self.admin.shared.time.now_ms() / 1000;
        if event.created_at.as_secs().abs_diff(now_s) > VALID_S {
            let message =
                format!("the request is dated over {VALID_S} s from the node's time, which is {now_s}");
            return self.reply(relay, &caller, op, &Err(OpError::new(Code::Stale, message))).await;
        }
        let request = match self.assemble(caller, frame) {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => return self.reply(relay, &caller, op, &Err(error)).await,
        };
        if let Some(reply) = self.answer(&caller, request).await {
            self.reply(relay, &caller, op, &reply).await;
        }
    }

    fn assemble(&self, caller: PublicKey, frame: Frame) -> Result<Option<Request>, OpError> {
        let invalid = |error: files::FrameError| OpError::new(Code::InvalidInput, error.to_string());
        let op = frame.op;
        if frame.seq == 0 && frame.last {
            let message = Assembler::default().push(frame).map_err(invalid)?;
            return message.map(|message| message.into_request(op).map_err(invalid)).transpose();
        }
        let mut assemblies = self.assemblies.lock().unwrap_or_else(PoisonError::into_inner);
        assemblies.retain(|_, (since, _)| since.elapsed() < ASSEMBLY_FOR);
        if assemblies.len() >= ASSEMBLIES && !assemblies.contains_key(&(caller, op)) {
            return Err(OpError::new(Code::RateLimited, "too many long requests at once"));
        }
        let (_, assembler) =
            assemblies.entry((caller, op)).or_insert_with(|| (Instant::now(), Assembler::default()));
        let pushed = assembler.push(frame);
        if !matches!(pushed, Ok(None)) {
            assemblies.remove(&(caller, op));
        }
        pushed.map_err(invalid)?.map(|message| message.into_request(op).map_err(invalid)).transpose()
    }

    /// Does what is asked, once; nothing to answer when the same operation is under way.
    async fn answer(&self, caller: &PublicKey, request: Request) -> Option<Reply> {
        if !request.verb.is_mutating() {
            return Some(tree::read(&self.admin, caller, &request).await);
        }
        let key = (*caller, request.op);
        if !self.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(key) {
            return None;
        }
        let reply = self.once(caller, &request).await;
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        Some(reply)
    }

    async fn once(&self, caller: &PublicKey, request: &Request) -> Reply {
        let digest = digest(request);
        if let Some(done) = self.admin.shared.store.op(caller, &request.op)? {
            if done.request == digest {
                return done.reply;
            }
            return Err(OpError::new(Code::Exists, "this op id belongs to another request"));
        }
        let at_ms = self.admin.shared.time.now_ms();
        let keep = |reply: &Reply| {
            let row = OpRow { request: digest, reply: reply.clone(), at_ms };
            Write::Op(*caller, request.op, Box::new(row))
        };
        tree::change(&self.admin, caller, request, &keep).await
    }

    async fn reply(&self, relay: &RelayUrl, caller: &PublicKey, op: OpId, reply: &Reply) {
        let node = self.admin.shared.keyring.node();
        for frame in files::reply_frames(op, reply) {
            let sent = async {
                let content = node.nip44_encrypt(caller, &frame.to_json()).await?;
                let at = Timestamp::from_secs(self.admin.shared.time.now_ms() / 1000);
                node.sign(files::event(FramesKind::Reply, node.public_key(), *caller, content, at)).await
            };
            match sent.await {
                Ok(event) => {
                    let ack = self.publish.publish(relay, &event, REPLY_DEADLINE).await;
                    tracing::trace!(?ack, "reply frame");
                }
                Err(error) => return tracing::warn!(%error, "a reply could not be signed"),
            }
        }
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
