//! What the service asks of the wallet behind it: money in accounts, and Lightning.
//!
//! The service decides who may ask; a purse decides whether there is money, and moves it. Both sides survive
//! crashes by two rules that a purse must keep:
//!
//! 1. **A payment hash is paid at most once**, whoever asks, and [`Purse::look_up`] knows every payment that was
//!    begun: `None` means that nothing left, so that the service may ask again.
//! 2. **A request id is obeyed once**: the same call with the same id, after a crash, gives what it gave before.

use std::fmt::Debug;

use futures_util::future::BoxFuture;
use oa_nips::nostr::EventId;
use serde_json::Value;

use super::message::{Error, ErrorCode, HoldOrder, InvoiceOrder, ListQuery, Tlv, Transaction, WalletInfo};
use crate::account::Holder;
use crate::backend::{PaymentHash, Preimage};
use crate::msat::Msat;

/// An invoice to be paid.
#[derive(Debug, Clone, PartialEq)]
pub struct Payment {
    /// The invoice (bolt11).
    pub invoice: String,
    /// Its hash.
    pub payment_hash: PaymentHash,
    /// How much: the invoice's amount, or the client's where that is open.
    pub amount: Msat,
    /// What routing may cost on top, at most.
    pub max_fee: Msat,
    /// Beside the payment.
    pub metadata: Option<Value>,
    /// Who asks this once.
    pub request: EventId,
}

/// A node to be paid without an invoice.
#[derive(Debug, Clone, PartialEq)]
pub struct Keysend {
    /// The payee's Lightning node, in hex.
    pub payee: String,
    /// How much.
    pub amount: Msat,
    /// What routing may cost on top, at most.
    pub max_fee: Msat,
    /// Written down by the service before it asks.
    pub preimage: Preimage,
    /// For the payee.
    pub records: Vec<Tlv>,
    /// Who asks this once.
    pub request: EventId,
}

/// Why a purse did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PurseError {
    /// The account has too little for the amount and the reserve for fees. Nothing left.
    #[error("insufficient balance")]
    InsufficientBalance,
    /// It was tried and failed. Nothing left.
    #[error("payment failed: {0}")]
    Failed(String),
    /// It will never be done as asked: expired, malformed, of another network. Nothing left.
    #[error("{0}")]
    Refused(String),
    /// An invoice of this very wallet, which the account cannot pay from inside: its own, paid, withdrawn. The payment
    /// was not begun, whatever look-up shows of the invoice.
    #[error("{0}")]
    Inside(String),
    /// The account has no such invoice or payment.
    #[error("not found")]
    NotFound,
    /// This wallet cannot do that.
    #[error("not supported: {0}")]
    NotSupported(String),
    /// It may be under way; look-up will say.
    #[error("the outcome is not known yet")]
    Unknown,
    /// Not now; nothing left.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl From<PurseError> for Error {
    fn from(error: PurseError) -> Self {
        let code = match &error {
            PurseError::InsufficientBalance => ErrorCode::InsufficientBalance,
            PurseError::Failed(_) => ErrorCode::PaymentFailed,
            PurseError::Refused(_) => ErrorCode::Other,
            // To be believed as it is: the account may see the invoice under the same hash, and nothing else.
            PurseError::Inside(_) => ErrorCode::Restricted,
            PurseError::NotFound => ErrorCode::NotFound,
            PurseError::NotSupported(_) => ErrorCode::NotImplemented,
            PurseError::Unknown | PurseError::Unavailable(_) => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// What a purse answers.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, PurseError>>;

/// Accounts with money in them.
///
/// Every call names the account that asks: what belongs to another does not exist for it
/// ([`PurseError::NotFound`], `None`), so that its preimages stay its own. `pay` and `pay_keysend` return when the
/// outcome is known, or with [`PurseError::Unknown`] after a while.
pub trait Purse: Debug + Send + Sync {
    /// Alias, network, key, height; methods and notifications are the service's to fill in.
    fn info(&self) -> Answer<'_, WalletInfo>;

    /// What the account can spend.
    fn balance<'a>(&'a self, account: &'a Holder) -> Answer<'a, Msat>;

    /// Makes an invoice that pays into the account.
    fn make_invoice<'a>(
        &'a self,
        account: &'a Holder,
        order: InvoiceOrder,
        request: EventId,
    ) -> Answer<'a, Transaction>;

    /// Makes an invoice whose preimage the client keeps.
    fn make_hold_invoice<'a>(
        &'a self,
        account: &'a Holder,
        order: HoldOrder,
        request: EventId,
    ) -> Answer<'a, Transaction>;

    /// Takes money that is held for the account. Doing so again succeeds again.
    fn settle_hold_invoice<'a>(&'a self, account: &'a Holder, preimage: Preimage) -> Answer<'a, ()>;

    /// Sends it back. Doing so again succeeds again.
    fn cancel_hold_invoice<'a>(&'a self, account: &'a Holder, hash: PaymentHash) -> Answer<'a, ()>;

    /// Pays an invoice; another account of the same wallet is paid in the ledger. The transaction is settled and has
    /// its preimage.
    fn pay<'a>(&'a self, account: &'a Holder, payment: Payment) -> Answer<'a, Transaction>;

    /// Pays a node.
    fn pay_keysend<'a>(&'a self, account: &'a Holder, keysend: Keysend) -> Answer<'a, Transaction>;

    /// The account's invoice or payment of that hash. Where it has both, the payment: it paid itself.
    fn look_up<'a>(&'a self, account: &'a Holder, hash: PaymentHash) -> Answer<'a, Option<Transaction>>;

    /// The account's invoices and payments, newest first. `limit` is set, and at most 20.
    fn list<'a>(&'a self, account: &'a Holder, query: ListQuery) -> Answer<'a, Vec<Transaction>>;
}

/// The wallet itself, for admin connections: `oa_address`, `oa_channels` and so on, by name.
///
/// What is in question after a crash is not done again: the service answers that its outcome is unknown.
pub trait Steer: Debug + Send + Sync {
    /// The names of the methods it serves.
    fn methods(&self) -> &[&'static str];

    /// Does one.
    fn steer<'a>(&'a self, method: &'a str, params: Value) -> BoxFuture<'a, Result<Value, Error>>;
}
