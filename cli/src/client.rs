//! Talks to a node by events alone: operator requests, and direct messages like anybody's.
//!
//! [`Client`] is a cheap handle to one connection; any number of requests, watches and messages go over it at once.
//!
//! - `router`: what comes in finds who waits for it
//! - `call`: one request, from its first sending to its answer or the truth about having none
//! - `watch`: a file that is read as it grows
//! - `tree`: for a mount
//! - `mail`: direct messages; `queued`: commands for a node that is offline; `line`: which queue they stand in
//! - `vouch`: an owner's word

mod call;
mod line;
mod mail;
mod queued;
mod router;
#[cfg(feature = "fuse")]
mod tree;
mod vouch;
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use oa_nips::files::{self, FramesKind, OpId, Request, Stat, Verb};
use oa_nips::hex::Hex;
use oa_nips::nostr::{Event, Filter, PublicKey, RelayUrl, Timestamp};
use oa_nips::port::{Ack, Publish, Signer, SignerError};
use oa_nips::{kind, mail as dm};
use oa_node::agent::manifest::Npub;
use oa_node::codes;
use oa_node::drivers::nostr::{self as pool, Pool};
use oa_node::home::Home;
use oa_node::signer::{Conversations, LocalSigner};
use oa_node::time::{System, Time};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::call::CallError;
pub(crate) use self::line::Choice;
pub(crate) use self::queued::Order;
use self::router::Routes;
use crate::bunker;
use crate::error::{Error, Kind, Result};
use crate::output::Output;
use crate::passphrase::PassphraseSource;

/// How long connecting may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a relay may take to accept one event.
const TAKE_DEADLINE: Duration = Duration::from_secs(2);
/// Events that wait to be looked at; while it is full the socket waits.
const INCOMING: usize = 1_024;

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
                .hint("start one with `oa up`, go to one with `oa connect`, or name the home that has one with --home")
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

/// A connection to a node's relay, under one key. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    remembered: Remembered,
    signer: Arc<dyn Signer>,
    pool: Pool,
    routes: Arc<Routes>,
    /// How far the node's clock is ahead of this machine's, in seconds; 0 unless it said that it matters.
    ahead_s: AtomicI64,
    _router: AbortOnDropHandle<()>,
}

/// A client's key needs no store of agents.
#[derive(Debug)]
struct OwnKey(Arc<dyn Signer>);

impl pool::Keyring for OwnKey {
    fn node(&self) -> Arc<dyn Signer> {
        self.0.clone()
    }

    fn agent(&self, key: &PublicKey) -> Option<Arc<dyn Signer>> {
        (*key == self.0.public_key()).then(|| self.0.clone())
    }
}

impl Client {
    /// Connects with what a home remembers, under its key, be it in a file or in a bunker.
    ///
    /// # Errors
    /// When the home knows no node or key, or the relay is away.
    pub(crate) async fn connect(home: &Home, source: &PassphraseSource, output: Output) -> Result<Self> {
        let remembered = Remembered::load(&home.client())?;
        if let Some(bunker) = bunker::Remembered::load(home)? {
            return Self::connect_as(remembered, Arc::new(bunker.signer(home, source, output)?)).await;
        }
        let path = home.operator_key();
        if !path.exists() {
            let message = format!("{} does not exist: this home has no operator's key", path.display());
            return Err(Error::new(Kind::NotFound, message).hint(
                "this node's operators are known by their npubs: steer it from the home that has the key, after \
                 `oa connect NODE --relay URL`",
            ));
        }
        let key = source.key(&path)?;
        let signer = LocalSigner::new(key.keys().clone(), Conversations::default());
        Self::connect_as(remembered, Arc::new(signer)).await
    }

    /// Connects under a key, wherever it is held.
    ///
    /// # Errors
    /// When the relay is away.
    pub(crate) async fn connect_as(remembered: Remembered, signer: Arc<dyn Signer>) -> Result<Self> {
        let me = signer.public_key();
        let (sender, incoming) = mpsc::channel(INCOMING);
        let config = pool::Config::client([&remembered.relay]);
        let pool = Pool::start(config, Arc::new(OwnKey(signer.clone())), None, sender);
        let now_s = System.now_ms() / 1000;
        let since = Timestamp::from_secs(now_s.saturating_sub(files::VALID_S));
        pool.stand(
            "op",
            Filter::new().kinds([kind::FILES_REPLY, kind::FILES_STREAM]).pubkey(me).since(since),
        );
        // Wraps are backdated, so no time tells which are new; one stored one is the least a relay can be asked for.
        let since = Timestamp::from_secs(now_s.saturating_sub(dm::BACKDATE_S_MAX + 3600));
        pool.stand("dm", Filter::new().kinds([kind::WRAP, kind::LEGACY_DM]).pubkey(me).since(since).limit(1));
        if pool.ready(1, CONNECT_DEADLINE).await == 0 {
            return Err(Error::new(Kind::TimedOut, format!("no connection to {}", remembered.relay)).hint(
                "is the node running? `oa up` or `oa-node run` starts it; client.json names the relay",
            ));
        }
        let routes = Arc::new(Routes::default());
        let router = tokio::spawn(router::run(incoming, routes.clone(), signer.clone(), remembered.node.0));
        let (ahead_s, router) = (AtomicI64::new(0), AbortOnDropHandle::new(router));
        Ok(Self { inner: Arc::new(Inner { remembered, signer, pool, routes, ahead_s, _router: router }) })
    }

