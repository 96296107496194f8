//! Payments: prepared, written down by the caller, performed; resolved where their end is not known.

use std::future::pending;
use std::time::Duration;

use futures_util::future::BoxFuture;
use oa_nips::nostr::Event;
use oa_nips::nwc;
use tokio::time::{sleep, timeout};

use super::pay::{Attempt, CLOCKS_S, Found, Next, Ordered, Outcome, Prepared};
use super::{CallError, Client, Signed, millis};
use crate::backend::{PaymentHash, Preimage};
use crate::msat::Msat;
use crate::nwc::bill::{Bill, BillError};
use crate::nwc::message::{
    Direction, ErrorCode, KeysendOrder, ListQuery, PayOrder, Request, Response, State, Tlv, Transaction,
};

/// A payment without an invoice never expires. A wallet that did not take its request, which is void after minutes,
/// within a day never will.
const KEYSEND_FINAL_S: u64 = 24 * 3600;

type Answer = BoxFuture<'static, Option<Response>>;

/// What comes first while a payment is looked up.
enum Word {
    Answer(Option<Response>),
    Found(Found),
}

impl Client {
    /// Makes a payment ready. Nothing is sent; whoever must know after a crash what was begun writes this down before
    /// [`Client::perform`].
    ///
    /// # Errors
    /// An invoice that cannot be paid, or no signer.
    pub async fn prepare(&self, order: PayOrder) -> Result<Prepared, CallError> {
        let bill = Bill::read(&order.invoice)?;
        let amount = bill.to_pay(order.amount)?;
        // To name the amount of an invoice once more is more than some wallets take.
        let order = PayOrder { amount: order.amount.filter(|_| bill.amount.is_none()), ..order };
        // After an invoice has expired no wallet begins to pay it.
        let final_at = bill.expires_at.saturating_add(CLOCKS_S);
        self.prepared(Request::PayInvoice(order), bill.payment_hash, amount, final_at).await
    }

    /// The same for a payment without an invoice. The preimage is chosen here, so that the payment can be looked up:
    /// 32 bytes of randomness, used once.
    ///
    /// # Errors
    /// An amount that cannot be paid, or no signer.
    pub async fn prepare_keysend(
        &self,
        payee: String,
        amount: Msat,
        preimage: Preimage,
        records: Vec<Tlv>,
    ) -> Result<Prepared, CallError> {
        if amount.is_zero() || amount > Msat::SUPPLY {
            return Err(BillError::Amount(amount).into());
        }
        let order = KeysendOrder { amount, pubkey: payee, preimage: Some(preimage), tlv_records: records };
        let final_at = self.now_s().saturating_add(KEYSEND_FINAL_S);
        self.prepared(Request::PayKeysend(order), preimage.hash(), amount, final_at).await
    }

    async fn prepared(
        &self,
        request: Request,
        payment_hash: PaymentHash,
        amount: Msat,
        final_at: u64,
    ) -> Result<Prepared, CallError> {
        let Signed { event, encryption, .. } = self.sign(&request, self.paid_by_ms()).await?;
        let after_request = (self.paid_by_ms() / 1000).saturating_add(CLOCKS_S);
        let final_at = final_at.max(after_request);
        Ok(Prepared { event, body: request.to_json(), encryption, payment_hash, amount, final_at })
    }

    fn paid_by_ms(&self) -> u64 {
        self.now_ms().saturating_add(millis(self.shared.config.paid_within))
    }

    /// Pays an invoice, for callers that need not survive a crash.
    ///
    /// # Errors
    /// As [`Client::prepare`].
    pub async fn pay_invoice(&self, order: PayOrder) -> Result<Outcome, CallError> {
        let prepared = self.prepare(order).await?;
        Ok(self.perform(&prepared).await)
    }

    /// Sends a payment and follows it to its end. May be called again with the same, also after a crash: the wallet
    /// is sent the same request, and pays it once. One of another connection is unknown here.
    pub async fn perform(&self, prepared: &Prepared) -> Outcome {
        if !self.has_signed(prepared) {
            return Outcome::Unknown;
        }
        let deadline_ms = self.deadline_ms();
        let mut attempt = self.attempt(prepared, deadline_ms);
        let mut signed = Some(self.again(prepared));
        loop {
            let (encryption, mut answer) = match signed.take() {
                Some(signed) => (signed.encryption, self.put(signed, deadline_ms).await),
                None => return Outcome::Unknown,
            };
            let next = self.first_word(&mut attempt, &mut answer).await;
            match self.follow(&mut attempt, next, prepared.payment_hash, answer).await {
                Next::Done(outcome) => return outcome,
                Next::LookUp { .. } => return Outcome::Unknown,
                Next::Anew { after_ms, renegotiate } => {
                    if renegotiate {
                        self.shared.known.refused(encryption, &self.shared.config, &self.shared.ports).await;
                    }
                    sleep(Duration::from_millis(after_ms)).await;
                    signed = self.anew(prepared).await;
                    attempt.is_ordered_until(signed.as_ref().map_or(0, |signed| void_at(&signed.event)));
                }
            }
        }
    }

    /// Looks a payment up until its end is known, at most as long as [`Client::perform`]; sends nothing. One of
    /// another connection is unknown here.
    pub async fn resolve(&self, prepared: &Prepared) -> Outcome {
        if !self.has_signed(prepared) {
            return Outcome::Unknown;
        }
        let mut attempt = self.attempt(prepared, self.deadline_ms());
        let next = attempt.timed_out(self.now_ms());
        match self.follow(&mut attempt, next, prepared.payment_hash, None).await {
            Next::Done(outcome) => outcome,
            Next::LookUp { .. } | Next::Anew { .. } => Outcome::Unknown,
        }
    }

