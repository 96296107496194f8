//! What every [`Store`] does, as one suite of checks. It panics at the first difference and says which.
//!
//! Public, so that a store elsewhere that serves the ledger can be held to it. What needs a disk is tested where the
//! disk is.

use std::sync::atomic::{AtomicBool, Ordering};

use oa_nips::port::{Row, RowWrite};

use super::{Keyed, Store, StoreError, Verdict};

/// Stores that [`suite`] asks for.
pub const CHECKS: usize = 7;

/// Runs every check on a store of its own. `make` answers an empty one each time.
///
/// # Panics
/// At the first check that fails.
pub fn suite(make: impl Fn() -> Box<dyn Store>) {
    let checks: [fn(&dyn Store); CHECKS] = [
        keeps_what_was_put,
        counts_versions,
        refuses_what_is_stale,
        keeps_units_apart,
        sees_its_own_writes,
        scans_in_order,
        reads_while_it_writes,
    ];
    for check in checks {
        check(make().as_ref());
    }
}

fn answered<T>(result: Result<T, StoreError>) -> T {
    result.expect("the store answers")
}

fn write(space: &str, key: &str, expect_version: u64, value: Option<&str>) -> RowWrite {
    let value = value.map(|value| value.as_bytes().to_vec());
    RowWrite { space: space.to_owned(), key: key.to_owned(), expect_version, value }
}

fn put(key: &str, expect_version: u64, value: &str) -> RowWrite {
    write("s", key, expect_version, Some(value))
}

fn stale(key: &str) -> Verdict {
    Verdict::Stale { space: "s".to_owned(), key: key.to_owned() }
}

fn get(store: &dyn Store, key: &str) -> Option<(u64, String)> {
    let shown = |row: Row| (row.version, String::from_utf8_lossy(&row.value).into_owned());
    answered(store.get("s", key)).map(shown)
}

fn is(version: u64, value: &str) -> Option<(u64, String)> {
    Some((version, value.to_owned()))
}

fn keeps_what_was_put(store: &dyn Store) {
    assert_eq!(get(store, "k"), None, "an empty store has nothing");
    assert_eq!(answered(store.commit(&[])), []);
    assert_eq!(answered(store.commit(&[vec![]])), [Verdict::Done]);
    let every: Vec<u8> = (0..=u8::MAX).collect();
    let large = vec![0xab; 300_000];
    for (at, value) in [Vec::new(), every, large].into_iter().enumerate() {
        for key in ["", "k", "it's", "ключ", "a/b"] {
            let write = RowWrite {
                space: "s".to_owned(),
                key: key.to_owned(),
                expect_version: at as u64,
                value: Some(value.clone()),
            };
            assert_eq!(answered(store.commit(&[vec![write]])), [Verdict::Done], "key {key:?}");
            let row = answered(store.get("s", key)).expect("it was put");
            assert!(row.value == value, "key {key:?}, value {at}");
        }
    }
    assert_eq!(answered(store.get("other", "k")), None, "spaces are apart");
}

fn counts_versions(store: &dyn Store) {
    for (version, value) in [(0, "one"), (1, "two"), (2, "three")] {
        assert_eq!(answered(store.commit(&[vec![put("k", version, value)]])), [Verdict::Done]);
        assert_eq!(get(store, "k"), is(version + 1, value));
    }
    assert_eq!(answered(store.commit(&[vec![write("s", "k", 3, None)]])), [Verdict::Done]);
    assert_eq!(get(store, "k"), None, "a removal removes");
    assert_eq!(answered(store.commit(&[vec![put("k", 0, "again")]])), [Verdict::Done]);
    assert_eq!(get(store, "k"), is(1, "again"));
    let nothing = write("s", "never there", 0, None);
    assert_eq!(answered(store.commit(&[vec![nothing]])), [Verdict::Done], "nothing to remove, as expected");
}

fn refuses_what_is_stale(store: &dyn Store) {
    answered(store.commit(&[vec![put("k", 0, "one")], vec![put("k", 1, "two")]]));
    for version in [0, 1, 3, u64::MAX] {
        for value in [Some("x"), None] {
            let unit = vec![put("fresh", 0, "x"), write("s", "k", version, value)];
            assert_eq!(answered(store.commit(&[unit])), [stale("k")], "version {version}, {value:?}");
            assert_eq!(get(store, "k"), is(2, "two"), "version {version}, {value:?}");
            assert_eq!(get(store, "fresh"), None, "nothing of a stale unit is kept");
        }
    }
    for version in [1, u64::MAX] {
        for value in [Some("x"), None] {
            let unit = vec![write("s", "missing", version, value)];
            assert_eq!(answered(store.commit(&[unit])), [stale("missing")]);
        }
    }
}

fn keeps_units_apart(store: &dyn Store) {
    let units = [
        vec![put("a", 0, "first"), put("b", 0, "first")],
        vec![put("c", 0, "second"), put("a", 0, "second")],
        vec![put("c", 0, "third"), put("b", 1, "third")],
        vec![write("s", "a", 1, None), put("d", 5, "fourth")],
    ];
    let verdicts = answered(store.commit(&units));
    assert_eq!(verdicts, [Verdict::Done, stale("a"), Verdict::Done, stale("d")]);
    let found: Vec<_> = ["a", "b", "c", "d"].iter().map(|key| get(store, key)).collect();
    assert_eq!(found, [is(1, "first"), is(2, "third"), is(1, "third"), None]);
}

