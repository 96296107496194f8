//! How agents show themselves: published at their creation, and again when their manifest or the node's relays have
//! changed.

use std::sync::Arc;
use std::time::Duration;

use oa_nips::nostr::{PublicKey, RelayUrl, Timestamp, UnsignedEvent};
use oa_nips::profile::{self, Profile};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::manifest::Manifest;
use crate::agent::{AgentId, Lifecycle};
use crate::engine::shared::Shared;
use crate::store::backend::BackendError;
use crate::store::row::{AgentRow, Outgoing};
use crate::store::write::{AgentChange, Write};

/// The fact in the store: which relays the agents' lists name.
pub(crate) const RELAYS: &str = "relays";
/// Agents whose lists are renewed at once, and the pause before the next: relays refuse bursts.
const PAGE: usize = 16;
const PAUSE: Duration = Duration::from_secs(1);

/// Kinds 0, 10002 and 10050 of an agent.
pub(crate) fn events(
    manifest: &Manifest,
    author: PublicKey,
    relays: &[RelayUrl],
    at: Timestamp,
) -> Vec<UnsignedEvent> {
    let about = match manifest.about.as_str() {
        "" => format!("an agent running {}", manifest.program),
        about => about.to_owned(),
    };
    vec![
        Profile { name: manifest.name.clone(), about, nip05: None }.event(author, at),
        profile::relay_list(author, relays, at),
        profile::dm_relays(author, relays, at),
    ]
}

/// The writes that publish an agent's profile anew.
pub(crate) fn publish(row: &AgentRow, manifest: &Manifest, relays: &[RelayUrl], now_ms: u64) -> Vec<Write> {
    let at_s = row.profile_time_s(now_ms);
    let events = events(manifest, row.pubkey, relays, Timestamp::from_secs(at_s)).into_iter();
    let sends = events.map(|event| Write::Send(row.id, Box::new(Outgoing::Event { event }), now_ms));
    [Write::ChangeAgent(row.id, AgentChange::Profiled(at_s))].into_iter().chain(sends).collect()
}

/// Renews every agent's lists if the relays are not those of the last time; ends when done, or when `cancel` does.
pub(crate) fn start(shared: Arc<Shared>, relays: Vec<RelayUrl>, cancel: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            renewed = renew(&shared, &relays) => if let Err(error) = renewed {
                tracing::warn!(%error, "relay lists are renewed at the next start");
            },
        }
    })
}

async fn renew(shared: &Shared, relays: &[RelayUrl]) -> Result<(), BackendError> {
    let names: Vec<&str> = relays.iter().map(RelayUrl::as_str).collect();
    let names = names.join("\n").into_bytes();
    // A store that has named none yet has no agents but those just created with the right ones.
    if shared.store.meta(RELAYS)?.is_some_and(|known| known != names) {
        renew_all(shared, relays).await?;
    }
    shared.store.write(Write::Meta(RELAYS, names)).await?;
    Ok(())
}

async fn renew_all(shared: &Shared, relays: &[RelayUrl]) -> Result<(), BackendError> {
    let mut from = AgentId(0);
    loop {
        let page = shared.store.agents(from, PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        from = AgentId(last.id.0 + 1);
        for row in page.into_iter().filter(|row| row.lifecycle != Lifecycle::Terminated) {
            let manifest = shared.manifests.get(&shared.store, row.id, row.version)?;
            let unit = publish(&row, &manifest, relays, shared.time.now_ms());
            shared.outbox.nudge_landed(&shared.store.commit(unit).await?);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
