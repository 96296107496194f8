//! `[[mounts]]` of a manifest: what an agent's tree has besides, or lacks.

use serde::{Deserialize, Serialize};

use crate::namespace::Path;
use crate::namespace::mount::Access;

/// `[[mounts]]`: changes what a path of the agent's tree allows, or mounts what operators have put under `/srv`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountSpec {
    /// Where: a mount of the tree, or a new one at or beneath `/workspace` or `/tools`.
    pub path: String,
    /// What, by its names under `/srv`; of several, later ones shadow earlier ones. Nothing changes the access of
    /// what is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// What it lets the agent do.
    #[serde(default)]
    pub access: Access,
    /// Whether the agent is woken when others change something in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trigger: bool,
    /// Whether the agent's changes go over it, into its own state, and leave it as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cow: bool,
}

impl MountSpec {
    /// The path; of a manifest that was checked, it is one.
    pub fn at(&self) -> Path {
        self.path.parse().unwrap_or_else(|_| Path::root())
    }

    /// Says what is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        let path: Path = self.path.parse().map_err(|error| format!("{:?}: {error}", self.path))?;
        let is_free = path.strip("/workspace").is_some() || path.strip("/tools").is_some();
        if !self.from.is_empty() && (!is_free || path.as_str() == "/tools") {
            return Err(format!(
                "{path}: only /workspace, and what is beneath it or /tools, can be mounted on"
            ));
        }
        if matches!(self.access, Access::Budgeted(_)) && path.as_str() != "/wallet" {
            return Err(format!("{path}: only /wallet has a budget"));
        }
        if self.from.is_empty() && (self.cow || self.trigger) {
            return Err(format!("{path}: cow and trigger need a from"));
        }
        Ok(())
    }
}
