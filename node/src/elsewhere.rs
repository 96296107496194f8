//! Agents whose key lives in a bunker (NIP-46): which one, in the store; their signers, in the keyring.
//!
//! Nothing secret is kept: the key by which a bunker knows this node is derived from the node's seed, one for each
//! bunker, and the secret of its address was used to be let in. A bunker that is away makes the agent's mail wait, in
//! and out; that it is back brings both on their way again.

use std::sync::Arc;
use std::time::Duration;

use oa_nips::nostr::PublicKey;
use oa_nips::port::{RowWrite, Signer as _, SignerError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::{AgentId, Lifecycle};
use crate::bunker::uri::{BunkerUri, Remote};
use crate::drivers::bunker::dial;
use crate::engine::shared::Shared;
use crate::keyring::Keyring;
use crate::signer::bunker::{Bunker, Link, Patience, Silence, Wary};
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::time::Time;

/// The space of the rows.
const SPACE: &str = "elsewhere";
/// Agents of one node whose key is in a bunker. 64: each costs a connection to each of its bunker's relays.
pub(crate) const AGENTS_MAX: usize = 64;
/// From a request to a bunker's answer. 4 s: everybody's mail waits behind the first that is not answered, and who
/// creates an agent waits for two answers.
const ANSWER: Duration = Duration::from_secs(4);
/// What an agent needs of its bunker, as NIP-46 writes it: everything that it may publish, and its mail.
const PERMISSIONS: &str = "sign_event,nip44_encrypt,nip44_decrypt,nip04_encrypt,nip04_decrypt";

/// Where an agent's key is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    /// The agent's address: whose key the bunker has.
    pub(crate) public_key: PublicKey,
    /// The bunker.
    pub(crate) bunker: Remote,
}

/// What reaches bunkers for a node.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    pub(crate) keyring: Arc<dyn Keyring>,
    pub(crate) time: Arc<dyn Time>,
    /// Told when a bunker that was away is back.
    pub(crate) back: Arc<Notify>,
}

impl Reach {
    fn link(&self, bunker: Remote) -> Link {
        let patience = Patience { answer: ANSWER, owner: None };
        let client = self.keyring.client_of(&bunker.public_key);
        dial(patience, bunker, client, self.time.clone())
    }

    fn wary(&self, bunker: Bunker) -> Arc<Wary> {
        Arc::new(Wary::new(bunker, self.back.clone()))
    }

    /// Has a bunker let this node in, and finds out whose key it has.
    ///
    /// # Errors
    /// [`SignerError::Refused`] when it does not let us in, [`SignerError::Unavailable`] when it is away or asks its
    /// owner first: then the same again later is all right.
    pub(crate) async fn connect(&self, uri: BunkerUri) -> Result<Arc<Wary>, SignerError> {
        let link = self.link(uri.remote);
        Ok(self.wary(link.connect(uri.secret, PERMISSIONS).await?))
    }

    /// Puts the signers of all such agents into the keyring. No bunker is asked yet.
    ///
    /// # Errors
    /// What the store said.
    pub(crate) fn adopt_all(&self, store: &Store) -> Result<(), BackendError> {
        for (agent, Place { public_key, bunker }) in all(store)? {
            self.keyring.adopt(agent, self.wary(self.link(bunker).resume(public_key)));
        }
        Ok(())
    }
}

/// The agents whose key is in a bunker, of those that are there.
///
/// # Errors
/// What the store said, or a damaged row.
pub(crate) fn all(store: &Store) -> Result<Vec<(AgentId, Place)>, BackendError> {
    let mut all = Vec::new();
    for (name, row) in store.rows(SPACE, "", usize::MAX)? {
        let Ok(agent) = name.parse().map(AgentId) else { continue };
        if store.agent(agent)?.is_none_or(|agent| agent.lifecycle == Lifecycle::Terminated) {
            continue;
        }
        let place = serde_json::from_slice(&row.value).map_err(|error| BackendError::Corrupt {
            path: format!("rows of {SPACE}"),
            detail: error.to_string(),
        })?;
        all.push((agent, place));
    }
    Ok(all)
}

/// The write that keeps where a new agent's key is.
pub(crate) fn put(agent: AgentId, signer: &Wary) -> RowWrite {
    let bunker = signer.bunker();
    let place = Place { public_key: bunker.public_key(), bunker: bunker.link().remote().clone() };
    let (space, key) = (SPACE.to_owned(), format!("{:010}", agent.0));
    RowWrite { space, key, expect_version: 0, value: serde_json::to_vec(&place).ok() }
}

/// How an agent's key does, for its status.
pub(crate) fn status(signer: &Wary) -> Value {
    let link = signer.bunker().link();
    let silence = link.silence();
    json!({
        "in": "bunker",
        "relays": link.remote().relays,
        "away_since": silence.as_ref().map(|Silence { since_ms, .. }| since_ms / 1000),
        "why": silence.map(|silence| silence.why),
    })
}

/// Brings mail on its way whenever a bunker is back, until `cancel`: what could not be opened is swept for through
/// `left`, what could not be signed is tried.
pub(crate) fn start(
    shared: Arc<Shared>,
    back: Arc<Notify>,
    left: Arc<Notify>,
    cancel: CancellationToken,
) -> JoinHandle<()> {
    let again = async move {
        loop {
            back.notified().await;
            left.notify_one();
            shared.outbox.relay_up();
        }
    };
    tokio::spawn(async move { cancel.run_until_cancelled(again).await.unwrap_or(()) })
}
