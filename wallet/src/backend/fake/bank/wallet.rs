//! One wallet of the bank: what it has, what it asked for, and what it tells.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use lightning_invoice::{Bolt11Invoice, Currency, InvoiceBuilder, PaymentSecret};
use oa_nips::nostr::SECP256K1;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_nips::nostr::secp256k1::SecretKey;

use crate::backend::{
    Balance, Delivery, Direction, Error, Event, EventId, FailReason, Invoice, InvoiceRequest, Kind, NodeId,
    Payment, PaymentHash, Preimage, Record, Sat, State,
};
use crate::msat::Msat;

/// Blocks (of nothing) that an invoice wants left on arrival.
const FINAL_CLTV: u64 = 144;

pub(super) struct Wallet {
    pub(super) alias: String,
    key: SecretKey,
    pub(super) running: bool,
    pub(super) balance: Msat,
    pub(super) coins: Sat,
    pub(super) payments: BTreeMap<PaymentHash, Payment>,
    invoices: HashMap<PaymentHash, Asked>,
    events: VecDeque<Event>,
    /// The number of the oldest event.
    first: u64,
}

/// An invoice somebody made.
#[derive(Clone)]
struct Asked {
    amount: Option<Msat>,
    /// `None` where money is held.
    preimage: Option<Preimage>,
    held: Option<Held>,
}

/// Money on its way.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) payer: NodeId,
    pub(super) amount: Msat,
    pub(super) fee: Msat,
    pub(super) deadline: u32,
}

/// What becomes of money that comes for an invoice.
pub(super) enum Reception {
    /// Nobody asked for it, or not for so much, or it is paid or over.
    Refused,
    /// It is the wallet's by this.
    Taken(Preimage),
    /// It waits for the one who has the preimage.
    Held,
}

impl Wallet {
    pub(super) fn new(alias: &str, key: SecretKey, balance: Msat) -> Self {
        Self {
            alias: format!("play money: {alias}"),
            key,
            running: true,
            balance,
            coins: Sat(0),
            payments: BTreeMap::new(),
            invoices: HashMap::new(),
            events: VecDeque::new(),
            first: 1,
        }
    }

    pub(super) fn balance(&self) -> Balance {
        Balance {
            spendable: self.balance,
            spendable_at_once: self.balance,
            receivable: Msat::SUPPLY.saturating_sub(self.balance),
            in_channels: self.balance,
            onchain: self.coins,
            onchain_reserved: Sat(0),
            pending: Sat(0),
        }
    }

    pub(super) fn look_up(&self, hash: PaymentHash) -> Option<&Payment> {
        let by_hash = || self.payments.values().find(|payment| payment.hash == Some(hash));
        self.payments.get(&hash).or_else(by_hash)
    }

    pub(super) fn next_event(&self) -> Option<Delivery> {
        self.events.front().map(|event| Delivery { id: EventId(self.first), event: event.clone() })
    }

    pub(super) fn acknowledge(&mut self, event: EventId) {
        if self.first == event.0 && self.events.pop_front().is_some() {
            self.first = self.first.saturating_add(1);
        }
    }

