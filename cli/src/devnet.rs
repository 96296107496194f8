//! A network of one's own on one machine: relay and chain in this process, and two operators, each with a wallet and a
//! node in processes of their own, who have a channel to each other.
//!
//! All that it needs lives in one folder and ends with it. [`Devnet::start`] may be given up halfway; whatever it has
//! begun by then is ended by [`Devnet::stop`], in order: nodes, wallets, chain, relay, folder. The processes end by
//! themselves when this one is killed, because their stdin does.
//!
//! - `child`: a process, from its start to its end; `folder`: where everything is
//! - `operator`: a home, its wallet and its node; `channel`: how both get coins and a channel

mod channel;
mod child;
mod folder;
mod operator;

use std::net::SocketAddr;
use std::time::Duration;

use oa_relay::{Relay, StoreConfig};
use oa_wallet::regtest::{Chain, Server};
use tokio_util::task::AbortOnDropHandle;

pub(crate) use folder::Folder;
pub(crate) use operator::Operator;

use crate::error::{Error, Kind, Result};
use crate::host::start_relay;

/// Who is there: one who sells and one who buys, though either can do both.
const NAMES: [&str; 2] = ["seller", "buyer"];
/// How often it is looked whether a transaction waits for a block.
const MINE_EVERY: Duration = Duration::from_millis(200);
/// Blocks that confirm it: as many as make a channel ready.
const CONFIRMATIONS: u32 = 6;

/// All that runs.
#[derive(Debug)]
pub(crate) struct Devnet {
    folder: Folder,
    relay: Option<Relay>,
    chain: Chain,
    server: Option<Server>,
    miner: Option<AbortOnDropHandle<()>>,
    operators: Vec<Operator>,
}

impl Devnet {
    /// Nothing yet, in a folder.
    pub(crate) fn new(folder: Folder) -> Self {
        Self { folder, relay: None, chain: Chain::new(), server: None, miner: None, operators: Vec::new() }
    }

    /// Starts everything. Where it is dropped or fails, [`Devnet::stop`] ends what runs by then.
    ///
    /// # Errors
    /// What did not start, with what it said.
    pub(crate) async fn start(&mut self, listen: SocketAddr) -> Result<()> {
        let relay = self.relay.insert(start_relay(listen, StoreConfig::Memory).await?).url();
        let server = self.chain.serve(([127, 0, 0, 1], 0).into()).await?;
        let esplora = self.server.insert(server).url();
        for name in NAMES {
            self.operators.push(Operator::new(name, self.folder.path(), &relay, &esplora)?);
        }
        for operator in &mut self.operators {
            operator.start_wallet()?;
        }
        for operator in &mut self.operators {
            operator.wallet_is_ready().await?;
        }
        let [one, other] = self.operators.as_mut_slice() else {
            return Err(Error::new(Kind::Failed, "a devnet has two operators"));
        };
        channel::connect(&self.chain, one, other).await?;
        self.miner = Some(AbortOnDropHandle::new(tokio::spawn(mine(self.chain.clone()))));
        for operator in &mut self.operators {
            operator.start_node().await?;
        }
        for operator in &mut self.operators {
            operator.node_is_ready().await?;
        }
        Ok(())
    }

    /// Where the relay is.
    pub(crate) fn relay(&self) -> String {
        self.relay.as_ref().map(Relay::url).unwrap_or_default()
    }

    /// Where the chain's Esplora endpoints are.
    pub(crate) fn esplora(&self) -> String {
        self.server.as_ref().map(Server::url).unwrap_or_default()
    }

    /// Who is there.
    pub(crate) fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// Where everything is.
    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Ends with the first process that does, which none should.
    pub(crate) async fn failed(&mut self) -> Error {
        let ends =
            self.operators.iter_mut().flat_map(Operator::children).map(|child| Box::pin(child.ended()));
        let (error, ..) = futures_util::future::select_all(ends).await;
        error
    }

    /// Ends everything that was begun, all of it whatever goes wrong.
    ///
    /// # Errors
    /// The first thing that did not end well.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let mut done = Ok(());
        let nodes: Vec<_> = self.operators.iter_mut().filter_map(Operator::take_node).collect();
        done = done.and(child::stop(nodes).await);
        let wallets: Vec<_> = self.operators.iter_mut().filter_map(Operator::take_wallet).collect();
        done = done.and(child::stop(wallets).await);
        drop(self.miner.take());
        if let Some(server) = self.server.take() {
            server.shutdown().await;
        }
        if let Some(relay) = self.relay.take() {
            relay.shutdown().await;
        }
        done.and(self.folder.remove())
    }
}

/// Confirms what waits, until it is dropped.
async fn mine(chain: Chain) {
    loop {
        tokio::time::sleep(MINE_EVERY).await;
        if chain.waiting() > 0 {
            chain.mine(CONFIRMATIONS);
        }
    }
}
