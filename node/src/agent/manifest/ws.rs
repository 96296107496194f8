//! `[ws]` of a manifest: which websockets the agent may keep open, and how much it hears of them.

use serde::{Deserialize, Serialize};

use crate::agent::site::Site;

/// `[ws]`: where the agent's websockets may go. Private addresses are the operator's to open, never the manifest's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ws {
    /// Hosts and URLs, as in `[http]`, where https stands for wss; nothing else is reached.
    pub allow: Vec<Site>,
    /// Messages a minute, of each connection, that wake the agent; and that it may send.
    pub per_minute: u32,
}

impl Default for Ws {
    fn default() -> Self {
        Self { allow: Vec::new(), per_minute: 60 }
    }
}
