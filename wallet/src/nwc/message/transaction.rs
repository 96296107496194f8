//! An invoice or a payment, as look-up, lists and notifications show it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::params::{filled, metadata};
use super::{hash, parse_preimage, preimage_option};
use crate::backend::{PaymentHash, Preimage};
use crate::msat::Msat;

/// Which way the money goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// An invoice of ours.
    Incoming,
    /// A payment of ours.
    Outgoing,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not paid yet, or under way.
    Pending,
    /// A hold invoice that waits for its preimage.
    Accepted,
    /// Done.
    Settled,
    /// An invoice whose time is over.
    Expired,
    /// A payment that did not succeed.
    Failed,
}

impl State {
    /// Whether it stays so.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Settled | Self::Expired | Self::Failed)
    }
}

/// One invoice or payment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Transaction {
    #[serde(rename = "type")]
    pub direction: Direction,
    pub state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invoice: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description_hash: Option<String>,
    /// Only where it is settled, and shown only to whom it belongs.
    #[serde(skip_serializing_if = "Option::is_none", with = "preimage_option")]
    pub preimage: Option<Preimage>,
    #[serde(with = "hash")]
    pub payment_hash: PaymentHash,
    pub amount: Msat,
    /// What the route cost; some wallets do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fees_paid: Option<Msat>,
    pub created_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<u64>,
    /// The block before which a held payment must be settled or cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settle_deadline: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
}

/// As others write it.
#[derive(Deserialize)]
struct Raw {
    #[serde(default, rename = "type", deserialize_with = "known")]
    direction: Option<Direction>,
    #[serde(default, deserialize_with = "known")]
    state: Option<State>,
    #[serde(default, deserialize_with = "filled")]
    invoice: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    description: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    description_hash: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    preimage: Option<String>,
    #[serde(with = "hash")]
    payment_hash: PaymentHash,
    amount: Msat,
    #[serde(default)]
    fees_paid: Option<Msat>,
    #[serde(default)]
    created_at: Option<u64>,
    #[serde(default)]
    expires_at: Option<u64>,
    #[serde(default)]
    settled_at: Option<u64>,
    #[serde(default)]
    settle_deadline: Option<u32>,
    #[serde(default, deserialize_with = "metadata")]
    metadata: Option<Value>,
}

/// A word that is not known is none: the rest of the transaction still counts.
fn known<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

impl From<Raw> for Transaction {
    /// A preimage that is none is left out; without a state, a settlement time says settled.
    fn from(raw: Raw) -> Self {
        let settled_at = raw.settled_at.filter(|at| *at > 0);
        let inferred = if settled_at.is_some() { State::Settled } else { State::Pending };
        Self {
            direction: raw.direction.unwrap_or(Direction::Incoming),
            state: raw.state.unwrap_or(inferred),
            invoice: raw.invoice,
            description: raw.description,
            description_hash: raw.description_hash,
            preimage: raw.preimage.and_then(|text| parse_preimage(&text).ok()),
            payment_hash: raw.payment_hash,
            amount: raw.amount,
            fees_paid: raw.fees_paid,
            created_at: raw.created_at.unwrap_or(0),
            expires_at: raw.expires_at.filter(|at| *at > 0),
            settled_at,
            settle_deadline: raw.settle_deadline,
            metadata: raw.metadata,
        }
    }
}

impl<'de> Deserialize<'de> for Transaction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Raw::deserialize(deserializer).map(Self::from)
    }
}

impl Transaction {
    /// Whether it is settled and can prove it.
    pub fn proof(&self) -> Option<&Preimage> {
        let preimage = self.preimage.as_ref().filter(|preimage| preimage.hash() == self.payment_hash)?;
        (self.state == State::Settled).then_some(preimage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wallets_leave_out_is_worked_out() {
        let text = format!(
            r#"{{"payment_hash":"{}","amount":5,"settled_at":7,"invoice":"","x":1}}"#,
            "a".repeat(64)
        );
        let read: Transaction = serde_json::from_str(&text).unwrap();
        assert_eq!((read.state, read.settled_at, read.invoice), (State::Settled, Some(7), None));
        let text = format!(r#"{{"payment_hash":"{}","amount":5,"settled_at":0}}"#, "a".repeat(64));
        let read: Transaction = serde_json::from_str(&text).unwrap();
        assert_eq!(read.state, State::Pending, "a zero is no time");
    }

    #[test]
    fn a_preimage_that_opens_nothing_proves_nothing() {
        let preimage = Preimage([7; 32]);
        let text = |hash: PaymentHash, state: &str| {
            let preimage = preimage.reveal();
            format!(r#"{{"payment_hash":"{hash}","amount":5,"preimage":"{preimage}","state":"{state}"}}"#)
        };
        let read = |text: String| serde_json::from_str::<Transaction>(&text).unwrap();
        assert!(read(text(preimage.hash(), "settled")).proof().is_some());
        assert!(read(text(PaymentHash::from_bytes([0; 32]), "settled")).proof().is_none());
        assert!(read(text(preimage.hash(), "pending")).proof().is_none());
    }
}
