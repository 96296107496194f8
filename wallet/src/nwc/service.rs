//! The wallet's side of Nostr Wallet Connect: requests in, answers and notifications out.
//!
//! A pure machine (`machine`, with `admit` at the door, `work` and `pay` for the methods, `admin` for ours) under one
//! actor (`driver`) that writes rows, then acts. It ends with [`Service::shutdown`] or when its handle is dropped;
//! payments under way go on in the purse and are looked up at the next start.
//!
//! What must hold: a request is obeyed once, a payment hash is paid once, nobody sees what belongs to another
//! account, a budget is never exceeded, and one connection's flood delays no other.

mod admin;
mod admit;
mod answer;
mod done;
mod driver;
mod limits;
mod machine;
mod pay;
mod row;
#[cfg(test)]
mod tests;
mod work;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use oa_nips::kind;
use oa_nips::nostr::{Event, Filter, PublicKey, RelayUrl, Timestamp};
use oa_nips::port::{Publish, Signer};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use admin::{
    BudgetError, CONNECTIONS_MAX, Connected, ConnectionInfo, Connections, LIST_CONNECTIONS, ListConnections,
    NEW_CONNECTION, NewConnection, REVOKE_CONNECTION, RevokeConnection, UPDATE_CONNECTION, UpdateConnection,
    parse_budget,
};
pub use limits::Limits;
pub use machine::LoadError;
pub use pay::fee_reserve;
pub use row::{CONNECTIONS, REQUESTS, connection as connection_row};

use super::Clock;
use super::connection::Connection;
use super::message::Notification;
use super::purse::{Purse, Steer};
use super::rows::{Rows, RowsError};
use crate::account::Holder;

/// Notices and commands that wait for the service: more than one batch, so that the ledger seldom waits.
const COMMANDS: usize = 256;

/// What a service is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens and answers; also what new connections are told.
    pub relays: Vec<RelayUrl>,
    /// Bounds.
    pub limits: Limits,
    /// Between publications of the info event. A day: some relays drop it after some.
    pub announce_every: Duration,
    /// How soon it is sent again to a relay that was not reached.
    pub announce_again: Duration,
    /// For one relay to take an answer. 10 s.
    pub publish_deadline: Duration,
}

impl Config {
    /// With the usual bounds.
    pub fn new(relays: Vec<RelayUrl>) -> Self {
        Self {
            relays,
            limits: Limits::default(),
            announce_every: Duration::from_secs(24 * 3600),
            announce_again: Duration::from_secs(30),
            publish_deadline: Duration::from_secs(10),
        }
    }
}

/// What a service reaches the world by.
#[derive(Clone)]
pub struct Ports {
    /// The wallet's key.
    pub signer: Arc<dyn Signer>,
    /// Relays.
    pub publish: Arc<dyn Publish>,
    /// The wallet's database.
    pub rows: Arc<dyn Rows>,
    /// Money.
    pub purse: Arc<dyn Purse>,
    /// The wallet itself, for admin connections.
    pub steer: Arc<dyn Steer>,
    /// The time.
    pub clock: Clock,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").field("purse", &self.purse).finish_non_exhaustive()
    }
}

/// Why a service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the wallet's rows cannot be read")]
    Rows(#[from] RowsError),
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Why a service has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// As asked.
    #[error("stopped")]
    Stopped,
    /// A write failed: what is in memory may not be what is on disk, so nothing more is done.
    #[error("the store failed: {0}")]
    Store(RowsError),
}

/// The service has ended, and takes nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the wallet service has ended")]
pub struct Gone;

pub(super) enum Command {
    Happened(Holder, Box<Notification>),
    Connect(Box<Connection>),
}

/// A running service. Dropping it ends it.
#[derive(Debug)]
pub struct Service {
    wallet: PublicKey,
    commands: mpsc::Sender<Command>,
    ended: watch::Receiver<Option<Ended>>,
    task: JoinHandle<()>,
    cancel: DropGuard,
}

impl Service {
    /// Takes up where it was left, and serves the requests that come by `events` (see [`Service::filter`]); their
    /// signatures are verified here. `events` should be a bounded channel: while it is full, relays wait.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub async fn start(
        config: Config,
        ports: Ports,
        events: mpsc::Receiver<Event>,
    ) -> Result<Self, StartError> {
        let wallet = ports.signer.public_key();
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (told, ended) = watch::channel(None);
        let cancel = CancellationToken::new();
        let driver = driver::Driver::load(config, ports, events, inbox, cancel.clone()).await?;
        let task = tokio::spawn(async move {
            let end = Box::pin(driver.run()).await;
            told.send_replace(Some(end));
        });
        Ok(Self { wallet, commands, ended, task, cancel: cancel.drop_guard() })
    }

    /// What to subscribe to on the service's relays, before it can be reached. Requests are ephemeral; some relays
    /// keep them for minutes, so what was sent shortly before is asked for too.
    pub fn filter(wallet: PublicKey, now_s: u64) -> Filter {
        /// As long as strfry keeps ephemeral events.
        const BACK_S: u64 = 300;
        let since = Timestamp::from_secs(now_s.saturating_sub(BACK_S));
        Filter::new().kind(kind::WALLET_REQUEST).pubkey(wallet).since(since)
    }

    /// The wallet's key.
    pub fn wallet(&self) -> PublicKey {
        self.wallet
    }

    /// Tells the connections of an account that something happened in it: money came, or is held. Payments they
    /// asked for are told of by the service itself.
    ///
    /// # Errors
    /// When the service has ended.
    pub async fn happened(&self, account: Holder, notification: Notification) -> Result<(), Gone> {
        self.commands.send(Command::Happened(account, Box::new(notification))).await.map_err(|_| Gone)
    }

    /// Adds a connection made on this machine, as the first admin's is. One of a key that is known stays as it is.
    ///
    /// # Errors
    /// When the service has ended.
    pub async fn connect(&self, connection: Connection) -> Result<(), Gone> {
        self.commands.send(Command::Connect(Box::new(connection))).await.map_err(|_| Gone)
    }

    /// Waits until the service has ended, by itself or by [`Service::shutdown`].
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        let end = ended.wait_for(Option::is_some).await;
        end.ok().and_then(|end| end.clone()).unwrap_or(Ended::Stopped)
    }

    /// Ends it: what is being written is written, nothing more is begun.
    pub async fn shutdown(self) {
        drop(self.cancel);
        let _ = self.task.await;
    }
}
