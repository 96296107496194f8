//! Comparing the ledger with the wallet: what it had when the ledger began, and what came or went besides.
//!
//! The accounts can only share out what the wallet has. What it has more than the ledger knows of belongs to the
//! operator, who put it there; what it has less, the operator has spent by another way. Nothing is compared while
//! anything is under way: then both are moving.

use futures_util::{StreamExt as _, TryStreamExt as _};
use oa_nips::hex::Hash;
use oa_wallet::account::{Against, Asset, Book as Sums, Change, Holder, Ledger, PostError, open_payments};
use oa_wallet::msat::Msat;
use oa_wallet::nwc::client::CallError;
use oa_wallet::store::Draft;

use super::item::{self, Deposit, Item, What};
use super::{Money, lock};
use crate::namespace::Error;
use crate::store::write::Write;

/// Invoices that the wallet is asked about at once.
const LOOKING: usize = 8;
/// The posting that begins the ledger.
const OPENING: &str = "opening";

/// What a comparison came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    /// The ledger says what the wallet says.
    Equal,
    /// It does now.
    Adjusted,
    /// Something was under way: later.
    Busy,
}

/// Why nothing was compared.
#[derive(Debug, thiserror::Error)]
pub(super) enum CompareError {
    #[error(transparent)]
    Wallet(#[from] CallError),
    #[error(transparent)]
    Rows(#[from] Error),
}

impl Money {
    /// Asks the wallet what it has, and puts the difference where it belongs.
    ///
    /// # Errors
    /// When the wallet does not say.
    pub(super) async fn compare(&self) -> Result<Compared, CompareError> {
        let before = self.length()?;
        let balance = self.inner.bank.balance().await?;
        self.known().balance = Some((balance, self.now_ms()));
        if self.is_under_way()? {
            return Ok(Compared::Busy);
        }
        // What came in for an invoice may be in the balance already: it is attributed before anything is compared.
        let waiting: Vec<Hash> = lock(&self.inner.watched).keys().copied().collect();
        let looks = futures_util::stream::iter(waiting).map(|hash| self.look(hash));
        looks.buffer_unordered(LOOKING).try_collect::<Vec<()>>().await?;
        Ok(self.settle_difference(before, balance).await?)
    }

    fn length(&self) -> Result<u64, Error> {
        let rows = self.inner.book.rows();
        Ok(Ledger::new(&mut Draft::new(&rows)).length()?)
    }

    fn is_under_way(&self) -> Result<bool, Error> {
        Ok(!open_payments(&self.inner.book.rows(), None, 1)?.is_empty())
    }

    async fn settle_difference(&self, before: u64, balance: Msat) -> Result<Compared, Error> {
        let now_ms = self.now_ms();
        let work = |draft: &mut Draft<'_>, _: &mut Vec<Write>| {
            let length = Ledger::new(draft).length()?;
            if length != before || self.is_under_way()? {
                return Ok(Compared::Busy);
            }
            let book = Ledger::new(draft).book()?;
            if book.lightning == balance {
                return Ok(Compared::Equal);
            }
            let name = format!("compared {length}");
            let deposit = if balance > book.lightning {
                let amount = balance.saturating_sub(book.lightning);
                more(draft, &name, length, &book, amount, now_ms)?
            } else {
                let amount = book.lightning.saturating_sub(balance);
                less(draft, &name, amount, now_ms)?
            };
            let amount = deposit.amount;
            tracing::info!(%amount, is_less = deposit.is_less, "the wallet has another balance than the accounts");
            item::add(draft, &Holder::operator(), &Item::new(now_ms, What::Deposit(deposit)))?;
            Ok(Compared::Adjusted)
        };
        self.inner.book.write(work).await
    }
}

/// The wallet has more: what was missing before is made good first, the rest is the operator's.
fn more(
    draft: &mut Draft<'_>,
    name: &str,
    length: u64,
    book: &Sums,
    amount: Msat,
    now_ms: u64,
) -> Result<Deposit, PostError> {
    let mut ledger = Ledger::new(draft);
    if length == 0 {
        let _ = ledger.opening(OPENING, Asset::Lightning, amount, now_ms)?;
    } else {
        let missing = Msat::new(book.suspense.get().min(0).unsigned_abs()).min(amount);
        let rest = amount.saturating_sub(missing);
        for (what, against, part) in [("found", Against::Suspense, missing), ("more", Against::Equity, rest)]
        {
            if !part.is_zero() {
                let id = format!("{name} {what}");
                let _ = ledger.adjust(&id, Asset::Lightning, Change::Up, against, part, now_ms)?;
            }
        }
        if rest.is_zero() {
            return Ok(Deposit { amount, is_less: false });
        }
        let _ = ledger.allot(&format!("{name} allotted"), &Holder::operator(), rest, now_ms)?;
        return Ok(Deposit { amount, is_less: false });
    }
    let _ = ledger.allot(&format!("{name} allotted"), &Holder::operator(), amount, now_ms)?;
    Ok(Deposit { amount, is_less: false })
}

/// The wallet has less: the operator's account bears it, as far as it goes. What is beyond it is written down as
/// missing, and nobody's account is touched: the wallet will refuse what it does not have.
fn less(draft: &mut Draft<'_>, name: &str, amount: Msat, now_ms: u64) -> Result<Deposit, PostError> {
    let mut ledger = Ledger::new(draft);
    let operator = Holder::operator();
    let bears = ledger.standing(&operator)?.available.min(amount);
    let missing = amount.saturating_sub(bears);
    if !bears.is_zero() {
        let _ = ledger.withdraw(&format!("{name} withdrawn"), &operator, bears, now_ms)?;
        let id = format!("{name} less");
        let _ = ledger.adjust(&id, Asset::Lightning, Change::Down, Against::Equity, bears, now_ms)?;
    }
    if !missing.is_zero() {
        tracing::error!(%missing, "the wallet has less than the agents' accounts come to");
        let id = format!("{name} missing");
        let _ = ledger.adjust(&id, Asset::Lightning, Change::Down, Against::Suspense, missing, now_ms)?;
    }
    Ok(Deposit { amount, is_less: true })
}
