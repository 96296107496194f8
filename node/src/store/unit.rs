//! A unit: writes that land together or not at all, and everything that is decided while they do.
//!
//! Units are applied one after another by the store's one writer, many to a durable flush. Each works on a layer
//! of its own above what the units before it in the same flush have changed; a unit that finds its condition
//! broken leaves nothing behind.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::backend::{Backend, BackendError, Change, Range, Table};
use crate::store::write::{Verdict, Write};

type Layer = BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>;

/// The changes of one flush while they are being made.
#[derive(Debug)]
pub(crate) struct Tx<'a> {
    backend: &'a dyn Backend,
    batch: Layer,
    unit: Layer,
}

impl<'a> Tx<'a> {
    pub(crate) fn new(backend: &'a dyn Backend) -> Self {
        Self { backend, batch: Layer::new(), unit: Layer::new() }
    }

    /// Applies one unit, and answers a verdict for each of its writes.
    pub(crate) fn apply(&mut self, unit: Vec<Write>) -> Result<Vec<Verdict>, BackendError> {
        let verdicts = self.apply_all(unit);
        let unit = std::mem::take(&mut self.unit);
        // Whatever ended the unit early, an error too, leaves nothing of it to the next.
        if verdicts.as_ref().is_ok_and(|verdicts| !verdicts.iter().any(Verdict::stops_unit)) {
            self.batch.extend(unit);
        }
        verdicts
    }

    fn apply_all(&mut self, unit: Vec<Write>) -> Result<Vec<Verdict>, BackendError> {
        let mut verdicts = Vec::with_capacity(unit.len());
        for write in unit {
            let is_mail = matches!(write, Write::Settle(_));
            let verdict = write.apply(self)?;
            let ends = verdict.stops_unit() || (is_mail && verdict.ends_unit());
            verdicts.push(verdict);
            if ends {
                break;
            }
        }
        Ok(verdicts)
    }

    /// All that the units changed.
    pub(crate) fn into_changes(self) -> Vec<Change> {
        self.batch.into_iter().map(|((table, key), value)| Change { table, key, value }).collect()
    }

    pub(super) fn bytes(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        let place = (table, key.to_vec());
        match self.unit.get(&place).or_else(|| self.batch.get(&place)) {
            Some(value) => Ok(value.clone()),
            None => self.backend.get(table, key),
        }
    }

    pub(super) fn has(&self, table: Table, key: &[u8]) -> Result<bool, BackendError> {
        self.bytes(table, key).map(|value| value.is_some())
    }

    pub(super) fn get<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<T>, BackendError> {
        self.bytes(table, key)?.map(|bytes| decode(table, &bytes)).transpose()
    }

    pub(super) fn put(&mut self, table: Table, key: Vec<u8>, value: &impl Serialize) {
        let bytes = serde_json::to_vec(value).unwrap_or_default();
        self.put_bytes(table, key, bytes);
    }

    pub(super) fn put_bytes(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.unit.insert((table, key), Some(value));
    }

    pub(super) fn remove(&mut self, table: Table, key: Vec<u8>) {
        self.unit.insert((table, key), None);
    }

    /// Every key that begins with `prefix`, as the layers have it.
    pub(super) fn keys(&self, table: Table, prefix: &[u8]) -> Result<Vec<Vec<u8>>, BackendError> {
        let stored = self.backend.scan(table, &Range::prefix(prefix))?;
        let mut keys: BTreeMap<Vec<u8>, bool> = stored.into_iter().map(|(key, _)| (key, true)).collect();
        for ((changed, key), value) in self.batch.iter().chain(&self.unit) {
            if *changed == table && key.starts_with(prefix) {
                keys.insert(key.clone(), value.is_some());
            }
        }
        Ok(keys.into_iter().filter_map(|(key, is_there)| is_there.then_some(key)).collect())
    }
}

/// Reads a row.
pub(crate) fn decode<T: DeserializeOwned>(table: Table, bytes: &[u8]) -> Result<T, BackendError> {
    serde_json::from_slice(bytes).map_err(|error| BackendError::Corrupt {
        path: format!("table {}", table.name()),
        detail: error.to_string(),
    })
}
