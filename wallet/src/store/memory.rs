//! A store that forgets, for tests and for embedders without a disk. It answers as the one on disk does, because both
//! run [`super::conformance`].

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use oa_nips::port::{Row, RowWrite};

use super::{Keyed, Rows, Store, StoreError, Verdict};

/// (space, key) → row, in order.
type Map = BTreeMap<(String, String), Row>;

/// Rows in memory. A commit is "durable" until the process ends.
#[derive(Debug, Default)]
pub struct MemoryStore {
    rows: Mutex<Map>,
}

impl MemoryStore {
    fn rows(&self) -> MutexGuard<'_, Map> {
        // A commit replaces rows as whole units: there is no half-made state a poisoned lock could hide.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows for MemoryStore {
    fn get(&self, space: &str, key: &str) -> Result<Option<Row>, StoreError> {
        Ok(self.rows().get(&(space.to_owned(), key.to_owned())).cloned())
    }

    fn scan(&self, space: &str, from: &str, limit: usize) -> Result<Vec<Keyed>, StoreError> {
        let rows = self.rows();
        let from = rows.range((space.to_owned(), from.to_owned())..);
        let of_space = from.take_while(|((other, _), _)| other == space);
        Ok(of_space.take(limit).map(|((_, key), row)| (key.clone(), row.clone())).collect())
    }
}

impl Store for MemoryStore {
    fn commit(&self, units: &[Vec<RowWrite>]) -> Result<Vec<Verdict>, StoreError> {
        let mut rows = self.rows();
        Ok(units.iter().map(|unit| apply(&mut rows, unit)).collect())
    }
}

/// Applies one unit to `rows`, as a whole or not at all.
fn apply(rows: &mut Map, unit: &[RowWrite]) -> Verdict {
    let mut changed: BTreeMap<(String, String), Option<Row>> = BTreeMap::new();
    for write in unit {
        let place = (write.space.clone(), write.key.clone());
        let now = changed.get(&place).map_or_else(|| rows.get(&place), Option::as_ref);
        let version = now.map_or(0, |row| row.version);
        if version != write.expect_version {
            return Verdict::Stale { space: write.space.clone(), key: write.key.clone() };
        }
        changed.insert(place, write.value.clone().map(|value| Row { version: version + 1, value }));
    }
    for (place, row) in changed {
        match row {
            Some(row) => rows.insert(place, row),
            None => rows.remove(&place),
        };
    }
    Verdict::Done
}
