//! A movement of money: what it was, and legs that balance.
//!
//! The constructors are the rules of the house, written once: who pays what, and what is repaid first. They read
//! balances and change none; [`super::Balances::apply`] does.

use serde::{Deserialize, Serialize};

use super::{Account, Asset, Balances, Holder};
use crate::msat::Msat;
use oa_nips::hex::Hash;

/// A side of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// What the house has grows; what it owes shrinks.
    Debit,
    /// What the house owes grows; what it has shrinks.
    Credit,
}

/// One account's part in a posting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    pub account: Account,
    pub side: Side,
    /// Never zero.
    pub amount: Msat,
}

/// Whether an asset grew or shrank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Up,
    Down,
}

/// What stands against an adjustment of an asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// The house gained or lost.
    Equity,
    /// Nobody knows yet why.
    Suspense,
    /// A fee that no holder bears; only downwards.
    Fees,
}

/// What a posting was for. Two postings of one id must be for the same, whatever their legs are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// What the wallet had when the ledger began.
    Opened { asset: Asset, amount: Msat },
    /// The house gives a holder of its own.
    Allotted { to: Holder, amount: Msat },
    /// A holder gives to the house.
    Withdrawn { from: Holder, amount: Msat },
    /// The wallet has more or less than the ledger said.
    Adjusted { asset: Asset, change: Change, against: Against, amount: Msat },
    /// The wallet moved its own: a channel opened or closed.
    Moved { from: Asset, to: Asset, amount: Msat, fee: Msat },
    /// A payment came in.
    PaidIn { payment: Hash, to: Holder, amount: Msat },
    /// A payment was allowed, and the most it can cost is held back.
    Reserved { payment: Hash, from: Holder, amount: Msat, fee_reserve: Msat },
    /// A payment went out.
    Settled { payment: Hash, from: Holder, amount: Msat, fee: Msat },
    /// A payment did not happen; what was held back is free again.
    Released { payment: Hash, from: Holder },
    /// From one holder to another, inside the wallet.
    Transferred { from: Holder, to: Holder, amount: Msat },
    /// An invoice of one holder, paid by another inside the wallet.
    PaidInside { payment: Hash, from: Holder, to: Holder, amount: Msat },
}

/// Why nothing was posted: decisions a caller can take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Less is available than is needed.
    #[error("{available} available, {needed} needed")]
    Insufficient { available: Msat, needed: Msat },
    /// The holder owes from a payment that cost more than they had; what comes in repays it first.
    #[error("paused until a debt of {debt} is repaid")]
    Paused { debt: Msat },
    /// The wallet or the house itself has less.
    #[error("the wallet's {account} does not cover {needed}")]
    Uncovered { account: Account, needed: Msat },
    /// An amount of nothing.
    #[error("an amount of zero")]
    Zero,
    /// More than there is bitcoin.
    #[error("{0} is more than there is bitcoin")]
    TooLarge(Msat),
    /// From somebody to themselves, or from an asset to itself.
    #[error("from `{0}` to itself")]
    Itself(String),
}

/// A posting read from a row that does not hold what every posting holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PostingError {
    /// Debits and credits differ.
    #[error("debits and credits of a posting differ")]
    Unbalanced,
    /// A leg of nothing, an account named twice, or no legs.
    #[error("a posting with empty, double or no legs")]
    Legs,
    /// The legs move another amount than it says.
    #[error("the legs of a posting move another amount than it says")]
    Amount,
}

/// A movement of money whose debits equal its credits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Posting {
    what: What,
    legs: Vec<Leg>,
}

/// A posting as it is written, before it is checked.
#[derive(Deserialize)]
struct Raw {
    what: What,
    legs: Vec<Leg>,
}

impl TryFrom<Raw> for Posting {
    type Error = PostingError;

    fn try_from(raw: Raw) -> Result<Self, PostingError> {
        Self::checked(raw.what, raw.legs)
    }
}

impl Posting {
    /// What it was for.
    pub fn what(&self) -> &What {
        &self.what
    }

