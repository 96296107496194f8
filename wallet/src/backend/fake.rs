//! Play money: wallets that pay each other inside one process, and are worth nothing.
//!
//! A [`Bank`] is their whole world. Nothing is written anywhere: with the process it is gone. It is for tests, and
//! for trying things out before there are coins; [`Info::play_money`] and the alias say so wherever it shows.
//!
//! ```
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! use oa_wallet::backend::{Backend, InvoiceRequest, fake::Bank};
//! use oa_wallet::msat::Msat;
//!
//! let bank = Bank::new(b"any seed");
//! let (alice, bob) = (bank.open("alice", Msat::from_sat(1_000)), bank.open("bob", Msat::ZERO));
//! let request = InvoiceRequest { amount: Some(Msat::from_sat(5)), description: "tea".into(), expiry_s: 60 };
//! let invoice = bob.invoice(request).await?;
//! alice.pay(&invoice.bolt11, None, Msat::ZERO).await?;
//! assert_eq!(bob.balance().await?.spendable, Msat::from_sat(5));
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bank;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use super::{
    Answer, Backend, Backup, Balance, Channel, ChannelId, Close, Delivery, Error, EventId, Filter, Info,
    Invoice, InvoiceRequest, Keysend, NodeId, Payment, PaymentHash, Peer, Preimage, Sat,
};
use crate::msat::Msat;
use bank::State;

/// What on-chain calls answer.
const NO_CHAIN: &str = "play money has no chain";

/// A world of play money; clones are the same world.
#[derive(Clone)]
pub struct Bank(Arc<World>);

struct World {
    state: Mutex<State>,
    /// Told of every change.
    changed: Notify,
}

impl fmt::Debug for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bank(play money)")
    }
}

impl Bank {
    /// An empty world. Keys and preimages come from `seed`: the same calls make the same ones.
    pub fn new(seed: &[u8]) -> Self {
        Self(Arc::new(World { state: Mutex::new(State::new(seed)), changed: Notify::new() }))
    }

    /// A new wallet with so much in it.
    pub fn open(&self, alias: &str, balance: Msat) -> Fake {
        let id = self.change(|state| state.open(alias, balance));
        Fake { bank: self.clone(), id }
    }

    /// A wallet whose key comes from a secret of its own: in a bank that begins anew it is the same again, so that
    /// invoices from before are still known to be its own.
    pub fn open_again(&self, alias: &str, secret: &[u8; 32], balance: Msat) -> Fake {
        let id = self.change(|state| state.open_as(alias, secret, balance));
        Fake { bank: self.clone(), id }
    }

    /// A wallet that was stopped, as it was; `None` if there never was one.
    pub fn reopen(&self, id: NodeId) -> Option<Fake> {
        self.change(|state| state.reopen(&id)).then(|| Fake { bank: self.clone(), id })
    }

    /// What each payment costs its sender from now on; nobody gets it.
    pub fn set_fee(&self, fee: Msat) {
        self.change(|state| state.fee = fee);
    }

    /// Coins that a wallet has on the chain, from nowhere.
    #[cfg(test)]
    pub(crate) fn set_coins(&self, id: &NodeId, coins: Sat) {
        self.change(|state| state.set_coins(id, coins));
    }

    /// Lets blocks pass: money held longer than its deadline goes back.
    pub fn mine(&self, blocks: u32) {
        self.change(|state| state.mine(blocks, now()));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, apply: impl FnOnce(&mut State) -> T) -> T {
        let result = apply(&mut self.state());
        self.0.changed.notify_waiters();
        result
    }

    /// Looks until there is something to see.
    async fn until<T>(&self, mut look: impl FnMut(&State) -> Option<T>) -> T {
        loop {
            let changed = self.0.changed.notified();
            if let Some(seen) = look(&self.state()) {
                return seen;
            }
            changed.await;
        }
    }
}

/// One wallet of a [`Bank`].
#[derive(Debug, Clone)]
pub struct Fake {
    bank: Bank,
    id: NodeId,
}

impl Fake {
    /// Its key.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Nothing happens before the answer is awaited, as with a real node.
    fn read<'a, T>(
        &'a self,
        look: impl FnOnce(&State, &NodeId) -> Result<T, Error> + Send + 'a,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            let state = self.bank.state();
            state.running(&self.id)?;
            look(&state, &self.id)
        })
    }

    fn write<'a, T>(
        &'a self,
        apply: impl FnOnce(&mut State, &NodeId) -> Result<T, Error> + Send + 'a,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            self.bank.change(|state| {
                state.running(&self.id)?;
                apply(state, &self.id)
            })
        })
    }

    fn no_chain<T>(&self) -> Answer<'_, T> {
        self.read(|_, _| Err(Error::Unavailable(NO_CHAIN.to_owned())))
    }
}

