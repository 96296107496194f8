//! The store on disk: one SQLite database, one writer, a few readers.
//!
//! Write-ahead log with `synchronous=FULL`: a flush returns after its fsync, readers keep the last flushed state
//! in sight and never wait for the writer. The file is opened by the process that holds the home's lock and by
//! nobody else. It is closed when the backend is dropped, the writer last, which folds the log into the file.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use super::backend::{Backend, BackendError, Change, Pair, Range, Table};

mod sql;
use sql::Sql;

/// The format this program writes, in `PRAGMA user_version`. A new table needs no new format: opening adds it.
///
/// 1: all rows but raw ones are JSON. 2: so are all but records, which are packed; those of before are read as they are,
/// and a database of format 1 becomes one of format 2 when it is opened.
const FORMAT: i64 = 2;

/// Reader connections. More than the cores of a small server only cost memory: a read is microseconds.
const READERS: usize = 4;

/// Prepared statements a connection keeps: all it can need (a reader has five a table), so that none is made twice.
const STATEMENTS_MAX: usize = 5 * Table::ALL.len() + 4;

/// How long SQLite waits for a lock; only a second process that ignores the home's lock could make it wait.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Pages in the log before a commit folds it into the database (32 MiB). A page written often between two foldings
/// is written back once, so twice this gains little and half of it costs a quarter of the puts a second; recovery
/// after a crash reads as much.
const CHECKPOINT_PAGES: u32 = 8192;

/// What the log may keep on disk after it was folded, in bytes: more than it grows to, because cutting it means
/// allocating it anew.
const LOG_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// Page cache of the writer and of one reader, in KiB. The readers' is small: every flush empties it.
const WRITER_CACHE_KIB: u32 = 16 * 1024;
const READER_CACHE_KIB: u32 = 2 * 1024;

/// Free bytes below which an I/O error is reported as a full disk.
const FREE_BYTES_MIN: u64 = 64 * 1024;

/// How every database begins, and where its `user_version` stands, see "The Database Header" of sqlite.org/fileformat2.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const USER_VERSION_AT: usize = 60;
const HEADER_BYTES: usize = 100;

/// Ordered tables in one SQLite database.
#[derive(Debug)]
pub struct SqliteBackend {
    path: PathBuf,
    sql: [Sql; Table::ALL.len()],
    /// Before the writer: fields are dropped in order, and the last connection to close folds the log.
    readers: [Mutex<Connection>; READERS],
    next_reader: AtomicUsize,
    writer: Mutex<Writer>,
}

/// The connection that writes, and whether it still may.
#[derive(Debug)]
struct Writer {
    db: Connection,
    /// The first failure, after which nothing is written.
    failed: Option<String>,
}

impl SqliteBackend {
    /// Opens the database at `path`, or creates it, readable by its owner only.
    ///
    /// # Errors
    /// [`BackendError::NewerFormat`] and [`BackendError::Corrupt`] leave the file as it was. Damage deep inside a
    /// large file shows only when it is read: checking every page would take minutes.
    pub fn open(path: &Path) -> Result<Self, BackendError> {
        Self::open_sized(path, None)
    }

    /// As [`SqliteBackend::open`], with a disk that is full when the database has `pages_max` pages of 4 KiB: for
    /// tests of what happens then.
    ///
    /// # Errors
    /// As [`SqliteBackend::open`].
    #[doc(hidden)]
    pub fn open_sized(path: &Path, pages_max: Option<u32>) -> Result<Self, BackendError> {
        inspect(path)?;
        let sql = Table::ALL.map(Sql::new);
        let db = open_writer(path, &sql).map_err(|error| error.at(path))?;
        if let Some(pages) = pages_max {
            db.pragma_update(None, "max_page_count", pages).map_err(|error| Failure::from(error).at(path))?;
        }
        let writer = Mutex::new(Writer { db, failed: None });
        let reader = || open_reader(path).map(Mutex::new).map_err(|error| Failure::from(error).at(path));
        let readers = [reader()?, reader()?, reader()?, reader()?];
        Ok(Self { path: path.to_owned(), sql, readers, next_reader: AtomicUsize::new(0), writer })
    }