    /// Its legs: each account once, none of nothing, debits equal to credits.
    pub fn legs(&self) -> &[Leg] {
        &self.legs
    }

    /// What the wallet had when the ledger began; it belongs to the house until it is allotted.
    ///
    /// # Errors
    /// [`Refused::Zero`], [`Refused::TooLarge`]
    pub fn opening(asset: Asset, amount: Msat) -> Result<Self, Refused> {
        let amount = sound(amount)?;
        let legs = [debit(Account::Asset(asset), amount), credit(Account::Equity, amount)];
        Ok(Self::made(What::Opened { asset, amount }, legs))
    }

    /// The house gives a holder of its own.
    ///
    /// # Errors
    /// [`Refused::Uncovered`] where the house has less.
    pub fn allot(balances: &Balances, to: &Holder, amount: Msat) -> Result<Self, Refused> {
        let amount = sound(amount)?;
        if i128::from(balances.book().equity.get()) < i128::from(amount.get()) {
            return Err(Refused::Uncovered { account: Account::Equity, needed: amount });
        }
        let mut legs = vec![debit(Account::Equity, amount)];
        legs.extend(income(balances, to, amount));
        Ok(Self::made(What::Allotted { to: to.clone(), amount }, legs))
    }

    /// A holder gives to the house.
    ///
    /// # Errors
    /// [`Refused::Insufficient`], [`Refused::Paused`]
    pub fn withdraw(balances: &Balances, from: &Holder, amount: Msat) -> Result<Self, Refused> {
        let legs = [spend(balances, from, amount)?, credit(Account::Equity, amount)];
        Ok(Self::made(What::Withdrawn { from: from.clone(), amount }, legs))
    }

    /// The wallet has more or less than the ledger said.
    ///
    /// # Errors
    /// [`Refused::Uncovered`] where the asset has less than is to be taken away.
    pub fn adjust(
        balances: &Balances,
        asset: Asset,
        change: Change,
        against: Against,
        amount: Msat,
    ) -> Result<Self, Refused> {
        let amount = sound(amount)?;
        let account = Account::Asset(asset);
        let other = match against {
            Against::Equity => Account::Equity,
            Against::Suspense => Account::Suspense,
            Against::Fees => Account::Fees,
        };
        let covering = match change {
            Change::Down => Some(&account),
            Change::Up if against == Against::Fees => Some(&other),
            Change::Up => None,
        };
        if let Some(covering) = covering.filter(|covering| balances.get(covering) < i128::from(amount.get()))
        {
            return Err(Refused::Uncovered { account: covering.clone(), needed: amount });
        }
        let legs = match change {
            Change::Up => [debit(account, amount), credit(other, amount)],
            Change::Down => [debit(other, amount), credit(account, amount)],
        };
        Ok(Self::made(What::Adjusted { asset, change, against, amount }, legs))
    }

    /// The wallet moved `amount` of its own and paid `fee` on top, which no holder bears.
    ///
    /// # Errors
    /// [`Refused::Uncovered`] where there is less.
    pub fn moved(
        balances: &Balances,
        from: Asset,
        to: Asset,
        amount: Msat,
        fee: Msat,
    ) -> Result<Self, Refused> {
        if from == to {
            return Err(Refused::Itself(Account::Asset(from).to_string()));
        }
        let (amount, total) = (sound(amount)?, sum(amount, fee)?);
        let account = Account::Asset(from);
        if balances.get(&account) < i128::from(total.get()) {
            return Err(Refused::Uncovered { account, needed: total });
        }
        let legs = [debit(Account::Asset(to), amount), debit(Account::Fees, fee), credit(account, total)];
        Ok(Self::made(What::Moved { from, to, amount, fee }, legs))
    }

