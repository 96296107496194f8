//! Hands tick records to the outbox, encrypted to the owner, in batches: 64 records or a quarter of an hour.
//!
//! The batch and the mark of how far it reaches land in one transaction, so none is left out and none goes twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use oa_nips::nostr::{PublicKey, Timestamp, UnsignedEvent};
use oa_nips::port::Signer;
use oa_nips::record::{Record, canonical};
use oa_nips::trajectory;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::AgentId;
use crate::agent::manifest::Publishing;
use crate::engine::shared::Shared;
use crate::store::row::AgentRow;
use crate::store::write::{Published, Verdict, Write};

/// Records in one event.
const BATCH: usize = 64;
/// Bytes of records in one event: encrypted and encoded it stays under 64 KiB.
const BATCH_BYTES: usize = 32 * 1024;
/// How long a record waits for others.
const BATCH_AFTER_MS: u64 = 15 * 60 * 1000;
/// How often agents are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Agents looked at in one read.
const PAGE: usize = 256;

/// Starts publishing; it ends when `cancel` does.
pub(crate) fn start(shared: Arc<Shared>, cancel: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut publisher = Publisher { shared, waiting: HashMap::new(), looked_at_ms: 0, next: AgentId(0) };
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                _ = look.tick() => publisher.look().await,
            }
        }
    })
}

#[derive(Debug)]
struct Publisher {
    shared: Arc<Shared>,
    /// Agents with records that wait, and since when: milliseconds since 1970.
    waiting: HashMap<AgentId, u64>,
    looked_at_ms: u64,
    next: AgentId,
}

impl Publisher {
    /// Looks at the next page of agents, so that a hundred thousand cost no more at once than a few.
    async fn look(&mut self) {
        if self.shared.tenure.epoch().is_none() {
            return;
        }
        let Ok(page) = self.shared.store.agents(self.next, PAGE) else { return };
        self.next =
            page.last().filter(|_| page.len() == PAGE).map_or(AgentId(0), |row| AgentId(row.id.0 + 1));
        self.looked_at_ms = self.shared.time.now_ms();
        for row in page.into_iter().filter(|row| row.published < row.head.seq) {
            if self.shared.tenure.epoch_of(row.id).is_none() {
                continue;
            }
            if let Err(reason) = self.publish(&row).await {
                tracing::warn!(agent = row.name, reason, "records are published later");
            }
        }
    }

    async fn publish(&mut self, row: &AgentRow) -> Result<(), String> {
        let shared = self.shared.clone();
        let words = |error: &dyn std::fmt::Display| error.to_string();
        let Some(owner) = row.owner else { return Ok(()) };
        let manifest = shared.manifests.get(&shared.store, row.id, row.version).map_err(|e| words(&e))?;
        let since_ms = *self.waiting.entry(row.id).or_insert(self.looked_at_ms);
        // Agents that woke together do not publish together.
        let jitter_ms = u64::from(row.id.0 % 64) * 1000;
        let is_due = row.head.seq - row.published >= BATCH as u64
            || self.looked_at_ms >= since_ms + BATCH_AFTER_MS + jitter_ms;
        match manifest.records {
            Publishing::Off => return Ok(()),
            Publishing::Batch if !is_due => return Ok(()),
            Publishing::Batch | Publishing::Live => {}
        }
        let records = shared.store.records(row.id, row.published, BATCH).map_err(|e| words(&e))?;
        let records = bounded(records);
        let Some(last) = records.last() else { return Ok(()) };
        let up_to = last.header.seq + 1;
        let signer = shared.keyring.agent(row.id);
        let at = Timestamp::from_secs(self.looked_at_ms / 1000);
        let events = encrypted(row, &records, &*signer, &owner, at).await?;
        let at_ms = self.looked_at_ms;
        let published = Published { agent: row.id, up_to, events, at_ms };
        let verdict = shared.store.write(Write::Publish(Box::new(published))).await.map_err(|e| words(&e))?;
        if let Verdict::Landed(range) = verdict {
            shared.outbox.nudge(range);
            self.waiting.remove(&row.id);
        }
        Ok(())
    }
}

/// The first records that fit one event.
fn bounded(records: Vec<Record>) -> Vec<Record> {
    let mut bytes = 0;
    let fits = |record: &Record| {
        bytes += canonical(record).len() + 1;
        bytes <= BATCH_BYTES
    };
    let first = records.first().cloned();
    let taken: Vec<_> = records.into_iter().take_while(fits).collect();
    // One record is at most 16 KiB, so the first always fits.
    if taken.is_empty() { first.into_iter().collect() } else { taken }
}

async fn encrypted(
    row: &AgentRow,
    records: &[Record],
    signer: &dyn Signer,
    owner: &PublicKey,
    at: Timestamp,
) -> Result<Vec<UnsignedEvent>, String> {
    let mut events = Vec::new();
    let words = |error: oa_nips::port::SignerError| error.to_string();
    if records.first().is_some_and(|record| record.header.seq == 0) {
        let text = canonical(&trajectory::Session { v: 1, agent: row.name.clone(), session: row.session });
        let content = signer.nip44_encrypt(owner, &text).await.map_err(words)?;
        events.push(trajectory::session(row.pubkey, *owner, row.session, content, at));
    }
    let content = signer.nip44_encrypt(owner, &canonical(&records)).await.map_err(words)?;
    let first = records.first().map_or(0, |record| record.header.seq);
    events.push(trajectory::batch(row.pubkey, *owner, row.session, first, content, at));
    Ok(events)
}
