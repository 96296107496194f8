//! One HTTP request to one host, and its answer: no redirects, no cookies, no proxy, nothing kept for the next.
//!
//! What may be asked is decided above, in `serve::http`. Where the answer may come from is decided here: the host is
//! resolved once, each address is checked ([`Gate`]), and what is connected to is an address that was checked, so a name
//! that resolves to something else a moment later changes nothing. Everything is bounded: time, answer, and the requests
//! that are under way in the whole node.

mod dial;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use oa_nips::nostr::types::url::{Position, Url};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::address::{Allowed, Gate};
use super::tls;

#[cfg(test)]
pub(crate) use self::dial::Resolve;
pub(crate) use self::dial::{DialError, Dialer, Stream, SystemResolver};

/// Requests under way at once, in the whole node: each may hold a body and an answer of some megabytes.
const AT_ONCE: usize = 32;
/// Bytes of an answer's status and header lines, and how many of them.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;

/// Asks hosts.
#[derive(Debug)]
pub(crate) struct Client {
    dialer: Dialer,
    permits: Semaphore,
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) url: Url,
    /// All there is but `host` and `content-length`, which follow from the rest.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Bytes of the answer's body that are taken.
    pub(crate) answer_bytes_max: usize,
    pub(crate) deadline: Instant,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// Whether there was more.
    pub(crate) truncated: bool,
}

/// Why nothing came back. No message quotes a URL, a header or a body: they may hold secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("{AT_ONCE} requests are under way already")]
    Busy,
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("no answer in time")]
    TimedOut { sent: bool },
    #[error("the connection broke: {reason}")]
    Broken { reason: &'static str, sent: bool },
}

impl AskError {
    /// Whether the host may have seen the request.
    pub(crate) fn is_sent(&self) -> bool {
        match self {
            Self::Busy | Self::Dial(_) => false,
            Self::TimedOut { sent } | Self::Broken { sent, .. } => *sent,
        }
    }
}

impl Client {
    /// A client that connects as this dialer does.
    pub(crate) fn new(dialer: Dialer) -> Self {
        Self { dialer, permits: Semaphore::new(AT_ONCE) }
    }

    /// A node's client, which besides the public internet reaches the private hosts that its operator listed.
    pub(crate) fn of_node(private: &[String]) -> Self {
        let allowed = private.iter().map(|entry| Allowed::parse(entry)).collect();
        let gate = Gate { allowed, own: Vec::new() };
        Self::new(Dialer::new(gate, Arc::new(SystemResolver), tls::config()))
    }

    /// Whether the operator listed a host, by this name, with this port or with all.
    pub(crate) fn lists(&self, host: &str, port: Option<u16>) -> bool {
        self.dialer.lists(host, port)
    }

    /// A connection to a URL's host, at an address that was checked, for whoever speaks something else over it.
    ///
    /// # Errors
    /// See [`DialError`].
    pub(crate) async fn stream(&self, url: &Url) -> Result<Stream, DialError> {
        self.dialer.dial(url).await
    }

    /// Asks once.
    ///
    /// # Errors
    /// See [`AskError`].
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Answer, AskError> {
        let permit = timeout_at(ask.deadline, self.permits.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return Err(AskError::Busy) };
        let sent = Arc::new(AtomicBool::new(false));
        let deadline = ask.deadline;
        let exchange = timeout_at(deadline, Box::pin(self.exchange(ask, &sent))).await;
        exchange.unwrap_or_else(|_| Err(AskError::TimedOut { sent: sent.load(Ordering::Relaxed) }))
    }

    async fn exchange(&self, ask: Ask, sent: &AtomicBool) -> Result<Answer, AskError> {
        let broken = |error: &hyper::Error| AskError::Broken {
            reason: words(error),
            sent: sent.load(Ordering::Relaxed),
        };
        let stream = self.dialer.dial(&ask.url).await?;
        let shaken = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await;
        let (mut sender, connection) = shaken.map_err(|error| broken(&error))?;
        // Ends with this future, whatever becomes of it.
        let _connection = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::trace!(reason = words(&error), "connection ended");
            }
        }));
        let limit = ask.answer_bytes_max;
        let request = request(ask)?;
        sent.store(true, Ordering::Relaxed);
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        read(response, limit).await.map_err(|error| broken(&error))
    }
}

fn request(ask: Ask) -> Result<Request<Full<Bytes>>, AskError> {
    let wrong = |_| AskError::Broken { reason: "the request cannot be written", sent: false };
    let Ask { method, url, headers, body, .. } = ask;
    let host = &url[Position::BeforeHost..Position::AfterPort];
    let host = HeaderValue::from_str(host).map_err(|error| wrong(error.into()))?;
    let path = &url[Position::BeforePath..Position::AfterQuery];
    let mut request = Request::builder().method(method).uri(path).body(Full::new(body)).map_err(wrong)?;
    *request.headers_mut() = headers;
    request.headers_mut().insert(HOST, host);
    Ok(request)
}

/// Reads an answer, up to a limit.
async fn read(response: Response<Incoming>, limit: usize) -> Result<Answer, hyper::Error> {
    let (head, mut incoming) = response.into_parts();
    let (mut body, mut truncated) = (Vec::new(), false);
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        let room = limit.saturating_sub(body.len());
        body.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
        if data.len() > room {
            truncated = true;
            break;
        }
    }
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, truncated })
}

/// What kind of error it is. Its own words may quote what was sent.
fn words(error: &hyper::Error) -> &'static str {
    if error.is_parse() {
        "the answer is no http, or its head is too large"
    } else if error.is_incomplete_message() || error.is_closed() {
        "closed before the answer was complete"
    } else if error.is_user() {
        "the request cannot be written"
    } else {
        "reset"
    }
}
