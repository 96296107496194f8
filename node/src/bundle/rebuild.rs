//! A node's agents from its seed alone: into an empty store, before its node starts.
//!
//! Bundles bring agents back as they were. Of the others only their profiles (kind 0 with `bot: true`) are left, on
//! the relays: agent after agent is looked for under the keys of the seed, until [`GAP`] in a row are not there. Those
//! found are made anew, without memory, under their old keys and names; their mailboxes begin now. An agent that was
//! removed has a profile too, and comes back: nothing public tells that it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use oa_nips::hex::Hex;
use oa_nips::nostr::{Event, Filter, PublicKey, RelayUrl};
use oa_nips::port::Subscribe;
use oa_nips::{kind, profile};
use serde_json::Value;

use super::admit::{AdmitError, Mode};
use super::{Bundle, restoring};
use crate::agent::AgentId;
use crate::agent::manifest::{Manifest, Npub, is_name};
use crate::engine::Programs;
use crate::keyring::Keyring;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::write::{NewAgent, Verdict, Write};
use crate::{codes, profiles};

/// Numbers in a row without a profile, after which nobody is looked for any more.
pub const GAP: u32 = 20;
/// How long a relay may take for the profiles of [`GAP`] agents.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);
/// Longest description taken over, in characters; a manifest takes no longer one.
const ABOUT_CHARS_MAX: usize = 1_000;

/// What agents are rebuilt from, and where.
#[derive(Debug)]
pub struct Rebuild {
    /// Has no agents.
    pub store: Store,
    /// The keys of the seed.
    pub keyring: Arc<dyn Keyring>,
    /// To the relays.
    pub subscribe: Arc<dyn Subscribe>,
    /// What can be run.
    pub programs: Programs,
    /// Where profiles are looked for; nowhere if there are none.
    pub relays: Vec<RelayUrl>,
    /// Who owns agents of which only the profile is left.
    pub owner: PublicKey,
    /// Milliseconds since 1970.
    pub now_ms: u64,
}

/// An agent that is back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    pub number: AgentId,
    pub name: String,
    pub pubkey: PublicKey,
    /// Whether it is as it was; else it has nothing but its key and name.
    pub is_whole: bool,
}

