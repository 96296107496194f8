//! An NWC client in this process, by the connection in a file: quick, and with every method there is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oa_nips::nostr::PublicKey;
use oa_nips::port::Signer;
use oa_node::drivers::nostr::{self as pool, Incoming, Pool, RelaySpec};
use oa_node::signer::{Conversations, LocalSigner};
use oa_node::time::{System, Time as _};
use oa_wallet::msat::Msat;
use oa_wallet::nwc::client::{Client, Config, Outcome, Ports};
use oa_wallet::nwc::message::{InvoiceOrder, PayOrder};
use oa_wallet::nwc::uri::Uri;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::world::DEADLINE;

/// Answers that wait to be looked at.
const INCOMING: usize = 1024;

/// A connection that stands. Dropping it leaves.
#[derive(Debug)]
pub struct Customer {
    /// What the wallet is spoken to with.
    pub client: Client,
    _pool: Pool,
    _answers: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct OwnKey(Arc<dyn Signer>);

impl pool::Keyring for OwnKey {
    fn node(&self) -> Arc<dyn Signer> {
        self.0.clone()
    }

    fn agent(&self, _: &PublicKey) -> Option<Arc<dyn Signer>> {
        None
    }
}

impl Customer {
    /// Connects by the URI in a file, with the usual times.
    ///
    /// # Errors
    /// When there is no such file, or its relay is not there.
    pub async fn connect(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let uri: Uri = text.trim().parse()?;
        Self::start(&uri, Config::new(&uri)).await
    }

    /// Connects by a URI, with times of one's own.
    ///
    /// # Errors
    /// When its relay is not there.
    pub async fn start(uri: &Uri, config: Config) -> Result<Self> {
        let signer: Arc<dyn Signer> = Arc::new(LocalSigner::new(uri.keys(), Conversations::default()));
        let (sender, incoming) = mpsc::channel(INCOMING);
        let relays = uri.relays.iter().map(|url| RelaySpec { url: url.clone(), wide: false }).collect();
        let pool_config = pool::Config { relays, ..pool::Config::default() };
        let pool = Pool::start(pool_config, Arc::new(OwnKey(signer.clone())), None, sender);
        pool.stand("nwc", Client::filter(uri.wallet, signer.public_key(), System.now_ms() / 1000));
        ensure!(pool.ready(1, DEADLINE).await > 0, "the wallet's relay is not there");
        let (answers, events) = mpsc::channel(INCOMING);
        let port = Arc::new(pool.clone());
        let ports = Ports { signer, publish: port.clone(), subscribe: port, clock: || System.now_ms() };
        let client = Client::start(config, ports, events, watch::Sender::new(true).subscribe());
        let _answers = AbortOnDropHandle::new(tokio::spawn(hand_on(incoming, answers)));
        Ok(Self { client, _pool: pool, _answers })
    }

    /// An invoice of the connection's account.
    ///
    /// # Errors
    /// What the wallet refused.
    pub async fn invoice(&self, amount: Msat) -> Result<String> {
        let order =
            InvoiceOrder { amount, description: None, description_hash: None, expiry: None, metadata: None };
        self.client.make_invoice(order).await?.invoice.context("an invoice")
    }

    /// Pays an invoice that names its amount.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn pay(&self, invoice: String) -> Result<Outcome> {
        Ok(self.client.pay_invoice(PayOrder { invoice, amount: None, metadata: None }).await?)
    }

    /// Waits until the wallet has exactly so much.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn balance_becomes(&self, within: Duration, msat: u64) -> Result<()> {
        crate::world::eventually(within, || async {
            let balance = self.client.balance().await?;
            ensure!(balance.get() == msat, "{balance} is there, {msat} msat is wanted");
            Ok(())
        })
        .await
    }
}

async fn hand_on(mut incoming: mpsc::Receiver<Incoming>, answers: mpsc::Sender<oa_nips::nostr::Event>) {
    while let Some(next) = incoming.recv().await {
        if let Incoming::Event { event, .. } = next
            && answers.send(*event).await.is_err()
        {
            return;
        }
    }
}
