//! The books of a world of play money. Pure: time is an argument, randomness a counter over a seed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use lightning_invoice::{Bolt11Invoice, Currency, InvoiceBuilder, PaymentSecret};
use oa_nips::hex::Hex;
use oa_nips::nostr::SECP256K1;
use oa_nips::nostr::hashes::{Hash as _, HashEngine as _, sha256};
use oa_nips::nostr::secp256k1::SecretKey;

use crate::backend::check;
use crate::backend::{
    Balance, Delivery, Direction, Error, Event, EventId, FailReason, Info, Invoice, InvoiceRequest, Keysend,
    Kind, Network, NodeId, Payment, PaymentHash, Peer, Preimage, Record, Sat, State as Status,
};
use crate::msat::Msat;

/// Blocks from the arrival of held money to its way back.
const HOLD_BLOCKS: u32 = 36;

/// How an offer of play money begins. No Lightning wallet takes it for one of its own.
const OFFER_PREFIX: &str = "fakeoffer1";

/// Blocks (of nothing) that an invoice wants left on arrival.
const FINAL_CLTV: u64 = 144;

pub(super) struct State {
    seed: sha256::Hash,
    drawn: u64,
    pub(super) fee: Msat,
    height: u32,
    wallets: BTreeMap<NodeId, Wallet>,
    offers: HashMap<String, (NodeId, Option<Msat>)>,
}

struct Wallet {
    alias: String,
    key: SecretKey,
    running: bool,
    balance: Msat,
    coins: Sat,
    payments: BTreeMap<PaymentHash, Payment>,
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
struct Held {
    payer: NodeId,
    amount: Msat,
    fee: Msat,
    deadline: u32,
}

impl State {
    pub(super) fn new(seed: &[u8]) -> Self {
        Self {
            seed: sha256::Hash::hash(seed),
            drawn: 0,
            fee: Msat::ZERO,
            height: 1,
            wallets: BTreeMap::new(),
            offers: HashMap::new(),
        }
    }

    fn draw(&mut self) -> [u8; 32] {
        self.drawn = self.drawn.saturating_add(1);
        let mut engine = sha256::Hash::engine();
        engine.input(self.seed.as_byte_array());
        engine.input(&self.drawn.to_be_bytes());
        sha256::Hash::from_engine(engine).to_byte_array()
    }

    pub(super) fn open(&mut self, alias: &str, balance: Msat) -> NodeId {
        let secret = self.draw();
        self.open_as(alias, &secret, balance)
    }

    pub(super) fn open_as(&mut self, alias: &str, secret: &[u8; 32], balance: Msat) -> NodeId {
        let mut engine = sha256::Hash::engine();
        engine.input(b"play money");
        engine.input(secret);
        let key = sha256::Hash::from_engine(engine).to_byte_array();
        let key = SecretKey::from_slice(&key).expect("one hash in 2^128 is no key");
        let id = NodeId::from(key.public_key(SECP256K1));
        let wallet = Wallet {
            alias: format!("play money: {alias}"),
            key,
            running: true,
            balance,
            coins: Sat(0),
            payments: BTreeMap::new(),
            invoices: HashMap::new(),
            events: VecDeque::new(),
            first: 1,
        };
        self.wallets.insert(id, wallet);
        id
    }

    pub(super) fn reopen(&mut self, id: &NodeId) -> bool {
        self.wallets.get_mut(id).map(|wallet| wallet.running = true).is_some()
    }

    pub(super) fn stop(&mut self, id: &NodeId) {
        if let Some(wallet) = self.wallets.get_mut(id) {
            wallet.running = false;
        }
    }

    pub(super) fn running(&self, id: &NodeId) -> Result<(), Error> {
        match self.wallets.get(id) {
            Some(wallet) if wallet.running => Ok(()),
            _ => Err(Error::Unavailable("stopped".to_owned())),
        }
    }

    fn wallet(&self, id: &NodeId) -> Result<&Wallet, Error> {
        self.wallets.get(id).ok_or(Error::NotFound)
    }

    fn wallet_mut(&mut self, id: &NodeId) -> Result<&mut Wallet, Error> {
        self.wallets.get_mut(id).ok_or(Error::NotFound)
    }

    pub(super) fn info(&self, id: &NodeId) -> Result<Info, Error> {
        Ok(Info {
            network: Network::Regtest,
            alias: self.wallet(id)?.alias.clone(),
            node_id: *id,
            block_height: self.height,
            block_hash: Hex::<32>::ZERO.to_string(),
            addresses: Vec::new(),
            play_money: true,
        })
    }

