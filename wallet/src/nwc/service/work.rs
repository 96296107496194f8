//! What each method does, but for payments.

use oa_nips::nostr::EventId;
use serde_json::{Value, json};

use super::answer;
use super::machine::{Call, Machine, Reply, Step};
use super::row::Stage;
use crate::backend::PaymentHash;
use crate::msat::Msat;
use crate::nwc::bill::Bill;
use crate::nwc::connection::Scope;
use crate::nwc::message::{
    Error, ErrorCode, ListQuery, LookupQuery, Method, Request, Response, Topic, Transaction, WalletInfo,
};
use crate::nwc::purse::PurseError;

/// Transactions of one answer (NIP-47): more may not pass a relay.
const PAGE_MAX: u64 = 20;

impl Machine {
    /// Begins a request whose turn it is.
    pub(super) fn start(&mut self, id: EventId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let (request, client, stage) = (job.request.clone(), job.row.client, job.row.stage.clone());
        let ended = self.connection(&client).map(|connection| connection.check(self.now_s()));
        let (is_new, is_void) = (stage == Stage::Received, job.row.is_void(self.now_s()));
        match ended {
            Some(Err(ended)) if is_new => {
                return self.fail(id, Error::new(ErrorCode::Unauthorized, ended.to_string()));
            }
            None => return self.fail(id, Error::new(ErrorCode::Unauthorized, "this key has no wallet here")),
            _ => {}
        }
        // It waited too long, for its turn or for the wallet to run again.
        if is_new && is_void {
            return self.fail(id, expired());
        }
        match request {
            Request::GetBalance => self.put(id, Call::Balance),
            Request::GetInfo => self.put(id, Call::Info),
            Request::GetBudget => self.budget(id),
            Request::LookupInvoice(query) => self.look_up(id, &query),
            Request::ListTransactions(query) => self.put(id, Call::List(page(query))),
            Request::MakeInvoice(order) => match sensible(order.amount) {
                Ok(()) => self.begin(id, Call::MakeInvoice(order)),
                Err(error) => self.fail(id, error),
            },
            Request::MakeHoldInvoice(order) => match sensible(order.amount) {
                Ok(()) => self.begin(id, Call::MakeHoldInvoice(order)),
                Err(error) => self.fail(id, error),
            },
            Request::SettleHoldInvoice(preimage) => self.begin(id, Call::Settle(preimage)),
            Request::CancelHoldInvoice(hash) => self.begin(id, Call::Cancel(hash)),
            Request::PayInvoice(_) | Request::PayKeysend(_) => self.start_payment(id, &stage),
            Request::Admin(method, params) => self.administer(id, &method, params, is_new),
        }
    }

