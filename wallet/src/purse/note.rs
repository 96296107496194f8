//! Rows beside the ledger's: what an invoice or a payment says besides its amount, and in which order they came.

use oa_nips::hex::Hash;
use oa_nips::nostr::EventId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::account::Holder;
use crate::backend::{PaymentHash, Preimage};
use crate::msat::Msat;
use crate::store::{Draft, StoreError};

/// Payment hash → [`InvoiceNote`].
const INVOICES: &str = "purse.invoices";
/// Request → [`PaymentNote`].
const PAYMENTS: &str = "purse.payments";
/// Request → the payment hash of the invoice that it made.
const REQUESTS: &str = "purse.requests";
/// Holder, inverted time, and what → [`Mark`]: the newest first.
pub(super) const BY_TIME: &str = "purse.by_time";

/// Who takes the money that comes for an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum How {
    /// We, as soon as it arrives: the preimage is here.
    Ours,
    /// Its client, who has the preimage.
    Hold,
    /// The backend, by itself.
    Backend,
    /// Nobody asked for it.
    Unasked,
}

/// What an invoice waits for. Whether it was paid is in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub(super) enum Stage {
    /// For money.
    Open,
    /// For its client to settle or cancel.
    Held { amount: Msat, deadline: Option<u32> },
    /// For the backend to say that the money is ours: it is being taken, and can come by no other way.
    Claimed,
    /// For nothing: whoever pays it gets their money back.
    Cancelled,
}

/// An invoice, or money that came unasked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct InvoiceNote {
    pub(super) holder: Holder,
    pub(super) how: How,
    pub(super) stage: Stage,
    pub(super) bolt11: Option<String>,
    pub(super) amount: Msat,
    pub(super) description: Option<String>,
    pub(super) metadata: Option<Value>,
    /// A secret until it is settled.
    pub(super) preimage: Option<Hash>,
    pub(super) made_ms: u64,
    pub(super) expires_ms: Option<u64>,
}

/// An attempt at a payment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PaymentNote {
    pub(super) holder: Holder,
    pub(super) hash: Hash,
    pub(super) bolt11: Option<String>,
    pub(super) description: Option<String>,
    pub(super) metadata: Option<Value>,
    pub(super) amount: Msat,
    pub(super) began_ms: u64,
}

/// What a row of [`BY_TIME`] stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mark {
    Invoice(Hash),
    Payment(String),
}

impl InvoiceNote {
    pub(super) fn preimage(&self) -> Option<Preimage> {
        self.preimage.map(|hash| Preimage(hash.0))
    }

    pub(super) fn get(draft: &mut Draft<'_>, hash: PaymentHash) -> Result<Option<Self>, StoreError> {
        draft.get(INVOICES, &hash.to_string())
    }

    pub(super) fn put(&self, draft: &mut Draft<'_>, hash: PaymentHash) -> Result<(), StoreError> {
        draft.put(INVOICES, &hash.to_string(), self)
    }

    /// For the first time, with its place in the list.
    pub(super) fn add(&self, draft: &mut Draft<'_>, hash: PaymentHash) -> Result<(), StoreError> {
        self.put(draft, hash)?;
        let key = format!("{}{:016x}/i{hash}", of_holder(&self.holder), !self.made_ms);
        draft.put(BY_TIME, &key, &Mark::Invoice(hash.0))
    }
}

impl PaymentNote {
    pub(super) fn get(draft: &mut Draft<'_>, request: &str) -> Result<Option<Self>, StoreError> {
        draft.get(PAYMENTS, request)
    }

    /// For the first time, with its place in the list.
    pub(super) fn add(&self, draft: &mut Draft<'_>, request: &str) -> Result<(), StoreError> {
        draft.put(PAYMENTS, request, self)?;
        let key = format!("{}{:016x}/o{request}", of_holder(&self.holder), !self.began_ms);
        draft.put(BY_TIME, &key, &Mark::Payment(request.to_owned()))
    }
}

/// The invoice that a request made.
pub(super) fn made_by(draft: &mut Draft<'_>, request: &EventId) -> Result<Option<PaymentHash>, StoreError> {
    Ok(draft.get::<Hash>(REQUESTS, &request.to_hex())?.map(PaymentHash))
}

pub(super) fn set_made_by(
    draft: &mut Draft<'_>,
    request: &EventId,
    hash: PaymentHash,
) -> Result<(), StoreError> {
    draft.put(REQUESTS, &request.to_hex(), &hash.0)
}

/// How the keys of a holder in [`BY_TIME`] begin.
pub(super) fn of_holder(holder: &Holder) -> String {
    format!("{holder}/")
}
