//! Refusals, as they travel.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a wallet refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Too many requests; again in a few seconds.
    RateLimited,
    /// The method is not known or not served.
    NotImplemented,
    /// Not enough for the amount and the reserve for fees.
    InsufficientBalance,
    /// The connection's budget does not reach.
    QuotaExceeded,
    /// The connection may not do this.
    Restricted,
    /// The key has no wallet: never connected, expired or revoked.
    Unauthorized,
    /// The wallet's own trouble.
    Internal,
    /// The wallet does not understand the encryption of the request.
    UnsupportedEncryption,
    /// The payment was tried and failed.
    PaymentFailed,
    /// No such invoice or payment.
    NotFound,
    /// Anything else, and codes that are not known here.
    Other,
}

impl ErrorCode {
    /// All.
    pub const ALL: [Self; 11] = [
        Self::RateLimited,
        Self::NotImplemented,
        Self::InsufficientBalance,
        Self::QuotaExceeded,
        Self::Restricted,
        Self::Unauthorized,
        Self::Internal,
        Self::UnsupportedEncryption,
        Self::PaymentFailed,
        Self::NotFound,
        Self::Other,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "RATE_LIMITED",
            Self::NotImplemented => "NOT_IMPLEMENTED",
            Self::InsufficientBalance => "INSUFFICIENT_BALANCE",
            Self::QuotaExceeded => "QUOTA_EXCEEDED",
            Self::Restricted => "RESTRICTED",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Internal => "INTERNAL",
            Self::UnsupportedEncryption => "UNSUPPORTED_ENCRYPTION",
            Self::PaymentFailed => "PAYMENT_FAILED",
            Self::NotFound => "NOT_FOUND",
            Self::Other => "OTHER",
        }
    }

    /// Whether a wallet that says so has certainly not begun to pay.
    pub fn is_refusal(self) -> bool {
        match self {
            Self::RateLimited
            | Self::NotImplemented
            | Self::InsufficientBalance
            | Self::QuotaExceeded
            | Self::Restricted
            | Self::Unauthorized
            | Self::UnsupportedEncryption => true,
            Self::Internal | Self::PaymentFailed | Self::NotFound | Self::Other => false,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self::ALL.into_iter().find(|code| code.as_str() == text).unwrap_or(Self::Other))
    }
}

/// A refusal: the code for programs, the message for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Error {
    /// What a program decides by.
    pub code: ErrorCode,
    /// The wallet's words; never a secret.
    pub message: String,
}

/// The longest message that is kept of somebody else's.
const MESSAGE_CHARS_MAX: usize = 500;

impl Error {
    /// A refusal.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// As others write it.
#[derive(Deserialize)]
pub(super) struct RawError {
    #[serde(default = "other")]
    code: ErrorCode,
    #[serde(default)]
    message: Option<String>,
}

fn other() -> ErrorCode {
    ErrorCode::Other
}

impl From<RawError> for Error {
    fn from(raw: RawError) -> Self {
        let message = raw.message.unwrap_or_default().chars().take(MESSAGE_CHARS_MAX).collect();
        Self { code: raw.code, message }
    }
}
