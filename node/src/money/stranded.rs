//! Payments that were ordered over another connection than the one that is configured now.
//!
//! Another wallet, or another account of the same, has never heard of them, and its word would free what the right one
//! may have paid. They stay reserved until their connection is back, or until an operator, who can look into that
//! wallet, says how they ended.

use oa_nips::files::Code;
use oa_nips::hex::Hash;
use oa_wallet::account::{Ledger, open_payments};
use oa_wallet::msat::Msat;
use oa_wallet::store::Draft;
use serde_json::{Value, json};

use super::course::End;
use super::error::{invalid, said};
use super::item::{self, PayStage, Payment, Place};
use super::{Ended, Money, SettleAsked};
use crate::namespace::Error;
use crate::namespace::service::LookUp;

/// Payments under way that are looked through.
const OPEN_MAX: usize = 1024;

impl Money {
    /// Whether a payment waits for a connection that is not there.
    pub(super) fn is_stranded(&self, payment: &Payment) -> bool {
        matches!(&payment.stage, PayStage::Sent(prepared) if !self.inner.bank.has_ordered(prepared))
    }

    /// The payments that wait for a connection that is not there.
    pub(crate) fn stranded(&self) -> Result<Vec<Value>, Error> {
        let mut stranded = Vec::new();
        for (hash, _) in open_payments(&self.inner.book.rows(), None, OPEN_MAX)? {
            let Some(place) = self.of_payment(&hash)? else { continue };
            let payment = self.payment(&place)?;
            if self.is_stranded(&payment) {
                stranded.push(json!({
                    "payment": hash,
                    "account": self.name(&place.holder),
                    "amount_msat": payment.amount,
                    "reserved_msat": payment.amount.saturating_add(payment.fee_reserve),
                    "path": place.path(),
                }));
            }
        }
        Ok(stranded)
    }

    /// Ends a payment as an operator says. Asked again it is answered what it came to.
    ///
    /// # Errors
    /// Where the wallet that is connected can still be asked how it ended, or it ended otherwise.
    pub(crate) async fn settle(&self, asked: &SettleAsked) -> Result<Vec<u8>, Error> {
        let place = self.of_payment(&asked.payment)?.ok_or_else(|| no_payment(&asked.payment))?;
        let payment = self.payment(&place)?;
        if self.is_stranded(&payment) {
            tracing::warn!(account = %place.holder, item = place.n, outcome = ?asked.outcome, "a payment is ended by hand");
            let end = match asked.outcome {
                Ended::Paid => End::Settled { preimage: None, fee: asked.fee_msat },
                Ended::Failed => {
                    let reason = "an operator says that it was not made".to_owned();
                    End::Failed { code: Code::Unavailable, reason }
                }
            };
            self.end(&place, end).await?;
        }
        self.ended_as(&place, asked.outcome)
    }

    /// What became of a settling whose reply was lost.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub(crate) fn look_up_settling(&self, asked: &SettleAsked) -> Result<LookUp, Error> {
        let Some(place) = self.of_payment(&asked.payment)? else { return Ok(LookUp::NotDone) };
        if self.payment(&place)?.stage.is_open() {
            return Ok(LookUp::NotDone);
        }
        Ok(match self.ended_as(&place, asked.outcome) {
            Ok(reply) => LookUp::Done(reply),
            Err(error) => LookUp::Failed(error),
        })
    }

    fn ended_as(&self, place: &Place, outcome: Ended) -> Result<Vec<u8>, Error> {
        match (self.payment(place)?.stage, outcome) {
            (PayStage::Reserved | PayStage::Sent(_), _) => {
                Err(said(Code::Unavailable, "the wallet is still asked how the payment ended"))
            }
            (PayStage::Settled { .. }, Ended::Paid) | (PayStage::Failed { .. }, Ended::Failed) => {
                let shown = self.item_of(&place.holder, place.n)?.unwrap_or_default();
                Ok(shown.to_string().into_bytes())
            }
            (PayStage::Settled { .. }, Ended::Failed) => Err(said(Code::Exists, "the payment was made")),
            (PayStage::Failed { .. }, Ended::Paid) => {
                Err(said(Code::Exists, "the payment has failed already"))
            }
        }
    }

    /// The item of the payment of an invoice.
    fn of_payment(&self, hash: &Hash) -> Result<Option<Place>, Error> {
        let rows = self.inner.book.rows();
        let mut draft = Draft::new(&rows);
        let call = Ledger::new(&mut draft).payment(hash)?.and_then(|payment| payment.request.parse().ok());
        Ok(call.map(|call| item::of_call(&mut draft, &call)).transpose()?.flatten())
    }
}

fn no_payment(hash: &Hash) -> Error {
    said(Code::NotFound, format!("no payment {hash}"))
}

/// Whether what an operator says can be.
pub(super) fn check(asked: SettleAsked) -> Result<SettleAsked, Error> {
    match (asked.outcome, asked.fee_msat) {
        (Ended::Failed, Some(_)) => Err(invalid("what failed has no fee")),
        (_, Some(fee)) if fee > Msat::SUPPLY => Err(invalid(format!("a fee of {fee} cannot be"))),
        _ => Ok(asked),
    }
}