    /// A reader that nobody uses; when all are busy, the next in turn.
    fn reader(&self) -> MutexGuard<'_, Connection> {
        let first = self.next_reader.fetch_add(1, Ordering::Relaxed) % READERS;
        let (before, from) = self.readers.split_at(first);
        for reader in from.iter().chain(before) {
            match reader.try_lock() {
                Ok(guard) => return guard,
                // A reader changes nothing: whoever panicked with it left nothing half done.
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        let next = from.first().expect("the remainder is below the number of readers");
        next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sql(&self, table: Table) -> &Sql {
        self.sql.get(table as usize).expect("there is one set of statements per table")
    }

    fn error(&self, error: rusqlite::Error) -> BackendError {
        Failure::from(error).at(&self.path)
    }

    /// Writes all changes in one transaction.
    fn write(&self, db: &Connection, changes: &[Change]) -> Result<(), rusqlite::Error> {
        db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        // Neighbours mostly go to the same table: they share the look-up of their statement.
        let same = |a: &Change, b: &Change| a.table == b.table && a.value.is_some() == b.value.is_some();
        for run in changes.chunk_by(same) {
            let Some(first) = run.first() else { continue };
            let sql = self.sql(first.table);
            let text = if first.value.is_some() { &sql.put } else { &sql.remove };
            let mut statement = db.prepare_cached(text)?;
            for change in run {
                match &change.value {
                    Some(value) => statement.execute(params![change.key, value])?,
                    None => statement.execute(params![change.key])?,
                };
            }
        }
        db.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
}

impl Backend for SqliteBackend {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        let db = self.reader();
        let mut statement = db.prepare_cached(&self.sql(table).get).map_err(|error| self.error(error))?;
        statement.query_row([key], |row| row.get(0)).optional().map_err(|error| self.error(error))
    }

    fn scan(&self, table: Table, range: &Range) -> Result<Vec<Pair>, BackendError> {
        let sql = self.sql(table);
        let limit = i64::try_from(range.limit).unwrap_or(i64::MAX);
        let pair = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let db = self.reader();
        let read = || -> Result<Vec<Pair>, rusqlite::Error> {
            match &range.to {
                Some(to) => {
                    let text = if range.reverse { &sql.back_to } else { &sql.scan_to };
                    db.prepare_cached(text)?.query_map(params![range.from, limit, to], pair)?.collect()
                }
                None => {
                    let text = if range.reverse { &sql.back } else { &sql.scan };
                    db.prepare_cached(text)?.query_map(params![range.from, limit], pair)?.collect()
                }
            }
        };
        read().map_err(|error| self.error(error))
    }

    fn flush(&self, changes: &[Change]) -> Result<(), BackendError> {
        let Ok(mut writer) = self.writer.lock() else {
            return Err(BackendError::Stopped("a writer panicked".to_owned()));
        };
        if let Some(first) = &writer.failed {
            return Err(BackendError::Stopped(first.clone()));
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.write(&writer.db, changes).map_err(|error| {
            // The rollback may fail as the write did; the log without its commit mark is void anyway.
            let _ = writer.db.execute_batch("ROLLBACK");
            let error = self.error(error);
            writer.failed = Some(error.to_string());
            error
        })
    }
}

/// Refuses what is certainly not ours before SQLite touches it, and creates the file with a private mode.
fn inspect(path: &Path) -> Result<(), BackendError> {
    let shown = || path.display().to_string();
    let io = |error: std::io::Error| io_error(path, &error);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // SQLite gives the log and its index the mode of the database.
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?
        }
        Err(error) => return Err(io(error)),
    };
    let size = file.metadata().map_err(io)?.len();
    if size == 0 {
        // SQLite would throw away the log of an empty database; ours is never empty once it has one.
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let log_bytes = std::fs::metadata(&log).map_or(0, |log| log.len());
        return if log_bytes == 0 {
            Ok(())
        } else {
            Err(BackendError::Corrupt { path: shown(), detail: "empty, but its log is not".to_owned() })
        };
    }
    let mut header = [0; HEADER_BYTES];
    let damaged = |detail: &str| BackendError::Corrupt { path: shown(), detail: detail.to_owned() };
    match file.read_exact(&mut header) {
        Ok(()) if header.starts_with(MAGIC) => {}
        Ok(()) => return Err(damaged("not a database")),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(damaged("cut short")),
        Err(error) => return Err(io(error)),
    }
    let version = header.get(USER_VERSION_AT..).and_then(|rest| rest.first_chunk::<4>());
    match version.map(|bytes| i64::from(i32::from_be_bytes(*bytes))) {
        Some(found) if found > FORMAT => {
            Err(BackendError::NewerFormat { path: shown(), found, known: FORMAT })
        }
        _ => Ok(()),
    }
}

/// Opens the connection that writes and brings tables and format to what this program knows.
fn open_writer(path: &Path, sql: &[Sql]) -> Result<Connection, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(LOCK_WAIT)?;
    // Until the format is known nothing may change the file, not even folding the log when this fails.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let found: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > FORMAT {
        return Err(Failure::Newer(found));
    }
    let missing = missing_tables(&db, sql, found)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;

    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "synchronous", "full")?;
    db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    db.pragma_update(None, "journal_size_limit", LOG_BYTES_MAX)?;
    tune(&db, WRITER_CACHE_KIB)?;
    if found < FORMAT || !missing.is_empty() {
        let mut script = String::from("BEGIN IMMEDIATE;");
        for create in missing {
            script.push_str(create);
            script.push(';');
        }
        script.push_str(&format!("PRAGMA user_version = {FORMAT}; COMMIT;"));
        db.execute_batch(&script)?;
    }
    Ok(db)
}

