//! The handle: starts a relay, owns all its tasks, ends them. One accept loop, one task per socket.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nostr_relay_builder::builder::RateLimit;
use nostr_relay_builder::{LocalRelay, RelayBuilder};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::config::{Config, Limits, StoreConfig};
use crate::connection::{self, Place, Shared};
use crate::http;
use crate::policy::Policy;
use crate::store::{OpenError, Published, Store};

/// Connections the kernel holds until we accept them. 1,024: a fleet that reconnects after a restart.
const BACKLOG: u32 = 1024;

/// Connections over the limit that are being told so. Beyond that they are closed without a word.
const REFUSALS_MAX: usize = 64;

/// Pause after a failed accept, which mostly means that the process is out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How long `shutdown` waits for sessions to finish the message in hand.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another program listens there.
    #[error("address {addr} is already in use")]
    AddressInUse { addr: SocketAddr },
    /// The address cannot be listened on: not ours, not allowed.
    #[error("cannot listen on {addr}")]
    Bind { addr: SocketAddr, source: io::Error },
    /// The store's directory or files cannot be created or written.
    #[error("cannot write to the relay's store {}", path.display())]
    StoreUnwritable { path: PathBuf, source: io::Error },
    /// The store's files are no database. They were left as they are.
    #[error("the relay's store {} is damaged", path.display())]
    StoreCorrupt { path: PathBuf, source: Box<dyn Error + Send + Sync> },
    /// The store was written by a newer version. It was left as it is.
    #[error("the relay's store {} was written by a newer version", path.display())]
    StoreNewer { path: PathBuf, source: Box<dyn Error + Send + Sync> },
    /// The store cannot be opened for another reason, such as no memory to map it.
    #[error("cannot open the relay's store {}", path.display())]
    Store { path: PathBuf, source: Box<dyn Error + Send + Sync> },
}

/// A running relay. Clones are handles to the same one; dropping the last aborts its tasks.
#[derive(Clone)]
pub struct Relay {
    inner: Arc<Inner>,
}

struct Inner {
    local_addr: SocketAddr,
    tasks: TaskTracker,
    /// Asks tasks to finish.
    stop: CancellationToken,
    /// Drops them where they are.
    kill: CancellationToken,
}

impl Relay {
    /// Starts a relay; it accepts connections when this returns. Needs a tokio runtime.
    pub async fn start(config: Config) -> Result<Relay, StartError> {
        let Config { listen, store, limits, bundle } = config;
        // The address first: a second `start` on it must not touch the first one's store.
        let (listener, local_addr) = bind(listen)?;
        let published = Published::default();
        let store = open_store(store, limits.clone(), published.clone()).await?;
        let accept = Accept {
            shared: Arc::new(Shared {
                relay: builder(&limits, store, published.clone()),
                published,
                message_bytes_max: limits.message_bytes_max,
                info: http::document(&limits),
                bundle,
            }),
            places: Arc::new(Semaphore::new(limits.connections_max.min(Semaphore::MAX_PERMITS))),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
        };
        let (tasks, stop, kill) = (accept.tasks.clone(), accept.stop.clone(), accept.kill.clone());
        tasks.spawn(accept.run(listener).instrument(tracing::info_span!("relay", %local_addr)));
        tracing::info!(%local_addr, "relay listening");
        Ok(Relay { inner: Arc::new(Inner { local_addr, tasks, stop, kill }) })
    }

    /// The address the relay listens on, with the port it got.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr
    }

    /// The relay's URL for programs on this machine, `ws://127.0.0.1:7447`. A relay that listens on all addresses
    /// is reached here by the loopback one.
    pub fn url(&self) -> String {
        let mut addr = self.inner.local_addr;
        if addr.ip().is_unspecified() {
            addr.set_ip(match addr.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("ws://{addr}")
    }

    /// Whether anyone who can connect may read the gift wraps (kind 1059) of everyone: who gets mail, when and how
    /// much; never what it says.
    ///
    /// It is so because relay-builder's gate (`auth_dm`) authenticates one key a connection, while a node receives
    /// for many, and a filter without `kinds` slips past it. Who listens on more than loopback should be told.
    pub const fn serves_wraps_to_anyone() -> bool {
        true
    }

    /// Ends the relay for all handles: it stops accepting and frees its port, lets each session answer the message
    /// in hand, and closes it with code 1001. What is not done after 5 s is dropped. What got an OK is on disk
    /// already.
    pub async fn shutdown(self) {
        let Inner { tasks, stop, kill, .. } = &*self.inner;
        stop.cancel();
        tasks.close();
        if tokio::time::timeout(SHUTDOWN_GRACE, tasks.wait()).await.is_err() {
            tracing::warn!(left = tasks.len(), "connections outlived the grace period");
            kill.cancel();
            tasks.wait().await;
        }
        tracing::info!("relay stopped");
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.close();
        self.kill.cancel();
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("local_addr", &self.inner.local_addr).finish_non_exhaustive()
    }
}

/// Binds with address reuse, so that a restart does not wait for connections of the last run to time out.
fn bind(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listen = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Elsewhere than on Unix the same option lets two programs share a port.
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        let listener = socket.listen(BACKLOG)?;
        let local_addr = listener.local_addr()?;
        Ok((listener, local_addr))
    };
    listen().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::AddressInUse { addr },
        _ => StartError::Bind { addr, source },
    })
}

