//! The pool's handle: starts the connections, gives them work, ends them.

mod held;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use oa_nips::nostr::filter::MatchEventOptions;
use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{Event, Filter, PublicKey, RelayUrl};
use oa_nips::port::{Ack, FetchError, Publish, Subscribe};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::connection::{Connection, Kind, Shared, View};
use super::dial::{Dialer, literal_address};
use super::foreign::Foreign;
use super::link::{End, Fetched, Link, link};
use super::wanted::Wanted;
use super::{Config, Incoming, Keyring, Ledger, RelayStatus, verify};
use crate::drivers::address::{Allowed, Gate};
pub use held::Held;

/// The relay pool of a process. Clones are handles to the same one; dropping the last ends it.
#[derive(Debug, Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    own: BTreeMap<RelayUrl, Own>,
    foreign: Foreign,
    tasks: TaskTracker,
    _cancel: DropGuard,
}

/// One of the operator's relays.
#[derive(Debug)]
struct Own {
    link: Link,
    view: watch::Receiver<View>,
}

impl Pool {
    /// Starts connecting. `ledger` and [`Config::sweep`] together make the pool sweep. What comes in goes to
    /// `incoming`; while that is full, relays wait.
    ///
    /// Must be called within a tokio runtime.
    pub fn start(
        config: Config,
        keyring: Arc<dyn Keyring>,
        ledger: Option<Arc<dyn Ledger>>,
        incoming: mpsc::Sender<Incoming>,
    ) -> Self {
        let gate = Gate {
            allowed: config.allow_private.iter().map(|entry| Allowed::parse(entry)).collect(),
            own: config.relays.iter().filter_map(|relay| literal_address(&relay.url)).collect(),
        };
        let dialer = Dialer::new(gate, config.limits.message_bytes_max, config.limits.dial_timeout);
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let mut wanted = Wanted::default();
        wanted.listen(config.listen.iter().copied());
        let shared = Arc::new(Shared {
            dialer,
            keyring,
            ledger,
            incoming,
            wanted: watch::Sender::new(wanted),
            cancel: cancel.clone(),
            foreign_waiting: AtomicUsize::new(0),
            config,
        });
        let mut own = BTreeMap::new();
        for spec in &shared.config.relays {
            if own.contains_key(&spec.url) {
                continue;
            }
            let ((link, inlet), url) = (link(), spec.url.clone());
            let (view, seen) = watch::channel(View::new(url.clone()));
            let (kind, own_link) = (Kind::Own { wide: spec.wide }, Some(link.clone()));
            let connection = Connection::new(url.clone(), kind, shared.clone(), own_link, inlet, view);
            let span = tracing::info_span!("relay", %url);
            tasks.spawn(Box::pin(connection.keep()).instrument(span));
            own.insert(url, Own { link, view: seen });
        }
        let foreign = Foreign::new(shared.clone(), tasks.clone());
        Self { inner: Arc::new(Inner { shared, own, foreign, tasks, _cancel: cancel.drop_guard() }) }
    }

    /// Listens for the mail of more agents, on all own relays. Costs one REQ a relay for each 500 of them begun. Their
    /// stored mail comes with a sweep that follows soon.
    pub fn listen(&self, keys: impl IntoIterator<Item = PublicKey>) {
        self.inner.shared.wanted.send_if_modified(|wanted| wanted.listen(keys));
    }

    /// Listens for an agent's mail no more.
    pub fn unlisten(&self, key: &PublicKey) {
        self.inner.shared.wanted.send_if_modified(|wanted| wanted.unlisten(key));
    }

    /// Keeps a subscription of that name on all own relays, in place of an earlier one. Its events come as
    /// [`Incoming::Event`]; no sweep covers it. On each new connection it is asked for as it stands here.
    pub fn stand(&self, name: &str, filter: Filter) {
        self.inner.shared.wanted.send_if_modified(|wanted| wanted.stand(name, filter));
    }

    /// Ends the subscription of that name.
    pub fn unstand(&self, name: &str) {
        self.inner.shared.wanted.send_if_modified(|wanted| wanted.unstand(name));
    }

    /// Sweeps all own relays soon, for what was handed over when it could not be dealt with. One that is not connected
    /// is swept anyway when it is.
    pub fn sweep_again(&self) {
        self.inner.shared.wanted.send_modify(Wanted::sweep);
    }

