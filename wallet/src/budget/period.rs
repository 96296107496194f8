//! How often a budget begins anew: calendar spans in UTC, by arithmetic on days since 1970.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Seconds in a day of UTC; POSIX time has no leap seconds.
const DAY_S: u64 = 86_400;
/// 1970-01-01 was a Thursday, three days after a Monday.
const DAYS_AFTER_MONDAY: u64 = 3;

/// How often a budget begins anew, in the words of NIP-47's `get_budget`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// At midnight.
    Daily,
    /// On Mondays, as ISO 8601 has it.
    Weekly,
    /// On the first of the month.
    Monthly,
    /// On 1 January.
    Yearly,
    /// Once, for all time.
    Never,
}

/// The span a moment lies in, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Its first second.
    pub from_s: u64,
    /// The first second after it, or nothing where it does not end.
    pub to_s: Option<u64>,
}

impl Period {
    /// The span of this length that `at_s`, in seconds since 1970, lies in.
    pub fn span(self, at_s: u64) -> Span {
        let day = at_s / DAY_S;
        let (from, to) = match self {
            Self::Daily => (day, day + 1),
            Self::Weekly => {
                // The first span is short of the days before 1970.
                let monday = day.saturating_sub((day + DAYS_AFTER_MONDAY) % 7);
                (monday, (day + DAYS_AFTER_MONDAY) / 7 * 7 + 7 - DAYS_AFTER_MONDAY)
            }
            Self::Monthly => {
                let (year, month) = month_of(day);
                let next = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
                (first_day(year, month), first_day(next.0, next.1))
            }
            Self::Yearly => {
                let (year, _) = month_of(day);
                (first_day(year, 1), first_day(year + 1, 1))
            }
            Self::Never => return Span { from_s: 0, to_s: None },
        };
        Span { from_s: from * DAY_S, to_s: to.checked_mul(DAY_S) }
    }
}

/// Days of a 400-year cycle of the Gregorian calendar.
const CYCLE_DAYS: u64 = 146_097;
/// Days from 0000-03-01, where the cycle is counted from, to 1970-01-01.
const EPOCH_DAYS: u64 = 719_468;

/// Year and month (1 to 12) of a day since 1970.
///
/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`. Years begin in March there,
/// so that the leap day is a year's last.
fn month_of(day: u64) -> (u64, u64) {
    let day = day + EPOCH_DAYS;
    let cycle = day / CYCLE_DAYS;
    let in_cycle = day % CYCLE_DAYS;
    let year = (in_cycle - in_cycle / 1460 + in_cycle / 36_524 - in_cycle / 146_096) / 365;
    let in_year = in_cycle - (365 * year + year / 4 - year / 100);
    let march_month = (5 * in_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (cycle * 400 + year + u64::from(month <= 2), month)
}

/// The first day of a month from 1970 on, in days since 1970. Source as above, `days_from_civil`.
fn first_day(year: u64, month: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let in_cycle = year % 400;
    let march_month = if month > 2 { month - 3 } else { month + 9 };
    let in_year = (153 * march_month + 2) / 5;
    year / 400 * CYCLE_DAYS + in_cycle * 365 + in_cycle / 4 - in_cycle / 100 + in_year - EPOCH_DAYS
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::Never => "never",
        })
    }
}

/// A word that is no period.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no period: day, week, month, year or never")]
pub struct ParseError(String);

impl FromStr for Period {
    type Err = ParseError;

    /// Reads `daily` and, as in `5000sat/day`, `day`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "daily" | "day" => Ok(Self::Daily),
            "weekly" | "week" => Ok(Self::Weekly),
            "monthly" | "month" => Ok(Self::Monthly),
            "yearly" | "year" => Ok(Self::Yearly),
            "never" => Ok(Self::Never),
            _ => Err(ParseError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Seconds since 1970 as `date -u -d … +%s` tells them.
    const CASES: [(&str, u64, Period, u64, u64); 10] = [
        ("2026-07-24 12:34:56", 1_784_896_496, Period::Daily, 1_784_851_200, 1_784_937_600),
        ("a Friday, since Monday 2026-07-20", 1_784_896_496, Period::Weekly, 1_784_505_600, 1_785_110_400),
        ("since 2026-07-01", 1_784_896_496, Period::Monthly, 1_782_864_000, 1_785_542_400),
        ("since 2026-01-01", 1_784_896_496, Period::Yearly, 1_767_225_600, 1_798_761_600),
        ("2024-02-29, a leap day", 1_709_164_800, Period::Monthly, 1_706_745_600, 1_709_251_200),
        ("2100-02-28, no leap year", 4_107_456_000, Period::Monthly, 4_105_123_200, 4_107_542_400),
        ("2000-12-31 23:59:59", 978_307_199, Period::Yearly, 946_684_800, 978_307_200),
        ("a Sunday, 2026-07-26 23:59:59", 1_785_110_399, Period::Weekly, 1_784_505_600, 1_785_110_400),
        ("1970-01-01, a Thursday", 0, Period::Weekly, 0, 345_600),
        ("1970-01-01", 0, Period::Monthly, 0, 2_678_400),
    ];

    #[test]
    fn spans_are_those_of_the_calendar() {
        for (what, at_s, period, from_s, to_s) in CASES {
            assert_eq!(period.span(at_s), Span { from_s, to_s: Some(to_s) }, "{what}, {period}");
        }
        assert_eq!(Period::Never.span(1_784_896_496), Span { from_s: 0, to_s: None });
    }

    proptest! {
        #[test]
        fn spans_follow_each_other_without_a_gap(at_s in prop_oneof![0..10_000_000_000_u64, any::<u64>()]) {
            for period in [Period::Daily, Period::Weekly, Period::Monthly, Period::Yearly] {
                let span = period.span(at_s);
                prop_assert!(span.from_s <= at_s);
                if let Some(to_s) = span.to_s {
                    prop_assert!(at_s < to_s);
                    prop_assert_eq!(period.span(to_s - 1), span, "the last second is inside");
                    prop_assert_eq!(period.span(to_s).from_s, to_s, "the next begins where this ends");
                }
                prop_assert_eq!(period.span(span.from_s), span);
            }
        }

        #[test]
        fn words_are_read_back(at in 0..5_usize) {
            let all = [Period::Daily, Period::Weekly, Period::Monthly, Period::Yearly, Period::Never];
            prop_assert_eq!(all[at].to_string().parse(), Ok(all[at]));
        }
    }
}
