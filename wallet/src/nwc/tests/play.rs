//! A purse of play money, and invoices that nobody else knows: both exist in memory only.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use oa_nips::nostr::EventId;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_nips::nostr::secp256k1::{Secp256k1, SecretKey};
use serde_json::{Value, json};

use crate::account::Holder;
use crate::backend::{PaymentHash, Preimage};
use crate::msat::Msat;
use crate::nwc::message::{
    Direction, Error, ErrorCode, HoldOrder, InvoiceOrder, ListQuery, State, Transaction, WalletInfo,
};
use crate::nwc::purse::{Answer, Keysend, Payment, Purse, PurseError, Steer};

/// An invoice of a node nobody runs; `expiry_s` counts from `now_s`.
pub(crate) fn invoice(preimage: Preimage, amount: Option<u64>, now_s: u64, expiry_s: u64) -> String {
    bolt11(preimage.hash(), amount, now_s, expiry_s)
}

fn bolt11(hash: PaymentHash, amount: Option<u64>, now_s: u64, expiry_s: u64) -> String {
    let key = SecretKey::from_slice(&[0x11; 32]).unwrap();
    let builder = InvoiceBuilder::new(Currency::Regtest)
        .description("play money".to_owned())
        .payment_hash(sha256::Hash::from_byte_array(hash.to_bytes()))
        .payment_secret(PaymentSecret([0x22; 32]))
        .duration_since_epoch(Duration::from_secs(now_s))
        .expiry_time(Duration::from_secs(expiry_s))
        .min_final_cltv_expiry_delta(18);
    let sign = |message: &_| Secp256k1::new().sign_ecdsa_recoverable(message, &key);
    let built = match amount {
        Some(amount) => builder.amount_milli_satoshis(amount).build_signed(sign),
        None => builder.build_signed(sign),
    };
    built.unwrap().to_string()
}

/// What becomes of payments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Luck {
    /// They arrive.
    #[default]
    Good,
    /// They fail.
    Bad,
    /// They are under way until [`Play::decide`].
    Slow,
}

/// What the purse holds.
#[derive(Debug, Default)]
pub(crate) struct Play {
    pub(crate) now_s: u64,
    pub(crate) luck: Luck,
    pub(crate) fee: Msat,
    balances: BTreeMap<Holder, Msat>,
    book: Vec<(Holder, Transaction)>,
    /// Preimages of invoices to be paid that this purse can know since it is only played.
    pub(crate) preimages: HashMap<PaymentHash, Preimage>,
    made: HashMap<EventId, Transaction>,
    /// How often money left for each hash.
    pub(crate) paid: HashMap<PaymentHash, u32>,
    obeyed: HashSet<EventId>,
    pub(crate) steered: u32,
    next: u8,
}

impl Play {
    pub(crate) fn give(&mut self, account: &str, msat: u64) {
        self.balances.insert(Holder::new(account).unwrap(), Msat::new(msat));
    }

    pub(crate) fn balance(&self, account: &Holder) -> Msat {
        self.balances.get(account).copied().unwrap_or_default()
    }

    /// An invoice of somebody else, which this purse can pay.
    pub(crate) fn bill(&mut self, seed: u8, amount: Option<u64>) -> (String, PaymentHash) {
        let preimage = Preimage([seed; 32]);
        self.preimages.insert(preimage.hash(), preimage);
        (invoice(preimage, amount, self.now_s, 3600), preimage.hash())
    }

    fn new_transaction(&self, direction: Direction, hash: PaymentHash, amount: Msat) -> Transaction {
        Transaction {
            direction,
            state: State::Pending,
            invoice: None,
            description: None,
            description_hash: None,
            preimage: None,
            payment_hash: hash,
            amount,
            fees_paid: None,
            created_at: self.now_s,
            expires_at: None,
            settled_at: None,
            settle_deadline: None,
            metadata: None,
        }
    }

