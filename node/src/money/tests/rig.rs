//! A wallet that pays and is paid for true, in a world of play money, and answers as it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use oa_nips::hex::{Hash, Hex};
use oa_nips::nostr::{EventBuilder, EventId, Keys};
use oa_wallet::account::{Holder, Verified, verify};
use oa_wallet::backend::fake::{Bank as World, Fake};
use oa_wallet::backend::{Backend, InvoiceRequest, PaymentHash, State as Status};
use oa_wallet::budget::Consent;
use oa_wallet::msat::Msat;
use oa_wallet::nwc::bill::Bill;
use oa_wallet::nwc::client::{CallError, Outcome, Prepared};
use oa_wallet::nwc::message::{
    Error as Refusal, ErrorCode, InvoiceOrder, Notification, PayOrder, Transaction, WalletInfo,
};
use serde_json::json;
use tokio::sync::{broadcast, watch};

use crate::agent::AgentId;
use crate::money::bank::{Answer, Bank};
use crate::money::{Caps, Money, Pace, PayAsked, Payer, Under, holder};
use crate::namespace::Error;
use crate::store::Store;
use crate::store::memory::MemoryBackend;
use crate::time::System;

/// No wait of a test is longer.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// What becomes of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is made, at this cost, and the answer comes.
    Paid { fee: Msat },
    /// It is made, and the wallet does not say what it cost.
    PaidInSilence,
    /// It is made, and the first answer is lost.
    Lost,
    /// It fails.
    Refused,
    /// Nobody knows until the test says so.
    Hangs,
}

#[derive(Debug, Default)]
struct Script {
    fates: BTreeMap<Hash, Fate>,
    /// Requests that were sent, by payment.
    sent: BTreeMap<Hash, BTreeSet<EventId>>,
    /// Payments whose answer was lost once.
    lost: BTreeSet<Hash>,
    /// How often a hash was looked up.
    looks: u32,
    /// Whether no look-up is answered.
    is_mute: bool,
    /// Requests of this connection.
    ordered: BTreeSet<EventId>,
}

/// The wallet of the node.
#[derive(Debug)]
pub(super) struct Scripted {
    pub(super) wallet: Fake,
    world: World,
    script: Mutex<Script>,
    pub(super) listening: watch::Sender<bool>,
    pub(super) told: broadcast::Sender<Notification>,
}

impl Scripted {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, hash: Hash, fate: Fate) {
        self.script().fates.insert(hash, fate);
    }

    /// Requests that were sent for a payment.
    pub(super) fn sent(&self, hash: &Hash) -> usize {
        self.script().sent.get(hash).map_or(0, BTreeSet::len)
    }

    /// Another connection is configured.
    pub(super) fn change(&self) {
        self.script().ordered.clear();
    }

    pub(super) fn mute(&self) {
        self.script().is_mute = true;
    }

    pub(super) fn looks(&self) -> u32 {
        self.script().looks
    }

    async fn made(&self, prepared: &Prepared, fee: Msat) -> Outcome {
        self.world.set_fee(fee);
        let json = serde_json::to_value(prepared).unwrap();
        let body: serde_json::Value = serde_json::from_str(json["body"].as_str().unwrap()).unwrap();
        let invoice = body["params"]["invoice"].as_str().unwrap();
        // Paid before, by the same request: it is obeyed once.
        let _ = self.wallet.pay(invoice, None, Msat::SUPPLY).await;
        let known = self.wallet.wait(prepared.payment_hash, DEADLINE).await.unwrap();
        match known.state {
            Status::Settled { preimage: Some(preimage), fee } => {
                Outcome::Settled { preimage, fee: Some(fee) }
            }
            other => panic!("{other:?}"),
        }
    }

    async fn answer(&self, prepared: &Prepared) -> Outcome {
        let hash = prepared.payment_hash.0;
        let fate = self.script().fates.get(&hash).copied();
        match fate.unwrap_or(Fate::Paid { fee: Msat::ZERO }) {
            Fate::Paid { fee } => self.made(prepared, fee).await,
            Fate::PaidInSilence => match self.made(prepared, Msat::ZERO).await {
                Outcome::Settled { preimage, .. } => Outcome::Settled { preimage, fee: None },
                other => other,
            },
            Fate::Lost => {
                let made = self.made(prepared, Msat::new(7)).await;
                if self.script().lost.insert(hash) { Outcome::Unknown } else { made }
            }
            Fate::Refused => {
                Outcome::Failed { code: ErrorCode::PaymentFailed, message: "no route".to_owned() }
            }
            Fate::Hangs => Outcome::Unknown,
        }
    }
}

