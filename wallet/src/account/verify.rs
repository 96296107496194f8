//! Comparing what is derived with what was posted: the whole ledger, read and replayed.
//!
//! The replay starts from nothing and trusts no row but the postings, whose legs it checks once more. It reads
//! everything, so it is for starts, for `doctor` and for tests; nothing may be written meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};

use oa_nips::hex::Hash;
use serde::de::DeserializeOwned;

use super::balances::{ApplyError, Balances, Standing};
use super::ledger::{BOOK, BOOK_KEY, BookRow, Entry, HISTORY, HOLDERS, IDS, OPEN, PAYMENTS, history_key};
use super::payment::{Payment, PaymentState};
use super::posting::What;
use super::{Holder, read};
use crate::msat::Msat;
use crate::store::draft::decode;
use crate::store::{Keyed, Rows, StoreError};

/// Rows read at once.
const PAGE: usize = 512;
/// Differences that are told; the first ones say what is wrong.
const DIFFERENCES_MAX: usize = 20;

/// A ledger whose rows are what its postings say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// How many postings there are.
    pub postings: u64,
    /// What they come to.
    pub balances: Balances,
    /// How many payments are not over.
    pub open_payments: usize,
}

/// A row that is not what the postings say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which row, as `space key`.
    pub row: String,
    /// What is there, and what a replay comes to.
    pub kept: String,
    pub replayed: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, and a replay comes to {}", self.row, self.kept, self.replayed)
    }
}

/// Why a ledger is not to be relied on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A posting breaks a rule.
    #[error("posting {seq}: {source}")]
    Broken { seq: u64, source: ApplyError },
    /// A posting is missing from the row of numbers.
    #[error("posting {0} is missing")]
    Missing(u64),
    /// Rows are not what the postings say; the first of them.
    #[error("{} rows differ from a replay; first: {}", .0.len(), .0.first().map_or_else(String::new, ToString::to_string))]
    Differs(Vec<Difference>),
    /// The rows cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads the whole ledger and compares every derived row with a replay of the postings.
///
/// # Errors
/// [`VerifyError`]
pub fn verify(rows: &dyn Rows) -> Result<Verified, VerifyError> {
    let mut replay = Replay::new(rows);
    loop {
        let page = read::entries(rows, replay.next, PAGE)?;
        for entry in &page {
            replay.add(entry)?;
        }
        if page.len() < PAGE {
            break;
        }
    }
    replay.compare_book()?;
    replay.compare_indices()?;
    replay.compare_holders()?;
    replay.compare_payments()?;
    if replay.differences.is_empty() {
        let open_payments = replay.payments.values().filter(|attempt| attempt.end == End::Open).count();
        Ok(Verified { postings: replay.next, balances: replay.balances, open_payments })
    } else {
        Err(VerifyError::Differs(replay.differences))
    }
}

/// The last attempt at a payment, as its postings tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Attempt {
    holder: Holder,
    amount: Msat,
    fee_reserve: Msat,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Failed,
    /// What was paid, and the fee.
    Settled(Msat, Msat),
}

impl Attempt {
    fn of(row: &Payment) -> Self {
        let end = match row.state {
            PaymentState::Reserved | PaymentState::InFlight | PaymentState::Unknown => End::Open,
            PaymentState::Settled { amount, fee, .. } => End::Settled(amount, fee),
            PaymentState::Failed { .. } => End::Failed,
        };
        Self { holder: row.holder.clone(), amount: row.amount, fee_reserve: row.fee_reserve, end }
    }

    fn held(&self) -> Msat {
        if self.end == End::Open { self.amount.saturating_add(self.fee_reserve) } else { Msat::ZERO }
    }
}

/// What the postings read so far come to.
#[derive(Debug)]
struct Replay<'a> {
    rows: &'a dyn Rows,
    next: u64,
    /// Rows of history so far.
    history: u64,
    balances: Balances,
    payments: BTreeMap<Hash, Attempt>,
    differences: Vec<Difference>,
}

impl<'a> Replay<'a> {
    fn new(rows: &'a dyn Rows) -> Self {
        Self {
            rows,
            next: 0,
            history: 0,
            balances: Balances::default(),
            payments: BTreeMap::new(),
            differences: Vec::new(),
        }
    }

    fn add(&mut self, entry: &Entry) -> Result<(), VerifyError> {
        let seq = self.next;
        if entry.seq != seq {
            return Err(VerifyError::Missing(seq));
        }
        self.balances.apply(&entry.posting).map_err(|source| VerifyError::Broken { seq, source })?;
        self.follow(entry.posting.what());
        self.expect(IDS, &entry.id, Some(&seq))?;
        let holders: BTreeSet<&Holder> =
            entry.posting.legs().iter().filter_map(|leg| leg.account.holder()).collect();
        for holder in holders {
            self.expect(HISTORY, &history_key(holder, seq), Some(&seq))?;
            self.history += 1;
        }
        self.next += 1;
        Ok(())
    }

