//! The parameters of the methods.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{Direction, METADATA_CHARS_MAX, hash, hash_option, preimage_option};
use crate::backend::{PaymentHash, Preimage};
use crate::msat::Msat;

/// Parameters of `pay_invoice`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PayOrder {
    /// A bolt11 invoice.
    pub invoice: String,
    /// For an invoice without an amount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<Msat>,
    /// Anything, kept beside the payment.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "metadata")]
    pub metadata: Option<Value>,
}

/// One record beside a keysend payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tlv {
    /// Its type.
    #[serde(rename = "type")]
    pub number: u64,
    /// Hex.
    pub value: String,
}

/// Parameters of `pay_keysend`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeysendOrder {
    /// How much.
    pub amount: Msat,
    /// The payee's Lightning node.
    pub pubkey: String,
    /// Chosen by the payer, so that the payment can be looked up whatever happens; else by the wallet.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "preimage_option")]
    pub preimage: Option<Preimage>,
    /// Records for the payee.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tlv_records: Vec<Tlv>,
}

/// Parameters of `make_invoice`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InvoiceOrder {
    /// How much is asked for.
    pub amount: Msat,
    /// For the payer to read.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "filled")]
    pub description: Option<String>,
    /// The hash of a longer one, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "filled")]
    pub description_hash: Option<String>,
    /// Seconds until it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<u64>,
    /// Anything, kept beside the invoice.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "metadata")]
    pub metadata: Option<Value>,
}

/// Parameters of `make_hold_invoice`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HoldOrder {
    /// How much is asked for.
    pub amount: Msat,
    /// The hash of a preimage that the client keeps.
    #[serde(with = "hash")]
    pub payment_hash: PaymentHash,
    /// For the payer to read.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "filled")]
    pub description: Option<String>,
    /// The hash of a longer one, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "filled")]
    pub description_hash: Option<String>,
    /// Seconds within which a payment must begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<u64>,
    /// Blocks that the last hop leaves to settle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_cltv_expiry_delta: Option<u32>,
}

/// Parameters of `lookup_invoice`: one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LookupQuery {
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hash_option")]
    pub payment_hash: Option<PaymentHash>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "filled")]
    pub invoice: Option<String>,
}

/// Parameters of `list_transactions`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListQuery {
    /// Not created before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Not created after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// How many at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// How many of the newest to pass over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Whether invoices that nobody paid, and payments that did not succeed, are wanted too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpaid: Option<bool>,
    /// One direction only.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
}

/// An empty string is none.
pub(super) fn filled<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

/// Metadata that is too long is dropped (NIP-47).
pub(super) fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    let value = Option::<Value>::deserialize(deserializer)?;
    Ok(value.filter(|value| !value.is_null() && value.to_string().chars().count() <= METADATA_CHARS_MAX))
}
