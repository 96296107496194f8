//! What a dollar is worth in satoshi, and when that is not known well enough to spend by.
//!
//! Pure: whoever asks a price source hands in what it said and when; the clock is an argument. A rate that is old, or
//! that jumped and was not confirmed, refuses spending and never guesses. Rounding is against the spender: what
//! dollars cost in bitcoin is rounded up, what bitcoin is worth in dollars is rounded down.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::msat::{MicroUsd, Msat};

/// How long a reading may be spent by. Source: REFERENCE.md, "cached 300 s".
pub const FRESH: Duration = Duration::from_secs(300);
/// How far a reading may be from the last good one, in percent of that.
pub const JUMP_MAX_PERCENT: u32 = 20;
/// How much later a second reading must agree with one that jumped: longer than a glitch of a price source lasts.
pub const CONFIRM_AFTER: Duration = Duration::from_secs(600);

/// Micro-dollars in a dollar.
const MICRO_PER_USD: u128 = 1_000_000;
/// Millisatoshi in a bitcoin.
const MSAT_PER_BTC: u128 = 100_000_000_000;

/// What one dollar costs: never nothing. An integer in JSON, in millisatoshi for a dollar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate {
    msat_per_usd: NonZeroU64,
}

/// A rate that would make everything free, or that cannot be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRate {
    /// A dollar would cost nothing, or a bitcoin would: a zero is an error, never a price.
    #[error("a rate of zero")]
    Zero,
    /// Out of the range of numbers.
    #[error("a rate too large")]
    TooLarge,
}

impl Rate {
    /// So many whole satoshis for a dollar.
    ///
    /// # Errors
    /// [`BadRate::Zero`], [`BadRate::TooLarge`]
    pub fn from_sats_per_usd(sats: u64) -> Result<Self, BadRate> {
        Self::from_msat_per_usd(Msat::checked_from_sat(sats).ok_or(BadRate::TooLarge)?)
    }

    /// So many millisatoshi for a dollar.
    ///
    /// # Errors
    /// [`BadRate::Zero`]
    pub fn from_msat_per_usd(msat: Msat) -> Result<Self, BadRate> {
        NonZeroU64::new(msat.get()).map(|msat_per_usd| Self { msat_per_usd }).ok_or(BadRate::Zero)
    }

    /// From what a bitcoin costs, as price sources tell it; rounded up, against the spender.
    ///
    /// # Errors
    /// [`BadRate::Zero`]
    pub fn from_btc_price(price: MicroUsd) -> Result<Self, BadRate> {
        if price.is_zero() {
            return Err(BadRate::Zero);
        }
        let msat = (MSAT_PER_BTC * MICRO_PER_USD).div_ceil(u128::from(price.get()));
        Self::from_msat_per_usd(Msat::new(u64::try_from(msat).map_err(|_| BadRate::TooLarge)?))
    }

    /// What one dollar costs.
    pub fn msat_per_usd(self) -> Msat {
        Msat::new(self.msat_per_usd.get())
    }

    /// What so many dollars cost, rounded up to a whole millisatoshi; nothing where it does not fit.
    pub fn to_msat(self, usd: MicroUsd) -> Option<Msat> {
        let msat = u128::from(usd.get()) * u128::from(self.msat_per_usd.get());
        u64::try_from(msat.div_ceil(MICRO_PER_USD)).ok().map(Msat::new)
    }

    /// What so much is worth in dollars, rounded down; nothing where it does not fit.
    pub fn to_usd(self, msat: Msat) -> Option<MicroUsd> {
        let usd = u128::from(msat.get()) * MICRO_PER_USD / u128::from(self.msat_per_usd.get());
        u64::try_from(usd).ok().map(MicroUsd::new)
    }

