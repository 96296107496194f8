//! What a wallet stands on: something that holds coins and moves them over Lightning.
//!
//! Everything above it (accounts, budgets, Nostr Wallet Connect) sees this trait only. Two implementations pass one
//! conformance suite: `ldk`, a real Lightning node (feature `ldk`), and [`fake`], play money in one process.
//!
//! # How to move money without losing track of it
//!
//! A payment is known by its hash, and a hash is paid at most once. So: write down what is about to happen, call
//! [`Backend::pay`], and believe nothing but [`Backend::look_up`] and the events. After a crash, look up every
//! payment that was written down and not finished: `None` means that it never left, so the same call may be made
//! again; a pending one is waited for; settled and failed are final.

mod check;
#[cfg(test)]
pub(crate) mod conformance;
mod error;
mod event;
pub mod fake;
#[cfg(feature = "ldk")]
pub mod ldk;
mod node;
mod payment;

use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use futures_util::future::BoxFuture;

pub use check::{Checked, bolt11};
pub use error::{Error, FailReason};
pub use event::{Delivery, Event, EventId};
pub use node::{Backup, Balance, Channel, ChannelId, Close, Info, Network, NodeId, Peer, Sat};
pub use payment::{
    DESCRIPTION_BYTES_MAX, Direction, Filter, Invoice, InvoiceRequest, Keysend, Kind, Payment, PaymentHash,
    Preimage, RECORD_BYTES_MAX, RECORD_KIND_MIN, Record, State,
};

use crate::msat::Msat;

/// What every method of a backend gives.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// A wallet that speaks Lightning.
///
/// Methods may be called from many tasks at once; [`Backend::next_event`] from one.
pub trait Backend: Debug + Send + Sync {
    /// Who and where this is.
    fn info(&self) -> Answer<'_, Info>;

    /// What there is, now.
    fn balance(&self) -> Answer<'_, Balance>;

    /// Makes an invoice (BOLT 11) that is settled on arrival.
    fn invoice(&self, request: InvoiceRequest) -> Answer<'_, Invoice>;

    /// Makes an invoice for a hash whose preimage somebody else may hold.
    ///
    /// Money that arrives is announced by [`Event::Held`] and waits for [`Backend::settle`] or [`Backend::cancel`];
    /// who does neither before the deadline sends it back. `request.amount` is required.
    ///
    /// # Errors
    /// [`Error::AlreadyPaid`] when the hash was used before, in either direction.
    fn hold_invoice(&self, hash: PaymentHash, request: InvoiceRequest) -> Answer<'_, Invoice>;

    /// Takes the money that is held for the hash of `preimage`. Doing so again succeeds again.
    ///
    /// # Errors
    /// [`Error::NotHeld`] when nothing has arrived, or it was cancelled or went back; [`Error::NotFound`].
    fn settle(&self, preimage: Preimage) -> Answer<'_, ()>;

    /// Sends held money back, or withdraws a hold invoice nobody paid. Doing so again succeeds again.
    ///
    /// # Errors
    /// [`Error::AlreadyPaid`] when it is settled; [`Error::NotFound`].
    fn cancel(&self, hash: PaymentHash) -> Answer<'_, ()>;

    /// Starts to pay an invoice and returns once it is under way; [`Backend::wait`] says how it ended.
    ///
    /// `amount` belongs to invoices that leave it open. `fee_max` bounds what routing may cost on top.
    ///
    /// # Errors
    /// All of [`Error`]'s refusals. After any of them nothing is under way, but for [`Error::InFlight`].
    fn pay<'a>(&'a self, bolt11: &'a str, amount: Option<Msat>, fee_max: Msat) -> Answer<'a, Payment>;

    /// Starts to pay a node without an invoice.
    ///
    /// The caller persists the preimage first: its hash is what makes the payment findable, and unique, after a crash.
    fn keysend(&self, keysend: Keysend) -> Answer<'_, Payment>;

    /// Makes an offer (BOLT 12): a code that can be paid many times, by anybody, with an amount or without.
    fn offer<'a>(&'a self, amount: Option<Msat>, description: &'a str) -> Answer<'a, String>;

    /// Starts to pay an offer.
    ///
    /// Its hash is known only once the payee has answered, so the payment's `id` is a random one until then, and a
    /// crash before the caller has written it down leaves a payment that only [`Backend::list`] shows.
    fn pay_offer<'a>(
        &'a self,
        offer: &'a str,
        amount: Option<Msat>,
        note: Option<&'a str>,
        fee_max: Msat,
    ) -> Answer<'a, Payment>;

    /// What is known of a payment, by its hash or by [`Payment::id`]; `None` when nothing is.
    fn look_up(&self, hash: PaymentHash) -> Answer<'_, Option<Payment>>;

    /// Waits until a payment is settled or failed, or for `deadline`; then it may still be pending.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn wait(&self, hash: PaymentHash, deadline: Duration) -> Answer<'_, Payment>;

    /// Payments, the newest first.
    fn list(&self, filter: Filter) -> Answer<'_, Vec<Payment>>;

    /// The oldest event that was not acknowledged; waits for one.
    ///
    /// The same event comes until [`Backend::acknowledge`], also after a restart: write down what it means, then
    /// acknowledge it. For one reader.
    fn next_event(&self) -> Answer<'_, Delivery>;

    /// Confirms that an event's meaning is safe. Of an event that is not the oldest it does nothing.
    fn acknowledge(&self, id: EventId) -> Answer<'_, ()>;

    /// A fresh on-chain address.
    fn address(&self) -> Answer<'_, String>;

    /// Sends coins on-chain; without an amount, all that need not stay as channels' reserve. Gives the transaction id.
    fn send_onchain<'a>(&'a self, address: &'a str, amount: Option<Sat>) -> Answer<'a, String>;

    /// The channels.
    fn channels(&self) -> Answer<'_, Vec<Channel>>;

    /// Opens a channel of `amount`, of which `push` is given to the peer; it is ready after some blocks.
    ///
    /// # Errors
    /// [`Error::InsufficientBalance`], [`Error::Unavailable`] when the peer is not there.
    fn open_channel<'a>(
        &'a self,
        peer: NodeId,
        address: &'a str,
        amount: Sat,
        push: Msat,
    ) -> Answer<'a, ChannelId>;

    /// Closes a channel. Its coins are on-chain after some blocks; after a forced close, after days.
    fn close_channel(&self, id: ChannelId, how: Close) -> Answer<'_, ()>;

    /// The peers, connected or remembered.
    fn peers(&self) -> Answer<'_, Vec<Peer>>;

    /// Writes a copy of everything but the seed words to `file`, readable by its owner only.
    ///
    /// A channel's state grows old with every payment, and whoever runs an old one risks the channel: such a copy is
    /// for the day the original is lost, and is then the newest there is.
    fn backup<'a>(&'a self, file: &'a Path) -> Answer<'a, Backup>;

    /// Catches up with the chain now.
    fn sync(&self) -> Answer<'_, ()>;

    /// Stops, waiting for what must be on disk. Calls after it answer [`Error::Unavailable`].
    fn stop(&self) -> Answer<'_, ()>;
}
