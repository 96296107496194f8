//! What is in each account after some postings: the one place where legs become balances.
//!
//! The same code adds a posting to the rows of those it touches and replays a whole ledger. Beside the balances it
//! keeps totals over all holders, so that debits and credits can be compared after every single posting, without
//! looking at everybody.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Account, Asset, Holder, Posting, What};
use crate::msat::Msat;

/// Millisatoshi, below zero too. An integer in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signed(i64);

impl Signed {
    /// So many millisatoshi.
    pub const fn new(msat: i64) -> Self {
        Self(msat)
    }

    /// How many millisatoshi.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}", Msat::new(self.0.unsigned_abs()))
    }
}

/// A holder's accounts. In debt nothing is available.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Standing {
    /// What may be spent.
    pub available: Msat,
    /// What is held back for payments that are not over.
    pub reserved: Msat,
    /// What is owed: until it is repaid the holder is paused.
    pub debt: Msat,
}

impl Standing {
    /// Whether nothing may be spent until a debt is repaid.
    pub fn is_paused(&self) -> bool {
        !self.debt.is_zero()
    }
}

/// The accounts that are nobody's, and the sums over all holders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Book {
    pub lightning: Msat,
    pub onchain: Msat,
    pub fees: Msat,
    pub suspense: Signed,
    pub equity: Signed,
    /// The sums of what all holders have and owe.
    pub holders: Standing,
}

impl Book {
    /// Whether all debits equal all credits.
    pub fn is_balanced(&self) -> bool {
        let msat = |amount: Msat| i128::from(amount.get());
        let debits = msat(self.lightning) + msat(self.onchain) + msat(self.fees) + msat(self.holders.debt);
        let credits = i128::from(self.suspense.get())
            + i128::from(self.equity.get())
            + msat(self.holders.available)
            + msat(self.holders.reserved);
        debits == credits
    }
}

/// A posting that does not go with the balances: nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// An account would be below zero that may not be.
    #[error("{0} would be below zero")]
    BelowZero(Account),
    /// More than can be held.
    #[error("{0} would be too large")]
    TooLarge(Account),
    /// A holder would be in debt and have something to spend.
    #[error("{0} would owe and have something available")]
    OwesAndHas(Holder),
    /// All debits and all credits would differ: the balances were damaged before.
    #[error("debits and credits of the whole ledger differ")]
    OutOfBalance,
}

/// A posting of a replay that does not go with those before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("posting {at} of the replay: {source}")]
pub struct ReplayError {
    /// How many went before it.
    pub at: u64,
    pub source: ApplyError,
}

/// What is in each account: all of them after a replay, or those that one posting needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Balances {
    book: Book,
    holders: BTreeMap<Holder, Standing>,
}

impl Balances {
    /// Balances as they were kept; who is not among `holders` has nothing.
    pub fn new(book: Book, holders: impl IntoIterator<Item = (Holder, Standing)>) -> Self {
        Self { book, holders: holders.into_iter().collect() }
    }

