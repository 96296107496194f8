//! The service as a pure machine: what happened goes in, rows and actions come out.
//!
//! Whoever drives it writes the rows of a batch first and performs its actions then; an answer is signed within the
//! batch, so that it lands together with what it tells of. What was in memory and not in rows is lost in a crash and
//! asked again by the client.

use std::collections::{BTreeMap, HashMap};

use oa_nips::nostr::{Event, EventId, JsonUtil, PublicKey, RelayUrl};
use oa_nips::nwc::{self, Encryption};
use oa_nips::port::{Row, RowWrite};
use serde_json::Value;

use super::done::Done;
use super::limits::{Bucket, Limits, Turns};
use super::row::{self, RequestRow, Stage};
use crate::account::Holder;
use crate::backend::{PaymentHash, Preimage};
use crate::msat::Msat;
use crate::nwc::connection::Connection;
use crate::nwc::message::{
    Error, ErrorCode, HoldOrder, InvoiceOrder, ListQuery, Notification, Request, Response, TEXT_BYTES_MAX,
    Topic, Transaction, WalletInfo,
};
use crate::nwc::purse::{Keysend, Payment, PurseError};

/// What the purse is asked.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Call {
    Info,
    Balance,
    MakeInvoice(InvoiceOrder),
    MakeHoldInvoice(HoldOrder),
    Settle(Preimage),
    Cancel(PaymentHash),
    LookUp(PaymentHash),
    List(ListQuery),
    Pay(Payment),
    Keysend(Keysend),
    Steer(String, Value),
}

/// What it answered.
#[derive(Debug)]
pub(super) enum Reply {
    Info(Result<WalletInfo, PurseError>),
    Balance(Result<Msat, PurseError>),
    /// An invoice made, or a payment's outcome.
    Made(Result<Transaction, PurseError>),
    Done(Result<(), PurseError>),
    Found(Result<Option<Transaction>, PurseError>),
    Listed(Result<Vec<Transaction>, PurseError>),
    Steered(Result<Value, Error>),
}

/// What happened.
#[derive(Debug)]
pub(super) enum Input {
    /// A request that [`Machine::admit`] let in, opened; or one that it refuses, opened to know what is refused.
    Request { header: nwc::Request, text: Option<String>, refused: Option<Error>, entropy: [u8; 32] },
    /// A request that was answered came again.
    Repeat(EventId),
    /// The purse answered.
    Replied(EventId, Reply),
    /// An answer is signed.
    Sealed(EventId, Box<Event>),
    /// The signer was away.
    Unsealed(EventId),
    /// Something happened in an account.
    Happened(Holder, Box<Notification>),
    /// A connection made on this machine.
    Connect(Box<Connection>),
    /// Time passed.
    Tick,
}

/// What to do once the rows are written; seals before.
#[derive(Debug)]
pub(super) enum Action {
    /// Ask the purse and hand in its answer.
    Ask { request: EventId, account: Holder, call: Call },
    /// Encrypt and sign an answer and hand it in, within the batch.
    Seal { request: EventId, client: PublicKey, encryption: Encryption, text: String },
    /// Send an event.
    Publish(Box<Event>),
    /// Send the answer that is in the row of a request.
    Resend(EventId),
    /// Encrypt, sign and send a notification.
    Tell { client: PublicKey, encryption: Encryption, text: String },
}

/// What a machine wants.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) rows: Vec<RowWrite>,
    pub(super) actions: Vec<Action>,
}

/// A connection with what is remembered of it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) connection: Connection,
    pub(super) version: u64,
    pub(super) bucket: Bucket,
    pub(super) refusals: Bucket,
}

/// What a request waits for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// For its turn.
    Queued,
    /// For the purse.
    Asked,
    /// For the purse to say whether it is paid already; `resumed` after a crash that may have been in mid-payment.
    LookingUp { resumed: bool },
    /// For a payment.
    Paying,
    /// For a payment of unknown outcome to be looked up again.
    Waiting { again_at_ms: u64, tries: u32 },
    /// For another request that pays the same.
    Following,
    /// For the signer.
    Sealing { text: String, again_at_ms: u64 },
}