impl Backend for Fake {
    fn info(&self) -> Answer<'_, Info> {
        self.read(State::info)
    }

    fn balance(&self) -> Answer<'_, Balance> {
        self.read(State::balance)
    }

    fn invoice(&self, request: InvoiceRequest) -> Answer<'_, Invoice> {
        self.write(move |state, id| state.invoice(id, &request, now()))
    }

    fn hold_invoice(&self, hash: PaymentHash, request: InvoiceRequest) -> Answer<'_, Invoice> {
        self.write(move |state, id| state.hold_invoice(id, hash, &request, now()))
    }

    fn settle(&self, preimage: Preimage) -> Answer<'_, ()> {
        self.write(move |state, id| state.settle(id, preimage, now()))
    }

    fn cancel(&self, hash: PaymentHash) -> Answer<'_, ()> {
        self.write(move |state, id| state.cancel(id, hash, now()))
    }

    fn pay<'a>(&'a self, bolt11: &'a str, amount: Option<Msat>, fee_max: Msat) -> Answer<'a, Payment> {
        self.write(move |state, id| state.pay(id, bolt11, amount, fee_max, now()))
    }

    fn keysend(&self, keysend: Keysend) -> Answer<'_, Payment> {
        self.write(move |state, id| state.keysend(id, &keysend, now()))
    }

    fn offer<'a>(&'a self, amount: Option<Msat>, _description: &'a str) -> Answer<'a, String> {
        self.write(move |state, id| state.offer(id, amount))
    }

    fn pay_offer<'a>(
        &'a self,
        offer: &'a str,
        amount: Option<Msat>,
        _note: Option<&'a str>,
        fee_max: Msat,
    ) -> Answer<'a, Payment> {
        self.write(move |state, id| state.pay_offer(id, offer, amount, fee_max, now()))
    }

    fn look_up(&self, hash: PaymentHash) -> Answer<'_, Option<Payment>> {
        self.read(move |state, id| Ok(state.look_up(id, hash)))
    }

    fn wait(&self, hash: PaymentHash, deadline: Duration) -> Answer<'_, Payment> {
        Box::pin(async move {
            let ended = self.bank.until(|state| {
                if let Err(error) = state.running(&self.id) {
                    return Some(Err(error));
                }
                match state.look_up(&self.id, hash) {
                    None => Some(Err(Error::NotFound)),
                    Some(payment) => payment.is_final().then_some(Ok(payment)),
                }
            });
            match tokio::time::timeout(deadline, ended).await {
                Ok(ended) => ended,
                Err(_) => self.look_up(hash).await?.ok_or(Error::NotFound),
            }
        })
    }

    fn list(&self, filter: Filter) -> Answer<'_, Vec<Payment>> {
        self.read(move |state, id| Ok(filter.page(state.payments(id))))
    }

    fn next_event(&self) -> Answer<'_, Delivery> {
        Box::pin(self.bank.until(|state| match state.running(&self.id) {
            Ok(()) => state.next_event(&self.id).map(Ok),
            Err(error) => Some(Err(error)),
        }))
    }

    fn acknowledge(&self, event: EventId) -> Answer<'_, ()> {
        self.write(move |state, id| {
            state.acknowledge(id, event);
            Ok(())
        })
    }

    fn address(&self) -> Answer<'_, String> {
        self.no_chain()
    }

    fn send_onchain<'a>(&'a self, _address: &'a str, _amount: Option<Sat>) -> Answer<'a, String> {
        self.no_chain()
    }

    fn channels(&self) -> Answer<'_, Vec<Channel>> {
        self.read(|_, _| Ok(Vec::new()))
    }

    fn open_channel<'a>(&'a self, _: NodeId, _: &'a str, _: Sat, _: Msat) -> Answer<'a, ChannelId> {
        self.no_chain()
    }

    fn close_channel(&self, _id: ChannelId, _how: Close) -> Answer<'_, ()> {
        self.read(|_, _| Err(Error::NotFound))
    }

    fn peers(&self) -> Answer<'_, Vec<Peer>> {
        self.read(|state, id| Ok(state.peers(id)))
    }

    fn backup<'a>(&'a self, _file: &'a Path) -> Answer<'a, Backup> {
        self.read(|_, _| Err(Error::Unavailable("play money is kept nowhere".to_owned())))
    }

    fn sync(&self) -> Answer<'_, ()> {
        self.read(|_, _| Ok(()))
    }

    fn stop(&self) -> Answer<'_, ()> {
        Box::pin(async {
            self.bank.change(|state| state.stop(&self.id));
            Ok(())
        })
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
