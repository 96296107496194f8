//! Payments: reserved, handed over, and looked up until their end is known.
//!
//! A row that is `InFlight` is written before the backend is asked, under the lock of its hash; whoever has the lock
//! and finds that the backend has never heard of the hash knows that nothing left.

use std::time::Duration;

use oa_nips::hex::Hex;
use serde_json::Value;

use super::note::{How, InvoiceNote, PaymentNote, Stage};
use super::receive::unposted;
use super::{Inner, refusal};
use crate::account::{
    Holder, Ledger, NewPayment, Outcome, OwnInvoiceError, Payment as Row, PaymentError, PaymentState,
    PostError, Refused, Reservation, ReserveError, fee_reserve,
};
use crate::backend::{
    self, Direction, Error as BackendError, NodeId, PaymentHash, Preimage, Record, State, bolt11,
};
use crate::msat::Msat;
use crate::nwc::bill::Bill;
use crate::nwc::message::{Topic, Transaction};
use crate::nwc::purse::{Keysend, Payment, PurseError};
use crate::store::Draft;

/// How long an answer waits for a payment's end before it says that it is not known yet.
const PAID_WITHIN: Duration = Duration::from_secs(20);

/// A payment that is to begin.
struct Order {
    holder: Holder,
    hash: PaymentHash,
    request: String,
    amount: Msat,
    max_fee: Msat,
    bolt11: Option<String>,
    metadata: Option<Value>,
}

/// What the backend is asked, once all is written down.
enum Ask {
    /// With the amount, where the invoice leaves it open.
    Invoice(String, Option<Msat>),
    Keysend(backend::Keysend),
}

/// Where a payment stands for the request that asks.
enum Standing {
    /// Nobody has begun it: go on.
    Free,
    /// It was begun.
    Begun,
}

impl Inner {
    pub(super) async fn pay(
        self: &std::sync::Arc<Self>,
        account: &Holder,
        payment: Payment,
    ) -> Result<Transaction, PurseError> {
        let (hash, request) = (payment.payment_hash, payment.request.to_hex());
        let (inner, order) = (self.clone(), Order::of(account, payment));
        self.whole(async move { inner.begin_invoice(order).await }).await?;
        self.outcome(account, hash, request).await
    }

    pub(super) async fn pay_keysend(
        self: &std::sync::Arc<Self>,
        account: &Holder,
        keysend: Keysend,
    ) -> Result<Transaction, PurseError> {
        let (hash, request) = (keysend.preimage.hash(), keysend.request.to_hex());
        let (inner, account_too) = (self.clone(), account.clone());
        self.whole(async move { inner.begin_keysend(account_too, keysend).await }).await?;
        self.outcome(account, hash, request).await
    }

    async fn begin_invoice(&self, order: Order) -> Result<(), PurseError> {
        let _lock = self.locks.lock(order.hash).await;
        if let Standing::Begun = self.standing(&order).await? {
            return Ok(());
        }
        let text = order.bolt11.clone().unwrap_or_default();
        let bill = Bill::read(&text).map_err(refused)?;
        if bill.payment_hash != order.hash {
            return Err(refused("the invoice has another payment hash"));
        }
        let given = bill.amount.is_none().then_some(order.amount);
        let info = self.backend.info().await.map_err(refusal)?;
        let checked =
            bolt11(&text, given, info.network, Duration::from_millis(self.now_ms())).map_err(refusal)?;
        if checked.amount != order.amount {
            return Err(refused("the invoice is for another amount"));
        }
        if checked.payee == info.node_id {
            return self.begin_inside(order).await;
        }
        self.begin_outside(order, Ask::Invoice(text, given)).await
    }

    async fn begin_keysend(&self, holder: Holder, keysend: Keysend) -> Result<(), PurseError> {
        let Keysend { payee, amount, max_fee, preimage, records, request } = keysend;
        let hash = preimage.hash();
        let order =
            Order { holder, hash, request: request.to_hex(), amount, max_fee, bolt11: None, metadata: None };
        let _lock = self.locks.lock(hash).await;
        if let Standing::Begun = self.standing(&order).await? {
            return Ok(());
        }
        let payee: NodeId = payee.to_lowercase().parse().map_err(refusal)?;
        if payee == self.backend.info().await.map_err(refusal)?.node_id {
            return Err(refused(
                "a payment to this wallet itself: accounts move money by invoices or transfers",
            ));
        }
        let record = |tlv: crate::nwc::message::Tlv| {
            let value = unhex(&tlv.value).ok_or_else(|| refused("a record's value is not hex"))?;
            Ok(Record { kind: tlv.number, value })
        };
        let records = records.into_iter().map(record).collect::<Result<Vec<_>, PurseError>>()?;
        let fee_max = order.fee_max();
        self.begin_outside(
            order,
            Ask::Keysend(backend::Keysend { payee, amount, preimage, fee_max, records }),
        )
        .await
    }

