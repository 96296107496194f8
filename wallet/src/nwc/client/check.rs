//! What a wallet answers is checked against what it was asked: its word alone moves nothing.

use crate::backend::PaymentHash;
use crate::msat::Msat;
use crate::nwc::bill::Bill;
use crate::nwc::message::{InvoiceOrder, Transaction};

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untrue {
    #[error("there is no invoice in it")]
    NoInvoice,
    #[error("the invoice cannot be read")]
    Invoice,
    #[error("the invoice is for {found}, {asked} was asked for")]
    Amount { asked: Msat, found: Msat },
    #[error("the invoice leaves the amount open")]
    AmountOpen,
    #[error("it is about {found}, not {asked}")]
    Hash { asked: PaymentHash, found: PaymentHash },
    #[error("the invoice has expired already")]
    Expired,
    #[error("a balance of {0} is more than there is")]
    Balance(Msat),
}

/// Checks an invoice that was made: the amount, and the hash where it was chosen. Returns its bill.
pub(super) fn made(
    order: &InvoiceOrder,
    hash: Option<PaymentHash>,
    answer: &Transaction,
    now_s: u64,
) -> Result<Bill, Untrue> {
    let text = answer.invoice.as_deref().ok_or(Untrue::NoInvoice)?;
    let bill = Bill::read(text).map_err(|_| Untrue::Invoice)?;
    match bill.amount {
        None => return Err(Untrue::AmountOpen),
        Some(found) if found != order.amount => return Err(Untrue::Amount { asked: order.amount, found }),
        Some(_) => {}
    }
    same(bill.payment_hash, answer.payment_hash)?;
    if let Some(hash) = hash {
        same(hash, bill.payment_hash)?;
    }
    if bill.expires_at <= now_s {
        return Err(Untrue::Expired);
    }
    Ok(bill)
}

pub(super) fn same(asked: PaymentHash, found: PaymentHash) -> Result<(), Untrue> {
    if asked == found { Ok(()) } else { Err(Untrue::Hash { asked, found }) }
}
