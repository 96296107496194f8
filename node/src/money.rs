//! Money: an account for every agent, on top of one connection to one wallet (NWC).
//!
//! The wallet, ours or anybody's, sees one customer. Who of the node has what is this module's: a double-entry ledger
//! ([`oa_wallet::account`]) whose rows are in the node's database, with an account for the operator and one for each
//! agent. The same rules hold for all of it:
//!
//! - **Ledger before network.** What a payment can cost is held back before the wallet hears of it, and its request is
//!   on disk before it goes out. After a crash the same request goes out again, which a wallet obeys once.
//! - **Nothing is guessed.** A payment is over when its preimage or the wallet's look-up says so; until then its
//!   reservation stands. Income counts when a look-up confirms it: a notification is a hint.
//! - **What is between two accounts of this node is a ledger entry**, and the wallet does not hear of it.
//!
//! `bank` is the wallet as it is seen from here, `link` how it is reached; `book` is how rows are written, `item` what
//! is kept of each payment, invoice and transfer; `leave` counts what agents
//! may spend; `pay` begins payments and `course` carries them to their end,
//! unless they are `stranded`;
//! `rate` is what a dollar costs;
//! `income` makes invoices and attributes what comes in; `watch` is the driver that looks after both; `opening`
//! compares the ledger with the wallet. The files are `crate::serve::wallet`'s.

mod accounts;
mod bank;
mod book;
mod cap;
mod course;
mod error;
mod income;
mod item;
mod leave;
mod link;
mod opening;
mod order;
mod pay;
mod rate;
mod stranded;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oa_nips::hex::Hash;
pub use oa_wallet::fx::{FRESH, Rate};
use oa_wallet::msat::Msat;
pub use oa_wallet::nwc::uri::{Uri, UriError};
use tokio::sync::{Notify, watch as signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use accounts::holder;
pub use cap::{Cap, Caps};
pub(crate) use leave::Under;
pub(crate) use order::{Ended, InvoiceAsked, PayAsked, RateAsked, SettleAsked, TransferAsked};
pub(crate) use pay::Payer;
pub use rate::{BadSource, Pricing, Source};
pub(crate) use watch::start;

use self::bank::Bank;
use self::book::Book;
use self::rate::Exchange;
use self::watch::Watched;
use crate::drivers::http::Client;
use crate::drivers::nostr::Pool;
use crate::store::Store;
use crate::time::Time;

/// The wallet of a node.
#[derive(Debug, Clone)]
pub struct Config {
    /// The connection to it. It holds a secret, which `Debug` does not show.
    pub uri: Uri,
    /// What a dollar costs; without it dollars and bitcoin are not changed into each other.
    pub rate: Option<Pricing>,
}

/// The accounts of a node, and the wallet under them. Clones are handles to the same ones.
#[derive(Debug, Clone)]
pub(crate) struct Money {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    book: Book,
    bank: Arc<dyn Bank>,
    time: Arc<dyn Time>,
    exchange: Option<Exchange>,
    pace: Pace,
    /// Payments that a task of this process carries, by the key of their call; the signal ends with the task.
    courses: Mutex<HashMap<Hash, signal::Receiver<()>>>,
    /// Where those tasks are counted, and what ends them.
    tasks: TaskTracker,
    cancel: CancellationToken,
    /// Invoices that wait for their payment.
    watched: Mutex<HashMap<Hash, Watched>>,
    /// What the wallet last said of itself.
    known: Mutex<Known>,
    /// Wakes the driver.
    kick: Notify,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// A call waits for the end of its payment, before it answers that it is pending. 10 s (DESIGN section 4).
    answer_within: Duration,
    /// A payment waits for the wallet's relay before it is not even begun. 5 s.
    listening_within: Duration,
    /// And for what the wallet knows of the invoice already; a wallet that does not say so in time is taken to know
    /// nothing. 3 s.
    known_within: Duration,
    /// Between looks at a payment whose end is not known, at first; then each time twice as long. 10 s,
    again: Duration,
    /// up to this: 5 min.
    again_last: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            answer_within: seconds(10),
            listening_within: seconds(5),
            known_within: seconds(3),
            again: seconds(10),
            again_last: seconds(300),
        }
    }
}

/// What the wallet last said of itself.
#[derive(Debug, Clone, Default)]
struct Known {
    /// `mainnet`, `regtest`…, or what a wallet of play money calls itself.
    network: Option<String>,
    /// What it has for this connection, and when it said so, in milliseconds since 1970.
    balance: Option<(Msat, u64)>,
    /// Why it could not be asked, if so.
    trouble: Option<String>,
}

impl Money {
    /// Connects to the wallet. Payments that were under way wait for [`start`].
    ///
    /// Must be called within a tokio runtime.
    pub(crate) fn connect(
        config: &Config,
        pool: &Pool,
        http: &Arc<Client>,
        store: Store,
        time: Arc<dyn Time>,
    ) -> Self {
        let bank = Arc::new(link::Nwc::connect(&config.uri, pool));
        let exchange = config.rate.as_ref().map(|pricing| Exchange::new(pricing, http.clone()));
        Self::new(bank, exchange, store, time, Pace::default())
    }

    fn new(
        bank: Arc<dyn Bank>,
        exchange: Option<Exchange>,
        store: Store,
        time: Arc<dyn Time>,
        pace: Pace,
    ) -> Self {
        let inner = Inner {
            book: Book::new(store),
            bank,
            time,
            exchange,
            pace,
            courses: Mutex::default(),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
            watched: Mutex::default(),
            known: Mutex::default(),
            kick: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Whether the wallet says that its money is worth nothing.
    pub(crate) fn is_play(&self) -> bool {
        self.known().network.as_deref() == Some(bank::PLAY_MONEY)
    }

    fn now_ms(&self) -> u64 {
        self.inner.time.now_ms()
    }

    fn now_s(&self) -> u64 {
        self.now_ms() / 1000
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.inner.known)
    }
}

/// Each of these holds plain values that are right after every single change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
