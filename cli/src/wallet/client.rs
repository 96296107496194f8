//! A connection to a wallet, from a file with its URI: our own wallet's admin connection, or anybody's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oa_nips::nostr::{PublicKey, RelayUrl};
use oa_nips::port::Signer;
use oa_node::drivers::nostr::{self as pool, Incoming, Pool, RelaySpec};
use oa_node::signer::{Conversations, LocalSigner};
use oa_node::time::{System, Time as _};
use oa_wallet::nwc::client::{CallError, Client, Config, Ports};
use oa_wallet::nwc::message::ErrorCode;
use oa_wallet::nwc::uri::Uri;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::secret;
use crate::error::{Error, Kind, Result, chain};

/// How long connecting may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Answers that wait to be looked at.
const INCOMING: usize = 256;

/// A wallet that is connected.
#[derive(Debug)]
pub(crate) struct Wallet {
    /// What it is spoken to with.
    pub(crate) client: Client,
    pool: Pool,
    _answers: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct OwnKey(Arc<dyn Signer>);

impl pool::Keyring for OwnKey {
    fn node(&self) -> Arc<dyn Signer> {
        self.0.clone()
    }

    fn agent(&self, _: &PublicKey) -> Option<Arc<dyn Signer>> {
        None
    }
}

impl Wallet {
    /// Connects with the URI in a file.
    ///
    /// # Errors
    /// When there is none, or no relay answers.
    pub(crate) async fn connect(file: &Path) -> Result<Self> {
        let text = secret::read(file).map_err(|error| match error.kind {
            Kind::NotFound => error.hint("`oa-wallet run` makes it; --nwc-file names another connection"),
            _ => error,
        })?;
        let uri: Uri =
            text.parse().map_err(|error| Error::new(Kind::Usage, format!("{}: {error}", file.display())))?;
        let signer: Arc<dyn Signer> = Arc::new(LocalSigner::new(uri.keys(), Conversations::default()));
        let (sender, incoming) = mpsc::channel(INCOMING);
        let relays = uri.relays.iter().map(|url| RelaySpec { url: url.clone(), wide: false }).collect();
        let config = pool::Config { relays, ..pool::Config::default() };
        let pool = Pool::start(config, Arc::new(OwnKey(signer.clone())), None, sender);
        let filter = Client::filter(uri.wallet, signer.public_key(), System.now_ms() / 1000);
        pool.stand("nwc", filter);
        if pool.ready(1, CONNECT_WITHIN).await == 0 {
            let relays: Vec<&str> = uri.relays.iter().map(RelayUrl::as_str).collect();
            let message = format!("no connection to the wallet's relay: {}", relays.join(" "));
            return Err(Error::new(Kind::TimedOut, message).hint("is the relay running?"));
        }
        let (answers, events) = mpsc::channel(INCOMING);
        let port = Arc::new(pool.clone());
        let ports = Ports { signer, publish: port.clone(), subscribe: port, clock: || System.now_ms() };
        let client = Client::start(Config::new(&uri), ports, events, watch::Sender::new(true).subscribe());
        let _answers = AbortOnDropHandle::new(tokio::spawn(hand_on(incoming, answers)));
        Ok(Self { client, pool, _answers })
    }

    /// Leaves.
    pub(crate) async fn close(self) {
        self.pool.shutdown().await;
    }
}

async fn hand_on(mut incoming: mpsc::Receiver<Incoming>, answers: mpsc::Sender<oa_nips::nostr::Event>) {
    while let Some(next) = incoming.recv().await {
        if let Incoming::Event { event, .. } = next
            && answers.send(*event).await.is_err()
        {
            return;
        }
    }
}

/// The exit code that a wallet's refusal means.
pub(crate) fn kind(code: ErrorCode) -> Kind {
    match code {
        ErrorCode::NotFound => Kind::NotFound,
        ErrorCode::Restricted | ErrorCode::Unauthorized | ErrorCode::QuotaExceeded => Kind::Denied,
        _ => Kind::Failed,
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(refused) => Self::new(kind(refused.code), refused.to_string()),
            CallError::TimedOut | CallError::NotListening => Self::new(Kind::TimedOut, chain(&error)).hint(
                "is the wallet running, and on this relay? `oa-wallet run` starts it; or this connection is revoked",
            ),
            CallError::Bill(_) => Self::new(Kind::Usage, chain(&error)),
            _ => Self::new(Kind::Failed, chain(&error)),
        }
    }
}