    /// Whether `other` is further away than `percent` of this rate.
    fn jumps_to(self, other: Self, percent: u32) -> bool {
        let apart = u128::from(self.msat_per_usd.get().abs_diff(other.msat_per_usd.get()));
        apart * 100 > u128::from(self.msat_per_usd.get()) * u128::from(percent)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for $1.00", self.msat_per_usd())
    }
}

/// What makes a reading of an oracle good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How long a reading may be spent by.
    pub fresh: Duration,
    /// How far a reading may be from the last good one, in percent.
    pub jump_max_percent: u32,
    /// How much later a second reading must agree with one that jumped.
    pub confirm_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { fresh: FRESH, jump_max_percent: JUMP_MAX_PERCENT, confirm_after: CONFIRM_AFTER }
    }
}

/// A rate and when it was read, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    pub rate: Rate,
    pub at_ms: u64,
}

/// What is known of an oracle's rate; kept by the caller over restarts, so that a jump is seen across them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Known {
    /// The last reading that may be spent by while it is fresh.
    pub good: Option<Reading>,
    /// The first reading of a jump that nobody has confirmed yet.
    pub jumped: Option<Reading>,
    /// Until when the operator lets the good one be spent by however old it is, in milliseconds since 1970; the next
    /// good one ends that.
    #[serde(default)]
    pub until_ms: Option<u64>,
}

impl Known {
    fn good(reading: Reading) -> Self {
        Self { good: Some(reading), ..Self::default() }
    }
}

/// Where the rate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fx {
    /// Set by the operator: never old.
    Fixed(Rate),
    /// Read from a price source.
    Oracle { config: Config, known: Known },
}

/// What became of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the rate now.
    Accepted,
    /// It jumped: nothing is spent until it is confirmed.
    Held { good: Rate, jumped: Rate },
    /// There is a later one, or the rate is fixed.
    Ignored,
}

/// Why there is no rate to spend by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// Nothing was read yet.
    #[error("the exchange rate is not known yet")]
    Unread,
    /// The last good reading is too old.
    #[error("the exchange rate is {age_s} s old")]
    Stale { age_s: u64 },
    /// The rate jumped, and the jump waits to be confirmed by time or by the operator.
    #[error("the exchange rate jumped from {good} to {jumped} and is not confirmed")]
    Jumped { good: Rate, jumped: Rate },
}

/// A confirmation of something else than what is held or old: it moved on while the operator was reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no exchange rate of {0} waits to be confirmed")]
pub struct NotHeld(pub Rate);

impl Fx {
    /// A price source of which nothing is known.
    pub fn oracle(config: Config) -> Self {
        Self::Oracle { config, known: Known::default() }
    }

    /// Takes what a price source said. `at_ms` is when it said so; a time ahead of the clock counts as now.
    ///
    /// A jump is confirmed by a second reading near it, [`Config::confirm_after`] later, and forgotten when a
    /// reading is near the last good one again.
    pub fn read(&mut self, rate: Rate, at_ms: u64, now_ms: u64) -> Verdict {
        let Self::Oracle { config, known } = self else { return Verdict::Ignored };
        let reading = Reading { rate, at_ms: at_ms.min(now_ms) };
        let Some(good) = known.good else {
            *known = Known::good(reading);
            return Verdict::Accepted;
        };
        let latest_ms = known.jumped.map_or(good.at_ms, |jumped| jumped.at_ms.max(good.at_ms));
        // Earlier than what is known, unless that was read by a clock that has since been set back.
        if reading.at_ms < latest_ms && latest_ms <= now_ms {
            return Verdict::Ignored;
        }
        let percent = config.jump_max_percent;
        let confirmed = known.jumped.is_some_and(|jumped| {
            !jumped.rate.jumps_to(rate, percent)
                && reading.at_ms.saturating_sub(jumped.at_ms) >= millis(config.confirm_after)
        });
        if confirmed || !good.rate.jumps_to(rate, percent) {
            *known = Known::good(reading);
            return Verdict::Accepted;
        }
        // The same jump keeps the time of its first reading; another one begins anew.
        let same =
            known.jumped.filter(|jumped| !jumped.rate.jumps_to(rate, percent) && jumped.at_ms <= now_ms);
        let held = same.unwrap_or(reading);
        known.jumped = Some(held);
        Verdict::Held { good: good.rate, jumped: held.rate }
    }

