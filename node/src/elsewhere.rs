//! Agents whose key is not derived from the seed: it lives in a bunker (NIP-46), or in a file of the home because the
//! agent can move. Which, is in the store; who signs, in the keyring.
//!
//! Nothing secret is kept in the store: the key by which a bunker knows this node is derived from the node's seed, one for each
//! bunker, and the secret of its address was used to be let in. A bunker that is away makes the agent's mail wait, in
//! and out; that it is back brings both on their way again.

use std::sync::Arc;
use std::time::Duration;

use oa_nips::nostr::PublicKey;
use oa_nips::port::{RowWrite, SignerError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::{AgentId, Lifecycle};
use crate::bundle::chain;
use crate::bunker::uri::{BunkerUri, Remote};
use crate::drivers::bunker::dial;
use crate::engine::shared::Shared;
use crate::keyring::{Adopted, Keyring, OwnKey};
use crate::signer::bunker::{Bunker, Link, Patience, Silence, Wary};
use crate::signer::{Absent, KeyCase, KeyFileError};
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::write::Write;
use crate::tenure::Tenure;
use crate::time::Time;

/// The space of the rows.
const SPACE: &str = "elsewhere";
/// Agents of one node whose key is not of the seed. 64: each costs connections to its bunker's relays, or a lease.
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
    /// The agent's address.
    pub(crate) public_key: PublicKey,
    /// The bunker that has the key; nothing where it is in a file of the home.
    pub(crate) bunker: Option<Remote>,
}

/// What reaches keys that are not derived from the seed.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    pub(crate) keyring: Arc<dyn Keyring>,
    /// Where agents' own keys are; nothing where the node may make none.
    pub(crate) case: Option<Arc<KeyCase>>,
    pub(crate) tenure: Tenure,
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

    fn wary(&self, bunker: Bunker) -> Adopted {
        Adopted::Bunker(Arc::new(Wary::new(bunker, self.back.clone())))
    }

    /// Has a bunker let this node in, and finds out whose key it has.
    ///
    /// # Errors
    /// [`SignerError::Refused`] when it does not let us in, [`SignerError::Unavailable`] when it is away or asks its
    /// owner first: then the same again later is all right.
    pub(crate) async fn connect(&self, uri: BunkerUri) -> Result<Adopted, SignerError> {
        let link = self.link(uri.remote);
        Ok(self.wary(link.connect(uri.secret, PERMISSIONS).await?))
    }

    /// Makes a key for an agent that can move.
    ///
    /// # Errors
    /// Why it cannot be kept.
    pub(crate) fn make(&self) -> Result<Adopted, String> {
        let none = "this node's passphrase was typed: give it in a file, and it can keep keys for agents";
        let case = self.case.as_ref().ok_or(none)?;
        let keys = case.make().map_err(|error| chain(&error))?;
        Ok(Adopted::Own(Arc::new(OwnKey::new(keys, true))))
    }

    /// The own key of an agent, if there is a file of it.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub(crate) fn find(&self, key: &PublicKey) -> Result<Option<Adopted>, String> {
        let Some(case) = &self.case else { return Ok(None) };
        let keys = case.find(key).map_err(|error| told(&error))?;
        Ok(keys.map(|keys| Adopted::Own(Arc::new(OwnKey::new(keys, false)))))
    }

    /// Has an agent use a key from now on.
    pub(crate) fn adopt(&self, agent: AgentId, key: Adopted) {
        self.tenure.moves(agent);
        self.keyring.adopt(agent, key);
    }

    /// Puts the keys of all such agents into the keyring. No bunker is asked yet. A key whose file is not there keeps
    /// its agent waiting, and nobody else.
    ///
    /// # Errors
    /// What the store said.
    pub(crate) fn adopt_all(&self, store: &Store) -> Result<(), BackendError> {
        for (agent, Place { public_key, bunker }) in all(store)? {
            let missing = |why: String| {
                tracing::error!(%agent, why, "an agent's key is missing");
                Adopted::Missing(Arc::new(Absent::new(public_key, why)))
            };
            let adopted = match bunker {
                Some(bunker) => self.wary(self.link(bunker).resume(public_key)),
                None => match self.find(&public_key) {
                    Ok(Some(own)) => own,
                    Ok(None) => {
                        missing("the file with the agent's key is not in the home's folder keys".to_owned())
                    }
                    Err(why) => missing(why),
                },
            };
            self.adopt(agent, adopted);
        }
        Ok(())
    }

    /// How an agent's key does, for its status; nothing for one of the seed's.
    pub(crate) fn status(&self, agent: AgentId) -> Option<Value> {
        let lease = self.tenure.status_of(agent);
        Some(match self.keyring.adopted(agent)? {
            Adopted::Own(_) => json!({ "in": "file", "lease": lease }),
            Adopted::Missing(absent) => json!({ "in": "file", "why": absent.why(), "lease": lease }),
            Adopted::Bunker(signer) => {
                let link = signer.bunker().link();
                json!({
                    "in": "bunker",
                    "relays": link.remote().relays,
                    "away_since": link.silence().map(|Silence { since_ms, .. }| since_ms / 1000),
                    "why": signer.trouble(),
                    "lease": lease,
                })
            }
        })
    }
}

/// Why a key cannot be used, and what to do about it.
fn told(error: &KeyFileError) -> String {
    let hint = error.hint().map_or_else(String::new, |hint| format!(": {hint}"));
    chain(error) + &hint
}

/// The agents whose key is not of the seed, of those that are there.
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

/// The write that keeps where an agent's key is.
///
/// # Errors
/// What the store said.
pub(crate) fn put(store: &Store, agent: AgentId, key: &Adopted) -> Result<Write, BackendError> {
    let bunker = match key {
        Adopted::Bunker(signer) => Some(signer.bunker().link().remote().clone()),
        Adopted::Own(_) | Adopted::Missing(_) => None,
    };
    let place = Place { public_key: key.signer().public_key(), bunker };
    let (space, key) = (SPACE.to_owned(), format!("{:010}", agent.0));
    let expect_version = store.row(&space, &key)?.map_or(0, |row| row.version);
    let value = serde_json::to_vec(&place).ok();
    Ok(Write::Row(RowWrite { space, key, expect_version, value }))
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

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let case = KeyCase::new(dir.path(), None);
        let key = case.make().unwrap().public_key();
        let path = case.path(&key);
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let said = told(&case.find(&key).unwrap_err());
        assert!(
            said.ends_with(&format!("can be read by others (mode 640): chmod 600 {}", path.display())),
            "{said}"
        );
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(case.find(&key).unwrap().is_some());
    }
}