    /// Follows a payment through its postings.
    fn follow(&mut self, what: &What) {
        match what {
            What::Reserved { payment, from, amount, fee_reserve } => {
                let (amount, fee_reserve) = (*amount, *fee_reserve);
                let attempt = Attempt { holder: from.clone(), amount, fee_reserve, end: End::Open };
                self.payments.insert(*payment, attempt);
            }
            What::PaidInside { payment, from, amount, .. } => {
                let (amount, end) = (*amount, End::Settled(*amount, Msat::ZERO));
                let attempt = Attempt { holder: from.clone(), amount, fee_reserve: Msat::ZERO, end };
                self.payments.insert(*payment, attempt);
            }
            What::Settled { payment, amount, fee, .. } => {
                if let Some(attempt) = self.payments.get_mut(payment) {
                    attempt.end = End::Settled(*amount, *fee);
                }
            }
            What::Released { payment, .. } => {
                if let Some(attempt) = self.payments.get_mut(payment) {
                    attempt.end = End::Failed;
                }
            }
            _ => {}
        }
    }

    fn compare_book(&mut self) -> Result<(), StoreError> {
        let head = BookRow { next: self.next, book: *self.balances.book() };
        self.expect(BOOK, BOOK_KEY, (self.next > 0).then_some(&head))
    }

    /// Each posting was found in its indices; there must be nothing else in them.
    fn compare_indices(&mut self) -> Result<(), StoreError> {
        for (space, expected) in [(IDS, self.next), (HISTORY, self.history)] {
            let mut kept = 0;
            self.each_page(space, |_, page| kept += page.len() as u64)?;
            if kept != expected {
                let (kept, replayed) = (format!("{kept} rows"), format!("{expected}"));
                self.tell(Difference { row: space.to_owned(), kept, replayed });
            }
        }
        Ok(())
    }

    fn compare_holders(&mut self) -> Result<(), StoreError> {
        let replayed: Vec<(Holder, Standing)> =
            self.balances.holders().map(|(holder, standing)| (holder.clone(), *standing)).collect();
        for (holder, standing) in &replayed {
            self.expect(HOLDERS, holder.as_str(), Some(standing))?;
        }
        let mut held: BTreeMap<&Holder, Msat> = BTreeMap::new();
        for attempt in self.payments.values() {
            let sum = held.entry(&attempt.holder).or_default();
            *sum = sum.saturating_add(attempt.held());
        }
        let apart = replayed
            .iter()
            .filter(|(holder, standing)| held.get(holder).copied().unwrap_or_default() != standing.reserved);
        let differences: Vec<Difference> = apart
            .map(|(holder, standing)| Difference {
                row: format!("{HOLDERS} {holder}"),
                kept: format!("{} reserved", standing.reserved),
                replayed: format!("{} held for payments", held.get(holder).copied().unwrap_or_default()),
            })
            .collect();
        differences.into_iter().for_each(|difference| self.tell(difference));
        self.nothing_else(HOLDERS, |replay, key| {
            Holder::new(key).is_ok_and(|holder| replay.balances.knows(&holder))
        })
    }

    fn compare_payments(&mut self) -> Result<(), StoreError> {
        for (hash, attempt) in self.payments.clone() {
            let key = hash.to_string();
            self.expect(OPEN, &key, (attempt.end == End::Open).then_some(&attempt.holder))?;
            let kept = self.read::<Payment>(PAYMENTS, &key)?.map(|row| Attempt::of(&row));
            if kept.as_ref() != Some(&attempt) {
                let (kept, replayed) = (format!("{kept:?}"), format!("{attempt:?}"));
                self.tell(Difference { row: format!("{PAYMENTS} {key}"), kept, replayed });
            }
        }
        let is_known =
            |replay: &Self, key: &str| key.parse().is_ok_and(|hash| replay.payments.contains_key(&hash));
        self.nothing_else(OPEN, is_known)?;
        self.nothing_else(PAYMENTS, is_known)
    }

    /// Compares one row.
    fn expect<T: DeserializeOwned + PartialEq + Debug>(
        &mut self,
        space: &str,
        key: &str,
        expected: Option<&T>,
    ) -> Result<(), StoreError> {
        let kept: Option<T> = self.read(space, key)?;
        if kept.as_ref() != expected {
            let row = format!("{space} {key}");
            self.tell(Difference { row, kept: format!("{kept:?}"), replayed: format!("{expected:?}") });
        }
        Ok(())
    }

    /// Tells of rows that no posting accounts for.
    fn nothing_else(
        &mut self,
        space: &str,
        is_known: impl Fn(&Self, &str) -> bool,
    ) -> Result<(), StoreError> {
        self.each_page(space, |replay, page| {
            let strangers: Vec<&Keyed> = page.iter().filter(|(key, _)| !is_known(replay, key)).collect();
            for (key, _) in strangers {
                let (kept, replayed) = ("there".to_owned(), "nothing".to_owned());
                replay.tell(Difference { row: format!("{space} {key}"), kept, replayed });
            }
        })
    }

    fn each_page(
        &mut self,
        space: &str,
        mut each: impl FnMut(&mut Self, &[Keyed]),
    ) -> Result<(), StoreError> {
        let mut from = String::new();
        loop {
            let page = self.rows.scan(space, &from, PAGE)?;
            each(self, &page);
            match page.last() {
                Some((last, _)) if page.len() == PAGE => from = format!("{last}\0"),
                _ => return Ok(()),
            }
        }
    }

    fn read<T: DeserializeOwned>(&self, space: &str, key: &str) -> Result<Option<T>, StoreError> {
        self.rows.get(space, key)?.map(|row| decode(space, key, &row.value)).transpose()
    }

    fn tell(&mut self, difference: Difference) {
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(difference);
        }
    }
}