    /// The node's address.
    pub(crate) fn node(&self) -> PublicKey {
        self.inner.remembered.node.0
    }

    /// Asks one thing of one path, and waits for the answer.
    ///
    /// # Errors
    /// The node's error, or [`Kind::TimedOut`], which says whether it may have happened.
    pub(crate) async fn ask(&self, verb: Verb, path: &str, body: Vec<u8>) -> Result<Vec<u8>> {
        self.request(&Request::new(fresh(), verb, path, body)).await
    }

    /// Bytes of a file from `offset` on, at most `count`; 0 for all.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub(crate) async fn read(&self, path: &str, offset: u64, count: u64) -> Result<Vec<u8>> {
        self.request(&Request { offset, count, ..Request::new(fresh(), Verb::Read, path, Vec::new()) }).await
    }

    /// What a path is.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub(crate) async fn stat(&self, path: &str) -> Result<Stat> {
        parse(&self.ask(Verb::Stat, path, Vec::new()).await?)
    }

    /// The entries of a folder.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<Stat>> {
        parse(&self.ask(Verb::List, path, Vec::new()).await?)
    }

    /// Leaves. Whoever still waits for an answer gets none.
    pub(crate) async fn close(self) {
        self.inner.pool.shutdown().await;
    }
}

impl Inner {
    fn now_s(&self) -> u64 {
        (System.now_ms() / 1000).saturating_add_signed(self.ahead_s.load(Ordering::Relaxed))
    }

    /// Dates requests by the node's clock from now on; answers whether that changes anything.
    fn follow_clock(&self, node_s: u64) -> bool {
        let ahead_s = node_s.cast_signed().saturating_sub((System.now_ms() / 1000).cast_signed());
        let before_s = self.ahead_s.swap(ahead_s, Ordering::Relaxed);
        tracing::warn!(
            ahead_s,
            "this machine's clock differs from the node's; requests are dated by the node's"
        );
        ahead_s.abs_diff(before_s) > files::VALID_S / 2
    }

    /// Says something to the node: one event of kind 25930, signed afresh.
    async fn say(&self, json: &str) -> Result<Ack> {
        let mut event = self.seal(json).await.map_err(failed)?;
        // A bunker whose owner was asked first may have taken longer than a request is valid.
        if event.created_at.as_secs().abs_diff(self.now_s()) > files::VALID_S / 2 {
            event = self.seal(json).await.map_err(failed)?;
        }
        Ok(self.pool.publish(&self.remembered.relay, &event, TAKE_DEADLINE).await)
    }

    async fn seal(&self, json: &str) -> std::result::Result<Event, SignerError> {
        let node = self.remembered.node.0;
        let content = self.signer.nip44_encrypt(&node, json).await?;
        let at = Timestamp::from_secs(self.now_s());
        let event = files::event(FramesKind::Request, self.signer.public_key(), node, content, at);
        self.signer.sign(event).await
    }

    fn silence(&self, what: impl Into<String>) -> Error {
        Error::new(Kind::TimedOut, what).hint(format!(
            "the node may be offline, or on another relay than {}, or not know this home's key as an operator",
            self.remembered.relay
        ))
    }
}

/// A new operation's id.
pub(crate) fn fresh() -> OpId {
    Hex(codes::random().first_chunk().copied().unwrap_or_default())
}

fn failed(error: SignerError) -> Error {
    match error {
        SignerError::Refused(reason) => Error::new(Kind::Failed, reason),
        // A key of this machine's is always there.
        SignerError::Unavailable(reason) => Error::new(Kind::TimedOut, reason).hint(
            "this home's key is in a bunker: is it running, and does it allow this? bunker.json says where it is",
        ),
    }
}

fn parse<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| {
        Error::new(Kind::Failed, format!("the node's answer is not what it should be: {error}"))
    })
}
