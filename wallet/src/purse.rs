//! The wallet behind the service: accounts in the ledger, Lightning in a backend, and the order between the two.
//!
//! **Ledger before network.** What is about to happen is committed first, then the backend is asked, and what it did
//! is committed again; whatever a crash leaves in between is looked up at the next start. A payment hash is paid at
//! most once, by whomever; the same request gives the same result again. What is another holder's is not there.
//!
//! Invoices are made on preimages that are drawn and kept here, and money for them is taken as soon as it arrives: so
//! one account can pay another's invoice in the ledger, with a receipt, and the invoice is closed to the outside then.
//! Where a provider of liquidity must open a channel first, the backend makes the invoice itself.
//!
//! - `send`: payments; `receive`: invoices; `show`: how both look
//! - `keep`: the task that reads the backend's events and compares its balance with the ledger
//! - `steer`: the methods for admin connections, `oa_…`; `offer`: those of offers
//! - `open`: how many invoices may wait; `book`: drafts and commits; `note`: the rows kept beside the ledger's
//!
//! [`LedgerPurse::start`] recovers and starts the task; it ends with [`LedgerPurse::stop`].

mod book;
mod keep;
mod locks;
mod note;
mod offer;
mod open;
mod receive;
mod send;
mod show;
mod steer;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oa_nips::nostr::EventId;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::book::Book;
use self::locks::Locks;
use self::open::Open;
use crate::account::{Holder, Ledger};
use crate::backend::{Backend, PaymentHash, Preimage};
use crate::msat::Msat;
use crate::nwc::Clock;
use crate::nwc::message::{Error, HoldOrder, InvoiceOrder, ListQuery, Notification, Transaction, WalletInfo};
use crate::nwc::purse::{Answer, Keysend, Payment, Purse, PurseError, Steer};
use crate::store::{Store, StoreError};

/// Notices that wait to be told; while it is full, the backend's events wait, and lose nothing by it.
const NOTICES: usize = 256;

/// Something that happened in an account, for [`crate::nwc::service::Service::happened`].
pub type Notice = (Holder, Notification);

/// Who makes invoices that the channels have no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liquidity {
    /// Nobody: such an invoice can be paid from inside only.
    Own,
    /// A provider (LSPS2): the backend makes those invoices, and they cannot be paid from inside.
    Provider,
}

/// How a purse behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who makes invoices that the channels have no room for.
    pub liquidity: Liquidity,
    /// Where copies of the backend's state go; without it there are none.
    pub backups: Option<PathBuf>,
}

