//! Payments: looked up before they are made, made once, looked up until their outcome is known.
//!
//! A budget is set aside for amount and fees before the purse is asked, and stays so until the outcome is known,
//! across crashes. Two requests for one hash are one payment: the second waits for the first.

use oa_nips::nostr::{EventId, PublicKey};

use super::machine::{Call, Job, Machine, Step};
use super::row::Stage;
use crate::backend::{PaymentHash, Preimage};
use crate::msat::Msat;
use crate::nwc::bill::{Bill, BillError};
use crate::nwc::message::{Error, ErrorCode, Request, State, Transaction};
use crate::nwc::purse::{Keysend, Payment, PurseError};

/// What routing may cost: one per cent, and at least this (DESIGN section 8).
const FEE_MIN: Msat = Msat::from_sat(10);
/// Between the looks at a payment that takes long: doubled from the first to the second.
const LOOK_FIRST_MS: u64 = 500;
const LOOK_LAST_MS: u64 = 30_000;

/// Requests that wait for a payment which another one began. 8: a client asks anew when it hears nothing, and twice is
/// rare; they take no turns, so nothing else bounds them.
const FOLLOWERS_MAX: usize = 8;

/// What routing may cost on top of an amount, at most.
pub fn fee_reserve(amount: Msat) -> Msat {
    Msat::new(amount.get().div_ceil(100)).max(FEE_MIN)
}

/// What is to be paid, by whichever method.
struct Due {
    hash: PaymentHash,
    amount: Msat,
    /// After which it is not begun.
    expires_at: Option<u64>,
}

impl From<BillError> for Error {
    fn from(error: BillError) -> Self {
        Self::new(ErrorCode::Other, error.to_string())
    }
}

fn due(job: &Job) -> Result<Due, Error> {
    match &job.request {
        Request::PayInvoice(order) => {
            let bill = Bill::read(&order.invoice)?;
            let amount = bill.to_pay(order.amount)?;
            Ok(Due { hash: bill.payment_hash, amount, expires_at: Some(bill.expires_at) })
        }
        Request::PayKeysend(order) => {
            if order.amount.is_zero() || order.amount > Msat::SUPPLY {
                return Err(BillError::Amount(order.amount).into());
            }
            let preimage = job.row.preimage.as_ref().map(Preimage::hash);
            let hash = preimage.ok_or_else(|| Error::new(ErrorCode::Internal, "no preimage was kept"))?;
            Ok(Due { hash, amount: order.amount, expires_at: None })
        }
        other => Err(Error::new(ErrorCode::Internal, format!("{} pays nothing", other.method()))),
    }
}

impl Machine {
    /// What the requests of a connection have set aside.
    pub(super) fn reserved(&self, client: &PublicKey) -> Msat {
        let theirs = self.jobs.values().filter(|job| job.row.client == *client);
        theirs.fold(Msat::ZERO, |sum, job| sum.saturating_add(job.reserved()))
    }

    /// Nothing is paid before it is known whether it is paid already.
    pub(super) fn start_payment(&mut self, id: EventId, stage: &Stage) {
        let Some(job) = self.jobs.get(&id) else { return };
        let (due, client) = (due(job), job.row.client);
        let due = match due {
            Ok(due) => due,
            Err(error) => return self.fail(id, error),
        };
        match self.paying.get(&due.hash).copied() {
            Some(first) if first != id => return self.follow(id, first, &client),
            _ => {}
        }
        self.paying.insert(due.hash, id);
        let resumed = matches!(stage, Stage::Asked { .. });
        if let Some(job) = self.jobs.get_mut(&id) {
            job.step = Step::LookingUp { resumed };
        }
        self.ask(id, Call::LookUp(due.hash));
    }

