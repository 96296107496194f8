//! What removed agents leave behind: kept for a month, in which somebody may find out that it was a mistake, then let
//! go of. Their number and address stay, so that neither is given to another.

use serde::{Deserialize, Serialize};

use oa_nips::port::RowWrite;

use crate::agent::{AgentId, Lifecycle};
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::row::{AgentRow, key};
use crate::store::write::{LEFT_BEHIND, Write};

/// How long after it was found removed an agent's rows are kept, in milliseconds: 30 days.
const KEPT_MS: u64 = 30 * 24 * 3600 * 1000;
/// Agents looked at in one round.
const PAGE: usize = 256;
/// Rows of one table let go of at once; a row may be a file of megabytes, so they are few.
const ROWS: usize = 64;
/// The rows that note since when agents are gone.
const SPACE: &str = "removed";

/// Goes through all agents, again and again.
#[derive(Debug)]
pub(super) struct Removed {
    /// Where it goes on.
    from: AgentId,
}

/// Since when an agent is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// The agent's version: one that came back and was removed again is newly gone.
    version: u64,
    /// When it was found gone, in milliseconds since 1970.
    at_ms: u64,
    /// Whether nothing is left.
    is_cleared: bool,
}

impl Default for Removed {
    fn default() -> Self {
        Self { from: AgentId(0) }
    }
}

impl Removed {
    /// Looks at some more agents.
    pub(super) async fn round(&mut self, store: &Store, now_ms: u64) -> Result<(), BackendError> {
        let page = store.agents(self.from, PAGE)?;
        self.from = match page.last() {
            Some(last) if page.len() == PAGE => AgentId(last.id.0.saturating_add(1)),
            _ => AgentId(0),
        };
        for row in page {
            // One that was stopped for what it did has its name still, and its owner may look at it.
            let is_gone =
                row.lifecycle == Lifecycle::Terminated && store.agent_named(&row.name)? != Some(row.id);
            if is_gone {
                tend(store, &row, now_ms).await?;
            }
        }
        Ok(())
    }
}

async fn tend(store: &Store, row: &AgentRow, now_ms: u64) -> Result<(), BackendError> {
    let key = row.id.to_string();
    let kept = store.row(SPACE, &key)?;
    let version = kept.as_ref().map_or(0, |row| row.version);
    let note = kept.and_then(|row| serde_json::from_slice::<Note>(&row.value).ok());
    let note = note.filter(|note| note.version == row.version);
    let noted = match note {
        Some(note) if note.is_cleared || note.at_ms.saturating_add(KEPT_MS) > now_ms => return Ok(()),
        Some(note) => {
            if clear(store, row).await? {
                return Ok(());
            }
            Note { is_cleared: true, ..note }
        }
        None => Note { version: row.version, at_ms: now_ms, is_cleared: false },
    };
    let value = Some(serde_json::to_vec(&noted).unwrap_or_default());
    let write = RowWrite { space: SPACE.to_owned(), key, expect_version: version, value };
    store.write(Write::Row(write)).await.map(drop)
}

/// Lets go of some rows; answers whether there were any.
async fn clear(store: &Store, row: &AgentRow) -> Result<bool, BackendError> {
    let prefix = key::agent(row.id);
    let mut unit = Vec::new();
    for table in LEFT_BEHIND {
        let page = store.pairs(table, prefix.clone(), ROWS)?;
        let keys: Vec<_> =
            page.into_iter().map(|(key, _)| key).filter(|key| key.starts_with(&prefix)).collect();
        if !keys.is_empty() {
            unit.push(Write::Clear { agent: row.id, version: row.version, table, keys });
        }
    }
    let had_any = !unit.is_empty();
    if had_any {
        store.commit(unit).await?;
    }
    Ok(had_any)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use oa_nips::hex::Hex;
    use oa_nips::nostr::Keys;

    use super::*;
    use crate::agent::manifest::Manifest;
    use crate::store::backend::Table;
    use crate::store::memory::MemoryBackend;
    use crate::store::sqlite::SqliteBackend;
    use crate::store::write::{AgentChange, NewAgent};

    const NOW_MS: u64 = 1_790_000_000_000;

    async fn agent(store: &Store, id: AgentId, name: &str) {
        let new = NewAgent {
            id,
            pubkey: Keys::generate().public_key(),
            manifest: Manifest::new(name, "echo"),
            session: Hex::ZERO,
            at_ms: NOW_MS,
            profile: Vec::new(),
        };
        store.write(Write::CreateAgent(Box::new(new))).await.unwrap();
        let files = (0..100).map(|n| (format!("/memory/{n}").parse().unwrap(), Some(vec![1]))).collect();
        store.write(Write::Files(id, files, Vec::new())).await.unwrap();
    }

    fn files(store: &Store, id: AgentId) -> usize {
        store.file_paths(id, "/").unwrap().len()
    }

    async fn rounds(store: &Store, now_ms: u64) {
        for _ in 0..4 {
            Removed::default().round(store, now_ms).await.unwrap();
        }
    }

    async fn goes_after_a_month(store: Store) {
        let (gone, stays, stopped) = (AgentId(0), AgentId(1), AgentId(2));
        for (id, name) in [(gone, "gone"), (stays, "stays"), (stopped, "stopped")] {
            agent(&store, id, name).await;
        }
        store.write(Write::ChangeAgent(gone, AgentChange::Remove)).await.unwrap();
        let halt = AgentChange::Lifecycle(Lifecycle::Terminated, None);
        store.write(Write::ChangeAgent(stopped, halt)).await.unwrap();
        rounds(&store, NOW_MS).await;
        rounds(&store, NOW_MS + KEPT_MS - 1).await;
        assert_eq!([gone, stays, stopped].map(|id| files(&store, id)), [100; 3]);
        rounds(&store, NOW_MS + KEPT_MS).await;
        assert_eq!([gone, stays, stopped].map(|id| files(&store, id)), [0, 100, 100]);
        assert_eq!(store.inbox(gone, 10).unwrap(), []);
        let row = store.agent(gone).unwrap().unwrap();
        assert_eq!(row.lifecycle, Lifecycle::Terminated, "its number is never another's");
        // One that has come back meanwhile is not cleared by what was decided before.
        let stale = Write::Clear {
            agent: stays,
            version: store.agent(stays).unwrap().unwrap().version,
            table: Table::Files,
            keys: vec![key::named(stays, "/memory/1")],
        };
        store.write(stale).await.unwrap();
        assert_eq!(files(&store, stays), 100);
    }

    #[tokio::test]
    async fn what_a_removed_agent_leaves_goes_after_a_month() {
        goes_after_a_month(Store::new(Arc::new(MemoryBackend::default())).unwrap()).await;
        let dir = tempfile::tempdir().unwrap();
        let sqlite = SqliteBackend::open(&dir.path().join("node.db")).unwrap();
        goes_after_a_month(Store::new(Arc::new(sqlite)).unwrap()).await;
    }
}
