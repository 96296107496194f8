//! One websocket: dialled, kept, dialled again. Ends when it is dropped.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use oa_nips::nostr::types::url::Url;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error as SocketError, Message as Frame};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::buffer::{Buffer, Message, Pace};
use super::{Arrival, MESSAGE_BYTES_MAX, SendError, Stage, Status, Wanted};
use crate::agent::AgentId;
use crate::drivers::http::{Client, DialError, Stream};
use crate::secrets::fill::{self, fill};
use crate::secrets::redact::Redactor;
use crate::secrets::{Secret, Vault};
use crate::tenure::Tenure;
use crate::time::Time;

/// For connecting and the handshake together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// For one message to be handed to the kernel.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// The first wait before dialling again, doubled each time up to the longest.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(300);
/// A connection that lasted so long makes the next wait a first one again.
const STABLE: Duration = Duration::from_secs(60);
/// How often the other side is asked for a sign of life, and how long it may give none.
const PING_EVERY: Duration = Duration::from_secs(30);
const SILENCE_MAX: Duration = Duration::from_secs(75);
/// A full inbox is tried again after this.
const FULL_AGAIN: Duration = Duration::from_millis(200);

/// What is to be sent, and who waits to hear of it.
pub(super) type Order = (Message, oneshot::Sender<Result<(), SendError>>);

/// The parts of a link.
pub(super) struct Link {
    pub(super) agent: AgentId,
    /// The agent's name, by which it may use secrets.
    pub(super) name: String,
    pub(super) id: String,
    pub(super) wanted: Wanted,
    pub(super) url: Url,
    pub(super) per_minute: u32,
    pub(super) client: Arc<Client>,
    pub(super) vault: Arc<Vault>,
    pub(super) status: Arc<Status>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) arrivals: mpsc::Sender<Arrival>,
    pub(super) tenure: Tenure,
    pub(super) time: Arc<dyn Time>,
}

