//! What is inside the ciphertexts of NIP-47: requests, responses, notifications, as JSON.
//!
//! Reading is tolerant, because wallets and clients differ: unknown fields are passed over, empty strings are none,
//! and what a wallet leaves out is worked out from the rest. Reading never panics. Amounts are millisatoshis, times
//! are seconds since 1970.

mod error;
mod method;
mod params;
mod secret;
mod transaction;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use error::{Error, ErrorCode};
pub use method::Method;
pub use params::{HoldOrder, InvoiceOrder, KeysendOrder, ListQuery, LookupQuery, PayOrder, Tlv};
pub(crate) use secret::{hash, hash_option, preimage, preimage_option};
pub use secret::{parse_hash, parse_preimage};
pub use transaction::{Direction, State, Transaction};

use crate::backend::{PaymentHash, Preimage};
use crate::msat::Msat;

/// The longest text that is encrypted or taken for a message, in bytes: what NIP-44 version 2 carries.
pub const TEXT_BYTES_MAX: usize = 65_535;
/// Metadata over so many characters is dropped (NIP-47).
pub const METADATA_CHARS_MAX: usize = 4096;

/// One request, opened.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    PayInvoice(PayOrder),
    PayKeysend(KeysendOrder),
    MakeInvoice(InvoiceOrder),
    LookupInvoice(LookupQuery),
    ListTransactions(ListQuery),
    GetBalance,
    GetInfo,
    GetBudget,
    MakeHoldInvoice(HoldOrder),
    /// By the preimage.
    SettleHoldInvoice(Preimage),
    /// By the payment hash.
    CancelHoldInvoice(PaymentHash),
    /// A method of ours, `oa_…`, with its parameters unread.
    Admin(String, Value),
}

/// Why a text is no request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("no request")]
    Syntax(#[source] serde_json::Error),
    #[error("method {0:?} is not known")]
    Method(String),
    #[error("parameters of {method} are not valid: {source}")]
    Params { method: Method, source: serde_json::Error },
}

impl RequestError {
    /// What is answered: `result_type` and the error.
    pub fn response(&self) -> Response {
        let (method, code) = match self {
            Self::Syntax(_) => ("", ErrorCode::Other),
            Self::Method(method) => (method.as_str(), ErrorCode::NotImplemented),
            Self::Params { method, .. } => (method.as_str(), ErrorCode::Other),
        };
        Response::error(method, Error::new(code, self.to_string()))
    }
}

#[derive(Deserialize)]
struct RawRequest {
    method: String,
    #[serde(default)]
    params: Option<Value>,
}

#[derive(Serialize)]
struct RequestOut<'a> {
    method: &'a str,
    params: Value,
}

#[derive(Serialize, Deserialize)]
struct BySecret {
    #[serde(with = "preimage")]
    preimage: Preimage,
}

#[derive(Serialize, Deserialize)]
struct ByHash {
    #[serde(with = "hash")]
    payment_hash: PaymentHash,
}

/// Methods of ours begin so.
pub const ADMIN_PREFIX: &str = "oa_";
/// The longest name of a method that is repeated to whoever sent it.
const METHOD_CHARS_MAX: usize = 64;

impl Request {
    /// Reads a request's plaintext.
    ///
    /// # Errors
    /// When it is no JSON, names a method that is none, or lacks what the method needs.
    pub fn parse(text: &str) -> Result<Self, RequestError> {
        let raw: RawRequest = serde_json::from_str(text).map_err(RequestError::Syntax)?;
        let params = match raw.params {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(params) => params,
        };
        let Some(method) = Method::parse(&raw.method) else {
            let method: String = raw.method.chars().take(METHOD_CHARS_MAX).collect();
            if method.starts_with(ADMIN_PREFIX) {
                return Ok(Self::Admin(method, params));
            }
            return Err(RequestError::Method(method));
        };
        Self::of(method, params).map_err(|source| RequestError::Params { method, source })
    }

