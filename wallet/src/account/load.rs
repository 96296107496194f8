//! A load for benchmarks: transfers between holders, as fast as a store takes them.

use super::ledger::{Ledger, PostError};
use super::{Asset, Holder};
use crate::msat::Msat;
use crate::store::{Draft, Store, StoreError, Verdict};

/// Holders that the load goes around.
const HOLDERS: u64 = 100;
/// What each of them has to begin with.
const EACH: Msat = Msat::from_sat(1_000_000);

/// Makes `postings` transfers of 1 sat, `per_flush` of them in one draft and so in one durable flush, and answers how
/// many flushes that took. On an empty store it opens the accounts first. Whoever calls it measures the time: postings
/// a second with durability is `postings` by the time it took on a [`crate::store::SqliteStore`] on a real disk, with
/// a `per_flush` of 1 for one caller that waits each time, and of 64 or so for a busy service.
///
/// # Errors
/// What the store or the ledger says.
pub fn ledger_postings(store: &dyn Store, postings: u64, per_flush: u64) -> Result<u64, PostError> {
    let mut draft = Draft::new(store);
    let mut ledger = Ledger::new(&mut draft);
    let all = Msat::new(EACH.get().saturating_mul(HOLDERS));
    let _ = ledger.opening("load", Asset::Lightning, all, 0)?;
    for n in 0..HOLDERS {
        let _ = ledger.allot(&format!("load {n}"), &holder(n), EACH, 0)?;
    }
    let first = ledger.head()?.next;
    land(store, draft)?;
    let (mut done, mut flushes) = (0, 0);
    while done < postings {
        let end = postings.min(done + per_flush.max(1));
        let mut draft = Draft::new(store);
        for n in done..end {
            let id = format!("load transfer {}", first + n);
            let (from, to) = (holder(n % HOLDERS), holder((n + 1) % HOLDERS));
            let _ = Ledger::new(&mut draft).transfer(&id, &from, &to, Msat::from_sat(1), n)?;
        }
        land(store, draft)?;
        (done, flushes) = (end, flushes + 1);
    }
    Ok(flushes)
}

fn holder(n: u64) -> Holder {
    Holder::new(format!("load-{n}")).expect("letters and digits")
}

/// Commits a draft that nobody else's work stands in the way of.
fn land(store: &dyn Store, draft: Draft<'_>) -> Result<(), PostError> {
    let writes = draft.into_writes();
    match store.commit(&[writes])?.first() {
        Some(Verdict::Stale { space, key }) => Err(StoreError::Corrupt {
            place: format!("row {space} {key}"),
            detail: "changed by somebody else during a benchmark".to_owned(),
        }
        .into()),
        Some(Verdict::Done) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::verify;
    use crate::store::SqliteStore;

    #[test]
    fn the_load_makes_as_many_postings_as_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("wallet.db")).unwrap();
        assert_eq!(ledger_postings(&store, 20, 1), Ok(20));
        assert_eq!(ledger_postings(&store, 20, 8), Ok(3));
        assert_eq!(verify(&store).unwrap().postings, 1 + HOLDERS + 40);
    }
}
