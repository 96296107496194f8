//! How long to wait before the next dial.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The first waits: short, since most breaks are a restart of the relay.
const FIRST: Duration = Duration::from_millis(250);
/// How many dials wait no longer than [`FIRST`].
const FAST_DIALS: u32 = 5;
/// A connection that lasted this long makes the next break a first one again.
const STABLE: Duration = Duration::from_secs(60);
/// After a connection that worked, but not for long, the wait begins at about a second: kind to a relay that
/// throws us out again and again, and quick when one is restarted often.
const LEVEL_AFTER_SUCCESS: u32 = FAST_DIALS + 2;

/// Exponential waits with jitter.
#[derive(Debug)]
pub(super) struct Backoff {
    level: u32,
    max: Duration,
}

impl Backoff {
    /// Waits that grow to `max`.
    pub(super) fn new(max: Duration) -> Self {
        Self { level: 0, max }
    }

    /// A connection that answered us ended after `uptime`.
    pub(super) fn worked(&mut self, uptime: Duration) {
        self.level = if uptime >= STABLE { 0 } else { self.level.min(LEVEL_AFTER_SUCCESS) };
    }

    /// The next wait; `jitter` may be anything and picks a point in the upper half of the span.
    pub(super) fn next(&mut self, jitter: u64) -> Duration {
        let doublings = self.level.saturating_sub(FAST_DIALS).min(16);
        self.level = self.level.saturating_add(1);
        let span = (FIRST * (1 << doublings)).min(self.max);
        let half = span / 2;
        let extra = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_millis(jitter % extra)
    }
}

/// A number that differs from call to call and from process to process; no secret may depend on it.
pub(super) fn jitter() -> u64 {
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(60);

    #[test]
    fn waits_are_short_at_first_and_grow_to_the_limit() {
        let mut backoff = Backoff::new(MAX);
        for _ in 0..=FAST_DIALS {
            assert!(backoff.next(jitter()) <= FIRST);
        }
        let waits: Vec<_> = (0..20).map(|_| backoff.next(0)).collect();
        assert!(waits.is_sorted());
        assert_eq!(waits.last(), Some(&(MAX / 2)));
        assert!(backoff.next(u64::MAX) < MAX);
    }

    #[test]
    fn a_connection_that_worked_shortens_the_next_wait() {
        let mut backoff = Backoff::new(MAX);
        (0..30).for_each(|_| assert!(backoff.next(0) <= MAX));
        backoff.worked(Duration::from_secs(1));
        assert!(backoff.next(u64::MAX) <= Duration::from_secs(1));
        (0..30).for_each(|_| assert!(backoff.next(0) <= MAX));
        backoff.worked(STABLE);
        assert!(backoff.next(u64::MAX) <= FIRST);
    }

    #[test]
    fn a_relay_that_never_works_is_not_dialled_often() {
        let mut backoff = Backoff::new(MAX);
        let hour: Duration = (0..100).map(|_| backoff.next(0)).sum();
        assert!(hour > Duration::from_secs(2000), "100 dials in {hour:?}");
    }
}