    /// Whether this very request was made before.
    async fn standing(&self, order: &Order) -> Result<Standing, PurseError> {
        let (hash, request, holder) = (order.hash, order.request.clone(), order.holder.clone());
        self.book
            .write(move |draft| match PaymentNote::get(draft, &request)? {
                None => Ok(Standing::Free),
                Some(note) if note.holder == holder && note.hash == hash.0 => Ok(Standing::Begun),
                Some(_) => Err(refused("this request was made for another payment")),
            })
            .await
    }

    /// One account pays another's invoice in the ledger, and the invoice is closed to the outside.
    async fn begin_inside(&self, order: Order) -> Result<(), PurseError> {
        let (hash, at_ms) = (order.hash, self.now_ms());
        let begun = self.book.write(move |draft| order.inside(draft, at_ms)).await;
        let payee = begun.map_err(|error| match error {
            PurseError::Refused(why) => PurseError::Inside(why),
            // The commit itself may have failed half-way: look-up says whether it stands.
            PurseError::Unavailable(_) => PurseError::Unknown,
            error => error,
        })?;
        if let Some(payee) = payee {
            // Where this fails, what comes for the invoice is sent back when it comes.
            if let Err(error) = self.close(hash).await {
                tracing::warn!(%hash, %error, "an invoice that was paid inside is not closed yet");
            }
            self.open.paid(&payee, hash);
            self.tell(&payee, hash, Topic::PaymentReceived).await;
        }
        Ok(())
    }

    async fn begin_outside(&self, order: Order, ask: Ask) -> Result<(), PurseError> {
        let (hash, fee_max, at_ms) = (order.hash, order.fee_max(), self.now_ms());
        let is_new = self.book.write(move |draft| order.outside(draft, at_ms)).await?;
        if !is_new {
            return Ok(());
        }
        let asked = match &ask {
            Ask::Invoice(text, given) => self.backend.pay(text, *given, fee_max).await,
            Ask::Keysend(keysend) => self.backend.keysend(keysend.clone()).await,
        };
        match asked {
            Ok(_) | Err(BackendError::InFlight) => Ok(()),
            // Begun by something else than this attempt, which had only just been written down.
            Err(error @ (BackendError::AlreadyPaid | BackendError::OwnInvoice)) => {
                self.fail(hash, error.to_string()).await
            }
            // After a refusal nothing is under way; the backend's own books are asked all the same.
            Err(error) => match self.backend.look_up(hash).await {
                Ok(None) => self.fail(hash, error.to_string()).await,
                Ok(Some(known)) if matches!(known.state, State::Failed { .. }) => {
                    self.fail(hash, error.to_string()).await
                }
                Ok(Some(_)) | Err(_) => {
                    tracing::warn!(%hash, %error, "it is not known whether a payment was begun");
                    let written = self.book.write(move |draft| {
                        Ledger::new(draft).unknown(&hash.0, at_ms).map(drop).map_err(unchanged)
                    });
                    written.await.map_err(|_| PurseError::Unknown)
                }
            },
        }
    }

    pub(super) async fn fail(&self, hash: PaymentHash, reason: String) -> Result<(), PurseError> {
        let at_ms = self.now_ms();
        self.book
            .write(move |draft| {
                Ledger::new(draft).failed(&hash.0, &reason, at_ms).map(drop).map_err(unchanged)
            })
            .await
    }

