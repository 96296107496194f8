//! Serves a chain: to Esplora clients over HTTP/1.1, or to Electrum clients over TCP. Ends with [`Server::shutdown`], or when it is dropped.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::esplora::{self, Body, Failure};
use super::{Chain, electrum};
use crate::backend::ldk::ChainSource;

/// Most clients at once; the next waits. A wallet keeps about five connections open.
const CONNECTIONS_MAX: usize = 128;

/// Largest transaction that is read, in bytes of its hex: a block's worth.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What is spoken.
#[derive(Debug, Clone, Copy)]
pub(super) enum Protocol {
    Esplora,
    Electrum,
}

/// A chain that listens.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    protocol: Protocol,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Server {
    /// Where clients find it.
    pub fn url(&self) -> String {
        match self.protocol {
            Protocol::Esplora => format!("http://{}", self.address),
            Protocol::Electrum => format!("tcp://{}", self.address),
        }
    }

    /// What a Lightning node is told, to find it.
    pub fn source(&self) -> ChainSource {
        match self.protocol {
            Protocol::Esplora => ChainSource::Esplora { url: self.url() },
            Protocol::Electrum => ChainSource::Electrum { url: self.url() },
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening, lets running answers end, and returns when all is closed.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // It ends by itself; a panic in it was reported where it happened.
            let _ended = task.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Begins to serve `chain` on `address`; port 0 takes a free one.
pub(super) async fn serve(chain: Chain, protocol: Protocol, address: SocketAddr) -> io::Result<Server> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let task = tokio::spawn(accept(listener, chain, protocol, stop.clone()));
    Ok(Server { address, protocol, stop, task: Some(task) })
}

async fn accept(listener: TcpListener, chain: Chain, protocol: Protocol, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let permit = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            permit = Arc::clone(&permits).acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (chain, stop) = (chain.clone(), stop.clone());
                connections.spawn(async move {
                    match protocol {
                        Protocol::Esplora => connection(stream, chain, stop).await,
                        Protocol::Electrum => electrum::connection(stream, chain, stop).await,
                    }
                    drop(permit);
                });
            }
            Err(error) => tracing::warn!(%error, "cannot accept a connection"),
        }
        while connections.try_join_next().is_some() {}
    }
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, chain: Chain, stop: CancellationToken) {
    // Answers are small and waited for; without this each would be held back for 40 ms.
    let _best_effort = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(chain.clone(), request));
    let mut connection =
        std::pin::pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        ended = connection.as_mut() => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client of the chain went away");
    }
}

async fn answer(chain: Chain, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = if request.method() == Method::GET {
        esplora::get(&chain.lock(), request.uri().path())
    } else if request.method() == Method::POST && request.uri().path() == "/tx" {
        match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
            Ok(body) => esplora::broadcast(&mut chain.lock(), &String::from_utf8_lossy(&body.to_bytes())),
            Err(error) => Err(Failure::Bad(error.to_string())),
        }
    } else {
        Err(Failure::NotFound)
    };
    let (status, kind, bytes) = match answer {
        Ok(Body::Text(text)) => (StatusCode::OK, "text/plain", text.into_bytes()),
        Ok(Body::Json(value)) => (StatusCode::OK, "application/json", value.to_string().into_bytes()),
        Ok(Body::Bytes(bytes)) => (StatusCode::OK, "application/octet-stream", bytes),
        Err(Failure::NotFound) => (StatusCode::NOT_FOUND, "text/plain", b"not found".to_vec()),
        Err(Failure::Bad(why)) => (StatusCode::BAD_REQUEST, "text/plain", why.into_bytes()),
    };
    let mut response = Response::new(Full::new(Bytes::from(bytes)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    Ok(response)
}
