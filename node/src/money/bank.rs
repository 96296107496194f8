//! The wallet as the accounts see it: what is asked of it, and what it tells.

use std::fmt::Debug;

use futures_util::future::BoxFuture;
use oa_wallet::backend::PaymentHash;
use oa_wallet::msat::Msat;
use oa_wallet::nwc::client::{CallError, Outcome, Prepared};
use oa_wallet::nwc::message::{InvoiceOrder, Notification, PayOrder, Transaction, WalletInfo};
use tokio::sync::{broadcast, watch};

/// What a wallet of play money calls its network.
pub(super) const PLAY_MONEY: &str = "play money";

/// What is answered, later.
pub(super) type Answer<'a, T> = BoxFuture<'a, Result<T, CallError>>;

/// One connection to one wallet. Every call ends by itself, whatever the wallet does.
pub(super) trait Bank: Debug + Send + Sync {
    /// Whether the wallet's answers can be heard.
    fn listening(&self) -> watch::Receiver<bool>;

    /// Whether it has announced that it tells of payments that come in.
    fn notifies(&self) -> bool;

    /// What it tells of its own accord: hints.
    fn notifications(&self) -> broadcast::Receiver<Notification>;

    /// What it is.
    fn info(&self) -> Answer<'_, WalletInfo>;

    /// What it has for this connection.
    fn balance(&self) -> Answer<'_, Msat>;

    /// Makes an invoice.
    fn make_invoice(&self, order: InvoiceOrder) -> Answer<'_, Transaction>;

    /// What it knows of a hash.
    fn look_up(&self, hash: PaymentHash) -> Answer<'_, Option<Transaction>>;

    /// Makes a payment ready to be sent; sends nothing.
    fn prepare(&self, order: PayOrder) -> Answer<'_, Prepared>;

    /// Whether a payment was made ready over this connection: of others it knows nothing.
    fn has_ordered(&self, prepared: &Prepared) -> bool;

    /// Sends a payment, the same one every time, and follows it for a while.
    fn perform<'a>(&'a self, prepared: &'a Prepared) -> BoxFuture<'a, Outcome>;

    /// Looks a payment up for a while.
    fn resolve<'a>(&'a self, prepared: &'a Prepared) -> BoxFuture<'a, Outcome>;
}
