//! Runs a node in this process, with its bundled relay: what `oa up` and `oa-node run` share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use oa_nips::nip05;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_nips::nostr::{Keys, PublicKey, RelayUrl, ToBech32};
use oa_node::agent::manifest::{Manifest, Npub};
use oa_node::drivers::nostr::{RelaySpec, SweepConfig};
use oa_node::engine::running::Running;
use oa_node::home::Home;
use oa_node::keyring::{Addresses, SeedKeyring};
use oa_node::lease;
use oa_node::money;
use oa_node::namespace::blocks::host;
use oa_node::namespace::mount::Access;
use oa_node::node::{self, JournalLimits, Node, Parts};
use oa_node::notice::Notice;
use oa_node::serve::Srv;
use oa_node::signer::{KeyFile, Seed};
use oa_node::store::Store;
use oa_node::store::sqlite::SqliteBackend;
use oa_node::tenure::Leasing;
use oa_node::time::System;
use oa_relay::{Bundle, Relay, StoreConfig};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use crate::bunker;
use crate::client::Remembered;
use crate::commands::node_key::case;
use crate::config;
use crate::context::{Context, Signals};
use crate::error::{Error, Kind, Result, chain};
use crate::lifecycle;
use crate::output::Output;
use crate::passphrase::PassphraseSource;

/// How long the first relay may take to be ready.
const READY: Duration = Duration::from_secs(10);
/// How long the lease may take before it is said why it does.
const HELD: Duration = Duration::from_millis(500);
/// How long a shutdown may take before the process ends all the same.
/// How often the names that the relay serves are made anew, besides when agents come and go.
const NAMED_EVERY: Duration = Duration::from_secs(10);
const SHUTDOWN: Duration = Duration::from_secs(45);

/// What is to run.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Where the bundled relay listens, and whether the node takes all mail there in one subscription.
    pub(crate) relay: Option<(SocketAddr, bool)>,
    /// How others reach the bundled relay.
    pub(crate) relay_url: Option<RelayUrl>,
    /// Other relays.
    pub(crate) relays: Vec<RelayUrl>,
    /// Who may steer the node.
    pub(crate) operators: Vec<PublicKey>,
    /// Who may consent to what any agent wishes, and who may look.
    pub(crate) approvers: Vec<PublicKey>,
    pub(crate) viewers: Vec<PublicKey>,
    /// Folders of this machine that manifests may mount.
    pub(crate) srv: BTreeMap<String, config::Srv>,
    /// Agents that must be there.
    pub(crate) agents: Vec<Manifest>,
    /// Hosts in private networks that agents' requests may go to.
    pub(crate) http_private: Vec<String>,
    /// Relays in private networks that correspondents may name.
    pub(crate) allow_private: Vec<String>,
    /// The wallet that its agents have their accounts in.
    pub(crate) wallet: Option<money::Config>,
    /// How often relays are swept.
    pub(crate) sweep: SweepConfig,
    /// An agent that nothing came to for this long sleeps.
    pub(crate) dormant_after: Duration,
    /// How much replay material is kept.
    pub(crate) journals: JournalLimits,
    /// The domain at which agents have names.
    pub(crate) domain: Option<String>,
    /// Whether the keys are taken although another node has used them since this home did.
    pub(crate) take_lease: bool,
}

/// A node that runs here.
#[derive(Debug)]
pub(crate) struct Host {
    /// The node.
    pub(crate) node: Node,
    /// Where clients on this machine reach it.
    pub(crate) relay_url: RelayUrl,
    /// The relays that its agents name as theirs.
    pub(crate) published: Vec<RelayUrl>,
    /// Whether somebody on another machine can reach it.
    pub(crate) is_reachable: bool,
    relay: Option<Relay>,
    /// What the relay serves to browsers.
    bundle: Bundle,
    _home: Home,
}

/// Whether a home's seed was made here and never used: then nobody else can act under its keys. Made by [`seed`], used
/// up by [`Host::start`].
fn is_unused(home: &Home) -> bool {
    home.unused().exists() && !home.db().exists()
}