fn unavailable() -> CallError {
    CallError::Refused(Refusal::new(ErrorCode::Internal, "as the test wants it"))
}

impl Bank for Scripted {
    fn listening(&self) -> watch::Receiver<bool> {
        self.listening.subscribe()
    }

    fn notifies(&self) -> bool {
        true
    }

    fn notifications(&self) -> broadcast::Receiver<Notification> {
        self.told.subscribe()
    }

    fn info(&self) -> Answer<'_, WalletInfo> {
        let info = serde_json::from_value(json!({ "network": "regtest" })).unwrap();
        Box::pin(async move { Ok(info) })
    }

    fn balance(&self) -> Answer<'_, Msat> {
        Box::pin(async { Ok(self.wallet.balance().await.map_err(|_| unavailable())?.spendable) })
    }

    fn make_invoice(&self, order: InvoiceOrder) -> Answer<'_, Transaction> {
        Box::pin(async move {
            let expiry_s = u32::try_from(order.expiry.unwrap_or(3600)).unwrap();
            let description = order.description.unwrap_or_default();
            let request = InvoiceRequest { amount: Some(order.amount), description, expiry_s };
            let made = self.wallet.invoice(request).await.map_err(|_| unavailable())?;
            let made = json!({ "type": "incoming", "state": "pending", "invoice": made.bolt11,
                "payment_hash": made.hash, "amount": order.amount });
            Ok(serde_json::from_value(made).unwrap())
        })
    }

    fn look_up(&self, hash: PaymentHash) -> Answer<'_, Option<Transaction>> {
        self.script().looks += 1;
        let is_mute = self.script().is_mute;
        Box::pin(async move {
            if is_mute {
                std::future::pending::<()>().await;
            }
            let found = self.wallet.look_up(hash).await.map_err(|_| unavailable())?;
            Ok(found.map(|payment| {
                let state = match payment.state {
                    Status::Settled { .. } => "settled",
                    Status::Failed { .. } => "failed",
                    Status::Pending => "pending",
                };
                let is_incoming = payment.direction == oa_wallet::backend::Direction::Incoming;
                let found = json!({ "type": if is_incoming { "incoming" } else { "outgoing" }, "state": state,
                    "payment_hash": hash, "amount": payment.amount.unwrap_or_default() });
                serde_json::from_value(found).unwrap()
            }))
        })
    }

    fn prepare(&self, order: PayOrder) -> Answer<'_, Prepared> {
        Box::pin(async move {
            let bill = Bill::read(&order.invoice)?;
            let amount = bill.to_pay(order.amount)?;
            let event = EventBuilder::text_note("a request").sign_with_keys(&Keys::generate()).unwrap();
            self.script().ordered.insert(event.id);
            let body = json!({ "method": "pay_invoice", "params": order }).to_string();
            let prepared = json!({ "event": event, "body": body, "encryption": "nip44_v2",
                "payment_hash": bill.payment_hash, "amount": amount, "final_at": bill.expires_at });
            Ok(serde_json::from_value(prepared).unwrap())
        })
    }

    fn has_ordered(&self, prepared: &Prepared) -> bool {
        self.script().ordered.contains(&prepared.event.id)
    }

    fn perform<'a>(&'a self, prepared: &'a Prepared) -> BoxFuture<'a, Outcome> {
        self.script().sent.entry(prepared.payment_hash.0).or_default().insert(prepared.event.id);
        Box::pin(self.answer(prepared))
    }

    fn resolve<'a>(&'a self, prepared: &'a Prepared) -> BoxFuture<'a, Outcome> {
        Box::pin(self.answer(prepared))
    }
}

/// A node's accounts, a wallet under them, and somebody else's wallet.
pub(super) struct Rig {
    pub(super) bank: Arc<Scripted>,
    pub(super) money: Money,
    pub(super) other: Fake,
    store: Store,
    keys: u64,
}