    /// The operator takes `rate` for right at this moment: the jump to it, as [`Unknown::Jumped`] shows it, or, where
    /// none waits, the last good reading though it is old. `until_ms` is until when it may be spent by without a new
    /// reading, where that is longer than [`Config::fresh`].
    ///
    /// # Errors
    /// When that rate is neither.
    pub fn confirm(&mut self, rate: Rate, now_ms: u64, until_ms: Option<u64>) -> Result<(), NotHeld> {
        match self {
            Self::Oracle { known, .. }
                if known.jumped.or(known.good).is_some_and(|reading| reading.rate == rate) =>
            {
                *known = Known { until_ms, ..Known::good(Reading { rate, at_ms: now_ms }) };
                Ok(())
            }
            _ => Err(NotHeld(rate)),
        }
    }

    /// The rate to spend by.
    ///
    /// # Errors
    /// See [`Unknown`]: without a rate nothing may be spent.
    pub fn rate(&self, now_ms: u64) -> Result<Rate, Unknown> {
        let (config, known) = match self {
            Self::Fixed(rate) => return Ok(*rate),
            Self::Oracle { config, known } => (config, known),
        };
        let good = known.good.ok_or(Unknown::Unread)?;
        if let Some(jumped) = known.jumped {
            return Err(Unknown::Jumped { good: good.rate, jumped: jumped.rate });
        }
        // In both directions: a clock that was set back must not keep an old rate alive.
        let age_ms = now_ms.abs_diff(good.at_ms);
        let is_let = now_ms >= good.at_ms && known.until_ms.is_some_and(|until_ms| now_ms <= until_ms);
        if age_ms > millis(config.fresh) && !is_let {
            Err(Unknown::Stale { age_s: age_ms / 1000 })
        } else {
            Ok(good.rate)
        }
    }

    /// Whether the price source should be asked, at the caller's pace: the last good reading is past half of its
    /// time, or a jump waits.
    pub fn is_due(&self, now_ms: u64) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Oracle { config, known } => {
                let half_ms = millis(config.fresh) / 2;
                known.jumped.is_some() || known.good.is_none_or(|good| now_ms.abs_diff(good.at_ms) > half_ms)
            }
        }
    }
}

