//! What an agent is made of: its manifest, its envelopes, its alarms, and the rules of its mailbox.

pub mod alarm;
pub mod child;
pub mod envelope;
pub mod mailbox;
pub mod manifest;
pub mod site;
pub(crate) mod task;

use std::fmt;

use serde::{Deserialize, Serialize};

/// An agent's number in its node: its key is derived from it, and it is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AgentId(pub u32);

impl AgentId {
    /// The node itself, which has an outbox and a mailbox as its agents have, and never ticks.
    pub const NODE: Self = Self(u32::MAX);
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where an agent stands in its life. Named by what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// Waits for its first tick.
    Creating,
    /// Waits for envelopes, and is kept warm.
    Active,
    /// Waits for an envelope to wake it; costs one row.
    Dormant,
    /// Waits for its operator: stopped by hand.
    Stopped,
    /// Waits for its operator: its program failed, or took the process down, too often.
    Quarantined,
    /// Waits for nothing: broke a rule that is not broken by mistake, or was removed.
    Terminated,
}

impl Lifecycle {
    /// Whether envelopes may start a tick.
    pub fn ticks(self) -> bool {
        matches!(self, Self::Creating | Self::Active | Self::Dormant)
    }
}

impl fmt::Display for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Active => "active",
            Self::Dormant => "dormant",
            Self::Stopped => "stopped",
            Self::Quarantined => "quarantined",
            Self::Terminated => "terminated",
        })
    }
}
