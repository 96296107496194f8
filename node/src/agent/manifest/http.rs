//! `[http]` of a manifest: what the agent may ask of whom.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::agent::site::Site;

/// `[http]`: where the agent's requests may go, and how many. Private addresses are the operator's to open, never the
/// manifest's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Hosts and URLs; nothing else is reached.
    pub allow: Vec<Site>,
    /// What may be asked of them.
    pub methods: Vec<Method>,
    /// Requests a day, counted by UTC.
    pub per_day: u32,
}

impl Default for Http {
    fn default() -> Self {
        Self { allow: Vec::new(), methods: Method::ALL.to_vec(), per_day: 1000 }
    }
}

/// What can be asked of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    #[default]
    Get,
    Head,
    Put,
    Delete,
    Post,
    Patch,
}

impl Method {
    /// Every one.
    pub const ALL: [Self; 6] = [Self::Get, Self::Head, Self::Put, Self::Delete, Self::Post, Self::Patch];

    /// Whether asking twice does what asking once does (RFC 9110, section 9.2.2).
    pub fn is_idempotent(self) -> bool {
        !matches!(self, Self::Post | Self::Patch)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Post => "POST",
            Self::Patch => "PATCH",
        })
    }
}
