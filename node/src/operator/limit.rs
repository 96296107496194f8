//! How often one caller may ask.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use oa_nips::nostr::PublicKey;
use tokio::time::Instant;

/// Requests that one caller may send at once. 2,000: a mounted tree that is searched.
const BURST: f64 = 2_000.0;
/// Requests a second that are added to that, per caller. 500: more than one relay connection brings.
const PER_SECOND: f64 = 500.0;
/// Callers remembered; beyond that those who have not asked lately are forgotten.
const CALLERS_MAX: usize = 1_024;

/// A bucket for each caller.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<HashMap<PublicKey, Bucket>>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Rates {
    /// Whether one more request of `caller` is all right.
    pub(super) fn admits(&self, caller: PublicKey, now: Instant) -> bool {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= CALLERS_MAX && !buckets.contains_key(&caller) {
            buckets.retain(|_, bucket| bucket.refilled(now).left < BURST);
            if buckets.len() >= CALLERS_MAX {
                return false;
            }
        }
        let bucket = buckets.entry(caller).or_insert(Bucket { left: BURST, at: now });
        *bucket = bucket.refilled(now);
        let admits = bucket.left >= 1.0;
        if admits {
            bucket.left -= 1.0;
        }
        admits
    }
}

impl Bucket {
    fn refilled(self, now: Instant) -> Self {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        Self { left: (self.left + seconds * PER_SECOND).min(BURST), at: now }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use oa_nips::nostr::Keys;

    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_so_many_a_second() {
        let (rates, now) = (Rates::default(), Instant::now());
        let (caller, other) = (Keys::generate().public_key(), Keys::generate().public_key());
        let admitted = |at| (0..10_000).filter(|_| rates.admits(caller, at)).count();
        assert_eq!(admitted(now), 2_000);
        assert!(rates.admits(other, now), "each has its own");
        assert_eq!(admitted(now + Duration::from_secs(1)), 500);
        assert_eq!(admitted(now + Duration::from_secs(100)), 2_000);
    }
}