/// The seed of a home, made when there is none.
///
/// # Errors
/// When it cannot be read or written.
pub(crate) fn seed(home: &Home, source: &PassphraseSource) -> Result<Seed> {
    if home.seed().exists() {
        return source.seed(&home.seed());
    }
    if home.db().exists() {
        let message =
            format!("{} is gone, but there is a database of agents made from it", home.seed().display());
        return Err(
            Error::new(Kind::Failed, message).hint("put the seed file back; agents are nothing without it")
        );
    }
    let seed = Seed::generate();
    match source.kept()? {
        Some(passphrase) => seed.save_encrypted(&home.seed(), &passphrase)?,
        None => seed.save(&home.seed())?,
    }
    std::fs::write(home.unused(), "This home's seed was made here, and no node has run with it yet.\n")?;
    Ok(seed)
}

/// Whose key the operator's is in a home: a bunker's, or one in a file, made when there is none.
///
/// # Errors
/// When it cannot be read or written.
pub(crate) fn operator_key(home: &Home, source: &PassphraseSource) -> Result<PublicKey> {
    if let Some(bunker) = bunker::Remembered::load(home)? {
        return Ok(bunker.operator.0);
    }
    let path = home.operator_key();
    let key = match source.kept()? {
        _ if path.exists() => source.key(&path)?,
        Some(passphrase) => KeyFile::save_encrypted(&path, Keys::generate(), &passphrase)?,
        None => KeyFile::save(&path, Keys::generate())?,
    };
    Ok(key.keys().public_key())
}

/// Starts the bundled relay.
///
/// # Errors
/// When the port is taken or the store cannot be used.
pub(crate) async fn start_relay(listen: SocketAddr, store: StoreConfig) -> Result<Relay> {
    start_serving(listen, store, Bundle::default()).await
}

/// The same with something to serve to browsers.
async fn start_serving(listen: SocketAddr, store: StoreConfig, bundle: Bundle) -> Result<Relay> {
    Relay::start(oa_relay::Config { bundle, ..oa_relay::Config::new(listen, store) }).await.map_err(|error| {
        let hint = match &error {
            oa_relay::StartError::AddressInUse { .. } => {
                "another relay or node runs there; choose another port with --listen (127.0.0.1:0 takes a free one), of a \
                 server with `listen` under [relay] in config.toml"
            }
            oa_relay::StartError::Bind { .. } => "choose an address of this machine, with --listen or `listen` under [relay] in config.toml",
            _ => "nothing was changed; see what the message names",
        };
        Error::new(Kind::Failed, chain(&error)).hint(hint)
    })
}

impl Host {
    /// Starts relay and node in a locked home.
    ///
    /// # Errors
    /// What cannot be started, and what to do about it.
    pub(crate) async fn start(home: Home, plan: Plan, context: &Context) -> Result<Self> {
        let (source, output) = (&context.passphrase, context.output);
        refuse_anothers(&home)?;
        let seed = seed(&home, source)?;
        let start = match plan.take_lease {
            true => lease::Start::Renounced,
            false if is_unused(&home) => lease::Start::Fresh,
            false => lease::Start::Again,
        };
        if home.unused().exists() {
            std::fs::remove_file(home.unused())?;
        }
        let store = Store::new(Arc::new(SqliteBackend::open(&home.db())?))?;
        let bundle = Bundle::default();
        let relay = match plan.relay {
            Some((listen, _)) => {
                Some(start_serving(listen, StoreConfig::Lmdb(home.relay()), bundle.clone()).await?)
            }
            None => None,
        };
        let mut relays = Vec::new();
        if let (Some(relay), Some((_, wide))) = (&relay, plan.relay) {
            let url =
                RelayUrl::parse(&relay.url()).map_err(|error| Error::new(Kind::Failed, error.to_string()))?;
            relays.push(RelaySpec { url, wide });
        }
        relays.extend(plan.relays.iter().map(|url| RelaySpec { url: url.clone(), wide: false }));
        let relay_url = match relays.first() {
            Some(relay) => relay.url.clone(),
            None => return Err(Error::new(Kind::Usage, "no relay is configured")),
        };
        let published = published(&plan, relay.as_ref(), &relays);
        let is_reachable = published.iter().any(|url| !is_local(url));
        let addresses = Arc::new(Addresses::load(&store)?);
        let parts = Parts {
            store,
            keyring: Arc::new(SeedKeyring::new(seed, addresses.clone())),
            addresses,
            running: Running::open(&home.running())?,
            time: Arc::new(System),
        };
        let leasing = Leasing { place: place(&home), ..Leasing::new(start, shared_relays(&relays)) };
        let config = node::Config {
            keys: case(&home, source)?,
            leasing: Some(leasing),
            domain: plan.domain,
            operators: plan.operators,
            approvers: plan.approvers,
            viewers: plan.viewers,
            srv: folders(plan.srv).await?,
            wallet: plan.wallet,
            sweep: plan.sweep,
            dormant_after: plan.dormant_after,
            journals: plan.journals,
            allow_private: plan.allow_private,
            http_private: plan.http_private,
            published: published.clone(),
            ..node::Config::new(relays)
        };
        let node = Node::start(config, parts).await?;
        for manifest in plan.agents {
            node.ensure_agent(manifest).await?;
        }
        let remembered = Remembered { relay: relay_url.clone(), node: Npub(node.public_key()) };
        remembered.save(&home.client())?;
        if node.ready(1, READY).await == 0 {
            tracing::warn!("no relay answers yet; mail waits there until one does");
        } else if let Some(why) = node.held(HELD).await {
            tracing::warn!(why, "the agents wait");
            output.note(format!("the agents wait: {why}"));
        }
        Ok(Self { node, relay_url, published, is_reachable, relay, bundle, _home: home })
    }

