//! The node's one relay pool: all that a process says to relays and hears from them goes through here.
//!
//! One connection a relay. The operator's own relays are kept connected, with a subscription for the mail of every
//! agent; those that others name are dialled on demand, where their addresses permit. Live events are hints. The
//! truth is the *sweep*: on connect and at intervals the pool compares what a relay has with what the node has dealt
//! with ([`Ledger`]), and hands over the difference.
//!
//! - [`pool`]: the handle, and the ports it implements
//! - `connection`: the actor of one relay; `session`: the pure machine inside; `socket`, `dial`: its wire
//! - `sweep`, with `negentropy` and `paging`: the catch-up
//! - `wanted`: what is listened for, in shards; `foreign`: relays on demand
//!
//! Nothing here reads mail: contents are neither decrypted nor logged.

mod backoff;
mod connection;
mod dial;
mod foreign;
mod link;
mod negentropy;
mod paging;
pub mod pool;
mod session;
mod socket;
mod sweep;
mod verify;
mod wanted;
mod wire;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use oa_nips::nostr::{Event, EventId, Kind, PublicKey, RelayUrl};
use oa_nips::{kind, port::Signer};
use tokio::sync::{mpsc, oneshot};

pub use self::pool::{Held, Pool};

/// The kinds of event that carry mail.
pub const MAIL_KINDS: [Kind; 3] = [kind::WRAP, kind::EPHEMERAL_WRAP, kind::LEGACY_DM];

/// What a pool is started with.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The operator's relays. They may be anywhere, in private networks too.
    pub relays: Vec<RelaySpec>,
    /// The agents known at the start. They are listened for before the first sweep, which moves the relays' cursors
    /// past everybody's mail; those that come later are added by [`Pool::listen`].
    pub listen: Vec<PublicKey>,
    /// How to sweep; nothing for a mere client, whose mail subscriptions bring stored events instead.
    pub sweep: Option<SweepConfig>,
    /// Host names or addresses that relays named by others may have although they are private.
    pub allow_private: Vec<String>,
    /// Bounds.
    pub limits: Limits,
}

impl Config {
    /// Of a mere client of these relays.
    pub fn client<'a>(relays: impl IntoIterator<Item = &'a RelayUrl>) -> Self {
        let relays = relays.into_iter().map(|url| RelaySpec { url: url.clone(), wide: false }).collect();
        Self { relays, ..Self::default() }
    }
}

/// One of the operator's relays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelaySpec {
    /// Where it is.
    pub url: RelayUrl,
    /// One subscription for all mail, whoever it is for; only where the relay grants it: the bundled one. Where it
    /// does not after all, the agents go into shards.
    pub wide: bool,
}

/// How often and how far back to sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepConfig {
    /// Where the relay knows NIP-77.
    pub interval_negentropy: Duration,
    /// Where it does not, and everything must be paged through.
    pub interval_paging: Duration,
    /// Seconds before the cursor that are swept again. More than the two days by which wraps are backdated
    /// (NIP-59).
    pub lookback_s: u64,
}

impl Default for SweepConfig {
    fn default() -> Self {
        let (interval_negentropy, interval_paging) = (Duration::from_secs(60), Duration::from_secs(15 * 60));
        Self { interval_negentropy, interval_paging, lookback_s: 49 * 3600 }
    }
}

/// Bounds of a pool, each with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message of a relay; a longer one ends the connection. 1 MiB: four times the largest event that
    /// the bundled relay takes.
    pub message_bytes_max: usize,
    /// For name, socket, TLS and websocket together. 10 s: a relay on the other side of the world takes one.
    pub dial_timeout: Duration,
    /// Between pings. 20 s: home routers forget silent connections after 30.
    pub ping_interval: Duration,
    /// A relay that said nothing for so long is gone. 45 s: two pings and a little.
    pub silence_max: Duration,
    /// The longest wait between dials of one relay. 60 s: a relay that was away for a day is not missed for long.
    pub backoff_max: Duration,
    /// The same for a relay on this very machine, which is no burden on anybody. 1 s.
    pub backoff_local_max: Duration,
    /// Foreign relays connected at once. 64: each costs a socket and some 100 KiB.
    pub foreign_max: usize,
    /// A foreign relay without work is left after so long. 60 s: a conversation often goes on.
    pub foreign_idle: Duration,
    /// A foreign relay that failed is not dialled again for so long. 10 s: many letters may wait for one dead relay.
    pub foreign_retry: Duration,
    /// Live events of a connection that wait for the node; then its socket is not read, unless an answer is awaited
    /// there. 256: a fraction of a second's work.
    pub backlog_soft: usize,
    /// Live events of a connection that wait at all. Beyond it mail is let go, and a sweep brings it. 8,192.
    pub backlog_hard: usize,
    /// Events of one sweep batch: what the node commits at once. 2,000.
    pub batch_events_max: usize,
    /// For the first answer to a reconciliation; without one the relay is taken to lack NIP-77. 5 s.
    pub negentropy_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 1 << 20,
            dial_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(20),
            silence_max: Duration::from_secs(45),
            backoff_max: Duration::from_secs(60),
            backoff_local_max: Duration::from_secs(1),
            foreign_max: 64,
            foreign_idle: Duration::from_secs(60),
            foreign_retry: Duration::from_secs(10),
            backlog_soft: 256,
            backlog_hard: 8_192,
            batch_events_max: 2_000,
            negentropy_timeout: Duration::from_secs(5),
        }
    }
}

