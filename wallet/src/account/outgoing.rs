//! Payments on their way out: reserved before anybody is asked, settled once, whatever is said how often.
//!
//! Persist, then act: reserve and commit; [`Ledger::sent`] and commit; then ask the wallet. A payment that is
//! `Reserved` after a crash was never handed over; one that is `InFlight` or `Unknown` is looked up until the answer
//! is terminal, and its reservation is held until then. Only what a look-up or the wallet's own answer confirms
//! belongs in [`Ledger::settled`] and [`Ledger::failed`].

use oa_nips::hex::Hash;

use super::ledger::{ID_BYTES_MAX, Ledger, OPEN, PAYMENTS, PostError};
use super::payment::{InvoiceState, Payment, PaymentState, fee_reserve};
use super::posting::{Posting, What};
use super::{Balances, Holder};
use crate::msat::Msat;
use crate::store::StoreError;

/// Longest reason of a failure that is kept, in bytes.
const REASON_BYTES_MAX: usize = 200;

/// What somebody wants to pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewPayment<'a> {
    /// Its payment hash; where that is not known beforehand (an offer), an id that the wallet will know it by.
    pub payment: Hash,
    /// Who pays.
    pub holder: &'a Holder,
    /// What is to arrive; fees are on top.
    pub amount: Msat,
    /// The caller's name for this attempt, the same when it asks again after a crash.
    pub request: &'a str,
    /// Milliseconds since 1970.
    pub at_ms: u64,
}

/// What became of a wish to pay.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reservation {
    /// Held back: go on with [`Ledger::sent`].
    New(Payment),
    /// This request was made before: this is where the payment stands. Where its `request` is another one, this one
    /// failed and was followed by that.
    Known(Payment),
}

/// Why nothing was reserved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// Another attempt at this payment is not over. Its holder may be somebody else: do not show it to others.
    #[error("a payment of this invoice is {}", .0.state)]
    Busy(Box<Payment>),
    /// It was paid. Its holder may be somebody else: do not show the preimage to others.
    #[error("the invoice is paid already")]
    Paid(Box<Payment>),
    /// The holder has less, or is paused; or the request's name is another payment's.
    #[error(transparent)]
    Post(#[from] PostError),
}

impl From<StoreError> for ReserveError {
    fn from(error: StoreError) -> Self {
        Self::Post(error.into())
    }
}

/// What the wallet says a payment came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// What arrived.
    pub amount: Msat,
    /// What it cost on top.
    pub fee: Msat,
    /// The proof, where the wallet gave it.
    pub preimage: Option<Hash>,
}

/// Why a payment's state did not change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PaymentError {
    /// Nobody here began it.
    #[error("no payment {0}")]
    NotFound(Hash),
    /// It is over, and was said to have ended otherwise.
    #[error("the payment is {} already", .0.state)]
    Over(Box<Payment>),
    /// The rows are damaged, or the claim is absurd.
    #[error(transparent)]
    Post(#[from] PostError),
}

impl From<StoreError> for PaymentError {
    fn from(error: StoreError) -> Self {
        Self::Post(error.into())
    }
}

/// Why an invoice was not paid inside the wallet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnInvoiceError {
    /// It is nobody's here: it is to be paid by Lightning.
    #[error("not an invoice of this wallet")]
    NotOurs,
    /// Its time is over.
    #[error("the invoice is expired")]
    Expired,
    /// It asks for another amount.
    #[error("the invoice asks for {0}")]
    Amount(Msat),
    /// Somebody paid it.
    #[error("the invoice is paid already")]
    Paid,
    /// The holder cannot pay it, or is paying it another way.
    #[error(transparent)]
    Reserve(#[from] ReserveError),
}

impl From<StoreError> for OwnInvoiceError {
    fn from(error: StoreError) -> Self {
        Self::Reserve(error.into())
    }
}

