//! `[hud]`: what onlookers see.

use serde::{Deserialize, Serialize};

/// The fields of heads-up events that there are.
const FIELDS: [&str; 17] = [
    "type",
    "timestamp",
    "session_id",
    "tick_id",
    "agent",
    "state",
    "trigger",
    "trust",
    "tries",
    "outcome",
    "duration_ms",
    "calls",
    "sent",
    "path",
    "bytes",
    "from",
    "to",
];

/// What the public sees of an agent at work. Owners, operators and those with a role in the node see more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hud {
    /// Whether the public sees anything.
    pub public: bool,
    /// Which fields of events it sees, beside those that name the event: type, timestamp, session and tick.
    pub fields: Vec<String>,
}

impl Default for Hud {
    fn default() -> Self {
        let fields = ["state", "trigger", "outcome", "duration_ms"];
        Self { public: false, fields: fields.map(str::to_owned).to_vec() }
    }
}

impl Hud {
    /// Checks that the fields are fields. Messages and reasons are words of programs, and never public.
    ///
    /// # Errors
    /// Names the one that is none.
    pub fn check(&self) -> Result<(), String> {
        match self.fields.iter().find(|field| !FIELDS.contains(&field.as_str())) {
            Some(field) => {
                Err(format!("{field:?} is no field that can be shown; there are {}", FIELDS.join(", ")))
            }
            None => Ok(()),
        }
    }

    /// Whether the public sees a field.
    pub(crate) fn shows(&self, field: &str) -> bool {
        matches!(field, "type" | "timestamp" | "session_id" | "tick_id")
            || self.fields.iter().any(|shown| shown == field)
    }
}
