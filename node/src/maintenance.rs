//! Forgets what is over, a little at a time: handled events, dedup below the floor, old replies and sent items,
//! strangers not heard of for a month, journals of ticks that are over, and what removed agents leave behind.

mod journals;
mod removed;

use std::sync::Arc;
use std::time::Duration;

use oa_nips::files::REPLY_KEPT_S;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::mailbox::Peer;
use crate::engine::shared::Shared;
use crate::store::backend::{BackendError, Pair, Table};
use crate::store::row::{OpRow, OutRow, Stage};
use crate::store::write::Write;

pub use self::journals::JournalLimits;
use self::journals::Journals;
use self::removed::Removed;

/// How often.
const EVERY: Duration = Duration::from_secs(10);
/// Rows looked at each time, each table.
const PAGE: usize = 2_000;
/// Handled events are kept this long: longer than any sweep looks back.
const HANDLED_KEPT_S: u64 = 9 * 24 * 3600;
/// Finished outgoing items are kept this long.
const OUTBOX_KEPT_S: u64 = 7 * 24 * 3600;

/// Strangers are remembered this long.
const STRANGERS_KEPT_S: u64 = 30 * 24 * 3600;

/// Starts forgetting; it ends when `cancel` does.
pub(crate) fn start(shared: Arc<Shared>, limits: JournalLimits, cancel: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut every = tokio::time::interval(EVERY);
        let tables = [Table::Handled, Table::Seen, Table::Ops, Table::Outbox, Table::Peers];
        let mut rounds = tables.map(|table| (table, Vec::new()));
        let (mut journals, mut removed) = (Journals::new(limits), Removed::default());
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                _ = every.tick() => {}
            }
            for (table, from) in &mut rounds {
                match forget(&shared, *table, from).await {
                    Ok(next) => *from = next,
                    Err(error) => tracing::warn!(%error, table = table.name(), "nothing forgotten"),
                }
            }
            let now_ms = shared.time.now_ms();
            if let Err(error) = journals.round(&shared.store, now_ms).await {
                tracing::warn!(%error, "no journals forgotten");
            }
            if let Err(error) = removed.round(&shared.store, now_ms).await {
                tracing::warn!(%error, "nothing of removed agents forgotten");
            }
        }
    })
}

/// Looks at one page of a table from a key on; answers where to go on.
async fn forget(shared: &Shared, table: Table, from: &[u8]) -> Result<Vec<u8>, BackendError> {
    let now_s = shared.time.now_ms() / 1000;
    let floor_s = shared.store.floor_s()?;
    let page = shared.store.pairs(table, from.to_vec(), PAGE)?;
    let next = match page.last() {
        Some((key, _)) if page.len() == PAGE => [key.as_slice(), &[0]].concat(),
        _ => Vec::new(),
    };
    let is_over = |(key, value): &Pair| match table {
        Table::Handled => time(key).is_some_and(|at_s| at_s + HANDLED_KEPT_S < now_s),
        // Below the floor the same rumor would be refused, so it need not be remembered.
        Table::Seen => time(value).is_some_and(|sent_s| sent_s < floor_s),
        Table::Ops => {
            serde_json::from_slice::<OpRow>(value).is_ok_and(|row| row.at_ms / 1000 + REPLY_KEPT_S < now_s)
        }
        Table::Outbox => serde_json::from_slice::<OutRow>(value).is_ok_and(|row| {
            matches!(row.stage, Stage::Finished(_)) && row.at_ms / 1000 + OUTBOX_KEPT_S < now_s
        }),
        // Whoever was let in is kept, and whoever waits to be.
        Table::Peers => serde_json::from_slice::<Peer>(value).is_ok_and(|peer| {
            let is_stranger = !peer.allowed && peer.pairing.is_none() && peer.queued == 0;
            is_stranger && peer.last_seen_ms / 1000 + STRANGERS_KEPT_S < now_s
        }),
        _ => false,
    };
    let keys: Vec<_> = page.iter().filter(|pair| is_over(pair)).map(|(key, _)| key.clone()).collect();
    if !keys.is_empty() {
        shared.store.write(Write::Forget(table, keys)).await?;
    }
    Ok(next)
}

fn time(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}
