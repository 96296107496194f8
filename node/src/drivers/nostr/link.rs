//! The handle to one connection, and what can be asked of it. Cheap to clone; the connection outlives any of them.

use std::time::Duration;

use oa_nips::nostr::{Event, EventId, Filter};
use oa_nips::port::Ack;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::wire;

/// Publishes that wait for the connection to take them. Small: a full one makes publishers wait, which is all
/// right, since each has its deadline.
const PUBLISHES_QUEUED: usize = 256;
/// Queries that wait for the connection to take them.
const QUERIES_QUEUED: usize = 32;

/// One event to be published.
#[derive(Debug)]
pub(super) struct Publish {
    pub(super) id: EventId,
    /// The event as a frame.
    pub(super) frame: Utf8Bytes,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Ack>,
}

/// One thing to be read.
#[derive(Debug)]
pub(super) enum Query {
    Fetch(Fetch),
    Negotiate(Negotiate),
    /// Ends the reconciliation, if there is one.
    NegotiateEnd,
}

/// The stored events that match.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) filter: Filter,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Fetched>,
}

/// One message of a reconciliation. A connection has one at a time.
#[derive(Debug)]
pub(super) struct Negotiate {
    /// The filter, for the message that opens it.
    pub(super) open: Option<Filter>,
    pub(super) message: Vec<u8>,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Negotiated>,
}

/// What a fetch brought. Not verified.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) events: Vec<Event>,
    pub(super) end: End,
}

/// Why a fetch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The relay said that this was all.
    Eose,
    /// The relay ended it with these words.
    Closed(String),
    /// The deadline passed.
    TimedOut,
    /// More came than is kept.
    Full,
    /// There is no connection, or it broke.
    Down(String),
}

/// The relay's answer to a message of a reconciliation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Negotiated {
    /// Its message, in hex.
    Message(String),
    /// It will not, or does not know how.
    Refused(String),
    /// Nothing came.
    Silent,
    /// There is no connection, or it broke.
    Down(String),
}

/// The handle.
#[derive(Debug, Clone)]
pub(super) struct Link {
    publishes: mpsc::Sender<Publish>,
    queries: mpsc::Sender<Query>,
}

/// The connection's ends of a [`Link`].
#[derive(Debug)]
pub(super) struct Inlet {
    pub(super) publishes: mpsc::Receiver<Publish>,
    pub(super) queries: mpsc::Receiver<Query>,
}

/// A link and its other end.
pub(super) fn link() -> (Link, Inlet) {
    let (publishes, publishes_rx) = mpsc::channel(PUBLISHES_QUEUED);
    let (queries, queries_rx) = mpsc::channel(QUERIES_QUEUED);
    (Link { publishes, queries }, Inlet { publishes: publishes_rx, queries: queries_rx })
}

impl Link {
    /// Whether the connection is gone for good.
    pub(super) fn is_closed(&self) -> bool {
        self.publishes.is_closed()
    }

    /// Sends an event and waits for the relay's answer.
    pub(super) async fn publish(&self, event: &Event, deadline: Instant) -> Ack {
        let (reply, answer) = oneshot::channel();
        let publish = Publish { id: event.id, frame: wire::event(event), deadline, reply };
        let asked = timeout_at(deadline, async {
            self.publishes.send(publish).await.ok()?;
            answer.await.ok()
        });
        match asked.await {
            Ok(Some(ack)) => ack,
            Ok(None) => Ack::Unreached("the connection has ended".to_owned()),
            Err(_) => Ack::Unreached("no answer in time".to_owned()),
        }
    }

    /// Asks for stored events. The connection keeps the deadline, so that what came until then is not lost.
    pub(super) async fn fetch(&self, filter: Filter, deadline: Instant) -> Fetched {
        let (reply, answer) = oneshot::channel();
        let fetch = Query::Fetch(Fetch { filter, deadline, reply });
        let asked = self.ask(fetch, answer, deadline).await;
        asked.unwrap_or_else(|end| Fetched { events: Vec::new(), end })
    }

    /// Sends one message of a reconciliation and waits for the answer.
    pub(super) async fn negotiate(
        &self,
        open: Option<Filter>,
        message: Vec<u8>,
        deadline: Instant,
    ) -> Negotiated {
        let (reply, answer) = oneshot::channel();
        let negotiate = Query::Negotiate(Negotiate { open, message, deadline, reply });
        match self.ask(negotiate, answer, deadline).await {
            Ok(negotiated) => negotiated,
            Err(End::Down(reason)) => Negotiated::Down(reason),
            Err(_) => Negotiated::Silent,
        }
    }

    /// Lets the relay forget the reconciliation.
    pub(super) async fn negotiate_end(&self) {
        let _ = self.queries.send(Query::NegotiateEnd).await;
    }

    async fn ask<T>(&self, query: Query, answer: oneshot::Receiver<T>, deadline: Instant) -> Result<T, End> {
        // A little more than the connection takes, which answers at the deadline with what it has.
        const GRACE: Duration = Duration::from_secs(1);
        let asked = timeout_at(deadline + GRACE, async {
            self.queries.send(query).await.ok()?;
            answer.await.ok()
        });
        match asked.await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(End::Down("the connection has ended".to_owned())),
            Err(_) => Err(End::TimedOut),
        }
    }
}
