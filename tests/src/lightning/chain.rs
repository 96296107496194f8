//! The chain that a Lightning world lives on: one in this process, or a real bitcoind where `OA_TEST_BITCOIND` names
//! the program (`tests/bitcoind.sh` builds it). It ends with [`Chain::shutdown`], or when it is dropped.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use oa_wallet::backend::Sat;
use oa_wallet::backend::ldk::ChainSource;
use oa_wallet::regtest;

use super::bitcoind::Bitcoind;
use crate::world::Home;

/// Names the program of a real bitcoind.
const VARIABLE: &str = "OA_TEST_BITCOIND";
/// How often wallets look at the chain, in milliseconds. A bitcoind is asked every two seconds, whatever is wanted.
const SYNC_MS: u64 = 250;

/// A chain whose blocks are mined when they are asked for.
#[derive(Debug)]
pub struct Chain(Kind);

#[derive(Debug)]
enum Kind {
    InProcess { chain: regtest::Chain, server: regtest::Server },
    Real(Box<Bitcoind>),
}

impl Chain {
    /// Starts the one that the environment asks for; a bitcoind keeps its things in `dir`.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start(dir: &Path) -> Result<Self> {
        if let Some(program) = std::env::var_os(VARIABLE) {
            let started = Bitcoind::start(&PathBuf::from(program), dir).await;
            return Ok(Self(Kind::Real(Box::new(started.context(VARIABLE)?))));
        }
        let chain = regtest::Chain::new();
        let server = chain.serve(([127, 0, 0, 1], 0).into()).await?;
        Ok(Self(Kind::InProcess { chain, server }))
    }

    /// Where a wallet finds it.
    pub fn source(&self) -> ChainSource {
        match &self.0 {
            Kind::InProcess { server, .. } => ChainSource::Esplora { url: server.url() },
            Kind::Real(bitcoind) => bitcoind.source(),
        }
    }

    /// Sends coins to an address; the next block confirms them.
    ///
    /// # Errors
    /// When the chain does not take it.
    pub async fn fund(&self, address: &str, amount: Sat) -> Result<()> {
        match &self.0 {
            Kind::InProcess { chain, .. } => Ok(chain.fund(address, amount).map(drop)?),
            Kind::Real(bitcoind) => bitcoind.fund(address, amount).await,
        }
    }

    /// Mines blocks; the first confirms all that waits.
    ///
    /// # Errors
    /// When a bitcoind does not.
    pub async fn mine(&self, blocks: u32) -> Result<()> {
        match &self.0 {
            Kind::InProcess { chain, .. } => chain.mine(blocks),
            Kind::Real(bitcoind) => bitcoind.mine(blocks).await.map(drop)?,
        }
        Ok(())
    }

    /// The number of the newest block.
    ///
    /// # Errors
    /// When a bitcoind does not answer.
    pub async fn height(&self) -> Result<u64> {
        match &self.0 {
            Kind::InProcess { chain, .. } => Ok(chain.height().into()),
            Kind::Real(bitcoind) => bitcoind.height().await,
        }
    }

    /// How many transactions wait for a block.
    ///
    /// # Errors
    /// When a bitcoind does not answer.
    pub async fn waiting(&self) -> Result<usize> {
        match &self.0 {
            Kind::InProcess { chain, .. } => Ok(chain.waiting()),
            Kind::Real(bitcoind) => bitcoind.waiting().await,
        }
    }

    /// `oa-wallet init` in a home, for a wallet on this chain.
    ///
    /// # Errors
    /// With all it printed.
    pub async fn init(&self, home: &Home, places: &[&str]) -> Result<()> {
        let (sync, init) = (SYNC_MS.to_string(), ["init", "--network", "regtest"]);
        let source = match self.source() {
            ChainSource::Esplora { url } => ["--esplora".to_owned(), url],
            ChainSource::Electrum { url } => ["--electrum".to_owned(), url],
            ChainSource::Bitcoind { host, port, user, .. } => {
                ["--bitcoind".to_owned(), format!("{user}@{host}:{port}")]
            }
        };
        let source = [source[0].as_str(), &source[1], "--sync-ms", &sync];
        home.oa_wallet(&[&init[..], &source, places].concat()).await?.ok()?;
        if let ChainSource::Bitcoind { password, .. } = self.source() {
            owners(&home.dir().join("wallet/bitcoind.password"), &password.0)?;
        }
        Ok(())
    }

    /// Ends it; nothing is left.
    ///
    /// # Errors
    /// When a bitcoind does not end, or not well.
    pub async fn shutdown(self) -> Result<()> {
        match self.0 {
            Kind::InProcess { server, .. } => server.shutdown().await,
            Kind::Real(bitcoind) => bitcoind.stop().await?,
        }
        Ok(())
    }
}

/// Writes a file that nobody but its owner can read.
pub(super) fn owners(path: &Path, text: &str) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
