//! A payment from the wish to the moment it is reserved, and what whoever asked is answered.
//!
//! The key of the call names the payment: asked again under it, after a crash say, it is the same payment.

use std::time::Duration;

use oa_nips::files::Code;
use oa_nips::hex::{Hash, Hex};
use oa_wallet::account::{Holder, Ledger, NewPayment, Reservation, ReserveError, fee_reserve};
use oa_wallet::backend::{Error as Unpayable, Network, bolt11};
use oa_wallet::msat::Msat;
use oa_wallet::store::Draft;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::bank::PLAY_MONEY;
use super::error::{invalid, said};
use super::item::{self, Item, PayStage, Payment, Place, What};
use super::leave::{Grants, Leave, Under, reconcile, spend};
use super::{Money, PayAsked};
use crate::agent::envelope::{Heard, Origin};
use crate::namespace::Error;
use crate::namespace::service::{ChangeKey, LookUp};
use crate::store::write::Write;

/// Those that invoices are for.
const NETWORKS: [Network; 4] = [Network::Mainnet, Network::Testnet, Network::Signet, Network::Regtest];

/// Who pays, and under what.
#[derive(Debug, Clone)]
pub(crate) struct Payer {
    pub(crate) holder: Holder,
    /// In a tick: what limits it. Owners and operators are under nothing.
    pub(crate) under: Option<Under>,
    /// Who is answered when the payment ends later.
    pub(crate) origin: Option<Origin>,
    /// The event in whose tick it is asked for, if it is one.
    pub(crate) heard: Option<Heard>,
}

/// A payment that may be begun.
struct Begin<'a> {
    payer: &'a Payer,
    invoice: &'a str,
    hash: Hash,
    amount: Msat,
    call: Hash,
    leave: Option<Leave>,
}

impl Money {
    /// Pays an invoice, once for each key; answers the receipt, or that it is pending and where to look.
    ///
    /// # Errors
    /// What is wrong with it, what is in the way, or why it failed.
    pub(crate) async fn pay(
        &self,
        payer: &Payer,
        asked: &PayAsked,
        key: ChangeKey,
    ) -> Result<Vec<u8>, Error> {
        let call = Hex(key);
        if let Some(place) = self.of_call(&call)? {
            return self.answer(&place).await;
        }
        let (bill, amount) = asked.bill()?;
        self.check(asked, amount)?;
        let hash = bill.payment_hash.0;
        if !self.is_ours(&hash)? {
            self.connected().await?;
        } else if self.is_paid_already(&hash).await? {
            return Err(said(Code::Exists, "the invoice is paid already"));
        }
        let leave = payer.under.as_ref().map(|under| self.leave(under)).transpose()?;
        let invoice = asked.invoice.as_str();
        let begin = Begin { payer, invoice, hash, amount, call, leave };
        let place = self.begin(&begin).await?;
        self.answer(&place).await
    }

