//! How agents show themselves: published at their creation, and again when their manifest, their owner or the node's
//! relays have changed.
//!
//! A change leaves a mark in the store, in its own transaction; what is marked is published at most once in five
//! seconds, with times that grow strictly, so that relays keep the last.

use std::sync::Arc;
use std::time::Duration;

use oa_nips::discovery::{self, AgentProfile, Autonomy, Program};
use oa_nips::hex::Hex;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_nips::nostr::{PublicKey, RelayUrl, Timestamp, UnsignedEvent};
use oa_nips::port::RowWrite;
use oa_nips::profile::{self, Profile};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::manifest::{Level, Manifest};
use crate::agent::{AgentId, Lifecycle};
use crate::engine::shared::Shared;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::row::{AgentRow, Outgoing};
use crate::store::write::{AgentChange, PROFILES, Verdict, Write};

/// The fact in the store: which relays the agents' lists name, and the domain of their names.
pub(crate) const RELAYS: &str = "relays";
/// Agents whose lists are renewed at once, and the pause before the next: relays refuse bursts.
const PAGE: usize = 16;
const PAUSE: Duration = Duration::from_secs(1);
/// One agent's profile is published once in so many seconds.
const BETWEEN_S: u64 = 5;
/// How often it is looked for agents that have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Agents that have changed, looked at together.
const CHANGED: usize = 256;

/// What all agents of a node say of where they are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    /// The relays they name as theirs.
    pub(crate) relays: Vec<RelayUrl>,
    /// The domain at which they have names (NIP-05).
    pub(crate) domain: Option<String>,
}

/// Kinds 0, 10002 and 10050 of an agent, and 39200 unless it does not want to be found.
pub(crate) fn events(
    manifest: &Manifest,
    owner: Option<PublicKey>,
    author: PublicKey,
    place: &Place,
    at: Timestamp,
) -> Vec<UnsignedEvent> {
    let about = match manifest.about.as_str() {
        "" => format!("an agent running {}", manifest.program),
        about => about.to_owned(),
    };
    let is_findable = manifest.profile.publish;
    let domain = place.domain.as_deref().filter(|_| is_findable);
    let nip05 = domain.map(|domain| format!("{}@{domain}", manifest.name));
    let mut events = vec![
        Profile { name: manifest.name.clone(), about, nip05 }.event(author, at),
        profile::relay_list(author, &place.relays, at),
        profile::dm_relays(author, &place.relays, at),
    ];
    if is_findable {
        events.push(agent(manifest, owner, author).event(author, at));
    }
    events
}

fn agent(manifest: &Manifest, owner: Option<PublicKey>, author: PublicKey) -> AgentProfile {
    AgentProfile {
        name: manifest.name.clone(),
        about: manifest.about.clone(),
        capabilities: manifest.profile.capabilities.clone(),
        autonomy: match manifest.autonomy.level {
            Level::Supervised => Autonomy::Supervised,
            Level::SemiAutonomous => Autonomy::SemiAutonomous,
            Level::Autonomous => Autonomy::Autonomous,
        },
        program: Program { name: manifest.program.clone(), digest: Hex(digest(&manifest.program)) },
        owner: manifest.profile.owner(owner, author),
    }
}

/// Programs are part of the node, so the release tells their versions apart.
fn digest(program: &str) -> [u8; 32] {
    let named = format!("oa/native/{program}/{}", env!("CARGO_PKG_VERSION"));
    sha256::Hash::hash(named.as_bytes()).to_byte_array()
}

/// The writes that publish an agent's profile anew.
pub(crate) fn publish(row: &AgentRow, manifest: &Manifest, place: &Place, now_ms: u64) -> Vec<Write> {
    let at_s = row.profile_time_s(now_ms);
    let at = Timestamp::from_secs(at_s);
    let mut events = events(manifest, row.owner, row.pubkey, place, at);
    if !manifest.profile.publish {
        // It may have been found before.
        events.push(discovery::withdrawal(row.pubkey, at));
    }
    let sends = events.into_iter();
    let sends = sends.map(|event| Write::Send(row.id, Box::new(Outgoing::Event { event }), now_ms));
    [Write::ChangeAgent(row.id, AgentChange::Profiled(at_s))].into_iter().chain(sends).collect()
}

