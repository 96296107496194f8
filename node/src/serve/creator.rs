//! New agents: numbers that never return, keys, profiles.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use oa_nips::hex::Hex;
use oa_nips::nostr::{PublicKey, Timestamp};

use crate::agent::AgentId;
use crate::agent::manifest::Manifest;
use crate::codes;
use crate::engine::Programs;
use crate::keyring::Keyring;
use crate::profiles::{self, Place};
use crate::serve::Mounted;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::write::{NewAgent, Write};

/// Makes agents.
#[derive(Debug)]
pub(crate) struct Creator {
    keyring: Arc<dyn Keyring>,
    programs: Programs,
    /// What agents say of where they are.
    pub(crate) place: Place,
    /// The next number. One that was taken and not used is lost, and there are 2^31.
    next: AtomicU32,
    /// What manifests can mount; set once the trees are made. The trees have the creator in them, so it must not keep
    /// them: a node that ends would keep its store open.
    mounted: OnceLock<Weak<Mounted>>,
}

impl Creator {
    /// A creator that goes on after the store's last agent.
    ///
    /// # Errors
    /// What the store said.
    pub(crate) fn new(
        store: &Store,
        keyring: Arc<dyn Keyring>,
        programs: Programs,
        place: Place,
    ) -> Result<Self, BackendError> {
        let next = AtomicU32::new(store.next_agent_id()?.0);
        Ok(Self { keyring, programs, place, next, mounted: OnceLock::new() })
    }

    /// Checks that a manifest can be run here.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub(crate) fn check(&self, manifest: &Manifest) -> Result<(), String> {
        manifest.check().map_err(|error| format!("manifest: {error}"))?;
        self.programs.check(&manifest.program).map_err(|error| format!("manifest: program: {error}"))?;
        let mounted =
            self.mounted.get().and_then(Weak::upgrade).map_or(Ok(()), |mounted| mounted.check(manifest));
        mounted.map_err(|error| format!("manifest: {error}"))
    }

    /// Sets what manifests can mount; once.
    pub(crate) fn set_mounted(&self, mounted: &Arc<Mounted>) {
        // A second setting would be a bug of the wiring, and the first holds.
        let _ = self.mounted.set(Arc::downgrade(mounted));
    }

    /// A number that nobody had.
    pub(crate) fn number(&self) -> AgentId {
        AgentId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A number that somebody has: no new agent gets it.
    pub(crate) fn never_again(&self, id: AgentId) {
        self.next.fetch_max(id.0.saturating_add(1), Ordering::Relaxed);
    }

    /// The write that creates an agent of this manifest, which was checked, and what it will be called by.
    pub(crate) fn create(&self, manifest: Manifest, now_ms: u64) -> (AgentId, PublicKey, Write) {
        let id = self.number();
        let pubkey = self.keyring.agent(id).public_key();
        (id, pubkey, self.create_as(id, pubkey, manifest, now_ms))
    }

    /// The same for an agent whose number and key are known.
    pub(crate) fn create_as(&self, id: AgentId, pubkey: PublicKey, manifest: Manifest, now_ms: u64) -> Write {
        let at = Timestamp::from_secs(now_ms / 1000);
        let owner = manifest.owner.map(|npub| npub.0);
        let profile = profiles::events(&manifest, owner, pubkey, &self.place, at);
        let session = codes::random().first_chunk().copied().map_or(Hex::ZERO, Hex);
        let new = NewAgent { id, pubkey, manifest, session, at_ms: now_ms, profile };
        Write::CreateAgent(Box::new(new))
    }
}
