//! A Bitcoin chain of one's own, in one process: for the devnet and for tests of real Lightning nodes.
//!
//! Blocks are mined when they are asked for, coins come from a faucet, and [`Chain::serve`] answers what Lightning
//! and on-chain wallets ask an Esplora server. It checks less than Bitcoin does, as its `ledger` says, and lives in
//! memory: with the process it is gone, and so is every coin on it. [`Chain::serve_electrum`] answers Electrum clients.
//!
//! ```
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! use oa_wallet::backend::Sat;
//! use oa_wallet::regtest::Chain;
//!
//! let chain = Chain::new();
//! let server = chain.serve("127.0.0.1:0".parse()?).await?;
//! chain.fund("bcrt1qs758ursh4q9z627kt3pp5yysm78ddny6txaqgw", Sat(100_000))?;
//! chain.mine(6);
//! println!("{} is at {}", server.url(), chain.height());
//! server.shutdown().await;
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod block;
mod electrum;
mod esplora;
mod ledger;
mod server;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bitcoin::{Address, Amount, Network, Transaction, Txid};
use tokio::sync::watch;

pub use ledger::Refusal;
pub use server::Server;

use crate::backend::Sat;
use ledger::Ledger;
use server::Protocol;

/// Blocks a new chain has: their coins fill the faucet.
const BLOCKS_AT_START: u32 = 10;

/// A chain; clones are the same chain.
#[derive(Debug, Clone)]
pub struct Chain(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    ledger: Ledger,
    /// Grows with every block, so that no two are equal.
    mined: u64,
    /// Tells of new blocks.
    blocks: watch::Sender<()>,
}

/// Why the faucet gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FundError {
    /// The address cannot be read, or belongs to another network.
    #[error("no regtest address: {0}")]
    Address(String),
    /// The chain did not take the transaction.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

impl Chain {
    /// A chain of a few blocks.
    pub fn new() -> Self {
        let chain = Self(Arc::new(Mutex::new(State {
            ledger: Ledger::new(),
            mined: 0,
            blocks: watch::Sender::new(()),
        })));
        chain.mine(BLOCKS_AT_START);
        chain
    }

    /// Mines blocks; the first confirms all that waits.
    pub fn mine(&self, blocks: u32) {
        let mut state = self.state();
        for _ in 0..blocks {
            let waiting = state.ledger.candidates();
            state.mine(waiting);
        }
    }

    /// Sends coins from the faucet; the next block confirms them.
    pub fn fund(&self, address: &str, amount: Sat) -> Result<Txid, FundError> {
        let address = address
            .parse::<Address<_>>()
            .and_then(|address| address.require_network(Network::Regtest))
            .map_err(|error| FundError::Address(error.to_string()))?;
        let mut state = self.state();
        let tx = block::faucet(&state.ledger, &address.script_pubkey(), Amount::from_sat(amount.0))?;
        Ok(state.ledger.accept(tx)?)
    }

    /// Takes a transaction to wait for a block.
    pub fn broadcast(&self, tx: Transaction) -> Result<Txid, Refusal> {
        self.state().ledger.accept(tx)
    }

    /// Abandons the last `depth` blocks for one more, all empty; what they had confirmed waits again.
    pub fn reorg(&self, depth: u32) {
        let mut state = self.state();
        for _ in 0..depth {
            state.ledger.disconnect();
        }
        for _ in 0..=depth {
            state.mine(Vec::new());
        }
    }

    /// Forgets a waiting transaction and its descendants, as nodes do with those that stay too long.
    pub fn evict(&self, txid: &Txid) {
        let mut state = self.state();
        if state.ledger.known(txid).is_some_and(|known| known.height.is_none()) {
            state.ledger.evict(txid);
        }
    }

    /// The number of the newest block.
    pub fn height(&self) -> u32 {
        self.state().ledger.height()
    }

    /// How many transactions wait for a block.
    pub fn waiting(&self) -> usize {
        self.state().ledger.waiting()
    }

    /// A transaction, and the height of the block that confirms it, if one does.
    pub fn transaction(&self, txid: &Txid) -> Option<(Transaction, Option<u32>)> {
        let state = self.state();
        state.ledger.known(txid).map(|known| (known.tx.clone(), known.height))
    }

    /// Begins to serve Esplora clients on `address`; port 0 takes a free one.
    pub async fn serve(&self, address: SocketAddr) -> io::Result<Server> {
        server::serve(self.clone(), Protocol::Esplora, address).await
    }

    /// Begins to serve Electrum clients on `address`; port 0 takes a free one.
    pub async fn serve_electrum(&self, address: SocketAddr) -> io::Result<Server> {
        server::serve(self.clone(), Protocol::Electrum, address).await
    }

    /// Changes with every block. Whoever then locks the ledger finds a reorganisation done.
    fn new_blocks(&self) -> watch::Receiver<()> {
        self.state().blocks.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ledger, for the server.
    fn lock(&self) -> impl std::ops::DerefMut<Target = Ledger> + '_ {
        Locked(self.state())
    }
}

struct Locked<'a>(MutexGuard<'a, State>);

impl std::ops::Deref for Locked<'_> {
    type Target = Ledger;

    fn deref(&self) -> &Ledger {
        &self.0.ledger
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Ledger {
        &mut self.0.ledger
    }
}

impl State {
    fn mine(&mut self, transactions: Vec<Transaction>) {
        // Lightning compares the blocks' times with the invoices', so they are the wall clock's.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.mined = self.mined.saturating_add(1);
        let now = u32::try_from(now).unwrap_or(u32::MAX);
        let block = block::next(&self.ledger, transactions, now, self.mined);
        self.ledger.connect(block);
        self.blocks.send_replace(());
    }
}

#[cfg(test)]
mod tests;
