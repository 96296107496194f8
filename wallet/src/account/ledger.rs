//! The ledger in rows: reads what a posting needs, appends it, and keeps what is derived beside it.
//!
//! It works on a [`Draft`], so that several postings, a budget and a tick can land as one transaction; nothing is
//! kept in memory between drafts, so a crash has nothing to lose. Every posting changes the row of the book, so two
//! drafts made side by side cannot both land.

use oa_nips::hex::Hash;
use serde::{Deserialize, Serialize};

use super::balances::{ApplyError, Balances, Book, ReplayError, Standing};
use super::payment::{Invoice, InvoiceState, Payment};
use super::posting::{Against, Change, Posting, Refused, What};
use super::{Asset, Holder};
use crate::msat::Msat;
use crate::store::{Draft, StoreError};

/// Sequence number → [`Entry`]; append-only.
pub(super) const LEDGER: &str = "wallet.ledger";
/// Posting id → sequence number.
pub(super) const IDS: &str = "wallet.ids";
/// [`BOOK_KEY`] → [`BookRow`].
pub(super) const BOOK: &str = "wallet.book";
/// Holder → [`Standing`].
pub(super) const HOLDERS: &str = "wallet.holders";
/// Payment hash → [`Payment`].
pub(super) const PAYMENTS: &str = "wallet.payments";
/// Payment hash of payments that are not over → their holder.
pub(super) const OPEN: &str = "wallet.open";
/// Payment hash → [`Invoice`].
pub(super) const INVOICES: &str = "wallet.invoices";
/// Holder and inverted sequence number → sequence number: the newest first.
pub(super) const HISTORY: &str = "wallet.history";

/// The one row of [`BOOK`].
pub(super) const BOOK_KEY: &str = "book";

/// Longest id a caller may give, in bytes.
pub(super) const ID_BYTES_MAX: usize = 200;

/// The head of the ledger: what every posting changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct BookRow {
    /// Sequence number of the next posting.
    pub(super) next: u64,
    pub(super) book: Book,
}

/// A posting in its place in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place, from 0.
    pub seq: u64,
    /// By which it is known: the same id is the same posting.
    pub id: String,
    /// When it was made, in milliseconds since 1970.
    pub at_ms: u64,
    pub posting: Posting,
}

/// What became of a posting.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Posted {
    /// It is in the draft.
    New(Entry),
    /// It was in the ledger already.
    Known(Entry),
}

impl Posted {
    /// The entry, new or not.
    pub fn entry(&self) -> &Entry {
        match self {
            Self::New(entry) | Self::Known(entry) => entry,
        }
    }
}

