//! A store that forgets: the tables as ordered maps, for tests, `--memory` and embedders without a disk.
//!
//! It answers as [`super::sqlite::SqliteBackend`] does, because both run [`super::conformance`].

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use super::backend::{Backend, BackendError, Change, Pair, Range, Table};

/// Key → value, in order.
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Ordered tables in memory. A flush is "durable" until the process ends.
#[derive(Debug, Default)]
pub struct MemoryBackend {
    tables: RwLock<BTreeMap<Table, Rows>>,
}

impl Backend for MemoryBackend {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        // A flush only moves owned bytes into maps: there is no half-made state a poisoned lock could hide.
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        Ok(tables.get(&table).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(&self, table: Table, range: &Range) -> Result<Vec<Pair>, BackendError> {
        // `BTreeMap::range` panics on an end before its start.
        if range.to.as_ref().is_some_and(|to| *to <= range.from) {
            return Ok(Vec::new());
        }
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let Some(rows) = tables.get(&table) else { return Ok(Vec::new()) };
        let pairs = match &range.to {
            Some(to) => rows.range::<Vec<u8>, _>(&range.from..to),
            None => rows.range::<Vec<u8>, _>(&range.from..),
        };
        let owned = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        Ok(if range.reverse {
            pairs.rev().take(range.limit).map(owned).collect()
        } else {
            pairs.take(range.limit).map(owned).collect()
        })
    }

    fn flush(&self, changes: &[Change]) -> Result<(), BackendError> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            let rows = tables.entry(change.table).or_default();
            match &change.value {
                Some(value) => rows.insert(change.key.clone(), value.clone()),
                None => rows.remove(&change.key),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_before_the_start_is_an_empty_range() {
        let store = MemoryBackend::default();
        let change = Change { table: Table::Files, key: b"m".to_vec(), value: Some(b"x".to_vec()) };
        store.flush(&[change]).unwrap();
        let range = Range { from: b"z".to_vec(), to: Some(b"a".to_vec()), reverse: false, limit: usize::MAX };
        assert_eq!(store.scan(Table::Files, &range).unwrap(), []);
        assert_eq!(store.scan(Table::Files, &range.reversed()).unwrap(), []);
    }
}
