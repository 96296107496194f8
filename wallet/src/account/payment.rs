//! Payments and invoices as the ledger knows them: rows, by payment hash.

use std::fmt;

use oa_nips::hex::Hash;
use serde::{Deserialize, Serialize};

use super::Holder;
use crate::msat::Msat;

/// Held back for fees at least: a route's base fees do not shrink with the amount.
const FEE_RESERVE_MIN: Msat = Msat::from_sat(10);
/// Held back for fees, as a part of the amount: one in so many.
const FEE_RESERVE_PART: u64 = 100;

/// What is held back for the fees of a payment of `amount`: 1 %, and 10 sat at least. `pay_invoice` of NIP-47 has no
/// limit for fees, so what a payment does cost may be more.
pub fn fee_reserve(amount: Msat) -> Msat {
    Msat::new(amount.get().div_ceil(FEE_RESERVE_PART)).max(FEE_RESERVE_MIN)
}

/// A payment on its way out, named by what it waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PaymentState {
    /// Waits to be handed to the wallet.
    Reserved,
    /// Waits for the wallet's answer.
    InFlight,
    /// Waits for a look-up that is terminal: the wallet was asked, and what became of it is not known.
    Unknown,
    /// Waits for nothing: it was paid.
    Settled {
        /// What was paid, and what it cost on top.
        amount: Msat,
        fee: Msat,
        /// The proof, where the wallet gave it.
        preimage: Option<Hash>,
    },
    /// Waits for nothing: it was not paid, and may be tried again.
    Failed { reason: String },
}

impl PaymentState {
    /// Whether the reservation is held.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Reserved | Self::InFlight | Self::Unknown)
    }
}

impl fmt::Display for PaymentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reserved => "reserved",
            Self::InFlight => "in flight",
            Self::Unknown => "of unknown outcome",
            Self::Settled { .. } => "settled",
            Self::Failed { .. } => "failed",
        })
    }
}

/// The last attempt at a payment. There is at most one that is not over for each payment hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// Who pays.
    pub holder: Holder,
    /// What is to arrive.
    pub amount: Msat,
    /// What was held back on top.
    pub fee_reserve: Msat,
    /// The caller's name of this attempt: asked again under it, nothing is paid again.
    pub request: String,
    pub state: PaymentState,
    /// When it was reserved and when its state last changed, in milliseconds since 1970.
    pub began_ms: u64,
    pub changed_ms: u64,
}

impl Payment {
    /// What is held back for it now.
    pub fn held(&self) -> Msat {
        if self.state.is_open() { self.amount.saturating_add(self.fee_reserve) } else { Msat::ZERO }
    }
}

/// An invoice of a holder: whoever pays it, pays them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoice {
    /// Whose it is.
    pub holder: Holder,
    /// What it asks for; nothing where the payer decides.
    pub amount: Option<Msat>,
    /// In milliseconds since 1970.
    pub made_ms: u64,
    pub expires_ms: u64,
    pub state: InvoiceState,
}

/// Whether an invoice was paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum InvoiceState {
    /// Waits for its payment.
    Open,
    /// Was paid.
    Paid {
        /// What came: a payer may send more than was asked for.
        amount: Msat,
        at_ms: u64,
    },
}
