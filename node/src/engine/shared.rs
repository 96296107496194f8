//! What every tick of a node shares.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::agent::AgentId;
use crate::agent::manifest::Manifest;
use crate::approvals::Index;
use crate::engine::hooks::Hooks;
use crate::engine::running::Running;
use crate::engine::turns::Turns;
use crate::feeds::Feeds;
use crate::keyring::Keyring;
use crate::namespace::Consent;
use crate::notice::Notices;
use crate::operator::Roles;
use crate::outbox::{Directory, Outbox};
use crate::plumber::Plumber;
use crate::program::{Agent, Concierge, Echo};
use crate::serve::Mounted;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::tenure::Tenure;
use crate::time::Time;

/// Manifests kept parsed.
const MANIFESTS_MAX: usize = 1024;

/// The parts of a node that ticks use.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    /// The same as it is decided: what ticks read, which run ahead of the disk.
    pub(crate) decided: Store,
    pub(crate) keyring: Arc<dyn Keyring>,
    pub(crate) time: Arc<dyn Time>,
    pub(crate) notices: Notices,
    /// What onlookers are shown.
    pub(crate) feeds: Arc<Feeds>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) outbox: Outbox,
    pub(crate) running: Running,
    /// The trees of agents.
    pub(crate) mounts: Arc<Mounted>,
    /// Who may change an agent's files now.
    pub(crate) turns: Turns,
    /// Who is asked before a change that needs consent.
    pub(crate) consent: Arc<dyn Consent>,
    /// What was asked for, and waits.
    pub(crate) wishes: Arc<Index>,
    /// Who is who by the node's configuration.
    pub(crate) roles: Roles,
    /// What follows writes that land.
    pub(crate) hooks: Hooks,
    /// Whether the node may act now.
    pub(crate) tenure: Tenure,
    pub(crate) manifests: Arc<Manifests>,
    /// Where envelopes go.
    pub(crate) plumber: Arc<Plumber>,
    pub(crate) programs: Programs,
}

/// Parsed manifests, by the agent's version.
#[derive(Debug, Default)]
pub(crate) struct Manifests(Mutex<HashMap<AgentId, (u64, Arc<Manifest>)>>);

impl Manifests {
    /// The manifest of an agent that is at `version`.
    pub(crate) fn get(
        &self,
        store: &Store,
        id: AgentId,
        version: u64,
    ) -> Result<Arc<Manifest>, BackendError> {
        {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, manifest)) = known.get(&id).filter(|(at, _)| *at == version) {
                return Ok(manifest.clone());
            }
        }
        let manifest = store.manifest(id)?.ok_or_else(|| BackendError::Corrupt {
            path: format!("manifest of agent {id}"),
            detail: "missing".to_owned(),
        })?;
        let manifest = Arc::new(manifest);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MANIFESTS_MAX {
            known.clear();
        }
        known.insert(id, (version, manifest.clone()));
        Ok(manifest)
    }
}

/// The native programs by name; those who embed the node may add theirs.
#[derive(Debug, Clone)]
pub struct Programs(HashMap<String, Arc<dyn Agent>>);

impl Default for Programs {
    fn default() -> Self {
        let mut programs = Self(HashMap::new());
        programs.add("concierge", Arc::new(Concierge));
        programs.add("echo", Arc::new(Echo));
        programs
    }
}

impl Programs {
    /// Adds or replaces a program.
    pub fn add(&mut self, name: &str, program: Arc<dyn Agent>) {
        self.0.insert(name.to_owned(), program);
    }

    /// Checks that there is a program of this name.
    ///
    /// # Errors
    /// A sentence that names those there are.
    pub fn check(&self, name: &str) -> Result<(), String> {
        if self.0.contains_key(name) {
            return Ok(());
        }
        let mut known: Vec<&str> = self.0.keys().map(String::as_str).collect();
        known.sort_unstable();
        Err(format!("there is no program {name:?}; there are {}", known.join(", ")))
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<dyn Agent>> {
        self.0.get(name).cloned()
    }
}
