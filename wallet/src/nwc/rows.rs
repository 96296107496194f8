//! Where the service keeps its connections and requests: rows of the wallet's database.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _};
use oa_nips::port::{Row, RowWrite};
use tokio::task::spawn_blocking;

use crate::store::{Store, StoreError, Verdict};

/// Why rows were not written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowsError {
    /// A row has another version than expected: somebody else writes here. Nothing was written.
    #[error("a row was written by somebody else")]
    Stale,
    /// The store's words. It is not known whether anything was written; the service ends.
    #[error("{0}")]
    Store(String),
}

impl From<StoreError> for RowsError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

/// A durable table of rows. When `commit` returns, all of it is on disk, or nothing is.
pub trait Rows: Debug + Send + Sync {
    /// All rows of a space, by key.
    fn load<'a>(&'a self, space: &'a str) -> BoxFuture<'a, Result<Vec<(String, Row)>, RowsError>>;

    /// One row.
    fn get<'a>(&'a self, space: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Row>, RowsError>>;

    /// Writes in this order, each against what those before it left.
    fn commit(&self, writes: Vec<RowWrite>) -> BoxFuture<'_, Result<(), RowsError>>;
}

/// Rows of one read.
const PAGE: usize = 1000;

/// The rows of a [`Store`], which blocks, so that it is called on threads that may.
#[derive(Debug, Clone)]
pub struct StoreRows(Arc<dyn Store>);

impl StoreRows {
    /// Over that store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Store) -> Result<T, RowsError> + Send + 'static,
    ) -> Result<T, RowsError> {
        let store = self.0.clone();
        let done = spawn_blocking(move || work(&*store)).await;
        done.unwrap_or_else(|error| Err(RowsError::Store(error.to_string())))
    }
}

impl Rows for StoreRows {
    fn load<'a>(&'a self, space: &'a str) -> BoxFuture<'a, Result<Vec<(String, Row)>, RowsError>> {
        let space = space.to_owned();
        self.blocking(move |store| {
            let mut rows = Vec::new();
            let mut from = String::new();
            loop {
                let page = store.scan(&space, &from, PAGE)?;
                let is_last = page.len() < PAGE;
                if let Some((last, _)) = page.last() {
                    // The next key there can be.
                    from = format!("{last}\0");
                }
                rows.extend(page);
                if is_last {
                    return Ok(rows);
                }
            }
        })
        .boxed()
    }

    fn get<'a>(&'a self, space: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Row>, RowsError>> {
        let (space, key) = (space.to_owned(), key.to_owned());
        self.blocking(move |store| Ok(store.get(&space, &key)?)).boxed()
    }

    fn commit(&self, writes: Vec<RowWrite>) -> BoxFuture<'_, Result<(), RowsError>> {
        self.blocking(move |store| match store.commit(&[writes])?.first() {
            Some(Verdict::Done) => Ok(()),
            Some(Verdict::Stale { .. }) | None => Err(RowsError::Stale),
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    fn write(key: String, expect_version: u64) -> RowWrite {
        RowWrite { space: "nwc.test".to_owned(), key, expect_version, value: Some(b"x".to_vec()) }
    }

    #[tokio::test]
    async fn a_store_holds_more_rows_than_a_page() {
        let rows = StoreRows::new(Arc::new(MemoryStore::default()));
        let writes = (0..2 * PAGE + 1).map(|nth| write(format!("{nth:05}"), 0)).collect();
        rows.commit(writes).await.unwrap();
        let loaded = rows.load("nwc.test").await.unwrap();
        assert_eq!(loaded.len(), 2 * PAGE + 1);
        assert!(loaded.is_sorted_by(|(one, _), (next, _)| one < next), "each once");
        assert_eq!(rows.load("nwc").await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_batch_sees_its_own_writes_and_a_stale_one_writes_nothing() {
        let rows = StoreRows::new(Arc::new(MemoryStore::default()));
        let key = || "a".to_owned();
        rows.commit(vec![write(key(), 0), write(key(), 1)]).await.unwrap();
        let stale = rows.commit(vec![write("b".to_owned(), 0), write(key(), 1)]).await;
        assert_eq!(stale, Err(RowsError::Stale));
        assert_eq!(rows.get("nwc.test", "b").await.unwrap(), None);
        assert_eq!(rows.get("nwc.test", "a").await.unwrap().unwrap().version, 2);
    }
}
