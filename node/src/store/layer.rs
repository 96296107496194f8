//! A layer: changes that lie over what is on disk, by table and key.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::store::backend::{Change, Range, Table};

/// Key → new value, or nothing where the key is removed.
type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Changes of any table, of which the last to a key holds.
#[derive(Debug)]
pub(super) struct Layer {
    /// By the table's discriminant.
    tables: [Rows; Table::ALL.len()],
    /// What keys and values take, counting what was replaced too.
    bytes: usize,
}

impl Default for Layer {
    fn default() -> Self {
        Self { tables: std::array::from_fn(|_| Rows::new()), bytes: 0 }
    }
}

impl Layer {
    fn rows(&self, table: Table) -> &Rows {
        self.tables.get(table as usize).expect("there is one place per table")
    }

    /// What this layer says of a key; nothing when it says nothing.
    pub(super) fn get(&self, table: Table, key: &[u8]) -> Option<Option<&[u8]>> {
        self.rows(table).get(key).map(Option::as_deref)
    }

    /// Puts a value, or with nothing removes the key.
    pub(super) fn set(&mut self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        let rows = self.tables.get_mut(table as usize).expect("there is one place per table");
        rows.insert(key, value);
    }

    /// Lays another over this one.
    pub(super) fn lay(&mut self, over: Self) {
        self.bytes += over.bytes;
        for (rows, over) in self.tables.iter_mut().zip(over.tables) {
            // Not `append`, which makes the whole map anew.
            rows.extend(over);
        }
    }

    /// What it says of the keys of a range, in order; the range's limit and direction are for the caller.
    pub(super) fn range(&self, table: Table, range: &Range) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        // `BTreeMap::range` panics on an end before its start.
        let is_empty = range.to.as_ref().is_some_and(|to| *to <= range.from);
        let to = range.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let bounds = (Bound::Included(range.from.as_slice()), to);
        let rows = (!is_empty).then(|| self.rows(table).range::<[u8], _>(bounds));
        rows.into_iter().flatten().map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    /// All of it, as a backend takes it.
    pub(super) fn changes(&self) -> Vec<Change> {
        let tables = Table::ALL.into_iter().zip(&self.tables);
        let changes = tables.flat_map(|(table, rows)| {
            rows.iter().map(move |(key, value)| Change { table, key: key.clone(), value: value.clone() })
        });
        changes.collect()
    }

    /// About what it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
