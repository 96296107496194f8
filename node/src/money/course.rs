//! A payment from its reservation to its end: prepared, written down, sent, looked up until the end is known.
//!
//! One task for each payment that is not over. What it knows is in the rows: where it ends before the payment does,
//! with the process, another begins from there.

use oa_nips::files::Code;
use oa_nips::hex::{Hash, Hex};
use oa_wallet::account::{Ledger, Outcome as Facts};
use oa_wallet::msat::Msat;
use oa_wallet::nwc::client::{Outcome, Prepared};
use oa_wallet::nwc::message::PayOrder;
use oa_wallet::store::Draft;
use tokio::sync::watch as signal;

use super::error::code_of;
use super::item::{self, Item, PayStage, Payment, Place, What};
use super::leave::{Grants, reconcile};
use super::{Money, lock};
use crate::namespace::Error;
use crate::store::write::Write;

/// A payment that was reserved and never sent is given up after this, in milliseconds: whoever wanted it has long
/// ceased to wait when a node comes back later than that.
const RESERVED_MS_MAX: u64 = 10 * 60 * 1000;

impl Money {
    /// The task that carries a payment, begun if there is none. Its signal closes when there is something to read.
    pub(super) fn course(&self, place: &Place, payment: &Payment) -> signal::Receiver<()> {
        let call = payment.call;
        let mut courses = lock(&self.inner.courses);
        if let Some(known) = courses.get(&call).filter(|known| known.has_changed().is_ok()) {
            return known.clone();
        }
        let (ends, course) = signal::channel(());
        courses.insert(call, course.clone());
        drop(courses);
        let (money, place, cancel) = (self.clone(), place.clone(), self.inner.cancel.clone());
        self.inner.tasks.spawn(async move {
            let carried = cancel.run_until_cancelled(Box::pin(money.carry(&place))).await;
            if let Some(Err(error)) = carried {
                tracing::error!(account = %place.holder, item = place.n, %error, "a payment waits for the next start");
            }
            lock(&money.inner.courses).remove(&call);
            drop(ends);
        });
        course
    }

    async fn carry(&self, place: &Place) -> Result<(), Error> {
        loop {
            let payment = self.payment(place)?;
            match &payment.stage {
                PayStage::Reserved => self.send(place, &payment).await?,
                PayStage::Sent(_) if self.is_stranded(&payment) => {
                    self.unknown(&payment.payment_hash).await?;
                    let (account, amount) = (&place.holder, payment.amount);
                    tracing::error!(%account, item = place.n, %amount, "a payment was ordered over another connection to a wallet: it stays reserved until that is back, or an operator settles it");
                    return Ok(());
                }
                PayStage::Sent(prepared) => {
                    let outcome = self.inner.bank.perform(prepared).await;
                    let outcome = self.known_end(place, &payment, prepared, outcome).await?;
                    self.end(place, outcome).await?;
                }
                PayStage::Settled { .. } | PayStage::Failed { .. } => return Ok(()),
            }
        }
    }

