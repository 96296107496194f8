//! How many invoices of each account wait for their payment, so that none grows the wallet without bound.
//!
//! Counted in memory, from the start of the wallet: only its operator can start it.

use std::collections::HashMap;
use std::sync::Mutex;

use super::locked;
use crate::account::Holder;
use crate::backend::PaymentHash;
use crate::nwc::purse::PurseError;

/// Unpaid invoices of one account. 5,000: more than one a second, at the usual expiry of an hour.
const OPEN_MAX: usize = 5_000;
/// An invoice counts so long at least, whatever its expiry, in milliseconds: its rows stay.
const COUNTED_MS: u64 = 3_600_000;

/// The unpaid invoices of each account, and until when each counts, in milliseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Open(Mutex<HashMap<Holder, HashMap<PaymentHash, u64>>>);

impl Open {
    /// Whether an account may have one more.
    pub(super) fn admits(&self, holder: &Holder, now_ms: u64) -> Result<(), PurseError> {
        let mut open = locked(&self.0);
        let Some(theirs) = open.get_mut(holder).filter(|theirs| theirs.len() >= OPEN_MAX) else {
            return Ok(());
        };
        theirs.retain(|_, until_ms| *until_ms > now_ms);
        if theirs.len() < OPEN_MAX {
            return Ok(());
        }
        let why = format!("{OPEN_MAX} invoices of this account wait for their payment: later again");
        Err(PurseError::Refused(why))
    }

    /// An invoice was made.
    pub(super) fn made(&self, holder: &Holder, hash: PaymentHash, now_ms: u64, expires_ms: u64) {
        let until_ms = expires_ms.max(now_ms.saturating_add(COUNTED_MS));
        locked(&self.0).entry(holder.clone()).or_default().insert(hash, until_ms);
    }

    /// It was paid.
    pub(super) fn paid(&self, holder: &Holder, hash: PaymentHash) {
        let mut open = locked(&self.0);
        if let Some(theirs) = open.get_mut(holder) {
            theirs.remove(&hash);
            if theirs.is_empty() {
                open.remove(holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: usize) -> PaymentHash {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        PaymentHash::from_bytes(bytes)
    }

    #[test]
    fn an_account_has_so_many_unpaid_invoices_and_no_more() {
        let (open, shop, other) =
            (Open::default(), Holder::new("shop").unwrap(), Holder::new("other").unwrap());
        for n in 0..OPEN_MAX {
            assert_eq!(open.admits(&shop, 0), Ok(()));
            open.made(&shop, hash(n), 0, 1_000);
        }
        assert!(matches!(open.admits(&shop, 2_000), Err(PurseError::Refused(_))), "short ones count as well");
        assert_eq!(open.admits(&other, 2_000), Ok(()));
        open.paid(&shop, hash(1));
        assert_eq!(open.admits(&shop, 2_000), Ok(()), "what is paid does not count");
        open.made(&shop, hash(1), 2_000, 10 * COUNTED_MS);
        assert!(open.admits(&shop, COUNTED_MS - 1).is_err());
        assert_eq!(open.admits(&shop, COUNTED_MS), Ok(()), "they are over");
        assert_eq!(locked(&open.0)[&shop].len(), 1, "and forgotten");
    }
}