impl Rig {
    /// The operator has what the wallet has.
    pub(super) async fn new(balance: Msat) -> Self {
        let world = World::new(b"accounts");
        let (wallet, other) = (world.open("node", balance), world.open("other", Msat::from_sat(1_000_000)));
        let (listening, told) = (watch::Sender::new(true), broadcast::Sender::new(16));
        let bank = Arc::new(Scripted { wallet, world, script: Mutex::default(), listening, told });
        let store = Store::new(Arc::new(MemoryBackend::default())).unwrap();
        let money = accounts(&bank, &store);
        money.compare().await.unwrap();
        Self { bank, money, other, store, keys: 0 }
    }

    /// The node dies, and comes back.
    pub(super) fn crash(&mut self) {
        self.money.inner.cancel.cancel();
        self.money = accounts(&self.bank, &self.store);
        self.money.take_up().unwrap();
    }

    /// A key that no call had before.
    pub(super) fn key(&mut self) -> [u8; 32] {
        self.keys += 1;
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.keys.to_be_bytes());
        key
    }

    /// Somebody else's invoice.
    pub(super) async fn bill(&self, amount: Option<Msat>) -> (String, Hash) {
        let request = InvoiceRequest { amount, description: String::new(), expiry_s: 3600 };
        let made = self.other.invoice(request).await.unwrap();
        (made.bolt11, made.hash.0)
    }

    /// Moves money from the operator to an agent.
    pub(super) async fn give(&mut self, agent: u32, amount: Msat) {
        let (to, key) = (holder(AgentId(agent)), self.key());
        let work = |draft: &mut oa_wallet::store::Draft<'_>, _: &mut Vec<_>| {
            let id = Hex(key).to_string();
            let _ =
                oa_wallet::account::Ledger::new(draft).transfer(&id, &Holder::operator(), &to, amount, 1)?;
            Ok(())
        };
        self.money.inner.book.write(work).await.unwrap();
    }

    /// An agent pays, in a tick of its own, under caps.
    pub(super) async fn pay(
        &mut self,
        agent: u32,
        invoice: &str,
        caps: Caps,
    ) -> Result<serde_json::Value, Error> {
        let key = self.key();
        self.pay_by(agent, invoice, caps, key).await
    }

    /// The same under a key.
    pub(super) async fn pay_by(
        &self,
        agent: u32,
        invoice: &str,
        caps: Caps,
        key: [u8; 32],
    ) -> Result<serde_json::Value, Error> {
        let tick = u64::from_be_bytes(key[..8].try_into().unwrap());
        self.pay_under(agent, invoice, Under { caps, tick, consent: Consent::Missing }, key).await
    }

    /// The same under what the test says.
    pub(super) async fn pay_under(
        &self,
        agent: u32,
        invoice: &str,
        under: Under,
        key: [u8; 32],
    ) -> Result<serde_json::Value, Error> {
        let under = Some(under);
        let payer = Payer { holder: holder(AgentId(agent)), under, origin: None, heard: None };
        let reply = self.money.pay(&payer, &PayAsked::parse(invoice.as_bytes())?, key).await?;
        Ok(serde_json::from_slice(&reply).unwrap())
    }

    /// What an agent can spend, has held back, and owes.
    pub(super) fn standing(&self, agent: u32) -> [u64; 3] {
        let standing = self.money.standing(&holder(AgentId(agent))).unwrap();
        [standing.available, standing.reserved, standing.debt].map(Msat::get)
    }

    /// Checks that the ledger is what its postings say.
    pub(super) async fn verified(&self) -> Verified {
        let _still = self.money.inner.book.hold().await;
        verify(&self.money.inner.book.rows()).unwrap()
    }

    /// Waits until no payment is under way.
    pub(super) async fn quiet(&self) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while self.verified().await.open_payments > 0 {
            assert!(tokio::time::Instant::now() < deadline, "payments are still under way");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn accounts(bank: &Arc<Scripted>, store: &Store) -> Money {
    let millis = Duration::from_millis;
    let pace = Pace {
        answer_within: millis(200),
        listening_within: millis(20),
        known_within: millis(100),
        again: millis(1),
        again_last: millis(5),
    };
    Money::new(bank.clone(), None, store.clone(), Arc::new(System), pace)
}