    /// Balances after `postings`, from nothing.
    ///
    /// # Errors
    /// At the first posting that breaks a rule.
    pub fn replay<'a>(postings: impl IntoIterator<Item = &'a Posting>) -> Result<Self, ReplayError> {
        let mut balances = Self::default();
        for (at, posting) in (0..).zip(postings) {
            balances.apply(posting).map_err(|source| ReplayError { at, source })?;
        }
        Ok(balances)
    }

    /// What is nobody's, and the sums.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// A holder's accounts.
    pub fn standing(&self, holder: &Holder) -> Standing {
        self.holders.get(holder).copied().unwrap_or_default()
    }

    /// Everybody who ever had anything.
    pub fn holders(&self) -> impl Iterator<Item = (&Holder, &Standing)> {
        self.holders.iter()
    }

    /// Whether anything was ever posted for a holder.
    pub(super) fn knows(&self, holder: &Holder) -> bool {
        self.holders.contains_key(holder)
    }

    /// One account, on its own side.
    pub fn get(&self, account: &Account) -> i128 {
        let standing = account.holder().map(|holder| self.standing(holder)).unwrap_or_default();
        match account {
            Account::Asset(Asset::Lightning) => self.book.lightning.get().into(),
            Account::Asset(Asset::Onchain) => self.book.onchain.get().into(),
            Account::Fees => self.book.fees.get().into(),
            Account::Suspense => self.book.suspense.get().into(),
            Account::Equity => self.book.equity.get().into(),
            Account::Debt(_) => standing.debt.get().into(),
            Account::Available(_) => standing.available.get().into(),
            Account::Reserved(_) => standing.reserved.get().into(),
        }
    }

    /// Adds a posting, as a whole or not at all.
    ///
    /// # Errors
    /// [`ApplyError`]: the rules that hold after every posting, whatever made it.
    pub fn apply(&mut self, posting: &Posting) -> Result<(), ApplyError> {
        let mut next = Self { book: self.book, holders: BTreeMap::new() };
        for leg in posting.legs() {
            if let Some(holder) = leg.account.holder() {
                next.holders.entry(holder.clone()).or_insert_with(|| self.standing(holder));
            }
        }
        for leg in posting.legs() {
            let amount = i128::from(leg.amount.get());
            let change = if leg.side == leg.account.normal() { amount } else { -amount };
            let balance = next.get(&leg.account) + change;
            if balance < 0 && change < 0 && !may_go_below_zero(&leg.account, posting.what()) {
                return Err(ApplyError::BelowZero(leg.account.clone()));
            }
            next.set(&leg.account, balance, change)?;
        }
        let owes =
            |(_, standing): &(&Holder, &Standing)| standing.is_paused() && !standing.available.is_zero();
        if let Some((holder, _)) = next.holders.iter().find(owes) {
            return Err(ApplyError::OwesAndHas(holder.clone()));
        }
        if !next.book.is_balanced() {
            return Err(ApplyError::OutOfBalance);
        }
        self.book = next.book;
        self.holders.extend(next.holders);
        Ok(())
    }

    /// Sets one account, and moves the sum it is part of by `change`.
    fn set(&mut self, account: &Account, balance: i128, change: i128) -> Result<(), ApplyError> {
        let too_large = || ApplyError::TooLarge(account.clone());
        let unsigned = |value: i128| u64::try_from(value).map(Msat::new).map_err(|_| too_large());
        let signed = |value: i128| i64::try_from(value).map(Signed::new).map_err(|_| too_large());
        let moved = |sum: Msat| unsigned(i128::from(sum.get()) + change);
        let sums = &mut self.book.holders;
        match account {
            Account::Asset(Asset::Lightning) => self.book.lightning = unsigned(balance)?,
            Account::Asset(Asset::Onchain) => self.book.onchain = unsigned(balance)?,
            Account::Fees => self.book.fees = unsigned(balance)?,
            Account::Suspense => self.book.suspense = signed(balance)?,
            Account::Equity => self.book.equity = signed(balance)?,
            Account::Debt(holder) => {
                sums.debt = moved(sums.debt)?;
                self.holders.entry(holder.clone()).or_default().debt = unsigned(balance)?;
            }
            Account::Available(holder) => {
                sums.available = moved(sums.available)?;
                self.holders.entry(holder.clone()).or_default().available = unsigned(balance)?;
            }
            Account::Reserved(holder) => {
                sums.reserved = moved(sums.reserved)?;
                self.holders.entry(holder.clone()).or_default().reserved = unsigned(balance)?;
            }
        }
        Ok(())
    }
}

/// The house may lose, and what nobody can explain may be missing; nobody else's account is ever below zero.
fn may_go_below_zero(account: &Account, what: &What) -> bool {
    matches!(account, Account::Equity | Account::Suspense) && matches!(what, What::Adjusted { .. })
}
