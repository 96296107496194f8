//! Connects to the host of a URL: resolves, checks each address, and speaks TLS to one that passed.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use oa_nips::nostr::types::url::{Host, Url};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::drivers::address::Gate;

/// Addresses of one host that are tried, one after the other.
const ADDRESSES_MAX: usize = 4;
/// For one address to accept; then the next one has its turn.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// Why a host was not reached. No message says more of it than what is wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("the url names no host")]
    NoHost,
    #[error("its name cannot be resolved")]
    Resolve(#[source] io::Error),
    #[error("its name has no address")]
    NoAddress,
    #[error("its address is private, and the operator has not listed it")]
    Private,
    #[error("http without tls is only for hosts that the operator has listed")]
    InClear,
    #[error("it cannot be connected to: {}", .0.kind())]
    Connect(#[source] io::Error),
    #[error("tls cannot be set up")]
    Tls(#[source] rustls::Error),
    #[error("it does not speak tls, or its certificate does not hold: {0}")]
    Handshake(#[source] io::Error),
}

/// Finds the addresses of names.
pub(crate) trait Resolve: Debug + Send + Sync {
    /// The addresses of `host`, each with `port`.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// Connects to hosts.
#[derive(Debug)]
pub(crate) struct Dialer {
    gate: Gate,
    resolver: Arc<dyn Resolve>,
    tls: Result<Arc<ClientConfig>, rustls::Error>,
}

impl Dialer {
    /// A dialer that goes where the gate admits. Without TLS only what the operator listed is reached: others' answers
    /// would be anybody's on the way.
    pub(crate) fn new(
        gate: Gate,
        resolver: Arc<dyn Resolve>,
        tls: Result<Arc<ClientConfig>, rustls::Error>,
    ) -> Self {
        Self { gate, resolver, tls }
    }

    /// Whether the operator listed a host by its name.
    pub(super) fn lists(&self, host: &str, port: Option<u16>) -> bool {
        self.gate.names(host, port)
    }

    /// Connects.
    ///
    /// # Errors
    /// The last address's, when several were tried.
    pub(super) async fn dial(&self, url: &Url) -> Result<Stream, DialError> {
        let (host, addresses) = self.resolve(url).await?;
        if addresses.is_empty() {
            return Err(DialError::NoAddress);
        }
        let is_clear = url.scheme() != "https";
        let may = |address: &SocketAddr| {
            if is_clear { self.gate.lists(&host, *address) } else { self.gate.admits(&host, *address) }
        };
        let mut failed = if is_clear { DialError::InClear } else { DialError::Private };
        for address in addresses.into_iter().filter(may).take(ADDRESSES_MAX) {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) if is_clear => return Ok(Stream::Clear(stream)),
                Ok(Ok(stream)) => return self.handshake(url, stream).await,
                Ok(Err(error)) => failed = DialError::Connect(error),
                Err(_) => failed = DialError::Connect(io::ErrorKind::TimedOut.into()),
            }
        }
        Err(failed)
    }

    /// The host's name and its addresses. A host that is an address is not looked up.
    async fn resolve(&self, url: &Url) -> Result<(String, Vec<SocketAddr>), DialError> {
        let port = url.port_or_known_default().ok_or(DialError::NoHost)?;
        let ip = match url.host().ok_or(DialError::NoHost)? {
            Host::Domain(name) => {
                let found = self.resolver.resolve(name, port).await.map_err(DialError::Resolve)?;
                return Ok((name.to_owned(), found));
            }
            Host::Ipv4(ip) => IpAddr::V4(ip),
            Host::Ipv6(ip) => IpAddr::V6(ip),
        };
        Ok((ip.to_string(), vec![SocketAddr::new(ip, port)]))
    }

    async fn handshake(&self, url: &Url, stream: TcpStream) -> Result<Stream, DialError> {
        let tls = self.tls.clone().map_err(DialError::Tls)?;
        let name = match url.host().ok_or(DialError::NoHost)? {
            Host::Domain(name) => ServerName::try_from(name.to_owned()).map_err(|_| DialError::NoHost)?,
            Host::Ipv4(ip) => ServerName::IpAddress(IpAddr::V4(ip).into()),
            Host::Ipv6(ip) => ServerName::IpAddress(IpAddr::V6(ip).into()),
        };
        let shaken = TlsConnector::from(tls).connect(name, stream).await.map_err(DialError::Handshake)?;
        Ok(Stream::Tls(Box::new(shaken)))
    }
}

/// A connection, in clear or over TLS.
#[derive(Debug)]
pub(crate) enum Stream {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_write(cx, from),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, from),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