    /// A payment came in for a holder.
    ///
    /// # Errors
    /// [`Refused::Zero`], [`Refused::TooLarge`]
    pub fn paid_in(balances: &Balances, payment: Hash, to: &Holder, amount: Msat) -> Result<Self, Refused> {
        let amount = sound(amount)?;
        let mut legs = vec![debit(Account::Asset(Asset::Lightning), amount)];
        legs.extend(income(balances, to, amount));
        Ok(Self::made(What::PaidIn { payment, to: to.clone(), amount }, legs))
    }

    /// Holds back what a payment can cost.
    ///
    /// # Errors
    /// [`Refused::Insufficient`], [`Refused::Paused`]
    pub fn reserve(
        balances: &Balances,
        payment: Hash,
        from: &Holder,
        amount: Msat,
        fee_reserve: Msat,
    ) -> Result<Self, Refused> {
        let total = sum(sound(amount)?, fee_reserve)?;
        let legs = [spend(balances, from, total)?, credit(Account::Reserved(from.clone()), total)];
        Ok(Self::made(What::Reserved { payment, from: from.clone(), amount, fee_reserve }, legs))
    }

    /// A payment went out that `held` was reserved for: nothing, if it had been given up.
    ///
    /// What is left of the reservation is free again. What it cost beyond that is taken from what is available, and
    /// the rest is debt. What the wallet paid without having it, as far as the ledger knew, is in suspense until
    /// somebody explains it: the payment is a fact, and facts are recorded.
    ///
    /// # Errors
    /// [`Refused::Zero`], [`Refused::TooLarge`]
    pub fn settle(
        balances: &Balances,
        payment: Hash,
        from: &Holder,
        held: Msat,
        amount: Msat,
        fee: Msat,
    ) -> Result<Self, Refused> {
        let total = sum(sound(amount)?, fee)?;
        let over = total.saturating_sub(held);
        let from_available = over.min(balances.standing(from).available);
        let lightning = balances.book().lightning;
        let mut legs = vec![
            debit(Account::Reserved(from.clone()), held),
            debit(Account::Available(from.clone()), from_available),
            debit(Account::Debt(from.clone()), over.saturating_sub(from_available)),
            credit(Account::Asset(Asset::Lightning), total.min(lightning)),
            credit(Account::Suspense, total.saturating_sub(lightning)),
        ];
        legs.extend(income(balances, from, held.saturating_sub(total)));
        Ok(Self::made(What::Settled { payment, from: from.clone(), amount, fee }, legs))
    }

    /// A payment did not happen: what was `held` for it is free again, a debt repaid first.
    ///
    /// # Errors
    /// [`Refused::Zero`] where nothing was held.
    pub fn release(balances: &Balances, payment: Hash, from: &Holder, held: Msat) -> Result<Self, Refused> {
        let held = sound(held)?;
        let mut legs = vec![debit(Account::Reserved(from.clone()), held)];
        legs.extend(income(balances, from, held));
        Ok(Self::made(What::Released { payment, from: from.clone() }, legs))
    }

    /// From one holder to another.
    ///
    /// # Errors
    /// [`Refused::Insufficient`], [`Refused::Paused`], [`Refused::Itself`]
    pub fn transfer(balances: &Balances, from: &Holder, to: &Holder, amount: Msat) -> Result<Self, Refused> {
        let legs = between(balances, from, to, amount)?;
        Ok(Self::made(What::Transferred { from: from.clone(), to: to.clone(), amount }, legs))
    }

    /// One holder pays another's invoice inside the wallet.
    ///
    /// # Errors
    /// As [`Posting::transfer`].
    pub fn paid_inside(
        balances: &Balances,
        payment: Hash,
        from: &Holder,
        to: &Holder,
        amount: Msat,
    ) -> Result<Self, Refused> {
        let legs = between(balances, from, to, amount)?;
        Ok(Self::made(What::PaidInside { payment, from: from.clone(), to: to.clone(), amount }, legs))
    }

    /// The constructors above only make balanced legs; the check stays, so that a mistake in one cannot lose money.
    fn made(what: What, legs: impl IntoIterator<Item = Leg>) -> Self {
        let legs = legs.into_iter().filter(|leg| !leg.amount.is_zero()).collect();
        Self::checked(what, legs).expect("every constructor balances its legs")
    }

