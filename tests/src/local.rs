//! A node in this process, on a memory store with a relay in this process, whose one program does what its mail asks it to.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::client::Client;
use anyhow::{Context as _, Result, ensure};
use oa_nips::nostr::secp256k1::schnorr::Signature;
use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{Event, Keys, PublicKey, RelayUrl, UnsignedEvent};
use oa_nips::port::{Signer, SignerError};
use oa_nips::signed::DataDigest;
use oa_node::agent::AgentId;
use oa_node::drivers::nostr::{RelaySpec, SweepConfig};
use oa_node::engine::Programs;
use oa_node::engine::running::Running;
use oa_node::keyring::{Addresses, Adopted, Keyring, SeedKeyring};
use oa_node::lease::{self, Start};
use oa_node::money;
use oa_node::namespace::Namespace;
use oa_node::node::{Config, Node, Parts};
use oa_node::program::{Agent, Fault, Run, Tick};
use oa_node::signer::Seed;
use oa_node::store::Store;
use oa_node::store::memory::MemoryBackend;
use oa_node::store::row::AgentRow;
use oa_node::tenure::Leasing;
use oa_node::time::System;
use oa_relay::{Relay, StoreConfig};
use tokio::sync::Semaphore;

/// How often the node looks for mail that did not come by itself.
const SWEEP_EVERY: Duration = Duration::from_secs(2);

/// What is to go wrong, and what did.
#[derive(Debug)]
pub struct Plot {
    /// Whether agents' signers answer nobody who wants to send.
    pub signer_away: AtomicBool,
    /// Runs of the program for mail.
    pub runs: AtomicU64,
    /// What it heard, in order.
    pub heard: Mutex<Vec<String>>,
    /// What ticks for `hold` wait for.
    pub gate: Semaphore,
    /// When an idle agent sleeps.
    pub dormant_after: Duration,
    /// Who may steer the node.
    pub operators: Vec<PublicKey>,
    /// Private hosts that agents may make requests to.
    pub http_private: Vec<String>,
    /// The times of its lease, if it keeps one.
    pub lease: Option<lease::Config>,
    /// Its wallet, if it has one.
    pub wallet: Option<money::Config>,
}

impl Default for Plot {
    fn default() -> Self {
        Self {
            signer_away: AtomicBool::new(false),
            runs: AtomicU64::new(0),
            heard: Mutex::default(),
            gate: Semaphore::new(0),
            dormant_after: Duration::from_secs(300),
            operators: Vec::new(),
            http_private: Vec::new(),
            lease: None,
            wallet: None,
        }
    }
}

/// Echoes, unless told to panic, fail, violate or hold.
#[derive(Debug)]
struct Actor(Arc<Plot>);

impl Agent for Actor {
    fn on_trigger<'a>(&'a self, tick: &'a mut Tick) -> Run<'a> {
        Box::pin(async move {
            self.0.runs.fetch_add(1, Ordering::Relaxed);
            let trigger: serde_json::Value = serde_json::from_slice(&tick.ns.read("/trigger").await?)
                .map_err(|e| Fault::Failed(e.to_string()))?;
            match trigger.get("text").and_then(serde_json::Value::as_str).unwrap_or_default() {
                #[expect(clippy::panic, reason = "a program that panics is what is tested")]
                "panic" => panic!("as asked"),
                "fail" => Err(Fault::Failed("as asked".to_owned())),
                "hold" => {
                    // It stays open once it was opened.
                    let _open = self.0.gate.acquire().await;
                    Ok(())
                }
                "violate" => Err(Fault::Violation("as asked".to_owned())),
                text if text.starts_with("do ") => {
                    let said = act(&mut tick.ns, text).await;
                    Ok(tick.ns.write("/reply", said.as_bytes()).await?)
                }
                text => {
                    self.0.heard.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
                    tick.ns.write("/reply", format!("You said: {text}").as_bytes()).await?;
                    Ok(())
                }
            }
        })
    }
}

