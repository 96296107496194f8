//! A world of play money: what goes from one of its wallets to another. Pure: time is an argument, randomness a
//! counter over a seed.
//!
//! `wallet` has the books of each by itself.

mod wallet;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use oa_nips::hex::Hex;
use oa_nips::nostr::SECP256K1;
use oa_nips::nostr::hashes::{Hash as _, HashEngine as _, sha256};
use oa_nips::nostr::secp256k1::SecretKey;

use crate::backend::check;
use crate::backend::{
    Balance, Delivery, Direction, Error, EventId, Info, Invoice, InvoiceRequest, Keysend, Kind, Network,
    NodeId, Payment, PaymentHash, Peer, Preimage, Record,
};
use crate::msat::Msat;
use wallet::{Held, Reception, Wallet};

/// Blocks from the arrival of held money to its way back.
const HOLD_BLOCKS: u32 = 36;

/// How an offer of play money begins. No Lightning wallet takes it for one of its own.
const OFFER_PREFIX: &str = "fakeoffer1";

pub(super) struct State {
    seed: sha256::Hash,
    drawn: u64,
    pub(super) fee: Msat,
    height: u32,
    wallets: BTreeMap<NodeId, Wallet>,
    offers: HashMap<String, (NodeId, Option<Msat>)>,
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
        self.wallets.insert(id, Wallet::new(alias, key, balance));
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
        Ok(self.wallet(id)?.balance())
    }

    #[cfg(test)]
    pub(super) fn set_coins(&mut self, id: &NodeId, coins: crate::backend::Sat) {
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
        self.wallets.get(id)?.look_up(hash).cloned()
    }

    pub(super) fn next_event(&self, id: &NodeId) -> Option<Delivery> {
        self.wallets.get(id)?.next_event()
    }

    pub(super) fn acknowledge(&mut self, id: &NodeId, event: EventId) {
        if let Some(wallet) = self.wallets.get_mut(id) {
            wallet.acknowledge(event);
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
        let secret = self.draw();
        self.wallet_mut(id)?.ask(preimage.hash(), Some(preimage), secret, request, now)
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
        let secret = self.draw();
        self.wallet_mut(id)?.ask(hash, None, secret, request, now)
    }

    pub(super) fn settle(&mut self, id: &NodeId, preimage: Preimage, now: Duration) -> Result<(), Error> {
        let hash = preimage.hash();
        if let Some(held) = self.wallet_mut(id)?.settle(hash)? {
            self.arrive(id, hash, held, preimage, Vec::new(), now);
        }
        Ok(())
    }

    pub(super) fn cancel(&mut self, id: &NodeId, hash: PaymentHash, now: Duration) -> Result<(), Error> {
        if let Some(held) = self.wallet_mut(id)?.cancel(hash, now)? {
            self.give_back(hash, held, now);
        }
        Ok(())
    }

    pub(super) fn mine(&mut self, blocks: u32, now: Duration) {
        self.height = self.height.saturating_add(blocks);
        let height = self.height;
        let late: Vec<_> = self.wallets.values_mut().flat_map(|wallet| wallet.late(height)).collect();
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
        let held = self.held(id, checked.amount);
        let payment = self.leave(&checked.payee, (checked.hash, Kind::Bolt11), held, fee_max, now)?;
        match self.wallet_mut(&checked.payee)?.receive(checked.hash, held) {
            Reception::Refused => self.give_back(checked.hash, held, now),
            Reception::Taken(preimage) => {
                self.arrive(&checked.payee, checked.hash, held, preimage, Vec::new(), now);
            }
            Reception::Held => {}
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
        let held = self.held(id, keysend.amount);
        let payment = self.leave(&keysend.payee, (hash, Kind::Keysend), held, keysend.fee_max, now)?;
        let payee = self.wallet_mut(&keysend.payee)?;
        if payee.payments.contains_key(&hash) {
            self.give_back(hash, held, now);
        } else {
            payee.begin(Direction::Incoming, hash, Kind::Keysend, Some(keysend.amount), now);
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
        let held = self.held(id, amount);
        let payment = self.leave(&payee, (hash, Kind::Offer), held, fee_max, now)?;
        self.wallet_mut(&payee)?.begin(Direction::Incoming, hash, Kind::Offer, Some(amount), now);
        self.arrive(&payee, hash, held, preimage, Vec::new(), now);
        Ok(payment)
    }

    fn held(&self, payer: &NodeId, amount: Msat) -> Held {
        Held { payer: *payer, amount, fee: self.fee, deadline: self.height.saturating_add(HOLD_BLOCKS) }
    }

    /// Money leaves its owner.
    fn leave(
        &mut self,
        payee: &NodeId,
        (hash, kind): (PaymentHash, Kind),
        held: Held,
        fee_max: Msat,
        now: Duration,
    ) -> Result<Payment, Error> {
        let is_reachable = self.wallets.get(payee).is_some_and(|payee| payee.running);
        let wallet = self.wallet_mut(&held.payer)?;
        let rest = wallet.rest(hash, held)?;
        if !is_reachable || held.fee > fee_max {
            return Err(Error::NoRoute);
        }
        wallet.balance = rest;
        Ok(wallet.begin(Direction::Outgoing, hash, kind, Some(held.amount), now))
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
        if let Some(wallet) = self.wallets.get_mut(payee) {
            wallet.arrived(hash, held, preimage, records, now);
        }
        if let Some(wallet) = self.wallets.get_mut(&held.payer) {
            wallet.sent(hash, held, preimage, now);
        }
    }

    fn give_back(&mut self, hash: PaymentHash, held: Held, now: Duration) {
        if let Some(wallet) = self.wallets.get_mut(&held.payer) {
            wallet.came_back(hash, held, now);
        }
    }
}
