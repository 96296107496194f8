//! The way to a wallet over relays of its own, for whoever has no pool that could hold them: its connections end with it.

use std::sync::Arc;
use std::time::Duration;

use oa_nips::port::Signer;
use oa_wallet::nwc::client::{Client, Config, Ports};
use oa_wallet::nwc::uri::Uri;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::nostr::{self, OneKey, Pool, hand_on};
use crate::signer::{Conversations, LocalSigner};
use crate::time::{System, Time as _};

/// Answers that wait to be looked at; while they are full the relays wait.
const INCOMING: usize = 256;

/// A wallet that is spoken to. Dropping it leaves.
#[derive(Debug)]
pub struct Line {
    /// What the wallet is spoken to with.
    pub client: Client,
    pool: Pool,
    _answers: AbortOnDropHandle<()>,
}

/// None of a wallet's relays answered in time.
#[derive(Debug, thiserror::Error)]
#[error("no connection to the wallet's relay")]
pub struct NoRelay;

impl Line {
    /// Connects by a URI, to one of its relays at least.
    ///
    /// # Errors
    /// When none is there `within` that time.
    pub async fn dial(uri: &Uri, config: Config, within: Duration) -> Result<Self, NoRelay> {
        let signer: Arc<dyn Signer> = Arc::new(LocalSigner::new(uri.keys(), Conversations::default()));
        let (sender, incoming) = mpsc::channel(INCOMING);
        let keyring = Arc::new(OneKey(signer.clone()));
        let pool = Pool::start(nostr::Config::client(&uri.relays), keyring, None, sender);
        pool.stand("nwc", Client::filter(uri.wallet, signer.public_key(), System.now_ms() / 1000));
        if pool.ready(1, within).await == 0 {
            return Err(NoRelay);
        }
        let (answers, events) = mpsc::channel(INCOMING);
        let port = Arc::new(pool.clone());
        let ports = Ports { signer, publish: port.clone(), subscribe: port, clock: || System.now_ms() };
        let client = Client::start(config, ports, events, watch::Sender::new(true).subscribe());
        let _answers = AbortOnDropHandle::new(tokio::spawn(hand_on(incoming, answers)));
        Ok(Self { client, pool, _answers })
    }

    /// Leaves the relays, and waits until that is done.
    pub async fn hang_up(self) {
        self.pool.shutdown().await;
    }
}
