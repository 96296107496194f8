//! What is remembered of every approval apart from what it would send, so that neither mail nor the clock reads all
//! those bodies: whose it is, the digest of its code, how far it is. Made from the rows when a node starts, changed
//! with what lands ([`crate::engine::hooks`]).

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use oa_nips::hex::Hash;
use oa_nips::nostr::EventId;
use oa_nips::port::RowWrite;
use serde::Deserialize;
use tokio::sync::OwnedMutexGuard;

use super::{KEPT_MS, SPACE, Said, Stage};
use crate::agent::AgentId;
use crate::codes;
use crate::engine::turns::Turns;
use crate::store::Store;
use crate::store::backend::BackendError;

/// Rows read at once when a node starts: each may hold a body.
const PAGE: usize = 100;

/// Approvals by their ids, without what they would send.
#[derive(Debug, Default)]
pub(crate) struct Index {
    all: Mutex<BTreeMap<String, Brief>>,
    begins: Turns,
}

/// The part of an [`super::Approval`] that is kept at hand.
#[derive(Debug, Clone, Deserialize)]
struct Brief {
    /// Of its row: news of one row may come out of order.
    #[serde(skip)]
    version: u64,
    agent: AgentId,
    code: Hash,
    messages: Vec<EventId>,
    asked_at_ms: u64,
    expires_at_ms: u64,
    state: Stage,
    change: Verb,
}

#[derive(Debug, Clone, Deserialize)]
struct Verb {
    verb: String,
}

impl Brief {
    fn is_waiting(&self) -> bool {
        self.state == Stage::Waiting
    }

    /// Whether there is something to do about it.
    fn is_due(&self, now_ms: u64) -> bool {
        match self.state {
            Stage::Waiting => self.expires_at_ms <= now_ms,
            Stage::Granted { .. } | Stage::Doing { .. } => true,
            // What would be sent is let go of when the denial is told.
            Stage::Denied { .. } if !self.change.verb.is_empty() => true,
            Stage::Denied { .. } | Stage::Done | Stage::Expired => self.asked_at_ms + KEPT_MS < now_ms,
        }
    }
}