/// A request that is worked on.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) row: RequestRow,
    /// Of its row; 0 while there is none.
    pub(super) version: u64,
    pub(super) request: Request,
    pub(super) step: Step,
    pub(super) has_turn: bool,
    /// Requests that wait for the same payment.
    pub(super) followers: Vec<EventId>,
    /// What is to be counted against the budget with the answer.
    pub(super) spent: Option<Msat>,
}

impl Job {
    pub(super) fn new(row: RequestRow, version: u64, request: Request) -> Self {
        Self {
            row,
            version,
            request,
            step: Step::Queued,
            has_turn: false,
            followers: Vec::new(),
            spent: None,
        }
    }

    /// Whether it is written down: what only reads is simply asked again.
    pub(super) fn is_kept(&self) -> bool {
        match self.request {
            Request::LookupInvoice(_)
            | Request::ListTransactions(_)
            | Request::GetBalance
            | Request::GetInfo
            | Request::GetBudget => false,
            Request::PayInvoice(_)
            | Request::PayKeysend(_)
            | Request::MakeInvoice(_)
            | Request::MakeHoldInvoice(_)
            | Request::SettleHoldInvoice(_)
            | Request::CancelHoldInvoice(_)
            | Request::Admin(..) => true,
        }
    }

    pub(super) fn reserved(&self) -> Msat {
        match self.row.stage {
            Stage::Asked { reserved, .. } => reserved,
            Stage::Received | Stage::Answered { .. } => Msat::ZERO,
        }
    }
}

/// Rows that cannot be read: written by something else, or damaged.
#[derive(Debug, thiserror::Error)]
#[error("row {key} of {space} is not what this program writes")]
pub struct LoadError {
    space: &'static str,
    key: String,
    #[source]
    source: serde_json::Error,
}

/// Between tries of a signer that was away.
const SEAL_AGAIN_MS: u64 = 1000;
/// Answers are kept so long after their requests were written; longer than requests are taken for.
const KEPT_S: u64 = 2 * 3600;

/// The service's state.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) wallet: PublicKey,
    pub(super) relays: Vec<RelayUrl>,
    pub(super) limits: Limits,
    /// The methods of [`crate::nwc::purse::Steer`].
    pub(super) steers: Vec<String>,
    pub(super) connections: BTreeMap<PublicKey, Known>,
    pub(super) strangers: Bucket,
    pub(super) jobs: HashMap<EventId, Job>,
    /// Which request pays a hash.
    pub(super) paying: HashMap<PaymentHash, EventId>,
    pub(super) done: Done,
    pub(super) turns: Turns,
    pub(super) out: Output,
    pub(super) now_ms: u64,
}

impl Machine {
    pub(super) fn new(wallet: PublicKey, relays: Vec<RelayUrl>, limits: Limits, now_ms: u64) -> Self {
        let refusals = limits.refusals_per_second;
        Self {
            wallet,
            relays,
            steers: Vec::new(),
            connections: BTreeMap::new(),
            strangers: Bucket::new(refusals, refusals, now_ms),
            jobs: HashMap::new(),
            paying: HashMap::new(),
            done: Done::default(),
            turns: Turns::new(&limits),
            out: Output::default(),
            limits,
            now_ms,
        }
    }

    /// Takes up what a store holds. To be followed by [`Input::Tick`].
    ///
    /// # Errors
    /// A row that cannot be read.
    pub(super) fn load(
        &mut self,
        connections: Vec<(String, Row)>,
        requests: Vec<(String, Row)>,
    ) -> Result<(), LoadError> {
        for (key, row) in connections {
            let connection: Connection = serde_json::from_slice(&row.value).map_err(|source| LoadError {
                space: row::CONNECTIONS,
                key,
                source,
            })?;
            self.know(connection, row.version);
        }
        let mut resumed = Vec::new();
        for (key, found) in requests {
            let bad = |source| LoadError { space: row::REQUESTS, key: key.clone(), source };
            let kept: RequestRow = serde_json::from_slice(&found.value).map_err(bad)?;
            let id = EventId::from_hex(&key).map_err(|error| bad(serde::de::Error::custom(error)))?;
            match kept.stage {
                Stage::Answered { .. } => self.done.keep(id, kept.at, found.version),
                Stage::Received | Stage::Asked { .. } => resumed.push((kept.at, id, kept, found.version)),
            }
        }
        resumed.sort_by_key(|(at, id, ..)| (*at, *id));
        for (_, id, kept, version) in resumed {
            self.resume(id, kept, version);
        }
        Ok(())
    }