/// Why a purse did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the ledger cannot be read")]
    Store(#[from] StoreError),
    #[error("the ledger cannot be trusted")]
    Ledger(#[from] crate::account::VerifyError),
    #[error("the wallet behind the ledger does not answer")]
    Backend(#[from] crate::backend::Error),
    #[error("what was under way cannot be taken up")]
    Recover(#[from] PurseError),
}

/// What all parts share.
struct Inner {
    backend: Arc<dyn Backend>,
    book: Book,
    config: Config,
    clock: Clock,
    locks: Locks,
    open: Open,
    /// When the ledger was last found to have what the backend has, in milliseconds since 1970.
    compared_ms: AtomicU64,
    /// Held from before an offer is paid until the payment's name is written down.
    offers: tokio::sync::Mutex<()>,
    notices: mpsc::Sender<Notice>,
    /// Ends with [`LedgerPurse::stop`].
    cancel: CancellationToken,
    /// What must not be torn off between a commit and the backend's answer.
    tasks: TaskTracker,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("backend", &self.backend).finish_non_exhaustive()
    }
}

/// Accounts over one backend. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct LedgerPurse {
    inner: Arc<Inner>,
}

impl LedgerPurse {
    /// Checks the ledger, looks up every payment that was not over, and begins to read the backend's events. What
    /// the wallet has and nobody here has earned is the operator's.
    ///
    /// The receiver gets what connections are to be told of.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(
        config: Config,
        backend: Arc<dyn Backend>,
        store: Arc<dyn Store>,
        clock: Clock,
    ) -> Result<(Self, mpsc::Receiver<Notice>), StartError> {
        let (notices, told) = mpsc::channel(NOTICES);
        let inner = Arc::new(Inner {
            backend,
            book: Book::new(store),
            config,
            clock,
            locks: Locks::default(),
            open: Open::default(),
            compared_ms: AtomicU64::new(clock()),
            offers: tokio::sync::Mutex::default(),
            notices,
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        inner.recover().await?;
        let keeper = inner.clone();
        inner.tasks.spawn(async move { keeper.keep().await });
        Ok((Self { inner }, told))
    }

    /// Begins nothing more, and waits for what stands between a commit and an answer. The backend goes on; it is to be
    /// stopped next.
    pub async fn stop(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl Inner {
    fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    fn now_s(&self) -> u64 {
        self.now_ms() / 1000
    }

    /// Does something to its end, also when whoever asked goes away.
    async fn whole<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T, PurseError>> + Send + 'static,
    ) -> Result<T, PurseError> {
        if self.cancel.is_cancelled() {
            return Err(PurseError::Unavailable("the wallet is stopping".to_owned()));
        }
        self.tasks.spawn(work).await.unwrap_or_else(|error| {
            tracing::error!(%error, "the purse panicked");
            Err(PurseError::Unknown)
        })
    }

    async fn balance(&self, account: &Holder) -> Result<Msat, PurseError> {
        let account = account.clone();
        self.book.write(move |draft| Ok(Ledger::new(draft).standing(&account)?.available)).await
    }

    async fn info(&self) -> Result<WalletInfo, PurseError> {
        let info = self.backend.info().await.map_err(refusal)?;
        let network = if info.play_money { "play money" } else { info.network.name() };
        Ok(WalletInfo {
            alias: Some(info.alias),
            pubkey: Some(info.node_id.to_string()),
            network: Some(network.to_owned()),
            block_height: Some(info.block_height),
            block_hash: Some(info.block_hash),
            ..WalletInfo::default()
        })
    }
}

impl From<StoreError> for PurseError {
    /// Paths and figures are for the log of this machine.
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the wallet's store failed");
        Self::Unavailable("the wallet's store failed".to_owned())
    }
}

/// A backend's refusal, where nothing is under way.
fn refusal(error: crate::backend::Error) -> PurseError {
    use crate::backend::Error as Backend;
    match error {
        Backend::NotFound => PurseError::NotFound,
        Backend::Unavailable(why) => PurseError::Unavailable(why),
        Backend::InFlight => PurseError::Unknown,
        Backend::NoRoute | Backend::InsufficientBalance { .. } => PurseError::Failed(error.to_string()),
        Backend::Expired
        | Backend::WrongNetwork { .. }
        | Backend::AlreadyPaid
        | Backend::OwnInvoice
        | Backend::Malformed(_)
        | Backend::AmountMissing
        | Backend::AmountMismatch { .. }
        | Backend::NotHeld
        | Backend::Other(_) => PurseError::Refused(error.to_string()),
    }
}

impl Purse for LedgerPurse {
    fn info(&self) -> Answer<'_, WalletInfo> {
        self.inner.info().boxed()
    }

    fn balance<'a>(&'a self, account: &'a Holder) -> Answer<'a, Msat> {
        self.inner.balance(account).boxed()
    }

    fn make_invoice<'a>(
        &'a self,
        account: &'a Holder,
        order: InvoiceOrder,
        request: EventId,
    ) -> Answer<'a, Transaction> {
        let (inner, account) = (self.inner.clone(), account.clone());
        self.inner.whole(async move { inner.make_invoice(account, order, request).await }).boxed()
    }

    fn make_hold_invoice<'a>(
        &'a self,
        account: &'a Holder,
        order: HoldOrder,
        request: EventId,
    ) -> Answer<'a, Transaction> {
        let (inner, account) = (self.inner.clone(), account.clone());
        self.inner.whole(async move { inner.make_hold_invoice(account, order, request).await }).boxed()
    }

    fn settle_hold_invoice<'a>(&'a self, account: &'a Holder, preimage: Preimage) -> Answer<'a, ()> {
        let (inner, account) = (self.inner.clone(), account.clone());
        self.inner.whole(async move { inner.settle_hold(&account, preimage).await }).boxed()
    }

    fn cancel_hold_invoice<'a>(&'a self, account: &'a Holder, hash: PaymentHash) -> Answer<'a, ()> {
        let (inner, account) = (self.inner.clone(), account.clone());
        self.inner.whole(async move { inner.cancel_hold(&account, hash).await }).boxed()
    }

    fn pay<'a>(&'a self, account: &'a Holder, payment: Payment) -> Answer<'a, Transaction> {
        self.inner.pay(account, payment).boxed()
    }

    fn pay_keysend<'a>(&'a self, account: &'a Holder, keysend: Keysend) -> Answer<'a, Transaction> {
        self.inner.pay_keysend(account, keysend).boxed()
    }

    fn look_up<'a>(&'a self, account: &'a Holder, hash: PaymentHash) -> Answer<'a, Option<Transaction>> {
        self.inner.look_up(account, hash).boxed()
    }

    fn list<'a>(&'a self, account: &'a Holder, query: ListQuery) -> Answer<'a, Vec<Transaction>> {
        self.inner.list(account, query).boxed()
    }
}

impl Steer for LedgerPurse {
    fn methods(&self) -> &[&'static str] {
        &steer::METHODS
    }

    fn steer<'a>(&'a self, method: &'a str, params: Value) -> BoxFuture<'a, Result<Value, Error>> {
        self.inner.steer(method, params).boxed()
    }
}

/// What a poisoned lock guards here is whole: nothing panics between two changes.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
