//! Real money: a Lightning node, on ldk-node.
//!
//! [`Ldk::start`] runs it in the runtime it is called in, which has to be a multi-threaded one. It ends with
//! [`Backend::stop`], and should: a node that is killed in the middle of a payment may lose its channel to a forced
//! close, because LDK writes its channels' state and its own one after the other. So a process that holds one is
//! stopped with a signal it handles, and never aborts on a panic.
//!
//! LDK's calls block, on disk or on peers; here they run on threads that may. Its payments are sent one after the
//! other, so that no route is chosen on a balance that another payment is just taking, and so that the reader of
//! events never overtakes the store of payments.

mod channels;
mod config;
mod convert;
mod events;
mod keep;
mod log;
mod outcome;
mod pay;
mod receive;
mod seed;
mod start;
mod traces;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ldk_node::lightning::offers::offer::OfferId;
use ldk_node::{Node, NodeError};
use tokio::task::{JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;

pub use config::{ChainSource, Config, Lsp, Password, SyncRate};
pub use seed::{Seed, SeedError};
pub use start::StartError;

use super::{
    Answer, Backend, Backup, Balance, Channel, ChannelId, Close, Delivery, Error, EventId, Filter, Info,
    Invoice, InvoiceRequest, Keysend, Network, NodeId, Payment, PaymentHash, Peer, Preimage, Sat,
};
use crate::msat::Msat;
use events::Cursor;
use outcome::Outcomes;

/// How long a stop waits for calls that are being answered.
const CALLS_END_WITHIN: Duration = Duration::from_secs(10);

/// A running Lightning node.
pub struct Ldk {
    network: Network,
    node_id: NodeId,
    dir: PathBuf,
    lsp: Option<Lsp>,
    /// Gone once stopped.
    running: Mutex<Option<Arc<Running>>>,
    /// Held while a payment is sent and until LDK has written it down.
    sending: Arc<tokio::sync::Mutex<()>>,
    outcomes: Arc<Mutex<Outcomes>>,
    cursor: Mutex<Cursor>,
    /// Hashes of payments that were seen waiting for us, and the heights at which they go back.
    held: Mutex<HashMap<PaymentHash, Option<u32>>>,
    /// Offers made in this run.
    offers: Mutex<VecDeque<OfferId>>,
    stop: CancellationToken,
    keepers: Mutex<JoinSet<()>>,
}

/// The node and the lock of its folder: they go together, with the last call.
struct Running {
    node: Node,
    /// Of LDK's state when it was started.
    traces: traces::Traces,
    _lock: File,
}

impl fmt::Debug for Ldk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ldk")
            .field("network", &self.network)
            .field("node_id", &self.node_id)
            .finish_non_exhaustive()
    }
}

impl Ldk {
    /// Starts the node of `config.dir`, or sets one up there, and begins to reach for the peers of its channels.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub async fn start(config: Config, seed: &Seed) -> Result<Self, StartError> {
        let running = Arc::new(start::start(&config, seed).await?);
        let stop = CancellationToken::new();
        let keepers = keep::spawn(&running, config.sync, &stop);
        Ok(Self {
            network: config.network,
            node_id: running.node.node_id().into(),
            dir: config.dir,
            lsp: config.lsp,
            running: Mutex::new(Some(running)),
            sending: Arc::default(),
            outcomes: Arc::default(),
            cursor: Mutex::default(),
            held: Mutex::default(),
            offers: Mutex::default(),
            stop,
            keepers: Mutex::new(keepers),
        })
    }

    /// Its key.
    pub fn id(&self) -> NodeId {
        self.node_id
    }

    fn running(&self) -> Result<Arc<Running>, Error> {
        lock(&self.running).clone().ok_or_else(stopped)
    }

    /// Calls LDK on a thread that may block.
    async fn ask<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Node) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let running = self.running()?;
        let answer = spawn_blocking(move || call(&running.node)).await;
        answer.unwrap_or_else(|error| Err(Error::Other(format!("the node failed: {error}"))))
    }

    async fn info_now(&self) -> Result<Info, Error> {
        let (network, node_id) = (self.network, self.node_id);
        self.ask(move |node| {
            let best = node.status().current_best_block;
            Ok(Info {
                network,
                alias: node.node_alias().map(|alias| alias.to_string()).unwrap_or_default(),
                node_id,
                block_height: best.height,
                block_hash: best.block_hash.to_string(),
                addresses: node.announcement_addresses().iter().flatten().map(ToString::to_string).collect(),
                play_money: false,
            })
        })
        .await
    }

    async fn wait_for(&self, hash: PaymentHash, deadline: Duration) -> Result<Payment, Error> {
        let until = Instant::now().checked_add(deadline);
        let id = pay::find(&*self.running()?, &self.outcomes, hash).ok_or(Error::NotFound)?.id;
        let mut pause = Duration::from_millis(2);
        loop {
            let payment = pay::find(&*self.running()?, &self.outcomes, id).ok_or(Error::NotFound)?;
            if payment.is_final() || until.is_some_and(|until| Instant::now() >= until) {
                return Ok(payment);
            }
            // LDK tells of ends in events, and those belong to their reader; the store is in memory and can be asked.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    async fn stop_now(&self) -> Result<(), Error> {
        let Some(running) = lock(&self.running).take() else { return Ok(()) };
        self.stop.cancel();
        let mut keepers = std::mem::take(&mut *lock(&self.keepers));
        while keepers.join_next().await.is_some() {}
        let stopped = spawn_blocking(move || {
            let stopped = running.node.stop();
            let until = Instant::now() + CALLS_END_WITHIN;
            while Arc::strong_count(&running) > 1 && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
            }
            stopped
        });
        match stopped.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(convert::error(error, Msat::ZERO)),
            Err(error) => Err(Error::Other(format!("the node failed: {error}"))),
        }
    }
}