/// Does one thing with a file: `do VERB PATH [BODY]`; answers `did` and what came back, or `refused` and why.
async fn act(ns: &mut Namespace, text: &str) -> String {
    let mut words = text.splitn(4, ' ').skip(1);
    let (verb, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let body = words.next().unwrap_or_default().as_bytes();
    let done = match verb {
        "read" => ns.read(path).await,
        "list" => ns.list(path).await.map(|entries| {
            let names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
            names.join(" ").into_bytes()
        }),
        "write" => ns.write(path, body).await.map(|()| Vec::new()),
        "append" => ns.append(path, body).await.map(|()| Vec::new()),
        "call" => ns.call(path, body).await,
        "remove" => ns.remove(path).await.map(|()| Vec::new()),
        _ => return format!("refused: {verb} is no verb"),
    };
    match done {
        Ok(bytes) => {
            format!("did: {}", String::from_utf8_lossy(&bytes).chars().take(2000).collect::<String>())
        }
        Err(error) => format!("refused: {:?}: {error}", error.code),
    }
}

/// Real keys behind a signer that can be away, as a bunker can.
#[derive(Debug)]
struct Ring {
    inner: SeedKeyring,
    plot: Arc<Plot>,
}

#[derive(Debug)]
struct Slow {
    inner: Arc<dyn Signer>,
    plot: Arc<Plot>,
}

impl Slow {
    fn check(&self) -> Result<(), SignerError> {
        if self.plot.signer_away.load(Ordering::Relaxed) {
            return Err(SignerError::Unavailable("the bunker is away".to_owned()));
        }
        Ok(())
    }
}

impl Keyring for Ring {
    fn node(&self) -> Arc<dyn Signer> {
        self.inner.node()
    }

    fn agent(&self, id: AgentId) -> Arc<dyn Signer> {
        Arc::new(Slow { inner: self.inner.agent(id), plot: self.plot.clone() })
    }

    fn secret(&self, id: AgentId) -> [u8; 32] {
        self.inner.secret(id)
    }

    fn adopt(&self, id: AgentId, key: Adopted) {
        self.inner.adopt(id, key);
    }

    fn adopted(&self, id: AgentId) -> Option<Adopted> {
        self.inner.adopted(id)
    }

    fn client_of(&self, bunker: &PublicKey) -> Keys {
        self.inner.client_of(bunker)
    }

    fn whose(&self, key: &PublicKey) -> Option<AgentId> {
        self.inner.whose(key)
    }
}

impl Signer for Slow {
    fn public_key(&self) -> PublicKey {
        self.inner.public_key()
    }

    fn is_immediate(&self) -> bool {
        false
    }

    fn sign(&self, event: UnsignedEvent) -> BoxedFuture<'_, Result<Event, SignerError>> {
        Box::pin(async move {
            self.check()?;
            self.inner.sign(event).await
        })
    }

    fn sign_data(&self, data: DataDigest) -> BoxedFuture<'_, Result<Signature, SignerError>> {
        Box::pin(async move {
            self.check()?;
            self.inner.sign_data(data).await
        })
    }

    fn nip44_encrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(async move {
            self.check()?;
            self.inner.nip44_encrypt(peer, text).await
        })
    }

    // Mail can still be read: the test is about what goes out.
    fn nip44_decrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        self.inner.nip44_decrypt(peer, text)
    }

    fn nip04_encrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(async move {
            self.check()?;
            self.inner.nip04_encrypt(peer, text).await
        })
    }

    fn nip04_decrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        self.inner.nip04_decrypt(peer, text)
    }
}

/// A node that runs.
#[derive(Debug)]
pub struct World {
    /// It.
    pub node: Node,
    /// Its memory.
    pub store: Store,
    /// What goes wrong.
    pub plot: Arc<Plot>,
    rest: Rest,
}

/// What outlives the node.
#[derive(Debug)]
struct Rest {
    relay: Arc<Relay>,
    /// Whether nobody else has the seed.
    is_first: bool,
    words: String,
    backend: Arc<MemoryBackend>,
    dir: tempfile::TempDir,
}

/// A node that was stopped.
#[derive(Debug)]
pub struct Stopped {
    plot: Arc<Plot>,
    rest: Rest,
}

impl World {
    /// Starts relay and node.
    ///
    /// # Errors
    /// When either does not come up.
    pub async fn start(plot: Plot) -> Result<Self> {
        let config = oa_relay::Config::new(([127, 0, 0, 1], 0).into(), StoreConfig::Memory);
        let relay = Arc::new(Relay::start(config).await?);
        let (words, backend) = (Seed::generate().reveal().to_string(), Arc::new(MemoryBackend::default()));
        let dir = tempfile::tempdir()?;
        Self::on(Arc::new(plot), Rest { relay, is_first: true, words, backend, dir }).await
    }

