//! A connection to a wallet, from a file with its URI: our own wallet's admin connection, or anybody's.

use std::path::Path;
use std::time::Duration;

use oa_nips::nostr::RelayUrl;
use oa_node::drivers::nwc::Line;
use oa_wallet::nwc::client::{CallError, Client, Config};
use oa_wallet::nwc::message::ErrorCode;
use oa_wallet::nwc::uri::Uri;

use super::secret;
use crate::error::{Error, Kind, Result, chain};

/// How long connecting may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A wallet that is connected.
#[derive(Debug)]
pub(crate) struct Wallet {
    /// What it is spoken to with.
    pub(crate) client: Client,
    line: Line,
}

impl Wallet {
    /// Connects with the URI in a file.
    ///
    /// # Errors
    /// When there is none, or no relay answers.
    pub(crate) async fn connect(file: &Path) -> Result<Self> {
        let text = secret::read(file).map_err(|error| match error.kind {
            Kind::NotFound => Error::new(Kind::NotFound, format!("there is no wallet: {error}")).hint(
                "`oa-wallet init` and `oa-wallet run` make one in this home; --nwc-file names a connection to another",
            ),
            _ => error,
        })?;
        let uri: Uri =
            text.parse().map_err(|error| Error::new(Kind::Usage, format!("{}: {error}", file.display())))?;
        let line = Line::dial(&uri, Config::new(&uri), CONNECT_WITHIN).await.map_err(|error| {
            let relays: Vec<&str> = uri.relays.iter().map(RelayUrl::as_str).collect();
            Error::new(Kind::TimedOut, format!("{error}: {}", relays.join(" "))).hint("is the relay running?")
        })?;
        Ok(Self { client: line.client.clone(), line })
    }

    /// Leaves.
    pub(crate) async fn close(self) {
        self.line.hang_up().await;
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
