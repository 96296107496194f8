//! The backends behind their common suite, and what only a disk can show: reopening, damage, full disks, crashes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use oa_node::store::backend::{Backend, BackendError, Change, Pair, Range, Table};
use oa_node::store::conformance::{backend_suite, put, remove};
use oa_node::store::memory::MemoryBackend;
use oa_node::store::sqlite::SqliteBackend;
use proptest::prelude::*;
use tempfile::TempDir;

/// Set in a child of [`a_killed_writer_loses_nothing_flushed`]: the database that it writes until it is killed.
const CRASH_DATABASE: &str = "OA_TEST_CRASH_DATABASE";

/// How often that child is killed.
const KILLS: u64 = 5;

/// Rows of each flush of that child.
const CRASH_ROWS: u64 = 7;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn database(dir: &TempDir) -> PathBuf {
    dir.path().join("node.db")
}

fn open(path: &Path) -> SqliteBackend {
    SqliteBackend::open(path).expect("the database opens")
}

/// A backend that takes its folder with it.
#[derive(Debug)]
struct Temporary {
    store: SqliteBackend,
    _dir: TempDir,
}

impl Backend for Temporary {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        self.store.get(table, key)
    }

    fn scan(&self, table: Table, range: &Range) -> Result<Vec<Pair>, BackendError> {
        self.store.scan(table, range)
    }

    fn flush(&self, changes: &[Change]) -> Result<(), BackendError> {
        self.store.flush(changes)
    }
}

fn temporary() -> Box<dyn Backend> {
    let dir = folder();
    Box::new(Temporary { store: open(&database(&dir)), _dir: dir })
}

#[test]
fn memory_conforms() {
    backend_suite(|| Box::<MemoryBackend>::default());
}

#[test]
fn sqlite_conforms() {
    backend_suite(temporary);
}

#[derive(Debug, Clone)]
enum Op {
    Flush(Vec<Change>),
    Get(Table, Vec<u8>),
    Scan(Table, Range),
}

/// Few tables and short keys over few bytes, so that operations meet.
fn op() -> impl Strategy<Value = Op> {
    let table = || prop::sample::select(vec![Table::Files, Table::Rows]);
    let key = || prop::collection::vec(prop::sample::select(vec![0u8, 1, b'a', 0xfe, 0xff]), 0..3);
    let change = (table(), key(), prop::option::of(prop::collection::vec(any::<u8>(), 0..4)))
        .prop_map(|(table, key, value)| Change { table, key, value });
    let limit = prop_oneof![0usize..4, Just(usize::MAX)];
    let range = (key(), prop::option::of(key()), any::<bool>(), limit)
        .prop_map(|(from, to, reverse, limit)| Range { from, to, reverse, limit });
    prop_oneof![
        prop::collection::vec(change, 0..6).prop_map(Op::Flush),
        (table(), key()).prop_map(|(table, key)| Op::Get(table, key)),
        (table(), range).prop_map(|(table, range)| Op::Scan(table, range)),
    ]
}

/// Rows of all tables.
type Model = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// What a scan must answer, told as plainly as it can be.
fn scanned(model: &Model, table: Table, range: &Range) -> Vec<Pair> {
    let inside = |key: &Vec<u8>| *key >= range.from && range.to.as_ref().is_none_or(|to| key < to);
    let mut pairs: Vec<Pair> = model
        .iter()
        .filter(|((of, key), _)| *of == table && inside(key))
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect();
    if range.reverse {
        pairs.reverse();
    }
    pairs.truncate(range.limit);
    pairs
}

/// Runs `ops` on `store` and on a model, comparing every answer.
fn follows_the_model(store: &dyn Backend, ops: &[Op]) -> Result<(), TestCaseError> {
    let failed = |error: BackendError| TestCaseError::fail(error.to_string());
    let mut model = Model::new();
    for op in ops {
        match op {
            Op::Flush(changes) => {
                store.flush(changes).map_err(failed)?;
                for change in changes {
                    let key = (change.table, change.key.clone());
                    match &change.value {
                        Some(value) => model.insert(key, value.clone()),
                        None => model.remove(&key),
                    };
                }
            }
            Op::Get(table, key) => {
                let got = store.get(*table, key).map_err(failed)?;
                prop_assert_eq!(got.as_ref(), model.get(&(*table, key.clone())));
            }
            Op::Scan(table, range) => {
                let got = store.scan(*table, range).map_err(failed)?;
                prop_assert_eq!(got, scanned(&model, *table, range));
            }
        }
    }
    Ok(())
}

proptest! {
    // 25 × 400 operations.
    #![proptest_config(ProptestConfig { cases: 25, ..ProptestConfig::default() })]

    #[test]
    fn both_follow_a_model(ops in prop::collection::vec(op(), 400)) {
        follows_the_model(&MemoryBackend::default(), &ops)?;
        follows_the_model(temporary().as_ref(), &ops)?;
    }
}

