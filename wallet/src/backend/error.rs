//! Why a backend did not do what it was asked.

use super::node::Network;
use crate::msat::Msat;

/// A refusal. Each variant is something a caller can decide upon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody knows a way to the payee that has room and is cheap enough. Later, or dearer, there may be one.
    #[error("no route to the payee")]
    NoRoute,
    /// It takes more than there is.
    #[error("insufficient balance: {available} available")]
    InsufficientBalance {
        /// What could be spent at that moment in one payment, fees included.
        available: Msat,
    },
    /// The invoice or offer is too old.
    #[error("expired")]
    Expired,
    /// It asks for another network's coins.
    #[error("wrong network: this wallet is on {ours}, that is for {theirs}")]
    WrongNetwork {
        /// Where this wallet is.
        ours: Network,
        /// What it asks for.
        theirs: Network,
    },
    /// It is settled; [`look_up`](super::Backend::look_up) has the receipt.
    #[error("already paid")]
    AlreadyPaid,
    /// It is being paid; wait for that.
    #[error("a payment of it is under way")]
    InFlight,
    /// It asks this very wallet for money. Between accounts of one wallet money moves in the ledger.
    #[error("the invoice is this wallet's own")]
    OwnInvoice,
    /// It cannot be read.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The invoice leaves the amount open, and none was given.
    #[error("the invoice names no amount, and none was given")]
    AmountMissing,
    /// The invoice names another amount than was given.
    #[error("the invoice is for {theirs}")]
    AmountMismatch {
        /// What it names.
        theirs: Msat,
    },
    /// There is no such payment, channel or peer.
    #[error("not found")]
    NotFound,
    /// No money is held for that hash.
    #[error("no payment is held for that hash")]
    NotHeld,
    /// Not now: stopped, starting, or a peer or the chain is away. The same call may work later.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

/// Why a payment that was under way failed. Nothing was spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FailReason {
    /// Every way was tried.
    #[error("no route to the payee")]
    NoRoute,
    /// The payee sent it back: a cancelled hold invoice, an unknown hash, a wrong amount.
    #[error("the payee refused it")]
    Rejected,
    /// It took too long.
    #[error("expired on the way")]
    Expired,
    /// Nobody says why, or the reason was forgotten in a restart.
    #[error("failed")]
    Unknown,
}