    /// What was begun before a crash goes on in its old order, whatever the bounds.
    fn resume(&mut self, id: EventId, kept: RequestRow, version: u64) {
        let Ok(request) = Request::parse(&kept.body) else {
            tracing::error!(request = %id, "a request that was taken cannot be read any more");
            return;
        };
        let client = kept.client;
        let job = Job::new(kept, version, request);
        if let Stage::Asked { payment_hash: Some(hash), .. } = job.row.stage {
            self.paying.insert(hash, id);
        }
        self.jobs.insert(id, job);
        self.turns.queue(client, id);
    }

    pub(super) fn know(&mut self, connection: Connection, version: u64) {
        let limits = &self.limits;
        let bucket = Bucket::new(limits.burst, limits.per_second, self.now_ms);
        let refusals = Bucket::new(limits.refusals_per_second, limits.refusals_per_second, self.now_ms);
        self.connections.insert(connection.client, Known { connection, version, bucket, refusals });
    }

    /// Takes what happened and says what to do about it.
    pub(super) fn apply(&mut self, input: Input, now_ms: u64) -> Output {
        self.now_ms = now_ms;
        match input {
            Input::Request { header, text, refused, entropy } => {
                self.requested(&header, text, refused, entropy)
            }
            Input::Repeat(id) => self.repeat(id),
            Input::Replied(id, reply) => self.replied(id, reply),
            Input::Sealed(id, event) => self.sealed(id, event),
            Input::Unsealed(id) => self.unsealed(id),
            Input::Happened(account, notification) => self.tell(&account, *notification),
            Input::Connect(connection) => self.connect(*connection),
            Input::Tick => self.tick(),
        }
        self.advance();
        std::mem::take(&mut self.out)
    }

    pub(super) fn now_s(&self) -> u64 {
        self.now_ms / 1000
    }

    pub(super) fn connection(&self, client: &PublicKey) -> Option<&Connection> {
        self.connections.get(client).map(|known| &known.connection)
    }

    /// Writes a connection's row, as it is now.
    pub(super) fn keep_connection(&mut self, client: &PublicKey) {
        let Some(known) = self.connections.get_mut(client) else { return };
        self.out.rows.push(row::connection(&known.connection, known.version));
        known.version += 1;
    }

    fn connect(&mut self, connection: Connection) {
        let client = connection.client;
        if self.connections.contains_key(&client) {
            return;
        }
        self.know(connection, 0);
        self.keep_connection(&client);
    }

