//! The event store behind relay-builder: opened with errors one can act on, counted, and bounded where it is not.
//!
//! One store per relay, shared by all its connections; LMDB has one writer thread, which commits what has piled up
//! in one synced transaction and answers after that.

mod whole;

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nostr_database::prelude::{BoxedFuture, Event, EventId, Filter, Timestamp};
use nostr_database::{
    Backend, DatabaseError, DatabaseEventStatus, Events, MemoryDatabase, MemoryDatabaseOptions,
    NostrDatabase, RejectedReason, SaveEventStatus,
};
use nostr_lmdb::NostrLMDB;
use tokio::sync::Semaphore;

use crate::config::{Limits, StoreConfig};

/// NIP-77 scans at once. They read every matching event, so more would only slow each other and the writer down;
/// the rest waits its turn. LMDB has 126 reader slots.
const SCANS_MAX: usize = 4;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("not writable")]
    Unwritable(#[source] io::Error),
    #[error("not readable as a database")]
    Corrupt(#[source] Box<dyn Error + Send + Sync>),
    #[error("written by a newer version")]
    Newer(#[source] Box<dyn Error + Send + Sync>),
    #[error("cannot be opened")]
    Other(#[source] Box<dyn Error + Send + Sync>),
}

/// A client asked to reconcile more events than the limit.
#[derive(Debug, thiserror::Error)]
#[error("negentropy set has over {max} events: narrow the filter")]
struct TooManyItems {
    max: usize,
}

/// How many events were sent to subscribers so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Published(Arc<AtomicU64>);

impl Published {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Counts an event that is about to be broadcast.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// The store handed to relay-builder.
#[derive(Debug)]
pub(crate) struct Store {
    inner: Arc<dyn NostrDatabase>,
    published: Published,
    scans: Arc<Semaphore>,
    negentropy_items_max: usize,
}

impl Store {
    /// Opens the configured store. Blocks on the disk.
    pub(crate) fn open(
        config: &StoreConfig,
        limits: &Limits,
        published: Published,
    ) -> Result<Store, OpenError> {
        let inner: Arc<dyn NostrDatabase> = match config {
            StoreConfig::Memory => Arc::new(MemoryDatabase::with_opts(MemoryDatabaseOptions {
                events: true,
                max_events: Some(limits.memory_events_max.max(1)),
            })),
            StoreConfig::Lmdb(path) => Arc::new(open_lmdb(path)?),
        };
        let scans = Arc::new(Semaphore::new(SCANS_MAX));
        Ok(Store { inner, published, scans, negentropy_items_max: limits.negentropy_items_max })
    }
}

fn open_lmdb(path: &Path) -> Result<NostrLMDB, OpenError> {
    fs::create_dir_all(path).map_err(OpenError::Unwritable)?;
    for file in ["lock.mdb", "data.mdb"] {
        probe(&path.join(file)).map_err(OpenError::Unwritable)?;
    }
    if !whole::is_whole(&path.join("data.mdb")).map_err(OpenError::Unwritable)? {
        return Err(OpenError::Corrupt("the file was cut short".into()));
    }
    NostrLMDB::open(path).map_err(|error| {
        let source: Box<dyn Error + Send + Sync> = match error {
            DatabaseError::Backend(source) => source,
            other => Box::new(other),
        };
        // The backend's error type is private to it; its words are all there is.
        let text = source.to_string();
        if text.contains("newer than supported") {
            OpenError::Newer(source)
        } else if ["MDB_INVALID", "MDB_CORRUPTED", "MDB_VERSION_MISMATCH", "MDB_PAGE_NOTFOUND"]
            .iter()
            .any(|code| text.contains(code))
        {
            OpenError::Corrupt(source)
        } else {
            OpenError::Other(source)
        }
    })
}

/// Opens a file of the store as LMDB will, so that a missing right is told from a damaged file. Leaves it as it is;
/// one that is absent is created empty, which LMDB takes for new.
fn probe(path: &PathBuf) -> io::Result<()> {
    OpenOptions::new().read(true).append(true).create(true).open(path).map(drop)
}

impl NostrDatabase for Store {
    fn backend(&self) -> Backend {
        self.inner.backend()
    }

    fn save_event<'a>(&'a self, event: &'a Event) -> BoxedFuture<'a, Result<SaveEventStatus, DatabaseError>> {
        Box::pin(async move {
            let status = match self.inner.save_event(event).await? {
                // Two connections brought the same event at once: it is stored, and both get their OK.
                SaveEventStatus::Rejected(RejectedReason::Duplicate) => SaveEventStatus::Success,
                status => status,
            };
            if status.is_success() {
                self.published.add();
            }
            Ok(status)
        })
    }

    fn check_id<'a>(
        &'a self,
        event_id: &'a EventId,
    ) -> BoxedFuture<'a, Result<DatabaseEventStatus, DatabaseError>> {
        self.inner.check_id(event_id)
    }

    fn event_by_id<'a>(
        &'a self,
        event_id: &'a EventId,
    ) -> BoxedFuture<'a, Result<Option<Event>, DatabaseError>> {
        self.inner.event_by_id(event_id)
    }

    fn count(&self, filter: Filter) -> BoxedFuture<'_, Result<usize, DatabaseError>> {
        self.inner.count(filter)
    }

    fn query(&self, filter: Filter) -> BoxedFuture<'_, Result<Events, DatabaseError>> {
        self.inner.query(filter)
    }

    /// Scans on a thread that may block, for LMDB does; one item over the limit is an error, never a shorter answer.
    fn negentropy_items(
        &self,
        mut filter: Filter,
    ) -> BoxedFuture<'_, Result<Vec<(EventId, Timestamp)>, DatabaseError>> {
        Box::pin(async move {
            let max = self.negentropy_items_max;
            let over = max.saturating_add(1);
            filter.limit = Some(filter.limit.unwrap_or(over).min(over));
            let permit = Arc::clone(&self.scans).acquire_owned().await.map_err(DatabaseError::backend)?;
            let (inner, runtime) = (Arc::clone(&self.inner), tokio::runtime::Handle::current());
            let items = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                runtime.block_on(inner.negentropy_items(filter))
            })
            .await
            .map_err(DatabaseError::backend)??;
            if items.len() > max { Err(DatabaseError::backend(TooManyItems { max })) } else { Ok(items) }
        })
    }

    fn delete(&self, filter: Filter) -> BoxedFuture<'_, Result<(), DatabaseError>> {
        self.inner.delete(filter)
    }

    fn wipe(&self) -> BoxedFuture<'_, Result<(), DatabaseError>> {
        self.inner.wipe()
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::{EventBuilder, Keys};

    use super::*;

    fn note(text: &str) -> Event {
        EventBuilder::text_note(text).sign_with_keys(&Keys::generate()).expect("signs")
    }

    fn memory(limits: &Limits) -> Store {
        Store::open(&StoreConfig::Memory, limits, Published::default()).expect("opens")
    }

    #[tokio::test]
    async fn the_same_event_twice_at_once_is_stored_for_both() {
        let store = memory(&Limits::default());
        let event = note("twice");
        for _ in 0..2 {
            assert_eq!(store.save_event(&event).await.expect("saves"), SaveEventStatus::Success);
        }
        assert_eq!(store.published.count(), 2);
    }

    #[tokio::test]
    async fn a_reconciliation_is_whole_or_refused() {
        let store = memory(&Limits { negentropy_items_max: 3, ..Limits::default() });
        for index in 0..3 {
            store.save_event(&note(&index.to_string())).await.expect("saves");
        }
        assert_eq!(store.negentropy_items(Filter::new()).await.expect("within the limit").len(), 3);
        store.save_event(&note("one more")).await.expect("saves");
        let error = store.negentropy_items(Filter::new()).await.expect_err("over the limit");
        assert_eq!(error.to_string(), "negentropy set has over 3 events: narrow the filter");
        let asked = store.negentropy_items(Filter::new().limit(2)).await.expect("the client's own limit");
        assert_eq!(asked.len(), 2);
    }

    #[test]
    fn a_damaged_database_is_told_and_left_as_it_is() {
        let home = tempfile::tempdir().expect("a directory");
        let data = home.path().join("data.mdb");
        let garbage = vec![0x5a; 64 * 1024];
        fs::write(&data, &garbage).expect("writes");
        let config = StoreConfig::Lmdb(home.path().to_owned());
        let error = Store::open(&config, &Limits::default(), Published::default()).expect_err("garbage");
        assert!(matches!(error, OpenError::Corrupt(_)), "{error:?}");
        assert_eq!(fs::read(&data).expect("still there"), garbage);
    }

    #[test]
    fn a_file_in_the_way_is_unwritable() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("store");
        fs::write(&path, "not a directory").expect("writes");
        let error = Store::open(&StoreConfig::Lmdb(path), &Limits::default(), Published::default())
            .expect_err("a file");
        assert!(matches!(error, OpenError::Unwritable(_)), "{error:?}");
    }
}
