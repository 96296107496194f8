//! What goes on beside the calls: keeping peers and keeping up with the chain. Ends when the node is stopped.

use std::sync::Arc;
use std::time::Duration;

use ldk_node::{Node, PeerDetails};
use tokio::task::{JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::Running;
use super::config::SyncRate;

/// How often it is looked whether a peer is missing, and how soon one that did not answer is dialled again.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Longest pause between two attempts at peers that do not answer. LDK's own is 60 s.
const RETRY_EVERY_MAX: Duration = Duration::from_secs(30);

pub(super) fn spawn(running: &Arc<Running>, rate: SyncRate, stop: &CancellationToken) -> JoinSet<()> {
    let mut keepers = JoinSet::new();
    keepers.spawn(keep_peers(Arc::clone(running), stop.clone()));
    if let SyncRate::Every(pause) = rate {
        keepers.spawn(keep_up(Arc::clone(running), pause, stop.clone()));
    }
    keepers
}

/// Dials every remembered peer that is not there: at once after a start, then less and less often.
async fn keep_peers(running: Arc<Running>, stop: CancellationToken) {
    let mut pause = LOOK_EVERY;
    loop {
        let missing = missing(&running.node);
        if missing.is_empty() {
            pause = LOOK_EVERY;
        } else {
            let dialled = stop.run_until_cancelled(dial(&running, missing)).await;
            match dialled {
                None => return,
                Some(true) => pause = LOOK_EVERY,
                Some(false) => pause = (pause * 2).min(RETRY_EVERY_MAX),
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

fn missing(node: &Node) -> Vec<PeerDetails> {
    node.list_peers().into_iter().filter(|peer| peer.is_persisted && !peer.is_connected).collect()
}

/// Whether all of them answered.
async fn dial(running: &Arc<Running>, peers: Vec<PeerDetails>) -> bool {
    let mut calls = JoinSet::new();
    for peer in peers {
        let running = Arc::clone(running);
        calls.spawn(async move {
            let call = spawn_blocking(move || running.node.connect(peer.node_id, peer.address, false));
            matches!(call.await, Ok(Ok(())))
        });
    }
    calls.join_all().await.into_iter().all(|connected| connected)
}

async fn keep_up(running: Arc<Running>, pause: Duration, stop: CancellationToken) {
    loop {
        let node = Arc::clone(&running);
        let synced = spawn_blocking(move || node.node.sync_wallets());
        match stop.run_until_cancelled(synced).await {
            None => return,
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => tracing::warn!(%error, "cannot keep up with the chain"),
            Some(Err(error)) => tracing::error!(%error, "keeping up with the chain failed"),
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}