    /// Whether a payment was ordered by this key from this wallet. Another wallet, or another account of the same, has
    /// never heard of it, and its word would end what the right one may have paid.
    fn has_signed(&self, prepared: &Prepared) -> bool {
        let (client, wallet) = (self.shared.ports.signer.public_key(), self.shared.config.wallet);
        let is_ours = nwc::Request::read(&prepared.event)
            .is_ok_and(|header| header.client == client && header.wallet == wallet);
        if !is_ours {
            let hash = prepared.payment_hash;
            tracing::warn!(%hash, "a payment was ordered by another connection: only that one can say how it ended");
        }
        is_ours
    }

    /// Sends a request, unless it is void by now: then only looking up remains, as when nobody can hear an answer.
    async fn put(&self, signed: Signed, deadline_ms: u64) -> Option<Answer> {
        let void_at_ms = void_at(&signed.event).saturating_mul(1000);
        if void_at_ms <= self.now_ms() {
            return None;
        }
        let answer = self.send(signed, void_at_ms.min(deadline_ms), deadline_ms).await;
        answer.ok().map(futures_util::FutureExt::boxed)
    }

    /// The answer, or that it did not come in time.
    async fn first_word(&self, attempt: &mut Attempt, answer: &mut Option<Answer>) -> Next {
        if let Some(waiting) = answer {
            match timeout(self.shared.config.paid_within, waiting).await {
                Ok(response) => {
                    *answer = None;
                    if let Some(response) = response {
                        return attempt.answered(response, self.now_ms());
                    }
                }
                Err(_) => tracing::debug!("a payment is not answered: it is looked up"),
            }
        }
        attempt.timed_out(self.now_ms())
    }

    /// Looks up as long as the attempt wants it; a late answer counts.
    async fn follow(
        &self,
        attempt: &mut Attempt,
        mut next: Next,
        hash: PaymentHash,
        mut answer: Option<Answer>,
    ) -> Next {
        while let Next::LookUp { after_ms } = next {
            let late = async {
                match &mut answer {
                    Some(answer) => answer.await,
                    None => pending().await,
                }
            };
            let word = tokio::select! {
                biased;
                response = late => Word::Answer(response),
                found = self.found(hash, after_ms) => Word::Found(found),
            };
            next = match word {
                Word::Answer(response) => {
                    answer = None;
                    match response {
                        Some(response) => attempt.answered(response, self.now_ms()),
                        None => next,
                    }
                }
                Word::Found(found) => attempt.found(found, self.now_ms()),
            };
        }
        next
    }

    async fn found(&self, hash: PaymentHash, after_ms: u64) -> Found {
        sleep(Duration::from_millis(after_ms)).await;
        match self.look_up(hash).await {
            Ok(Some(known)) if known.direction == Direction::Incoming && known.state == State::Settled => {
                self.payment_of(known).await
            }
            Ok(Some(known)) => Found::Known(Box::new(known)),
            Ok(None) => Found::Nothing,
            Err(CallError::Refused(error)) => match error.code {
                ErrorCode::NotImplemented | ErrorCode::Restricted | ErrorCode::Unauthorized => Found::Unable,
                _ => Found::Silence,
            },
            Err(_) => Found::Silence,
        }
    }

    /// The payment of an invoice that the wallet has, too, and that somebody has paid: a look-up may show either.
    async fn payment_of(&self, invoice: Transaction) -> Found {
        let query =
            ListQuery { unpaid: Some(true), direction: Some(Direction::Outgoing), ..ListQuery::default() };
        let Ok(latest) = self.list(query).await else { return Found::Known(Box::new(invoice)) };
        let mut ours = latest.into_iter().filter(|one| one.direction == Direction::Outgoing);
        match ours.find(|one| one.payment_hash == invoice.payment_hash) {
            Some(payment) => Found::Known(Box::new(payment)),
            None => Found::OnlyInvoice,
        }
    }

    fn attempt(&self, prepared: &Prepared, deadline_ms: u64) -> Attempt {
        let look_after_ms = millis(self.shared.config.look_after);
        let Prepared { event, payment_hash: hash, amount, final_at, .. } = prepared;
        let (at, void_at) = (event.created_at.as_secs(), void_at(event));
        Attempt::new(
            Ordered { hash: *hash, amount: *amount, at, void_at, final_at: *final_at },
            deadline_ms,
            look_after_ms,
        )
    }

    fn deadline_ms(&self) -> u64 {
        self.now_ms().saturating_add(millis(self.shared.config.settled_within))
    }

    /// The request as it was signed, while it is not void.
    fn again(&self, prepared: &Prepared) -> Signed {
        let method = method_of(prepared);
        Signed { event: prepared.event.clone(), encryption: prepared.encryption, method }
    }

    /// The same order in a new request.
    async fn anew(&self, prepared: &Prepared) -> Option<Signed> {
        let request = Request::parse(&prepared.body).ok()?;
        self.sign(&request, self.paid_by_ms()).await.ok()
    }
}

/// When a request is void, in seconds since 1970.
fn void_at(request: &Event) -> u64 {
    let header = nwc::Request::read(request).ok();
    header.and_then(|header| header.expires_at).map_or(u64::MAX, |at| at.as_secs())
}

fn method_of(prepared: &Prepared) -> String {
    Request::parse(&prepared.body).map(|request| request.method().to_owned()).unwrap_or_default()
}
