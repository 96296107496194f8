//! The store on disk: one table in one SQLite database, one connection that writes and one that reads.
//!
//! Write-ahead log with `synchronous=FULL`: a commit returns after its fsync, and the reader keeps the last committed
//! state in sight without waiting. The file is opened by the process that holds the home's lock and by nobody else;
//! dropping the store folds the log into it.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oa_nips::port::{Row, RowWrite};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use super::{Keyed, Rows, Store, StoreError, Verdict};

/// The format this program writes, in `PRAGMA user_version`.
const FORMAT: i64 = 1;

/// How long SQLite waits for a lock; only a second process that ignores the home's lock could make it wait.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// What the log may keep on disk after it was folded, in bytes.
const LOG_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// Versions are the 64-bit signed integers of SQLite; a row written a million times a second lasts longer than we do.
const CREATE: &str = "CREATE TABLE rows (space TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, \
                      value BLOB NOT NULL, PRIMARY KEY (space, key)) WITHOUT ROWID";
const GET: &str = "SELECT version, value FROM rows WHERE space = ?1 AND key = ?2";
const SCAN: &str =
    "SELECT version, value, key FROM rows WHERE space = ?1 AND key >= ?2 ORDER BY key LIMIT ?3";
const INSERT: &str =
    "INSERT INTO rows (space, key, version, value) VALUES (?1, ?2, 1, ?3) ON CONFLICT DO NOTHING";
const UPDATE: &str =
    "UPDATE rows SET value = ?3, version = version + 1 WHERE space = ?1 AND key = ?2 AND version = ?4";
const DELETE: &str = "DELETE FROM rows WHERE space = ?1 AND key = ?2 AND version = ?3";

/// Rows in one SQLite database.
#[derive(Debug)]
pub struct SqliteStore {
    /// As shown in errors.
    path: String,
    /// Before the writer: fields are dropped in order, and the last connection to close folds the log.
    reader: Mutex<Connection>,
    writer: Mutex<Writer>,
}

/// The connection that writes, and the first failure, after which nothing is written.
#[derive(Debug)]
struct Writer {
    db: Connection,
    failed: Option<String>,
}

impl SqliteStore {
    /// Opens the database at `path`, or creates it, readable by its owner only.
    ///
    /// # Errors
    /// [`StoreError::NewerFormat`] and [`StoreError::Corrupt`] leave the file as it was.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let shown = path.display().to_string();
        let io = |error: std::io::Error| StoreError::Io { path: shown.clone(), detail: error.to_string() };
        // SQLite gives the log and its index the mode of the database.
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(io)?;
        let db = open_writer(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(path, flags)
            .and_then(|reader| reader.busy_timeout(LOCK_WAIT).map(|()| reader))
            .map_err(|error| told(&error, &shown))?;
        Ok(Self { path: shown, reader: Mutex::new(reader), writer: Mutex::new(Writer { db, failed: None }) })
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        // A reader changes nothing: whoever panicked with it left nothing half done.
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows for SqliteStore {
    fn get(&self, space: &str, key: &str) -> Result<Option<Row>, StoreError> {
        let db = self.reader();
        let read = || db.prepare_cached(GET)?.query_row([space, key], row).optional();
        read().map_err(|error| told(&error, &self.path))
    }

    fn scan(&self, space: &str, from: &str, limit: usize) -> Result<Vec<Keyed>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let db = self.reader();
        let read = || -> Result<Vec<Keyed>, rusqlite::Error> {
            let mut statement = db.prepare_cached(SCAN)?;
            statement
                .query_map(params![space, from, limit], |found| Ok((found.get(2)?, row(found)?)))?
                .collect()
        };
        read().map_err(|error| told(&error, &self.path))
    }
}

impl Store for SqliteStore {
    fn commit(&self, units: &[Vec<RowWrite>]) -> Result<Vec<Verdict>, StoreError> {
        let Ok(mut writer) = self.writer.lock() else {
            return Err(StoreError::Stopped("a writer panicked".to_owned()));
        };
        if let Some(first) = &writer.failed {
            return Err(StoreError::Stopped(first.clone()));
        }
        flush(&writer.db, units).map_err(|error| {
            // The rollback may fail as the write did; the log without its commit mark is void anyway.
            let _ = writer.db.execute_batch("ROLLBACK");
            let error = told(&error, &self.path);
            writer.failed = Some(error.to_string());
            error
        })
    }
}

/// Writes all units in one transaction, each in a savepoint of its own.
fn flush(db: &Connection, units: &[Vec<RowWrite>]) -> Result<Vec<Verdict>, rusqlite::Error> {
    db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let mut verdicts = Vec::with_capacity(units.len());
    for unit in units {
        db.prepare_cached("SAVEPOINT unit")?.execute([])?;
        let verdict = apply(db, unit)?;
        if verdict != Verdict::Done {
            db.prepare_cached("ROLLBACK TO unit")?.execute([])?;
        }
        db.prepare_cached("RELEASE unit")?.execute([])?;
        verdicts.push(verdict);
    }
    db.prepare_cached("COMMIT")?.execute([])?;
    Ok(verdicts)
}

/// Writes one unit up to the first row that is not as expected.
fn apply(db: &Connection, unit: &[RowWrite]) -> Result<Verdict, rusqlite::Error> {
    for RowWrite { space, key, expect_version, value } in unit {
        // No row of ours ever has a version that SQLite could not hold.
        let version = i64::try_from(*expect_version).unwrap_or(-1);
        let is_as_expected = match (version, value) {
            (0, Some(value)) => db.prepare_cached(INSERT)?.execute(params![space, key, value])? == 1,
            (0, None) => !db.prepare_cached(GET)?.exists([space, key])?,
            (_, Some(value)) => db.prepare_cached(UPDATE)?.execute(params![space, key, value, version])? == 1,
            (_, None) => db.prepare_cached(DELETE)?.execute(params![space, key, version])? == 1,
        };
        if !is_as_expected {
            return Ok(Verdict::Stale { space: space.clone(), key: key.clone() });
        }
    }
    Ok(Verdict::Done)
}

fn row(found: &rusqlite::Row<'_>) -> Result<Row, rusqlite::Error> {
    let version: i64 = found.get(0)?;
    Ok(Row { version: u64::try_from(version).unwrap_or(0), value: found.get(1)? })
}

/// Opens the connection that writes, and brings a new file to the format of this program.
fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let shown = path.display().to_string();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> Result<(Connection, i64, Option<String>), rusqlite::Error> {
        let db = Connection::open_with_flags(path, flags)?;
        db.busy_timeout(LOCK_WAIT)?;
        let format = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let found = "SELECT name || ': ' || ifnull(sql, '') FROM sqlite_schema WHERE type = 'table'";
        let table = db.query_row(found, [], |row| row.get(0)).optional()?;
        Ok((db, format, table))
    };
    let (db, format, table) = open().map_err(|error| told(&error, &shown))?;
    if format > FORMAT {
        return Err(StoreError::NewerFormat { path: shown, found: format, known: FORMAT });
    }
    let is_ours = table.as_ref().is_none_or(|table| *table == format!("rows: {CREATE}"));
    // A format without its table, or a table without its format, is nothing this program ever left behind.
    if !is_ours || (format == FORMAT) != table.is_some() {
        return Err(StoreError::Corrupt {
            place: shown,
            detail: "not a database of this program".to_owned(),
        });
    }
    let set_up = || -> Result<(), rusqlite::Error> {
        db.pragma_update(None, "journal_mode", "wal")?;
        db.pragma_update(None, "synchronous", "full")?;
        db.pragma_update(None, "journal_size_limit", LOG_BYTES_MAX)?;
        if table.is_none() {
            db.execute_batch(&format!("BEGIN IMMEDIATE; {CREATE}; PRAGMA user_version = {FORMAT}; COMMIT;"))?;
        }
        Ok(())
    };
    set_up().map_err(|error| told(&error, &shown))?;
    Ok(db)
}