/// Why nothing was posted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// The rules of the house say no.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The id is that of another posting.
    #[error("`{0}` is the id of another posting")]
    Conflict(String),
    /// An id that is empty or too long.
    #[error("an id of {0} bytes: 1 to {ID_BYTES_MAX} are possible")]
    BadId(usize),
    /// The rows are damaged.
    #[error("the ledger is damaged: {0}")]
    Damaged(#[from] ApplyError),
    /// The draft is to be dropped.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an invoice was not noted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvoiceError {
    /// Its payment hash is another invoice's.
    #[error("payment hash {0} is another invoice's")]
    Taken(Hash),
    /// The draft is to be dropped.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The ledger, on a draft. Money that goes out by Lightning is in `outgoing`.
#[derive(Debug)]
pub struct Ledger<'d, 'r> {
    pub(super) draft: &'d mut Draft<'r>,
}

impl<'d, 'r> Ledger<'d, 'r> {
    /// The ledger as `draft` sees it.
    pub fn new(draft: &'d mut Draft<'r>) -> Self {
        Self { draft }
    }

    /// Balances after `postings`, from nothing.
    ///
    /// # Errors
    /// At the first posting that breaks a rule.
    pub fn replay<'a>(postings: impl IntoIterator<Item = &'a Posting>) -> Result<Balances, ReplayError> {
        Balances::replay(postings)
    }

    /// A holder's accounts.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn standing(&mut self, holder: &Holder) -> Result<Standing, StoreError> {
        Ok(self.draft.get(HOLDERS, holder.as_str())?.unwrap_or_default())
    }

    /// What is nobody's, and the sums over all holders.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn book(&mut self) -> Result<Book, StoreError> {
        Ok(self.head()?.book)
    }

    /// How many postings there are.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn length(&mut self) -> Result<u64, StoreError> {
        Ok(self.head()?.next)
    }

    /// The last attempt at a payment.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn payment(&mut self, payment: &Hash) -> Result<Option<Payment>, StoreError> {
        self.draft.get(PAYMENTS, &payment.to_string())
    }

    /// The invoice of that payment hash.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn invoice(&mut self, payment: &Hash) -> Result<Option<Invoice>, StoreError> {
        self.draft.get(INVOICES, &payment.to_string())
    }

    /// Notes whose invoice it is, before anybody can see it. The same again changes nothing.
    ///
    /// # Errors
    /// [`InvoiceError::Taken`] where there is another of that payment hash, or a payment of it came in before.
    pub fn note_invoice(
        &mut self,
        payment: &Hash,
        holder: &Holder,
        amount: Option<Msat>,
        made_ms: u64,
        expires_ms: u64,
    ) -> Result<(), InvoiceError> {
        let state = InvoiceState::Open;
        let invoice = Invoice { holder: holder.clone(), amount, made_ms, expires_ms, state };
        match self.invoice(payment)? {
            // Too late: what came in under it has been attributed.
            None if self.draft.has(IDS, &income_id(payment))? => Err(InvoiceError::Taken(*payment)),
            None => Ok(self.draft.put(INVOICES, &payment.to_string(), &invoice)?),
            Some(known) if Invoice { state, ..known.clone() } == invoice => Ok(()),
            Some(_) => Err(InvoiceError::Taken(*payment)),
        }
    }

    /// A payment came in: it is whose invoice it was, and the operator's where nobody asked for it.
    ///
    /// # Errors
    /// [`PostError::Conflict`] where it came in before with another amount.
    pub fn paid_in(&mut self, payment: &Hash, amount: Msat, at_ms: u64) -> Result<Posted, PostError> {
        let id = income_id(payment);
        if let Some(entry) = self.entry(&id)? {
            return match entry.posting.what() {
                What::PaidIn { amount: known, .. } if *known == amount => Ok(Posted::Known(entry)),
                _ => Err(PostError::Conflict(id)),
            };
        }
        let invoice = self.invoice(payment)?;
        let to = invoice.as_ref().map_or_else(Holder::operator, |invoice| invoice.holder.clone());
        let what = What::PaidIn { payment: *payment, to: to.clone(), amount };
        let make = |balances: &Balances| Posting::paid_in(balances, *payment, &to, amount);
        let posted = self.post(id, what, &[&to], at_ms, make)?;
        if let Some(invoice) = invoice {
            self.mark_paid(payment, invoice, amount, at_ms)?;
        }
        Ok(posted)
    }

    /// From one holder to another, once for each `id` of the caller's.
    ///
    /// # Errors
    /// [`PostError`]
    pub fn transfer(
        &mut self,
        id: &str,
        from: &Holder,
        to: &Holder,
        amount: Msat,
        at_ms: u64,
    ) -> Result<Posted, PostError> {
        let what = What::Transferred { from: from.clone(), to: to.clone(), amount };
        let make = |balances: &Balances| Posting::transfer(balances, from, to, amount);
        self.post(callers(id)?, what, &[from, to], at_ms, make)
    }

    /// What the wallet had when the ledger began; it belongs to the house until it is allotted.
    ///
    /// # Errors
    /// [`PostError`]
    pub fn opening(&mut self, id: &str, asset: Asset, amount: Msat, at_ms: u64) -> Result<Posted, PostError> {
        let what = What::Opened { asset, amount };
        self.post(callers(id)?, what, &[], at_ms, |_| Posting::opening(asset, amount))
    }

    /// The house gives a holder of its own: how the operator's account gets what the wallet had.
    ///
    /// # Errors
    /// [`PostError`]
    pub fn allot(&mut self, id: &str, to: &Holder, amount: Msat, at_ms: u64) -> Result<Posted, PostError> {
        let what = What::Allotted { to: to.clone(), amount };
        self.post(callers(id)?, what, &[to], at_ms, |balances| Posting::allot(balances, to, amount))
    }

    /// A holder gives to the house.
    ///
    /// # Errors
    /// [`PostError`]
    pub fn withdraw(
        &mut self,
        id: &str,
        from: &Holder,
        amount: Msat,
        at_ms: u64,
    ) -> Result<Posted, PostError> {
        let what = What::Withdrawn { from: from.clone(), amount };
        self.post(callers(id)?, what, &[from], at_ms, |balances| Posting::withdraw(balances, from, amount))
    }

    /// The wallet has more or less than the ledger said.
    ///
    /// # Errors
    /// [`PostError`]
    pub fn adjust(
        &mut self,
        id: &str,
        asset: Asset,
        change: Change,
        against: Against,
        amount: Msat,
        at_ms: u64,
    ) -> Result<Posted, PostError> {
        let what = What::Adjusted { asset, change, against, amount };
        let make = |balances: &Balances| Posting::adjust(balances, asset, change, against, amount);
        self.post(callers(id)?, what, &[], at_ms, make)
    }

    /// The wallet moved `amount` of its own, and paid `fee` on top: a channel opened or closed.
    ///
    /// # Errors
    /// [`PostError`]
    pub fn moved(
        &mut self,
        id: &str,
        from: Asset,
        to: Asset,
        amount: Msat,
        fee: Msat,
        at_ms: u64,
    ) -> Result<Posted, PostError> {
        let what = What::Moved { from, to, amount, fee };
        let make = |balances: &Balances| Posting::moved(balances, from, to, amount, fee);
        self.post(callers(id)?, what, &[], at_ms, make)
    }

    pub(super) fn mark_paid(
        &mut self,
        payment: &Hash,
        invoice: Invoice,
        amount: Msat,
        at_ms: u64,
    ) -> Result<(), StoreError> {
        let paid = Invoice { state: InvoiceState::Paid { amount, at_ms }, ..invoice };
        self.draft.put(INVOICES, &payment.to_string(), &paid)
    }

    pub(super) fn head(&mut self) -> Result<BookRow, StoreError> {
        Ok(self.draft.get(BOOK, BOOK_KEY)?.unwrap_or_default())
    }

    /// The entry of an id, if there is one.
    pub(super) fn entry(&mut self, id: &str) -> Result<Option<Entry>, StoreError> {
        let Some(seq) = self.draft.get::<u64>(IDS, id)? else { return Ok(None) };
        let entry = self.draft.get(LEDGER, &seq_key(seq))?;
        let missing = || StoreError::Corrupt {
            place: format!("row {IDS} {id}"),
            detail: "its posting is missing".to_owned(),
        };
        entry.map(Some).ok_or_else(missing)
    }

    /// Appends a posting that `make` builds from the balances of `holders`, unless its id is there already. Nothing is
    /// staged before every rule has been asked.
    pub(super) fn post(
        &mut self,
        id: String,
        what: What,
        holders: &[&Holder],
        at_ms: u64,
        make: impl FnOnce(&Balances) -> Result<Posting, Refused>,
    ) -> Result<Posted, PostError> {
        if let Some(entry) = self.entry(&id)? {
            let is_same = *entry.posting.what() == what;
            return if is_same { Ok(Posted::Known(entry)) } else { Err(PostError::Conflict(id)) };
        }
        let BookRow { next: seq, book } = self.head()?;
        let mut standings = Vec::with_capacity(holders.len());
        for holder in holders {
            standings.push(((*holder).clone(), self.standing(holder)?));
        }
        let mut balances = Balances::new(book, standings);
        let posting = make(&balances)?;
        debug_assert_eq!(*posting.what(), what, "what is compared is what is kept");
        balances.apply(&posting)?;

        let entry = Entry { seq, id, at_ms, posting };
        self.draft.put(LEDGER, &seq_key(seq), &entry)?;
        self.draft.put(IDS, &entry.id, &seq)?;
        self.draft.put(BOOK, BOOK_KEY, &BookRow { next: seq + 1, book: *balances.book() })?;
        for (holder, standing) in balances.holders() {
            self.draft.put(HOLDERS, holder.as_str(), standing)?;
            self.draft.put(HISTORY, &history_key(holder, seq), &seq)?;
        }
        Ok(Posted::New(entry))
    }
}

/// An id of the caller's: apart from those of payments.
fn callers(id: &str) -> Result<String, PostError> {
    if (1..=ID_BYTES_MAX).contains(&id.len()) {
        Ok(format!("by/{id}"))
    } else {
        Err(PostError::BadId(id.len()))
    }
}

/// The id of what came in by a payment.
fn income_id(payment: &Hash) -> String {
    format!("in/{payment}")
}

/// Sequence numbers in the order of their bytes.
pub(super) fn seq_key(seq: u64) -> String {
    format!("{seq:016x}")
}

/// A holder's postings, the newest first.
pub(super) fn history_key(holder: &Holder, seq: u64) -> String {
    format!("{holder}/{:016x}", !seq)
}
