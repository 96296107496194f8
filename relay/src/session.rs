//! One websocket session: relay-builder's connection future, driven so that no live event is lost in silence.
//!
//! relay-builder picks at random between reading a message and sending a broadcast event, and its broadcast
//! forgets what a session has not taken after 1,024 more. A client that publishes without pause therefore loses
//! its own subscription's events, and so does one that reads slowly. Here the session's socket is a [`gate`] that
//! hands over one frame at a time, and only when the session has sent every event it had: [`run`] sees that from
//! the session going idle. What can still fall behind (a socket that takes no more writes) is counted against
//! what was published, and ended before it could have lost an event unnoticed.
//!
//! `connection` calls [`run`] and says goodbye as the [`End`] demands.

mod frame;
mod gate;

pub(crate) use frame::{CloseCode, close_frame, text_frame};
pub(crate) use gate::{Gate, Inbox, Signals};

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use nostr_relay_builder::LocalRelay;
use tokio_util::sync::CancellationToken;

use crate::store::Published;

/// Events published while a session was busy, from which on it may have lost some: relay-builder's 1,024 less a
/// margin for those that were counted and not yet sent, one a worker thread at most.
const BEHIND_MAX: u64 = 1024 - 64;

/// Why a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client closed, and was answered.
    Closed,
    /// The client is gone, or its socket takes nothing: there is no one to say goodbye to.
    Gone,
    /// The relay shuts down.
    ShuttingDown,
    /// So many events were published while the session was busy that it may have missed some.
    Behind,
    /// The client sent a message larger than the limit.
    TooLarge,
    /// A message could not be read or answered; with the reason.
    Failed(String),
}

/// Runs a session to its end. Returns early on `stop`, once the message in hand is answered.
pub(crate) async fn run(
    relay: &LocalRelay,
    gate: &mut Gate,
    peer: SocketAddr,
    published: &Published,
    stop: &CancellationToken,
) -> End {
    let signals = gate.signals();
    // An error type without Send must not live across an await of ours, so it becomes text at once.
    let session = async { relay.take_connection(gate, peer).await.map_err(|error| error.to_string()) };
    let mut pump = Pump { session: Box::pin(session), signals: &signals, published, seen: published.count() };
    tokio::select! {
        biased;
        () = stop.cancelled() => signals.end(End::ShuttingDown),
        end = std::future::poll_fn(|cx| pump.poll(cx)) => return end,
    }
    std::future::poll_fn(|cx| pump.poll(cx)).await
}

/// Polls relay-builder's future and reads from the gate's signals what state it is in.
struct Pump<'a, F> {
    session: Pin<Box<F>>,
    signals: &'a Signals,
    published: &'a Published,
    /// What was published when the session had last sent all it had.
    seen: u64,
}

impl<F: Future<Output = Result<(), String>>> Pump<'_, F> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.signals.waiting.store(false, Relaxed);
        if let Poll::Ready(result) = self.session.as_mut().poll(cx) {
            return Poll::Ready(match (self.signals.take_end(), result) {
                (Some(end), _) => end,
                (None, Ok(())) => End::Closed,
                (None, Err(reason)) => End::Failed(reason),
            });
        }
        // Not waiting for input means busy with a message: it will be polled again when that goes on.
        if !self.signals.waiting.load(Relaxed) {
            return Poll::Pending;
        }
        // Out of budget, the broadcast says "nothing" although there may be more.
        if !tokio::task::coop::has_budget_remaining() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // Half a frame is in the socket: neither a goodbye nor a next message may come before its rest.
        let writing = self.signals.writing.load(Relaxed);
        if let Some(end) = self.signals.take_end() {
            if end == End::Gone || !writing {
                return Poll::Ready(end);
            }
            self.signals.end(end);
        }
        if writing {
            return Poll::Pending;
        }
        self.drained(cx)
    }

    /// The session has sent all it had and waits: the moment to count, and to let the next frame in.
    fn drained(&mut self, cx: &Context<'_>) -> Poll<End> {
        let published = self.published.count();
        let behind = published.saturating_sub(self.seen);
        self.seen = published;
        if behind > BEHIND_MAX {
            return Poll::Ready(End::Behind);
        }
        if self.signals.withheld.swap(false, Relaxed) {
            self.signals.pass.store(true, Relaxed);
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