    /// Tells what happens until a signal or a failure, then shuts down.
    ///
    /// # Errors
    /// When the node could not go on.
    pub(crate) async fn run(self, output: Output, mut signals: Signals) -> Result<()> {
        let mut notices = self.node.notices();
        let mut population = self.node.population();
        let mut named = tokio::time::interval(NAMED_EVERY);
        let failed = loop {
            tokio::select! {
                biased;
                () = signals.next() => break false,
                () = self.node.failed() => break true,
                notice = notices.recv() => match notice {
                    Ok(notice) => tell(output, &notice),
                    Err(RecvError::Lagged(missed)) => {
                        output.object(&json!({ "event": "error", "message": format!("{missed} notices missed") }));
                    }
                    Err(RecvError::Closed) => break true,
                },
                Ok(()) = population.changed() => self.serve_names(),
                // A manifest may have changed.
                _ = named.tick() => self.serve_names(),
            }
        };
        lifecycle::stopping(output);
        let Self { node, relay, .. } = self;
        let ended = tokio::time::timeout(SHUTDOWN, async {
            node.shutdown().await;
            if let Some(relay) = relay {
                relay.shutdown().await;
            }
        });
        if ended.await.is_err() {
            return Err(Error::new(
                Kind::Failed,
                "could not end in time; nothing is lost, the next start goes on",
            ));
        }
        if failed {
            return Err(Error::new(Kind::Failed, "the node's database can no longer be written")
                .hint("make room on its disk and start again; nothing was lost"));
        }
        Ok(())
    }
}

impl Host {
    /// Has the relay serve the agents' names, if the node has a domain.
    fn serve_names(&self) {
        match self.node.names() {
            Ok(Some(names)) => self.bundle.set(nip05::PATH, "application/json", names.into_bytes()),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "names are served as they were"),
        }
    }
}

/// Refuses a home that steers a node elsewhere, and has never had one: it would forget that.
fn refuse_anothers(home: &Home) -> Result<()> {
    if home.db().exists() || home.seed().exists() {
        return Ok(());
    }
    let Ok(known) = Remembered::load(&home.client()) else { return Ok(()) };
    let message = format!("this home steers another node, {}, and would forget it", npub(&known.node.0));
    Err(Error::new(Kind::Usage, message)
        .hint(format!("choose another --home for a node of this machine, or rm {}", home.client().display())))
}

/// The relays that another node with the same seed would use too: one on this machine keeps nobody elsewhere out, and
/// counts only where there is no other.
fn shared_relays(relays: &[RelaySpec]) -> Vec<RelayUrl> {
    let all = || relays.iter().map(|relay| relay.url.clone());
    let shared: Vec<RelayUrl> = all().filter(|url| !is_local(url)).collect();
    if shared.is_empty() { all().collect() } else { shared }
}

