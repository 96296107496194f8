//! One relay connection as a pure machine: frames, requests and ticks in, actions out.
//!
//! It holds whatever the connection has in flight and starts afresh with each connection. It does no I/O, reads no
//! clock and never waits; the actor in [`super::connection`] performs what it asks for.

mod auth;
mod hold;
mod publishes;
mod queries;
mod subscriptions;

use oa_nips::nostr::{Event, Filter, PublicKey};
use oa_nips::port::Ack;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use self::auth::{Auth, Settled};
use self::hold::{Held, Hold};
use self::publishes::{Publishes, Verdict};
pub(super) use self::queries::size;
use self::queries::{Closed, Queries};
use self::subscriptions::Subscriptions;
pub(super) use self::subscriptions::{Purpose, Scope};
use super::link::{Fetched, Negotiated, Publish, Query};
use super::wanted::Wanted;
use super::wire::{self, Frame};

/// What the connection is to do.
#[derive(Debug)]
pub(super) enum Action {
    /// Send a frame.
    Send(Utf8Bytes),
    /// Hand a live event to the node. Mail may be for others: relays are free to send more than was asked for.
    Deliver(Box<Event>, Purpose),
    /// Answer publishers.
    Ack(Vec<oneshot::Sender<Ack>>, Ack),
    /// Answer a fetch.
    Fetched(oneshot::Sender<Fetched>, Fetched),
    /// Answer a reconciliation.
    Negotiated(oneshot::Sender<Negotiated>, Negotiated),
    /// Sign an authentication for one of our keys.
    Sign { key: PublicKey, challenge: String },
    /// Sweep soon: something may have been missed.
    Sweep,
}

/// What a session is for, besides what is wanted of it.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// A relay of ours: keys authenticate there.
    pub(super) own: bool,
    /// One subscription for everybody's mail.
    pub(super) wide: bool,
    /// Whether a sweep follows: then live mail is held for it.
    pub(super) sweeps: bool,
    /// The node's key.
    pub(super) node: PublicKey,
    /// A mail filter without recipients.
    pub(super) mail: Filter,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Session {
    setup: Setup,
    auth: Auth,
    publishes: Publishes,
    queries: Queries,
    subscriptions: Subscriptions,
    hold: Option<Hold>,
    error: Option<String>,
}

impl Session {
    /// A connection has just been made: asks for all that is wanted.
    pub(super) fn start(setup: Setup, wanted: &Wanted, now: Instant, out: &mut Vec<Action>) -> Self {
        let Setup { own, wide, sweeps, node, .. } = setup;
        let mut session = Self {
            auth: Auth::default(),
            publishes: Publishes::default(),
            queries: Queries::default(),
            subscriptions: Subscriptions::new(own, wide, node, setup.mail.clone()),
            hold: sweeps.then(|| Hold::new(now)),
            error: None,
            setup,
        };
        session.sync(wanted, now, out);
        session
    }

    /// Asks for what changed in what is wanted. Foreign relays are asked for nothing.
    pub(super) fn sync(&mut self, wanted: &Wanted, now: Instant, out: &mut Vec<Action>) {
        if self.setup.own {
            self.subscriptions.sync(wanted, &mut self.auth, now, out);
        }
    }

    /// Whether [`Self::sync`] must be called although nothing wanted has changed.
    pub(super) fn needs_sync(&self) -> bool {
        self.subscriptions.needs_sync()
    }

    /// Takes a frame of the relay.
    pub(super) fn frame(&mut self, frame: Frame, now: Instant, out: &mut Vec<Action>) {
        match frame {
            Frame::Event { sub, event } => self.event(&sub, event, out),
            Frame::Ok { id, accepted, reason } => {
                if let Some(settled) = self.auth.ok(&id, accepted, &reason, now, out) {
                    self.key_settled(settled, now, out);
                } else if self.publishes.ok(&id, accepted, &reason, self.setup.own, out) == Verdict::NeedsAuth
                {
                    self.authenticate_node(now, out);
                }
            }
            Frame::Eose { sub } => {
                if !self.queries.eose(&sub, out) {
                    self.subscriptions.eose(&sub, &mut self.auth, now, out);
                }
            }
            Frame::Closed { sub, reason } => self.closed(&sub, &reason, now, out),
            Frame::Notice { text } => {
                tracing::debug!(text = wire::words(&text), "notice");
                self.error = Some(wire::words(&text));
                self.queries.notice(&text, out);
            }
            Frame::Auth { challenge } => self.auth.challenge(challenge, now, out),
            Frame::NegMsg { sub, message } => self.queries.neg_msg(&sub, message, out),
            Frame::NegErr { sub, reason } => self.queries.neg_err(&sub, &reason, out),
            Frame::Other => {}
        }
    }