    /// The operator's relays, in order of their URLs.
    pub fn status(&self) -> Vec<RelayStatus> {
        self.inner.own.values().map(|own| own.view.borrow().status.clone()).collect()
    }

    /// Waits until `at_least` own relays (all, if there are fewer) are connected and have answered all that is
    /// wanted by now; at most `deadline`. How many have.
    pub async fn ready(&self, at_least: usize, deadline: Duration) -> usize {
        let version = self.inner.shared.wanted.borrow().version();
        let at_least = at_least.min(self.inner.own.len());
        let is_ready =
            move |view: &View| view.status.connected && view.status.subscribed && view.version >= version;
        let mut waits = tokio::task::JoinSet::new();
        for own in self.inner.own.values() {
            let mut view = own.view.clone();
            waits.spawn(async move { view.wait_for(is_ready).await.is_ok() });
        }
        let enough = async {
            let mut ready = 0;
            while ready < at_least {
                match waits.join_next().await {
                    Some(done) => ready += usize::from(done.unwrap_or(false)),
                    None => break,
                }
            }
        };
        let _ = timeout_at(Instant::now() + deadline, enough).await;
        self.inner.own.values().filter(|own| is_ready(&own.view.borrow())).count()
    }

    /// Waits until one own relay is connected and has answered all that is wanted by now; at most `deadline`. Whether
    /// it has.
    pub async fn ready_on(&self, relay: &RelayUrl, deadline: Duration) -> bool {
        let version = self.inner.shared.wanted.borrow().version();
        let Some(own) = self.inner.own.get(relay) else { return false };
        let mut view = own.view.clone();
        let is_ready =
            move |view: &View| view.status.connected && view.status.subscribed && view.version >= version;
        let ready = timeout_at(Instant::now() + deadline, view.wait_for(is_ready)).await;
        ready.is_ok_and(|view| view.is_ok())
    }

    /// Ends all connections and waits for them. Who waits for an answer gets [`Ack::Unreached`].
    pub async fn shutdown(&self) {
        self.inner.shared.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    async fn publish_to(&self, relay: &RelayUrl, event: &Event, deadline: Instant) -> Ack {
        if let Some(own) = self.inner.own.get(relay) {
            return own.link.publish(event, deadline).await;
        }
        match self.inner.foreign.link(relay, deadline).await {
            Ok(link) => link.publish(event, deadline).await,
            Err(failure) => failure.ack(),
        }
    }

    async fn fetch_from(
        &self,
        relay: &RelayUrl,
        filter: Filter,
        deadline: Instant,
    ) -> Result<Vec<Event>, FetchError> {
        let fetched = match self.inner.own.get(relay) {
            Some(own) => own.link.fetch(filter.clone(), deadline).await,
            None => match self.inner.foreign.link(relay, deadline).await {
                Ok(link) => link.fetch(filter.clone(), deadline).await,
                Err(_) => return Err(FetchError::NotConnected(relay.clone())),
            },
        };
        let Fetched { mut events, end } = fetched;
        if events.is_empty() {
            match end {
                End::Eose | End::Full => {}
                End::Closed(reason) => return Err(FetchError::Closed(relay.clone(), reason)),
                End::TimedOut => return Err(FetchError::TimedOut(relay.clone())),
                End::Down(_) => return Err(FetchError::NotConnected(relay.clone())),
            }
        }
        events.retain(|event| filter.match_event(event, MatchEventOptions::new()));
        Ok(verify::genuine(events).await)
    }
}

impl Publish for Pool {
    fn publish<'a>(
        &'a self,
        relay: &'a RelayUrl,
        event: &'a Event,
        deadline: Duration,
    ) -> BoxedFuture<'a, Ack> {
        Box::pin(self.publish_to(relay, event, Instant::now() + deadline))
    }
}

impl Subscribe for Pool {
    fn fetch<'a>(
        &'a self,
        relay: &'a RelayUrl,
        filter: Filter,
        deadline: Duration,
    ) -> BoxedFuture<'a, Result<Vec<Event>, FetchError>> {
        Box::pin(self.fetch_from(relay, filter, Instant::now() + deadline))
    }
}
