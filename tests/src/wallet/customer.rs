//! A customer of a wallet: our client, over relays of its own, and raw requests.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use oa_node::drivers::nwc::Line;
use oa_wallet::msat::Msat;
use oa_wallet::nwc::client::{CallError, Client, Config, Outcome};
use oa_wallet::nwc::message::{ErrorCode, InvoiceOrder, PayOrder};
use oa_wallet::nwc::uri::Uri;
use serde_json::Value;

use crate::world::{DEADLINE, eventually};

/// Somebody with a connection to a wallet.
#[derive(Debug)]
pub struct Customer {
    /// What it uses.
    pub client: Client,
    uri: Uri,
    line: Line,
}

/// What a wallet answered instead of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

impl Customer {
    /// With the usual times, halved and halved again where a test would wait.
    ///
    /// # Errors
    /// When no relay answers.
    pub async fn connect(uri: Uri) -> Result<Self> {
        let quick = Config {
            resend_after: Duration::from_millis(300),
            look_after: Duration::from_millis(100),
            poll_every: Duration::from_millis(200),
            ..Config::new(&uri)
        };
        Self::connect_as(uri, quick).await
    }

    /// With times of one's own.
    ///
    /// # Errors
    /// When no relay answers.
    pub async fn connect_as(uri: Uri, config: Config) -> Result<Self> {
        let line = Line::dial(&uri, config, DEADLINE).await?;
        Ok(Self { client: line.client.clone(), uri, line })
    }

    /// With the connection in a file, and the usual times.
    ///
    /// # Errors
    /// When there is none, or no relay answers.
    pub async fn usual(file: &Path) -> Result<Self> {
        let uri = read(file)?;
        let config = Config::new(&uri);
        Self::connect_as(uri, config).await
    }

    /// With the connection in a file, and the times of [`Customer::connect`].
    ///
    /// # Errors
    /// When there is none, or no relay answers.
    pub async fn of_file(file: &Path) -> Result<Self> {
        Self::connect(read(file)?).await
    }

    /// The connection.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Sends any method with any parameters, as they are.
    ///
    /// # Errors
    /// When the wallet says nothing, or something else than a result.
    pub async fn ask(&self, method: &str, params: Value) -> Result<Value> {
        self.client.admin(method, params.clone()).await.with_context(|| format!("{method} {params}"))
    }

    /// The same where it is to be refused.
    ///
    /// # Errors
    /// When it is not, or there is no answer.
    pub async fn refused(&self, method: &str, params: Value) -> Result<Refusal> {
        match self.client.admin(method, params.clone()).await {
            Err(CallError::Refused(error)) => Ok(Refusal { code: error.code, message: error.message }),
            other => bail!("{method} {params} is to be refused: {other:?}"),
        }
    }

    /// What the wallet says that there is, in msat.
    ///
    /// # Errors
    /// When it does not.
    pub async fn balance(&self) -> Result<u64> {
        Ok(self.client.balance().await?.get())
    }

    /// Waits until the wallet has exactly so much.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn balance_becomes(&self, within: Duration, msat: u64) -> Result<()> {
        eventually(within, || async {
            let balance = self.client.balance().await?;
            ensure!(balance.get() == msat, "{balance} is there, {msat} msat is wanted");
            Ok(())
        })
        .await
    }

    /// An invoice of the connection's account.
    ///
    /// # Errors
    /// What the wallet refused.
    pub async fn invoice(&self, amount: Msat) -> Result<String> {
        let order =
            InvoiceOrder { amount, description: None, description_hash: None, expiry: None, metadata: None };
        self.client.make_invoice(order).await?.invoice.context("an invoice")
    }

    /// Pays an invoice that names its amount.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn pay(&self, invoice: String) -> Result<Outcome> {
        Ok(self.client.pay_invoice(PayOrder { invoice, amount: None, metadata: None }).await?)
    }

    /// Leaves the relays.
    pub async fn leave(self) {
        self.line.hang_up().await;
    }
}

fn read(file: &Path) -> Result<Uri> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    Ok(text.parse()?)
}

impl Refusal {
    /// Checks code and words.
    ///
    /// # Errors
    /// When it is another refusal.
    pub fn is(&self, code: ErrorCode, words: &str) -> Result<()> {
        ensure!(
            self.code == code && self.message.contains(words),
            "{code} with {words:?} is wanted: {self:?}"
        );
        Ok(())
    }
}
