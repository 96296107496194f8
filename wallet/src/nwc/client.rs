//! A customer of somebody's wallet: ours, or any that speaks NIP-47.
//!
//! A request is encrypted as the wallet's info event allows, goes to all its relays once the subscription for answers
//! stands, goes out again, the same bytes, until an answer comes, and ends with its time. What comes back is checked:
//! who signed it, which request it names, and whether it is about what was asked for. A payment is settled by its
//! preimage alone ([`Outcome`]); a lost answer is made good by look-up.
//!
//! Pure parts: `exchange` (what waits), `pay` (one payment), `check` (answers), `negotiate` (encryption). The actor
//! ends when the last handle is dropped.

mod actor;
mod check;
mod exchange;
mod hold;
mod negotiate;
mod pay;
mod payment;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use oa_nips::kind;
use oa_nips::nostr::{Event, EventId, Filter, PublicKey, RelayUrl, Timestamp};
use oa_nips::nwc::{self, Encryption, Info};
use oa_nips::port::{Publish, Signer, SignerError, Subscribe};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use check::Untrue;
pub use pay::{Outcome, Prepared};

use self::actor::{Actor, Ask};
use self::negotiate::Known;
use super::message::{
    Balance, BudgetInfo, Error, ErrorCode, InvoiceOrder, ListQuery, LookupQuery, Notification, Request,
    Response, Transaction, Transactions, WalletInfo,
};
use super::uri::Uri;
use super::{Clock, seal};
use crate::backend::PaymentHash;
use crate::msat::Msat;

/// Requests that wait for the actor: more than a node's agents make at once.
const ASKS: usize = 256;
/// Notifications that wait for a reader; one that is slower is told how many it missed, and polls.
const NOTIFICATIONS: usize = 256;

/// How a client behaves. Times are what a wallet on the other side of the world, over a slow relay, needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The wallet's key.
    pub wallet: PublicKey,
    /// Where it listens.
    pub relays: Vec<RelayUrl>,
    /// For an answer to anything but a payment. 20 s.
    pub answer_within: Duration,
    /// For an answer to a payment, before it is looked up. 60 s: what Lightning may take to try its routes.
    pub paid_within: Duration,
    /// For a payment in all, looking up included; then it is unknown. 180 s.
    pub settled_within: Duration,
    /// Between the first sending of a request and the second, and each time twice as long. 3 s.
    pub resend_after: Duration,
    /// Between the first looks at a payment, and each time twice as long. 1 s.
    pub look_after: Duration,
    /// For one relay to take a request. 10 s.
    pub publish_deadline: Duration,
    /// For the relays to show the wallet's info event. 3 s.
    pub info_deadline: Duration,
    /// Between the looks at an invoice where the wallet does not notify. 3 s; ten times that where it does.
    pub poll_every: Duration,
}

impl Config {
    /// For the wallet of a connection, with the usual times.
    pub fn new(uri: &Uri) -> Self {
        let seconds = Duration::from_secs;
        Self {
            wallet: uri.wallet,
            relays: uri.relays.clone(),
            answer_within: seconds(20),
            paid_within: seconds(60),
            settled_within: seconds(180),
            resend_after: seconds(3),
            look_after: seconds(1),
            publish_deadline: seconds(10),
            info_deadline: seconds(3),
            poll_every: seconds(3),
        }
    }
}