/// Renews every agent's lists if relays and domain are not those of the last time, and publishes what changes, until
/// `cancel`.
pub(crate) fn start(shared: Arc<Shared>, place: Place, cancel: CancellationToken) -> JoinHandle<()> {
    let all = async move {
        let renewing = async {
            if let Err(error) = renew(&shared, &place).await {
                tracing::warn!(%error, "relay lists are renewed at the next start");
            }
        };
        tokio::join!(renewing, tend(&shared, &place));
    };
    tokio::spawn(async move { cancel.run_until_cancelled(all).await.unwrap_or(()) })
}

async fn tend(shared: &Shared, place: &Place) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    loop {
        every.tick().await;
        if shared.tenure.epoch().is_none() {
            continue;
        }
        let now_ms = shared.time.now_ms();
        let manifest = |row: &AgentRow| shared.manifests.get(&shared.store, row.id, row.version);
        match round(&shared.store, manifest, place, now_ms).await {
            Ok(verdicts) => shared.outbox.nudge_landed(&verdicts),
            Err(error) => tracing::warn!(%error, "profiles are published later"),
        }
    }
}

/// Publishes the profiles of agents that have changed, and that it is time for.
async fn round(
    store: &Store,
    manifest: impl Fn(&AgentRow) -> Result<Arc<Manifest>, BackendError>,
    place: &Place,
    now_ms: u64,
) -> Result<Vec<Verdict>, BackendError> {
    let mut landed = Vec::new();
    for (key, mark) in store.rows(PROFILES, "", CHANGED)? {
        let row = key.parse().ok().map(|id| store.agent(AgentId(id))).transpose()?.flatten();
        let row = row.filter(|row| row.lifecycle != Lifecycle::Terminated);
        let due_s = row.as_ref().map_or(0, |row| row.profiled_at_s + BETWEEN_S);
        if now_ms < due_s.saturating_mul(1000) {
            continue;
        }
        // A change that comes meanwhile leaves another mark, and this is not done.
        let unmark = RowWrite { space: PROFILES.to_owned(), key, expect_version: mark.version, value: None };
        let mut unit = vec![Write::Row(unmark)];
        if let Some(row) = row {
            unit.extend(publish(&row, &*manifest(&row)?, place, now_ms));
        }
        landed.extend(store.commit(unit).await?);
    }
    Ok(landed)
}

async fn renew(shared: &Shared, place: &Place) -> Result<(), BackendError> {
    let names = place.relays.iter().map(RelayUrl::as_str).chain(place.domain.as_deref());
    let names = names.collect::<Vec<_>>().join("\n").into_bytes();
    // A store that has named none yet has no agents but those just created with the right ones.
    if shared.store.meta(RELAYS)?.is_some_and(|known| known != names) {
        renew_all(shared, place).await?;
    }
    shared.store.write(Write::Meta(RELAYS, names)).await?;
    Ok(())
}

