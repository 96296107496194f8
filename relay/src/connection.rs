//! The life of one accepted socket: a request head within a deadline, an answer, perhaps a websocket session, and a
//! goodbye the client gets to see. The accept loop spawns one [`serve`] per socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nostr_relay_builder::LocalRelay;
use oa_nips::nostr::{JsonUtil, RelayMessage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::bundle::Bundle;
use crate::http::{Parsed, Refusal, Reply, parse, route};
use crate::session::{self, CloseCode, End, Gate, Inbox, close_frame, text_frame};
use crate::store::Published;

/// Time for a request head to arrive. Sockets that say nothing hold a place for this long at most.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Time for the last bytes to go out, and then for the client to stop sending. A socket closed with unread input is
/// reset, and a reset can overtake the goodbye.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(1);

/// What all connections of a relay share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) relay: LocalRelay,
    pub(crate) published: Published,
    pub(crate) message_bytes_max: u64,
    /// The NIP-11 document.
    pub(crate) info: String,
    /// What is served besides.
    pub(crate) bundle: Bundle,
}

/// Whether there is a place for a connection; one without gets a 503.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Free,
    Full,
}

/// Serves one socket to its end; ends early, with a goodbye, on `stop`.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    mut socket: TcpStream,
    peer: SocketAddr,
    place: Place,
    stop: CancellationToken,
) {
    let mut inbox = Inbox::new();
    let reply = tokio::select! {
        biased;
        () = stop.cancelled() => return,
        reply = answer(&mut socket, &mut inbox, &shared.bundle) => reply,
    };
    let reply = match (reply, place) {
        (None, _) => return,
        (Some(_), Place::Full) => Reply::Full,
        (Some(reply), Place::Free) => reply,
    };
    let bytes = reply.bytes(&shared.info);
    if !matches!(reply, Reply::Switch { .. }) {
        tracing::debug!(?reply, "answered a plain request");
        return say_goodbye(socket, &bytes).await;
    }
    if !matches!(timeout(GOODBYE_DEADLINE, socket.write_all(&bytes)).await, Ok(Ok(()))) {
        return;
    }
    let mut gate = Gate::new(socket, inbox, shared.message_bytes_max);
    let end = session::run(&shared.relay, &mut gate, peer, &shared.published, &stop).await;
    tracing::debug!(?end, "session ended");
    if let Some(bytes) = last_words(&end) {
        say_goodbye(gate.into_socket(), &bytes).await;
    }
}

/// Reads a request head and decides what it gets; `None` when the client left without one.
async fn answer(socket: &mut TcpStream, inbox: &mut Inbox, bundle: &Bundle) -> Option<Reply> {
    let head = timeout(HEAD_DEADLINE, async {
        loop {
            match parse(inbox.bytes()) {
                Ok(Parsed::Complete(head, count)) => {
                    inbox.consume(count);
                    return Some(route(&head, bundle));
                }
                Ok(Parsed::Incomplete) => {}
                Err(error) => return Some(Reply::Refuse(Refusal::Head(error))),
            }
            match std::future::poll_fn(|cx| inbox.poll_fill(socket, cx)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    });
    head.await.unwrap_or(Some(Reply::Refuse(Refusal::TooSlow)))
}

/// The frames that tell a client why its session ended; `None` when there is no one to tell.
fn last_words(end: &End) -> Option<Vec<u8>> {
    let (notice, code, reason) = match end {
        End::Gone => return None,
        // relay-builder answered the client's close frame already.
        End::Closed => return Some(Vec::new()),
        End::ShuttingDown => (None, CloseCode::GoingAway, "the relay shuts down"),
        End::Behind => {
            (None, CloseCode::TryAgain, "fell behind and may have missed events: reconnect and sync")
        }
        End::TooLarge => {
            (Some("invalid: message too large".to_owned()), CloseCode::TooLarge, "message too large")
        }
        End::Failed(reason) => {
            (Some(format!("error: {reason}")), CloseCode::Policy, "message not understood")
        }
    };
    let mut bytes = notice.map(|text| text_frame(&RelayMessage::notice(text).as_json())).unwrap_or_default();
    bytes.extend(close_frame(code, reason));
    Some(bytes)
}

/// Sends the last bytes, ends the stream, and waits a moment for the client to end it too.
async fn say_goodbye(mut socket: TcpStream, bytes: &[u8]) {
    let sent = timeout(GOODBYE_DEADLINE, async {
        socket.write_all(bytes).await?;
        socket.shutdown().await
    });
    if !matches!(sent.await, Ok(Ok(()))) {
        return;
    }
    let mut ignored = [0; 4096];
    let drained = timeout(GOODBYE_DEADLINE, async { while let Ok(1..) = socket.read(&mut ignored).await {} });
    if drained.await.is_err() {
        tracing::debug!("client went on sending after the goodbye");
    }
}