impl Ledger<'_, '_> {
    /// Holds back what a payment can cost: its amount and [`fee_reserve`].
    ///
    /// # Errors
    /// [`ReserveError`]; nothing is held back then.
    pub fn reserve(&mut self, new: &NewPayment<'_>) -> Result<Reservation, ReserveError> {
        let NewPayment { payment, holder, amount, request, at_ms } = *new;
        let fees = fee_reserve(amount);
        let what = What::Reserved { payment, from: holder.clone(), amount, fee_reserve: fees };
        if let Some(known) = self.known(&format!("reserve/{request}"), &what, &payment)? {
            return Ok(Reservation::Known(known));
        }
        let id = self.free_id("reserve", &payment, request)?;
        let make = |balances: &Balances| Posting::reserve(balances, payment, holder, amount, fees);
        let _ = self.post(id, what, &[holder], at_ms, make)?;
        let row = Payment {
            holder: holder.clone(),
            amount,
            fee_reserve: fees,
            request: request.to_owned(),
            state: PaymentState::Reserved,
            began_ms: at_ms,
            changed_ms: at_ms,
        };
        self.draft.put(PAYMENTS, &payment.to_string(), &row)?;
        self.draft.put(OPEN, &payment.to_string(), &row.holder)?;
        Ok(Reservation::New(row))
    }

    /// The payment is about to be handed to the wallet, or a look-up says that it is under way.
    ///
    /// # Errors
    /// [`PaymentError::Over`] where it has ended.
    pub fn sent(&mut self, payment: &Hash, at_ms: u64) -> Result<Payment, PaymentError> {
        self.wait(payment, PaymentState::InFlight, at_ms)
    }

    /// Nobody knows what became of the payment: it stays reserved until a look-up is terminal.
    ///
    /// # Errors
    /// [`PaymentError::Over`] where it has ended.
    pub fn unknown(&mut self, payment: &Hash, at_ms: u64) -> Result<Payment, PaymentError> {
        self.wait(payment, PaymentState::Unknown, at_ms)
    }

    /// The payment was made. What is left of its reservation is free again; what it cost beyond it is taken from what
    /// is available, and the rest becomes debt. The same again changes nothing.
    ///
    /// A fee that cannot be is taken for what was held back: the payment was made, and is recorded.
    ///
    /// A payment that was given up and has happened after all is recorded likewise: its money is gone.
    ///
    /// # Errors
    /// [`PaymentError::Over`] where it was settled with other figures.
    pub fn settled(&mut self, payment: &Hash, outcome: Outcome, at_ms: u64) -> Result<Payment, PaymentError> {
        let row = self.payment(payment)?.ok_or(PaymentError::NotFound(*payment))?;
        let Outcome { amount, mut fee, preimage } = outcome;
        if amount.checked_add(fee).is_none_or(|total| total > Msat::SUPPLY) {
            tracing::error!(%amount, %fee, "a payment's fee is more than there is: what was held back is taken");
            fee = row.fee_reserve;
        }
        if let PaymentState::Settled { amount: known_amount, fee: known_fee, preimage: known } = row.state {
            if (known_amount, known_fee) != (amount, fee) {
                return Err(PaymentError::Over(Box::new(row)));
            }
            let preimage = known.or(preimage);
            return Ok(self.keep(payment, row, PaymentState::Settled { amount, fee, preimage }, at_ms)?);
        }
        let what = What::Settled { payment: *payment, from: row.holder.clone(), amount, fee };
        let make =
            |balances: &Balances| Posting::settle(balances, *payment, &row.holder, row.held(), amount, fee);
        let _ = self.post(format!("settle/{}", row.request), what, &[&row.holder], at_ms, make)?;
        Ok(self.keep(payment, row, PaymentState::Settled { amount, fee, preimage }, at_ms)?)
    }

    /// The payment did not happen, and never will: what was held back is free again. The same again changes nothing.
    ///
    /// # Errors
    /// [`PaymentError::Over`] where it was settled.
    pub fn failed(&mut self, payment: &Hash, reason: &str, at_ms: u64) -> Result<Payment, PaymentError> {
        let row = self.payment(payment)?.ok_or(PaymentError::NotFound(*payment))?;
        match row.state {
            PaymentState::Failed { .. } => return Ok(row),
            PaymentState::Settled { .. } => return Err(PaymentError::Over(Box::new(row))),
            PaymentState::Reserved | PaymentState::InFlight | PaymentState::Unknown => {}
        }
        let what = What::Released { payment: *payment, from: row.holder.clone() };
        let make = |balances: &Balances| Posting::release(balances, *payment, &row.holder, row.held());
        let _ = self.post(format!("release/{}", row.request), what, &[&row.holder], at_ms, make)?;
        let reason =
            reason.get(..reason.floor_char_boundary(REASON_BYTES_MAX)).unwrap_or_default().to_owned();
        Ok(self.keep(payment, row, PaymentState::Failed { reason }, at_ms)?)
    }