    /// Waits for a payment that another request began, if it is of the same account and as much.
    fn follow(&mut self, id: EventId, first: EventId, client: &PublicKey) {
        let account =
            |client: &PublicKey| self.connection(client).map(|connection| connection.account.clone());
        let theirs = self.jobs.get(&first).and_then(|job| account(&job.row.client));
        if theirs != account(client) {
            return self.fail(id, Error::new(ErrorCode::Other, "this invoice is being paid already"));
        }
        let amount = |id| self.jobs.get(&id).and_then(|job| due(job).ok()).map(|due| due.amount);
        if amount(id) != amount(first) {
            return self.fail(id, otherwise());
        }
        if self.jobs.get(&first).is_some_and(|job| job.followers.len() >= FOLLOWERS_MAX) {
            let message = "this payment is waited for by too many requests";
            return self.fail(id, Error::new(ErrorCode::RateLimited, message));
        }
        self.release(id);
        if let Some(job) = self.jobs.get_mut(&id) {
            job.step = Step::Following;
        }
        if let Some(job) = self.jobs.get_mut(&first) {
            job.followers.push(id);
        }
    }

    /// What was known of the hash before this request.
    pub(super) fn found_before(
        &mut self,
        id: EventId,
        found: Result<Option<Transaction>, PurseError>,
        resumed: bool,
    ) {
        let outgoing = found.map(|found| found.filter(is_payment));
        match outgoing {
            // Settled before a crash, it was set aside and not counted; settled earlier, it was.
            Ok(Some(known)) if known.state == State::Settled => self.settle(id, &known, resumed),
            Ok(Some(known)) if !known.state.is_terminal() => self.wait(id, 0),
            Ok(Some(_)) if resumed => self.payment_failed(id, failed()),
            Ok(_) => self.pay(id),
            Err(_) if resumed => self.wait(id, 0),
            Err(error) => self.payment_failed(id, error.into()),
        }
    }

    /// Sets the budget aside, writes that down, and pays.
    fn pay(&mut self, id: EventId) {
        let Some(job) = self.jobs.get(&id) else { return };
        if job.row.is_void(self.now_s()) {
            return self.payment_failed(id, super::work::expired());
        }
        let due = match due(job) {
            Ok(due) => due,
            Err(error) => return self.payment_failed(id, error),
        };
        let max_fee = match job.row.stage {
            Stage::Asked { max_fee, .. } => max_fee,
            Stage::Received | Stage::Answered { .. } => match self.reserve(job.row.client, &due) {
                Ok(max_fee) => {
                    let (reserved, payment_hash) = (due.amount.saturating_add(max_fee), Some(due.hash));
                    self.keep(id, Stage::Asked { reserved, payment_hash, max_fee });
                    max_fee
                }
                Err(error) => return self.payment_failed(id, error),
            },
        };
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.step = Step::Paying;
        let call = match (&job.request, job.row.preimage) {
            (Request::PayInvoice(order), _) => Call::Pay(Payment {
                invoice: order.invoice.trim().to_owned(),
                payment_hash: due.hash,
                amount: due.amount,
                max_fee,
                metadata: order.metadata.clone(),
                request: id,
            }),
            (Request::PayKeysend(order), Some(preimage)) => Call::Keysend(Keysend {
                payee: order.pubkey.clone(),
                amount: due.amount,
                max_fee,
                preimage,
                records: order.tlv_records.clone(),
                request: id,
            }),
            _ => return self.payment_failed(id, failed()),
        };
        self.ask(id, call);
    }

    /// What fees may cost where the budget leaves room for the payment. A tight budget makes for a cheap route.
    fn reserve(&self, client: PublicKey, due: &Due) -> Result<Msat, Error> {
        if due.expires_at.is_some_and(|at| at <= self.now_s()) {
            return Err(Error::new(ErrorCode::Other, "the invoice has expired"));
        }
        let max_fee = fee_reserve(due.amount);
        let connection = self.connection(&client);
        match connection.and_then(|connection| connection.left(self.reserved(&client), self.now_s())) {
            None => Ok(max_fee),
            Some(left) => match left.checked_sub(due.amount) {
                Some(rest) => Ok(max_fee.min(rest)),
                None => {
                    let message = format!("the budget leaves {left}, this takes {}", due.amount);
                    Err(Error::new(ErrorCode::QuotaExceeded, message))
                }
            },
        }
    }

    /// The purse said how a payment ended, or that it does not know yet.
    pub(super) fn paid(&mut self, id: EventId, outcome: Result<Transaction, PurseError>) {
        match outcome {
            Ok(paid) if paid.state == State::Settled => self.settle(id, &paid, true),
            Ok(paid) if paid.state.is_terminal() => self.payment_failed(id, failed()),
            Ok(_) | Err(PurseError::Unknown) => self.wait(id, 0),
            Err(PurseError::InsufficientBalance) => self.payment_failed(id, self.too_little(id)),
            Err(error) => self.payment_failed(id, error.into()),
        }
    }

