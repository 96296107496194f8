//! Talks to a node by events alone: operator requests, and direct messages like anybody's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oa_nips::files::{self, Assembler, Frame, FramesKind, OpId, Reply, Request, Verb};
use oa_nips::hex::Hex;
use oa_nips::kind;
use oa_nips::mail::{self, Draft, Mail, Protocol};
use oa_nips::nostr::{Event, EventId, Filter, PublicKey, RelayUrl, Timestamp};
use oa_nips::port::{Ack, Publish, Signer};
use oa_node::agent::manifest::Npub;
use oa_node::codes;
use oa_node::drivers::nostr::{self as pool, Incoming, Pool, RelaySpec};
use oa_node::outbox;
use oa_node::signer::{Conversations, KeyFile, LocalSigner};
use oa_node::store::row::Outgoing;
use oa_node::time::{System, Time};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::error::{Error, Kind, Result};

/// How long an operation may take, and after what silence it is sent again.
const OP_DEADLINE: Duration = Duration::from_secs(10);
const OP_RESEND: Duration = Duration::from_secs(2);
/// How long connecting may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Silence after which a person is told what can be wrong.
const SILENCE: Duration = Duration::from_secs(5);
/// Events that wait to be looked at.
const INCOMING: usize = 256;

/// What a home remembers of the node it belongs to: `client.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Remembered {
    /// Where node and client meet.
    pub(crate) relay: RelayUrl,
    /// Who the node is.
    pub(crate) node: Npub,
}

impl Remembered {
    /// Reads a home's.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|_| {
            Error::new(Kind::NotFound, format!("{}: this home knows no node", path.display()))
                .hint("start one with `oa up`, or name the home that has one with --home")
        })?;
        serde_json::from_str(&text)
            .map_err(|error| Error::new(Kind::Usage, format!("{}: {error}", path.display())))
    }

    /// Writes a home's, whole or not at all.
    ///
    /// # Errors
    /// What the file system said.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        let temporary = path.with_extension("json.new");
        std::fs::write(&temporary, text + "\n")?;
        Ok(std::fs::rename(&temporary, path)?)
    }
}

/// A connection to a node's relay, under one key.
#[derive(Debug)]
pub(crate) struct Client {
    remembered: Remembered,
    signer: LocalSigner,
    pool: Pool,
    incoming: mpsc::Receiver<Incoming>,
}

/// A client's key needs no store of agents.
#[derive(Debug)]
struct OwnKey(LocalSigner);

impl pool::Keyring for OwnKey {
    fn node(&self) -> Arc<dyn Signer> {
        Arc::new(self.0.clone())
    }

    fn agent(&self, key: &PublicKey) -> Option<Arc<dyn Signer>> {
        (*key == self.0.public_key()).then(|| Arc::new(self.0.clone()) as Arc<dyn Signer>)
    }
}

impl Client {
    /// Connects with what a home remembers.
    ///
    /// # Errors
    /// When the home knows no node or key, or the relay is away.
    pub(crate) async fn connect(client_file: &Path, key_file: &Path) -> Result<Self> {
        let remembered = Remembered::load(client_file)?;
        let key = KeyFile::load(key_file)?;
        let signer = LocalSigner::new(key.keys().clone(), Conversations::default());
        let me = signer.public_key();
        let (sender, incoming) = mpsc::channel(INCOMING);
        let relays = vec![RelaySpec { url: remembered.relay.clone(), wide: false }];
        let config = pool::Config { relays, ..pool::Config::default() };
        let pool = Pool::start(config, Arc::new(OwnKey(signer.clone())), None, sender);
        let now_s = System.now_ms() / 1000;
        let since = Timestamp::from_secs(now_s.saturating_sub(files::VALID_S));
        pool.stand("op", Filter::new().kind(kind::FILES_REPLY).pubkey(me).since(since));
        // Wraps are backdated, so no time tells which are new; one stored one is the least a relay can be asked for.
        let since = Timestamp::from_secs(now_s.saturating_sub(mail::BACKDATE_S_MAX + 3600));
        pool.stand("dm", Filter::new().kinds([kind::WRAP, kind::LEGACY_DM]).pubkey(me).since(since).limit(1));
        if pool.ready(1, CONNECT_DEADLINE).await == 0 {
            return Err(Error::new(Kind::TimedOut, format!("no connection to {}", remembered.relay)).hint(
                "is the node running? `oa up` or `oa-node run` starts it; client.json names the relay",
            ));
        }
        Ok(Self { remembered, signer, pool, incoming })
    }

    /// The node's address.
    pub(crate) fn node(&self) -> PublicKey {
        self.remembered.node.0
    }

    /// Calls, reads or lists, and waits for the answer.
    ///
    /// # Errors
    /// The node's error, or [`Kind::TimedOut`].
    pub(crate) async fn ask(&mut self, verb: Verb, path: &str, body: Vec<u8>) -> Result<Vec<u8>> {
        let op = Hex(codes::random().first_chunk().copied().unwrap_or_default());
        let request = Request::new(op, verb, path, body);
        let deadline = Instant::now() + OP_DEADLINE;
        let mut assembler = Assembler::default();
        while Instant::now() < deadline {
            self.send(&request).await?;
            let until = (Instant::now() + OP_RESEND).min(deadline);
            while let Ok(next) = tokio::time::timeout_at(until, self.incoming.recv()).await {
                let Some(next) = next else { break };
                if let Some(reply) = self.reply(next, op, &mut assembler).await {
                    return Ok(reply?);
                }
            }
        }
        Err(self.silence(&format!("no answer to {path} within {} s", OP_DEADLINE.as_secs())))
    }