    fn event(&mut self, sub: &str, event: Box<Event>, out: &mut Vec<Action>) {
        let Err(event) = self.queries.event(sub, event, out) else { return };
        match (self.subscriptions.purpose(sub), &mut self.hold) {
            (Some(Purpose::Mail), Some(hold)) => match hold.push(event) {
                Held::Kept => {}
                Held::LetGo => out.push(Action::Sweep),
                Held::Passed(event) => out.push(Action::Deliver(event, Purpose::Mail)),
            },
            (Some(purpose), _) => out.push(Action::Deliver(event, purpose)),
            (None, _) => {}
        }
    }

    fn closed(&mut self, sub: &str, reason: &str, now: Instant, out: &mut Vec<Action>) {
        match self.queries.closed(sub, reason, self.setup.own, out) {
            Closed::Settled => {}
            Closed::NeedsAuth => self.authenticate_node(now, out),
            Closed::Unknown => {
                self.subscriptions.closed(sub, reason, &mut self.auth, now, out);
            }
        }
    }

    /// For publishes and fetches, which the node does in its own name.
    fn authenticate_node(&mut self, now: Instant, out: &mut Vec<Action>) {
        let node = self.setup.node;
        if self.auth.want([node], now, out).is_empty() {
            self.node_settled(self.auth.is_accepted(&node), out);
        }
    }

    fn node_settled(&mut self, accepted: bool, out: &mut Vec<Action>) {
        self.publishes.authenticated(accepted, out);
        self.queries.authenticated(accepted, out);
    }

    fn key_settled(&mut self, settled: Settled, now: Instant, out: &mut Vec<Action>) {
        if settled.key == self.setup.node {
            self.node_settled(settled.accepted, out);
        }
        self.subscriptions.key_settled(settled, &mut self.auth, now, out);
    }

    /// Takes a signed authentication, or why there is none.
    pub(super) fn signed(
        &mut self,
        key: PublicKey,
        signed: Result<Event, String>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        if let Some(settled) = self.auth.signed(key, signed, now, out) {
            self.key_settled(settled, now, out);
        }
    }

    /// Publishes an event.
    pub(super) fn publish(&mut self, publish: Publish, out: &mut Vec<Action>) {
        self.publishes.publish(publish, out);
    }

    /// Reads.
    pub(super) fn query(&mut self, query: Query, out: &mut Vec<Action>) {
        match query {
            Query::Fetch(fetch) => self.queries.fetch(fetch, out),
            Query::Negotiate(negotiate) => self.queries.negotiate(negotiate, out),
            Query::NegotiateEnd => self.queries.negotiate_end(out),
        }
    }

    /// The catch-up is over: what was held goes on.
    pub(super) fn release(&mut self, out: &mut Vec<Action>) {
        let held = self.hold.take().map(Hold::into_events).unwrap_or_default();
        out.extend(held.into_iter().map(|event| Action::Deliver(Box::new(event), Purpose::Mail)));
    }

    /// Time passes.
    pub(super) fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.hold.as_ref().is_some_and(|hold| hold.is_over(now)) {
            self.release(out);
        }
        self.publishes.expire(now, out);
        self.queries.expire(now, out);
        for settled in self.auth.tick(now, out) {
            self.key_settled(settled, now, out);
        }
        self.subscriptions.tick(&mut self.auth, now, out);
    }

    /// The connection broke: whoever waits is told. What was held is let go; the next catch-up brings it, in order.
    pub(super) fn stop(mut self, reason: &str, out: &mut Vec<Action>) {
        self.publishes.fail(reason, out);
        self.queries.fail(reason, out);
    }

    /// Whether one more event may be published.
    pub(super) fn takes_publishes(&self) -> bool {
        self.publishes.has_room()
    }

    /// Whether one more query may be asked.
    pub(super) fn takes_queries(&self) -> bool {
        self.queries.has_room()
    }

    /// Whether somebody waits for an answer of the relay.
    pub(super) fn is_awaited(&self) -> bool {
        !self.publishes.is_empty()
            || !self.queries.is_empty()
            || self.auth.is_busy()
            || !self.subscriptions.is_settled()
    }

    /// Whether every subscription is served, or refused for now.
    pub(super) fn is_settled(&self) -> bool {
        self.subscriptions.is_settled()
    }

    /// How many subscriptions the relay serves.
    pub(super) fn live(&self) -> usize {
        self.subscriptions.live()
    }

    /// How many keys it does not serve mail for, of so many.
    pub(super) fn unlistened(&self, wanted_keys: usize) -> usize {
        self.subscriptions.unlistened(wanted_keys)
    }

    /// Whose mail can be swept here.
    pub(super) fn scopes(&self) -> Vec<Scope> {
        self.subscriptions.scopes()
    }

    /// The relay's last complaint, once.
    pub(super) fn take_error(&mut self) -> Option<String> {
        self.subscriptions.take_error().or_else(|| self.error.take())
    }
}

#[cfg(test)]
mod tests;