    fn of(method: Method, params: Value) -> Result<Self, serde_json::Error> {
        let from = params;
        Ok(match method {
            Method::PayInvoice => Self::PayInvoice(serde_json::from_value(from)?),
            Method::PayKeysend => Self::PayKeysend(serde_json::from_value(from)?),
            Method::MakeInvoice => Self::MakeInvoice(serde_json::from_value(from)?),
            Method::LookupInvoice => Self::LookupInvoice(serde_json::from_value(from)?),
            Method::ListTransactions => Self::ListTransactions(serde_json::from_value(from)?),
            Method::GetBalance => Self::GetBalance,
            Method::GetInfo => Self::GetInfo,
            Method::GetBudget => Self::GetBudget,
            Method::MakeHoldInvoice => Self::MakeHoldInvoice(serde_json::from_value(from)?),
            Method::SettleHoldInvoice => {
                Self::SettleHoldInvoice(serde_json::from_value::<BySecret>(from)?.preimage)
            }
            Method::CancelHoldInvoice => {
                Self::CancelHoldInvoice(serde_json::from_value::<ByHash>(from)?.payment_hash)
            }
        })
    }

    /// The method's name on the wire.
    pub fn method(&self) -> &str {
        match self {
            Self::PayInvoice(_) => Method::PayInvoice.as_str(),
            Self::PayKeysend(_) => Method::PayKeysend.as_str(),
            Self::MakeInvoice(_) => Method::MakeInvoice.as_str(),
            Self::LookupInvoice(_) => Method::LookupInvoice.as_str(),
            Self::ListTransactions(_) => Method::ListTransactions.as_str(),
            Self::GetBalance => Method::GetBalance.as_str(),
            Self::GetInfo => Method::GetInfo.as_str(),
            Self::GetBudget => Method::GetBudget.as_str(),
            Self::MakeHoldInvoice(_) => Method::MakeHoldInvoice.as_str(),
            Self::SettleHoldInvoice(_) => Method::SettleHoldInvoice.as_str(),
            Self::CancelHoldInvoice(_) => Method::CancelHoldInvoice.as_str(),
            Self::Admin(method, _) => method,
        }
    }

    /// The plaintext.
    pub fn to_json(&self) -> String {
        let params = match self {
            Self::PayInvoice(order) => serde_json::to_value(order),
            Self::PayKeysend(order) => serde_json::to_value(order),
            Self::MakeInvoice(order) => serde_json::to_value(order),
            Self::LookupInvoice(query) => serde_json::to_value(query),
            Self::ListTransactions(query) => serde_json::to_value(query),
            Self::GetBalance | Self::GetInfo | Self::GetBudget => Ok(Value::Object(Map::new())),
            Self::MakeHoldInvoice(order) => serde_json::to_value(order),
            Self::SettleHoldInvoice(preimage) => serde_json::to_value(BySecret { preimage: *preimage }),
            Self::CancelHoldInvoice(hash) => serde_json::to_value(ByHash { payment_hash: *hash }),
            Self::Admin(_, params) => Ok(params.clone()),
        };
        let params = params.expect("strings, numbers and string keys are JSON");
        json(&RequestOut { method: self.method(), params })
    }
}

/// One response, opened.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// The method that it answers; some wallets leave it out in errors.
    pub result_type: Option<String>,
    /// What came of it.
    pub result: Result<Value, Error>,
}

/// Why a text is no response or notification.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("no JSON of the form expected")]
    Syntax(#[from] serde_json::Error),
    #[error("neither a result nor an error")]
    Empty,
}

#[derive(Deserialize)]
struct RawResponse {
    #[serde(default)]
    result_type: Option<String>,
    #[serde(default)]
    error: Option<error::RawError>,
    #[serde(default)]
    result: Option<Value>,
}

#[derive(Serialize)]
struct ResponseOut<'a> {
    result_type: &'a str,
    error: Option<&'a Error>,
    result: Option<&'a Value>,
}

