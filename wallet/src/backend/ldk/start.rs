//! From a configuration to a running node.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ldk_node::config::{
    AnchorChannelsConfig, BackgroundSyncConfig, Config as LdkConfig, ElectrumSyncConfig, EsploraSyncConfig,
};
use ldk_node::io::sqlite_store::SQLITE_DB_FILE_NAME;
use ldk_node::lightning::ln::msgs::SocketAddress;
use ldk_node::{BuildError, Builder, Node, NodeError};
use rusqlite::Connection;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::spawn_blocking;

use super::config::{ChainSource, Config, SyncRate};
use super::seed::Seed;
use super::traces::Traces;
use super::{Running, convert, log};

/// The file whose lock says that a process runs here.
const LOCK_FILE: &str = "lock";

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process runs this node. Two of them would lose its coins.
    #[error("another process runs the node in {}", .0.display())]
    Locked(PathBuf),
    /// Others can read its folder.
    #[error("the folder can be read by others (mode {mode:03o}): chmod 700 {}", .dir.display())]
    Permissive { dir: PathBuf, mode: u32 },
    /// An address of the configuration cannot be read.
    #[error("not an address of the form host:port: {0:?}")]
    Address(String),
    /// Nobody says what the chain is like.
    #[error("the chain source does not answer")]
    ChainAway,
    /// The folder belongs to a node of another network or another seed, or is damaged.
    #[error("cannot set the node up: {0}")]
    Build(#[from] BuildError),
    /// It is set up, and does not run: often an address it cannot listen on.
    #[error("cannot start the node: {0}")]
    Start(NodeError),
    /// It needs a multi-threaded runtime.
    #[error("a node needs a multi-threaded runtime")]
    Runtime,
    /// The operating system's reason.
    #[error("cannot use {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// LDK gave up.
    #[error("the node failed at its start: {0}")]
    Panicked(String),
}

pub(super) async fn start(config: &Config, seed: &Seed) -> Result<Running, StartError> {
    let runtime = Handle::current();
    if runtime.runtime_flavor() != RuntimeFlavor::MultiThread {
        return Err(StartError::Runtime);
    }
    let builder = builder(config, seed, runtime)?;
    let dir = config.dir.clone();
    let started = spawn_blocking(move || {
        let lock = take(&dir)?;
        prepare_database(&dir)?;
        let io = |source| StartError::Io { path: database(&dir), source };
        let traces = Traces::read(&dir).map_err(|error| io(io::Error::other(error)))?;
        let node = builder.build()?;
        run(node, lock, traces)
    });
    started.await.unwrap_or_else(|error| Err(StartError::Panicked(error.to_string())))
}

fn run(node: Node, lock: File, traces: Traces) -> Result<Running, StartError> {
    match node.start() {
        Ok(()) => match traces.close(&node) {
            Ok(()) => Ok(Running { node, traces, _lock: lock }),
            Err(error) => {
                node.stop().map_err(StartError::Start)?;
                Err(StartError::Start(error))
            }
        },
        // The last is what an Electrum server that is not there comes to; nobody else is connected to at a start.
        Err(
            NodeError::FeerateEstimationUpdateFailed
            | NodeError::FeerateEstimationUpdateTimeout
            | NodeError::ConnectionFailed,
        ) => Err(StartError::ChainAway),
        Err(error) => Err(StartError::Start(error)),
    }
}

fn builder(config: &Config, seed: &Seed, runtime: Handle) -> Result<Builder, StartError> {
    let ldk = LdkConfig {
        storage_dir_path: config.dir.to_string_lossy().into_owned(),
        network: convert::network(config.network),
        anchor_channels_config: Some(AnchorChannelsConfig {
            trusted_peers_no_reserve: config.lsp.iter().map(|lsp| *lsp.node_id.key()).collect(),
            ..AnchorChannelsConfig::default()
        }),
        ..LdkConfig::default()
    };
    let mut builder = Builder::from_config(ldk);
    builder.set_runtime(runtime);
    builder.set_entropy_bip39_mnemonic(seed.mnemonic(), None);
    builder.set_custom_logger(Arc::new(log::Tracing));
    // Who cannot be dialled is not announced, and to LDK a name is a wish to be.
    if !config.listen.is_empty() {
        builder.set_node_alias(config.alias.clone())?;
        builder.set_listening_addresses(addresses(&config.listen)?)?;
    }
    if !config.announce.is_empty() {
        builder.set_announcement_addresses(addresses(&config.announce)?)?;
    }
    match &config.rapid_gossip {
        Some(url) => builder.set_gossip_source_rgs(url.clone()),
        None => builder.set_gossip_source_p2p(),
    };
    if let Some(lsp) = &config.lsp {
        let token = lsp.token.as_ref().map(|token| token.0.clone());
        builder.set_liquidity_source_lsps2(*lsp.node_id.key(), address(&lsp.address)?, token);
    }
    chain_source(&mut builder, config);
    Ok(builder)
}

fn chain_source(builder: &mut Builder, config: &Config) {
    // A rate of our own is kept by our own task; LDK's has a lower bound of ten seconds.
    let background = (config.sync == SyncRate::Default).then(BackgroundSyncConfig::default);
    match config.chain.clone() {
        ChainSource::Esplora { url } => {
            let sync = EsploraSyncConfig { background_sync_config: background };
            builder.set_chain_source_esplora(url, Some(sync));
        }
        ChainSource::Electrum { url } => {
            let sync = ElectrumSyncConfig { background_sync_config: background };
            builder.set_chain_source_electrum(url, Some(sync));
        }
        ChainSource::Bitcoind { host, port, user, password } => {
            builder.set_chain_source_bitcoind_rpc(host, port, user, password.0);
        }
    }
}

pub(super) fn address(text: &str) -> Result<SocketAddress, StartError> {
    text.parse().map_err(|_| StartError::Address(text.to_owned()))
}

fn addresses(texts: &[String]) -> Result<Vec<SocketAddress>, StartError> {
    texts.iter().map(|text| address(text)).collect()
}

/// Makes the folder its owner's, and this process its only one.
fn take(dir: &Path) -> Result<File, StartError> {
    let io = |source| StartError::Io { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
    let mode = fs::metadata(dir).map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StartError::Permissive { dir: dir.to_owned(), mode });
    }
    let path = dir.join(LOCK_FILE);
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

/// Puts LDK's database into write-ahead mode, which it then stays in: one flush a write instead of three, with the
/// same durability. Payments wait for some ten writes on each side.
fn prepare_database(dir: &Path) -> Result<(), StartError> {
    let path = database(dir);
    let io = |source| StartError::Io { path: path.clone(), source };
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io)?;
    let mode = Connection::open(&path)
        .and_then(|database| database.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)))
        .map_err(|error| io(io::Error::other(error)))?;
    match mode {
        rusqlite::types::Value::Text(mode) if mode == "wal" => {}
        // It works as well, only slower: a file system without shared memory, for one.
        mode => tracing::warn!(?mode, "the node's database is not in write-ahead mode"),
    }
    Ok(())
}

/// Where LDK keeps its state.
pub(super) fn database(dir: &Path) -> PathBuf {
    dir.join(SQLITE_DB_FILE_NAME)
}