/// What a client reaches the world by.
#[derive(Clone)]
pub struct Ports {
    /// The client's key, of the connection ([`Uri::keys`]).
    pub signer: Arc<dyn Signer>,
    /// Relays.
    pub publish: Arc<dyn Publish>,
    /// The same, to read the info event from.
    pub subscribe: Arc<dyn Subscribe>,
    /// The time.
    pub clock: Clock,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").field("client", &self.signer.public_key()).finish_non_exhaustive()
    }
}

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The wallet's own words.
    #[error("the wallet refused: {0}")]
    Refused(#[from] Error),
    /// No answer. What was asked may have been done.
    #[error("the wallet did not answer in time")]
    TimedOut,
    /// The subscription for answers does not stand, so nothing was sent.
    #[error("no relay of the wallet is connected")]
    NotListening,
    /// The wallet answered something else than it was asked for.
    #[error("the wallet's answer is not true: {0}")]
    Untrue(#[from] Untrue),
    /// The answer is not of the form expected.
    #[error("the wallet's answer cannot be read")]
    Unreadable(#[source] serde_json::Error),
    /// The wallet only understands encryptions that are not known here.
    #[error("the wallet understands neither NIP-44 nor NIP-04")]
    Encryption,
    /// The order itself is wrong; nothing was sent.
    #[error(transparent)]
    Bill(#[from] super::bill::BillError),
    /// The key of the connection is away.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The client has ended.
    #[error("the wallet client has ended")]
    Gone,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    ports: Ports,
    known: Known,
    listening: watch::Receiver<bool>,
    asks: mpsc::Sender<Ask>,
    notifications: broadcast::Sender<Notification>,
    _cancel: DropGuard,
}

/// A customer's handle. Clones are handles to the same one; dropping the last ends it.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

/// A request, signed.
struct Signed {
    event: Event,
    encryption: Encryption,
    method: String,
}

impl Client {
    /// Starts. `events` brings what the subscription of [`Client::filter`] finds on the wallet's relays, of any
    /// signature; `listening` is true while it stands on one of them at least: nothing is sent before.
    ///
    /// Must be called within a tokio runtime.
    pub fn start(
        config: Config,
        ports: Ports,
        events: mpsc::Receiver<Event>,
        listening: watch::Receiver<bool>,
    ) -> Self {
        let (asks, inbox) = mpsc::channel(ASKS);
        let (notifications, _) = broadcast::channel(NOTIFICATIONS);
        let cancel = CancellationToken::new();
        let told = notifications.clone();
        let actor = Actor::new(config.clone(), ports.clone(), inbox, events, told, cancel.clone());
        tokio::spawn(Box::pin(actor.run()));
        let known = Known::default();
        let _cancel = cancel.drop_guard();
        Self { shared: Arc::new(Shared { config, ports, known, listening, asks, notifications, _cancel }) }
    }

    /// What to subscribe to on the wallet's relays. Answers are ephemeral, but some relays keep them for minutes.
    pub fn filter(wallet: PublicKey, client: PublicKey, now_s: u64) -> Filter {
        /// As long as strfry keeps ephemeral events.
        const BACK_S: u64 = 300;
        let kinds = [kind::WALLET_RESPONSE, kind::WALLET_NOTIFICATION, kind::WALLET_NOTIFICATION_LEGACY];
        let since = Timestamp::from_secs(now_s.saturating_sub(BACK_S));
        Filter::new().kinds(kinds).author(wallet).pubkey(client).since(since)
    }

    /// What the wallet tells of its own accord, from now on. **Hints**: whoever acts on one looks it up first.
    pub fn notifications(&self) -> broadcast::Receiver<Notification> {
        self.shared.notifications.subscribe()
    }

    /// What the wallet has announced, as far as it was fetched by now.
    pub fn announced(&self) -> Option<Info> {
        self.shared.known.info()
    }

    /// The money of the connection.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn balance(&self) -> Result<Msat, CallError> {
        let Balance { balance } = self.call(&Request::GetBalance).await?;
        if balance > Msat::SUPPLY { Err(Untrue::Balance(balance).into()) } else { Ok(balance) }
    }

    /// The wallet and what this connection may do with it.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn info(&self) -> Result<WalletInfo, CallError> {
        self.call(&Request::GetInfo).await
    }

    /// The budget of the connection.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn budget(&self) -> Result<BudgetInfo, CallError> {
        self.call(&Request::GetBudget).await
    }

    /// Makes an invoice, for exactly the amount ordered.
    ///
    /// # Errors
    /// [`CallError`]; after [`CallError::TimedOut`] the wallet may have one that nobody knows of.
    pub async fn make_invoice(&self, order: InvoiceOrder) -> Result<Transaction, CallError> {
        let request = Request::MakeInvoice(order.clone());
        let made: Transaction = self.call(&request).await?;
        check::made(&order, None, &made, self.now_s())?;
        Ok(made)
    }

    /// What the wallet knows of an invoice or payment of this connection; `None` when nothing.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn look_up(&self, hash: PaymentHash) -> Result<Option<Transaction>, CallError> {
        let query = LookupQuery { payment_hash: Some(hash), invoice: None };
        let found: Transaction = match self.call(&Request::LookupInvoice(query)).await {
            Ok(found) => found,
            Err(CallError::Refused(error)) if error.code == ErrorCode::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        check::same(hash, found.payment_hash)?;
        Ok(Some(found))
    }

    /// Invoices and payments, newest first; a wallet answers 20 at most.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn list(&self, query: ListQuery) -> Result<Vec<Transaction>, CallError> {
        let Transactions { transactions } = self.call(&Request::ListTransactions(query)).await?;
        Ok(transactions)
    }

    /// A method of ours on an admin connection: see docs/protocol.md, and the types in [`super::service`].
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn admin(&self, method: &str, params: Value) -> Result<Value, CallError> {
        self.call(&Request::Admin(method.to_owned(), params)).await
    }

    fn now_ms(&self) -> u64 {
        (self.shared.ports.clock)()
    }

    fn now_s(&self) -> u64 {
        self.now_ms() / 1000
    }

    /// Asks and reads the result. A busy wallet is asked anew, one of another encryption in its own.
    async fn call<T: DeserializeOwned>(&self, request: &Request) -> Result<T, CallError> {
        let within = self.shared.config.answer_within;
        let deadline_ms = self.now_ms().saturating_add(millis(within));
        let (mut pause, mut has_renegotiated) = (self.shared.config.look_after, false);
        loop {
            let signed = self.sign(request, deadline_ms).await?;
            let encryption = signed.encryption;
            let response =
                self.send(signed, deadline_ms, deadline_ms).await?.await.ok_or(CallError::TimedOut)?;
            let error = match response.result {
                Ok(result) => return serde_json::from_value(result).map_err(CallError::Unreadable),
                Err(error) => error,
            };
            let left = deadline_ms.saturating_sub(self.now_ms());
            match error.code {
                ErrorCode::RateLimited if millis(pause) < left => tokio::time::sleep(pause).await,
                ErrorCode::UnsupportedEncryption if !has_renegotiated => {
                    has_renegotiated = true;
                    self.shared.known.refused(encryption, &self.shared.config, &self.shared.ports).await;
                }
                _ => return Err(error.into()),
            }
            pause *= 2;
        }
    }

    /// Encrypts and signs a request that is void after its deadline.
    async fn sign(&self, request: &Request, expires_at_ms: u64) -> Result<Signed, CallError> {
        let Shared { config, ports, known, .. } = &*self.shared;
        let encryption = known.encryption(config, ports).await.ok_or(CallError::Encryption)?;
        let signer = &*ports.signer;
        let text = seal::encrypt(signer, &config.wallet, encryption, &request.to_json()).await?;
        let (at, expires_at) =
            (Timestamp::from_secs(self.now_s()), Timestamp::from_secs(expires_at_ms / 1000 + 1));
        let event = nwc::request(signer.public_key(), config.wallet, encryption, text, at, Some(expires_at));
        let event = signer.sign(event).await?;
        Ok(Signed { event, encryption, method: request.method().to_owned() })
    }

    /// Waits until answers can be heard, then sends, and again until `resend_until_ms`. What is returned waits for the
    /// answer, until `until_ms`.
    async fn send(
        &self,
        signed: Signed,
        resend_until_ms: u64,
        until_ms: u64,
    ) -> Result<impl Future<Output = Option<Response>> + use<>, CallError> {
        let left = resend_until_ms.saturating_sub(self.now_ms());
        let mut listening = self.shared.listening.clone();
        let stands = async { listening.wait_for(|stands| *stands).await.is_ok() };
        if !timeout(Duration::from_millis(left), stands).await.unwrap_or(false) {
            return Err(CallError::NotListening);
        }
        let (reply, answer) = oneshot::channel();
        let Signed { event, method, .. } = signed;
        let ask = Ask { event, method, resend_until_ms, until_ms, reply };
        self.shared.asks.send(ask).await.map_err(|_| CallError::Gone)?;
        Ok(async move { answer.await.ok() })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Prepared {
    /// The id of its request, which the answer names.
    pub fn request(&self) -> EventId {
        self.event.id
    }
}