    pub(super) fn balance(&self, id: &NodeId) -> Result<Balance, Error> {
        let Wallet { balance: spendable, coins, .. } = *self.wallet(id)?;
        Ok(Balance {
            spendable,
            spendable_at_once: spendable,
            receivable: Msat::SUPPLY.saturating_sub(spendable),
            in_channels: spendable,
            onchain: coins,
            onchain_reserved: Sat(0),
            pending: Sat(0),
        })
    }

    #[cfg(test)]
    pub(super) fn set_coins(&mut self, id: &NodeId, coins: Sat) {
        if let Some(wallet) = self.wallets.get_mut(id) {
            wallet.coins = coins;
        }
    }

    pub(super) fn peers(&self, id: &NodeId) -> Vec<Peer> {
        let others = self.wallets.iter().filter(|(other, _)| *other != id);
        others
            .map(|(other, wallet)| Peer {
                id: *other,
                address: wallet.alias.clone(),
                connected: wallet.running,
            })
            .collect()
    }

    pub(super) fn payments(&self, id: &NodeId) -> Vec<Payment> {
        self.wallets.get(id).map(|wallet| wallet.payments.values().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn look_up(&self, id: &NodeId, hash: PaymentHash) -> Option<Payment> {
        let payments = &self.wallets.get(id)?.payments;
        payments.get(&hash).or_else(|| payments.values().find(|payment| payment.hash == Some(hash))).cloned()
    }

    pub(super) fn next_event(&self, id: &NodeId) -> Option<Delivery> {
        let wallet = self.wallets.get(id)?;
        wallet.events.front().map(|event| Delivery { id: EventId(wallet.first), event: event.clone() })
    }

    pub(super) fn acknowledge(&mut self, id: &NodeId, event: EventId) {
        if let Some(wallet) = self.wallets.get_mut(id)
            && wallet.first == event.0
            && wallet.events.pop_front().is_some()
        {
            wallet.first = wallet.first.saturating_add(1);
        }
    }

    pub(super) fn invoice(
        &mut self,
        id: &NodeId,
        request: &InvoiceRequest,
        now: Duration,
    ) -> Result<Invoice, Error> {
        check::request(request)?;
        let preimage = Preimage(self.draw());
        self.ask(id, preimage.hash(), Some(preimage), request, now)
    }

    pub(super) fn hold_invoice(
        &mut self,
        id: &NodeId,
        hash: PaymentHash,
        request: &InvoiceRequest,
        now: Duration,
    ) -> Result<Invoice, Error> {
        check::request(request)?;
        if request.amount.is_none() {
            return Err(Error::AmountMissing);
        }
        if self.look_up(id, hash).is_some() {
            return Err(Error::AlreadyPaid);
        }
        self.ask(id, hash, None, request, now)
    }

    fn ask(
        &mut self,
        id: &NodeId,
        hash: PaymentHash,
        preimage: Option<Preimage>,
        request: &InvoiceRequest,
        now: Duration,
    ) -> Result<Invoice, Error> {
        let secret = self.draw();
        let wallet = self.wallet_mut(id)?;
        let invoice = sign(&wallet.key, hash, secret, request, now)?;
        wallet.invoices.insert(hash, Asked { amount: request.amount, preimage, held: None });
        wallet.put(incoming(hash, Kind::Bolt11, request.amount, now));
        Ok(invoice)
    }

    pub(super) fn settle(&mut self, id: &NodeId, preimage: Preimage, now: Duration) -> Result<(), Error> {
        let hash = preimage.hash();
        let wallet = self.wallet_mut(id)?;
        let status = wallet.payments.get(&hash).map(|payment| payment.state.clone());
        let asked = wallet.invoices.get_mut(&hash).ok_or(Error::NotFound)?;
        match (asked.held.take(), status) {
            (Some(held), _) => {
                self.arrive(id, hash, held, preimage, Vec::new(), now);
                Ok(())
            }
            (None, Some(Status::Settled { .. })) => Ok(()),
            (None, _) => Err(Error::NotHeld),
        }
    }

    pub(super) fn cancel(&mut self, id: &NodeId, hash: PaymentHash, now: Duration) -> Result<(), Error> {
        let wallet = self.wallet_mut(id)?;
        let asked = wallet.invoices.get_mut(&hash).filter(|asked| asked.preimage.is_none());
        let held = asked.ok_or(Error::NotFound)?.held.take();
        let payment = wallet.payments.get_mut(&hash).ok_or(Error::NotFound)?;
        if matches!(payment.state, Status::Settled { .. }) {
            return Err(Error::AlreadyPaid);
        }
        payment.become_state(Status::Failed { why: FailReason::Rejected }, now);
        if let Some(held) = held {
            self.give_back(hash, held, now);
        }
        Ok(())
    }

    pub(super) fn mine(&mut self, blocks: u32, now: Duration) {
        self.height = self.height.saturating_add(blocks);
        let height = self.height;
        let mut late = Vec::new();
        for asked in self.wallets.values_mut().flat_map(|wallet| wallet.invoices.iter_mut()) {
            if asked.1.held.is_some_and(|held| held.deadline <= height)
                && let Some(held) = asked.1.held.take()
            {
                late.push((*asked.0, held));
            }
        }
        for (hash, held) in late {
            self.give_back(hash, held, now);
        }
    }

    pub(super) fn pay(
        &mut self,
        id: &NodeId,
        bolt11: &str,
        amount: Option<Msat>,
        fee_max: Msat,
        now: Duration,
    ) -> Result<Payment, Error> {
        let checked = check::bolt11(bolt11, amount, Network::Regtest, now)?;
        if checked.payee == *id {
            return Err(Error::OwnInvoice);
        }
        let payment =
            self.leave(id, &checked.payee, checked.hash, Kind::Bolt11, checked.amount, fee_max, now)?;
        let held = self.held(id, checked.amount);
        let payee = self.wallet_mut(&checked.payee)?;
        let open = payee.payments.get(&checked.hash).is_some_and(|payment| payment.state == Status::Pending);
        let asked = payee.invoices.get_mut(&checked.hash);
        match asked.filter(|asked| open && asked.held.is_none() && asked.admits(checked.amount)) {
            None => self.give_back(checked.hash, held, now),
            Some(Asked { preimage: Some(preimage), .. }) => {
                let preimage = *preimage;
                self.arrive(&checked.payee, checked.hash, held, preimage, Vec::new(), now);
            }
            Some(asked) => {
                asked.held = Some(held);
                let deadline = Some(held.deadline);
                payee.tell(Event::Held { hash: checked.hash, amount: held.amount, deadline });
            }
        }
        Ok(payment)
    }

    pub(super) fn keysend(
        &mut self,
        id: &NodeId,
        keysend: &Keysend,
        now: Duration,
    ) -> Result<Payment, Error> {
        check::amount_asked(keysend.amount)?;
        check::records(&keysend.records)?;
        if keysend.payee == *id {
            return Err(Error::OwnInvoice);
        }
        let hash = keysend.preimage.hash();
        let payment =
            self.leave(id, &keysend.payee, hash, Kind::Keysend, keysend.amount, keysend.fee_max, now)?;
        let held = self.held(id, keysend.amount);
        let payee = self.wallet_mut(&keysend.payee)?;
        if payee.payments.contains_key(&hash) {
            self.give_back(hash, held, now);
        } else {
            payee.put(incoming(hash, Kind::Keysend, Some(keysend.amount), now));
            self.arrive(&keysend.payee, hash, held, keysend.preimage, keysend.records.clone(), now);
        }
        Ok(payment)
    }

    pub(super) fn offer(&mut self, id: &NodeId, amount: Option<Msat>) -> Result<String, Error> {
        amount.map_or(Ok(()), check::amount_asked)?;
        let offer = format!("{OFFER_PREFIX}{}", Hex(self.draw()));
        self.offers.insert(offer.clone(), (*id, amount));
        Ok(offer)
    }

    pub(super) fn pay_offer(
        &mut self,
        id: &NodeId,
        offer: &str,
        amount: Option<Msat>,
        fee_max: Msat,
        now: Duration,
    ) -> Result<Payment, Error> {
        let malformed = || Error::Malformed("no offer of this bank".to_owned());
        let (payee, asked) = *self.offers.get(offer.trim()).ok_or_else(malformed)?;
        let amount = match (asked, amount) {
            (Some(theirs), Some(given)) if theirs != given => return Err(Error::AmountMismatch { theirs }),
            (Some(amount), _) | (None, Some(amount)) if amount != Msat::ZERO => amount,
            _ => return Err(Error::AmountMissing),
        };
        if payee == *id {
            return Err(Error::OwnInvoice);
        }
        let preimage = Preimage(self.draw());
        let hash = preimage.hash();
        let payment = self.leave(id, &payee, hash, Kind::Offer, amount, fee_max, now)?;
        let held = self.held(id, amount);
        self.wallet_mut(&payee)?.put(incoming(hash, Kind::Offer, Some(amount), now));
        self.arrive(&payee, hash, held, preimage, Vec::new(), now);
        Ok(payment)
    }

    fn held(&self, payer: &NodeId, amount: Msat) -> Held {
        Held { payer: *payer, amount, fee: self.fee, deadline: self.height.saturating_add(HOLD_BLOCKS) }
    }

    /// Money leaves its owner.
    #[expect(clippy::too_many_arguments, reason = "one step of one machine, called from three places")]
    fn leave(
        &mut self,
        id: &NodeId,
        payee: &NodeId,
        hash: PaymentHash,
        kind: Kind,
        amount: Msat,
        fee_max: Msat,
        now: Duration,
    ) -> Result<Payment, Error> {
        let fee = self.fee;
        let reachable = self.wallets.get(payee).is_some_and(|payee| payee.running);
        let wallet = self.wallet_mut(id)?;
        match wallet.payments.get(&hash).map(|payment| (payment.direction, &payment.state)) {
            Some((Direction::Incoming, _)) => return Err(Error::OwnInvoice),
            Some((_, Status::Settled { .. })) => return Err(Error::AlreadyPaid),
            Some((_, Status::Pending)) => return Err(Error::InFlight),
            Some((_, Status::Failed { .. })) | None => {}
        }
        let enough = amount.checked_add(fee).and_then(|cost| wallet.balance.checked_sub(cost));
        let rest = enough.ok_or(Error::InsufficientBalance { available: wallet.balance })?;
        if !reachable || fee > fee_max {
            return Err(Error::NoRoute);
        }
        wallet.balance = rest;
        let payment = Payment { direction: Direction::Outgoing, ..incoming(hash, kind, Some(amount), now) };
        wallet.put(payment.clone());
        Ok(payment)
    }

    /// Money reaches its new owner, and its sender hears of it.
    fn arrive(
        &mut self,
        payee: &NodeId,
        hash: PaymentHash,
        held: Held,
        preimage: Preimage,
        records: Vec<Record>,
        now: Duration,
    ) {
        let settled = |fee| Status::Settled { preimage: Some(preimage), fee };
        if let Some(wallet) = self.wallets.get_mut(payee) {
            wallet.balance = wallet.balance.saturating_add(held.amount);
            if let Some(payment) = wallet.payments.get_mut(&hash) {
                payment.amount = Some(held.amount);
                payment.become_state(settled(Msat::ZERO), now);
            }
            wallet.tell(Event::Received { hash, amount: held.amount, records });
        }
        if let Some(wallet) = self.wallets.get_mut(&held.payer) {
            if let Some(payment) = wallet.payments.get_mut(&hash) {
                payment.become_state(settled(held.fee), now);
            }
            wallet.tell(Event::Sent { id: hash, hash, preimage: Some(preimage), fee: held.fee });
        }
    }

    fn give_back(&mut self, hash: PaymentHash, held: Held, now: Duration) {
        let why = FailReason::Rejected;
        if let Some(wallet) = self.wallets.get_mut(&held.payer) {
            wallet.balance = wallet.balance.saturating_add(held.amount).saturating_add(held.fee);
            if let Some(payment) = wallet.payments.get_mut(&hash) {
                payment.become_state(Status::Failed { why }, now);
            }
            wallet.tell(Event::Failed { id: hash, why });
        }
    }
}

impl Wallet {
    fn put(&mut self, payment: Payment) {
        self.payments.insert(payment.id, payment);
    }

    fn tell(&mut self, event: Event) {
        self.events.push_back(event);
    }
}

impl Asked {
    fn admits(&self, amount: Msat) -> bool {
        self.amount.is_none_or(|asked| asked == amount)
    }
}

impl Payment {
    fn become_state(&mut self, state: Status, now: Duration) {
        self.state = state;
        self.updated_at = now.as_secs();
    }
}

fn incoming(hash: PaymentHash, kind: Kind, amount: Option<Msat>, now: Duration) -> Payment {
    Payment {
        id: hash,
        hash: Some(hash),
        direction: Direction::Incoming,
        kind,
        amount,
        state: Status::Pending,
        updated_at: now.as_secs(),
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