/// Whole milliseconds; what no configuration reaches is cut.
fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T0: u64 = 1_790_000_000_000;
    const MINUTE: u64 = 60_000;

    fn rate(sats: u64) -> Rate {
        Rate::from_sats_per_usd(sats).unwrap()
    }

    /// An oracle that said 1,000 at T0.
    fn oracle() -> Fx {
        let mut fx = Fx::oracle(Config::default());
        assert_eq!(fx.read(rate(1000), T0, T0), Verdict::Accepted);
        fx
    }

    #[test]
    fn rounding_is_against_the_spender() {
        let thousand = rate(1000);
        assert_eq!(thousand.to_msat(MicroUsd::new(1)), Some(Msat::new(1)));
        assert_eq!(thousand.to_usd(Msat::new(1_999)), Some(MicroUsd::new(1_999)));
        let odd = Rate::from_msat_per_usd(Msat::new(999_999)).unwrap();
        assert_eq!(odd.to_msat(MicroUsd::new(1)), Some(Msat::new(1)), "0.999999 is rounded up");
        assert_eq!(odd.to_msat(MicroUsd::new(2)), Some(Msat::new(2)), "1.999998 is rounded up");
        let dear = rate(3_000_000);
        assert_eq!(dear.to_usd(Msat::new(2_999)), Some(MicroUsd::ZERO), "0.99 is rounded down");
        assert_eq!(dear.to_msat(MicroUsd::new(u64::MAX)), None);
        assert_eq!(Rate::from_msat_per_usd(Msat::new(1)).unwrap().to_usd(Msat::new(u64::MAX)), None);
        // $100,000 for a bitcoin.
        assert_eq!(Rate::from_btc_price(MicroUsd::new(100_000_000_000)), Ok(rate(1000)));
    }

    #[test]
    fn a_zero_is_an_error() {
        assert_eq!(Rate::from_sats_per_usd(0), Err(BadRate::Zero));
        assert_eq!(Rate::from_btc_price(MicroUsd::ZERO), Err(BadRate::Zero));
        assert_eq!(Rate::from_sats_per_usd(u64::MAX), Err(BadRate::TooLarge));
        assert!(serde_json::from_str::<Rate>("0").is_err(), "nor does one come out of a store");
    }

    #[test]
    fn an_old_rate_refuses() {
        let mut fx = Fx::oracle(Config::default());
        assert_eq!(fx.rate(T0), Err(Unknown::Unread));
        fx = oracle();
        assert_eq!(fx.rate(T0 + 5 * MINUTE), Ok(rate(1000)));
        assert_eq!(fx.rate(T0 + 5 * MINUTE + 1), Err(Unknown::Stale { age_s: 300 }));
        assert_eq!(fx.rate(T0 - 6 * MINUTE), Err(Unknown::Stale { age_s: 360 }), "a clock set back");
        assert!(!fx.is_due(T0 + MINUTE) && fx.is_due(T0 + 3 * MINUTE));
        assert_eq!(Fx::Fixed(rate(5)).rate(u64::MAX), Ok(rate(5)));
    }

    #[test]
    fn a_time_ahead_of_the_clock_does_not_keep_a_rate_alive() {
        let mut fx = Fx::oracle(Config::default());
        fx.read(rate(1000), u64::MAX, T0);
        assert_eq!(fx.rate(T0), Ok(rate(1000)));
        assert!(fx.rate(T0 + 6 * MINUTE).is_err());
    }

    #[test]
    fn a_fifth_is_no_jump_and_more_is() {
        for near in [800, 1000, 1200] {
            assert_eq!(oracle().read(rate(near), T0 + 1, T0 + 1), Verdict::Accepted, "{near}");
        }
        for far in [799, 1201, 1, u64::MAX / 1000] {
            let mut fx = oracle();
            let held = Verdict::Held { good: rate(1000), jumped: rate(far) };
            assert_eq!(fx.read(rate(far), T0 + 1, T0 + 1), held);
            let refused = Unknown::Jumped { good: rate(1000), jumped: rate(far) };
            assert_eq!(fx.rate(T0 + 2), Err(refused), "though the good one is fresh");
        }
    }

    #[test]
    fn a_jump_is_confirmed_by_a_later_reading_near_it() {
        let mut fx = oracle();
        fx.read(rate(2000), T0 + MINUTE, T0 + MINUTE);
        for minute in [2, 5, 10] {
            let at = T0 + minute * MINUTE;
            assert!(
                matches!(fx.read(rate(2010), at, at), Verdict::Held { .. }),
                "minute {minute}: too early"
            );
        }
        let at = T0 + 11 * MINUTE;
        assert_eq!(fx.read(rate(2100), at, at), Verdict::Accepted);
        assert_eq!(fx.rate(at), Ok(rate(2100)));
    }

    #[test]
    fn another_jump_begins_anew_and_a_return_ends_it() {
        let mut fx = oracle();
        fx.read(rate(2000), T0 + MINUTE, T0 + MINUTE);
        let at = T0 + 11 * MINUTE;
        assert!(matches!(fx.read(rate(4000), at, at), Verdict::Held { .. }));
        let at = T0 + 12 * MINUTE;
        assert!(matches!(fx.read(rate(4000), at, at), Verdict::Held { .. }), "its own ten minutes");
        let at = T0 + 13 * MINUTE;
        assert_eq!(fx.read(rate(1010), at, at), Verdict::Accepted);
        assert_eq!(fx.rate(at), Ok(rate(1010)));
    }

    #[test]
    fn the_operator_confirms_what_is_held_and_nothing_else() {
        let mut fx = oracle();
        fx.read(rate(2000), T0 + 1, T0 + 1);
        assert_eq!(fx.confirm(rate(1999), T0 + 2, None), Err(NotHeld(rate(1999))));
        assert!(fx.confirm(rate(1000), T0 + 2, None).is_err(), "the source says otherwise by now");
        assert_eq!(fx.confirm(rate(2000), T0 + 2, None), Ok(()));
        assert_eq!(fx.rate(T0 + 3), Ok(rate(2000)));
        assert!(Fx::Fixed(rate(5)).confirm(rate(5), T0, None).is_err());
    }

    #[test]
    fn the_operator_lets_an_old_rate_live_until_a_time_and_no_jump_hides_behind_that() {
        let mut fx = oracle();
        assert!(fx.confirm(rate(1001), T0 + 9 * MINUTE, None).is_err(), "not what was read");
        fx.confirm(rate(1000), T0 + 9 * MINUTE, None).unwrap();
        assert_eq!(fx.rate(T0 + 14 * MINUTE), Ok(rate(1000)));
        assert!(fx.rate(T0 + 15 * MINUTE).is_err(), "as long as any reading");
        fx.confirm(rate(1000), T0 + 15 * MINUTE, Some(T0 + 75 * MINUTE)).unwrap();
        assert_eq!(fx.rate(T0 + 75 * MINUTE), Ok(rate(1000)));
        assert!(fx.rate(T0 + 76 * MINUTE).is_err() && fx.rate(T0).is_err(), "nor by a clock set back");
        let at = T0 + 30 * MINUTE;
        assert!(matches!(fx.read(rate(2000), at, at), Verdict::Held { .. }));
        assert!(matches!(fx.rate(at), Err(Unknown::Jumped { .. })));
        assert_eq!(fx.read(rate(1001), at + 1, at + 1), Verdict::Accepted);
        assert!(fx.rate(at + 6 * MINUTE).is_err(), "a new reading has its own time");
        let kept = serde_json::from_str::<Known>(r#"{"good":null,"jumped":null}"#).unwrap();
        assert_eq!(kept, Known::default(), "as it was written before");
    }

    #[test]
    fn a_late_answer_is_ignored() {
        let mut fx = oracle();
        assert_eq!(fx.read(rate(1100), T0 - 1, T0 + 5), Verdict::Ignored);
        assert_eq!(fx.rate(T0 + 5), Ok(rate(1000)));
    }

    #[test]
    fn a_jump_is_seen_across_a_restart() {
        let mut fx = oracle();
        fx.read(rate(2000), T0 + 1, T0 + 1);
        let Fx::Oracle { config, known } = fx else { unreachable!("an oracle") };
        let kept = serde_json::to_string(&known).unwrap();
        let again = Fx::Oracle { config, known: serde_json::from_str(&kept).unwrap() };
        assert!(matches!(again.rate(T0 + 2), Err(Unknown::Jumped { .. })));
    }

    proptest! {
        #[test]
        fn nobody_gains_by_changing_there_and_back(usd in any::<u64>(), msat in 1..=u64::MAX) {
            let rate = Rate::from_msat_per_usd(Msat::new(msat)).unwrap();
            let usd = MicroUsd::new(usd);
            if let Some(back) = rate.to_msat(usd).and_then(|msat| rate.to_usd(msat)) {
                prop_assert!(back >= usd, "the price covers what was asked");
            }
            let paid = Msat::new(msat);
            if let Some(back) = rate.to_usd(paid).and_then(|usd| rate.to_msat(usd)) {
                prop_assert!(back <= paid, "its worth never buys more");
            }
        }
    }
}
