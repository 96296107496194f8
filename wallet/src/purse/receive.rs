//! Invoices: made, held, settled, cancelled, and what comes in for them.

use oa_nips::hex::Hash;
use oa_nips::nostr::EventId;
use oa_nips::nostr::secp256k1::rand::RngCore as _;
use oa_nips::nostr::secp256k1::rand::rngs::OsRng;
use serde_json::Value;

use super::note::{How, InvoiceNote, Stage, made_by, set_made_by};
use super::{Inner, Liquidity, refusal};
use crate::account::{Against, Asset, Change, Holder, InvoiceError, InvoiceState, Ledger, PostError};
use crate::backend::{Error as BackendError, Invoice, InvoiceRequest, PaymentHash, Preimage, State};
use crate::msat::Msat;
use crate::nwc::message::{HoldOrder, InvoiceOrder, Notification, Topic, Transaction};
use crate::nwc::purse::PurseError;

/// How long an invoice can be paid where its client does not say: an hour, in seconds.
const EXPIRY_S: u64 = 3600;
/// And at most: a year.
const EXPIRY_S_MAX: u64 = 366 * 24 * 3600;

/// What both kinds of orders say.
struct Wish {
    amount: Msat,
    description: Option<String>,
    expiry_s: u64,
    metadata: Option<Value>,
}

impl Wish {
    fn new(
        amount: Msat,
        description: Option<String>,
        description_hash: Option<&String>,
        expiry: Option<u64>,
        metadata: Option<Value>,
    ) -> Result<Self, PurseError> {
        if description_hash.is_some() {
            return Err(PurseError::NotSupported("description_hash".to_owned()));
        }
        let expiry_s = expiry.unwrap_or(EXPIRY_S).clamp(1, EXPIRY_S_MAX);
        Ok(Self { amount, description, expiry_s, metadata })
    }

    fn request(&self) -> InvoiceRequest {
        InvoiceRequest {
            amount: Some(self.amount),
            description: self.description.clone().unwrap_or_default(),
            expiry_s: u32::try_from(self.expiry_s).unwrap_or(u32::MAX),
        }
    }
}

/// What is to be done about money that has arrived and waits.
enum Arrival {
    Take(Preimage),
    GiveBack,
    Tell(Holder),
}

impl Inner {
    pub(super) async fn make_invoice(
        &self,
        account: Holder,
        order: InvoiceOrder,
        request: EventId,
    ) -> Result<Transaction, PurseError> {
        if let Some(known) = self.made_before(&account, request).await? {
            return Ok(known);
        }
        self.open.admits(&account, self.now_ms())?;
        let InvoiceOrder { amount, description, description_hash, expiry, metadata } = order;
        let wish = Wish::new(amount, description, description_hash.as_ref(), expiry, metadata)?;
        if self.needs_provider(amount).await? {
            let invoice = self.backend.invoice(wish.request()).await.map_err(refusal)?;
            return self.note(account, wish, How::Backend, invoice, None, request).await;
        }
        let mut bytes = [0; 32];
        OsRng.fill_bytes(&mut bytes);
        let preimage = Preimage(bytes);
        // Nobody sees the invoice before its preimage is written down; one that a crash leaves behind is never paid.
        let invoice = self.backend.hold_invoice(preimage.hash(), wish.request()).await.map_err(refusal)?;
        self.note(account, wish, How::Ours, invoice, Some(preimage), request).await
    }

    async fn needs_provider(&self, amount: Msat) -> Result<bool, PurseError> {
        match self.config.liquidity {
            Liquidity::Own => Ok(false),
            Liquidity::Provider => Ok(self.backend.balance().await.map_err(refusal)?.receivable < amount),
        }
    }

    pub(super) async fn make_hold_invoice(
        &self,
        account: Holder,
        order: HoldOrder,
        request: EventId,
    ) -> Result<Transaction, PurseError> {
        let hash = order.payment_hash;
        let _lock = self.locks.lock(hash).await;
        if let Some(known) = self.made_before(&account, request).await? {
            return Ok(known);
        }
        self.open.admits(&account, self.now_ms())?;
        let HoldOrder { amount, description, description_hash, expiry, .. } = order;
        let wish = Wish::new(amount, description, description_hash.as_ref(), expiry, None)?;
        let is_used = self
            .book
            .write(move |draft| {
                let mut ledger = Ledger::new(draft);
                Ok(ledger.payment(&hash.0)?.is_some() || ledger.invoice(&hash.0)?.is_some())
            })
            .await?;
        if is_used {
            return Err(used());
        }
        match self.backend.hold_invoice(hash, wish.request()).await {
            Ok(invoice) => self.note(account, wish, How::Hold, invoice, None, request).await,
            Err(BackendError::AlreadyPaid) => {
                // Made before a crash and seen by nobody: nobody is to pay it either.
                if let Err(error) = self.backend.cancel(hash).await {
                    tracing::debug!(%hash, %error, "a hash that is taken is none of a hold invoice");
                }
                Err(used())
            }
            Err(error) => Err(refusal(error)),
        }
    }

