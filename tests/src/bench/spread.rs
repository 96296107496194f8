//! Many measured times of the same thing, and what is said of them.

use std::time::Duration;

/// Times, in the order they were measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spread(Vec<Duration>);

impl Spread {
    /// Adds one.
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Adds those of another.
    pub(crate) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The time that `percent` of all do not exceed (nearest rank), in milliseconds; zero when there is none.
    pub(crate) fn percentile_ms(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(rank).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut spread = Spread::default();
        assert_eq!(spread.percentile_ms(50), 0.0);
        (1..=200).rev().for_each(|ms| spread.add(Duration::from_millis(ms)));
        assert_eq!(spread.percentile_ms(50), 100.0);
        assert_eq!(spread.percentile_ms(99), 198.0);
        assert_eq!(spread.percentile_ms(100), 200.0);
    }
}
