//! How the wallet is reached: over relays that the pool holds for it, as its customer and under the customer's key.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use oa_nips::nostr::{Event, PublicKey};
use oa_nips::port::Signer;
use oa_wallet::backend::PaymentHash;
use oa_wallet::msat::Msat;
use oa_wallet::nwc::client::{Client, Config, Outcome, Ports, Prepared};
use oa_wallet::nwc::message::{InvoiceOrder, Notification, PayOrder, Topic, Transaction, WalletInfo};
use oa_wallet::nwc::uri::Uri;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::bank::{Answer, Bank};
use crate::drivers::nostr::{Incoming, OneKey, Pool};
use crate::signer::{Conversations, LocalSigner};
use crate::time::{System, Time as _};

/// Events from the wallet's relays that wait to be looked at; while they are full the relays wait.
const INCOMING: usize = 256;

/// A connection by Nostr Wallet Connect.
#[derive(Debug)]
pub(super) struct Nwc {
    client: Client,
    /// Its key, and the wallet's.
    ends: (PublicKey, PublicKey),
    listening: watch::Receiver<bool>,
    _events: AbortOnDropHandle<()>,
}

impl Nwc {
    /// Begins to connect.
    pub(super) fn connect(uri: &Uri, pool: &Pool) -> Self {
        let signer: Arc<dyn Signer> = Arc::new(LocalSigner::new(uri.keys(), Conversations::default()));
        let ends = (signer.public_key(), uri.wallet);
        let filter = Client::filter(uri.wallet, signer.public_key(), System.now_ms() / 1000);
        let (sender, incoming) = mpsc::channel(INCOMING);
        let held = Arc::new(pool.hold(&uri.relays, Arc::new(OneKey(signer.clone())), filter, sender));
        let listening = held.listening();
        let (answers, events) = mpsc::channel(INCOMING);
        let ports = Ports { signer, publish: held.clone(), subscribe: held, clock: || System.now_ms() };
        let client = Client::start(Config::new(uri), ports, events, listening.clone());
        let _events = AbortOnDropHandle::new(tokio::spawn(hand_on(incoming, answers)));
        Self { client, ends, listening, _events }
    }
}

async fn hand_on(mut incoming: mpsc::Receiver<Incoming>, answers: mpsc::Sender<Event>) {
    while let Some(next) = incoming.recv().await {
        match next {
            Incoming::Event { event, .. } => {
                if answers.send(*event).await.is_err() {
                    return;
                }
            }
            Incoming::Up { relay } => tracing::info!(%relay, "the wallet's relay is there"),
            Incoming::Down { relay, reason } => tracing::warn!(%relay, reason, "the wallet's relay is away"),
            Incoming::Sweep(_) => {}
        }
    }
}

impl Bank for Nwc {
    fn listening(&self) -> watch::Receiver<bool> {
        self.listening.clone()
    }

    fn notifies(&self) -> bool {
        let received = Topic::PaymentReceived.as_str();
        self.client.announced().is_some_and(|info| info.notifications.iter().any(|topic| topic == received))
    }

    fn notifications(&self) -> broadcast::Receiver<Notification> {
        self.client.notifications()
    }

    fn info(&self) -> Answer<'_, WalletInfo> {
        Box::pin(self.client.info())
    }

    fn balance(&self) -> Answer<'_, Msat> {
        Box::pin(self.client.balance())
    }

    fn make_invoice(&self, order: InvoiceOrder) -> Answer<'_, Transaction> {
        Box::pin(self.client.make_invoice(order))
    }

    fn look_up(&self, hash: PaymentHash) -> Answer<'_, Option<Transaction>> {
        Box::pin(self.client.look_up(hash))
    }

    fn prepare(&self, order: PayOrder) -> Answer<'_, Prepared> {
        Box::pin(self.client.prepare(order))
    }

    fn has_ordered(&self, prepared: &Prepared) -> bool {
        let read = oa_nips::nwc::Request::read(&prepared.event);
        read.is_ok_and(|request| (request.client, request.wallet) == self.ends)
    }

    fn perform<'a>(&'a self, prepared: &'a Prepared) -> BoxFuture<'a, Outcome> {
        Box::pin(self.client.perform(prepared))
    }

    fn resolve<'a>(&'a self, prepared: &'a Prepared) -> BoxFuture<'a, Outcome> {
        Box::pin(self.client.resolve(prepared))
    }
}