    async fn made_before(
        &self,
        account: &Holder,
        request: EventId,
    ) -> Result<Option<Transaction>, PurseError> {
        let made = self.book.write(move |draft| Ok(made_by(draft, &request)?)).await?;
        match made {
            Some(hash) => self.incoming(account, hash).await,
            None => Ok(None),
        }
    }

    /// Writes an invoice down; from then on it may be seen.
    async fn note(
        &self,
        holder: Holder,
        wish: Wish,
        how: How,
        invoice: Invoice,
        preimage: Option<Preimage>,
        request: EventId,
    ) -> Result<Transaction, PurseError> {
        let (hash, made_ms) = (invoice.hash, self.now_ms());
        let expires_ms = invoice.expires_at.saturating_mul(1000);
        let note = InvoiceNote {
            holder: holder.clone(),
            how,
            stage: Stage::Open,
            bolt11: Some(invoice.bolt11),
            amount: wish.amount,
            description: wish.description,
            metadata: wish.metadata,
            preimage: preimage.map(|preimage| preimage.reveal()),
            made_ms,
            expires_ms: Some(expires_ms),
        };
        let made = self
            .book
            .write(move |draft| {
                if let Some(known) = made_by(draft, &request)? {
                    return Ok(known);
                }
                let noted = Ledger::new(draft).note_invoice(
                    &hash.0,
                    &note.holder,
                    Some(note.amount),
                    made_ms,
                    expires_ms,
                );
                noted.map_err(|error| match error {
                    InvoiceError::Taken(_) => used(),
                    InvoiceError::Store(error) => error.into(),
                })?;
                note.add(draft, hash)?;
                set_made_by(draft, &request, hash)?;
                Ok(hash)
            })
            .await?;
        self.open.made(&holder, made, made_ms, expires_ms);
        self.incoming(&holder, made).await?.ok_or(PurseError::NotFound)
    }

    pub(super) async fn settle_hold(&self, account: &Holder, preimage: Preimage) -> Result<(), PurseError> {
        let hash = preimage.hash();
        let _lock = self.locks.lock(hash).await;
        self.hold_of(account, hash).await?;
        // Written first: it is the receipt, and is shown once the money is ours.
        self.change_invoice(hash, move |note| note.preimage = Some(preimage.reveal())).await?;
        self.backend.settle(preimage).await.map_err(refusal)
    }

    pub(super) async fn cancel_hold(&self, account: &Holder, hash: PaymentHash) -> Result<(), PurseError> {
        let _lock = self.locks.lock(hash).await;
        self.hold_of(account, hash).await?;
        self.backend.cancel(hash).await.map_err(refusal)?;
        self.change_invoice(hash, |note| note.stage = Stage::Cancelled).await
    }

    /// Only hold invoices of the account itself exist for it.
    async fn hold_of(&self, account: &Holder, hash: PaymentHash) -> Result<(), PurseError> {
        let note = self.book.write(move |draft| Ok(InvoiceNote::get(draft, hash)?)).await?;
        let is_theirs = |note: &InvoiceNote| note.holder == *account && note.how == How::Hold;
        note.filter(is_theirs).map(drop).ok_or(PurseError::NotFound)
    }

    pub(super) async fn change_invoice(
        &self,
        hash: PaymentHash,
        change: impl Fn(&mut InvoiceNote) + Send + 'static,
    ) -> Result<(), PurseError> {
        self.book
            .write(move |draft| {
                if let Some(mut note) = InvoiceNote::get(draft, hash)? {
                    change(&mut note);
                    note.put(draft, hash)?;
                }
                Ok(())
            })
            .await
    }

    /// Whether money that is held until a height has gone back by now.
    async fn has_passed(&self, deadline: Option<u32>) -> Result<bool, PurseError> {
        match deadline {
            None => Ok(false),
            Some(height) => Ok(self.backend.info().await.map_err(refusal)?.block_height >= height),
        }
    }

