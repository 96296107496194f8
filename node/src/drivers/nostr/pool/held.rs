//! Relays that are held for one purpose: connected all the time, under a key of their own, for one standing filter.
//!
//! The wallet's relays are held so: they may be others than the node's, and where they are the same, a second
//! connection keeps the wallet's customer apart from the node, for a relay that wants to know whom it serves. No
//! mail is asked for there, nothing is swept, and what comes goes to whoever holds them. Dropping the [`Held`] ends
//! its connections; so does the end of the pool.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use oa_nips::nostr::filter::MatchEventOptions;
use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{Event, Filter, RelayUrl};
use oa_nips::port::{Ack, FetchError, Publish, Subscribe};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use tracing::Instrument;

use super::{Own, Pool};
use crate::drivers::address::Gate;
use crate::drivers::nostr::connection::{Connection, Kind, Shared, View};
use crate::drivers::nostr::dial::Dialer;
use crate::drivers::nostr::link::{End, link};
use crate::drivers::nostr::wanted::Wanted;
use crate::drivers::nostr::{Config, Incoming, Keyring, verify};

/// Relays that are held, and a way to speak to them.
#[derive(Debug)]
pub struct Held {
    relays: BTreeMap<RelayUrl, Own>,
    listening: watch::Receiver<bool>,
    _cancel: DropGuard,
}

impl Pool {
    /// Holds relays, wherever they are: whoever calls this was told of them by the operator. `keyring`'s node key is
    /// whom they see; `filter` stands on each of them, as it is here on each new connection. What comes goes to
    /// `events`; while that is full, the relays wait.
    ///
    /// Must be called within a tokio runtime.
    pub fn hold(
        &self,
        relays: &[RelayUrl],
        keyring: Arc<dyn Keyring>,
        filter: Filter,
        events: mpsc::Sender<Incoming>,
    ) -> Held {
        let limits = self.inner.shared.config.limits.clone();
        let cancel = self.inner.shared.cancel.child_token();
        let mut wanted = Wanted::default();
        wanted.stand("held", filter);
        let gate = Gate { allowed: Vec::new(), own: Vec::new() };
        let shared = Arc::new(Shared {
            dialer: Dialer::new(gate, limits.message_bytes_max, limits.dial_timeout),
            keyring,
            ledger: None,
            incoming: events,
            wanted: watch::Sender::new(wanted),
            cancel: cancel.clone(),
            foreign_waiting: AtomicUsize::new(0),
            config: Config { limits, ..Config::default() },
        });
        let mut held = BTreeMap::new();
        for url in relays {
            if held.contains_key(url) {
                continue;
            }
            let (link, inlet) = link();
            let (view, seen) = watch::channel(View::new(url.clone()));
            let kind = Kind::Own { wide: false };
            let connection =
                Connection::new(url.clone(), kind, shared.clone(), Some(link.clone()), inlet, view);
            let span = tracing::info_span!("held", %url);
            self.inner.tasks.spawn(Box::pin(connection.keep()).instrument(span));
            held.insert(url.clone(), Own { link, view: seen });
        }
        let views = held.values().map(|own| own.view.clone()).collect();
        Held { relays: held, listening: self.listening(views), _cancel: cancel.drop_guard() }
    }

    /// Whether the filter stands on one of them at least, as that changes.
    fn listening(&self, views: Vec<watch::Receiver<View>>) -> watch::Receiver<bool> {
        let (told, listening) = watch::channel(false);
        let told = Arc::new(told);
        for mut view in views.clone() {
            let (views, told) = (views.clone(), told.clone());
            self.inner.tasks.spawn(async move {
                let stands = |view: &watch::Receiver<View>| {
                    let view = view.borrow();
                    view.status.connected && view.status.subscribed
                };
                // Ends with the connection, which has the other end.
                while view.changed().await.is_ok() {
                    let any = views.iter().any(stands);
                    told.send_if_modified(|known| std::mem::replace(known, any) != any);
                }
            });
        }
        listening
    }
}

impl Held {
    /// Whether the filter stands on one of the relays at least.
    pub fn listening(&self) -> watch::Receiver<bool> {
        self.listening.clone()
    }
}

impl Publish for Held {
    fn publish<'a>(
        &'a self,
        relay: &'a RelayUrl,
        event: &'a Event,
        deadline: Duration,
    ) -> BoxedFuture<'a, Ack> {
        let at = Instant::now() + deadline;
        Box::pin(async move {
            match self.relays.get(relay) {
                Some(own) => own.link.publish(event, at).await,
                None => Ack::Unreached("not one of the relays that are held".to_owned()),
            }
        })
    }
}

impl Subscribe for Held {
    fn fetch<'a>(
        &'a self,
        relay: &'a RelayUrl,
        filter: Filter,
        deadline: Duration,
    ) -> BoxedFuture<'a, Result<Vec<Event>, FetchError>> {
        let at = Instant::now() + deadline;
        Box::pin(async move {
            let away = || FetchError::NotConnected(relay.clone());
            let fetched = self.relays.get(relay).ok_or_else(away)?.link.fetch(filter.clone(), at).await;
            let mut events = fetched.events;
            if events.is_empty() {
                match fetched.end {
                    End::Eose | End::Full => {}
                    End::Closed(reason) => return Err(FetchError::Closed(relay.clone(), reason)),
                    End::TimedOut => return Err(FetchError::TimedOut(relay.clone())),
                    End::Down(_) => return Err(away()),
                }
            }
            events.retain(|event| filter.match_event(event, MatchEventOptions::new()));
            Ok(verify::genuine(events).await)
        })
    }
}
