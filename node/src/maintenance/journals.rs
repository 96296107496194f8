//! Journals: replay material is kept for some time after its tick is over, and only so much of it.
//!
//! All journals are looked through in passes, a bounded part of one at a time. A pass counts bytes by the minute in
//! which journals ended; from those follows how old one may be in the next pass, so that what is kept fits. A journal
//! is still needed while its envelope waits, as a message or as a dead letter, and while somebody may consent to what
//! its tick asked for.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde::Deserialize;

use crate::agent::AgentId;
use crate::agent::envelope::EnvelopeId;
use crate::approvals::{self, Stage};
use crate::store::Store;
use crate::store::backend::{BackendError, Table};
use crate::store::row::key;
use crate::store::write::Write;

/// Rows read at once: each may have megabytes.
const PAGE: usize = 32;
/// Rows and bytes looked at in one round. Of small rows 10,000 take a few milliseconds.
const ROUND_ROWS: usize = 10_000;
const ROUND_BYTES: u64 = 16 * 1024 * 1024;
/// Journals let go of in one round; the rest is found by the next pass.
const ROUND_OVER: usize = 1_000;
/// By which the ends of journals are told apart, in milliseconds.
const MINUTE_MS: u64 = 60_000;

/// How much replay material is kept of ticks that are over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalLimits {
    /// For how long. 7 days: as long as replies to operators.
    pub kept: Duration,
    /// Of all agents together, the newest. 1 GiB: less than the mail of most nodes.
    pub bytes_max: u64,
}

impl Default for JournalLimits {
    fn default() -> Self {
        Self { kept: Duration::from_secs(7 * 24 * 3600), bytes_max: 1024 * 1024 * 1024 }
    }
}

/// A tick that did something outside.
type TickId = (AgentId, EnvelopeId);

/// Goes through all journals, again and again.
#[derive(Debug)]
pub(super) struct Journals {
    limits: JournalLimits,
    /// Where the pass goes on.
    from: Vec<u8>,
    /// The journal whose lines are being read.
    open: Option<Open>,
    /// What this pass has found so far: bytes by the minute in which their journals ended.
    found: BTreeMap<u64, u64>,
    /// What ended before is too much, by the last pass: in milliseconds since 1970.
    crowded_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    tick: TickId,
    ended_ms: u64,
    bytes: u64,
}

/// Of a journal's row only its time.
#[derive(Deserialize)]
struct Dated {
    at_ms: u64,
}

impl Journals {
    pub(super) fn new(limits: JournalLimits) -> Self {
        Self { limits, from: Vec::new(), open: None, found: BTreeMap::new(), crowded_ms: 0 }
    }

    /// Looks at some more journals; answers whether that was the last of a pass.
    pub(super) async fn round(&mut self, store: &Store, now_ms: u64) -> Result<bool, BackendError> {
        let (mut rows, mut bytes, mut over) = (0, 0, Vec::new());
        let is_last = loop {
            let page = store.pairs(Table::Journal, self.from.clone(), PAGE)?;
            for (key, value) in &page {
                bytes += value.len() as u64;
                self.line(key, value, now_ms, &mut over);
            }
            rows += page.len();
            match page.last() {
                Some((key, _)) if page.len() == PAGE => self.from = [key.as_slice(), &[0]].concat(),
                _ => break true,
            }
            if rows >= ROUND_ROWS || bytes >= ROUND_BYTES || over.len() >= ROUND_OVER {
                break false;
            }
        };
        if is_last {
            self.close(now_ms, &mut over);
            self.crowded_ms = self.crowded();
            self.from.clear();
            self.found.clear();
        }
        prune(store, over).await?;
        Ok(is_last)
    }

    fn line(&mut self, key: &[u8], value: &[u8], now_ms: u64, over: &mut Vec<TickId>) {
        let Some(tick) = key::journaled(key) else { return };
        let at_ms = serde_json::from_slice::<Dated>(value).map_or(now_ms, |row| row.at_ms);
        if self.open.is_some_and(|open| open.tick != tick) {
            self.close(now_ms, over);
        }
        let open = self.open.get_or_insert(Open { tick, ended_ms: 0, bytes: 0 });
        open.ended_ms = open.ended_ms.max(at_ms);
        open.bytes += (key.len() + value.len()) as u64;
    }

    /// All lines of a journal have been read.
    fn close(&mut self, now_ms: u64, over: &mut Vec<TickId>) {
        let Some(Open { tick, ended_ms, bytes }) = self.open.take() else { return };
        let kept_ms = u64::try_from(self.limits.kept.as_millis()).unwrap_or(u64::MAX);
        let oldest_ms = now_ms.saturating_sub(kept_ms);
        if ended_ms < oldest_ms.max(self.crowded_ms) {
            over.push(tick);
        }
        // Those that are too old and needed are of one age, so that there are never more minutes than in the limit.
        *self.found.entry(ended_ms.clamp(oldest_ms, now_ms) / MINUTE_MS).or_default() += bytes;
    }