    fn checked(what: What, legs: Vec<Leg>) -> Result<Self, PostingError> {
        let total = |counts: &dyn Fn(&Leg) -> bool| -> u128 {
            legs.iter().filter(|leg| counts(leg)).map(|leg| u128::from(leg.amount.get())).sum()
        };
        let debits = total(&|leg| leg.side == Side::Debit);
        if debits != total(&|leg| leg.side == Side::Credit) {
            return Err(PostingError::Unbalanced);
        }
        let is_of_wallet = |leg: &Leg| matches!(leg.account, Account::Asset(_) | Account::Suspense);
        let agrees = match what {
            // What is left of the reservation moves too; what was paid is what left the wallet.
            What::Settled { amount, fee, .. } => both(amount, fee) == total(&is_of_wallet),
            What::Moved { amount, fee, .. } | What::Reserved { amount, fee_reserve: fee, .. } => {
                both(amount, fee) == debits
            }
            What::Opened { amount, .. }
            | What::Allotted { amount, .. }
            | What::Withdrawn { amount, .. }
            | What::Adjusted { amount, .. }
            | What::PaidIn { amount, .. }
            | What::Transferred { amount, .. }
            | What::PaidInside { amount, .. } => both(amount, Msat::ZERO) == debits,
            What::Released { .. } => true,
        };
        if !agrees {
            return Err(PostingError::Amount);
        }
        let mut rest = legs.as_slice();
        while let Some((leg, later)) = rest.split_first() {
            if leg.amount.is_zero() || later.iter().any(|other| other.account == leg.account) {
                return Err(PostingError::Legs);
            }
            rest = later;
        }
        if legs.is_empty() { Err(PostingError::Legs) } else { Ok(Self { what, legs }) }
    }
}

fn both(amount: Msat, more: Msat) -> u128 {
    u128::from(amount.get()) + u128::from(more.get())
}

fn debit(account: Account, amount: Msat) -> Leg {
    Leg { account, side: Side::Debit, amount }
}

fn credit(account: Account, amount: Msat) -> Leg {
    Leg { account, side: Side::Credit, amount }
}

/// An amount that can be: above zero, and not above all bitcoin.
fn sound(amount: Msat) -> Result<Msat, Refused> {
    if amount.is_zero() {
        Err(Refused::Zero)
    } else if amount > Msat::SUPPLY {
        Err(Refused::TooLarge(amount))
    } else {
        Ok(amount)
    }
}

fn sum(amount: Msat, more: Msat) -> Result<Msat, Refused> {
    let total = amount.checked_add(more).filter(|total| *total <= Msat::SUPPLY);
    total.ok_or(Refused::TooLarge(amount.max(more)))
}

/// Takes from what a holder may spend.
fn spend(balances: &Balances, from: &Holder, amount: Msat) -> Result<Leg, Refused> {
    let amount = sound(amount)?;
    let standing = balances.standing(from);
    if !standing.debt.is_zero() {
        return Err(Refused::Paused { debt: standing.debt });
    }
    if standing.available < amount {
        return Err(Refused::Insufficient { available: standing.available, needed: amount });
    }
    Ok(debit(Account::Available(from.clone()), amount))
}

/// What comes in for a holder: it repays a debt before it can be spent.
fn income(balances: &Balances, to: &Holder, amount: Msat) -> [Leg; 2] {
    let repaid = amount.min(balances.standing(to).debt);
    [
        credit(Account::Debt(to.clone()), repaid),
        credit(Account::Available(to.clone()), amount.saturating_sub(repaid)),
    ]
}

fn between(balances: &Balances, from: &Holder, to: &Holder, amount: Msat) -> Result<Vec<Leg>, Refused> {
    if from == to {
        return Err(Refused::Itself(from.to_string()));
    }
    let mut legs = vec![spend(balances, from, amount)?];
    legs.extend(income(balances, to, amount));
    Ok(legs)
}
