//! How rows of money are written: one piece of work after the other, each as one unit of the node's store, together
//! with the envelopes that tell of it.

use std::sync::{Arc, OnceLock, Weak};

use oa_nips::port::Row;
use oa_wallet::store::{Draft, Keyed, Rows, StoreError};
use tokio::sync::Mutex;

use crate::engine::hooks::After;
use crate::engine::shared::Shared;
use crate::namespace::Error;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::write::{Verdict, Write};

/// Times that work is done again when rows have changed under it. Nobody else writes these rows, and whoever does
/// waits for their turn; what else may change is the agent that an envelope is for.
const TRIES: usize = 8;

/// The rows, and whose turn it is to change them.
#[derive(Debug, Clone)]
pub(super) struct Book {
    pub(super) store: Store,
    turn: Arc<Mutex<()>>,
    /// The rest of the node, once it is there. Weak: it holds this by way of the trees.
    shared: Arc<OnceLock<Weak<Shared>>>,
}

/// The rows as they are on disk.
#[derive(Debug)]
pub(super) struct Committed<'a>(pub(super) &'a Store);

impl Rows for Committed<'_> {
    fn get(&self, space: &str, key: &str) -> Result<Option<Row>, StoreError> {
        self.0.row(space, key).map_err(store_error)
    }

    fn scan(&self, space: &str, from: &str, limit: usize) -> Result<Vec<Keyed>, StoreError> {
        self.0.rows_from(space, from, limit).map_err(store_error)
    }
}

impl Book {
    pub(super) fn new(store: Store) -> Self {
        Self { store, turn: Arc::default(), shared: Arc::default() }
    }

    /// The rest of the node, from now on; once.
    pub(super) fn set(&self, shared: &Arc<Shared>) {
        // A second setting would be a bug of the wiring, and the first holds.
        let _ = self.shared.set(Arc::downgrade(shared));
    }

    /// The rest of the node.
    pub(super) fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.get()?.upgrade()
    }

    /// The rows as they are on disk.
    pub(super) fn rows(&self) -> Committed<'_> {
        Committed(&self.store)
    }

    /// Keeps others from writing, for who compares all of it.
    #[cfg(test)]
    pub(super) async fn hold(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Does a piece of work, and lands what it changed and what it adds to its list as one unit.
    ///
    /// # Errors
    /// What the work said: nothing has changed then. Else what the store said.
    pub(super) async fn write<T: Send>(
        &self,
        mut work: impl FnMut(&mut Draft<'_>, &mut Vec<Write>) -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        let _turn = self.turn.lock().await;
        for _ in 0..TRIES {
            let mut also = Vec::new();
            let (done, rows) = {
                let rows = self.rows();
                let mut draft = Draft::new(&rows);
                let done = work(&mut draft, &mut also)?;
                (done, draft.into_writes())
            };
            if rows.is_empty() && also.is_empty() {
                return Ok(done);
            }
            let after = After::of(&also);
            let unit = also.into_iter().chain(rows.into_iter().map(Write::Row)).collect();
            let verdicts = self.store.commit(unit).await.map_err(store_error)?;
            if verdicts.iter().any(Verdict::stops_unit) {
                continue;
            }
            if let Some(shared) = self.shared() {
                shared.hooks.landed(after, &verdicts, &shared.outbox);
            }
            return Ok(done);
        }
        Err(Error::io("/wallet", "the accounts changed under every attempt to write them"))
    }
}

fn store_error(error: BackendError) -> StoreError {
    match error {
        BackendError::DiskFull { path } => StoreError::DiskFull { path },
        BackendError::Corrupt { path, detail } => StoreError::Corrupt { place: path, detail },
        BackendError::NewerFormat { path, found, known } => StoreError::NewerFormat { path, found, known },
        BackendError::Stopped(reason) => StoreError::Stopped(reason),
        BackendError::Io { path, detail } => StoreError::Io { path, detail },
    }
}
