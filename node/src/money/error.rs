//! What the wallet and the ledger say, in the words and codes of the tree.

use oa_nips::files::Code;
use oa_wallet::account::{InvoiceError, OwnInvoiceError, PaymentError, PostError, Refused, ReserveError};
use oa_wallet::nwc::bill::BillError;
use oa_wallet::nwc::client::CallError;
use oa_wallet::nwc::message::ErrorCode;
use oa_wallet::store::StoreError;

use crate::namespace::Error;

/// An error whose path is filled in by whoever knows it.
pub(super) fn said(code: Code, reason: impl Into<String>) -> Error {
    Error::new(code, "/", reason)
}

/// What was asked cannot be done, whoever asks.
pub(super) fn invalid(reason: impl Into<String>) -> Error {
    said(Code::InvalidInput, reason)
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        said(Code::Io, error.to_string())
    }
}

impl From<Refused> for Error {
    fn from(error: Refused) -> Self {
        let code = match &error {
            Refused::Insufficient { .. } | Refused::Paused { .. } | Refused::Uncovered { .. } => {
                Code::BudgetExceeded
            }
            Refused::Zero | Refused::TooLarge(_) | Refused::Itself(_) => Code::InvalidInput,
        };
        let reason = match &error {
            Refused::Insufficient { available, needed } => {
                format!(
                    "the account has {available}, and {needed} is needed, what is held back for fees included"
                )
            }
            Refused::Paused { debt } => {
                format!(
                    "the account owes {debt} from a payment that cost more than it had; what comes in repays that first"
                )
            }
            Refused::Itself(_) => "from an account to itself".to_owned(),
            other => other.to_string(),
        };
        said(code, reason)
    }
}

impl From<PostError> for Error {
    fn from(error: PostError) -> Self {
        match error {
            PostError::Refused(refused) => refused.into(),
            other => said(Code::Io, other.to_string()),
        }
    }
}

impl From<ReserveError> for Error {
    fn from(error: ReserveError) -> Self {
        match error {
            ReserveError::Post(error) => error.into(),
            ReserveError::Busy(_) => said(Code::Unavailable, error.to_string()),
            ReserveError::Paid(_) => said(Code::Exists, error.to_string()),
        }
    }
}

impl From<OwnInvoiceError> for Error {
    fn from(error: OwnInvoiceError) -> Self {
        match error {
            OwnInvoiceError::Reserve(error) => error.into(),
            OwnInvoiceError::Paid => said(Code::Exists, error.to_string()),
            other => invalid(other.to_string()),
        }
    }
}

impl From<PaymentError> for Error {
    fn from(error: PaymentError) -> Self {
        match error {
            PaymentError::Post(error) => error.into(),
            other => said(Code::Io, other.to_string()),
        }
    }
}

impl From<InvoiceError> for Error {
    fn from(error: InvoiceError) -> Self {
        match error {
            InvoiceError::Store(error) => error.into(),
            InvoiceError::Taken(_) => said(Code::Io, format!("the wallet made an invoice twice: {error}")),
        }
    }
}

impl From<BillError> for Error {
    fn from(error: BillError) -> Self {
        invalid(match error {
            BillError::AmountMissing => {
                "the invoice leaves the amount open: say {\"invoice\":\"…\",\"amount_msat\":…}".to_owned()
            }
            other => other.to_string(),
        })
    }
}

/// The code that a wallet's refusal has in the tree.
pub(super) fn code_of(code: ErrorCode) -> Code {
    match code {
        ErrorCode::InsufficientBalance | ErrorCode::QuotaExceeded => Code::BudgetExceeded,
        ErrorCode::Restricted | ErrorCode::Unauthorized | ErrorCode::NotImplemented => Code::PermissionDenied,
        ErrorCode::RateLimited => Code::RateLimited,
        _ => Code::Unavailable,
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(refused) => {
                said(code_of(refused.code), format!("the node's wallet refused: {refused}"))
            }
            CallError::Bill(error) => error.into(),
            other => said(Code::Unavailable, other.to_string()),
        }
    }
}
