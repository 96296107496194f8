//! Who signs for whom: the node's signer, and each agent's; and whose address is whose.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use oa_nips::nostr::{Keys, PublicKey, SecretKey};
use oa_nips::port::Signer;

use crate::agent::AgentId;
use crate::signer::bunker::Wary;
use crate::signer::{Absent, Conversations, LocalSigner, Seed};
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

    /// From now on an agent has this key instead of what would be derived for it.
    fn adopt(&self, id: AgentId, key: Adopted);

    /// The key of an agent that has another than would be derived for it.
    fn adopted(&self, id: AgentId) -> Option<Adopted>;

    /// The key by which a bunker knows this node: another one for each bunker.
    fn client_of(&self, bunker: &PublicKey) -> Keys;

    /// The agent that has this key, if this node's agents do.
    fn whose(&self, key: &PublicKey) -> Option<AgentId>;
}

/// A key that is not derived from the node's seed.
#[derive(Debug, Clone)]
pub enum Adopted {
    /// It is in a bunker.
    Bunker(Arc<Wary>),
    /// It is the agent's own, in a file of the home: the agent can move.
    Own(Arc<OwnKey>),
    /// It is the agent's own, and its file cannot be read: why not.
    Missing(Arc<Absent>),
}

impl Adopted {
    /// Who signs.
    pub fn signer(&self) -> Arc<dyn Signer> {
        match self {
            Self::Bunker(signer) => signer.clone(),
            Self::Own(own) => own.signer.clone(),
            Self::Missing(absent) => absent.clone(),
        }
    }
}

/// The key of an agent that can move.
#[derive(Debug)]
pub struct OwnKey {
    /// Who signs.
    pub signer: Arc<LocalSigner>,
    /// Whether it was made in this very process: nobody else can have it.
    pub is_fresh: bool,
    secret: Random,
}

struct Random([u8; 32]);

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl OwnKey {
    /// Of these keys.
    pub fn new(keys: Keys, is_fresh: bool) -> Self {
        let secret = Random(Seed::secret_of(&keys, RANDOM));
        let signer = Arc::new(LocalSigner::new(keys, Conversations::new(OWN_CONVERSATIONS)));
        Self { signer, is_fresh, secret }
    }
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

/// Conversations of an agent with a key of its own that are kept at hand.
const OWN_CONVERSATIONS: usize = 256;
/// Agents' signers kept at hand.
const SIGNERS_MAX: usize = 4096;
/// What agents' randomness is derived for.
const RANDOM: &str = "random";
/// What the keys are derived for by which bunkers know the node; the bunker's key follows.
const BUNKER: &str = "bunker/client/";

/// The keys of one seed: account 0 is the node's, agent `n` has account `n + 1` (DESIGN section 7).
#[derive(Debug)]
pub struct SeedKeyring {
    seed: Seed,
    node: Arc<LocalSigner>,
    addresses: Arc<Addresses>,
    conversations: Conversations,
    agents: Mutex<HashMap<AgentId, Known>>,
    /// Agents whose keys are not of the seed.
    adopted: RwLock<HashMap<AgentId, Adopted>>,
}

impl SeedKeyring {
    /// The keyring of a seed whose agents have these addresses.
    pub fn new(seed: Seed, addresses: Arc<Addresses>) -> Self {
        let conversations = Conversations::default();
        let node = Arc::new(LocalSigner::new(seed.node().clone(), conversations.clone()));
        let (agents, adopted) = (Mutex::default(), RwLock::default());
        Self { seed, node, addresses, conversations, agents, adopted }
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
        if id == AgentId::NODE {
            return self.node.clone();
        }
        match self.adopted(id) {
            Some(adopted) => adopted.signer(),
            None => self.known(id).signer,
        }
    }

    fn secret(&self, id: AgentId) -> [u8; 32] {
        match self.adopted(id) {
            // The same wherever it goes: what it began elsewhere it ends as it began.
            Some(Adopted::Own(own)) => own.secret.0,
            // A bunker gives no secret away.
            Some(Adopted::Bunker(_) | Adopted::Missing(_)) | None => self.known(id).secret,
        }
    }

    fn adopt(&self, id: AgentId, key: Adopted) {
        self.adopted.write().unwrap_or_else(PoisonError::into_inner).insert(id, key);
    }

    fn adopted(&self, id: AgentId) -> Option<Adopted> {
        self.adopted.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn client_of(&self, bunker: &PublicKey) -> Keys {
        let purpose = format!("{BUNKER}{}", bunker.to_hex());
        let secret = SecretKey::from_slice(&Seed::secret_of(self.seed.node(), &purpose));
        Keys::new(secret.expect("all but one in 2^127 of such secrets are keys"))
    }

    fn whose(&self, key: &PublicKey) -> Option<AgentId> {
        self.addresses.whose(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bunker_knows_the_node_by_another_key_and_always_by_the_same() {
        let seed = Seed::generate();
        let ring = || SeedKeyring::new(seed.clone(), Arc::default());
        let (one, other) = (Keys::generate().public_key(), Keys::generate().public_key());
        let key = ring().client_of(&one);
        assert_eq!(ring().client_of(&one), key);
        assert_ne!(ring().client_of(&other), key);
        assert_ne!(key.public_key(), ring().node().public_key());
    }
}
