//! Who signs for whom: the node's signer, and each agent's; and whose address is whose.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use oa_nips::nostr::PublicKey;
use oa_nips::port::Signer;

use crate::agent::AgentId;
use crate::signer::{Conversations, LocalSigner, Seed};
use crate::store::Store;
use crate::store::backend::BackendError;

/// Hands out signers. Keys stay behind it.
pub trait Keyring: Debug + Send + Sync {
    /// The node's own key.
    fn node(&self) -> Arc<dyn Signer>;

    /// The key of an agent, which exists or is about to be created; the node's own for [`AgentId::NODE`].
    fn agent(&self, id: AgentId) -> Arc<dyn Signer>;

    /// What an agent's randomness is made from; never leaves the node.
    fn secret(&self, id: AgentId) -> [u8; 32];

    /// The agent that has this key, if this node's agents do.
    fn whose(&self, key: &PublicKey) -> Option<AgentId>;
}

/// Whose keys are whose: the agents of a node by address.
#[derive(Debug, Default)]
pub struct Addresses(RwLock<HashMap<PublicKey, AgentId>>);

impl Addresses {
    /// The agents of a store.
    ///
    /// # Errors
    /// What the store said.
    pub fn load(store: &Store) -> Result<Self, BackendError> {
        Ok(Self(RwLock::new(store.addresses()?.into_iter().collect())))
    }

    /// The agent that has this key.
    pub fn whose(&self, key: &PublicKey) -> Option<AgentId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }

    /// All keys.
    pub fn keys(&self) -> Vec<PublicKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    pub(crate) fn add(&self, key: PublicKey, id: AgentId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(key, id);
    }

    pub(crate) fn remove(&self, key: &PublicKey) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// Agents' signers kept at hand.
const SIGNERS_MAX: usize = 4096;
/// What agents' randomness is derived for.
const RANDOM: &str = "random";

/// The keys of one seed: account 0 is the node's, agent `n` has account `n + 1` (DESIGN section 7).
#[derive(Debug)]
pub struct SeedKeyring {
    seed: Seed,
    node: Arc<LocalSigner>,
    addresses: Arc<Addresses>,
    conversations: Conversations,
    agents: Mutex<HashMap<AgentId, Known>>,
}

impl SeedKeyring {
    /// The keyring of a seed whose agents have these addresses.
    pub fn new(seed: Seed, addresses: Arc<Addresses>) -> Self {
        let conversations = Conversations::default();
        let node = Arc::new(LocalSigner::new(seed.node().clone(), conversations.clone()));
        Self { seed, node, addresses, conversations, agents: Mutex::default() }
    }
}

/// What was derived for an agent: each derivation costs an elliptic curve, and every tick asks.
#[derive(Clone)]
struct Known {
    signer: Arc<LocalSigner>,
    secret: [u8; 32],
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl SeedKeyring {
    fn known(&self, id: AgentId) -> Known {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = agents.get(&id) {
            return known.clone();
        }
        if agents.len() >= SIGNERS_MAX {
            agents.clear();
        }
        let keys = self.seed.agent(id.0).expect("a store has fewer agents than there are accounts, 2^31");
        let secret = Seed::secret_of(&keys, RANDOM);
        let known = Known { signer: Arc::new(LocalSigner::new(keys, self.conversations.clone())), secret };
        agents.insert(id, known.clone());
        known
    }
}

impl Keyring for SeedKeyring {
    fn node(&self) -> Arc<dyn Signer> {
        self.node.clone()
    }

    fn agent(&self, id: AgentId) -> Arc<dyn Signer> {
        if id == AgentId::NODE { self.node.clone() } else { self.known(id).signer }
    }

    fn secret(&self, id: AgentId) -> [u8; 32] {
        self.known(id).secret
    }

    fn whose(&self, key: &PublicKey) -> Option<AgentId> {
        self.addresses.whose(key)
    }
}