    /// Pays an invoice of another holder of this wallet, without Lightning, which cannot pay itself: no fee, settled
    /// at once. The caller sees to it that the invoice cannot be paid from outside any more.
    ///
    /// # Errors
    /// [`OwnInvoiceError`]; nothing has moved then.
    pub fn pay_inside(
        &mut self,
        new: &NewPayment<'_>,
        preimage: Option<Hash>,
    ) -> Result<Reservation, OwnInvoiceError> {
        let NewPayment { payment, holder, amount, request, at_ms } = *new;
        let invoice = self.invoice(&payment)?.ok_or(OwnInvoiceError::NotOurs)?;
        let to = invoice.holder.clone();
        let what = What::PaidInside { payment, from: holder.clone(), to: to.clone(), amount };
        if let Some(known) = self.known(&format!("inside/{request}"), &what, &payment)? {
            return Ok(Reservation::Known(known));
        }
        if matches!(invoice.state, InvoiceState::Paid { .. }) {
            return Err(OwnInvoiceError::Paid);
        }
        if invoice.expires_ms <= at_ms {
            return Err(OwnInvoiceError::Expired);
        }
        if let Some(asked) = invoice.amount.filter(|asked| *asked != amount) {
            return Err(OwnInvoiceError::Amount(asked));
        }
        let id = self.free_id("inside", &payment, request)?;
        let make = |balances: &Balances| Posting::paid_inside(balances, payment, holder, &to, amount);
        let _ = self.post(id, what, &[holder, &to], at_ms, make).map_err(ReserveError::from)?;
        let row = Payment {
            holder: holder.clone(),
            amount,
            fee_reserve: Msat::ZERO,
            request: request.to_owned(),
            state: PaymentState::Settled { amount, fee: Msat::ZERO, preimage },
            began_ms: at_ms,
            changed_ms: at_ms,
        };
        self.draft.put(PAYMENTS, &payment.to_string(), &row)?;
        self.mark_paid(&payment, invoice, amount, at_ms)?;
        Ok(Reservation::New(row))
    }

    /// The payment of a request that was made before, if it was for the same.
    fn known(&mut self, id: &str, what: &What, payment: &Hash) -> Result<Option<Payment>, ReserveError> {
        match self.entry(id)? {
            None => Ok(None),
            Some(entry) if entry.posting.what() == what => Ok(self.payment(payment)?),
            Some(_) => Err(PostError::Conflict(id.to_owned()).into()),
        }
    }

    /// The posting id of a new attempt, if there may be one.
    fn free_id(&mut self, stage: &str, payment: &Hash, request: &str) -> Result<String, ReserveError> {
        if !(1..=ID_BYTES_MAX).contains(&request.len()) {
            return Err(PostError::BadId(request.len()).into());
        }
        match self.payment(payment)? {
            Some(row) if row.state.is_open() => Err(ReserveError::Busy(Box::new(row))),
            Some(row) if matches!(row.state, PaymentState::Settled { .. }) => {
                Err(ReserveError::Paid(Box::new(row)))
            }
            Some(_) | None => Ok(format!("{stage}/{request}")),
        }
    }

    /// Moves a payment to a state in which its reservation is held.
    fn wait(&mut self, payment: &Hash, state: PaymentState, at_ms: u64) -> Result<Payment, PaymentError> {
        let row = self.payment(payment)?.ok_or(PaymentError::NotFound(*payment))?;
        if !row.state.is_open() {
            return Err(PaymentError::Over(Box::new(row)));
        }
        Ok(self.keep(payment, row, state, at_ms)?)
    }

    /// Writes a payment's state down, where it changed.
    fn keep(
        &mut self,
        payment: &Hash,
        row: Payment,
        state: PaymentState,
        at_ms: u64,
    ) -> Result<Payment, StoreError> {
        if row.state == state {
            return Ok(row);
        }
        let row = Payment { state, changed_ms: at_ms, ..row };
        self.draft.put(PAYMENTS, &payment.to_string(), &row)?;
        if !row.state.is_open() {
            self.draft.remove(OPEN, &payment.to_string())?;
        }
        Ok(row)
    }
}
