//! One piece of work on rows: reads what it needs, changes what it must, and ends as conditional writes.

use std::collections::BTreeMap;

use oa_nips::port::RowWrite;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Rows, StoreError};

/// Rows as they are, with changes on top that nobody else sees yet.
///
/// Each row is read once: the version it had then is the one it must have when the writes land, so that a decision
/// never lands on rows that have changed since. Dropping a draft changes nothing; after a [`StoreError`] that is what
/// is to be done with it.
#[derive(Debug)]
pub struct Draft<'a> {
    rows: &'a dyn Rows,
    cells: BTreeMap<(String, String), Cell>,
}

/// A row of a draft.
#[derive(Debug, Clone, Default)]
struct Cell {
    /// As it was read; 0 when it was not there.
    version: u64,
    value: Option<Vec<u8>>,
    is_changed: bool,
}

impl<'a> Draft<'a> {
    /// Work on `rows`, with nothing changed.
    pub fn new(rows: &'a dyn Rows) -> Self {
        Self { rows, cells: BTreeMap::new() }
    }

    /// A row's content as JSON, this draft's changes included.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Corrupt`] when it is something else than `T`.
    pub fn get<T: DeserializeOwned>(&mut self, space: &str, key: &str) -> Result<Option<T>, StoreError> {
        let value = &self.cell(space, key)?.value;
        value.as_deref().map(|bytes| decode(space, key, bytes)).transpose()
    }

    /// Whether a row is there.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn has(&mut self, space: &str, key: &str) -> Result<bool, StoreError> {
        Ok(self.cell(space, key)?.value.is_some())
    }

    /// Sets a row's content.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn put(&mut self, space: &str, key: &str, value: &impl Serialize) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(value).expect("rows are plain data with string keys");
        let cell = self.cell(space, key)?;
        (cell.value, cell.is_changed) = (Some(bytes), true);
        Ok(())
    }

    /// Removes a row.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn remove(&mut self, space: &str, key: &str) -> Result<(), StoreError> {
        let cell = self.cell(space, key)?;
        (cell.value, cell.is_changed) = (None, true);
        Ok(())
    }

    /// What is to be written, one write a row: as one transaction, or not at all.
    pub fn into_writes(self) -> Vec<RowWrite> {
        let changed = self.cells.into_iter().filter(|(_, cell)| cell.is_changed);
        // A row that came and went within the draft leaves nothing to do.
        let kept = changed.filter(|(_, cell)| cell.version > 0 || cell.value.is_some());
        kept.map(|((space, key), cell)| RowWrite {
            space,
            key,
            expect_version: cell.version,
            value: cell.value,
        })
        .collect()
    }

    fn cell(&mut self, space: &str, key: &str) -> Result<&mut Cell, StoreError> {
        let place = (space.to_owned(), key.to_owned());
        match self.cells.entry(place) {
            std::collections::btree_map::Entry::Occupied(cell) => Ok(cell.into_mut()),
            std::collections::btree_map::Entry::Vacant(place) => {
                let row = self.rows.get(space, key)?;
                let cell = row.map_or_else(Cell::default, |row| Cell {
                    version: row.version,
                    value: Some(row.value),
                    is_changed: false,
                });
                Ok(place.insert(cell))
            }
        }
    }
}

/// Reads a row's content.
pub(crate) fn decode<T: DeserializeOwned>(space: &str, key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Corrupt {
        place: format!("row {space} {key}"),
        detail: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, Store, Verdict};

    fn commit(store: &MemoryStore, draft: Draft<'_>) -> Verdict {
        store.commit(&[draft.into_writes()]).unwrap().remove(0)
    }

    #[test]
    fn a_draft_sees_its_own_changes_and_writes_each_row_once() {
        let store = MemoryStore::default();
        let mut draft = Draft::new(&store);
        for n in 1..=3 {
            draft.put("s", "k", &n).unwrap();
        }
        draft.put("s", "came and went", &1).unwrap();
        draft.remove("s", "came and went").unwrap();
        assert_eq!(draft.get::<u32>("s", "k").unwrap(), Some(3));
        assert!(store.get("s", "k").unwrap().is_none(), "nobody else sees them");
        let writes = draft.into_writes();
        assert_eq!(writes.len(), 1, "{writes:?}");
        assert_eq!(store.commit(&[writes]).unwrap(), [Verdict::Done]);
        let mut draft = Draft::new(&store);
        draft.remove("s", "k").unwrap();
        assert!(!draft.has("s", "k").unwrap());
        assert_eq!(commit(&store, draft), Verdict::Done);
        assert!(store.get("s", "k").unwrap().is_none());
    }

    #[test]
    fn what_changed_since_it_was_read_makes_it_stale() {
        let store = MemoryStore::default();
        let (mut first, mut second) = (Draft::new(&store), Draft::new(&store));
        assert_eq!(first.get::<u32>("s", "k").unwrap(), None);
        second.put("s", "k", &2).unwrap();
        assert_eq!(commit(&store, second), Verdict::Done);
        first.put("s", "k", &1).unwrap();
        first.put("s", "other", &1).unwrap();
        assert_eq!(commit(&store, first), Verdict::Stale { space: "s".to_owned(), key: "k".to_owned() });
        assert!(store.get("s", "other").unwrap().is_none(), "all or nothing");
    }

    #[test]
    fn a_damaged_row_is_an_error_that_names_it() {
        let store = MemoryStore::default();
        let mut draft = Draft::new(&store);
        draft.put("s", "k", &"text").unwrap();
        let error = draft.get::<u32>("s", "k").unwrap_err();
        assert!(error.to_string().starts_with("row s k is damaged: "), "{error}");
    }
}