#[test]
fn a_reopened_database_has_all_that_was_flushed() {
    let dir = folder();
    let path = database(&dir);
    open(&path).flush(&[put(Table::Files, "a", "1"), put(Table::Files, "b", "2")]).expect("flushed");
    open(&path).flush(&[remove(Table::Files, "a"), put(Table::Rows, "c", "3")]).expect("flushed");
    let store = open(&path);
    assert_eq!(store.get(Table::Files, b"a").expect("read"), None);
    assert_eq!(store.get(Table::Files, b"b").expect("read"), Some(b"2".to_vec()));
    assert_eq!(store.get(Table::Rows, b"c").expect("read"), Some(b"3".to_vec()));
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let dir = folder();
    let path = database(&dir);
    drop(open(&path));
    let db = rusqlite::Connection::open(&path).expect("plain SQLite opens it");
    db.pragma_update(None, "user_version", 3).expect("a later release");
    // Twice: with the number still in the log, as a killed process leaves it, and folded into the file.
    let logged = dir.path().join("logged.db");
    std::fs::copy(&path, &logged).expect("copied");
    std::fs::copy(dir.path().join("node.db-wal"), dir.path().join("logged.db-wal")).expect("copied");
    drop(db);
    for path in [&path, &logged] {
        let before = std::fs::read(path).expect("read");
        let error = SqliteBackend::open(path).expect_err("it is newer");
        assert!(matches!(error, BackendError::NewerFormat { found: 3, known: 2, .. }), "{error:?}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert!(std::fs::read(path).expect("read") == before, "nothing was touched");
    }
    assert!(
        std::fs::metadata(dir.path().join("logged.db-wal")).is_ok_and(|log| log.len() > 0),
        "nor the log"
    );
}

#[test]
fn a_database_of_the_first_format_becomes_one_of_this() {
    let dir = folder();
    let path = database(&dir);
    open(&path).flush(&[put(Table::Files, "a", "1")]).expect("flushed");
    let format = |set: Option<i64>| -> i64 {
        let db = rusqlite::Connection::open(&path).expect("plain SQLite opens it");
        if let Some(format) = set {
            db.pragma_update(None, "user_version", format).expect("as it was");
        }
        db.pragma_query_value(None, "user_version", |row| row.get(0)).expect("read")
    };
    assert_eq!(format(Some(1)), 1);
    assert_eq!(open(&path).get(Table::Files, b"a").expect("read"), Some(b"1".to_vec()));
    assert_eq!(format(None), 2, "programs that do not know it refuse it from now on");
    assert_eq!(format(Some(0)), 0);
    let error = SqliteBackend::open(&path).expect_err("without a format it is not ours");
    assert!(matches!(error, BackendError::Corrupt { .. }), "{error:?}");
}

#[test]
fn damage_is_reported_and_nothing_destroyed() {
    let dir = folder();
    let good = dir.path().join("good.db");
    let rows: Vec<Change> = (0..2_000u32).map(|n| put(Table::Files, n.to_be_bytes(), vec![7; 100])).collect();
    open(&good).flush(&rows).expect("flushed");
    let good = std::fs::read(&good).expect("read");
    let foreign = dir.path().join("foreign.db");
    rusqlite::Connection::open(&foreign)
        .and_then(|db| db.execute_batch("CREATE TABLE songs (title TEXT)"))
        .expect("a database of another program");

    let zeroed = |from: usize, to: usize| {
        let mut bytes = good.clone();
        bytes.get_mut(from..to).expect("inside the file").fill(0);
        bytes
    };
    let cases: [(&str, Vec<u8>); 6] = [
        ("text", b"these are not the bytes you are looking for ".repeat(4)),
        ("a few bytes", b"SQLite format 3\0".to_vec()),
        ("no header", zeroed(0, 100)),
        ("no schema", zeroed(100, 4096)),
        ("half of it", good.get(..good.len() / 2).expect("a half").to_vec()),
        ("another program's", std::fs::read(foreign).expect("read")),
    ];
    for (name, bytes) in cases {
        let path = dir.path().join(name);
        std::fs::write(&path, &bytes).expect("written");
        let error = SqliteBackend::open(&path).expect_err(name);
        assert!(matches!(error, BackendError::Corrupt { .. }), "{name}: {error:?}");
        assert!(std::fs::read(&path).expect("read") == bytes, "{name} was changed");
    }
}

#[test]
fn an_empty_file_with_a_log_is_damage_and_without_one_a_beginning() {
    let dir = folder();
    let path = database(&dir);
    let log = dir.path().join("node.db-wal");
    std::fs::write(&path, b"").expect("written");
    std::fs::write(&log, b"the only copy of something").expect("written");
    let error = SqliteBackend::open(&path).expect_err("the database was emptied");
    assert!(matches!(error, BackendError::Corrupt { .. }), "{error:?}");
    assert_eq!(std::fs::read(&log).expect("still there"), b"the only copy of something");
    std::fs::remove_file(&log).expect("removed");
    open(&path).flush(&[put(Table::Files, "a", "1")]).expect("flushed");
}

#[test]
fn damage_found_while_reading_is_reported() {
    let dir = folder();
    let path = database(&dir);
    let rows: Vec<Change> = (0..2_000u32).map(|n| put(Table::Files, n.to_be_bytes(), vec![7; 100])).collect();
    open(&path).flush(&rows).expect("flushed");
    let mut bytes = std::fs::read(&path).expect("read");
    // Behind the roots of the tables, which are the first pages.
    bytes.get_mut(30 * 4096..).expect("a long file").fill(0xee);
    std::fs::write(&path, bytes).expect("written");
    let store = open(&path);
    let error = store.scan(Table::Files, &Range::prefix("")).expect_err("the pages are damaged");
    assert!(matches!(error, BackendError::Corrupt { .. }), "{error:?}");
}

#[test]
fn places_that_cannot_hold_a_database_are_named() {
    let dir = folder();
    for path in [dir.path().join("no such folder").join("node.db"), dir.path().to_owned()] {
        let error = SqliteBackend::open(&path).expect_err("no database can be there");
        assert!(matches!(error, BackendError::Io { .. }), "{error:?}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[test]
fn a_full_disk_stops_the_store_with_what_it_had() {
    let dir = folder();
    let path = database(&dir);
    let store = SqliteBackend::open_sized(&path, Some(100)).expect("the database opens");
    store.flush(&[put(Table::Files, "a", "kept")]).expect("there is room");
    let large = [put(Table::Files, "a", "half of a flush"), put(Table::Files, "b", vec![0; 1024 * 1024])];
    let error = store.flush(&large).expect_err("there is no room");
    assert!(matches!(error, BackendError::DiskFull { .. }), "{error:?}");
    for changes in [&[put(Table::Files, "c", "small")][..], &[]] {
        let error = store.flush(changes).expect_err("it takes no further work");
        assert!(matches!(&error, BackendError::Stopped(why) if why.contains("full")), "{error:?}");
    }
    assert_eq!(store.get(Table::Files, b"a").expect("reads go on"), Some(b"kept".to_vec()));
    drop(store);
    let store = open(&path);
    let pairs = store.scan(Table::Files, &Range::prefix("")).expect("read");
    assert_eq!(pairs, [(b"a".to_vec(), b"kept".to_vec())]);
    store.flush(&large).expect("with room it goes on");
}

/// The changes of the `n`th flush of the child: a counter, the same number in as many rows, and one row that is new.
fn crash_flush(n: u64) -> Vec<Change> {
    let number = n.to_be_bytes();
    let mut changes = vec![put(Table::Meta, "count", number), put(Table::Inbox, number, number)];
    changes.extend((0..CRASH_ROWS).map(|row| put(Table::Rows, row.to_be_bytes(), number)));
    changes
}

/// The number of flushes that are in the database; checks that each is there as a whole.
fn crash_count(store: &dyn Backend) -> u64 {
    let Some(count) = store.get(Table::Meta, b"count").expect("read") else { return 0 };
    let rows = store.scan(Table::Rows, &Range::prefix("")).expect("read");
    assert_eq!(rows.len() as u64, CRASH_ROWS);
    assert!(rows.iter().all(|(_, value)| *value == count), "rows of another flush than {count:?}: {rows:?}");
    let count = u64::from_be_bytes(count.try_into().expect("eight bytes were put"));
    let inbox = store.scan(Table::Inbox, &Range::prefix("")).expect("read");
    assert!(inbox.into_iter().map(|(key, _)| key).eq((1..=count).map(|n| n.to_be_bytes().to_vec())));
    count
}

/// Not a test of its own: the child that writes until it is killed, printing each flush that returned.
#[test]
fn crash_child() {
    let Some(path) = std::env::var_os(CRASH_DATABASE) else { return };
    let store = open(Path::new(&path));
    let mut out = std::io::stdout().lock();
    for n in crash_count(&store) + 1.. {
        store.flush(&crash_flush(n)).expect("flushed");
        writeln!(out, "\nflushed {n}").and_then(|()| out.flush()).expect("the parent reads");
    }
}

#[test]
fn a_killed_writer_loses_nothing_flushed() {
    let dir = folder();
    let path = database(&dir);
    let mut last = 0;
    for kill in 1..=KILLS {
        let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
            .args(["--exact", "crash_child", "--nocapture", "--test-threads=1"])
            .env(CRASH_DATABASE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the child starts");
        // Another number of flushes each time; the pipe is read to its end, because the child writes until it dies.
        let enough = last + 50 + 37 * kill;
        let mut killed = false;
        for line in BufReader::new(child.stdout.take().expect("it is piped")).lines() {
            let line = line.expect("text");
            let Some(n) = line.strip_prefix("flushed ") else { continue };
            // The kill may cut the last number short; then it is lower than the one before.
            last = last.max(n.parse().unwrap_or(0));
            if last >= enough && !killed {
                child.kill().expect("killed");
                killed = true;
            }
        }
        child.wait().expect("it ended");
        assert!(killed, "the child ended by itself");
        let count = crash_count(&open(&path));
        assert!(count >= last, "flush {last} was reported, the database has {count}");
        assert!(count <= last + 1, "flush {count} was never made");
        last = count;
    }
}
