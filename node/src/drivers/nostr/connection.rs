//! The actor of one relay: keeps it connected, feeds the session machine, performs its actions.
//!
//! It selects one input, applies it without waiting, and selects again; so it goes on serving publishes and pings
//! while an event waits to be handed over. Owned by the pool, whose cancellation ends it. That of a foreign relay
//! ends by itself when it has no work.

mod live;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use oa_nips::nostr::RelayUrl;
use oa_nips::port::Ack;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::live::Live;
use super::backoff::{Backoff, jitter};
use super::dial::{DialError, Dialer, Whose, literal_address};
use super::link::{End, Fetched, Inlet, Link, Negotiated, Query};
use super::socket::Socket;
use super::sweep::{Aside, unix_now_s};
use super::wanted::Wanted;
use super::{Config, Incoming, Keyring, Ledger, RelayStatus};

/// What all connections of a pool share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) dialer: Dialer,
    pub(super) keyring: Arc<dyn Keyring>,
    pub(super) ledger: Option<Arc<dyn Ledger>>,
    pub(super) incoming: mpsc::Sender<Incoming>,
    pub(super) wanted: watch::Sender<Wanted>,
    pub(super) cancel: CancellationToken,
    /// Somebody waits for a foreign connection while all are taken: idle ones end.
    pub(super) foreign_waiting: AtomicUsize,
}

/// What others see of a connection.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) status: RelayStatus,
    /// The version of what is wanted that the status speaks of.
    pub(super) version: u64,
}

impl View {
    /// Before the first dial.
    pub(super) fn new(url: RelayUrl) -> Self {
        let status = RelayStatus {
            url,
            connected: false,
            since_s: unix_now_s(),
            subscriptions: 0,
            unlistened: 0,
            subscribed: false,
            swept_at_s: None,
            last_error: None,
        };
        Self { status, version: 0 }
    }
}

/// What kind of relay it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The operator's; `wide` as in [`super::RelaySpec`].
    Own { wide: bool },
    /// One that somebody named.
    Foreign,
}

/// The actor.
#[derive(Debug)]
pub(super) struct Connection {
    url: RelayUrl,
    kind: Kind,
    shared: Arc<Shared>,
    wanted: watch::Receiver<Wanted>,
    link: Option<Link>,
    inlet: Inlet,
    view: watch::Sender<View>,
    /// What waits for the node to take it.
    backlog: VecDeque<Incoming>,
    /// When to try NIP-77 again at a relay that lacks it.
    lacks_negentropy_until: Option<Instant>,
    aside: Aside,
}

/// Why serving ended.
#[derive(Debug)]
struct Ended {
    reason: String,
    /// Whether the relay had answered what it was asked.
    worked: bool,
    cancelled: bool,
}

impl Connection {
    /// The actor at the other end of `inlet`. `link`, for a relay that is swept, is its own handle.
    pub(super) fn new(
        url: RelayUrl,
        kind: Kind,
        shared: Arc<Shared>,
        link: Option<Link>,
        inlet: Inlet,
        view: watch::Sender<View>,
    ) -> Self {
        let wanted = shared.wanted.subscribe();
        let (backlog, aside) = (VecDeque::new(), Aside::default());
        Self { url, kind, shared, wanted, link, inlet, view, backlog, lacks_negentropy_until: None, aside }
    }

    /// Keeps the relay connected until the pool ends.
    pub(super) async fn keep(mut self) {
        let limits = self.shared.config.limits.clone();
        let local = literal_address(&self.url).is_some_and(|address| address.ip().is_loopback());
        let mut backoff = Backoff::new(if local { limits.backoff_local_max } else { limits.backoff_max });
        let mut down: Option<String> = None;
        loop {
            let shared = Arc::clone(&self.shared);
            let url = self.url.clone();
            let dial = async move { shared.dialer.dial(&url, Whose::Own).await };
            let Some(dialled) = self.meanwhile(dial, down.as_deref()).await else { return };
            let reason = match dialled {
                Ok(ws) => {
                    let since = Instant::now();
                    let ended = self.serve(Socket::new(ws)).await;
                    if ended.cancelled {
                        return;
                    }
                    if ended.worked {
                        backoff.worked(since.elapsed());
                    }
                    self.is_down(&ended.reason);
                    ended.reason
                }
                Err(error) => {
                    let reason = error.to_string();
                    if down.is_none() {
                        self.is_down(&reason);
                    } else {
                        self.view.send_modify(|view| view.status.last_error = Some(reason.clone()));
                    }
                    reason
                }
            };
            let wait = backoff.next(jitter());
            tracing::debug!(reason, wait_ms = wait.as_millis(), "not connected");
            if self.meanwhile(tokio::time::sleep(wait), Some(&reason)).await.is_none() {
                return;
            }
            down = Some(reason);
        }
    }