/// Why no agents were rebuilt. The store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error(transparent)]
    Admit(#[from] AdmitError),
    #[error("two of the bundles are of agent {0}, or of agents of one name")]
    Twice(AgentId),
    #[error("the bundle of {name} cannot be used: {reason}")]
    Program { name: String, reason: String },
    #[error("no relay answered: the agents of the seed cannot be looked for")]
    NoRelay,
    #[error("there are agents in the store already")]
    NotEmpty,
    #[error("the store does not answer")]
    Store(#[from] BackendError),
}

impl Rebuild {
    /// Rebuilds them all at once, or none.
    ///
    /// # Errors
    /// See [`RebuildError`].
    pub async fn run(self, bundles: Vec<Bundle>) -> Result<Vec<Rebuilt>, RebuildError> {
        if self.store.next_agent_id()? != AgentId(0) {
            return Err(RebuildError::NotEmpty);
        }
        let (mut writes, mut rebuilt, mut names) = (Vec::new(), Vec::new(), BTreeSet::new());
        for bundle in bundles {
            let (agent, unit) = self.whole(bundle)?;
            if !names.insert(agent.name.clone())
                || rebuilt.iter().any(|old: &Rebuilt| old.number == agent.number)
            {
                return Err(RebuildError::Twice(agent.number));
            }
            writes.extend(unit);
            rebuilt.push(agent);
        }
        let known: BTreeSet<AgentId> = rebuilt.iter().map(|agent| agent.number).collect();
        for (number, found) in self.profiles(&known).await? {
            let mut manifest = manifest(&found, &self.programs);
            if !is_name(&manifest.name) || names.contains(&manifest.name) {
                manifest.name = format!("agent-{number}");
            }
            names.insert(manifest.name.clone());
            manifest.owner = Some(Npub(self.owner));
            let session = Hex(codes::random().first_chunk().copied().unwrap_or_default());
            let (name, pubkey, at_ms) = (manifest.name.clone(), found.pubkey, self.now_ms);
            let new = NewAgent { id: number, pubkey, manifest, session, at_ms, profile: Vec::new() };
            writes.push(Write::CreateAgent(Box::new(new)));
            rebuilt.push(Rebuilt { number, name, pubkey, is_whole: false });
        }
        // The node shows its agents anew when its relays are not those of the last time, and these are none.
        writes.push(Write::Meta(profiles::RELAYS, Vec::new()));
        let verdicts = self.store.commit(writes).await?;
        if verdicts.iter().any(Verdict::stops_unit) {
            return Err(RebuildError::NotEmpty);
        }
        rebuilt.sort_by_key(|agent| agent.number);
        Ok(rebuilt)
    }

    fn whole(&self, bundle: Bundle) -> Result<(Rebuilt, [Write; 2]), RebuildError> {
        bundle.belongs(&*self.keyring, Mode::Restore)?;
        let (import, goes_on) = bundle.restored()?;
        let name = import.row.name.clone();
        self.programs
            .check(&import.manifest.program)
            .map_err(|reason| RebuildError::Program { name: name.clone(), reason })?;
        let (number, pubkey) = (import.row.id, import.row.pubkey);
        let note = restoring::note(&self.store, number, &goes_on)?;
        Ok((Rebuilt { number, name, pubkey, is_whole: true }, [Write::Import(Box::new(import)), note]))
    }

    /// The newest profiles of the seed's agents, by number; those that are known count as there.
    async fn profiles(&self, known: &BTreeSet<AgentId>) -> Result<BTreeMap<AgentId, Event>, RebuildError> {
        let mut found = BTreeMap::new();
        let (mut next, mut end) = (0, if self.relays.is_empty() { 0 } else { GAP });
        while next < end {
            let numbers: BTreeMap<PublicKey, AgentId> =
                (next..end).map(AgentId).map(|id| (self.keyring.agent(id).public_key(), id)).collect();
            for event in self.ask(numbers.keys().copied()).await? {
                let Some(number) = numbers.get(&event.pubkey).filter(|id| !known.contains(id)) else {
                    continue;
                };
                let newer = |old: &Event| (event.created_at, old.id) > (old.created_at, event.id);
                if found.get(number).is_none_or(newer) {
                    found.insert(*number, event);
                }
            }
            next = end;
            let last = found.keys().chain(known).max();
            end = last.map_or(end, |last| end.max(last.0.saturating_add(1).saturating_add(GAP)));
        }
        // Whoever says last that they are no bot is none.
        found.retain(|_, event| profile::is_bot(event));
        Ok(found)
    }

    async fn ask(&self, keys: impl Iterator<Item = PublicKey>) -> Result<Vec<Event>, RebuildError> {
        let filter = Filter::new().kind(kind::METADATA).authors(keys);
        let asked =
            self.relays.iter().map(|relay| self.subscribe.fetch(relay, filter.clone(), LOOK_DEADLINE));
        let answers = futures_util::future::join_all(asked).await;
        if answers.iter().all(Result::is_err) {
            return Err(RebuildError::NoRelay);
        }
        Ok(answers.into_iter().flatten().flatten().collect())
    }
}

/// As much of a manifest as a profile tells.
fn manifest(profile: &Event, programs: &Programs) -> Manifest {
    let content: Value = serde_json::from_str(&profile.content).unwrap_or_default();
    let text = |key: &str| content.get(key).and_then(Value::as_str).unwrap_or_default();
    let about: String = text("about").chars().take(ABOUT_CHARS_MAX).collect();
    let said = about.strip_prefix("an agent running ").map(str::to_owned);
    let program = said.clone().filter(|program| programs.check(program).is_ok());
    let mut manifest = Manifest::new(text("name"), program.as_deref().unwrap_or("concierge"));
    if said.is_none() {
        manifest.about = about;
    }
    manifest
}
