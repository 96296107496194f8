//! A customer of a wallet: our client, over a relay pool of its own, and raw requests.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use oa_nips::nostr::{Event, PublicKey};
use oa_nips::port::Signer;
use oa_node::drivers::nostr::{self as pool, Incoming, Pool, RelaySpec};
use oa_node::signer::{Conversations, LocalSigner};
use oa_wallet::nwc::client::{CallError, Client, Config, Ports};
use oa_wallet::nwc::message::ErrorCode;
use oa_wallet::nwc::uri::Uri;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::clock;
use crate::world::DEADLINE;

/// Answers that wait to be looked at.
const INCOMING: usize = 1024;

/// Somebody with a connection to a wallet.
#[derive(Debug)]
pub struct Customer {
    /// What it uses.
    pub client: Client,
    uri: Uri,
    pool: Pool,
    _answers: AbortOnDropHandle<()>,
}

/// What a wallet answered instead of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

/// The key of one side of a connection is all that its pool needs.
#[derive(Debug)]
pub(super) struct OneKey(pub(super) Arc<dyn Signer>);

impl pool::Keyring for OneKey {
    fn node(&self) -> Arc<dyn Signer> {
        self.0.clone()
    }

    fn agent(&self, _: &PublicKey) -> Option<Arc<dyn Signer>> {
        None
    }
}

/// Hands the events of a pool on.
pub(super) async fn hand_on(mut incoming: mpsc::Receiver<Incoming>, events: mpsc::Sender<Event>) {
    while let Some(next) = incoming.recv().await {
        if let Incoming::Event { event, .. } = next
            && events.send(*event).await.is_err()
        {
            return;
        }
    }
}

impl Customer {
    /// With the usual times, halved and halved again where a test would wait.
    ///
    /// # Errors
    /// When no relay answers.
    pub async fn connect(uri: Uri) -> Result<Self> {
        let quick = Config {
            resend_after: Duration::from_millis(300),
            look_after: Duration::from_millis(100),
            poll_every: Duration::from_millis(200),
            ..Config::new(&uri)
        };
        Self::connect_as(uri, quick).await
    }

    /// With times of one's own.
    ///
    /// # Errors
    /// When no relay answers.
    pub async fn connect_as(uri: Uri, config: Config) -> Result<Self> {
        let signer: Arc<dyn Signer> = Arc::new(LocalSigner::new(uri.keys(), Conversations::default()));
        let (sender, incoming) = mpsc::channel(INCOMING);
        let relays = uri.relays.iter().map(|url| RelaySpec { url: url.clone(), wide: false }).collect();
        let pool_config = pool::Config { relays, ..pool::Config::default() };
        let pool = Pool::start(pool_config, Arc::new(OneKey(signer.clone())), None, sender);
        pool.stand("nwc", Client::filter(uri.wallet, signer.public_key(), clock() / 1000));
        ensure!(pool.ready(1, DEADLINE).await > 0, "no connection to {:?}", uri.relays);
        let (answers, events) = mpsc::channel(INCOMING);
        let port = Arc::new(pool.clone());
        let ports = Ports { signer, publish: port.clone(), subscribe: port, clock };
        let client = Client::start(config, ports, events, watch::Sender::new(true).subscribe());
        let _answers = AbortOnDropHandle::new(tokio::spawn(hand_on(incoming, answers)));
        Ok(Self { client, uri, pool, _answers })
    }

    /// With the connection in a file.
    ///
    /// # Errors
    /// When there is none, or no relay answers.
    pub async fn of_file(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        Self::connect(text.parse()?).await
    }

    /// The connection.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Sends any method with any parameters, as they are.
    ///
    /// # Errors
    /// When the wallet says nothing, or something else than a result.
    pub async fn ask(&self, method: &str, params: Value) -> Result<Value> {
        self.client.admin(method, params.clone()).await.with_context(|| format!("{method} {params}"))
    }

    /// The same where it is to be refused.
    ///
    /// # Errors
    /// When it is not, or there is no answer.
    pub async fn refused(&self, method: &str, params: Value) -> Result<Refusal> {
        match self.client.admin(method, params.clone()).await {
            Err(CallError::Refused(error)) => Ok(Refusal { code: error.code, message: error.message }),
            other => bail!("{method} {params} is to be refused: {other:?}"),
        }
    }

    /// What the wallet says that there is, in msat.
    ///
    /// # Errors
    /// When it does not.
    pub async fn balance(&self) -> Result<u64> {
        Ok(self.client.balance().await?.get())
    }

    /// Leaves the relays.
    pub async fn leave(self) {
        self.pool.shutdown().await;
    }
}

impl Refusal {
    /// Checks code and words.
    ///
    /// # Errors
    /// When it is another refusal.
    pub fn is(&self, code: ErrorCode, words: &str) -> Result<()> {
        ensure!(
            self.code == code && self.message.contains(words),
            "{code} with {words:?} is wanted: {self:?}"
        );
        Ok(())
    }
}