    /// The end of the newest minute with which the newest journals are too many.
    fn crowded(&self) -> u64 {
        let mut sum = 0;
        for (minute, bytes) in self.found.iter().rev() {
            sum += bytes;
            if sum > self.limits.bytes_max {
                return (minute + 1) * MINUTE_MS;
            }
        }
        0
    }
}

/// Lets go of the journals of those ticks that are over indeed.
async fn prune(store: &Store, over: Vec<TickId>) -> Result<(), BackendError> {
    let mut done = Vec::new();
    let mut needed: Option<(AgentId, HashSet<EnvelopeId>)> = None;
    for (agent, envelope) in over {
        if needed.as_ref().is_none_or(|(of, _)| *of != agent) {
            needed = Some((agent, store.journals_needed(agent)?));
        }
        if needed.as_ref().is_some_and(|(_, needed)| !needed.contains(&envelope)) {
            done.push((agent, envelope));
        }
    }
    if done.is_empty() {
        return Ok(());
    }
    // After the look at inboxes: an approval that its tick asked for is there by the time the tick is over.
    let wished: HashSet<TickId> = approvals::all(store)?
        .into_iter()
        .filter(|(_, a)| matches!(a.state, Stage::Waiting | Stage::Granted { .. } | Stage::Doing { .. }))
        .map(|(_, approval)| (approval.agent, approval.envelope))
        .collect();
    done.retain(|tick| !wished.contains(tick));
    let count = done.len();
    store.write(Write::Prune(done)).await?;
    tracing::debug!(count, "journals let go of");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use oa_nips::hex::{Hash, Hex};
    use oa_nips::nostr::Keys;

    use super::*;
    use crate::agent::envelope::{Envelope, Kind};
    use crate::agent::manifest::{Category, Manifest};
    use crate::approvals::{Approval, Frozen};
    use crate::namespace::journal::{Line, LineState};
    use crate::store::memory::MemoryBackend;
    use crate::store::row::Blob;
    use crate::store::sqlite::SqliteBackend;
    use crate::store::write::{AgentChange, Failed, Journaled, NewAgent, Poke, Verdict};

    const NOW_MS: u64 = 1_790_000_000_000;
    const DAY_MS: u64 = 24 * 3600 * 1000;
    const ID: AgentId = AgentId(0);

    async fn both(test: impl AsyncFn(Store)) {
        test(Store::new(Arc::new(MemoryBackend::default())).unwrap()).await;
        let dir = tempfile::tempdir().unwrap();
        let sqlite = SqliteBackend::open(&dir.path().join("node.db")).unwrap();
        test(Store::new(Arc::new(sqlite)).unwrap()).await;
    }

    async fn agent(store: &Store) {
        let new = NewAgent {
            id: ID,
            pubkey: Keys::generate().public_key(),
            manifest: Manifest::new("alice", "echo"),
            session: Hex::ZERO,
            at_ms: NOW_MS,
            profile: Vec::new(),
        };
        store.write(Write::CreateAgent(Box::new(new))).await.unwrap();
    }

    /// An envelope whose tick has done something outside at this time; answers its place and name.
    async fn journaled(store: &Store, name: &str, at_ms: u64, bytes: usize) -> (u64, EnvelopeId) {
        let envelope = Envelope::from_node(Kind::Poke, name, at_ms);
        let id = envelope.id;
        let poke = Write::Poke(Box::new(Poke { agent: ID, envelope }));
        let Verdict::Queued(seq) = store.write(poke).await.unwrap() else { panic!("not queued") };
        let line = |path: String| Line {
            request: Hash::ZERO,
            path,
            state: LineState::Pinned {
                program: "x".repeat(bytes),
                trust: crate::agent::envelope::Trust::Node,
            },
        };
        let lines = vec![line("/trigger".to_owned()), line("/tools/x".to_owned())];
        let journaled = Journaled { agent: ID, seq, envelope: id, lease_epoch: 0, first: 0, lines, at_ms };
        assert_eq!(store.write(Write::Journal(Box::new(journaled))).await.unwrap(), Verdict::Done);
        (seq, id)
    }

    /// Its tick is over: given up and not kept as a dead letter, which is the same to a journal as a commit.
    async fn over(store: &Store, seq: u64) {
        bury(store, seq).await;
        let (n, _) = store.dead_letters(ID).unwrap().pop().unwrap();
        store.write(Write::Forget(Table::DeadLetters, vec![key::numbered(ID, n)])).await.unwrap();
    }

    async fn bury(store: &Store, seq: u64) {
        let failed = Failed {
            agent: ID,
            seq,
            reason: "test".to_owned(),
            effects: Vec::new(),
            is_crash: false,
            max: 1,
            then: None,
            at_ms: NOW_MS,
            told: None,
        };
        store.write(Write::Fail(failed)).await.unwrap();
    }

    fn left(store: &Store, ids: &[EnvelopeId]) -> Vec<bool> {
        ids.iter().map(|id| !store.journal(ID, id).unwrap().is_empty()).collect()
    }

    #[tokio::test]
    async fn a_journal_goes_a_week_after_its_tick_is_over_and_no_sooner() {
        both(async |store: Store| {
            agent(&store).await;
            let old_ms = NOW_MS - 7 * DAY_MS - 1;
            let mut ids = Vec::new();
            for (name, at_ms) in [("old", old_ms), ("fresh", old_ms + 2), ("waits", old_ms), ("dead", old_ms)]
            {
                let (seq, id) = journaled(&store, name, at_ms, 10).await;
                ids.push(id);
                match name {
                    "waits" => {}
                    "dead" => bury(&store, seq).await,
                    _ => over(&store, seq).await,
                }
            }
            let mut journals = Journals::new(JournalLimits::default());
            assert!(journals.round(&store, NOW_MS).await.unwrap());
            assert_eq!(left(&store, &ids), [false, true, true, true]);
            // A dead letter that is replayed finds what it did; one that is gone needs it no more.
            let (n, _) = store.dead_letters(ID).unwrap().pop().unwrap();
            store.write(Write::Forget(Table::DeadLetters, vec![key::numbered(ID, n)])).await.unwrap();
            journals.round(&store, NOW_MS + 10).await.unwrap();
            assert_eq!(left(&store, &ids), [false, false, true, false]);
            // Nor is it a race: what begins to be needed while it is decided stays.
            store.write(Write::Prune(vec![(ID, ids[2])])).await.unwrap();
            assert_eq!(left(&store, &ids[2..3]), [true]);
            store.write(Write::ChangeAgent(ID, AgentChange::Remove)).await.unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn an_open_approval_keeps_the_journal_of_its_tick() {
        both(async |store: Store| {
            agent(&store).await;
            let (seq, id) = journaled(&store, "asked", NOW_MS - 8 * DAY_MS, 10).await;
            over(&store, seq).await;
            let mut approval = Approval {
                id: "00000001".to_owned(),
                agent: ID,
                envelope: id,
                origin: None,
                heard: None,
                key: Hash::ZERO,
                path: "/tools/x".to_owned(),
                change: Frozen { verb: "call".to_owned(), body: Blob::default(), to: None },
                category: Category::ExternalApi,
                asked_at_ms: NOW_MS,
                expires_at_ms: NOW_MS,
                code: Hash::ZERO,
                messages: Vec::new(),
                state: Stage::Waiting,
            };
            let by = Keys::generate().public_key();
            let mut journals = Journals::new(JournalLimits::default());
            let open = [Stage::Waiting, Stage::Granted { by }, Stage::Doing { by }];
            for (version, state) in open.into_iter().enumerate() {
                approval.state = state;
                let put = approvals::put(&(version as u64, approval.clone()));
                assert_eq!(store.write(put).await.unwrap(), Verdict::Done);
                journals.round(&store, NOW_MS).await.unwrap();
                assert_eq!(left(&store, &[id]), [true], "{:?}", approval.state);
            }
            approval.state = Stage::Done;
            store.write(approvals::put(&(3, approval))).await.unwrap();
            journals.round(&store, NOW_MS).await.unwrap();
            assert_eq!(left(&store, &[id]), [false]);
        })
        .await;
    }

    #[tokio::test]
    async fn of_too_many_bytes_the_newest_are_kept() {
        both(async |store: Store| {
            agent(&store).await;
            let mut ids = Vec::new();
            // More than a round looks at, over several pages; a minute apart.
            for n in 0..40_u64 {
                let (seq, id) = journaled(&store, &n.to_string(), NOW_MS - (40 - n) * MINUTE_MS, 1_000).await;
                ids.push(id);
                if n != 0 {
                    over(&store, seq).await;
                }
            }
            // Of about 2,300 bytes each, ten fit.
            let limits = JournalLimits { bytes_max: 25_000, ..JournalLimits::default() };
            let mut journals = Journals::new(limits);
            for _ in 0..2 {
                while !journals.round(&store, NOW_MS).await.unwrap() {}
            }
            let left = left(&store, &ids);
            assert!(left[0], "it waits");
            assert!(!left[1..30].iter().any(|is_left| *is_left), "{left:?}");
            assert!(left[31..].iter().all(|is_left| *is_left), "{left:?}");
            // Nothing more goes while it fits.
            for _ in 0..2 {
                while !journals.round(&store, NOW_MS).await.unwrap() {}
            }
            assert_eq!(left, super::tests::left(&store, &ids));
        })
        .await;
    }
}
