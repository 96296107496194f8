//! What woke the agent: the fields of `/trigger` that the concierge reads.

use serde::Deserialize;

/// The content of `/trigger`; fields it does not need are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Trigger {
    pub(super) kind: String,
    /// The sender's npub; nothing for alarms and the node's own triggers.
    #[serde(default)]
    pub(super) from: Option<String>,
    #[serde(default)]
    pub(super) trust: Option<String>,
    #[serde(default)]
    pub(super) text: String,
    #[serde(default)]
    pub(super) protocol: Option<String>,
    /// What happened to the account, for a payment.
    #[serde(default)]
    pub(super) data: Option<serde_json::Value>,
    /// For an alarm, whoever's message set it.
    #[serde(default)]
    origin: Option<Origin>,
    #[serde(default)]
    pub(super) alarm: Option<Alarm>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Origin {
    #[serde(default)]
    from: Option<String>,
}

/// The alarm that rings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Alarm {
    pub(super) id: String,
    /// When it should have, in seconds since 1970.
    pub(super) due: i64,
    /// Recurrences before this one that were slept through.
    #[serde(default)]
    pub(super) missed: u64,
    #[serde(default)]
    pub(super) text: String,
}

impl Trigger {
    /// Whoever is answered.
    pub(super) fn correspondent(&self) -> Option<&str> {
        self.from.as_deref().or_else(|| self.origin.as_ref()?.from.as_deref())
    }

    pub(super) fn is_from_owner(&self) -> bool {
        self.trust.as_deref() == Some("owner")
    }
}
