//! Somebody who speaks the operator protocol frame by frame, with any key.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oa_nips::files::watch::{Feed, StreamFrame, Word};
use oa_nips::files::{self, Assembler, Frame, FramesKind, Message, OpError, OpId, Reply, Request, Verb};
use oa_nips::hex::Hex;
use oa_nips::kind;
use oa_nips::nostr::{Filter, Keys, PublicKey, RelayUrl, Timestamp};
use oa_nips::port::{Ack, Publish, Signer};
use oa_node::codes;
use oa_node::drivers::nostr::{self as pool, Incoming, OneKey, Pool};
use oa_node::signer::{Conversations, LocalSigner};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::client::forge::now_s;
use crate::local::World;

/// How long anything may take.
const SOON: Duration = Duration::from_secs(15);
/// Events that wait to be looked at.
const INCOMING: usize = 1024;

/// A caller, connected to a world's relay.
#[derive(Debug)]
pub struct Caller {
    signer: LocalSigner,
    node: PublicKey,
    relay: RelayUrl,
    pool: Pool,
    incoming: mpsc::Receiver<Incoming>,
}

impl Caller {
    /// Connects.
    ///
    /// # Errors
    /// When the relay does not answer.
    pub async fn new(world: &World, keys: Keys) -> Result<Self> {
        Self::connect(&world.relay_url(), world.node.public_key(), keys).await
    }

    /// Connects to any node's relay.
    ///
    /// # Errors
    /// When the relay does not answer.
    pub async fn connect(relay: &str, node: PublicKey, keys: Keys) -> Result<Self> {
        let signer = LocalSigner::new(keys, Conversations::default());
        let relay = RelayUrl::parse(relay)?;
        let (sender, incoming) = mpsc::channel(INCOMING);
        let keyring = Arc::new(OneKey(Arc::new(signer.clone())));
        let pool = Pool::start(pool::Config::client([&relay]), keyring, None, sender);
        pool.stand("op", Filter::new().kind(kind::FILES_REPLY).pubkey(signer.public_key()));
        ensure!(pool.ready(1, SOON).await == 1, "no relay");
        Ok(Self { signer, node, relay, pool, incoming })
    }

    /// Whose key it is.
    pub fn public_key(&self) -> PublicKey {
        self.signer.public_key()
    }

    /// Sends a request dated `at_s`, in seconds since 1970.
    ///
    /// # Errors
    /// When the relay does not take it.
    pub async fn send(&self, request: &Request, at_s: u64) -> Result<()> {
        for frame in request.frames() {
            self.say(&frame.to_json(), at_s).await?;
        }
        Ok(())
    }

    async fn say(&self, json: &str, at_s: u64) -> Result<()> {
        let content = self.signer.nip44_encrypt(&self.node, json).await?;
        let at = Timestamp::from_secs(at_s);
        let event = files::event(FramesKind::Request, self.signer.public_key(), self.node, content, at);
        let event = self.signer.sign(event).await?;
        ensure!(self.pool.publish(&self.relay, &event, SOON).await == Ack::Accepted, "request refused");
        Ok(())
    }

    /// The reply to an operation; nothing when none comes in time.
    pub async fn reply(&mut self, op: OpId, within: Duration) -> Option<Reply> {
        let mut assembler = Assembler::default();
        let listen = async {
            while let Some(next) = self.incoming.recv().await {
                let Incoming::Event { event, .. } = next else { continue };
                if event.kind != kind::FILES_REPLY {
                    continue;
                }
                let json = self.signer.nip44_decrypt(&self.node, &event.content).await.ok()?;
                // What came too late for another question is none of this one's.
                let Some(frame) = Frame::parse(&json).ok().filter(|frame| frame.op == op) else { continue };
                if let Some(whole) = assembler.push(frame).ok()? {
                    return Some(Message::into_reply(whole));
                }
            }
            None
        };
        timeout(within, listen).await.ok().flatten()
    }

    /// Begins a watch, of which nothing is read.
    ///
    /// # Errors
    /// When the relay does not take it.
    pub async fn begin_watch(&mut self, path: &str, offset: u64, credit: u64) -> Result<()> {
        let op = Hex(codes::random().first_chunk().copied().context("randomness")?);
        let mut request = Request::new(op, Verb::Watch, path, Vec::new());
        (request.offset, request.count) = (offset, credit);
        self.send(&request, now_s()).await
    }

    /// Begins a watch, and ends it with its first frame; answers why there is none, if there is none.
    ///
    /// # Errors
    /// When nothing comes.
    pub async fn try_watch(&mut self, path: &str) -> Result<std::result::Result<(), OpError>> {
        // Not from the beginning: who begins ten thousand watches does not want to hear of them.
        self.pool.stand("stream", Filter::new().kind(kind::FILES_STREAM).pubkey(self.public_key()));
        ensure!(self.pool.ready(1, SOON).await == 1, "no relay");
        let op = Hex(codes::random().first_chunk().copied().context("randomness")?);
        let request = Request { count: 1, ..Request::new(op, Verb::Watch, path, Vec::new()) };
        self.send(&request, now_s()).await?;
        let mut assembler = Assembler::default();
        let listen = async {
            while let Some(next) = self.incoming.recv().await {
                let Incoming::Event { event, .. } = next else { continue };
                let json = self.signer.nip44_decrypt(&self.node, &event.content).await?;
                if event.kind == kind::FILES_STREAM {
                    let frame = StreamFrame::parse(&json)?;
                    if frame.op == op {
                        return Ok(frame.end.map_or(Ok(()), Err));
                    }
                } else if let Some(whole) =
                    Frame::parse(&json).ok().filter(|frame| frame.op == op).map(|f| assembler.push(f))
                    && let Some(whole) = whole?
                {
                    return Ok(Message::into_reply(whole).map(|_| ()));
                }
            }
            anyhow::bail!("nothing more comes")
        };
        let answer = timeout(SOON, listen).await.with_context(|| format!("no frame of {path}"))??;
        if answer.is_ok() {
            self.say(&Feed { op, word: Word::Stop }.to_json(), now_s()).await?;
        }
        Ok(answer)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// When none comes.
    pub async fn ask(&mut self, verb: Verb, path: &str, body: &str) -> Result<Reply> {
        let op = Hex(codes::random().first_chunk().copied().context("randomness")?);
        self.perform(&Request::new(op, verb, path, body.as_bytes().to_vec())).await
    }

    /// Sends a request, and waits for the answer.
    ///
    /// # Errors
    /// When none comes.
    pub async fn perform(&mut self, request: &Request) -> Result<Reply> {
        self.send(request, now_s()).await?;
        let Request { op, verb, path, .. } = request;
        self.reply(*op, SOON).await.with_context(|| format!("no answer to {verb:?} {path}"))
    }
}
