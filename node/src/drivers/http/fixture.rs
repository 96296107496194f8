//! Hosts that are made up: a resolver that says what it is told, and a server that answers what it is told.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::Resolve;
use crate::drivers::tls;

/// Names and what they resolve to, look-up by look-up; the last answer stays.
#[derive(Debug, Default)]
pub(crate) struct Names {
    answers: Mutex<BTreeMap<String, VecDeque<Vec<IpAddr>>>>,
    /// What was looked up.
    pub(crate) asked: Mutex<Vec<String>>,
}

impl Names {
    /// These names, each with its answers.
    pub(crate) fn new(names: &[(&str, &[&[&str]])]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|ip| ip.parse().unwrap()).collect();
        let line =
            |(name, answers): &(&str, &[&[&str]])| ((*name).to_owned(), answers.iter().map(parse).collect());
        Arc::new(Self { answers: Mutex::new(names.iter().map(line).collect()), asked: Mutex::default() })
    }
}

impl Resolve for Names {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.asked.lock().unwrap().push(host.to_owned());
        let mut all = self.answers.lock().unwrap();
        let answer = all.get_mut(host).and_then(|answers| {
            if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }
        });
        let answer = answer.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        let with_port = move |ips: Vec<IpAddr>| ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        Box::pin(async move { answer.map(with_port) })
    }
}

/// Answers a request, head and body as they came; or never.
type Answer = Arc<dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync>;

/// A server of one connection a request.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    /// Listens on an address of this machine: port 0 for any.
    pub(crate) async fn start(
        at: &str,
        answer: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        Self::listen(at, None, Arc::new(answer)).await
    }

    /// Speaks TLS, with a certificate for `tls.test` by [`test_roots`].
    pub(crate) async fn start_tls(answer: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let certificate = CertificateDer::from(STANDARD.decode(CERTIFICATE).unwrap());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(STANDARD.decode(KEY).unwrap()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        Self::listen("127.0.0.1:0", Some(TlsAcceptor::from(Arc::new(config))), Arc::new(answer)).await
    }

    async fn listen(at: &str, tls: Option<TlsAcceptor>, answer: Answer) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, log, answer) = (tls.clone(), log.clone(), answer.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &log, &answer).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, &log, &answer).await,
                            Err(_) => log.lock().unwrap().push("no tls".to_owned()),
                        },
                    }
                });
            }
        });
        Self { port, seen, _task: AbortOnDropHandle::new(task) }
    }

    /// The requests that came, head and body.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, log: &Mutex<Vec<String>>, answer: &Answer) {
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 65536]);
    let request = loop {
        let Ok(count @ 1..) = stream.read(&mut chunk).await else { return };
        bytes.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            break text;
        }
    };
    log.lock().unwrap().push(request.clone());
    match answer(&request) {
        Some(answer) => {
            // Whoever has read enough hangs up before the end.
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        }
        // Until the other side hangs up.
        None => while let Ok(1..) = stream.read(&mut chunk).await {},
    }
}

/// An answer with a status line, headers (each line ended) and a body.
pub(crate) fn answer(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    Some([head.as_bytes(), body].concat())
}

/// The path and query of a request.
pub(crate) fn path(request: &str) -> &str {
    request.split(' ').nth(1).unwrap_or_default()
}

/// TLS that believes whoever signed the certificate of [`Server::start_tls`], and nobody else.
pub(crate) fn test_roots() -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(STANDARD.decode(ROOT).unwrap()))?;
    tls::with_roots(roots)
}

// Made with openssl for this file, good until 2120, DER in base64. The key protects nothing.
const CERTIFICATE: &str = "MIIBkzCCATmgAwIBAgIBATAKBggqhkjOPQQDAjAVMRMwEQYDVQQDDAp0ZXN0IHJvb3RzMCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAw\
    MTAxMDAwMDAwWjATMREwDwYDVQQDDAh0bHMudGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABJOgTwOHq6CCsvhrDYjULf29\
    Mo1dmYc3yHsuUab9DdXtTCKLbmbrIcmrhLh154hGZEDaI+xQFeIy4Ow/a8dGtlCjejB4MBMGA1UdEQQMMAqCCHRscy50ZXN0MAwG\
    A1UdEwEB/wQCMAAwEwYDVR0lBAwwCgYIKwYBBQUHAwEwHQYDVR0OBBYEFCw3WxXcf6VZ+CzZjHuG7o8UulEuMB8GA1UdIwQYMBaA\
    FNY5C6xfhgW5ecjF5P3CiWOAHwjkMAoGCCqGSM49BAMCA0gAMEUCIQC5MtVvTRawDPNBbflbu0fnDotXHSVdHFD18K1Zz++2NAIg\
    FvjmnxyCMLAPimiwh2W9tdxuhKnmuylT3EZphHAuZD4=";
const KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg7MIMb3yrmtI/mH5ANFF9p0m2nBUF2xIEQt6b3XkNICGhRANCAAST\
    oE8Dh6uggrL4aw2I1C39vTKNXZmHN8h7LlGm/Q3V7Uwii25m6yHJq4S4deeIRmRA2iPsUBXiMuDsP2vHRrZQ";
const ROOT: &str = "MIIBkTCCATegAwIBAgIUceRifJeIrjB/o5N4BfCQ4mSSkNswCgYIKoZIzj0EAwIwFTETMBEGA1UEAwwKdGVzdCByb290czAgFw0y\
    NjExMjAxMjU3MjRaGA8yMTI2MTAyNzEyNTcyNFowFTETMBEGA1UEAwwKdGVzdCByb290czBZMBMGByqGSM49AgEGCCqGSM49AwEH\
    A0IABDSipPDcf0gNCVOLl2JZFLtm2EQ8IEbQZAHMT8aIjvxjKOF2FMLzBcv8jshktJsoSMxp66/9lnUDPz0kxCFc5LmjYzBhMB0G\
    A1UdDgQWBBTWOQusX4YFuXnIxeT9woljgB8I5DAfBgNVHSMEGDAWgBTWOQusX4YFuXnIxeT9woljgB8I5DAPBgNVHRMBAf8EBTAD\
    AQH/MA4GA1UdDwEB/wQEAwICBDAKBggqhkjOPQQDAgNIADBFAiEAtzNFU/BFpbAXrXPBaj61hoVmGus9/ji6Ey7v09rarQQCIE2S\
    H+emYu2192fWN8yG9oPaIhMZxhcwNCoLEogZ/y9W";
