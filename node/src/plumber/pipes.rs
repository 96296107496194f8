//! The rules that hold now, and the agents they are about.

use std::sync::{Arc, Mutex, PoisonError};

use oa_nips::nostr::PublicKey;

use super::item::{Item, Source};
use super::rule::{self, Rule, RulesError};
use super::{Place, Resident, Route, route};
use crate::agent::manifest::Manifest;
use crate::agent::{AgentId, Lifecycle, mailbox};
use crate::engine::shared::Manifests;
use crate::keyring::Keyring;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::row::AgentRow;
use crate::store::write::Write;

/// The fact in the store: the node's rules, as they were written.
const TABLE: &str = "plumbing";

/// Where something was placed.
pub(crate) type Placed = Route<(AgentRow, Arc<Manifest>)>;

/// Rules that were read, and the text they were read from.
type Read = (Vec<u8>, Arc<[Rule]>);

/// Routes what comes by the rules in the store.
#[derive(Debug)]
pub(crate) struct Plumber {
    store: Store,
    keyring: Arc<dyn Keyring>,
    manifests: Arc<Manifests>,
    read: Mutex<Option<Read>>,
}

impl Plumber {
    pub(crate) fn new(store: Store, keyring: Arc<dyn Keyring>, manifests: Arc<Manifests>) -> Self {
        Self { store, keyring, manifests, read: Mutex::default() }
    }

    /// Where an item for an agent goes.
    ///
    /// # Errors
    /// What the store said.
    pub(crate) fn place(&self, item: &Item<'_>, row: &AgentRow) -> Result<Placed, BackendError> {
        let rules = self.rules()?;
        let manifest = self.manifests.get(&self.store, row.id, row.version)?;
        if rules.is_empty() && manifest.plumb.is_empty() {
            return Ok(Route { rule: item.source.default_rule().to_owned(), place: Place::Inbox });
        }
        let first = self.resident(item, row.clone(), manifest)?;
        route(&rules, item, &first, |name| {
            let Some(id) = self.store.agent_named(name)? else { return Ok(None) };
            let Some(row) = self.store.agent(id)? else { return Ok(None) };
            // What an agent wrote never comes back to it.
            if row.lifecycle == Lifecycle::Terminated || item.sender == Some(row.pubkey) {
                return Ok(None);
            }
            let manifest = self.manifests.get(&self.store, id, row.version)?;
            self.resident(item, row, manifest).map(Some)
        })
    }

    /// Whether a key is that of an agent of this node.
    pub(crate) fn is_agents(&self, key: &PublicKey) -> bool {
        self.keyring.whose(key).is_some_and(|id| id != AgentId::NODE)
    }

    fn resident(
        &self,
        item: &Item<'_>,
        row: AgentRow,
        manifest: Arc<Manifest>,
    ) -> Result<Resident<(AgentRow, Arc<Manifest>)>, BackendError> {
        let trust = match &item.sender {
            Some(sender) => {
                let peer = self.store.peer(row.id, sender)?.unwrap_or_default();
                Some(mailbox::trust(&manifest, row.owner.as_ref(), &peer, sender))
            }
            None => None,
        };
        let (name, rules) = (row.name.clone(), manifest.plumb.clone());
        Ok(Resident { who: (row, manifest), name, trust, rules })
    }

    /// The node's rules. The table is a few kilobytes at most, so it is looked at each time.
    fn rules(&self) -> Result<Arc<[Rule]>, BackendError> {
        let bytes = self.store.meta(TABLE)?.unwrap_or_default();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, rules)) = read.as_ref().filter(|(of, _)| *of == bytes) {
            return Ok(rules.clone());
        }
        // An agent that a rule names may be gone by now; the rule is passed over then.
        let parsed = rule::parse(&String::from_utf8_lossy(&bytes), |_| true);
        let rules: Arc<[Rule]> = match parsed {
            Ok(rules) => rules.into(),
            Err(error) => {
                // It was checked when it was written, by other rules perhaps.
                tracing::error!(%error, "the plumber goes by its defaults");
                Arc::default()
            }
        };
        *read = Some((bytes, rules.clone()));
        Ok(rules)
    }

    /// The node's rules as they were written, or the defaults, as a comment.
    pub(crate) fn table(store: &Store) -> Result<Vec<u8>, BackendError> {
        Ok(match store.meta(TABLE)?.filter(|text| !text.is_empty()) {
            Some(text) => text,
            None => defaults().into_bytes(),
        })
    }

    /// The write that sets the node's rules.
    ///
    /// # Errors
    /// Names line and key.
    pub(crate) fn set(store: &Store, text: &str) -> Result<Write, RulesError> {
        rule::parse(text, |name| store.agent_named(name).is_ok_and(|id| id.is_some()))?;
        Ok(Write::Meta(TABLE, text.as_bytes().to_vec()))
    }
}

fn defaults() -> String {
    let mut text = "# No rules. After all rules come these:\n".to_owned();
    for source in Source::ALL {
        let from = serde_json::to_string(&source).unwrap_or_default();
        text += &format!(
            "#\n# [[rule]]\n# name = {:?}\n# from = [{from}]\n# to = \"inbox\"\n",
            source.default_rule()
        );
    }
    text
}
