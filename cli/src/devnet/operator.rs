//! An operator of a devnet: a home with a wallet and a node, each of which a process runs.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use oa_nips::nostr::{Keys, PublicKey};
use oa_node::home::Home;
use oa_wallet::account::Holder;
use oa_wallet::backend::Network;
use oa_wallet::nwc::client::Client;
use oa_wallet::nwc::connection::Scope;
use oa_wallet::nwc::service::{Connected, NEW_CONNECTION, NewConnection};
use oa_wallet::nwc::uri::Uri;
use serde_json::{Value, json};

use super::child::Child;
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::host::{self, npub};
use crate::output::Output;
use crate::passphrase::PassphraseSource;
use crate::secret;
use crate::wallet::client::Wallet;
use crate::wallet::init::{self, Init};
use crate::wallet::place::Place;

/// What the node's connection to the wallet is called.
const NODE: &str = "node";
/// Where it is, in the home: where a node looks for one by itself.
const NODE_FILE: &str = "node.nwc";
/// How often a wallet looks at the chain, in milliseconds.
const SYNC_MS: u64 = 250;

/// Somebody with a home.
#[derive(Debug)]
pub(crate) struct Operator {
    /// `seller` or `buyer`.
    pub(crate) name: String,
    /// For `oa --home`.
    pub(crate) home: PathBuf,
    /// Where its wallet takes Lightning peers.
    listen: String,
    /// Its wallet's Lightning node.
    pub(crate) lightning: String,
    /// What the node said when it was ready.
    told: Value,
    wallet: Option<Child>,
    node: Option<Child>,
}

impl Operator {
    /// Makes the home, with all its keys, in `folder`.
    ///
    /// # Errors
    /// What the file system said.
    pub(crate) fn new(name: &str, folder: &Path, relay: &str, esplora: &str) -> Result<Self> {
        let dir = folder.join(name);
        let listen = free_address()?;
        let home = Home::open(&dir)?;
        let source = PassphraseSource::default();
        host::seed(&home, &source)?;
        let operator = host::operator_key(&home, &source)?;
        std::fs::write(home.config(), config(&operator, relay))?;
        let context = Context { home: dir.clone(), output: Output { json: true }, passphrase: source };
        let init = Init {
            relay: vec![relay.to_owned()],
            listen: vec![listen.clone()],
            sync_ms: Some(SYNC_MS),
            ..Init::new(Network::Regtest, esplora)
        };
        init::make(&context, &init)?;
        let (lightning, told) = (String::new(), Value::Null);
        Ok(Self { name: name.to_owned(), home: dir, listen, lightning, told, wallet: None, node: None })
    }

    /// Begins to start the wallet.
    ///
    /// # Errors
    /// When its program is not there.
    pub(crate) fn start_wallet(&mut self) -> Result<()> {
        self.wallet = Some(Child::start("oa-wallet", &self.home, &format!("{}-wallet", self.name))?);
        Ok(())
    }

    /// Waits until the wallet is ready.
    ///
    /// # Errors
    /// What it said otherwise.
    pub(crate) async fn wallet_is_ready(&mut self) -> Result<()> {
        if let Some(wallet) = &mut self.wallet {
            let told = wallet.ready().await?;
            told.get("node").and_then(Value::as_str).unwrap_or_default().clone_into(&mut self.lightning);
        }
        Ok(())
    }

    /// Connects the node to its wallet and begins to start it. What it finds there is its operator's.
    ///
    /// # Errors
    /// What the wallet refused, or the program that is not there.
    pub(crate) async fn start_node(&mut self) -> Result<()> {
        let wallet = self.admin().await?;
        let made = connect_node(&wallet.client, &self.home.join(NODE_FILE)).await;
        wallet.close().await;
        made?;
        self.node = Some(Child::start("oa-node", &self.home, &format!("{}-node", self.name))?);
        Ok(())
    }

    /// Waits until the node is ready.
    ///
    /// # Errors
    /// What it said otherwise.
    pub(crate) async fn node_is_ready(&mut self) -> Result<()> {
        if let Some(node) = &mut self.node {
            self.told = node.ready().await?;
        }
        Ok(())
    }

    /// The wallet, by its admin connection.
    ///
    /// # Errors
    /// When it is not reached.
    pub(crate) async fn admin(&self) -> Result<Wallet> {
        Wallet::connect(&Place::peek(&self.home).admin()).await
    }

    /// `ID@HOST:PORT`, for Lightning peers.
    pub(crate) fn peer(&self) -> String {
        format!("{}@{}", self.lightning, self.listen)
    }

    /// The node's npub.
    pub(crate) fn node(&self) -> &str {
        self.told.get("node").and_then(Value::as_str).unwrap_or_default()
    }

    /// The npub of the agent that is there from the start.
    pub(crate) fn concierge(&self) -> &str {
        self.told.pointer("/agents/0/npub").and_then(Value::as_str).unwrap_or_default()
    }

    /// The process ids of wallet and node.
    pub(crate) fn pids(&self) -> [Option<u32>; 2] {
        [&self.wallet, &self.node].map(|child| child.as_ref().and_then(Child::pid))
    }

    /// The processes that run.
    pub(crate) fn children(&mut self) -> impl Iterator<Item = &mut Child> {
        self.wallet.iter_mut().chain(self.node.iter_mut())
    }

    /// Gives the wallet's process away, to be ended.
    pub(crate) fn take_wallet(&mut self) -> Option<Child> {
        self.wallet.take()
    }

    /// Gives the node's process away, to be ended.
    pub(crate) fn take_node(&mut self) -> Option<Child> {
        self.node.take()
    }
}

/// A connection to the operator's account, which may do all but steer the wallet.
async fn connect_node(wallet: &Client, file: &Path) -> Result<()> {
    let keys = Keys::generate();
    let all = Scope::ALL.into_iter().filter(|scope| *scope != Scope::Admin);
    let new = NewConnection {
        pubkey: keys.public_key(),
        name: NODE.to_owned(),
        scopes: all.collect(),
        budget: None,
        expires_at: None,
        account: Some(Holder::operator()),
    };
    let made = wallet.admin(NEW_CONNECTION, json!(new)).await?;
    let made: Connected =
        serde_json::from_value(made).map_err(|error| Error::new(Kind::Failed, error.to_string()))?;
    let uri = Uri::new(made.wallet, made.relays, keys.secret_key().clone())
        .map_err(|error| Error::new(Kind::Failed, error.to_string()))?;
    secret::write(file, &uri.reveal())?;
    Ok(())
}

/// An address of this machine that nobody listens on.
fn free_address() -> Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    Ok(listener.local_addr()?.to_string())
}

fn config(operator: &PublicKey, relay: &str) -> String {
    let operator = npub(operator);
    format!(
        r#"# A devnet's: see `oa devnet --help`.
operators = ["{operator}"]
relays = ["{relay}"]
allow_private = ["127.0.0.1"]
http_private = ["127.0.0.1", "localhost"]

[relay]
enabled = false

[wallet]
nwc_file = "{NODE_FILE}"

[[agents]]
name = "concierge"
program = "concierge"
owner = "{operator}"

[agents.dm]
policy = "open"
"#
    )
}