    /// What became of a payment whose reply was lost.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub(crate) async fn look_up_payment(&self, key: ChangeKey) -> Result<LookUp, Error> {
        match self.of_call(&Hex(key))? {
            None => Ok(LookUp::NotDone),
            Some(place) => Ok(match self.answer(&place).await {
                Ok(reply) => LookUp::Done(reply),
                Err(error) if error.code == Code::Io => return Err(error),
                Err(error) => LookUp::Failed(error),
            }),
        }
    }

    /// The item that a call made before.
    pub(super) fn of_call(&self, call: &Hash) -> Result<Option<Place>, Error> {
        let rows = self.inner.book.rows();
        Ok(item::of_call(&mut Draft::new(&rows), call)?)
    }

    /// What can be known of an invoice before anything is held back for it. Where the wallet's network is not known, or
    /// is none, any will do: the wallet has the last word.
    fn check(&self, asked: &PayAsked, amount: Msat) -> Result<(), Error> {
        let now = Duration::from_millis(self.now_ms());
        let named = self.known().network.clone();
        let ours = match named.as_deref() {
            // Invoices of play money are written as if for a chain of one's own.
            Some(PLAY_MONEY) => Some(Network::Regtest),
            named => NETWORKS.into_iter().find(|network| named == Some(network.name())),
        };
        let read = NETWORKS.into_iter().find_map(|network| {
            match bolt11(&asked.invoice, Some(amount), network, now) {
                Err(Unpayable::WrongNetwork { .. }) => None,
                read => Some((network, read)),
            }
        });
        match (read, ours) {
            (Some((theirs, _)), Some(ours)) if theirs != ours => Err(invalid(format!(
                "the invoice is for {}, and the node's wallet is on {}",
                theirs.name(),
                ours.name()
            ))),
            (Some((_, Err(Unpayable::Expired))), _) => {
                Err(invalid("the invoice has expired: ask for a new one"))
            }
            (Some((_, Err(error))), _) => Err(invalid(error.to_string())),
            (Some((_, Ok(_))), _) => Ok(()),
            (None, _) => Err(invalid("the invoice is for no network that is known here")),
        }
    }

    /// Whether an invoice is one of this node's accounts.
    pub(super) fn is_ours(&self, hash: &Hash) -> Result<bool, Error> {
        let rows = self.inner.book.rows();
        Ok(Ledger::new(&mut Draft::new(&rows)).invoice(hash)?.is_some())
    }

    /// Waits a little for the wallet.
    pub(super) async fn connected(&self) -> Result<(), Error> {
        let mut listening = self.inner.bank.listening();
        let stands = listening.wait_for(|stands| *stands);
        match timeout(self.inner.pace.listening_within, stands).await {
            Ok(Ok(_)) => Ok(()),
            _ => {
                Err(said(Code::Unavailable, "no relay of the node's wallet is connected: nothing was begun"))
            }
        }
    }

    /// Holds back what the payment can cost, or makes it at once where the payee is of this node.
    async fn begin(&self, begin: &Begin<'_>) -> Result<Place, Error> {
        let now_ms = self.now_ms();
        let work = |draft: &mut Draft<'_>, also: &mut Vec<Write>| {
            // Somebody may have been faster, under this very key.
            if let Some(place) = item::of_call(draft, &begin.call)? {
                return Ok(place);
            }
            match Ledger::new(draft).invoice(&begin.hash)? {
                Some(_) => self.pay_inside(draft, also, begin, now_ms),
                None => reserve(draft, begin, now_ms),
            }
        };
        self.inner.book.write(work).await
    }

    fn pay_inside(
        &self,
        draft: &mut Draft<'_>,
        also: &mut Vec<Write>,
        begin: &Begin<'_>,
        now_ms: u64,
    ) -> Result<Place, Error> {
        let request = begin.call.to_string();
        let holder = &begin.payer.holder;
        let grants = spend(draft, holder, begin.leave.as_ref(), begin.amount, now_ms)?;
        let Begin { hash, amount, .. } = *begin;
        let new = NewPayment { payment: hash, holder, amount, request: &request, at_ms: now_ms };
        let invoice = Ledger::new(draft).invoice(&hash)?;
        let payee = invoice.as_ref().map_or_else(Holder::operator, |invoice| invoice.holder.clone());
        let _ = Ledger::new(draft).pay_inside(&new, None)?;
        reconcile(draft, holder, grants, amount, now_ms)?;
        let stage = PayStage::Settled { preimage: None, fee: Msat::ZERO, is_fee_known: true };
        let place = add(draft, begin, stage, Some(payee), grants, Msat::ZERO, now_ms)?;
        let by = Some(holder.clone());
        self.received(draft, also, &hash, amount, by, now_ms)?;
        Ok(place)
    }

    /// Waits for the end of a payment, a while, and answers what is known then.
    pub(super) async fn answer(&self, place: &Place) -> Result<Vec<u8>, Error> {
        let payment = self.payment(place)?;
        if !payment.stage.is_open() {
            return receipt(place, &payment);
        }
        let mut course = self.course(place, &payment);
        // It ends by dropping its end of the signal, when there is something to read.
        let ended = timeout(self.inner.pace.answer_within, async { while course.changed().await.is_ok() {} });
        if ended.await.is_err() {
            tracing::debug!(account = %place.holder, item = place.n, "a payment takes long");
        }
        self.pending(place).await
    }

    /// Notes that somebody was told to look later, so that an envelope tells of the end; or answers the end, if it
    /// came just now.
    async fn pending(&self, place: &Place) -> Result<Vec<u8>, Error> {
        let work = |draft: &mut Draft<'_>, _: &mut Vec<Write>| {
            let mut found = item::get(draft, place)?;
            let What::Payment(payment) = &mut found.what else { return Err(not_a_payment(place)) };
            if payment.stage.is_open() && !payment.is_awaited {
                payment.is_awaited = true;
                item::put(draft, place, &found)?;
            }
            Ok(found)
        };
        match self.inner.book.write(work).await?.what {
            What::Payment(payment) => receipt(place, &payment),
            _ => Err(not_a_payment(place)),
        }
    }

    pub(super) fn payment(&self, place: &Place) -> Result<Payment, Error> {
        let rows = self.inner.book.rows();
        match item::get(&mut Draft::new(&rows), place)?.what {
            What::Payment(payment) => Ok(*payment),
            _ => Err(not_a_payment(place)),
        }
    }
}