    fn tell(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Writes down a payment that is not over yet.
    pub(super) fn begin(
        &mut self,
        direction: Direction,
        hash: PaymentHash,
        kind: Kind,
        amount: Option<Msat>,
        now: Duration,
    ) -> Payment {
        let payment = Payment {
            id: hash,
            hash: Some(hash),
            direction,
            kind,
            amount,
            state: State::Pending,
            updated_at: now.as_secs(),
        };
        self.payments.insert(payment.id, payment.clone());
        payment
    }

    /// Makes an invoice; without the preimage, what comes for it is held.
    pub(super) fn ask(
        &mut self,
        hash: PaymentHash,
        preimage: Option<Preimage>,
        secret: [u8; 32],
        request: &InvoiceRequest,
        now: Duration,
    ) -> Result<Invoice, Error> {
        let invoice = sign(&self.key, hash, secret, request, now)?;
        self.invoices.insert(hash, Asked { amount: request.amount, preimage, held: None });
        self.begin(Direction::Incoming, hash, Kind::Bolt11, request.amount, now);
        Ok(invoice)
    }

    /// Money comes for an invoice. What is refused is to be given back, what is taken is to arrive.
    pub(super) fn receive(&mut self, hash: PaymentHash, held: Held) -> Reception {
        let is_open = self.payments.get(&hash).is_some_and(|payment| payment.state == State::Pending);
        let asked = self.invoices.get_mut(&hash);
        match asked.filter(|asked| is_open && asked.held.is_none() && asked.admits(held.amount)) {
            None => Reception::Refused,
            Some(Asked { preimage: Some(preimage), .. }) => Reception::Taken(*preimage),
            Some(asked) => {
                asked.held = Some(held);
                self.tell(Event::Held { hash, amount: held.amount, deadline: Some(held.deadline) });
                Reception::Held
            }
        }
    }

    /// The money that was held for a hash, now that its preimage is known; nothing where it was settled before.
    pub(super) fn settle(&mut self, hash: PaymentHash) -> Result<Option<Held>, Error> {
        let asked = self.invoices.get_mut(&hash).ok_or(Error::NotFound)?;
        let held = asked.held.take();
        let payment = self.payments.get(&hash);
        let is_settled = payment.is_some_and(|payment| matches!(payment.state, State::Settled { .. }));
        if held.is_some() || is_settled { Ok(held) } else { Err(Error::NotHeld) }
    }

    /// Ends an invoice without its preimage; what was held for it is to be given back.
    pub(super) fn cancel(&mut self, hash: PaymentHash, now: Duration) -> Result<Option<Held>, Error> {
        let asked = self.invoices.get_mut(&hash).filter(|asked| asked.preimage.is_none());
        let held = asked.ok_or(Error::NotFound)?.held.take();
        let payment = self.payments.get_mut(&hash).ok_or(Error::NotFound)?;
        if matches!(payment.state, State::Settled { .. }) {
            return Err(Error::AlreadyPaid);
        }
        payment.become_state(State::Failed { why: FailReason::Rejected }, now);
        Ok(held)
    }

    /// What was held until this height and is to be given back.
    pub(super) fn late(&mut self, height: u32) -> Vec<(PaymentHash, Held)> {
        let is_late = |held: &mut Held| held.deadline <= height;
        let invoices = self.invoices.iter_mut();
        invoices.filter_map(|(hash, asked)| Some((*hash, asked.held.take_if(is_late)?))).collect()
    }

    /// What would be left after this payment.
    pub(super) fn rest(&self, hash: PaymentHash, held: Held) -> Result<Msat, Error> {
        match self.payments.get(&hash).map(|payment| (payment.direction, &payment.state)) {
            Some((Direction::Incoming, _)) => return Err(Error::OwnInvoice),
            Some((_, State::Settled { .. })) => return Err(Error::AlreadyPaid),
            Some((_, State::Pending)) => return Err(Error::InFlight),
            Some((_, State::Failed { .. })) | None => {}
        }
        let rest = held.amount.checked_add(held.fee).and_then(|cost| self.balance.checked_sub(cost));
        rest.ok_or(Error::InsufficientBalance { available: self.balance })
    }

    /// Money is the wallet's.
    pub(super) fn arrived(
        &mut self,
        hash: PaymentHash,
        held: Held,
        preimage: Preimage,
        records: Vec<Record>,
        now: Duration,
    ) {
        self.balance = self.balance.saturating_add(held.amount);
        if let Some(payment) = self.payments.get_mut(&hash) {
            payment.amount = Some(held.amount);
            payment.become_state(State::Settled { preimage: Some(preimage), fee: Msat::ZERO }, now);
        }
        self.tell(Event::Received { hash, amount: held.amount, records });
    }

    /// What it paid has arrived.
    pub(super) fn sent(&mut self, hash: PaymentHash, held: Held, preimage: Preimage, now: Duration) {
        if let Some(payment) = self.payments.get_mut(&hash) {
            payment.become_state(State::Settled { preimage: Some(preimage), fee: held.fee }, now);
        }
        self.tell(Event::Sent { id: hash, hash, preimage: Some(preimage), fee: held.fee });
    }

    /// What it paid has not arrived.
    pub(super) fn came_back(&mut self, hash: PaymentHash, held: Held, now: Duration) {
        let why = FailReason::Rejected;
        self.balance = self.balance.saturating_add(held.amount).saturating_add(held.fee);
        if let Some(payment) = self.payments.get_mut(&hash) {
            payment.become_state(State::Failed { why }, now);
        }
        self.tell(Event::Failed { id: hash, why });
    }
}

impl Asked {
    fn admits(&self, amount: Msat) -> bool {
        self.amount.is_none_or(|asked| asked == amount)
    }
}

impl Payment {
    fn become_state(&mut self, state: State, now: Duration) {
        self.state = state;
        self.updated_at = now.as_secs();
    }
}

fn sign(
    key: &SecretKey,
    hash: PaymentHash,
    secret: [u8; 32],
    request: &InvoiceRequest,
    now: Duration,
) -> Result<Invoice, Error> {
    let expiry = Duration::from_secs(u64::from(request.expiry_s));
    let mut builder = InvoiceBuilder::new(Currency::Regtest)
        .description(request.description.clone())
        .payment_hash(sha256::Hash::from_byte_array(hash.to_bytes()))
        .payment_secret(PaymentSecret(secret))
        .duration_since_epoch(now)
        .min_final_cltv_expiry_delta(FINAL_CLTV)
        .expiry_time(expiry)
        .basic_mpp();
    if let Some(amount) = request.amount {
        builder = builder.amount_milli_satoshis(amount.get());
    }
    let invoice: Bolt11Invoice = builder
        .build_signed(|message| SECP256K1.sign_ecdsa_recoverable(message, key))
        .map_err(|error| Error::Malformed(error.to_string()))?;
    Ok(Invoice { bolt11: invoice.to_string(), hash, expires_at: now.saturating_add(expiry).as_secs() })
}