/// Why a websocket is not there. No message quotes a header: they may hold secrets.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("no connection in time")]
    TimedOut,
    #[error("the secret {0:?} is not there, or not for this host and agent")]
    Secret(String),
    #[error("the headers cannot be sent")]
    Headers,
    #[error("secrets cannot be read now")]
    Vault,
    #[error("it is no websocket: {0}")]
    Handshake(&'static str),
    #[error("{0}")]
    Ended(&'static str),
}

type Socket = WebSocketStream<Stream>;

impl Link {
    pub(super) async fn run(mut self) {
        let mut wait = WAIT_MIN;
        let mut buffer = Buffer::new(self.per_minute, self.time.now_ms());
        let mut sending = Pace::new(self.per_minute, self.time.now_ms());
        loop {
            // Whoever does not act under the key opens nothing in its name.
            self.tenure.begins().await;
            self.status.stage(Stage::Dialling, None);
            let error = match timeout(DIAL_TIMEOUT, self.dial()).await {
                Ok(Ok((socket, redactor))) => {
                    let began = Instant::now();
                    self.status.stage(Stage::Connected, None);
                    let ended = self.serve(socket, &redactor, &mut buffer, &mut sending).await;
                    if began.elapsed() >= STABLE {
                        wait = WAIT_MIN;
                    }
                    ended
                }
                Ok(Err(error)) => error,
                Err(_) => LinkError::TimedOut,
            };
            tracing::debug!(agent = self.name, id = self.id, %error, "websocket ended");
            self.status.stage(Stage::Waiting, Some(error.to_string()));
            self.pause(wait, &mut buffer).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    /// Waits before the next dial. What had come goes on to the agent; what is to be sent is not.
    async fn pause(&mut self, wait: Duration, buffer: &mut Buffer) {
        let until = Instant::now() + wait;
        loop {
            let due = self.due(buffer);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until) => return,
                order = self.orders.recv() => {
                    let Some((_, told)) = order else { return };
                    let _ = told.send(Err(SendError::NotConnected));
                }
                () = due => self.hand_on(buffer).await,
            }
        }
    }

    async fn dial(&self) -> Result<(Socket, Redactor), LinkError> {
        let secrets = self.vault.of_agent(&self.name).await.map_err(|_| LinkError::Vault)?;
        let scheme = if self.url.scheme() == "https" { "wss" } else { "ws" };
        let place = self.url.as_str().split_once("://").map(|(_, place)| format!("{scheme}://{place}"));
        let mut request =
            place.unwrap_or_default().into_client_request().map_err(|error| handshake(&error))?;
        let mut used = Vec::new();
        for (name, text) in &self.wanted.headers {
            let value = self.fill(text, &secrets, &mut used)?;
            let name = HeaderName::try_from(name).map_err(|_| LinkError::Headers)?;
            let mut value = HeaderValue::try_from(value).map_err(|_| LinkError::Headers)?;
            value.set_sensitive(fill::names(text).next().is_some());
            request.headers_mut().insert(name, value);
        }
        let stream = self.client.stream(&self.url).await?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let shaken = Box::pin(client_async_with_config(request, stream, Some(config))).await;
        let (socket, _) = shaken.map_err(|error| handshake(&error))?;
        Ok((socket, Redactor::new(&used)))
    }

    fn fill(&self, text: &str, secrets: &[Secret], used: &mut Vec<Secret>) -> Result<String, LinkError> {
        let find = |name: &str| {
            secrets.iter().find(|secret| secret.name == name && secret.covers(&self.url)).cloned()
        };
        used.extend(fill::names(text).filter_map(find));
        fill(text, |name| find(name).map(|secret| secret.reveal().to_owned()))
            .map_err(|name| LinkError::Secret(name.to_owned()))
    }

    /// Until the next message has its turn; for ever when none waits.
    fn due(&self, buffer: &mut Buffer) -> impl Future<Output = ()> + use<> {
        let due_ms = buffer.due_in_ms(self.time.now_ms());
        async move {
            match due_ms {
                // Not a timer: one that is made anew with each frame would never go off under a flood.
                Some(0) => {}
                Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Hands on what has its turn, unless the node has too much to do.
    async fn hand_on(&self, buffer: &mut Buffer) {
        let Ok(permit) = self.arrivals.try_reserve() else { return tokio::time::sleep(FULL_AGAIN).await };
        if let Some((message, missed)) = buffer.pop(self.time.now_ms()) {
            let (agent, id, status) = (self.agent, self.id.clone(), self.status.clone());
            permit.send(Arrival { agent, id, message, missed, status });
        }
    }

    /// Serves a connection to its end.
    async fn serve(
        &mut self,
        mut socket: Socket,
        redactor: &Redactor,
        buffer: &mut Buffer,
        sending: &mut Pace,
    ) -> LinkError {
        let (mut ping, mut heard) = (tokio::time::interval(PING_EVERY), Instant::now());
        loop {
            let due = self.due(buffer);
            tokio::select! {
                biased;
                order = self.orders.recv() => {
                    let Some((message, told)) = order else { return LinkError::Ended("it was closed") };
                    if !sending.take(self.time.now_ms()) {
                        let _ = told.send(Err(SendError::TooOften));
                        continue;
                    }
                    let sent = send(&mut socket, message).await;
                    let is_over = sent.is_err();
                    let _ = told.send(sent);
                    if is_over {
                        return LinkError::Ended("it broke while something was sent");
                    }
                    self.status.sent();
                }
                () = due => self.hand_on(buffer).await,
                frame = socket.next() => {
                    heard = Instant::now();
                    match frame {
                        Some(Ok(frame)) => {
                            let Some(message) = message(frame, redactor) else { continue };
                            let refused = buffer.push(message);
                            self.status.refused(&self.name, &self.id, refused);
                        }
                        Some(Err(error)) => return handshake(&error),
                        None => return LinkError::Ended("the other side closed it"),
                    }
                }
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return LinkError::Ended("the other side gives no sign of life");
                    }
                    let sent = timeout(SEND_TIMEOUT, socket.send(Frame::Ping(Bytes::new()))).await;
                    if !matches!(sent, Ok(Ok(()))) {
                        return LinkError::Ended("it broke");
                    }
                }
            }
        }
    }
}

async fn send(socket: &mut Socket, message: Message) -> Result<(), SendError> {
    let frame = match message {
        Message::Text(text) => Frame::text(text),
        Message::Binary(bytes) => Frame::binary(bytes),
    };
    match timeout(SEND_TIMEOUT, socket.send(frame)).await {
        Ok(Ok(())) => Ok(()),
        // Some of it may have left.
        Ok(Err(_)) | Err(_) => Err(SendError::Unknown),
    }
}

/// What the agent hears of a frame, rid of the secrets that went out with the handshake.
fn message(frame: Frame, redactor: &Redactor) -> Option<Message> {
    match frame {
        Frame::Text(text) => Some(Message::Text(redactor.text(&text))),
        Frame::Binary(bytes) => Some(Message::Binary(redactor.bytes(bytes.to_vec()))),
        _ => None,
    }
}

/// What kind of error it is; its own words may quote headers.
fn handshake(error: &SocketError) -> LinkError {
    LinkError::Handshake(match error {
        SocketError::Http(_) => "the host answered with another status than 101",
        SocketError::HttpFormat(_) | SocketError::Url(_) => "the request cannot be written",
        SocketError::Protocol(_) | SocketError::Utf8 => "the host does not keep to the protocol",
        SocketError::Capacity(_) => "a message was over 64 KiB",
        SocketError::ConnectionClosed | SocketError::AlreadyClosed => "it was closed",
        SocketError::Io(_) | SocketError::Tls(_) => "the connection broke",
        _ => "the connection ended",
    })
}