impl Index {
    /// That of a store.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn load(store: &Store) -> Result<Self, BackendError> {
        let (index, mut from) = (Self::default(), String::new());
        loop {
            let rows = store.rows_from(SPACE, &from, PAGE)?;
            let Some((last, _)) = rows.last() else { return Ok(index) };
            from = format!("{last}\0");
            for (id, row) in rows {
                index.put(id, row.version, &row.value);
            }
        }
    }

    /// Waits until it is this caller's to begin what was granted to an agent, or to change whether the agent goes on:
    /// one of the two is first, and the other sees it. It is had for a moment, never while something is done outside.
    pub(crate) async fn begins(&self, agent: AgentId) -> OwnedMutexGuard<()> {
        self.begins.of(agent).await
    }

    /// Those of an agent that were begun, and may be made whatever happens now.
    pub(crate) fn doing(&self, agent: AgentId) -> Vec<String> {
        self.ids(|brief| brief.agent == agent && matches!(brief.state, Stage::Doing { .. }))
    }

    /// A row of an approval has been written.
    pub(crate) fn landed(&self, write: &RowWrite) {
        match &write.value {
            Some(value) => self.put(write.key.clone(), write.expect_version + 1, value),
            None => self.forget(&write.key),
        }
    }

    fn put(&self, id: String, version: u64, value: &[u8]) {
        // A row of a later release is nobody's here.
        let Ok(brief) = serde_json::from_slice::<Brief>(value) else { return };
        let mut all = self.all();
        if all.get(&id).is_none_or(|old| old.version < version) {
            all.insert(id, Brief { version, ..brief });
        }
    }

    /// A row is gone.
    pub(crate) fn forget(&self, id: &str) {
        self.all().remove(id);
    }

    /// How many are remembered.
    pub(crate) fn len(&self) -> usize {
        self.all().len()
    }

    /// How many wait that an agent asked for.
    pub(crate) fn waiting_of(&self, agent: AgentId) -> usize {
        self.all().values().filter(|brief| brief.agent == agent && brief.is_waiting()).count()
    }

    /// Whether a code was given out before.
    pub(crate) fn knows(&self, code: &Hash) -> bool {
        self.all().values().any(|brief| brief.code == *code)
    }

    /// Whether a text holds a code that waits, however its letters are set apart: it must not reach an agent.
    pub(crate) fn holds_code(&self, text: &str) -> bool {
        let all = self.all();
        let waiting: HashSet<Hash> =
            all.values().filter(|brief| brief.is_waiting()).map(|brief| brief.code).collect();
        drop(all);
        !waiting.is_empty() && codes::any_within(text, |digest| waiting.contains(digest))
    }

    /// Those that an answer may be about.
    pub(crate) fn named(&self, said: &Said) -> Vec<String> {
        let is_named = |brief: &Brief| match said {
            Said::Code { code, .. } => brief.code == codes::digest(code),
            Said::Reaction { to, .. } => brief.messages.contains(to),
            Said::Else => false,
        };
        self.ids(is_named)
    }

    /// Those about which there is something to do.
    pub(crate) fn due(&self, now_ms: u64) -> Vec<String> {
        self.ids(|brief| brief.is_due(now_ms))
    }

    /// Those of an agent, or of all.
    pub(crate) fn of(&self, agent: Option<AgentId>) -> Vec<String> {
        self.ids(|brief| agent.is_none_or(|agent| brief.agent == agent))
    }

    fn ids(&self, is_meant: impl Fn(&Brief) -> bool) -> Vec<String> {
        self.all().iter().filter(|(_, brief)| is_meant(brief)).map(|(id, _)| id.clone()).collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Brief>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::fixture::{CODE, someone, wish};
    use super::super::{Approval, put};
    use super::*;
    use crate::store::memory::MemoryBackend;
    use crate::store::write::Write;

    fn row(version: u64, approval: Approval) -> RowWrite {
        let Write::Row(row) = put(&(version, approval)) else { panic!("no row") };
        row
    }

    #[test]
    fn a_code_that_waits_is_seen_in_any_text_however_it_is_written() {
        let index = Index::default();
        assert!(!index.holds_code(CODE));
        index.landed(&row(0, wish()));
        for text in [
            "abcdef",
            "yes ABCDEF",
            "the code is: (ABCDEF).",
            "x ABCDEF,y",
            "ABC-DEF",
            "yes ABC DEF",
            "a b c\nd e f",
            "ABC\u{200b}DEF",
        ] {
            assert!(index.holds_code(text), "{text}");
        }
        for text in ["yes ABCDEG", "", "ABCDE", "FEDCBA"] {
            assert!(!index.holds_code(text), "{text}");
        }
        index.landed(&row(1, Approval { state: Stage::Done, ..wish() }));
        assert!(!index.holds_code("yes ABCDEF"), "it waits no more");
    }

    #[test]
    fn news_out_of_order_change_nothing_back() {
        let (index, by) = (Index::default(), someone());
        index.landed(&row(1, Approval { state: Stage::Granted { by }, ..wish() }));
        index.landed(&row(0, wish()));
        assert_eq!((index.waiting_of(wish().agent), index.due(0).len()), (0, 1));
        index.landed(&RowWrite { value: None, ..row(2, wish()) });
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn what_is_due_is_known_without_its_row() {
        let (index, by, now_ms) = (Index::default(), someone(), wish().expires_at_ms - 1);
        let told = super::super::Frozen { verb: String::new(), ..wish().change };
        let late_ms = wish().asked_at_ms + KEPT_MS + 1;
        let each = [
            (wish(), [false, true]),
            (Approval { state: Stage::Granted { by }, ..wish() }, [true, true]),
            (Approval { state: Stage::Doing { by }, ..wish() }, [true, true]),
            (Approval { state: Stage::Denied { by }, ..wish() }, [true, true]),
            (Approval { state: Stage::Denied { by }, change: told, ..wish() }, [false, true]),
            (Approval { state: Stage::Done, ..wish() }, [false, true]),
            (Approval { state: Stage::Expired, ..wish() }, [false, true]),
        ];
        for (version, (approval, is_due)) in each.into_iter().enumerate() {
            let said = format!("{:?}", approval.state);
            index.landed(&row(version as u64, approval));
            assert_eq!([now_ms, late_ms].map(|at_ms| !index.due(at_ms).is_empty()), is_due, "{said}");
        }
    }

    #[tokio::test]
    async fn it_is_made_from_the_rows_of_a_store() {
        let store = Store::new(Arc::new(MemoryBackend::default())).unwrap();
        let count = PAGE * 2 + 1;
        for n in 0..count {
            let approval =
                Approval { id: format!("{n:08x}"), code: codes::digest(&format!("{n:06}")), ..wish() };
            store.write(put(&(0, approval))).await.unwrap();
        }
        store
            .write(put(&(1, Approval { id: format!("{:08x}", 7), state: Stage::Done, ..wish() })))
            .await
            .unwrap();
        let index = Index::load(&store).unwrap();
        assert_eq!((index.len(), index.waiting_of(wish().agent)), (count, count - 1));
        assert_eq!(index.of(None).len(), count);
        assert!(index.knows(&codes::digest(CODE)));
        let said = Said::Code { yes: true, code: CODE.to_owned() };
        assert_eq!(index.named(&said), ["00000007"]);
        let to = wish().messages[0];
        assert_eq!(index.named(&Said::Reaction { yes: true, to }).len(), count);
        assert!(index.named(&Said::Else).is_empty());
    }
}