    pub(crate) fn pay(
        &mut self,
        account: &Holder,
        hash: PaymentHash,
        amount: Msat,
        max_fee: Msat,
        request: EventId,
        invoice: Option<String>,
    ) -> Result<Transaction, PurseError> {
        let earlier = self.book.iter().position(|(_, one)| {
            one.payment_hash == hash && one.direction == Direction::Outgoing && one.state != State::Failed
        });
        if let Some((owner, one)) = earlier.and_then(|at| self.book.get(at)) {
            return match (owner == account && self.obeyed.contains(&request), one.state) {
                (true, State::Settled) => Ok(one.clone()),
                (true, _) => Err(PurseError::Unknown),
                (false, _) => Err(PurseError::Refused("already paid".to_owned())),
            };
        }
        let cost = amount.saturating_add(max_fee);
        let Some(rest) = self.balance(account).checked_sub(cost) else {
            return Err(PurseError::InsufficientBalance);
        };
        self.obeyed.insert(request);
        if self.luck == Luck::Bad {
            return Err(PurseError::Failed("no route".to_owned()));
        }
        *self.paid.entry(hash).or_default() += 1;
        self.balances
            .insert(account.clone(), rest.saturating_add(max_fee).saturating_sub(self.fee.min(max_fee)));
        let mut sent = self.new_transaction(Direction::Outgoing, hash, amount);
        sent.fees_paid = Some(self.fee.min(max_fee));
        sent.invoice = invoice;
        self.book.push((account.clone(), sent));
        if self.luck == Luck::Slow {
            return Err(PurseError::Unknown);
        }
        self.decide(hash, true);
        self.look_up(account, hash).ok_or(PurseError::Unknown)
    }

    /// Ends a payment under way, or pays an invoice of ours. What failed comes back.
    pub(crate) fn decide(&mut self, hash: PaymentHash, arrives: bool) {
        let (preimage, now_s) = (self.preimages.get(&hash).copied(), self.now_s);
        let open = |one: &Transaction| one.payment_hash == hash && !one.state.is_terminal();
        for (owner, one) in self.book.iter_mut().filter(|(_, one)| open(one)) {
            one.state = if arrives { State::Settled } else { State::Failed };
            one.preimage = preimage.filter(|_| arrives);
            one.settled_at = arrives.then_some(now_s);
            if !arrives && one.direction == Direction::Outgoing {
                let back = one.amount.saturating_add(one.fees_paid.unwrap_or_default());
                let balance = self.balances.entry(owner.clone()).or_default();
                *balance = balance.saturating_add(back);
                self.paid.entry(hash).and_modify(|times| *times -= 1);
            }
        }
    }

    /// Money arrives for a hold invoice.
    pub(crate) fn hold(&mut self, hash: PaymentHash) -> Transaction {
        let (_, one) = self.book.iter_mut().find(|(_, one)| one.payment_hash == hash).unwrap();
        one.state = State::Accepted;
        one.settle_deadline = Some(800_000);
        one.clone()
    }

    pub(crate) fn look_up(&self, account: &Holder, hash: PaymentHash) -> Option<Transaction> {
        let theirs = self.book.iter().filter(|(owner, one)| owner == account && one.payment_hash == hash);
        let mut found: Vec<&Transaction> = theirs.map(|(_, one)| one).collect();
        found.sort_by_key(|one| one.direction == Direction::Incoming);
        found.first().map(|one| (*one).clone())
    }

    pub(crate) fn make(
        &mut self,
        account: &Holder,
        amount: Msat,
        hash: Option<PaymentHash>,
        request: EventId,
        metadata: Option<Value>,
    ) -> Transaction {
        if let Some(made) = self.made.get(&request) {
            return made.clone();
        }
        self.next += 1;
        let hash = hash.unwrap_or_else(|| {
            let preimage = Preimage([self.next | 0x80; 32]);
            self.preimages.insert(preimage.hash(), preimage);
            preimage.hash()
        });
        let mut made = self.new_transaction(Direction::Incoming, hash, amount);
        made.invoice = Some(bolt11(hash, Some(amount.get()), self.now_s, 3600));
        made.expires_at = Some(self.now_s + 3600);
        made.metadata = metadata;
        self.made.insert(request, made.clone());
        self.book.push((account.clone(), made.clone()));
        made
    }

    pub(crate) fn settle(&mut self, account: &Holder, preimage: Preimage) -> Result<(), PurseError> {
        let found = self.look_up(account, preimage.hash()).ok_or(PurseError::NotFound)?;
        if found.state == State::Pending {
            return Err(PurseError::Refused("nothing is held".to_owned()));
        }
        self.preimages.insert(preimage.hash(), preimage);
        self.decide(preimage.hash(), true);
        Ok(())
    }

