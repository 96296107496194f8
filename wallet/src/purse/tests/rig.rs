//! A bank with two wallets: ours, behind a purse, and somebody else's; and a store whose power can be cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use oa_nips::nostr::EventId;
use oa_nips::port::{Row, RowWrite};
use tokio::sync::mpsc;

use crate::account::{Holder, verify};
use crate::backend::fake::{Bank, Fake};
use crate::backend::{Backend, InvoiceRequest};
use crate::msat::Msat;
use crate::nwc::bill::Bill;
use crate::nwc::message::{InvoiceOrder, Transaction};
use crate::nwc::purse::{Payment, Purse, PurseError, Steer};
use crate::purse::{Config, LedgerPurse, Liquidity, Notice};
use crate::store::{Keyed, MemoryStore, Rows, Store, StoreError, Verdict};

/// For whatever should happen soon.
const SOON: Duration = Duration::from_secs(20);

pub(super) fn clock() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// A store that takes so many commits and then none: what was written stays. And one read of it may fail.
#[derive(Debug)]
pub(super) struct Cut {
    inner: Arc<MemoryStore>,
    left: AtomicUsize,
    /// Reads until one fails.
    reads: AtomicUsize,
}

impl Cut {
    fn read(&self) -> Result<(), StoreError> {
        let before = self.reads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if before == Ok(1) { Err(StoreError::Stopped("the disk has a bad day".to_owned())) } else { Ok(()) }
    }
}

impl Rows for Cut {
    fn get(&self, space: &str, key: &str) -> Result<Option<Row>, StoreError> {
        self.read()?;
        self.inner.get(space, key)
    }

    fn scan(&self, space: &str, from: &str, limit: usize) -> Result<Vec<Keyed>, StoreError> {
        self.read()?;
        self.inner.scan(space, from, limit)
    }
}

impl Store for Cut {
    fn commit(&self, units: &[Vec<RowWrite>]) -> Result<Vec<Verdict>, StoreError> {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_err() {
            return Err(StoreError::Stopped("the power is off".to_owned()));
        }
        self.inner.commit(units)
    }
}

pub(super) struct Rig {
    pub(super) bank: Bank,
    pub(super) ours: Fake,
    pub(super) theirs: Fake,
    pub(super) store: Arc<MemoryStore>,
    pub(super) purse: LedgerPurse,
    pub(super) notices: mpsc::Receiver<Notice>,
    cut: Arc<Cut>,
}

impl Rig {
    /// Ours has 100,000 sat, all the operator's, of which `alice` and `bob` get 10,000 each.
    pub(super) async fn new() -> Self {
        let bank = Bank::new(b"purse");
        bank.set_fee(Msat::new(1_500));
        let ours = bank.open("ours", Msat::from_sat(100_000));
        let theirs = bank.open("theirs", Msat::from_sat(100_000));
        let store = Arc::new(MemoryStore::default());
        let (purse, notices, cut) = open(&ours, &store).await;
        let rig = Self { bank, ours, theirs, store, purse, notices, cut };
        for to in ["alice", "bob"] {
            let params =
                serde_json::json!({ "id": to, "from": "operator", "to": to, "amount_msat": 10_000_000 });
            rig.purse.steer("oa_transfer", params).await.unwrap();
        }
        rig
    }

    /// The power goes after so many more commits.
    pub(super) fn cut_after(&self, commits: usize) {
        self.cut.left.store(commits, Ordering::SeqCst);
    }

    /// The so many-th read from now on fails, once.
    pub(super) fn fail_read(&self, nth: usize) {
        self.cut.reads.store(nth, Ordering::SeqCst);
    }

    /// Whether it went.
    pub(super) fn is_dead(&self) -> bool {
        self.cut.left.load(Ordering::SeqCst) == 0
    }

    /// The process is killed and started again on what is on disk. The bank lives on.
    pub(super) async fn restart(self) -> Self {
        let Self { bank, ours, theirs, store, purse, .. } = self;
        purse.inner.cancel.cancel();
        drop(purse);
        let (purse, notices, cut) = open(&ours, &store).await;
        Self { bank, ours, theirs, store, purse, notices, cut }
    }

    pub(super) async fn balance(&self, name: &str) -> u64 {
        self.purse.balance(&holder(name)).await.unwrap().get()
    }

    /// Somebody else's invoice over so many sat.
    pub(super) async fn bill(&self, sat: u32) -> String {
        let amount = Some(Msat::from_sat(sat));
        let request = InvoiceRequest { amount, description: "tea".to_owned(), expiry_s: 600 };
        self.theirs.invoice(request).await.unwrap().bolt11
    }

    pub(super) async fn pay(
        &self,
        name: &str,
        invoice: &str,
        request: u8,
    ) -> Result<Transaction, PurseError> {
        self.purse.pay(&holder(name), payment(invoice, request)).await
    }

    pub(super) async fn invoice(&self, name: &str, sat: u32, request: u8) -> Result<Transaction, PurseError> {
        let amount = Msat::from_sat(sat);
        let (description, description_hash, expiry, metadata) = (None, None, None, None);
        let order = InvoiceOrder { amount, description, description_hash, expiry, metadata };
        self.purse.make_invoice(&holder(name), order, id(request)).await
    }

    /// Debits equal credits, rows equal a replay, and the ledger has to the millisat what the bank says.
    pub(super) async fn adds_up(&self) {
        let verified = verify(&*self.store).unwrap();
        assert_eq!(verified.open_payments, 0);
        let has = self.ours.balance().await.unwrap().in_channels;
        assert_eq!(verified.balances.book().lightning, has);
    }

    /// Looks until it is so.
    pub(super) async fn until<F: Future<Output = bool>>(&self, mut is_so: impl FnMut() -> F) {
        let deadline = Instant::now() + SOON;
        while !is_so().await {
            assert!(Instant::now() < deadline, "it did not come to be");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn open(ours: &Fake, store: &Arc<MemoryStore>) -> (LedgerPurse, mpsc::Receiver<Notice>, Arc<Cut>) {
    let cut = Arc::new(Cut {
        inner: store.clone(),
        left: AtomicUsize::new(usize::MAX),
        reads: AtomicUsize::new(0),
    });
    let config = Config { liquidity: Liquidity::Own, backups: None };
    let backend: Arc<dyn Backend> = Arc::new(ours.clone());
    let (purse, notices) = LedgerPurse::start(config, backend, cut.clone(), clock).await.unwrap();
    (purse, notices, cut)
}

pub(super) fn holder(name: &str) -> Holder {
    Holder::new(name).unwrap()
}

pub(super) fn id(request: u8) -> EventId {
    EventId::from_byte_array([request; 32])
}

pub(super) fn payment(invoice: &str, request: u8) -> Payment {
    let bill = Bill::read(invoice).unwrap();
    Payment {
        invoice: invoice.to_owned(),
        payment_hash: bill.payment_hash,
        amount: bill.amount.unwrap(),
        max_fee: Msat::from_sat(10),
        metadata: None,
        request: id(request),
    }
}
