//! Where LDK writes: the table that ldk-node's own store has, written so that a kill seldom finds it half told.
//!
//! LDK writes a channel's state (its monitor) and, a moment later, its own (the manager). A process that is killed
//! between the two finds the manager behind at its next start, and LDK closes the channel by force. No store can join
//! what LDK writes in two steps; this one makes the moment between them short:
//!
//! - the manager is written where LDK asks for it, not in a task that waits for a thread;
//! - what is of no use without monitors and manager (payments, events, figures) is not flushed by itself. It is in the
//!   same log, and safe with the next flush of those two: so nothing stands in line before the manager.
//!
//! Monitors, manager, coins and keys are flushed before LDK goes on, as ever.

use std::fmt;
use std::future::{Future, ready};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ldk_node::io::sqlite_store::{KV_TABLE_NAME, SQLITE_DB_FILE_NAME, SqliteStore};
use ldk_node::lightning::io::{Error, ErrorKind};
use ldk_node::lightning::util::persist::{KVStore, KVStoreSync};
use rusqlite::{Connection, OptionalExtension as _, params};

/// Keys at the top whose loss with the last moments costs nothing.
const LIGHT_KEYS: [&str; 4] = ["events", "node_metrics", "network_graph", "scorer"];
/// Folders of such keys.
const LIGHT_FOLDERS: [&str; 1] = ["payments"];

/// When a write counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    /// Flushed.
    Full,
    /// In the log, which the next flush takes along.
    Light,
}

fn care(folder: &str, key: &str) -> Care {
    let is_light = LIGHT_FOLDERS.contains(&folder) || (folder.is_empty() && LIGHT_KEYS.contains(&key));
    if is_light { Care::Light } else { Care::Full }
}

/// The store.
pub(super) struct Disk(Mutex<Writer>);

struct Writer {
    db: Connection,
    care: Care,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

fn failed(error: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Other, error.to_string())
}

impl Disk {
    /// Opens the database of a node's folder, or creates it. It is expected to be in write-ahead mode.
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        // Theirs makes the table, and brings an older one up to date.
        let (file, table) = (SQLITE_DB_FILE_NAME.to_owned(), KV_TABLE_NAME.to_owned());
        drop(SqliteStore::new(dir.to_owned(), Some(file), Some(table))?);
        let db = Connection::open(dir.join(SQLITE_DB_FILE_NAME)).map_err(failed)?;
        db.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        Ok(Self(Mutex::new(Writer { db, care: Care::Full })))
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        // A statement is done or not, whatever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, folder: &str, under: &str, key: &str) -> Result<Vec<u8>, Error> {
        let writer = self.lock();
        let sql = format!(
            "SELECT value FROM {KV_TABLE_NAME} WHERE primary_namespace = ?1 AND secondary_namespace = ?2 AND key = ?3"
        );
        let mut statement = writer.db.prepare_cached(&sql).map_err(failed)?;
        let found = statement.query_row(params![folder, under, key], |row| row.get(0)).optional();
        found
            .map_err(failed)?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no {folder}/{under}/{key}")))
    }

    fn put(&self, folder: &str, under: &str, key: &str, value: &[u8]) -> Result<(), Error> {
        let mut writer = self.lock();
        writer.take(care(folder, key))?;
        let sql = format!(
            "INSERT OR REPLACE INTO {KV_TABLE_NAME} (primary_namespace, secondary_namespace, key, value) \
             VALUES (?1, ?2, ?3, ?4)"
        );
        let mut statement = writer.db.prepare_cached(&sql).map_err(failed)?;
        statement.execute(params![folder, under, key, value]).map(drop).map_err(failed)
    }

    fn delete(&self, folder: &str, under: &str, key: &str) -> Result<(), Error> {
        let mut writer = self.lock();
        writer.take(care(folder, key))?;
        let sql = format!(
            "DELETE FROM {KV_TABLE_NAME} WHERE primary_namespace = ?1 AND secondary_namespace = ?2 AND key = ?3"
        );
        let mut statement = writer.db.prepare_cached(&sql).map_err(failed)?;
        statement.execute(params![folder, under, key]).map(drop).map_err(failed)
    }

    fn keys(&self, folder: &str, under: &str) -> Result<Vec<String>, Error> {
        let writer = self.lock();
        let sql = format!(
            "SELECT key FROM {KV_TABLE_NAME} WHERE primary_namespace = ?1 AND secondary_namespace = ?2"
        );
        let mut statement = writer.db.prepare_cached(&sql).map_err(failed)?;
        let rows = statement.query_map(params![folder, under], |row| row.get(0)).map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }
}

