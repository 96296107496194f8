//! `[dm]` and `[replies]` of a manifest: who is heard, and how much is answered.

use serde::{Deserialize, Serialize};

use super::Npub;

/// `[dm]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dm {
    /// Who is heard.
    pub policy: Policy,
    /// Let in besides the owner.
    pub allow: Vec<Npub>,
    /// Leading zero bits that a stranger's wrap or kind 4 event must have (NIP-13); 0 for none.
    pub pow_bits: u8,
    /// Whether messages to more than two people are taken in.
    pub rooms: bool,
}

/// Who is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Only the owner.
    Owner,
    /// The owner and those listed.
    Allowlist,
    /// As allowlist; a stranger gets a code that the owner can let in.
    #[default]
    Pairing,
    /// Anybody.
    Open,
}

/// `[replies]`: a bucket for each correspondent, a smaller one for bots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Replies {
    /// Replies at once to one person.
    pub burst: u32,
    /// Refill, a minute.
    pub per_minute: u32,
    /// Replies at once to one bot.
    pub bot_burst: u32,
    /// Refill, an hour.
    pub bot_per_hour: u32,
}

impl Default for Replies {
    fn default() -> Self {
        Self { burst: 100, per_minute: 20, bot_burst: 10, bot_per_hour: 30 }
    }
}