async fn renew_all(shared: &Shared, place: &Place) -> Result<(), BackendError> {
    let mut from = AgentId(0);
    loop {
        let page = shared.store.agents(from, PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        from = AgentId(last.id.0 + 1);
        for row in page.into_iter().filter(|row| row.lifecycle != Lifecycle::Terminated) {
            let manifest = shared.manifests.get(&shared.store, row.id, row.version)?;
            let unit = publish(&row, &manifest, place, shared.time.now_ms());
            shared.outbox.nudge_landed(&shared.store.commit(unit).await?);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::kind;
    use oa_nips::nostr::{JsonUtil as _, Keys, Metadata};

    use super::*;
    use crate::store::memory::MemoryBackend;
    use crate::store::write::NewAgent;

    const NOW_MS: u64 = 1_790_000_000_000;
    const ID: AgentId = AgentId(0);

    fn place() -> Place {
        let relays = vec![RelayUrl::parse("wss://relay.example").unwrap()];
        Place { relays, domain: Some("example.com".to_owned()) }
    }

    async fn store() -> Store {
        let store = Store::new(Arc::new(MemoryBackend::default())).unwrap();
        let new = NewAgent {
            id: ID,
            pubkey: Keys::generate().public_key(),
            manifest: Manifest::new("alice", "echo"),
            session: Hex::ZERO,
            at_ms: NOW_MS,
            profile: Vec::new(),
        };
        store.write(Write::CreateAgent(Box::new(new))).await.unwrap();
        store
    }

    async fn change(store: &Store, edit: impl FnOnce(&mut Manifest)) {
        let mut manifest = store.manifest(ID).unwrap().unwrap();
        edit(&mut manifest);
        store.write(Write::ChangeAgent(ID, AgentChange::Manifest(Box::new(manifest)))).await.unwrap();
    }

    async fn at(store: &Store, now_ms: u64) -> usize {
        let manifest = |row: &AgentRow| Ok(Arc::new(store.manifest(row.id)?.unwrap()));
        round(store, manifest, &place(), now_ms).await.unwrap();
        published(store).len()
    }

    /// Everything published, the newest first.
    fn published(store: &Store) -> Vec<UnsignedEvent> {
        let event = |(_, row): (u64, crate::store::row::OutRow)| match row.outgoing {
            Outgoing::Event { event } => Some(event),
            Outgoing::Mail { .. } => None,
        };
        store.outbox(ID, 1000).unwrap().into_iter().filter_map(event).collect()
    }

    #[tokio::test]
    async fn changes_are_published_once_in_five_seconds_with_growing_times() {
        let store = store().await;
        assert_eq!(at(&store, NOW_MS + 10_000).await, 0, "nothing has changed");
        for n in 0..10 {
            change(&store, |manifest| manifest.about = format!("about {n}")).await;
        }
        assert_eq!(at(&store, NOW_MS + 4_999).await, 0, "it was created just now");
        assert_eq!(at(&store, NOW_MS + 5_000).await, 4, "ten changes are published together");
        assert_eq!(at(&store, NOW_MS + 20_000).await, 4);
        let times = |events: &[UnsignedEvent]| -> Vec<u64> {
            events.iter().map(|event| event.created_at.as_secs()).collect()
        };
        change(&store, |manifest| manifest.about = "last".to_owned()).await;
        // A clock that was put back: relays would take what is dated earlier for older.
        assert_eq!(at(&store, NOW_MS).await, 4);
        assert_eq!(at(&store, NOW_MS + 10_000).await, 8);
        let events = published(&store);
        let (newer, older) = events.split_at(4);
        assert!(times(newer).iter().min() > times(older).iter().max(), "{events:?}");
        assert!(newer.iter().any(|event| event.content.contains("last")));
        store.write(Write::ChangeAgent(ID, AgentChange::Owner(None))).await.unwrap();
        assert_eq!(at(&store, NOW_MS + 30_000).await, 12, "so is another owner");
    }

    #[tokio::test]
    async fn who_does_not_want_to_be_found_is_withdrawn_and_has_no_name() {
        let store = store().await;
        let kinds = |events: &[UnsignedEvent]| events.iter().map(|event| event.kind).collect::<Vec<_>>();
        let name = |events: &[UnsignedEvent]| {
            let profile = events.iter().find(|event| event.kind == kind::METADATA).unwrap();
            Metadata::from_json(&profile.content).unwrap().nip05
        };
        change(&store, |manifest| manifest.profile.capabilities = vec!["chat".parse().unwrap()]).await;
        at(&store, NOW_MS + 5_000).await;
        let events = published(&store);
        assert!(kinds(&events).contains(&kind::AGENT));
        assert_eq!(name(&events).as_deref(), Some("alice@example.com"));
        change(&store, |manifest| manifest.profile.publish = false).await;
        at(&store, NOW_MS + 15_000).await;
        let events = &published(&store)[..4];
        assert!(kinds(events).contains(&kind::DELETION) && !kinds(events).contains(&kind::AGENT));
        assert_eq!(name(events), None);
    }
}
