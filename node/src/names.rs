//! Whose a name such as `alice@example.com` is: asked of its domain (NIP-05), over TLS, and remembered for a while.
//!
//! A name is somebody else's word for a URL. So it is asked by the client that checks addresses after resolution,
//! follows no redirects, and takes no more than [`DOCUMENT_BYTES_MAX`] bytes within [`DEADLINE`]. Domains that the
//! operator listed for agents' requests may be private, and are asked without TLS first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HeaderMap, HeaderValue};
use oa_nips::nip05::{self, DOCUMENT_BYTES_MAX, DocumentError, Found, Name};
use oa_nips::nostr::types::url::Url;
use tokio::time::Instant;

use crate::drivers::http::{Ask, AskError, Client};

/// For one answer. A call is answered within ten seconds, and something is asked of relays after it.
const DEADLINE: Duration = Duration::from_secs(4);
/// Answers are remembered so long; and so long that there was none.
const KNOWN: Duration = Duration::from_secs(600);
const UNKNOWN: Duration = Duration::from_secs(30);
/// Names remembered; beyond that all are forgotten.
const NAMES_MAX: usize = 1_024;

/// Why nobody knows whose a name is.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LookUpError {
    #[error("its domain cannot be asked: {0}")]
    Ask(Arc<AskError>),
    #[error("its domain answered with status {0}")]
    Status(u16),
    #[error("its domain answered with over {DOCUMENT_BYTES_MAX} bytes")]
    TooLarge,
    #[error("what its domain answered does not tell: {0}")]
    Document(Arc<DocumentError>),
}

type Known = Result<Found, LookUpError>;

/// Looks names up.
#[derive(Debug)]
pub(crate) struct Names {
    http: Arc<Client>,
    known: Mutex<HashMap<Name, (Instant, Known)>>,
}

impl Names {
    pub(crate) fn new(http: Arc<Client>) -> Self {
        Self { http, known: Mutex::default() }
    }

    /// Whose a name is, as its domain said within the last minutes.
    ///
    /// # Errors
    /// See [`LookUpError`].
    pub(crate) async fn look_up(&self, name: &Name) -> Known {
        let now = Instant::now();
        if let Some(known) = self.remembered(name, now) {
            return known;
        }
        let found = self.ask(name).await;
        let lasts = if found.is_ok() { KNOWN } else { UNKNOWN };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= NAMES_MAX {
            known.clear();
        }
        known.insert(name.clone(), (now + lasts, found.clone()));
        found
    }

    /// Whether a look-up would ask nobody now.
    pub(crate) fn remembers(&self, name: &Name) -> bool {
        self.remembered(name, Instant::now()).is_some()
    }

    fn remembered(&self, name: &Name, now: Instant) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(name).filter(|(until, _)| *until > now).map(|(_, known)| known.clone())
    }

    async fn ask(&self, name: &Name) -> Known {
        let deadline = Instant::now() + DEADLINE;
        let (host, port) = name
            .domain()
            .split_once(':')
            .map_or((name.domain(), None), |(host, port)| (host, port.parse().ok()));
        if self.http.lists(host, port) {
            // What does not speak http may speak https.
            match self.ask_by("http", name, deadline).await {
                Err(LookUpError::Ask(_)) => {}
                answered => return answered,
            }
        }
        self.ask_by("https", name, deadline).await
    }

    async fn ask_by(&self, scheme: &str, name: &Name, deadline: Instant) -> Known {
        let place = format!("{scheme}://{}", name.place());
        let url = Url::parse(&place).map_err(|_| {
            let reason = "its domain makes no address";
            LookUpError::Ask(Arc::new(AskError::Broken { reason, sent: false }))
        })?;
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        let ask = Ask {
            method: Method::GET,
            url,
            headers,
            body: Bytes::new(),
            answer_bytes_max: DOCUMENT_BYTES_MAX,
            deadline,
        };
        let answer = self.http.ask(ask).await.map_err(|error| LookUpError::Ask(Arc::new(error)))?;
        // A redirect too: whoever can make a host redirect must not make names there.
        if answer.status != 200 {
            return Err(LookUpError::Status(answer.status));
        }
        if answer.truncated {
            return Err(LookUpError::TooLarge);
        }
        nip05::read(&answer.body, name).map_err(|error| LookUpError::Document(Arc::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use oa_nips::nostr::{Keys, PublicKey};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A domain on loopback that answers every request so, and counts them.
    async fn domain(answer: String) -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let read = socket.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                // A handshake of TLS is no request.
                if head.starts_with("GET /.well-known/nostr.json?name=") {
                    count.fetch_add(1, Ordering::Relaxed);
                    let _ = socket.write_all(answer.as_bytes()).await;
                }
            }
        });
        (port, asked)
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
    }

    fn document(key: &PublicKey) -> String {
        format!(r#"{{"names":{{"bob":"{}"}}}}"#, key.to_hex())
    }

    fn names(private: &[String]) -> Names {
        Names::new(Arc::new(Client::of_node(private)))
    }

    #[tokio::test]
    async fn a_name_is_asked_of_its_domain_once_in_a_while() {
        let key = Keys::generate().public_key();
        let (port, asked) = domain(ok(&document(&key))).await;
        let names = names(&[format!("localhost:{port}")]);
        let bob: Name = format!("Bob@localhost:{port}").parse().unwrap();
        for _ in 0..3 {
            assert_eq!(names.look_up(&bob).await.unwrap().pubkey, key);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let eve: Name = format!("eve@localhost:{port}").parse().unwrap();
        for _ in 0..3 {
            assert!(matches!(names.look_up(&eve).await, Err(LookUpError::Document(_))));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_private_domain_that_nobody_listed_is_never_asked() {
        let (port, asked) = domain(ok(&document(&Keys::generate().public_key()))).await;
        for listed in [Vec::new(), vec![format!("localhost:{}", port.wrapping_add(1).max(1))]] {
            let names = names(&listed);
            for host in ["localhost", "127.0.0.1"] {
                let name: Name = format!("bob@{host}:{port}").parse().unwrap();
                let error = names.look_up(&name).await.unwrap_err();
                assert!(error.to_string().contains("private"), "{error}");
            }
        }
        assert_eq!(asked.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn redirects_and_endless_answers_are_refused() {
        let key = Keys::generate().public_key();
        let (elsewhere, reached) = domain(ok(&document(&key))).await;
        let place = format!("http://localhost:{elsewhere}/.well-known/nostr.json?name=bob");
        let moved = format!("HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n");
        let (port, _) = domain(moved).await;
        let (long, _) = domain(ok(&"x".repeat(DOCUMENT_BYTES_MAX + 1))).await;
        let names = names(&["localhost".to_owned()]);
        let look = async |port: u16| {
            let name: Name = format!("bob@localhost:{port}").parse().unwrap();
            names.look_up(&name).await
        };
        assert!(matches!(look(port).await, Err(LookUpError::Status(302))));
        assert_eq!(reached.load(Ordering::Relaxed), 0);
        assert!(matches!(look(long).await, Err(LookUpError::TooLarge)));
    }
}