/// What the node has dealt with already. Called where it may block; a failure puts the sweep off.
pub trait Ledger: Debug + Send + Sync {
    /// Mail events (wraps and kind 4, by their own ids) with `created_at` from `since_s` on that were dealt with:
    /// taken in, refused, or found to be for nobody. `keys` names whose mail is compared, if it is not everybody's;
    /// more than that may be given, and only costs traffic.
    ///
    /// # Errors
    /// The store's words.
    fn handled(&self, since_s: u64, keys: Option<&[PublicKey]>) -> Result<Vec<(u64, EventId)>, String>;

    /// Whether one event was dealt with.
    ///
    /// # Errors
    /// The store's words.
    fn is_handled(&self, id: &EventId) -> Result<bool, String>;

    /// When the last complete sweep of a relay began, in seconds since 1970.
    ///
    /// # Errors
    /// The store's words.
    fn cursor(&self, relay: &RelayUrl) -> Result<Option<u64>, String>;
}

/// The keys that may authenticate to relays.
pub trait Keyring: Debug + Send + Sync {
    /// The node's own.
    fn node(&self) -> Arc<dyn Signer>;

    /// An agent's; nothing for a key that is not ours.
    fn agent(&self, key: &PublicKey) -> Option<Arc<dyn Signer>>;
}

/// The one key of a mere client, which has no agents.
#[derive(Debug)]
pub struct OneKey(pub Arc<dyn Signer>);

impl Keyring for OneKey {
    fn node(&self) -> Arc<dyn Signer> {
        self.0.clone()
    }

    fn agent(&self, _: &PublicKey) -> Option<Arc<dyn Signer>> {
        None
    }
}

/// What the pool hands to the node.
#[derive(Debug)]
pub enum Incoming {
    /// A live event. Its signature is **not** verified, and it may come again.
    Event {
        /// Who sent it.
        relay: RelayUrl,
        /// What came.
        event: Box<Event>,
    },
    /// Part of a sweep: verified events that the node had not dealt with.
    Sweep(Sweep),
    /// A relay is connected.
    Up {
        /// Which.
        relay: RelayUrl,
    },
    /// A relay is not connected any more.
    Down {
        /// Which.
        relay: RelayUrl,
        /// Why, in a few words.
        reason: String,
    },
}

/// Hands the live events of a pool to who asked for them, until nobody takes them.
pub async fn hand_on(mut incoming: mpsc::Receiver<Incoming>, events: mpsc::Sender<Event>) {
    while let Some(next) = incoming.recv().await {
        if let Incoming::Event { event, .. } = next
            && events.send(*event).await.is_err()
        {
            return;
        }
    }
}

/// A batch of a sweep. A sweep that found nothing is one empty, complete batch.
#[derive(Debug)]
pub struct Sweep {
    /// Which relay was swept.
    pub relay: RelayUrl,
    /// When the sweep began, in seconds since 1970: the relay's new cursor, once a complete batch is committed.
    pub started_at_s: u64,
    /// What was missing, oldest first by `created_at` and then by id.
    pub events: Vec<Event>,
    /// Whether with this batch everything on the relay has been dealt with.
    pub complete: bool,
    /// To be sent once all of it is committed; the next batch waits for it. Dropping it ends the sweep, which is then
    /// tried again.
    pub done: oneshot::Sender<()>,
}

/// How one of the operator's relays is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayStatus {
    /// Which.
    pub url: RelayUrl,
    /// Whether there is a connection.
    pub connected: bool,
    /// Since when that is so, in seconds since 1970.
    pub since_s: u64,
    /// Subscriptions that the relay serves.
    pub subscriptions: usize,
    /// Agents whose mail it does not serve.
    pub unlistened: usize,
    /// Whether everything wanted has been asked for and answered, one way or the other.
    pub subscribed: bool,
    /// When the last complete sweep began, in seconds since 1970.
    pub swept_at_s: Option<u64>,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}
