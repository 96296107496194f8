//! Somebody in the middle, whom payments of others go through for a fee: a Lightning node that is none of our wallets,
//! in the test's process. The runtime has to be a multi-threaded one.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use ldk_node::Builder;
use ldk_node::bitcoin::Network;
use ldk_node::config::{Config, EsploraSyncConfig};
use ldk_node::liquidity::LSPS2ServiceConfig;
use oa_wallet::backend::Sat;
use oa_wallet::backend::ldk::ChainSource;

use super::Chain;
use crate::world::free_port;

/// A running node.
pub struct Hub {
    node: ldk_node::Node,
    /// `ID@HOST:PORT`, for Lightning peers.
    pub peer: String,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Hub {
    /// Starts one in a folder.
    ///
    /// # Errors
    /// What LDK said.
    pub fn start(dir: &Path, chain: &Chain) -> Result<Self> {
        let listen = format!("127.0.0.1:{}", free_port()?);
        let mut builder = Builder::from_config(Config {
            storage_dir_path: dir.to_string_lossy().into_owned(),
            network: Network::Regtest,
            ..Config::default()
        });
        match chain.source() {
            ChainSource::Esplora { url } => builder
                .set_chain_source_esplora(url, Some(EsploraSyncConfig { background_sync_config: None })),
            ChainSource::Electrum { url } => builder.set_chain_source_electrum(url, None),
            ChainSource::Bitcoind { host, port, user, password } => {
                builder.set_chain_source_bitcoind_rpc(host, port, user, password.0)
            }
        };
        builder.set_node_alias("hub".to_owned())?;
        let address = listen.parse().map_err(|_| anyhow!("no address: {listen}"))?;
        builder.set_listening_addresses(vec![address])?;
        // Nobody buys channels of it; but only a node that sells them hands payments on to those that are not announced.
        builder.set_liquidity_provider_lsps2(LSPS2ServiceConfig {
            require_token: None,
            advertise_service: false,
            channel_opening_fee_ppm: 10_000,
            channel_over_provisioning_ppm: 100_000,
            min_channel_opening_fee_msat: 0,
            min_channel_lifetime: 100,
            max_client_to_self_delay: 1_024,
            min_payment_size_msat: 0,
            max_payment_size_msat: 1_000_000_000,
            client_trusts_lsp: true,
        });
        let node = builder.build()?;
        node.start()?;
        let peer = format!("{}@{listen}", node.node_id());
        Ok(Self { node, peer })
    }

    /// A fresh address.
    ///
    /// # Errors
    /// What LDK said.
    pub fn address(&self) -> Result<String> {
        Ok(self.node.onchain_payment().new_address()?.to_string())
    }

    /// Catches up with the chain.
    ///
    /// # Errors
    /// What LDK said.
    pub fn sync(&self) -> Result<()> {
        Ok(self.node.sync_wallets()?)
    }

    /// Begins to open a channel to `ID@HOST:PORT`.
    ///
    /// # Errors
    /// What LDK said.
    pub fn open(&self, peer: &str, capacity: Sat) -> Result<()> {
        let (id, address) = peer.split_once('@').context("ID@HOST:PORT")?;
        let address = address.parse().map_err(|_| anyhow!("no address: {address}"))?;
        self.node.open_channel(id.parse()?, address, capacity.0, None, None)?;
        Ok(())
    }

    /// What is its own in channels, as far as it could be sent.
    pub fn spendable_msat(&self) -> u64 {
        self.node.list_channels().iter().map(|channel| channel.outbound_capacity_msat).sum()
    }

    /// Ends it.
    ///
    /// # Errors
    /// What LDK said.
    pub fn stop(&self) -> Result<()> {
        Ok(self.node.stop()?)
    }
}