    async fn send(&self, request: &Request) -> Result<()> {
        let node = self.node();
        for frame in request.frames() {
            let content = self.signer.nip44_encrypt(&node, &frame.to_json()).await.map_err(failed)?;
            let at = Timestamp::from_secs(System.now_ms() / 1000);
            let event = files::event(FramesKind::Request, self.signer.public_key(), node, content, at);
            let event = self.signer.sign(event).await.map_err(failed)?;
            match self.pool.publish(&self.remembered.relay, &event, OP_RESEND).await {
                Ack::Accepted => {}
                Ack::Refused(reason) => {
                    let message = format!("{} refused the request: {reason}", self.remembered.relay);
                    return Err(Error::new(Kind::Denied, message));
                }
                Ack::Unreached(reason) => tracing::debug!(reason, "request not taken, sent again"),
            }
        }
        Ok(())
    }

    async fn reply(&self, incoming: Incoming, op: OpId, assembler: &mut Assembler) -> Option<Reply> {
        let Incoming::Event { event, .. } = incoming else { return None };
        if event.kind != kind::FILES_REPLY || event.pubkey != self.node() || event.verify().is_err() {
            return None;
        }
        let json = self.signer.nip44_decrypt(&event.pubkey, &event.content).await.ok()?;
        let frame = Frame::parse(&json).ok().filter(|frame| frame.op == op)?;
        match assembler.push(frame) {
            Ok(whole) => whole.map(files::Message::into_reply),
            Err(error) => {
                tracing::debug!(%error, "reply frame ignored");
                None
            }
        }
    }

    fn silence(&self, what: &str) -> Error {
        Error::new(Kind::TimedOut, what.to_owned()).hint(format!(
            "the node may be offline, or on another relay than {}, or not know this home's key as an operator",
            self.remembered.relay
        ))
    }

    /// Sends a direct message; answers its id once the relay has it.
    ///
    /// # Errors
    /// When it cannot be signed, or the relay does not take it.
    pub(crate) async fn dm(&self, to: PublicKey, text: &str, protocol: Protocol) -> Result<EventId> {
        let draft = Draft::text(to, text, System.now_ms());
        let rumor = draft.rumor(self.signer.public_key()).id;
        let outgoing = Outgoing::Mail { draft, protocol, relay: None };
        let parcels = outbox::sign(&outgoing, &self.signer, System.now_ms() / 1000).await.map_err(failed)?;
        let sends = parcels.iter().map(|p| self.pool.publish(&self.remembered.relay, &p.event, OP_DEADLINE));
        let acks = futures_util::future::join_all(sends).await;
        let first = parcels.first().map(|parcel| parcel.event.id);
        match acks.into_iter().next() {
            Some(Ack::Accepted) => {
                let id = if protocol == Protocol::Nip17 { rumor } else { first };
                id.ok_or_else(|| Error::new(Kind::Failed, "the message has no id"))
            }
            Some(Ack::Refused(reason)) => {
                let message = format!("{} refused the message: {reason}", self.remembered.relay);
                Err(Error::new(Kind::Denied, message))
            }
            _ => Err(self.silence(&format!("{} did not take the message", self.remembered.relay))),
        }
    }

    /// Waits for the answer to a message.
    ///
    /// # Errors
    /// [`Kind::TimedOut`]
    pub(crate) async fn answer(
        &mut self,
        from: PublicKey,
        to: EventId,
        wait: Duration,
        mut worried: impl FnMut(&str),
    ) -> Result<Mail> {
        let started = Instant::now();
        let deadline = started + wait;
        let mut is_worried = wait <= SILENCE;
        loop {
            let until = if is_worried { deadline } else { started + SILENCE };
            match tokio::time::timeout_at(until, self.incoming.recv()).await {
                Ok(Some(Incoming::Event { event, .. })) => {
                    if let Some(mail) = self.open(&event).await
                        && mail.author == from
                        && mail.reply_to == Some(to)
                    {
                        return Ok(mail);
                    }
                }
                Ok(Some(_)) => {}
                Err(_) if !is_worried => {
                    is_worried = true;
                    worried("no answer yet: the node may be offline, or the agent may not talk to strangers");
                }
                Ok(None) | Err(_) => {
                    return Err(self.silence(&format!("no answer within {} s", wait.as_secs_f32())));
                }
            }
        }
    }

    async fn open(&self, event: &Event) -> Option<Mail> {
        event.verify().ok()?;
        mail::unwrap(event, &self.signer).await.ok()
    }

    /// Leaves.
    pub(crate) async fn close(self) {
        self.pool.shutdown().await;
    }
}

fn failed(error: oa_nips::port::SignerError) -> Error {
    Error::new(Kind::Failed, error.to_string())
}