    pub(crate) fn cancel(&mut self, account: &Holder, hash: PaymentHash) -> Result<(), PurseError> {
        self.look_up(account, hash).ok_or(PurseError::NotFound)?;
        self.decide(hash, false);
        Ok(())
    }

    pub(crate) fn list(&self, account: &Holder, query: &ListQuery) -> Vec<Transaction> {
        let theirs = self.book.iter().rev().filter(|(owner, _)| owner == account);
        let skip = usize::try_from(query.offset.unwrap_or(0)).unwrap();
        let take = usize::try_from(query.limit.unwrap()).unwrap();
        theirs.map(|(_, one)| one.clone()).skip(skip).take(take).collect()
    }

    pub(crate) fn info() -> WalletInfo {
        let (alias, network) = (Some("play money".to_owned()), Some("regtest".to_owned()));
        WalletInfo { alias, network, ..WalletInfo::default() }
    }
}

/// The same behind the port.
#[derive(Debug, Clone, Default)]
pub(crate) struct PlayPurse(pub(crate) Arc<Mutex<Play>>);

impl PlayPurse {
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Play) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }
}

fn ready<'a, T: Send + 'a>(value: Result<T, PurseError>) -> Answer<'a, T> {
    async move { value }.boxed()
}

impl Purse for PlayPurse {
    fn info(&self) -> Answer<'_, WalletInfo> {
        ready(Ok(Play::info()))
    }

    fn balance<'a>(&'a self, account: &'a Holder) -> Answer<'a, Msat> {
        ready(Ok(self.with(|play| play.balance(account))))
    }

    fn make_invoice<'a>(
        &'a self,
        account: &'a Holder,
        order: InvoiceOrder,
        request: EventId,
    ) -> Answer<'a, Transaction> {
        ready(Ok(self.with(|play| play.make(account, order.amount, None, request, order.metadata))))
    }

    fn make_hold_invoice<'a>(
        &'a self,
        account: &'a Holder,
        order: HoldOrder,
        request: EventId,
    ) -> Answer<'a, Transaction> {
        let hash = Some(order.payment_hash);
        ready(Ok(self.with(|play| play.make(account, order.amount, hash, request, None))))
    }

    fn settle_hold_invoice<'a>(&'a self, account: &'a Holder, preimage: Preimage) -> Answer<'a, ()> {
        ready(self.with(|play| play.settle(account, preimage)))
    }

    fn cancel_hold_invoice<'a>(&'a self, account: &'a Holder, hash: PaymentHash) -> Answer<'a, ()> {
        ready(self.with(|play| play.cancel(account, hash)))
    }

    fn pay<'a>(&'a self, account: &'a Holder, payment: Payment) -> Answer<'a, Transaction> {
        let Payment { payment_hash, amount, max_fee, request, invoice, .. } = payment;
        ready(self.with(|play| play.pay(account, payment_hash, amount, max_fee, request, Some(invoice))))
    }

    fn pay_keysend<'a>(&'a self, account: &'a Holder, keysend: Keysend) -> Answer<'a, Transaction> {
        let Keysend { preimage, amount, max_fee, request, .. } = keysend;
        ready(self.with(|play| {
            play.preimages.insert(preimage.hash(), preimage);
            play.pay(account, preimage.hash(), amount, max_fee, request, None)
        }))
    }

    fn look_up<'a>(&'a self, account: &'a Holder, hash: PaymentHash) -> Answer<'a, Option<Transaction>> {
        ready(Ok(self.with(|play| play.look_up(account, hash))))
    }

    fn list<'a>(&'a self, account: &'a Holder, query: ListQuery) -> Answer<'a, Vec<Transaction>> {
        ready(Ok(self.with(|play| play.list(account, &query))))
    }
}

impl Steer for PlayPurse {
    fn methods(&self) -> &[&'static str] {
        &["oa_address", "oa_open_channel"]
    }

    fn steer<'a>(
        &'a self,
        method: &'a str,
        _params: Value,
    ) -> futures_util::future::BoxFuture<'a, Result<Value, Error>> {
        let answer = match method {
            "oa_address" => Ok(json!({ "address": "play1money" })),
            "oa_open_channel" => {
                self.with(|play| play.steered += 1);
                Ok(json!({ "channel": "play" }))
            }
            _ => Err(Error::new(ErrorCode::NotImplemented, "not played")),
        };
        async move { answer }.boxed()
    }
}