/// The statements that create the tables that are not there; an error when those that are there are not ours.
fn missing_tables<'a>(db: &Connection, sql: &'a [Sql], format: i64) -> Result<Vec<&'a str>, Failure> {
    let mut schema = db.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'table'")?;
    let found: Vec<(String, String)> =
        schema.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    // Ours has a format from its first table on.
    if format < 1 && !found.is_empty() {
        return Err(Failure::Damaged("a database of another program".to_owned()));
    }
    let mut missing = Vec::new();
    for (table, sql) in Table::ALL.iter().zip(sql) {
        match found.iter().find(|(name, _)| name == table.name()) {
            Some((_, text)) if *text == sql.create => {}
            Some(_) => return Err(Failure::Damaged(format!("table {} is not as written", table.name()))),
            None => missing.push(sql.create.as_str()),
        }
    }
    Ok(missing)
}

/// Opens a connection that reads.
fn open_reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(LOCK_WAIT)?;
    tune(&db, READER_CACHE_KIB)?;
    Ok(db)
}

/// What both kinds of connections share.
fn tune(db: &Connection, cache_kib: u32) -> Result<(), rusqlite::Error> {
    db.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
    db.pragma_update(None, "temp_store", "memory")?;
    // No memory map: an I/O error under a map is a SIGBUS, and each connection's map counts as memory of ours.
    db.pragma_update(None, "mmap_size", 0)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(())
}

/// Why opening failed, before it is told with the path.
#[derive(Debug)]
enum Failure {
    Newer(i64),
    Damaged(String),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Failure {
    fn at(self, path: &Path) -> BackendError {
        let shown = path.display().to_string();
        let error = match self {
            Self::Newer(found) => return BackendError::NewerFormat { path: shown, found, known: FORMAT },
            Self::Damaged(detail) => return BackendError::Corrupt { path: shown, detail },
            Self::Sqlite(error) => error,
        };
        let detail = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => BackendError::DiskFull { path: shown },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                BackendError::Corrupt { path: shown, detail }
            }
            // SQLite reports a full disk as this where it could not grow the log's index.
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) if is_full(path) => {
                BackendError::DiskFull { path: shown }
            }
            _ => BackendError::Io { path: shown, detail },
        }
    }
}