fn sees_its_own_writes(store: &dyn Store) {
    let unit = vec![
        put("k", 0, "one"),
        put("k", 1, "two"),
        write("s", "k", 2, None),
        put("k", 0, "three"),
        write("s", "gone", 0, None),
    ];
    assert_eq!(answered(store.commit(&[unit])), [Verdict::Done]);
    assert_eq!(get(store, "k"), is(1, "three"));
    let unit = vec![put("k", 1, "four"), put("k", 1, "five")];
    assert_eq!(answered(store.commit(&[unit])), [stale("k")], "a unit's second write sees its first");
    assert_eq!(get(store, "k"), is(1, "three"));
}

fn scans_in_order(store: &dyn Store) {
    let keys = ["b", "a", "aa", "a/b", "ä", "B", "c"];
    let unit = keys.iter().map(|key| put(key, 0, key)).chain([write("t", "other", 0, Some("x"))]).collect();
    answered(store.commit(&[unit]));
    let scan = |from: &str, limit| -> Vec<String> {
        let found: Vec<Keyed> = answered(store.scan("s", from, limit));
        assert!(found.iter().all(|(key, row)| row.value == key.as_bytes() && row.version == 1));
        found.into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(scan("", usize::MAX), ["B", "a", "a/b", "aa", "b", "c", "ä"], "by their bytes");
    assert_eq!(scan("a/b", 2), ["a/b", "aa"], "from is included");
    assert_eq!(scan("ab", 2), ["b", "c"]);
    assert_eq!(scan("a\0", 2), ["a/b", "aa"], "the first key after `a`");
    assert!(scan("", 0).is_empty() && scan("ö", 5).is_empty());
    assert!(answered(store.scan("r", "", 5)).is_empty() && answered(store.scan("", "", 5)).is_empty());
}

/// Flushes while another thread reads.
const FLUSHES: u64 = 100;

/// One thread sets two rows in each unit; another reads them: both are always of one unit, and never go back.
fn reads_while_it_writes(store: &dyn Store) {
    let ended = AtomicBool::new(false);
    let numbers = |found: &[Keyed]| -> Vec<u64> { found.iter().map(|(_, row)| row.version).collect() };
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            loop {
                let is_end = ended.load(Ordering::SeqCst);
                let versions = numbers(&answered(store.scan("s", "", 2)));
                let (first, last) = (versions.first().copied(), versions.last().copied());
                assert_eq!(first, last, "two units mixed");
                assert!(first.unwrap_or(0) >= seen, "went back");
                seen = first.unwrap_or(0);
                if is_end {
                    return seen;
                }
            }
        });
        for version in 0..FLUSHES {
            let unit = vec![put("a", version, "x"), put("b", version, "x")];
            assert_eq!(answered(store.commit(&[unit])), [Verdict::Done]);
        }
        ended.store(true, Ordering::SeqCst);
        assert_eq!(reader.join().expect("the reader saw what it should"), FLUSHES, "the last is seen");
    });
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::store::{MemoryStore, Rows};

    /// A store with one fault.
    #[derive(Debug, Default)]
    struct Broken {
        inner: MemoryStore,
        fault: Fault,
    }

    #[derive(Debug, Default, Clone, Copy, PartialEq)]
    enum Fault {
        #[default]
        None,
        /// Writes the rows before the stale one.
        KeepsHalf,
        IgnoresVersions,
        KeepsRemoved,
        IgnoresLimit,
        /// Each row in a flush of its own.
        Tears,
    }

    impl Rows for Broken {
        fn get(&self, space: &str, key: &str) -> Result<Option<Row>, StoreError> {
            self.inner.get(space, key)
        }

        fn scan(&self, space: &str, from: &str, limit: usize) -> Result<Vec<Keyed>, StoreError> {
            let limit = if self.fault == Fault::IgnoresLimit { usize::MAX } else { limit };
            self.inner.scan(space, from, limit)
        }
    }

    impl Store for Broken {
        fn commit(&self, units: &[Vec<RowWrite>]) -> Result<Vec<Verdict>, StoreError> {
            let mut units = units.to_vec();
            for write in units.iter_mut().flatten() {
                match self.fault {
                    Fault::IgnoresVersions => {
                        let now = self.inner.get(&write.space, &write.key)?;
                        write.expect_version = now.map_or(0, |row| row.version);
                    }
                    Fault::KeepsRemoved if write.value.is_none() => write.value = Some(Vec::new()),
                    _ => {}
                }
            }
            if matches!(self.fault, Fault::KeepsHalf | Fault::Tears) {
                let one_by_one = |unit: &Vec<RowWrite>| -> Result<Verdict, StoreError> {
                    for write in unit {
                        if let [stale @ Verdict::Stale { .. }] =
                            &self.inner.commit(&[vec![write.clone()]])?[..]
                        {
                            return Ok(stale.clone());
                        }
                        std::thread::yield_now();
                    }
                    Ok(Verdict::Done)
                };
                return units.iter().map(one_by_one).collect();
            }
            self.inner.commit(&units)
        }
    }

    #[test]
    fn memory_does_what_every_store_does() {
        suite(|| Box::new(MemoryStore::default()));
    }

    #[test]
    fn the_suite_finds_faults() {
        let passes = |fault| {
            let run = || suite(|| Box::new(Broken { fault, ..Broken::default() }));
            catch_unwind(AssertUnwindSafe(run)).is_ok()
        };
        assert!(passes(Fault::None));
        let faults = [
            Fault::KeepsHalf,
            Fault::IgnoresVersions,
            Fault::KeepsRemoved,
            Fault::IgnoresLimit,
            Fault::Tears,
        ];
        for fault in faults {
            assert!(!passes(fault), "{fault:?} was not found");
        }
    }
}