    /// Asks something that changes nothing.
    fn put(&mut self, id: EventId, call: Call) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.step = Step::Asked;
        }
        self.ask(id, call);
    }

    /// Writes down that the purse is asked, and asks it. After a crash the same is asked again, under the same id.
    pub(super) fn begin(&mut self, id: EventId, call: Call) {
        let asked = Stage::Asked { reserved: Msat::ZERO, payment_hash: None, max_fee: Msat::ZERO };
        if self.jobs.get(&id).is_some_and(|job| job.row.stage == Stage::Received) {
            self.keep(id, asked);
        }
        self.put(id, call);
    }

    fn budget(&mut self, id: EventId) {
        let Some(client) = self.jobs.get(&id).map(|job| job.row.client) else { return };
        let (reserved, now_s) = (self.reserved(&client), self.now_s());
        let Some(connection) = self.connection(&client) else { return };
        let info = connection.budget_info(reserved, now_s);
        self.succeed(id, json!(info));
    }

    fn look_up(&mut self, id: EventId, query: &LookupQuery) {
        match hash_of(query) {
            Ok(hash) => self.put(id, Call::LookUp(hash)),
            Err(error) => self.fail(id, error),
        }
    }

    /// Answers with a result.
    pub(super) fn succeed(&mut self, id: EventId, result: Value) {
        let Some(method) = self.jobs.get(&id).map(|job| job.request.method().to_owned()) else { return };
        self.finish(id, &Response::ok(&method, result));
    }

    /// Answers with an error.
    pub(super) fn fail(&mut self, id: EventId, error: Error) {
        let Some(method) = self.jobs.get(&id).map(|job| job.request.method().to_owned()) else { return };
        self.finish(id, &Response::error(&method, error));
    }

    fn conclude(&mut self, id: EventId, result: Result<Value, Error>) {
        match result {
            Ok(result) => self.succeed(id, result),
            Err(error) => self.fail(id, error),
        }
    }

    /// The purse answered.
    pub(super) fn replied(&mut self, id: EventId, reply: Reply) {
        let Some(step) = self.jobs.get(&id).map(|job| job.step.clone()) else { return };
        match (step, reply) {
            (Step::LookingUp { resumed }, Reply::Found(found)) => self.found_before(id, found, resumed),
            (Step::Waiting { tries, .. }, Reply::Found(found)) => self.found_again(id, found, tries),
            (Step::Paying, Reply::Made(outcome)) => self.paid(id, outcome),
            (Step::Asked, reply) => self.answered(id, reply),
            (step, _) => tracing::error!(request = %id, ?step, "the purse answered what was not asked"),
        }
    }

    fn answered(&mut self, id: EventId, reply: Reply) {
        let result = match reply {
            Reply::Info(info) => info.map(|info| self.info_for(id, info)).map_err(Error::from),
            Reply::Balance(balance) => {
                balance.map(|balance| json!({ "balance": balance })).map_err(Error::from)
            }
            Reply::Made(made) => made.map(|made| json!(answer::shown(made))).map_err(Error::from),
            Reply::Done(done) => done.map(|()| json!({})).map_err(Error::from),
            Reply::Found(found) => found
                .and_then(|found| found.ok_or(PurseError::NotFound))
                .map_or_else(|error| Err(error.into()), |found| Ok(json!(answer::shown(found)))),
            Reply::Listed(listed) => listed.map(answer::page).map_err(Error::from),
            Reply::Steered(result) => result,
        };
        self.conclude(id, result);
    }

    /// What a wallet says of itself, with what this connection may do.
    fn info_for(&self, id: EventId, mut info: WalletInfo) -> Value {
        let client = self.jobs.get(&id).map(|job| job.row.client);
        let Some(connection) = client.and_then(|client| self.connection(&client)) else { return json!(info) };
        // Not in the NIP, and the `nwc` crate refuses an answer that names a method it does not know.
        let listed = |method: &Method| connection.may(*method) && *method != Method::GetBudget;
        info.methods = Method::ALL.iter().filter(|method| listed(method)).map(Method::to_string).collect();
        if connection.scopes.contains(&Scope::Admin) {
            info.methods.extend(self.admin_methods());
        }
        let hears = Topic::ALL.into_iter().filter(|topic| connection.hears(*topic));
        info.notifications = hears.map(|topic| topic.as_str().to_owned()).collect();
        json!(info)
    }

    /// The transaction of a payment, to whoever asked for it.
    pub(super) fn pay_result(transaction: &Transaction) -> Result<Value, Error> {
        // A receipt that proves nothing is none; look-up by people will have to tell.
        let preimage = transaction.proof().map(|preimage| preimage.reveal());
        let preimage =
            preimage.ok_or_else(|| Error::new(ErrorCode::Internal, "paid, but the receipt is lost"))?;
        Ok(json!({ "preimage": preimage, "fees_paid": transaction.fees_paid.unwrap_or_default() }))
    }
}

/// Nothing was done, and nothing will be.
pub(super) fn expired() -> Error {
    Error::new(ErrorCode::Other, "the request has expired")
}

/// What is asked for by an invoice: something, and not more than there is.
fn sensible(amount: Msat) -> Result<(), Error> {
    if amount.is_zero() || amount > Msat::SUPPLY {
        return Err(Error::new(ErrorCode::Other, format!("an invoice cannot ask for {amount}")));
    }
    Ok(())
}

fn page(query: ListQuery) -> ListQuery {
    let limit = query.limit.filter(|limit| *limit > 0).unwrap_or(PAGE_MAX).min(PAGE_MAX);
    ListQuery { limit: Some(limit), ..query }
}

/// The hash that a look-up is for. Where both are given they must agree.
fn hash_of(query: &LookupQuery) -> Result<PaymentHash, Error> {
    let other = |message: &str| Error::new(ErrorCode::Other, message);
    let billed = query.invoice.as_deref().map(Bill::read).transpose();
    let billed = billed.map_err(|error| other(&error.to_string()))?.map(|bill| bill.payment_hash);
    match (query.payment_hash, billed) {
        (Some(hash), Some(billed)) if hash != billed => Err(other("payment_hash is not the invoice's")),
        (Some(hash), _) | (None, Some(hash)) => Ok(hash),
        (None, None) => Err(other("a payment_hash or an invoice is needed")),
    }
}