    /// Says what it takes and not what there is, which is for the scope `read`.
    fn too_little(&self, id: EventId) -> Error {
        let takes = match self.jobs.get(&id).map(|job| (due(job), &job.row.stage)) {
            Some((Ok(due), Stage::Asked { max_fee, .. })) => {
                format!(
                    ": this takes {}, and up to {max_fee} for fees where it leaves the wallet",
                    due.amount
                )
            }
            _ => String::new(),
        };
        Error::new(ErrorCode::InsufficientBalance, format!("insufficient balance{takes}"))
    }

    /// Looks again later. What may take hours takes no turn.
    fn wait(&mut self, id: EventId, tries: u32) {
        self.release(id);
        let pause = LOOK_FIRST_MS.checked_shl(tries).unwrap_or(LOOK_LAST_MS).min(LOOK_LAST_MS);
        let again_at_ms = self.now_ms.saturating_add(pause);
        if let Some(job) = self.jobs.get_mut(&id) {
            job.step = Step::Waiting { again_at_ms, tries };
        }
    }

    pub(super) fn look_again(&mut self, id: EventId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Step::Waiting { again_at_ms, .. } = &mut job.step else { return };
        *again_at_ms = u64::MAX;
        match due(job) {
            Ok(due) => self.ask(id, Call::LookUp(due.hash)),
            Err(error) => self.payment_failed(id, error),
        }
    }

    pub(super) fn found_again(
        &mut self,
        id: EventId,
        found: Result<Option<Transaction>, PurseError>,
        tries: u32,
    ) {
        // Only what was set aside for this payment is counted: it may be somebody else's, begun outside.
        let is_ours = self.jobs.get(&id).is_some_and(|job| !job.reserved().is_zero());
        match found.map(|found| found.filter(is_payment)) {
            Ok(Some(known)) if known.state == State::Settled => self.settle(id, &known, is_ours),
            Ok(Some(known)) if !known.state.is_terminal() => self.wait(id, tries.saturating_add(1)),
            Ok(_) => self.payment_failed(id, failed()),
            Err(_) => self.wait(id, tries.saturating_add(1)),
        }
    }

    /// A payment is done: it is counted, answered and told, once. One that another request has made is this one's as
    /// well where it was as much: an invoice may leave the amount to its payer.
    fn settle(&mut self, id: EventId, paid: &Transaction, is_counted: bool) {
        let amount = self.jobs.get(&id).and_then(|job| due(job).ok()).map(|due| due.amount);
        if !is_counted && amount != Some(paid.amount) {
            return self.payment_failed(id, otherwise());
        }
        let result = Self::pay_result(paid);
        if let Some(job) = self.jobs.get_mut(&id).filter(|_| is_counted) {
            job.spent = Some(paid.amount.saturating_add(paid.fees_paid.unwrap_or_default()));
            let client = job.row.client;
            self.tell_sent(&client, paid);
        }
        for one in self.all_of(id) {
            match result.clone() {
                Ok(result) => self.succeed(one, result),
                Err(error) => self.fail(one, error),
            }
        }
    }

    fn payment_failed(&mut self, id: EventId, error: Error) {
        for one in self.all_of(id) {
            self.fail(one, error.clone());
        }
    }

    /// A request and those that follow it; the hash is free again.
    fn all_of(&mut self, id: EventId) -> Vec<EventId> {
        self.paying.retain(|_, first| *first != id);
        let followers = self.jobs.get_mut(&id).map(|job| std::mem::take(&mut job.followers));
        std::iter::once(id).chain(followers.unwrap_or_default()).collect()
    }
}

/// An invoice of the account's own is none of its payments, though the hash is the same.
fn is_payment(transaction: &Transaction) -> bool {
    transaction.direction == crate::nwc::message::Direction::Outgoing
}

/// A refusal, to be believed as it is: look-up shows a payment of that hash, which is another one.
fn otherwise() -> Error {
    Error::new(ErrorCode::Restricted, "this account pays this invoice already, with another amount")
}

fn failed() -> Error {
    Error::new(ErrorCode::PaymentFailed, "the payment failed")
}