    /// Money has arrived and waits. It is taken for an invoice of ours, told of for a client's, and else given back;
    /// also when it is told of too late, after a time in which nobody ran: its payer may have it again by then.
    pub(super) async fn held(
        &self,
        hash: PaymentHash,
        amount: Msat,
        deadline: Option<u32>,
    ) -> Result<(), PurseError> {
        let _lock = self.locks.lock(hash).await;
        let is_late = self.has_passed(deadline).await?;
        let arrival = self
            .book
            .write(move |draft| {
                let is_paid = Ledger::new(draft)
                    .invoice(&hash.0)?
                    .is_some_and(|invoice| matches!(invoice.state, InvoiceState::Paid { .. }));
                let Some(mut note) = InvoiceNote::get(draft, hash)? else { return Ok(Arrival::GiveBack) };
                if is_late {
                    note.stage = if note.how == How::Hold { Stage::Cancelled } else { Stage::Open };
                    note.put(draft, hash)?;
                    return Ok(Arrival::GiveBack);
                }
                // Paid inside the wallet, or withdrawn, before this came; or less than was asked for.
                if is_paid || note.stage == Stage::Cancelled || amount < note.amount {
                    return Ok(Arrival::GiveBack);
                }
                let (stage, arrival) = match (note.how, note.preimage()) {
                    (How::Ours, Some(preimage)) => (Stage::Claimed, Arrival::Take(preimage)),
                    (How::Hold, _) => (Stage::Held { amount, deadline }, Arrival::Tell(note.holder.clone())),
                    _ => return Ok(Arrival::GiveBack),
                };
                note.stage = stage;
                note.put(draft, hash)?;
                Ok(arrival)
            })
            .await?;
        match arrival {
            Arrival::Take(preimage) => match self.backend.settle(preimage).await {
                Ok(()) => Ok(()),
                Err(BackendError::NotHeld) => {
                    tracing::warn!(%hash, "money that had arrived went back before it was taken");
                    self.change_invoice(hash, |note| note.stage = Stage::Open).await
                }
                Err(error) => Err(refusal(error)),
            },
            Arrival::GiveBack => self.close(hash).await,
            Arrival::Tell(holder) => {
                self.tell(&holder, hash, Topic::HoldInvoiceAccepted).await;
                Ok(())
            }
        }
    }

    /// Nobody can pay an invoice from outside any more; what has arrived for it goes back.
    pub(super) async fn close(&self, hash: PaymentHash) -> Result<(), PurseError> {
        match self.backend.cancel(hash).await {
            Ok(()) | Err(BackendError::NotFound | BackendError::AlreadyPaid) => Ok(()),
            Err(error) => Err(refusal(error)),
        }
    }

    /// Money is ours: it is whose invoice it was, and the operator's where nobody asked.
    pub(super) async fn received(&self, hash: PaymentHash, amount: Msat) -> Result<(), PurseError> {
        let _lock = self.locks.lock(hash).await;
        let known = self.backend.look_up(hash).await.map_err(refusal)?;
        let preimage = known.and_then(|payment| match payment.state {
            State::Settled { preimage, .. } => preimage.map(|preimage| preimage.reveal()),
            State::Pending | State::Failed { .. } => None,
        });
        let now_ms = self.now_ms();
        let holder = self
            .book
            .write(move |draft| {
                post_income(draft, hash, amount, now_ms)?;
                let holder =
                    Ledger::new(draft).invoice(&hash.0)?.map_or_else(Holder::operator, |of| of.holder);
                match InvoiceNote::get(draft, hash)? {
                    Some(mut note) => {
                        note.preimage = note.preimage.or(preimage);
                        note.put(draft, hash)?;
                    }
                    None => unasked(&holder, amount, preimage, now_ms).add(draft, hash)?,
                }
                Ok(holder)
            })
            .await?;
        self.open.paid(&holder, hash);
        self.tell(&holder, hash, Topic::PaymentReceived).await;
        Ok(())
    }

    /// Hands on what happened with an invoice; a hint, which may be lost.
    pub(super) async fn tell(&self, holder: &Holder, hash: PaymentHash, topic: Topic) {
        match self.incoming(holder, hash).await {
            Ok(Some(transaction)) => {
                // Nobody listens where the service has ended.
                let _ = self.notices.send((holder.clone(), Notification { topic, transaction })).await;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%hash, %error, "a notification is not sent"),
        }
    }
}

fn used() -> PurseError {
    PurseError::Refused("this payment hash cannot be used: take a fresh one".to_owned())
}

/// The same hash with another amount is money all the same, though nobody knows whose.
fn post_income(
    draft: &mut crate::store::Draft<'_>,
    hash: PaymentHash,
    amount: Msat,
    at_ms: u64,
) -> Result<(), PurseError> {
    let mut ledger = Ledger::new(draft);
    match ledger.paid_in(&hash.0, amount, at_ms) {
        Ok(_) => Ok(()),
        Err(PostError::Conflict(_)) => {
            tracing::error!(%hash, %amount, "money came again for a hash that was paid: it is in suspense");
            let id = format!("again {hash} {}", amount.get());
            let posted = ledger.adjust(&id, Asset::Lightning, Change::Up, Against::Suspense, amount, at_ms);
            posted.map(drop).map_err(unposted)
        }
        Err(error) => Err(unposted(error)),
    }
}

/// A posting that must be possible and was not.
pub(super) fn unposted(error: PostError) -> PurseError {
    tracing::error!(%error, "the ledger did not take what happened");
    PurseError::Unavailable("the ledger did not take it".to_owned())
}

fn unasked(holder: &Holder, amount: Msat, preimage: Option<Hash>, made_ms: u64) -> InvoiceNote {
    InvoiceNote {
        holder: holder.clone(),
        how: How::Unasked,
        stage: Stage::Claimed,
        bolt11: None,
        amount,
        description: None,
        metadata: None,
        preimage,
        made_ms,
        expires_ms: None,
    }
}
