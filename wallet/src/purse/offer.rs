//! Offers (BOLT 12), for admin connections: made, and paid from the operator's account.
//!
//! A payment of an offer has no hash before its payee has answered, and the backend names it. So what it can cost is
//! held back under a name drawn here, and goes over to the backend's once that is known. A crash in between leaves
//! nothing held back; what was sent all the same is found by the comparison with the backend's balance.

use std::sync::Arc;
use std::time::Duration;

use oa_nips::hex::Hex;
use oa_nips::nostr::secp256k1::rand::RngCore as _;
use oa_nips::nostr::secp256k1::rand::rngs::OsRng;
use serde::Deserialize;
use serde_json::{Value, json};

use super::note::PaymentNote;
use super::receive::unposted;
use super::send::unchanged;
use super::steer::told;
use super::{Inner, refusal};
use crate::account::{
    Holder, Ledger, NewPayment, PaymentState, PostError, Refused, ReserveError, fee_reserve,
};
use crate::backend::{PaymentHash, State};
use crate::msat::Msat;
use crate::nwc::message::{Error, ErrorCode};
use crate::nwc::purse::PurseError;
use crate::store::Draft;

/// How long an answer waits for the end of a payment: less than a client waits for the answer.
const PAID_WITHIN: Duration = Duration::from_secs(15);

/// Parameters of `oa_offer`.
#[derive(Debug, Deserialize)]
pub(super) struct MakeOffer {
    #[serde(default)]
    amount_msat: Option<Msat>,
    #[serde(default)]
    description: String,
}

/// Parameters of `oa_pay_offer`. The amount is the payer's to name: an offer that asks for another is refused.
#[derive(Debug, Deserialize)]
pub(super) struct PayOffer {
    offer: String,
    amount_msat: Msat,
    #[serde(default)]
    note: Option<String>,
}

impl Inner {
    pub(super) async fn make_offer(&self, make: MakeOffer) -> Result<Value, Error> {
        let offer = self.backend.offer(make.amount_msat, &make.description).await;
        Ok(json!({ "offer": offer.map_err(told)? }))
    }

    pub(super) async fn pay_offer(self: &Arc<Self>, pay: PayOffer) -> Result<Value, Error> {
        let inner = self.clone();
        let id = self.whole(async move { inner.begin_offer(pay).await }).await?;
        let unknown =
            || Error::new(ErrorCode::Internal, "it is not known yet whether it is paid: see the history");
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(unknown()),
            waited = self.backend.wait(id, PAID_WITHIN) => waited.map_err(|_| unknown())?,
        };
        self.resolve(id).await.map_err(|_| unknown())?;
        let row = self.row(id).await.map_err(|_| unknown())?;
        match row.map(|row| row.state) {
            Some(PaymentState::Settled { amount, fee, .. }) => {
                let known = self.backend.look_up(id).await.map_err(told)?;
                let hash = known.as_ref().and_then(|known| known.hash);
                let preimage = known.and_then(|known| match known.state {
                    State::Settled { preimage, .. } => preimage.map(|preimage| preimage.reveal()),
                    State::Pending | State::Failed { .. } => None,
                });
                Ok(json!({
                    "payment_hash": hash.map(|hash| hash.to_string()),
                    "preimage": preimage,
                    "amount_msat": amount,
                    "fee_msat": fee,
                }))
            }
            Some(PaymentState::Failed { reason }) => Err(Error::new(ErrorCode::PaymentFailed, reason)),
            _ => Err(unknown()),
        }
    }

    async fn begin_offer(&self, pay: PayOffer) -> Result<PaymentHash, PurseError> {
        let PayOffer { offer, amount_msat: amount, note } = pay;
        let _one_at_a_time = self.offers.lock().await;
        let (held, at_ms) = (drawn(), self.now_ms());
        self.book.write(move |draft| hold(draft, held, amount, at_ms)).await?;
        let begun = self.backend.pay_offer(&offer, Some(amount), note.as_deref(), fee_reserve(amount)).await;
        let id = match begun {
            Ok(payment) => payment.id,
            Err(error) => {
                self.fail(held, error.to_string()).await?;
                return Err(refusal(error));
            }
        };
        self.book
            .write(move |draft| {
                let moved = format!("it goes on as {id}");
                Ledger::new(draft).failed(&held.0, &moved, at_ms).map(drop).map_err(unchanged)?;
                hold(draft, id, amount, at_ms)?;
                let paid = PaymentNote {
                    holder: Holder::operator(),
                    hash: id.0,
                    bolt11: None,
                    description: note.clone(),
                    metadata: None,
                    amount,
                    began_ms: at_ms,
                };
                Ok(paid.add(draft, &request(id))?)
            })
            .await?;
        Ok(id)
    }
}

fn drawn() -> PaymentHash {
    let mut bytes = [0; 32];
    OsRng.fill_bytes(&mut bytes);
    PaymentHash(Hex(bytes))
}

/// The name of an attempt, beside those that requests give.
fn request(id: PaymentHash) -> String {
    format!("offer {id}")
}

/// Holds back what it can cost, and says that it is about to be handed over.
fn hold(draft: &mut Draft<'_>, payment: PaymentHash, amount: Msat, at_ms: u64) -> Result<(), PurseError> {
    let (holder, request) = (Holder::operator(), request(payment));
    let new = NewPayment { payment: payment.0, holder: &holder, amount, request: &request, at_ms };
    let mut ledger = Ledger::new(draft);
    let _drawn_just_now = ledger.reserve(&new).map_err(|error| match error {
        ReserveError::Post(PostError::Refused(Refused::Insufficient { .. } | Refused::Paused { .. })) => {
            PurseError::InsufficientBalance
        }
        ReserveError::Post(PostError::Store(error)) => error.into(),
        ReserveError::Post(error @ PostError::Refused(_)) => PurseError::Refused(error.to_string()),
        ReserveError::Post(error) => unposted(error),
        ReserveError::Busy(_) | ReserveError::Paid(_) => PurseError::Unknown,
    })?;
    ledger.sent(&payment.0, at_ms).map(drop).map_err(unchanged)
}