impl Response {
    /// A success.
    pub fn ok(method: &str, result: Value) -> Self {
        Self { result_type: Some(method.to_owned()), result: Ok(result) }
    }

    /// A refusal.
    pub fn error(method: &str, error: Error) -> Self {
        Self { result_type: Some(method.to_owned()), result: Err(error) }
    }

    /// Reads a response's plaintext. Where error and result both stand, the error counts.
    ///
    /// # Errors
    /// When it is no JSON or says nothing.
    pub fn parse(text: &str) -> Result<Self, ReadError> {
        let raw: RawResponse = serde_json::from_str(text)?;
        let result = match (raw.error, raw.result) {
            (Some(error), _) => Err(error.into()),
            (None, Some(result)) => Ok(result),
            (None, None) => return Err(ReadError::Empty),
        };
        Ok(Self { result_type: raw.result_type.filter(|method| !method.is_empty()), result })
    }

    /// The plaintext.
    pub fn to_json(&self) -> String {
        json(&ResponseOut {
            result_type: self.result_type.as_deref().unwrap_or_default(),
            error: self.result.as_ref().err(),
            result: self.result.as_ref().ok(),
        })
    }
}

/// What a wallet tells of its own accord.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    PaymentReceived,
    PaymentSent,
    HoldInvoiceAccepted,
}

impl Topic {
    /// All.
    pub const ALL: [Self; 3] = [Self::PaymentReceived, Self::PaymentSent, Self::HoldInvoiceAccepted];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PaymentReceived => "payment_received",
            Self::PaymentSent => "payment_sent",
            Self::HoldInvoiceAccepted => "hold_invoice_accepted",
        }
    }
}

/// One notification, opened. To whoever reads it, it is a hint: only look-up confirms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// What happened.
    #[serde(rename = "notification_type")]
    pub topic: Topic,
    /// To which payment.
    #[serde(rename = "notification")]
    pub transaction: Transaction,
}

impl Notification {
    /// Reads a notification's plaintext.
    ///
    /// # Errors
    /// When it is no JSON, or of a type that is not known.
    pub fn parse(text: &str) -> Result<Self, ReadError> {
        Ok(serde_json::from_str(text)?)
    }

    /// The plaintext.
    pub fn to_json(&self) -> String {
        json(self)
    }
}

/// The result of `pay_invoice` and `pay_keysend`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paid {
    /// The proof.
    #[serde(with = "preimage")]
    pub preimage: Preimage,
    /// What the route cost; some wallets do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fees_paid: Option<Msat>,
}

/// The result of `get_balance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// What the connection may see as its own.
    pub balance: Msat,
}

/// The result of `get_info`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WalletInfo {
    #[serde(default)]
    pub alias: Option<String>,
    #[serde(default)]
    pub color: Option<String>,
    /// The Lightning node's key.
    #[serde(default)]
    pub pubkey: Option<String>,
    /// `mainnet`, `testnet`, `signet` or `regtest`; a wallet of play money says so here.
    #[serde(default)]
    pub network: Option<String>,
    #[serde(default)]
    pub block_height: Option<u32>,
    #[serde(default)]
    pub block_hash: Option<String>,
    /// The methods of this connection.
    #[serde(default)]
    pub methods: Vec<String>,
    /// The notifications of this connection.
    #[serde(default)]
    pub notifications: Vec<String>,
}

/// The result of `get_budget`: all zero or absent where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BudgetInfo {
    /// Spent and reserved in this period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_budget: Option<Msat>,
    /// The cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_budget: Option<Msat>,
    /// When the next period begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renews_at: Option<u64>,
    /// `daily`, `weekly`, `monthly`, `yearly` or `never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal_period: Option<String>,
}

/// The result of `list_transactions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transactions {
    /// Newest first.
    pub transactions: Vec<Transaction>,
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("strings, numbers and string keys are JSON")
}
