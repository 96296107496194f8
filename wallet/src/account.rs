//! Accounts of agents and connections in one wallet: an append-only double-entry ledger.
//!
//! Every movement of money is a [`Posting`]: legs whose debits equal their credits, which nothing but its checked
//! constructors can make. Postings are appended and never changed; each has an id, and the same id again is the same
//! posting, not a second one. [`Ledger`] decides and appends; what it keeps beside the postings (balances, payments
//! under way, debts) is derived, lands in the same transaction, and is compared with a replay by [`verify`].
//!
//! The chart of accounts, [`Account`]: what the wallet has (`lightning`, `onchain`), what each holder may claim of
//! it (`available`, `reserved`), what a holder owes (`debt`), and what belongs to nobody yet (`suspense`) or to the
//! house (`equity`, `fees`).
//!
//! A payment ([`Payment`]) goes `Reserved → InFlight → Settled | Failed | Unknown`; unknown stays reserved until a
//! look-up is terminal. Where what it cost is above its reservation, the rest is taken from what is available, and
//! beyond that becomes debt: a holder in debt has nothing available, spends nothing, and whatever comes in repays
//! first.

mod balances;
mod ledger;
mod load;
mod outgoing;
mod payment;
mod posting;
mod read;
#[cfg(test)]
mod tests;
mod verify;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use balances::{ApplyError, Balances, Book, ReplayError, Signed, Standing};
pub use ledger::{Entry, InvoiceError, Ledger, PostError, Posted};
pub use load::ledger_postings;
pub use outgoing::{NewPayment, Outcome, OwnInvoiceError, PaymentError, Reservation, ReserveError};
pub use payment::{Invoice, InvoiceState, Payment, PaymentState, fee_reserve};
pub use posting::{Against, Change, Leg, Posting, PostingError, Refused, Side, What};
pub use read::{entries, history, holders, open_payments};
pub use verify::{Difference, Verified, VerifyError, verify};

/// Longest name of a holder, in bytes.
pub const HOLDER_BYTES_MAX: usize = 64;

/// Who has an account: the operator, an agent, a wallet connection. Lower-case letters, digits and `_ . : -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Holder(String);

/// A name that no holder can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no account: 1 to 64 lower-case letters, digits and _ . : -")]
pub struct BadHolder(String);

impl Holder {
    /// A holder of that name.
    ///
    /// # Errors
    /// [`BadHolder`]
    pub fn new(name: impl Into<String>) -> Result<Self, BadHolder> {
        let name = name.into();
        let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b':' | b'-');
        if (1..=HOLDER_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_allowed) {
            Ok(Self(name))
        } else {
            Err(BadHolder(name))
        }
    }

    /// Who runs the wallet or the node: what nobody else's invoice asked for is theirs.
    pub fn operator() -> Self {
        Self("operator".to_owned())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Holder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// What the wallet has, as it sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asset {
    /// Our side of the channels, or the balance of the connected wallet.
    Lightning,
    /// Coins on the chain.
    Onchain,
}

/// An account that legs name. A string in JSON: `lightning`, `available/alice`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// What the wallet has. Grows by debits.
    Asset(Asset),
    /// Costs of the wallet that no holder bears: channels opened, coins moved. Grows by debits.
    Fees,
    /// What a holder owes, because a payment cost more than they had. Grows by debits.
    Debt(Holder),
    /// What a holder may spend. Grows by credits.
    Available(Holder),
    /// What is held back for a holder's payments that are not over. Grows by credits.
    Reserved(Holder),
    /// Differences between the wallet and this ledger that nobody has explained yet. Grows by credits, and may be
    /// below zero.
    Suspense,
    /// What belongs to the house and to no holder. Grows by credits; adjustments may take it below zero.
    Equity,
}

impl Account {
    /// The side by which it grows.
    pub fn normal(&self) -> Side {
        match self {
            Self::Asset(_) | Self::Fees | Self::Debt(_) => Side::Debit,
            Self::Available(_) | Self::Reserved(_) | Self::Suspense | Self::Equity => Side::Credit,
        }
    }

    /// Whose it is, if it is a holder's.
    pub fn holder(&self) -> Option<&Holder> {
        match self {
            Self::Debt(holder) | Self::Available(holder) | Self::Reserved(holder) => Some(holder),
            Self::Asset(_) | Self::Fees | Self::Suspense | Self::Equity => None,
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asset(Asset::Lightning) => f.write_str("lightning"),
            Self::Asset(Asset::Onchain) => f.write_str("onchain"),
            Self::Fees => f.write_str("fees"),
            Self::Suspense => f.write_str("suspense"),
            Self::Equity => f.write_str("equity"),
            Self::Debt(holder) => write!(f, "debt/{holder}"),
            Self::Available(holder) => write!(f, "available/{holder}"),
            Self::Reserved(holder) => write!(f, "reserved/{holder}"),
        }
    }
}

/// A text that names no account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no account of the ledger")]
pub struct BadAccount(String);

impl FromStr for Account {
    type Err = BadAccount;

    fn from_str(text: &str) -> Result<Self, BadAccount> {
        let bad = || BadAccount(text.to_owned());
        match text.split_once('/') {
            None => match text {
                "lightning" => Ok(Self::Asset(Asset::Lightning)),
                "onchain" => Ok(Self::Asset(Asset::Onchain)),
                "fees" => Ok(Self::Fees),
                "suspense" => Ok(Self::Suspense),
                "equity" => Ok(Self::Equity),
                _ => Err(bad()),
            },
            Some((kind, name)) => {
                let holder = Holder::new(name).map_err(|_| bad())?;
                match kind {
                    "debt" => Ok(Self::Debt(holder)),
                    "available" => Ok(Self::Available(holder)),
                    "reserved" => Ok(Self::Reserved(holder)),
                    _ => Err(bad()),
                }
            }
        }
    }
}

impl Serialize for Account {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