    /// Writes a request's row at a stage.
    pub(super) fn keep(&mut self, id: EventId, stage: Stage) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.row.stage = stage;
        self.out.rows.push(job.row.write(&id, job.version));
        job.version += 1;
    }

    pub(super) fn ask(&mut self, id: EventId, call: Call) {
        let Some(client) = self.jobs.get(&id).map(|job| job.row.client) else { return };
        let Some(account) = self.connection(&client).map(|connection| connection.account.clone()) else {
            return;
        };
        self.out.actions.push(Action::Ask { request: id, account, call });
    }

    /// Gives up the turn of a request.
    pub(super) fn release(&mut self, id: EventId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if std::mem::take(&mut job.has_turn) {
            self.turns.release(&job.row.client);
        }
    }

    /// Starts whose turn it is.
    fn advance(&mut self) {
        while let Some(id) = self.turns.next() {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.has_turn = true;
                self.start(id);
            }
        }
    }

    /// A request has its answer, which is to be signed.
    pub(super) fn finish(&mut self, id: EventId, response: &Response) {
        self.release(id);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let mut text = response.to_json();
        if text.len() > TEXT_BYTES_MAX {
            let error = Error::new(ErrorCode::Internal, "the answer is too long to be sent");
            text = Response::error(job.request.method(), error).to_json();
        }
        job.step = Step::Sealing { text: text.clone(), again_at_ms: u64::MAX };
        let (client, encryption) = (job.row.client, job.row.encryption);
        self.out.actions.push(Action::Seal { request: id, client, encryption, text });
    }

    /// The answer, and all that it tells of, is written in one go; then it is sent.
    fn sealed(&mut self, id: EventId, event: Box<Event>) {
        if let Some(job) = self.jobs.get_mut(&id) {
            let (client, spent, is_kept) = (job.row.client, job.spent.take(), job.is_kept());
            if is_kept {
                job.row.body = String::new();
                job.row.preimage = None;
                self.keep(id, Stage::Answered { event: event.as_json() });
            }
            if let (Some(spent), Some(known)) = (spent, self.connections.get_mut(&client)) {
                known.connection.spend(spent, self.now_ms / 1000);
                self.keep_connection(&client);
            }
            if let Some(job) = self.jobs.remove(&id) {
                if is_kept {
                    self.done.keep(id, job.row.at, job.version);
                } else {
                    self.done.remember(id, Some(event.clone()));
                }
            }
        } else {
            // A refusal. Were the same request taken when another relay brings it, the client would be wrong.
            self.done.remember(id, None);
        }
        self.out.actions.push(Action::Publish(event));
    }

    fn unsealed(&mut self, id: EventId) {
        let at = self.now_ms.saturating_add(SEAL_AGAIN_MS);
        if let Some(Step::Sealing { again_at_ms, .. }) = self.jobs.get_mut(&id).map(|job| &mut job.step) {
            *again_at_ms = at;
        }
    }

    fn repeat(&mut self, id: EventId) {
        if self.done.is_kept(&id) {
            self.out.actions.push(Action::Resend(id));
        } else if let Some(event) = self.done.recall(&id) {
            self.out.actions.push(Action::Publish(event));
        }
    }

    fn tick(&mut self) {
        let now_ms = self.now_ms;
        let mut due: Vec<EventId> = Vec::new();
        for (id, job) in &mut self.jobs {
            match &mut job.step {
                Step::Waiting { again_at_ms, .. } if *again_at_ms <= now_ms => due.push(*id),
                Step::Sealing { text, again_at_ms } if *again_at_ms <= now_ms => {
                    *again_at_ms = u64::MAX;
                    let (client, encryption) = (job.row.client, job.row.encryption);
                    let text = text.clone();
                    self.out.actions.push(Action::Seal { request: *id, client, encryption, text });
                }
                _ => {}
            }
        }
        for id in due {
            self.look_again(id);
        }
        let old = self.done.older_than(self.now_s().saturating_sub(KEPT_S.max(2 * self.limits.age_max_s)));
        self.out.rows.extend(old.into_iter().map(|(id, expect_version)| RowWrite {
            space: row::REQUESTS.to_owned(),
            key: id.to_hex(),
            expect_version,
            value: None,
        }));
    }

    /// Tells every connection of an account that hears of it, in the encryption it uses, or in both.
    pub(super) fn tell(&mut self, account: &Holder, mut notification: Notification) {
        notification.transaction = super::answer::shown(notification.transaction);
        // Clients take the field for granted, also where nothing was asked for by an invoice.
        notification.transaction.invoice.get_or_insert_default();
        let (text, now_s, topic) = (notification.to_json(), self.now_s(), notification.topic);
        for known in self.connections.values() {
            let connection = &known.connection;
            let is_theirs = connection.account == *account && connection.check(now_s).is_ok();
            if !is_theirs || !connection.hears(topic) {
                continue;
            }
            let both = [Encryption::Nip44, Encryption::Nip04];
            for encryption in
                both.into_iter().filter(|one| connection.encryption.is_none_or(|used| used == *one))
            {
                let (client, text) = (connection.client, text.clone());
                self.out.actions.push(Action::Tell { client, encryption, text });
            }
        }
    }

    /// What a settled payment is told with.
    pub(super) fn tell_sent(&mut self, client: &PublicKey, transaction: &Transaction) {
        let Some(account) = self.connection(client).map(|connection| connection.account.clone()) else {
            return;
        };
        let transaction = transaction.clone();
        self.tell(&account, Notification { topic: Topic::PaymentSent, transaction });
    }

    /// When [`Input::Tick`] is wanted next, for what waits.
    pub(super) fn next_at_ms(&self) -> Option<u64> {
        let times = self.jobs.values().filter_map(|job| match job.step {
            Step::Waiting { again_at_ms, .. } | Step::Sealing { again_at_ms, .. } => Some(again_at_ms),
            _ => None,
        });
        times.filter(|at| *at != u64::MAX).min()
    }
}
