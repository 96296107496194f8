//! One at a time for each payment hash: between a commit and the backend's answer nobody else judges it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::OwnedMutexGuard;

use super::locked;
use crate::backend::PaymentHash;

/// Locks that nobody holds are forgotten beyond so many.
const FORGET_ABOVE: usize = 1024;

/// The locks that are held or waited for.
#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<HashMap<PaymentHash, Weak<tokio::sync::Mutex<()>>>>);

impl Locks {
    /// Waits for the lock of a hash.
    pub(super) async fn lock(&self, hash: PaymentHash) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = locked(&self.0);
            if locks.len() >= FORGET_ABOVE {
                locks.retain(|_, lock| lock.strong_count() > 0);
            }
            let held = locks.get(&hash).and_then(Weak::upgrade);
            held.unwrap_or_else(|| {
                let new = Arc::new(tokio::sync::Mutex::new(()));
                locks.insert(hash, Arc::downgrade(&new));
                new
            })
        };
        lock.lock_owned().await
    }
}