    /// Serves a foreign relay until there is no work for it.
    ///
    /// # Errors
    /// When it was not reached.
    pub(super) async fn visit(&mut self) -> Result<(), DialError> {
        let cancel = self.shared.cancel.clone();
        let dial = self.shared.dialer.dial(&self.url, Whose::Foreign);
        let dialled = cancel.run_until_cancelled(dial).await;
        let Some(dialled) = dialled else { return Ok(()) };
        let ended = self.serve(Socket::new(dialled?)).await;
        tracing::debug!(reason = ended.reason, "left");
        Ok(())
    }

    /// Takes no more, and tells whoever asked already.
    pub(super) fn refuse_rest(mut self, ack: &Ack) {
        self.inlet.publishes.close();
        self.inlet.queries.close();
        let reason = match ack {
            Ack::Accepted => "",
            Ack::Refused(reason) | Ack::Unreached(reason) => reason,
        };
        while let Ok(publish) = self.inlet.publishes.try_recv() {
            let _ = publish.reply.send(ack.clone());
        }
        while let Ok(query) = self.inlet.queries.try_recv() {
            decline(query, reason);
        }
    }

    fn is_down(&mut self, reason: &str) {
        tracing::info!(reason, "relay down");
        self.view.send_modify(|view| {
            view.status.connected = false;
            view.status.subscribed = false;
            view.status.subscriptions = 0;
            view.status.since_s = unix_now_s();
            view.status.last_error = Some(reason.to_owned());
        });
        self.hand_over(Incoming::Down { relay: self.url.clone(), reason: reason.to_owned() });
    }

    /// Hands something over at once, or puts it where it waits.
    fn hand_over(&mut self, incoming: Incoming) {
        if !self.backlog.is_empty() {
            self.backlog.push_back(incoming);
            return;
        }
        match self.shared.incoming.try_send(incoming) {
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(incoming)) => self.backlog.push_back(incoming),
        }
    }

    /// Waits for `future`; meanwhile hands over what waits and, if the relay is known to be down, says so to all who
    /// ask for something. Nothing if the pool ends.
    async fn meanwhile<T>(&mut self, future: impl Future<Output = T>, down: Option<&str>) -> Option<T> {
        let mut future = Box::pin(future);
        loop {
            tokio::select! {
                biased;
                () = self.shared.cancel.cancelled() => return None,
                done = &mut future => return Some(done),
                permit = self.shared.incoming.reserve(), if !self.backlog.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(incoming) = self.backlog.pop_front() {
                            permit.send(incoming);
                        }
                    }
                    Err(_) => self.backlog.clear(),
                },
                Some(publish) = self.inlet.publishes.recv(), if down.is_some() => {
                    let _ = publish.reply.send(Ack::Unreached(down.unwrap_or_default().to_owned()));
                }
                Some(query) = self.inlet.queries.recv(), if down.is_some() => {
                    decline(query, down.unwrap_or_default());
                }
            }
        }
    }

    async fn serve(&mut self, socket: Socket) -> Ended {
        let mut live = Live::start(self, socket);
        loop {
            let input = live.select(self).await;
            if let Some(ended) = live.apply(self, input) {
                live.stop(self, &ended.reason).await;
                return ended;
            }
        }
    }
}

fn decline(query: Query, reason: &str) {
    match query {
        Query::Fetch(fetch) => {
            let fetched = Fetched { events: Vec::new(), end: End::Down(reason.to_owned()) };
            let _ = fetch.reply.send(fetched);
        }
        Query::Negotiate(negotiate) => {
            let _ = negotiate.reply.send(Negotiated::Down(reason.to_owned()));
        }
        Query::NegotiateEnd => {}
    }
}