    /// What came of a request's payment, waiting a while for its end. It has begun: what cannot be read is unknown.
    async fn outcome(
        &self,
        account: &Holder,
        hash: PaymentHash,
        request: String,
    ) -> Result<Transaction, PurseError> {
        let row = self.row(hash).await.map_err(|_| PurseError::Unknown)?;
        let row = row.filter(|row| row.request == request);
        if row.is_some_and(|row| row.state.is_open()) {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => {}
                waited = self.backend.wait(hash, PAID_WITHIN) => {
                    if let Err(error) = waited {
                        tracing::debug!(%hash, %error, "a payment cannot be waited for");
                    }
                }
            }
            self.resolve(hash).await.map_err(|_| PurseError::Unknown)?;
        }
        match self.row(hash).await.map_err(|_| PurseError::Unknown)? {
            Some(row) if row.request == request && row.holder == *account => match &row.state {
                PaymentState::Settled { .. } => {
                    self.outgoing(request, row).await.map_err(|_| PurseError::Unknown)
                }
                PaymentState::Failed { reason } => Err(PurseError::Failed(reason.clone())),
                PaymentState::Reserved | PaymentState::InFlight | PaymentState::Unknown => {
                    Err(PurseError::Unknown)
                }
            },
            // It failed, and another attempt followed.
            _ => Err(PurseError::Failed("it was tried before, and failed".to_owned())),
        }
    }

    pub(super) async fn row(&self, hash: PaymentHash) -> Result<Option<Row>, PurseError> {
        self.book.write(move |draft| Ok(Ledger::new(draft).payment(&hash.0)?)).await
    }

    /// Asks the backend what became of a payment that is not over, and writes down what is final.
    pub(super) async fn resolve(&self, hash: PaymentHash) -> Result<(), PurseError> {
        let _lock = self.locks.lock(hash).await;
        let Some(row) = self.row(hash).await?.filter(|row| row.state.is_open()) else { return Ok(()) };
        let found = self.backend.look_up(hash).await.map_err(refusal)?;
        match found.filter(|found| found.direction == Direction::Outgoing) {
            None => self.fail(hash, "it was never sent".to_owned()).await,
            Some(found) => match found.state {
                State::Pending => Ok(()),
                State::Failed { why } => self.fail(hash, why.to_string()).await,
                State::Settled { preimage, fee } => {
                    self.paid(hash, found.amount.unwrap_or(row.amount), fee, preimage).await
                }
            },
        }
    }

    /// A payment reached its payee. One that nobody here began is told in the log; the comparison finds its cost.
    pub(super) async fn sent(
        &self,
        hash: PaymentHash,
        fee: Msat,
        preimage: Option<Preimage>,
    ) -> Result<(), PurseError> {
        let _lock = self.locks.lock(hash).await;
        let mut row = self.row(hash).await?;
        if row.is_none() {
            // An offer's payment may be over before its name is written down.
            let _written_down = self.offers.lock().await;
            row = self.row(hash).await?;
        }
        let Some(row) = row else {
            tracing::error!(%hash, "a payment that nobody here began was sent");
            return Ok(());
        };
        self.paid(hash, row.amount, fee, preimage).await
    }

    async fn paid(
        &self,
        hash: PaymentHash,
        amount: Msat,
        fee: Msat,
        preimage: Option<Preimage>,
    ) -> Result<(), PurseError> {
        let preimage = preimage.filter(|preimage| preimage.hash() == hash).map(|preimage| preimage.reveal());
        let (at_ms, outcome) = (self.now_ms(), Outcome { amount, fee, preimage });
        self.book
            .write(move |draft| {
                Ledger::new(draft).settled(&hash.0, outcome, at_ms).map(drop).map_err(unchanged)
            })
            .await
    }
}

impl Order {
    fn of(account: &Holder, payment: Payment) -> Self {
        let Payment { invoice, payment_hash, amount, max_fee, metadata, request } = payment;
        Self {
            holder: account.clone(),
            hash: payment_hash,
            request: request.to_hex(),
            amount,
            max_fee,
            bolt11: Some(invoice),
            metadata,
        }
    }

    /// Never more than is held back.
    fn fee_max(&self) -> Msat {
        self.max_fee.min(fee_reserve(self.amount))
    }

