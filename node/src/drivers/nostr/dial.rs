//! Reaches relays: resolves, checks each address, connects to the very address that was checked, and speaks TLS
//! and websocket over it.
//!
//! The operator's own relays may be anywhere; a relay that others named only where [`Gate`] admits.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use oa_nips::nostr::RelayUrl;
use oa_nips::nostr::types::url::{Host, Url};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use crate::drivers::address::Gate;
use crate::drivers::tls;

/// Addresses of one host that are tried, one after the other.
const ADDRESSES_MAX: usize = 4;
/// For one address to accept; then the next one has its turn.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// What tungstenite reads at once, and zeroes before each read: small, since most messages are.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// A websocket, in clear or over TLS.
pub(super) type WebSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why a relay was not reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("the url names no host")]
    NoHost,
    #[error("cannot resolve its name: {0}")]
    Resolve(#[source] io::Error),
    #[error("its name has no address")]
    NoAddress,
    /// Asking again will hardly help.
    #[error("its address is private, and the operator has not listed it")]
    Forbidden,
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("no websocket there: {0}")]
    Handshake(#[source] Box<tokio_tungstenite::tungstenite::Error>),
    #[error("cannot set up tls: {0}")]
    Tls(#[source] rustls::Error),
    #[error("no connection within {0:?}")]
    TimedOut(Duration),
}

/// Whose relay it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// The operator configured it.
    Own,
    /// Somebody named it.
    Foreign,
}

/// Dials relays.
#[derive(Debug)]
pub(super) struct Dialer {
    gate: Gate,
    tls: Result<Arc<ClientConfig>, rustls::Error>,
    message_bytes_max: usize,
    deadline: Duration,
}

impl Dialer {
    /// Messages over `message_bytes_max` end a connection; a dial takes `deadline` at most, in all.
    pub(super) fn new(gate: Gate, message_bytes_max: usize, deadline: Duration) -> Self {
        Self { gate, tls: tls::config(), message_bytes_max, deadline }
    }

    /// Connects.
    ///
    /// # Errors
    /// The last address's, when several were tried.
    pub(super) async fn dial(&self, url: &RelayUrl, whose: Whose) -> Result<WebSocket, DialError> {
        let whole = Instant::now() + self.deadline;
        let dialled = timeout_at(whole, Box::pin(self.dial_whole(url, whose))).await;
        dialled.unwrap_or(Err(DialError::TimedOut(self.deadline)))
    }

    async fn dial_whole(&self, url: &RelayUrl, whose: Whose) -> Result<WebSocket, DialError> {
        let url: &Url = url.into();
        let (host, addresses) = resolve(url).await?;
        let mut admitted = addresses;
        if admitted.is_empty() {
            return Err(DialError::NoAddress);
        }
        if whose == Whose::Foreign {
            admitted.retain(|address| self.gate.admits(&host, *address));
        }
        let mut failed = DialError::Forbidden;
        for address in admitted.into_iter().take(ADDRESSES_MAX) {
            match connect(address).await {
                Ok(stream) => return self.handshake(url, stream).await,
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn handshake(&self, url: &Url, stream: TcpStream) -> Result<WebSocket, DialError> {
        let tls = self.tls.clone().map_err(DialError::Tls)?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .max_message_size(Some(self.message_bytes_max))
            .max_frame_size(Some(self.message_bytes_max));
        let connector = match url.scheme() {
            "wss" => Connector::Rustls(tls),
            _ => Connector::Plain,
        };
        let shaken = client_async_tls_with_config(url.as_str(), stream, Some(config), Some(connector));
        let (socket, _) = Box::pin(shaken).await.map_err(|error| DialError::Handshake(Box::new(error)))?;
        Ok(socket)
    }
}

/// The host's name and its addresses. A host that is an address is not looked up.
async fn resolve(url: &Url) -> Result<(String, Vec<SocketAddr>), DialError> {
    let port = url.port_or_known_default().ok_or(DialError::NoHost)?;
    match url.host().ok_or(DialError::NoHost)? {
        Host::Ipv4(ip) => Ok((ip.to_string(), vec![SocketAddr::new(IpAddr::V4(ip), port)])),
        Host::Ipv6(ip) => Ok((ip.to_string(), vec![SocketAddr::new(IpAddr::V6(ip), port)])),
        Host::Domain(name) => {
            let found = tokio::net::lookup_host((name, port)).await.map_err(DialError::Resolve)?;
            Ok((name.to_owned(), found.collect()))
        }
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, DialError> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| DialError::TimedOut(CONNECT_TIMEOUT))?
        .map_err(DialError::Connect)?;
    stream.set_nodelay(true).map_err(DialError::Connect)?;
    Ok(stream)
}

/// The address of a URL whose host is one.
pub(super) fn literal_address(url: &RelayUrl) -> Option<SocketAddr> {
    let url: &Url = url.into();
    let ip = match url.host()? {
        Host::Ipv4(ip) => IpAddr::V4(ip),
        Host::Ipv6(ip) => IpAddr::V6(ip),
        Host::Domain(_) => return None,
    };
    Some(SocketAddr::new(ip, url.port_or_known_default()?))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn dialer(gate: Gate) -> Dialer {
        Dialer::new(gate, 1 << 20, Duration::from_secs(5))
    }

    #[tokio::test]
    async fn a_private_address_is_refused_without_a_packet() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in
            ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1", "0x7f000001"]
        {
            let url = RelayUrl::parse(&format!("ws://{host}:{port}")).unwrap();
            let error = dialer(Gate::default()).dial(&url, Whose::Foreign).await.unwrap_err();
            assert!(matches!(error, DialError::Forbidden), "{host}: {error}");
        }
        let accepted = timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(accepted.is_err(), "somebody connected");
    }

    #[tokio::test]
    async fn a_listed_host_is_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = RelayUrl::parse(&format!("ws://localhost:{port}")).unwrap();
        let gate = Gate { own: vec![SocketAddr::from(([127, 0, 0, 1], port))], ..Gate::default() };
        let dialer = dialer(gate);
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            tokio_tungstenite::accept_async(stream).await.map(drop)
        };
        let (dialled, served) = tokio::join!(dialer.dial(&url, Whose::Foreign), server);
        assert!(dialled.is_ok(), "{dialled:?}");
        assert!(served.is_ok());
    }

    #[tokio::test]
    async fn a_server_without_tls_is_an_error_of_the_handshake() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = RelayUrl::parse(&format!("wss://{}", listener.local_addr().unwrap())).unwrap();
        let dialer = dialer(Gate::default());
        let server = async { listener.accept().await.map(drop) };
        let (dialled, _) = tokio::join!(dialer.dial(&url, Whose::Own), server);
        assert!(matches!(dialled, Err(DialError::Handshake(_))), "{dialled:?}");
    }
}
