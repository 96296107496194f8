//! A unit: writes that land together or not at all, and everything that is decided while they do.
//!
//! Units are applied one after another by the store's one writer, each in a layer of its own above all that was decided
//! before it; a unit that finds its condition broken leaves nothing behind.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::backend::{Backend, BackendError, Range, Table};
use crate::store::layer::Layer;
use crate::store::write::{Verdict, Write};

/// The changes of one unit while they are being made.
#[derive(Debug)]
pub(crate) struct Tx<'a> {
    /// As it is decided.
    backend: &'a dyn Backend,
    unit: Layer,
}

impl<'a> Tx<'a> {
    pub(crate) fn new(backend: &'a dyn Backend) -> Self {
        Self { backend, unit: Layer::default() }
    }

    /// Applies the unit, and answers a verdict for each of its writes.
    pub(crate) fn apply(&mut self, unit: Vec<Write>) -> Result<Vec<Verdict>, BackendError> {
        let verdicts = self.apply_all(unit);
        // Whatever ended the unit early, an error too, leaves nothing of it.
        if !verdicts.as_ref().is_ok_and(|verdicts| !verdicts.iter().any(Verdict::stops_unit)) {
            self.unit = Layer::default();
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

    /// All that the unit changed.
    pub(super) fn into_layer(self) -> Layer {
        self.unit
    }

    pub(super) fn bytes(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        match self.unit.get(table, key) {
            Some(value) => Ok(value.map(<[u8]>::to_vec)),
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
        self.unit.set(table, key, Some(value));
    }

    pub(super) fn remove(&mut self, table: Table, key: Vec<u8>) {
        self.unit.set(table, key, None);
    }

    /// Every key that begins with `prefix`, as it is decided and as this unit changes it.
    pub(super) fn keys(&self, table: Table, prefix: &[u8]) -> Result<Vec<Vec<u8>>, BackendError> {
        let range = Range::prefix(prefix);
        let stored = self.backend.scan(table, &range)?;
        let mut keys: BTreeMap<Vec<u8>, bool> = stored.into_iter().map(|(key, _)| (key, true)).collect();
        for (key, value) in self.unit.range(table, &range) {
            keys.insert(key.to_vec(), value.is_some());
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