impl Backend for Ldk {
    fn info(&self) -> Answer<'_, Info> {
        Box::pin(self.info_now())
    }

    fn balance(&self) -> Answer<'_, Balance> {
        Box::pin(self.ask(|node| Ok(channels::balance(node))))
    }

    fn invoice(&self, request: InvoiceRequest) -> Answer<'_, Invoice> {
        Box::pin(self.make_invoice(request))
    }

    fn hold_invoice(&self, hash: PaymentHash, request: InvoiceRequest) -> Answer<'_, Invoice> {
        Box::pin(self.make_hold_invoice(hash, request))
    }

    fn settle(&self, preimage: Preimage) -> Answer<'_, ()> {
        Box::pin(self.settle_held(preimage))
    }

    fn cancel(&self, hash: PaymentHash) -> Answer<'_, ()> {
        Box::pin(self.cancel_held(hash))
    }

    fn pay<'a>(&'a self, bolt11: &'a str, amount: Option<Msat>, fee_max: Msat) -> Answer<'a, Payment> {
        Box::pin(self.send_bolt11(bolt11, amount, fee_max))
    }

    fn keysend(&self, keysend: Keysend) -> Answer<'_, Payment> {
        Box::pin(self.send_keysend(keysend))
    }

    fn offer<'a>(&'a self, amount: Option<Msat>, description: &'a str) -> Answer<'a, String> {
        Box::pin(self.make_offer(amount, description))
    }

    fn pay_offer<'a>(
        &'a self,
        offer: &'a str,
        amount: Option<Msat>,
        note: Option<&'a str>,
        fee_max: Msat,
    ) -> Answer<'a, Payment> {
        Box::pin(self.send_to_offer(offer, amount, note, fee_max))
    }

    fn look_up(&self, hash: PaymentHash) -> Answer<'_, Option<Payment>> {
        Box::pin(async move {
            let running = self.running()?;
            let found = pay::find(&running, &self.outcomes, hash);
            Ok(found.or_else(|| pay::begun_before(&running, &self.outcomes, hash)))
        })
    }

    fn wait(&self, hash: PaymentHash, deadline: Duration) -> Answer<'_, Payment> {
        Box::pin(self.wait_for(hash, deadline))
    }

    fn list(&self, filter: Filter) -> Answer<'_, Vec<Payment>> {
        let outcomes = Arc::clone(&self.outcomes);
        Box::pin(self.ask(move |node| {
            let all = node.list_payments();
            let outcomes = lock(&outcomes);
            let payments =
                all.iter().map(|details| convert::payment(details, outcomes.of(&convert::id(details.id))));
            Ok(filter.page(payments.collect()))
        }))
    }

    fn next_event(&self) -> Answer<'_, Delivery> {
        Box::pin(self.oldest_event())
    }

    fn acknowledge(&self, id: EventId) -> Answer<'_, ()> {
        Box::pin(self.event_is_safe(id))
    }

    fn address(&self) -> Answer<'_, String> {
        Box::pin(self.ask(|node| {
            let address = node.onchain_payment().new_address();
            address.map(|address| address.to_string()).map_err(|error| convert::error(error, Msat::ZERO))
        }))
    }

    fn send_onchain<'a>(&'a self, address: &'a str, amount: Option<Sat>) -> Answer<'a, String> {
        Box::pin(self.send_coins(address, amount))
    }

    fn channels(&self) -> Answer<'_, Vec<Channel>> {
        Box::pin(self.ask(|node| Ok(channels::list(node))))
    }

    fn open_channel<'a>(
        &'a self,
        peer: NodeId,
        address: &'a str,
        amount: Sat,
        push: Msat,
    ) -> Answer<'a, ChannelId> {
        Box::pin(self.open(peer, address, amount, push))
    }

    fn close_channel(&self, id: ChannelId, how: Close) -> Answer<'_, ()> {
        Box::pin(self.close(id, how))
    }

    fn peers(&self) -> Answer<'_, Vec<Peer>> {
        Box::pin(self.ask(|node| Ok(channels::peers(node))))
    }

    fn backup<'a>(&'a self, file: &'a Path) -> Answer<'a, Backup> {
        Box::pin(self.copy_to(file))
    }

    fn sync(&self) -> Answer<'_, ()> {
        // One that is going on is waited for and not begun again, and may have begun before the newest block: what
        // comes after it has not.
        // A first one that timed out tells nothing of the second: two threads that ask an Electrum server at once can
        // leave an answer unread (electrum-client 0.24 wakes one before the other lets go), which the next call reads.
        Box::pin(self.ask(|node| {
            let synced = match node.sync_wallets() {
                Ok(())
                | Err(
                    NodeError::WalletOperationTimeout
                    | NodeError::TxSyncTimeout
                    | NodeError::FeerateEstimationUpdateTimeout,
                ) => node.sync_wallets(),
                Err(error) => Err(error),
            };
            synced.map_err(|error| convert::error(error, Msat::ZERO))
        }))
    }

    fn stop(&self) -> Answer<'_, ()> {
        Box::pin(self.stop_now())
    }
}

fn stopped() -> Error {
    Error::Unavailable("stopped".to_owned())
}

/// Nothing here panics while it holds a lock, so what a poisoned one guards is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Time since the epoch.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