    /// Writes the request down that is about to go out.
    async fn send(&self, place: &Place, payment: &Payment) -> Result<(), Error> {
        let item = self.item(place)?;
        if self.now_ms().saturating_sub(item.at_ms) > RESERVED_MS_MAX {
            let reason = "the node went away before it was sent".to_owned();
            return self.end(place, End::Failed { code: Code::Unavailable, reason }).await;
        }
        if self.is_paid_already(&payment.payment_hash).await? {
            let reason = "the invoice is paid already, by somebody else who has this wallet".to_owned();
            return self.end(place, End::Failed { code: Code::Exists, reason }).await;
        }
        let amount = Some(payment.amount);
        let order = PayOrder { invoice: payment.invoice.clone(), amount, metadata: None };
        let prepared = match self.inner.bank.prepare(order).await {
            Ok(prepared) => Box::new(prepared),
            Err(error) => {
                let Error { code, reason, .. } = error.into();
                return self.end(place, End::Failed { code, reason }).await;
            }
        };
        let (hash, now_ms) = (payment.payment_hash, self.now_ms());
        let work = |draft: &mut Draft<'_>, _: &mut Vec<Write>| {
            let mut found = item::get(draft, place)?;
            let Some(payment) = open(&mut found) else { return Ok(()) };
            // One request of a payment, ever: who comes second carries what the first has written.
            if !matches!(payment.stage, PayStage::Reserved) {
                return Ok(());
            }
            payment.stage = PayStage::Sent(prepared.clone());
            found.changed_ms = now_ms;
            Ledger::new(draft).sent(&hash, now_ms)?;
            Ok(item::put(draft, place, &found)?)
        };
        self.inner.book.write(work).await
    }

    /// Looks a payment up, rarer and rarer, until its end is known.
    async fn known_end(
        &self,
        place: &Place,
        payment: &Payment,
        prepared: &Prepared,
        mut outcome: Outcome,
    ) -> Result<End, Error> {
        let pace = self.inner.pace;
        let mut pause = pace.again;
        loop {
            match outcome {
                Outcome::Settled { preimage, fee } => {
                    return Ok(End::Settled { preimage: Some(Hex(preimage.0)), fee });
                }
                Outcome::Failed { code, message } => {
                    let reason = format!("the payment failed: {message} ({code})");
                    return Ok(End::Failed { code: code_of(code), reason });
                }
                Outcome::Unknown => self.unknown(&payment.payment_hash).await?,
            }
            tracing::warn!(account = %place.holder, item = place.n, "the outcome of a payment is not known yet");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(pace.again_last);
            outcome = self.inner.bank.resolve(prepared).await;
        }
    }

    async fn unknown(&self, hash: &Hash) -> Result<(), Error> {
        let now_ms = self.now_ms();
        let work = |draft: &mut Draft<'_>, _: &mut Vec<Write>| {
            Ledger::new(draft).unknown(hash, now_ms)?;
            Ok(())
        };
        self.inner.book.write(work).await
    }

    /// Lands the end of a payment: ledger, caps, its item, and the envelope for whoever was told to wait.
    pub(super) async fn end(&self, place: &Place, end: End) -> Result<(), Error> {
        let now_ms = self.now_ms();
        let work = |draft: &mut Draft<'_>, also: &mut Vec<Write>| {
            let mut found = item::get(draft, place)?;
            let Some(payment) = open(&mut found) else { return Ok(()) };
            let hash = payment.payment_hash;
            let (stage, spent) = match &end {
                End::Settled { preimage, fee } => {
                    // A wallet that does not say what it cost is taken to have used all that was held back.
                    let cost = fee.unwrap_or(payment.fee_reserve);
                    let facts = Facts { amount: payment.amount, fee: cost, preimage: *preimage };
                    Ledger::new(draft).settled(&hash, facts, now_ms)?;
                    let spent = payment.amount.saturating_add(cost);
                    let (preimage, is_fee_known) = (*preimage, fee.is_some());
                    (PayStage::Settled { preimage, fee: cost, is_fee_known }, spent)
                }
                End::Failed { code, reason } => {
                    Ledger::new(draft).failed(&hash, reason, now_ms)?;
                    (PayStage::Failed { code: *code, reason: reason.clone() }, Msat::ZERO)
                }
            };
            payment.stage = stage;
            let grants = Grants { capped: payment.grant, unasked: payment.unasked };
            let is_awaited = payment.is_awaited;
            found.changed_ms = now_ms;
            reconcile(draft, &place.holder, grants, spent, now_ms)?;
            item::put(draft, place, &found)?;
            if is_awaited {
                self.tell(also, place, &found, "ended", now_ms)?;
            }
            Ok(())
        };
        self.inner.book.write(work).await
    }

    fn item(&self, place: &Place) -> Result<Item, Error> {
        let rows = self.inner.book.rows();
        item::get(&mut Draft::new(&rows), place)
    }
}

/// How a payment ended.
#[derive(Debug)]
pub(super) enum End {
    /// Without a preimage an operator says so.
    Settled {
        preimage: Option<Hash>,
        fee: Option<Msat>,
    },
    Failed {
        code: Code,
        reason: String,
    },
}

/// The payment of an item, while it is not over.
fn open(item: &mut Item) -> Option<&mut Payment> {
    match &mut item.what {
        What::Payment(payment) if payment.stage.is_open() => Some(payment),
        _ => None,
    }
}
