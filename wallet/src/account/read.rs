//! Reading a ledger without changing it: its postings, a holder's history, payments that are not over.

use oa_nips::hex::Hash;

use super::Holder;
use super::balances::Standing;
use super::ledger::{Entry, HISTORY, HOLDERS, LEDGER, OPEN, PAYMENTS, history_key, seq_key};
use super::payment::Payment;
use crate::store::draft::decode;
use crate::store::{Rows, StoreError};

/// Postings from sequence number `from` on, in order; at most `limit`.
///
/// # Errors
/// [`StoreError`]
pub fn entries(rows: &dyn Rows, from: u64, limit: usize) -> Result<Vec<Entry>, StoreError> {
    let found = rows.scan(LEDGER, &seq_key(from), limit)?;
    found.iter().map(|(key, row)| decode(LEDGER, key, &row.value)).collect()
}

/// A holder's postings, the newest first; those before sequence number `before`, at most `limit`.
///
/// # Errors
/// [`StoreError`]
pub fn history(
    rows: &dyn Rows,
    holder: &Holder,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<Entry>, StoreError> {
    let Some(newest) = before.unwrap_or(u64::MAX).checked_sub(1) else { return Ok(Vec::new()) };
    let of_holder = format!("{holder}/");
    let found = rows.scan(HISTORY, &history_key(holder, newest), limit)?;
    let mut entries = Vec::with_capacity(found.len());
    for (key, row) in found.iter().take_while(|(key, _)| key.starts_with(&of_holder)) {
        let seq: u64 = decode(HISTORY, key, &row.value)?;
        let entry = rows.get(LEDGER, &seq_key(seq))?.ok_or_else(|| missing(HISTORY, key))?;
        entries.push(decode(LEDGER, key, &entry.value)?);
    }
    Ok(entries)
}

/// Payments that are not over, by payment hash, those after `after`; at most `limit`: what to look up after a start.
///
/// # Errors
/// [`StoreError`]
pub fn open_payments(
    rows: &dyn Rows,
    after: Option<&Hash>,
    limit: usize,
) -> Result<Vec<(Hash, Payment)>, StoreError> {
    let from = after.map_or_else(String::new, |after| format!("{after}\0"));
    let mut payments = Vec::new();
    for (key, _) in rows.scan(OPEN, &from, limit)? {
        let hash = key.parse().map_err(|_| missing(OPEN, &key))?;
        let row = rows.get(PAYMENTS, &key)?.ok_or_else(|| missing(OPEN, &key))?;
        payments.push((hash, decode(PAYMENTS, &key, &row.value)?));
    }
    Ok(payments)
}

/// Everybody who ever had anything, by name, those after `after`; at most `limit`.
///
/// # Errors
/// [`StoreError`]
pub fn holders(
    rows: &dyn Rows,
    after: Option<&Holder>,
    limit: usize,
) -> Result<Vec<(Holder, Standing)>, StoreError> {
    let from = after.map_or_else(String::new, |after| format!("{after}\0"));
    let found = rows.scan(HOLDERS, &from, limit)?;
    let read = |(key, row): &(String, oa_nips::port::Row)| {
        let holder = Holder::new(key.clone()).map_err(|_| missing(HOLDERS, key))?;
        Ok((holder, decode(HOLDERS, key, &row.value)?))
    };
    found.iter().map(read).collect()
}

fn missing(space: &str, key: &str) -> StoreError {
    StoreError::Corrupt {
        place: format!("row {space} {key}"),
        detail: "what it names is not there".to_owned(),
    }
}
