//! How a Lightning node is set up.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::super::node::{Network, NodeId};
use crate::msat::Msat;

/// What a node needs to start. Plain data; the seed comes beside it.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it keeps everything. One process at a time; its owner's only.
    pub dir: PathBuf,
    /// Whose coins.
    pub network: Network,
    /// Who tells it about the chain.
    pub chain: ChainSource,
    /// How often it asks.
    pub sync: SyncRate,
    /// What it calls itself, 32 bytes at most.
    pub alias: String,
    /// Where it listens for peers, as `host:port`. Without any it only dials.
    pub listen: Vec<String>,
    /// What it tells peers to dial, where that is not where it listens.
    pub announce: Vec<String>,
    /// Who opens channels to it when an invoice needs more room than there is.
    pub lsp: Option<Lsp>,
    /// Where it learns the network's channels from: a rapid gossip sync server, or, without one, its peers.
    pub rapid_gossip: Option<String>,
}

impl Config {
    /// A node that dials only, learns gossip from its peers, and has no provider of liquidity.
    pub fn new(dir: PathBuf, network: Network, chain: ChainSource) -> Self {
        Self {
            dir,
            network,
            chain,
            sync: SyncRate::Default,
            alias: "oa".to_owned(),
            listen: Vec::new(),
            announce: Vec::new(),
            lsp: None,
            rapid_gossip: None,
        }
    }
}

/// Who tells a node about the chain.
#[derive(Debug, Clone)]
pub enum ChainSource {
    /// An Esplora server, by the URL of its API.
    Esplora { url: String },
    /// An Electrum server: `ssl://host:port` or `tcp://host:port`.
    Electrum { url: String },
    /// A bitcoind, by RPC.
    Bitcoind { host: String, port: u16, user: String, password: Password },
}

/// How often a node asks about the chain. bitcoind is always asked every two seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncRate {
    /// As suits a public server: Lightning every 30 s, coins every 80 s.
    Default,
    /// As often as that: for a server of one's own.
    Every(Duration),
    /// Only when [`sync`](crate::backend::Backend::sync) is called.
    OnDemand,
}

/// A provider of inbound liquidity that speaks LSPS2: it opens a channel when somebody pays an invoice of ours, and
/// keeps a part of that payment.
///
/// Its channels are used before they are confirmed, and nothing is kept on the chain to close them with, so that a
/// wallet can begin without coins; it is trusted that far.
#[derive(Debug, Clone)]
pub struct Lsp {
    /// Its node.
    pub node_id: NodeId,
    /// Where it is, as `host:port`.
    pub address: String,
    /// What it knows us by, if it wants that.
    pub token: Option<Password>,
    /// The most it may keep of a payment that it opens a channel for: as much as this,
    pub fee_max: Msat,
    /// and as many millionths of the payment.
    pub fee_max_ppm: u32,
}

impl Lsp {
    /// The most it may keep of a payment.
    pub(super) fn fee_max_of(&self, amount: Msat) -> Msat {
        let share = u128::from(amount.get()) * u128::from(self.fee_max_ppm) / 1_000_000;
        self.fee_max.saturating_add(Msat::new(u64::try_from(share).unwrap_or(u64::MAX)))
    }
}

/// A secret of the configuration. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