impl Writer {
    fn take(&mut self, care: Care) -> Result<(), Error> {
        if self.care == care {
            return Ok(());
        }
        let word = if care == Care::Full { "FULL" } else { "NORMAL" };
        self.db.pragma_update(None, "synchronous", word).map_err(failed)?;
        self.care = care;
        Ok(())
    }
}

impl KVStoreSync for Disk {
    fn read(&self, folder: &str, under: &str, key: &str) -> Result<Vec<u8>, Error> {
        self.get(folder, under, key)
    }

    fn write(&self, folder: &str, under: &str, key: &str, value: Vec<u8>) -> Result<(), Error> {
        self.put(folder, under, key, &value)
    }

    fn remove(&self, folder: &str, under: &str, key: &str, _lazy: bool) -> Result<(), Error> {
        self.delete(folder, under, key)
    }

    fn list(&self, folder: &str, under: &str) -> Result<Vec<String>, Error> {
        self.keys(folder, under)
    }
}

type Later<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// Done at once, in the order of the calls; other tasks are given another thread meanwhile.
fn at_once<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error>) -> Later<T> {
    Box::pin(ready(tokio::task::block_in_place(work)))
}

impl KVStore for Disk {
    fn read(&self, folder: &str, under: &str, key: &str) -> Later<Vec<u8>> {
        at_once(|| self.get(folder, under, key))
    }

    fn write(&self, folder: &str, under: &str, key: &str, value: Vec<u8>) -> Later<()> {
        at_once(|| self.put(folder, under, key, &value))
    }

    fn remove(&self, folder: &str, under: &str, key: &str, _lazy: bool) -> Later<()> {
        at_once(|| self.delete(folder, under, key))
    }

    fn list(&self, folder: &str, under: &str) -> Later<Vec<String>> {
        at_once(|| self.keys(folder, under))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_what_ldk_nodes_own_store_wrote_and_the_other_way_round() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = || {
            let (file, table) = (SQLITE_DB_FILE_NAME.to_owned(), KV_TABLE_NAME.to_owned());
            SqliteStore::new(dir.path().to_owned(), Some(file), Some(table)).unwrap()
        };
        KVStoreSync::write(&theirs(), "monitors", "", "a", vec![1]).unwrap();
        let ours = Disk::open(dir.path()).unwrap();
        assert_eq!(KVStoreSync::read(&ours, "monitors", "", "a").unwrap(), [1]);
        for (folder, key) in [("", "manager"), ("payments", "b"), ("", "events"), ("monitors", "a")] {
            KVStoreSync::write(&ours, folder, "", key, vec![2]).unwrap();
            assert_eq!(KVStoreSync::read(&ours, folder, "", key).unwrap(), [2]);
        }
        KVStoreSync::remove(&ours, "", "", "events", true).unwrap();
        let missing = KVStoreSync::read(&ours, "", "", "events").unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        drop(ours);
        assert_eq!(KVStoreSync::list(&theirs(), "", "").unwrap(), ["manager"]);
        assert_eq!(KVStoreSync::read(&theirs(), "payments", "", "b").unwrap(), [2]);
    }

    #[test]
    fn what_holds_coins_is_flushed() {
        for (folder, key) in
            [("", "manager"), ("monitors", "x"), ("monitor_updates", "1"), ("bdk_wallet", "y")]
        {
            assert_eq!(care(folder, key), Care::Full, "{folder}/{key}");
        }
        assert_eq!(care("payments", "x"), Care::Light);
        assert_eq!(care("monitors", "events"), Care::Full, "a key's name is not its place");
    }
}