/// Where a home is, so that a copy of it elsewhere is told apart: this machine, and the folder.
fn place(home: &Home) -> Option<oa_nips::lease::Id> {
    let machine = std::fs::read("/etc/machine-id").ok()?;
    let folder = home.dir().canonicalize().ok()?;
    let bytes = [machine.as_slice(), b"\0", folder.as_os_str().as_encoded_bytes()].concat();
    let digest = sha256::Hash::hash(&bytes).to_byte_array();
    digest.first_chunk().copied().map(oa_nips::hex::Hex)
}

/// Opens the folders that manifests may mount.
async fn folders(srv: BTreeMap<String, config::Srv>) -> Result<BTreeMap<String, Srv>> {
    let mut opened = BTreeMap::new();
    for (name, folder) in srv {
        let access =
            if folder.access == Access::ReadWrite { host::Access::ReadWrite } else { host::Access::ReadOnly };
        let config = host::Config { access, follow: host::Follow::Changes, ..host::Config::default() };
        let mut service = host::Host::open(&folder.path, config).await;
        if let Err(error @ host::OpenError::Follow { .. }) = &service {
            tracing::warn!(error = chain(error), "changes in a folder wake nobody");
            let config = host::Config { follow: host::Follow::Nothing, ..config };
            service = host::Host::open(&folder.path, config).await;
        }
        let service = service.map_err(|error| {
            Error::new(Kind::Failed, format!("srv.{name}: {}: {}", folder.path.display(), chain(&error)))
                .hint("make the folder, or take it out of config.toml")
        })?;
        let what = format!("a folder of the host, {}", folder.access);
        opened.insert(name, Srv::folder(service, folder.agents, what));
    }
    Ok(opened)
}

/// The relays as others reach them: this machine's own address is of use to nobody else, and is named only where
/// there is no other.
fn published(plan: &Plan, relay: Option<&Relay>, relays: &[RelaySpec]) -> Vec<RelayUrl> {
    let bundled = match (&plan.relay_url, relay, plan.relay) {
        (Some(url), ..) => Some(url.clone()),
        (None, Some(relay), Some((listen, _))) if listen.ip().is_unspecified() => {
            lan_address().and_then(|ip| {
                RelayUrl::parse(&format!("ws://{}", SocketAddr::new(ip, relay.local_addr().port()))).ok()
            })
        }
        (None, Some(relay), _) => RelayUrl::parse(&relay.url()).ok(),
        (None, None, _) => None,
    };
    let all: Vec<RelayUrl> = bundled.into_iter().chain(plan.relays.iter().cloned()).collect();
    let public: Vec<RelayUrl> = all.iter().filter(|url| !is_local(url)).cloned().collect();
    match (public.is_empty(), all.is_empty()) {
        (false, _) => public,
        (true, false) => all,
        (true, true) => relays.iter().map(|relay| relay.url.clone()).collect(),
    }
}

/// This machine's address in its network. Nothing is sent: a datagram socket that is connected has chosen one.
fn lan_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|addr| addr.ip())
}

fn is_local(url: &RelayUrl) -> bool {
    url.host().is_some_and(|host| is_loopback(&host.to_string()))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn tell(output: Output, notice: &Notice) {
    output.object(notice);
    if output.json {
        return;
    }
    let short = |npub: &str| npub.chars().take(12).collect::<String>();
    match notice {
        Notice::MailIn { agent, from, protocol, .. } => {
            output.note(format!("{agent}: mail from {} ({})", short(from), protocol.as_str()));
        }
        Notice::MailOut { agent, to, protocol, .. } => {
            output.note(format!("{agent}: answered {} ({})", short(to), protocol.as_str()));
        }
        Notice::MailRefused { agent, from, reason } => {
            let from = from.as_deref().map_or_else(|| "somebody".to_owned(), short);
            output.note(format!("{agent}: refused mail from {from}: {reason}"));
        }
        Notice::Lifecycle { agent, lifecycle, reason } => {
            output.note(format!("{agent} is {lifecycle}: {reason}"))
        }
        Notice::RelayDown { relay, reason } => output.note(format!("{relay} is away: {reason}")),
        Notice::Error { message } => output.note(format!("error: {message}")),
        Notice::Tick { .. } | Notice::RelayUp { .. } => {}
    }
}

/// An agent's npub, for people.
pub(crate) fn npub(key: &PublicKey) -> String {
    key.to_bech32().unwrap_or_default()
}
