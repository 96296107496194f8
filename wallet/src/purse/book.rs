//! Reading and changing the wallet's rows: one piece of work, one commit, on threads that may block.

use std::sync::{Arc, Mutex};

use tokio::task::spawn_blocking;

use super::locked;
use crate::nwc::purse::PurseError;
use crate::store::{Draft, Store, StoreError, Verdict};

/// How often work is done anew because a row changed under it. Writers here wait for each other, so once is rare.
const TRIES: u32 = 16;

/// The store, with its writers in line.
#[derive(Debug, Clone)]
pub(super) struct Book {
    store: Arc<dyn Store>,
    line: Arc<Mutex<()>>,
}

impl Book {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, line: Arc::default() }
    }

    /// Does a piece of work on a draft and commits it; nothing is written after an error. The work may run again, on
    /// the rows as they are then. What changes nothing costs no flush.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Draft<'_>) -> Result<T, PurseError> + Send + 'static,
    ) -> Result<T, PurseError> {
        let book = self.clone();
        let done = spawn_blocking(move || book.commit(work)).await;
        done.unwrap_or_else(|error| {
            tracing::error!(%error, "a piece of work on the ledger panicked");
            Err(PurseError::Unavailable("the wallet failed".to_owned()))
        })
    }

    fn commit<T>(&self, work: impl Fn(&mut Draft<'_>) -> Result<T, PurseError>) -> Result<T, PurseError> {
        let _turn = locked(&self.line);
        for _ in 0..TRIES {
            let mut draft = Draft::new(&*self.store);
            let result = work(&mut draft)?;
            let writes = draft.into_writes();
            if writes.is_empty() {
                return Ok(result);
            }
            match self.store.commit(&[writes])?.first() {
                Some(Verdict::Done) => return Ok(result),
                Some(Verdict::Stale { space, key }) => {
                    tracing::debug!(space, key, "a row changed meanwhile: once more");
                }
                None => break,
            }
        }
        let (path, detail) = ("the ledger".to_owned(), "its rows change without an end".to_owned());
        Err(StoreError::Io { path, detail }.into())
    }

    /// Reads rows as they were last committed.
    pub(super) async fn read<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Store) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let store = self.store.clone();
        let done = spawn_blocking(move || work(&*store)).await;
        done.unwrap_or_else(|error| {
            let (path, detail) = ("the ledger".to_owned(), error.to_string());
            Err(StoreError::Io { path, detail }.into())
        })
    }
}