    async fn on(plot: Arc<Plot>, rest: Rest) -> Result<Self> {
        let store = Store::new(rest.backend.clone())?;
        let addresses = Arc::new(Addresses::load(&store)?);
        let inner = SeedKeyring::new(Seed::from_words(&rest.words)?, addresses.clone());
        let url = RelayUrl::parse(&rest.relay.url())?;
        let mut programs = Programs::default();
        programs.add("echo", Arc::new(Actor(plot.clone())));
        let start = if store.meta("node")?.is_none() && rest.is_first { Start::Fresh } else { Start::Again };
        let leasing = |times| Leasing { times, ..Leasing::new(start, vec![url.clone()]) };
        let leasing = plot.lease.clone().map(leasing);
        // What a new agent is sent before its subscription stands is found by the next sweep.
        let sweep = SweepConfig { interval_negentropy: SWEEP_EVERY, ..SweepConfig::default() };
        let config = Config {
            sweep,
            leasing,
            programs,
            dormant_after: plot.dormant_after,
            operators: plot.operators.clone(),
            http_private: plot.http_private.clone(),
            wallet: plot.wallet.clone(),
            ..Config::new(vec![RelaySpec { url: url.clone(), wide: false }])
        };
        let parts = Parts {
            store: store.clone(),
            keyring: Arc::new(Ring { inner, plot: plot.clone() }),
            addresses,
            running: Running::open(&rest.dir.path().join("running"))?,
            time: Arc::new(System),
        };
        let node = Node::start(config, parts).await?;
        ensure!(node.ready(1, Duration::from_secs(10)).await == 1, "the relay does not answer");
        Ok(Self { node, store, plot, rest })
    }

    /// Another node of the same seed on the same relay, with a store of its own.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn rival(&self, plot: Plot) -> Result<Self> {
        let rest = Rest {
            relay: self.rest.relay.clone(),
            is_first: false,
            words: self.rest.words.clone(),
            backend: Arc::default(),
            dir: tempfile::tempdir()?,
        };
        Self::on(Arc::new(plot), rest).await
    }

    /// A node of another seed on the same relay.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn neighbour(&self, plot: Plot) -> Result<Self> {
        let (relay, words) = (self.rest.relay.clone(), Seed::generate().reveal().to_string());
        let (backend, dir) = (Arc::default(), tempfile::tempdir()?);
        Self::on(Arc::new(plot), Rest { relay, is_first: true, words, backend, dir }).await
    }

    /// The node's seed.
    pub fn words(&self) -> &str {
        &self.rest.words
    }

    /// Somebody new, connected to the relay.
    ///
    /// # Errors
    /// When the relay does not answer.
    pub async fn client(&self) -> Result<Client> {
        self.client_of(Keys::generate()).await
    }

    /// Somebody with these keys, connected to the relay.
    ///
    /// # Errors
    /// When the relay does not answer.
    pub async fn client_of(&self, keys: Keys) -> Result<Client> {
        Client::connect(&self.rest.relay.url(), keys, Duration::from_secs(10)).await
    }

    /// All that is at rest.
    pub fn backend(&self) -> &MemoryBackend {
        &self.rest.backend
    }

    /// Where the relay is.
    pub fn relay_url(&self) -> String {
        self.rest.relay.url()
    }

    /// An agent's row, also when it is terminated.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn agent(&self, name: &str) -> Result<AgentRow> {
        let rows = self.store.agents(AgentId(0), 99)?;
        rows.into_iter().find(|row| row.name == name).with_context(|| format!("no agent {name}"))
    }

    /// Stops the node; the relay goes on.
    pub async fn stop(self) -> Stopped {
        self.node.shutdown().await;
        Stopped { plot: self.plot, rest: self.rest }
    }

    /// Stops everything.
    pub async fn end(self) {
        // Whoever else uses the relay ends it.
        if let Some(relay) = Arc::into_inner(self.stop().await.rest.relay) {
            relay.shutdown().await;
        }
    }
}

impl Stopped {
    /// Starts a node of the same seed whose store is lost.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn without_its_store(self, plot: Plot) -> Result<World> {
        let rest = Rest { is_first: false, backend: Arc::default(), dir: tempfile::tempdir()?, ..self.rest };
        World::on(Arc::new(plot), rest).await
    }

    /// Starts the node again, as it was.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn again(self) -> Result<World> {
        World::on(self.plot, self.rest).await
    }
}
