//! What every [`Backend`] does, as one suite of checks.
//!
//! A fake is only worth its tests if it behaves as the real thing: a backend exists only behind this suite. It
//! panics at the first difference and says which. What needs a disk (reopening, damage, crashes) is tested where
//! the disk is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::backend::{Backend, BackendError, Change, Pair, Range, Table};

/// Threads that read while one writes.
const READERS: usize = 3;

/// Flushes of the writer in the concurrent check.
const FLUSHES: u64 = 200;

/// Rows that each of those flushes sets to the same value.
const ROWS: u8 = 5;

/// Runs every check on a backend of its own. `make` answers an empty one each time.
///
/// # Panics
/// At the first check that fails.
pub fn backend_suite(make: impl Fn() -> Box<dyn Backend>) {
    let checks: [fn(&dyn Backend); 9] = [
        gets_what_was_put,
        keeps_tables_apart,
        applies_changes_in_order,
        keeps_any_bytes,
        scans_ranges,
        scans_prefixes,
        keeps_limits,
        answers_empty_ranges,
        takes_large_flushes,
    ];
    for check in checks {
        check(make().as_ref());
    }
    reads_while_another_writes(make().as_ref());
}

/// A put.
pub fn put(table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Change {
    Change { table, key: key.into(), value: Some(value.into()) }
}

/// A removal.
pub fn remove(table: Table, key: impl Into<Vec<u8>>) -> Change {
    Change { table, key: key.into(), value: None }
}

fn answered<T>(result: Result<T, BackendError>) -> T {
    result.expect("the backend answers")
}

fn get(store: &dyn Backend, table: Table, key: &[u8]) -> Option<Vec<u8>> {
    answered(store.get(table, key))
}

/// The keys of a range, as text.
fn keys(store: &dyn Backend, range: &Range) -> Vec<String> {
    let text = |(key, _): &Pair| String::from_utf8_lossy(key).into_owned();
    answered(store.scan(Table::Files, range)).iter().map(text).collect()
}

/// Puts `keys` into `Files`, each with itself as its value.
fn fill(store: &dyn Backend, keys: &[&[u8]]) {
    let changes: Vec<Change> = keys.iter().map(|key| put(Table::Files, *key, *key)).collect();
    answered(store.flush(&changes));
}

fn gets_what_was_put(store: &dyn Backend) {
    assert_eq!(get(store, Table::Meta, b"k"), None, "an empty store has nothing");
    answered(store.flush(&[put(Table::Meta, "k", "one")]));
    assert_eq!(get(store, Table::Meta, b"k"), Some(b"one".to_vec()), "seen as soon as flushed");
    answered(store.flush(&[put(Table::Meta, "k", "two")]));
    assert_eq!(get(store, Table::Meta, b"k"), Some(b"two".to_vec()), "a put replaces");
    answered(store.flush(&[remove(Table::Meta, "k"), remove(Table::Meta, "never there")]));
    assert_eq!(get(store, Table::Meta, b"k"), None, "a removal removes");
    answered(store.flush(&[]));
}

fn keeps_tables_apart(store: &dyn Backend) {
    let changes: Vec<Change> = Table::ALL.iter().map(|table| put(*table, "k", table.name())).collect();
    answered(store.flush(&changes));
    for table in Table::ALL {
        let pairs = answered(store.scan(table, &Range::prefix("")));
        assert_eq!(pairs, [(b"k".to_vec(), table.name().as_bytes().to_vec())], "table {}", table.name());
    }
    answered(store.flush(&[remove(Table::Inbox, "k")]));
    for table in Table::ALL {
        assert_eq!(get(store, table, b"k").is_some(), table != Table::Inbox, "table {}", table.name());
    }
}

fn applies_changes_in_order(store: &dyn Backend) {
    answered(store.flush(&[
        put(Table::Files, "a", "1"),
        put(Table::Rows, "a", "other table between"),
        put(Table::Files, "a", "2"),
        remove(Table::Files, "b"),
        put(Table::Files, "b", "put after a removal"),
        put(Table::Files, "c", "removed after a put"),
        remove(Table::Files, "c"),
    ]));
    assert_eq!(get(store, Table::Files, b"a"), Some(b"2".to_vec()));
    assert_eq!(get(store, Table::Files, b"b"), Some(b"put after a removal".to_vec()));
    assert_eq!(get(store, Table::Files, b"c"), None);
}

fn keeps_any_bytes(store: &dyn Backend) {
    let every: Vec<u8> = (0..=u8::MAX).collect();
    let large = vec![0xab; 1024 * 1024];
    let odd: [&[u8]; 6] = [b"", b"\0", b"\0\0", b"\xff\xff", b"it's", &every];
    for key in odd {
        for value in [&b""[..], b"\0", &every, &large] {
            answered(store.flush(&[put(Table::Files, key, value)]));
            assert!(get(store, Table::Files, key).as_deref() == Some(value), "key {key:?}");
        }
    }
    assert_eq!(answered(store.scan(Table::Files, &Range::prefix(""))).len(), odd.len());
    answered(store.flush(&[remove(Table::Files, "")]));
    assert_eq!(get(store, Table::Files, b""), None, "the empty key is a key");
    assert_eq!(answered(store.scan(Table::Files, &Range::prefix(""))).len(), odd.len() - 1);
}

fn scans_ranges(store: &dyn Backend) {
    fill(store, &[b"b", b"a", b"c", b"aa", b"d"]);
    let range = |from: &str, to: Option<&str>| Range {
        from: from.into(),
        to: to.map(Into::into),
        reverse: false,
        limit: usize::MAX,
    };
    let cases: [(Range, &[&str]); 6] = [
        (range("", None), &["a", "aa", "b", "c", "d"]),
        (range("a", Some("c")), &["a", "aa", "b"]),
        (range("a\0", Some("b")), &["aa"]),
        (range("bb", None), &["c", "d"]),
        (range("", Some("a\0")), &["a"]),
        (range("e", None), &[]),
    ];
    for (range, expected) in cases {
        assert_eq!(keys(store, &range), expected, "{range:?}");
        let backwards: Vec<&str> = expected.iter().rev().copied().collect();
        let range = range.reversed();
        assert_eq!(keys(store, &range), backwards, "{range:?}");
    }
}

fn scans_prefixes(store: &dyn Backend) {
    let all: [&[u8]; 9] =
        [b"", b"a", b"a\0", b"a\xff", b"a\xff\xff", b"b", b"\xfe\xff", b"\xff", b"\xff\xff\x01"];
    fill(store, &all);
    for prefix in [&b""[..], b"a", b"a\xff", b"a\xff\xff", b"b", b"c", b"\xfe", b"\xff", b"\xff\xff"] {
        let mut expected: Vec<&[u8]> = all.iter().copied().filter(|key| key.starts_with(prefix)).collect();
        let forwards = answered(store.scan(Table::Files, &Range::prefix(prefix)));
        assert!(forwards.iter().map(|(key, _)| key.as_slice()).eq(expected.iter().copied()), "{prefix:?}");
        expected.reverse();
        let backwards = answered(store.scan(Table::Files, &Range::prefix(prefix).reversed()));
        assert!(backwards.iter().map(|(key, _)| key.as_slice()).eq(expected.iter().copied()), "{prefix:?}");
        assert!(backwards.iter().all(|(key, value)| key == value), "each key comes with its own value");
    }
}

fn keeps_limits(store: &dyn Backend) {
    fill(store, &[b"a", b"b", b"c"]);
    assert_eq!(keys(store, &Range::prefix("").limit(2)), ["a", "b"]);
    assert_eq!(
        keys(store, &Range::prefix("").limit(2).reversed()),
        ["c", "b"],
        "the last ones, not the first"
    );
    assert_eq!(keys(store, &Range::prefix("").limit(3)), ["a", "b", "c"]);
    assert_eq!(keys(store, &Range::prefix("").limit(4)), ["a", "b", "c"]);
    assert!(keys(store, &Range::prefix("").limit(0)).is_empty());
    assert!(keys(store, &Range::prefix("").limit(0).reversed()).is_empty());
}

fn answers_empty_ranges(store: &dyn Backend) {
    fill(store, &[b"a", b"b", b"c"]);
    for (from, to) in [("b", "b"), ("c", "a"), ("bb", "bc"), ("", "")] {
        let range = Range { from: from.into(), to: Some(to.into()), reverse: false, limit: usize::MAX };
        assert!(keys(store, &range).is_empty(), "{range:?}");
        assert!(keys(store, &range.reversed()).is_empty(), "{from}..{to} backwards");
    }
}

fn takes_large_flushes(store: &dyn Backend) {
    const COUNT: u32 = 5_000;
    let key = |n: u32| n.to_be_bytes();
    let table = |n: u32| if n.is_multiple_of(2) { Table::Inbox } else { Table::Outbox };
    let changes: Vec<Change> = (0..COUNT).rev().map(|n| put(table(n), key(n), key(n))).collect();
    answered(store.flush(&changes));
    let pairs = answered(store.scan(Table::Inbox, &Range::prefix("")));
    let expected = (0..COUNT).filter(|n| n.is_multiple_of(2)).map(|n| (key(n).to_vec(), key(n).to_vec()));
    assert!(pairs.into_iter().eq(expected), "all of them, in order");
    let changes: Vec<Change> = (0..COUNT).map(|n| remove(table(n), key(n))).collect();
    answered(store.flush(&changes));
    assert!(answered(store.scan(Table::Outbox, &Range::prefix(""))).is_empty());
}

/// One thread sets some rows to 1, 2, 3… in one flush each, others read: they see no older value than the last flush
/// that returned before they asked, never go back, and never see two flushes mixed.
fn reads_while_another_writes(store: &dyn Backend) {
    let flushed = AtomicU64::new(0);
    let ended = AtomicBool::new(false);
    let rows =
        |n: u64| -> Vec<Change> { (0..ROWS).map(|row| put(Table::Rows, [row], n.to_be_bytes())).collect() };
    answered(store.flush(&rows(0)));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                let last = u8::try_from(reader).unwrap_or(0) % ROWS;
                let (flushed, ended) = (&flushed, &ended);
                scope.spawn(move || read_until_ended(store, last, flushed, ended))
            })
            .collect();
        for n in 1..=FLUSHES {
            answered(store.flush(&rows(n)));
            flushed.store(n, Ordering::SeqCst);
        }
        ended.store(true, Ordering::SeqCst);
        for reader in readers {
            let seen = reader.join().expect("a reader saw what it should");
            assert_eq!(seen, FLUSHES, "the last read sees the last flush");
        }
    });
}