fn not_a_payment(place: &Place) -> Error {
    Error::io(place.path(), "is no payment")
}

/// Holds back amount and fees, in the account and under the caps.
fn reserve(draft: &mut Draft<'_>, begin: &Begin<'_>, now_ms: u64) -> Result<Place, Error> {
    let Begin { hash, amount, .. } = *begin;
    let fees = fee_reserve(amount);
    let (request, holder) = (begin.call.to_string(), &begin.payer.holder);
    let grants = spend(draft, holder, begin.leave.as_ref(), amount.saturating_add(fees), now_ms)?;
    let new = NewPayment { payment: hash, holder, amount, request: &request, at_ms: now_ms };
    match Ledger::new(draft).reserve(&new) {
        Ok(Reservation::New(_) | Reservation::Known(_)) => {}
        Err(ReserveError::Paid(other) | ReserveError::Busy(other)) if other.holder == *holder => {
            let known =
                other.request.parse().ok().map(|call| item::of_call(draft, &call)).transpose()?.flatten();
            let at = known.map_or_else(String::new, |place| format!(": see {}", place.path()));
            let is_over = !other.state.is_open();
            let code = if is_over { Code::Exists } else { Code::Unavailable };
            let how = if is_over { "paid already" } else { "being paid already" };
            return Err(said(code, format!("the invoice is {how}{at}")));
        }
        Err(error) => return Err(error.into()),
    }
    add(draft, begin, PayStage::Reserved, None, grants, fees, now_ms)
}

fn add(
    draft: &mut Draft<'_>,
    begin: &Begin<'_>,
    stage: PayStage,
    to: Option<Holder>,
    grants: Grants,
    fee_reserve: Msat,
    now_ms: u64,
) -> Result<Place, Error> {
    let payment = Payment {
        call: begin.call,
        payment_hash: begin.hash,
        invoice: begin.invoice.to_owned(),
        amount: begin.amount,
        fee_reserve,
        grant: grants.capped,
        unasked: grants.unasked,
        origin: begin.payer.origin.clone(),
        heard: begin.payer.heard.clone(),
        to,
        is_awaited: false,
        stage,
    };
    let item = Item::new(now_ms, What::Payment(Box::new(payment)));
    let place = item::add(draft, &begin.payer.holder, &item)?;
    item::set_call(draft, &begin.call, &place)?;
    Ok(place)
}

/// What whoever asked is answered.
fn receipt(place: &Place, payment: &Payment) -> Result<Vec<u8>, Error> {
    let told = match &payment.stage {
        PayStage::Reserved | PayStage::Sent(_) => json!({
            "state": "pending",
            "payment_hash": payment.payment_hash,
            "amount_msat": payment.amount,
            "path": place.path(),
        }),
        PayStage::Settled { preimage, fee, is_fee_known } => {
            let mut told = json!({
                "state": "settled",
                "payment_hash": payment.payment_hash,
                "preimage": preimage,
                "amount_msat": payment.amount,
                "fee_msat": fee,
                "path": place.path(),
            });
            if let (false, Some(told)) = (*is_fee_known, told.as_object_mut()) {
                told.insert("fee_known".to_owned(), Value::Bool(false));
            }
            told
        }
        PayStage::Failed { code, reason } => return Err(said(*code, reason.clone())),
    };
    Ok(told.to_string().into_bytes())
}
