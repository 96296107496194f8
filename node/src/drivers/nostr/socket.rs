//! One websocket, written and read by the same task without either waiting for the other.
//!
//! A relay that answers one message after the other stops reading while its answers are not taken. Waiting for a
//! write to finish before reading on would then wait for ever, so writes are queued and driven while reading.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message, Utf8Bytes};

use super::dial::WebSocket;
use super::wire;

/// How long a goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// What was read.
#[derive(Debug)]
pub(super) enum Received {
    /// A text message.
    Text(Utf8Bytes),
    /// A sign of life with nothing to read: ping, pong, binary.
    Other,
}

/// The websocket and what waits to be written to it.
#[derive(Debug)]
pub(super) struct Socket {
    ws: WebSocket,
    queue: VecDeque<Message>,
    queued_bytes: usize,
    unflushed: bool,
}

impl Socket {
    /// Takes a socket after its handshake.
    pub(super) fn new(ws: WebSocket) -> Self {
        Self { ws, queue: VecDeque::new(), queued_bytes: 0, unflushed: false }
    }

    /// Queues a text message.
    pub(super) fn push(&mut self, text: Utf8Bytes) {
        self.queued_bytes += text.len();
        self.queue.push_back(Message::Text(text));
    }

    /// Queues a ping.
    pub(super) fn ping(&mut self) {
        self.queue.push_back(Message::Ping(Bytes::new()));
    }

    /// Bytes of text that wait to be written.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Writes what is queued and waits for the next message; with `reading` off only writes. Cancel-safe.
    ///
    /// # Errors
    /// The reason why the connection is over, in words.
    pub(super) async fn next(&mut self, reading: bool) -> Result<Received, String> {
        std::future::poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                return Poll::Ready(Err(reason(error)));
            }
            if reading { self.poll_read(cx) } else { Poll::Pending }
        })
        .await
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.queue.is_empty() {
            ready!(self.ws.poll_ready_unpin(cx))?;
            let Some(message) = self.queue.pop_front() else { break };
            if let Message::Text(text) = &message {
                self.queued_bytes -= text.len();
            }
            self.unflushed = true;
            self.ws.start_send_unpin(message)?;
        }
        if self.unflushed {
            ready!(self.ws.poll_flush_unpin(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, String>> {
        Poll::Ready(match ready!(self.ws.poll_next_unpin(cx)) {
            Some(Ok(Message::Text(text))) => Ok(Received::Text(text)),
            Some(Ok(Message::Close(frame))) => Err(closed(frame)),
            Some(Ok(Message::Ping(_))) => {
                self.unflushed = true; // the pong that tungstenite queued
                Ok(Received::Other)
            }
            Some(Ok(_)) => Ok(Received::Other),
            Some(Err(error)) => Err(reason(error)),
            None => Err("closed by the relay".to_owned()),
        })
    }

    /// Says goodbye, briefly.
    pub(super) async fn close(mut self, why: &str) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: wire::words(why).into() };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.ws.close(Some(frame))).await;
    }
}

fn closed(frame: Option<CloseFrame>) -> String {
    match frame {
        Some(frame) if !frame.reason.is_empty() => {
            format!("closed by the relay: {}", wire::words(&frame.reason))
        }
        _ => "closed by the relay".to_owned(),
    }
}

fn reason(error: Error) -> String {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => "closed by the relay".to_owned(),
        Error::Capacity(error) => format!("a message over the limit: {error}"),
        error => error.to_string(),
    }
}