/// Reads one row and all rows in turn; answers the last value seen.
fn read_until_ended(store: &dyn Backend, row: u8, flushed: &AtomicU64, ended: &AtomicBool) -> u64 {
    let number = |value: &[u8]| u64::from_be_bytes(value.try_into().expect("eight bytes were put"));
    let mut seen = 0;
    loop {
        let end = ended.load(Ordering::SeqCst);
        let least = flushed.load(Ordering::SeqCst).max(seen);
        seen = number(&get(store, Table::Rows, &[row]).expect("the row is there"));
        assert!(seen >= least, "read {seen} after {least} was flushed");
        let all = answered(store.scan(Table::Rows, &Range::prefix("")));
        let values: Vec<u64> = all.iter().map(|(_, value)| number(value)).collect();
        assert!(values.len() == usize::from(ROWS) && values.windows(2).all(|two| two.first() == two.last()));
        let scanned = values.first().copied().expect("there are rows");
        assert!(scanned >= seen, "scanned {scanned} after {seen} was read");
        seen = scanned;
        if end {
            return seen;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::store::memory::MemoryBackend;

    /// A backend with one fault.
    #[derive(Debug, Default)]
    struct Broken {
        inner: MemoryBackend,
        fault: Fault,
    }

    #[derive(Debug, Default, Clone, Copy, PartialEq)]
    enum Fault {
        #[default]
        None,
        KeepsRemoved,
        IgnoresReverse,
        IgnoresLimit,
        FlushesOneByOne,
        MixesTables,
    }

    impl Broken {
        fn table(&self, table: Table) -> Table {
            if self.fault == Fault::MixesTables { Table::Meta } else { table }
        }
    }

    impl Backend for Broken {
        fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
            self.inner.get(self.table(table), key)
        }

        fn scan(&self, table: Table, range: &Range) -> Result<Vec<Pair>, BackendError> {
            let mut range = range.clone();
            if self.fault == Fault::IgnoresReverse {
                range.reverse = false;
            }
            if self.fault == Fault::IgnoresLimit {
                range.limit = usize::MAX;
            }
            self.inner.scan(self.table(table), &range)
        }

        fn flush(&self, changes: &[Change]) -> Result<(), BackendError> {
            let mut changes = changes.to_vec();
            for change in &mut changes {
                change.table = self.table(change.table);
            }
            if self.fault == Fault::KeepsRemoved {
                changes.retain(|change| change.value.is_some());
            }
            if self.fault == Fault::FlushesOneByOne {
                return changes.chunks(1).try_for_each(|one| {
                    std::thread::yield_now();
                    self.inner.flush(one)
                });
            }
            self.inner.flush(&changes)
        }
    }

    #[test]
    fn the_suite_finds_faults() {
        let passes = |fault| {
            let run = || backend_suite(|| Box::new(Broken { fault, ..Broken::default() }));
            catch_unwind(AssertUnwindSafe(run)).is_ok()
        };
        assert!(passes(Fault::None));
        let faults = [
            Fault::KeepsRemoved,
            Fault::IgnoresReverse,
            Fault::IgnoresLimit,
            Fault::FlushesOneByOne,
            Fault::MixesTables,
        ];
        for fault in faults {
            assert!(!passes(fault), "{fault:?} was not found");
        }
    }
}