/// What SQLite said, as an error of ours.
fn told(error: &rusqlite::Error, path: &str) -> StoreError {
    let (path, detail) = (path.to_owned(), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::DiskFull { path },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { place: path, detail }
        }
        _ => StoreError::Io { path, detail },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::conformance;

    fn write(key: &str, expect_version: u64, value: &str) -> RowWrite {
        let value = Some(value.as_bytes().to_vec());
        RowWrite { space: "s".to_owned(), key: key.to_owned(), expect_version, value }
    }

    fn open(dir: &tempfile::TempDir) -> SqliteStore {
        SqliteStore::open(&dir.path().join("wallet.db")).unwrap()
    }

    #[test]
    fn it_does_what_every_store_does() {
        let dirs: Vec<_> = (0..conformance::CHECKS).map(|_| tempfile::tempdir().unwrap()).collect();
        let next = std::cell::Cell::new(0);
        conformance::suite(|| {
            let dir = &dirs[next.replace(next.get() + 1)];
            Box::new(open(dir))
        });
    }

    #[test]
    fn what_was_committed_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        store.commit(&[vec![write("k", 0, "one")], vec![write("k", 1, "two")]]).unwrap();
        drop(store);
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["wallet.db"], "the log is folded");
        let row = open(&dir).get("s", "k").unwrap();
        assert_eq!(row, Some(Row { version: 2, value: b"two".to_vec() }));
    }

    #[test]
    fn it_is_set_up_to_survive_a_power_cut_and_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let writer = store.writer.lock().unwrap();
        let mode = writer.db.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0)).unwrap();
        let synchronous =
            writer.db.pragma_query_value(None, "synchronous", |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!((mode.as_str(), synchronous), ("wal", 2), "2 is full");
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
        }
    }

    #[test]
    fn after_a_failed_write_it_takes_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        store.commit(&[vec![write("k", 0, "kept")]]).unwrap();
        store.writer.lock().unwrap().db.pragma_update(None, "query_only", true).unwrap();
        assert!(matches!(store.commit(&[vec![write("k", 1, "lost")]]), Err(StoreError::Io { .. })));
        store.writer.lock().unwrap().db.pragma_update(None, "query_only", false).unwrap();
        assert!(matches!(store.commit(&[vec![write("k", 1, "late")]]), Err(StoreError::Stopped(_))));
        drop(store);
        assert_eq!(open(&dir).get("s", "k").unwrap().unwrap().value, b"kept");
    }

    #[test]
    fn files_of_others_are_left_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wallet.db");
        std::fs::write(&path, "some text that is no database, long enough to be read as a header".repeat(9))
            .unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(SqliteStore::open(&path), Err(StoreError::Corrupt { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        let path = dir.path().join("other.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
        assert!(matches!(SqliteStore::open(&path), Err(StoreError::Corrupt { .. })));
        let path = dir.path().join("newer.db");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
        assert!(matches!(SqliteStore::open(&path), Err(StoreError::NewerFormat { found: 7, .. })));
    }

    #[test]
    fn every_statement_finds_its_rows_by_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let writer = store.writer.lock().unwrap();
        for text in [GET, SCAN, UPDATE, DELETE] {
            let mut plan = writer.db.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
            let steps: Vec<String> =
                plan.raw_query().mapped(|row| row.get(3)).collect::<Result<_, _>>().unwrap();
            assert!(steps.iter().all(|step| step.starts_with("SEARCH")), "{text}: {steps:?}");
        }
    }
}