async fn open_store(
    config: StoreConfig,
    limits: Limits,
    published: Published,
) -> Result<Arc<Store>, StartError> {
    let path = match &config {
        StoreConfig::Memory => PathBuf::new(),
        StoreConfig::Lmdb(path) => path.clone(),
    };
    let opened = tokio::task::spawn_blocking(move || Store::open(&config, &limits, published)).await;
    match opened {
        Ok(Ok(store)) => Ok(Arc::new(store)),
        Ok(Err(OpenError::Unwritable(source))) => Err(StartError::StoreUnwritable { path, source }),
        Ok(Err(OpenError::Corrupt(source))) => Err(StartError::StoreCorrupt { path, source }),
        Ok(Err(OpenError::Newer(source))) => Err(StartError::StoreNewer { path, source }),
        Ok(Err(OpenError::Other(source))) => Err(StartError::Store { path, source }),
        Err(panicked) => Err(StartError::Store { path, source: Box::new(panicked) }),
    }
}

/// relay-builder's part. Its own `run` is never called, so it opens no socket; its connection limit and its gate for
/// gift wraps stay off.
fn builder(limits: &Limits, store: Arc<Store>, published: Published) -> LocalRelay {
    let policy = Policy { limits: limits.clone(), store: Arc::clone(&store), published };
    let builder = RelayBuilder::default()
        .database(store)
        .rate_limit(RateLimit {
            max_reqs: limits.subscriptions_per_connection_max,
            notes_per_minute: limits.events_per_minute_max,
        })
        .max_subid_length(http::SUBSCRIPTION_ID_MAX)
        .max_filter_limit(limits.filter_limit_max)
        .default_filter_limit(limits.filter_limit_max)
        .write_policy(policy);
    LocalRelay::new(builder)
}

/// The accept loop.
struct Accept {
    shared: Arc<Shared>,
    /// A permit for each connection served.
    places: Arc<Semaphore>,
    /// A permit for each connection told that there is no place.
    refusals: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
    kill: CancellationToken,
}

impl Accept {
    async fn run(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.kill.cancelled() => return,
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => self.take(socket, peer),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::select! {
                        biased;
                        () = self.kill.cancelled() => return,
                        () = self.stop.cancelled() => return,
                        () = tokio::time::sleep(ACCEPT_RETRY) => {}
                    }
                }
            }
        }
    }

    /// Spawns the connection's task, which carries its permit.
    fn take(&self, socket: TcpStream, peer: SocketAddr) {
        let (place, permit) = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(permit) => (Place::Free, permit),
            Err(_) => match Arc::clone(&self.refusals).try_acquire_owned() {
                Ok(permit) => (Place::Full, permit),
                Err(_) => {
                    tracing::warn!(%peer, "too many connections to refuse them one by one");
                    return;
                }
            },
        };
        if let Err(error) = tune(&socket) {
            tracing::debug!(%peer, %error, "cannot tune a socket");
        }
        let (shared, stop, kill) = (Arc::clone(&self.shared), self.stop.clone(), self.kill.clone());
        let serve = async move {
            let _permit = permit;
            tokio::select! {
                biased;
                () = kill.cancelled() => {}
                () = Box::pin(connection::serve(shared, socket, peer, place, stop)) => {}
            }
        };
        self.tasks.spawn(serve.instrument(tracing::debug_span!("connection", %peer)));
    }
}

/// Small answers go out at once (Nagle would hold a REQ's for 40 ms), and a peer that vanished without a word is
/// noticed within two minutes.
fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt;
        sockopt::set_socket_keepalive(socket, true)?;
        sockopt::set_tcp_keepidle(socket, Duration::from_secs(60))?;
        sockopt::set_tcp_keepintvl(socket, Duration::from_secs(15))?;
        sockopt::set_tcp_keepcnt(socket, 4)?;
    }
    Ok(())
}