/// An error of the operating system, told with the path.
fn io_error(path: &Path, error: &std::io::Error) -> BackendError {
    let path = path.display().to_string();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => BackendError::DiskFull { path },
        _ => BackendError::Io { path, detail: error.to_string() },
    }
}

/// Whether the file system that holds `path` has no room left.
fn is_full(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) < FREE_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn put(table: Table, key: &[u8], value: &[u8]) -> Change {
        Change { table, key: key.to_vec(), value: Some(value.to_vec()) }
    }

    fn open(dir: &tempfile::TempDir) -> SqliteBackend {
        SqliteBackend::open(&dir.path().join("node.db")).unwrap()
    }

    #[test]
    fn the_files_are_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        store.flush(&[put(Table::Meta, b"k", b"v")]).unwrap();
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
            names.push(entry.file_name());
        }
        assert_eq!(names.len(), 3, "database, log and index: {names:?}");
    }

    #[test]
    fn it_is_set_up_to_survive_a_power_cut() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let writer = store.writer.lock().unwrap();
        let text = |name| writer.db.pragma_query_value(None, name, |row| row.get::<_, String>(0)).unwrap();
        let number = |name| writer.db.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(text("journal_mode"), "wal");
        assert_eq!(number("synchronous"), 2, "full");
        assert_eq!(number("user_version"), FORMAT);
        assert_eq!(number("wal_autocheckpoint"), i64::from(CHECKPOINT_PAGES));
    }

    #[test]
    fn readers_go_on_while_the_writer_is_in_a_transaction() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        store.flush(&[put(Table::Files, b"k", b"before")]).unwrap();
        let writer = store.writer.lock().unwrap();
        writer.db.execute_batch("BEGIN IMMEDIATE; UPDATE files SET value = x'00'").unwrap();
        for _ in 0..2 * READERS {
            assert_eq!(store.get(Table::Files, b"k").unwrap().as_deref(), Some(&b"before"[..]));
            assert_eq!(store.scan(Table::Files, &Range::prefix("k")).unwrap().len(), 1);
        }
        writer.db.execute_batch("ROLLBACK").unwrap();
    }

    #[test]
    fn a_reader_that_is_busy_is_passed_by() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        store.flush(&[put(Table::Files, b"k", b"v")]).unwrap();
        let busy: Vec<_> = (1..READERS).map(|_| store.reader()).collect();
        for _ in 0..2 * READERS {
            assert!(store.get(Table::Files, b"k").unwrap().is_some());
        }
        drop(busy);
    }

    #[test]
    fn closing_folds_the_log_into_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        store.flush(&[put(Table::Files, b"k", b"v")]).unwrap();
        drop(store);
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["node.db"]);
    }

    #[test]
    fn a_table_that_is_new_is_added() {
        let dir = tempfile::tempdir().unwrap();
        open(&dir).writer.lock().unwrap().db.execute_batch("DROP TABLE rows").unwrap();
        let store = open(&dir);
        store.flush(&[put(Table::Rows, b"k", b"v")]).unwrap();
        assert!(store.get(Table::Rows, b"k").unwrap().is_some());
    }

    #[test]
    fn every_statement_finds_its_rows_by_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let writer = store.writer.lock().unwrap();
        for sql in &store.sql {
            for text in [&sql.get, &sql.remove, &sql.scan, &sql.scan_to, &sql.back, &sql.back_to] {
                let mut plan = writer.db.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
                let steps: Vec<String> =
                    plan.raw_query().mapped(|row| row.get(3)).collect::<Result<_, _>>().unwrap();
                assert!(steps.iter().all(|step| step.starts_with("SEARCH")), "{text}: {steps:?}");
            }
        }
    }
}