    fn new_payment(&self, at_ms: u64) -> NewPayment<'_> {
        NewPayment {
            payment: self.hash.0,
            holder: &self.holder,
            amount: self.amount,
            request: &self.request,
            at_ms,
        }
    }

    fn note(&self, draft: &mut Draft<'_>, at_ms: u64) -> Result<(), PurseError> {
        let note = PaymentNote {
            holder: self.holder.clone(),
            hash: self.hash.0,
            bolt11: self.bolt11.clone(),
            description: self.bolt11.as_deref().and_then(description),
            metadata: self.metadata.clone(),
            amount: self.amount,
            began_ms: at_ms,
        };
        Ok(note.add(draft, &self.request)?)
    }

    /// Holds back what it can cost and says that it is about to be handed over; false where that was done before.
    fn outside(&self, draft: &mut Draft<'_>, at_ms: u64) -> Result<bool, PurseError> {
        let mut ledger = Ledger::new(draft);
        match ledger.reserve(&self.new_payment(at_ms)).map_err(|error| self.refusal(error))? {
            Reservation::Known(_) => Ok(false),
            Reservation::New(_) => {
                ledger.sent(&self.hash.0, at_ms).map_err(unchanged)?;
                self.note(draft, at_ms)?;
                Ok(true)
            }
        }
    }

    /// Pays in the ledger; answers whom, where that is new.
    fn inside(&self, draft: &mut Draft<'_>, at_ms: u64) -> Result<Option<Holder>, PurseError> {
        let note = InvoiceNote::get(draft, self.hash)?;
        let note = note.ok_or_else(|| refused("an invoice of this wallet that it does not know any more"))?;
        match (note.how, note.stage) {
            (How::Ours, Stage::Open) => {}
            (How::Ours, _) => return Err(refused("the invoice is paid already")),
            _ => return Err(refused("this invoice of the wallet itself can only be paid from outside it")),
        }
        let paid = Ledger::new(draft).pay_inside(&self.new_payment(at_ms), note.preimage);
        match paid.map_err(|error| self.inside_refusal(error))? {
            Reservation::Known(_) => Ok(None),
            Reservation::New(_) => {
                self.note(draft, at_ms)?;
                Ok(Some(note.holder))
            }
        }
    }

    fn inside_refusal(&self, error: OwnInvoiceError) -> PurseError {
        match error {
            OwnInvoiceError::Reserve(error) => self.refusal(error),
            OwnInvoiceError::NotOurs
            | OwnInvoiceError::Expired
            | OwnInvoiceError::Amount(_)
            | OwnInvoiceError::Paid => refused(error),
        }
    }

    /// Says nothing of other holders' payments but that there is one.
    fn refusal(&self, error: ReserveError) -> PurseError {
        match error {
            ReserveError::Busy(row) | ReserveError::Paid(row) if row.holder != self.holder => {
                refused("another account has paid this invoice, or is paying it")
            }
            ReserveError::Busy(_) => PurseError::Unknown,
            ReserveError::Paid(_) => refused("the invoice is paid already"),
            ReserveError::Post(PostError::Refused(Refused::Insufficient { .. } | Refused::Paused { .. })) => {
                PurseError::InsufficientBalance
            }
            ReserveError::Post(PostError::Refused(Refused::Itself(_))) => {
                refused("the invoice is this account's own")
            }
            ReserveError::Post(PostError::Refused(error)) => refused(error),
            ReserveError::Post(PostError::Store(error)) => error.into(),
            ReserveError::Post(error) => unposted(error),
        }
    }
}

/// A payment that is over stays as it is: what is said of it afterwards is for people to look at.
pub(super) fn unchanged(error: PaymentError) -> PurseError {
    match error {
        PaymentError::Post(PostError::Store(error)) => error.into(),
        PaymentError::Post(error) => unposted(error),
        PaymentError::Over(row) => {
            tracing::error!(state = %row.state, "a payment that is over was said to have ended otherwise");
            PurseError::Refused("the payment is over".to_owned())
        }
        PaymentError::NotFound(_) => PurseError::NotFound,
    }
}

fn refused(why: impl ToString) -> PurseError {
    PurseError::Refused(why.to_string())
}

fn description(text: &str) -> Option<String> {
    use lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescriptionRef};
    let invoice: Bolt11Invoice = text.trim().parse().ok()?;
    match invoice.description() {
        Bolt11InvoiceDescriptionRef::Direct(text) => Some(text.to_string()).filter(|text| !text.is_empty()),
        Bolt11InvoiceDescriptionRef::Hash(_) => None,
    }
}

/// Hex of any length, in capitals or not.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let text = text.to_ascii_lowercase();
    let pair = |pair: &[u8]| -> Option<u8> {
        let Hex([byte]) = std::str::from_utf8(pair).ok()?.parse::<Hex<1>>().ok()?;
        Some(byte)
    };
    if text.len().is_multiple_of(2) { text.as_bytes().chunks(2).map(pair).collect() } else { None }
}
