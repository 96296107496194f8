//! When a budget begins anew: at midnight, Monday, the first of a month or year, all in UTC.

use serde::{Deserialize, Serialize};

const DAY_S: u64 = 86_400;
/// 1970 began on a Thursday: three days after a Monday.
const MONDAY_OFFSET_DAYS: u64 = 3;

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Renewal {
    Daily,
    Weekly,
    Monthly,
    Yearly,
    Never,
}

impl Renewal {
    /// All.
    pub const ALL: [Self; 5] = [Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly, Self::Never];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::Never => "never",
        }
    }

    /// When the period of `now_s` began, in seconds since 1970.
    pub fn start(self, now_s: u64) -> u64 {
        let days = now_s / DAY_S;
        let (year, month) = year_month(days);
        let first = match self {
            Self::Daily => days,
            Self::Weekly => days.saturating_sub((days + MONDAY_OFFSET_DAYS) % 7),
            Self::Monthly => days_before(year, month),
            Self::Yearly => days_before(year, 1),
            Self::Never => 0,
        };
        first * DAY_S
    }

    /// When the next one begins.
    pub fn end(self, now_s: u64) -> Option<u64> {
        let days = now_s / DAY_S;
        let (year, month) = year_month(days);
        let next = match self {
            Self::Daily => days + 1,
            Self::Weekly => days + 7 - (days + MONDAY_OFFSET_DAYS) % 7,
            Self::Monthly if month == 12 => days_before(year + 1, 1),
            Self::Monthly => days_before(year, month + 1),
            Self::Yearly => days_before(year + 1, 1),
            Self::Never => return None,
        };
        next.checked_mul(DAY_S)
    }
}

/// The proleptic Gregorian year and month of a day since 1970 (Howard Hinnant's `civil_from_days`).
fn year_month(days: u64) -> (u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month)
}

/// Days from 1970 to the first of a month (`days_from_civil`).
fn days_before(year: u64, month: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted_month + 2) / 5;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thursday, 29 February 2024, 12:00:00 UTC.
    const LEAP_DAY: u64 = 1_709_208_000;

    #[test]
    fn periods_begin_where_calendars_say() {
        for (renewal, start, end) in [
            (Renewal::Daily, 1_709_164_800, Some(1_709_251_200)),
            (Renewal::Weekly, 1_708_905_600, Some(1_709_510_400)), // Monday 26 February to Monday 4 March
            (Renewal::Monthly, 1_706_745_600, Some(1_709_251_200)), // 1 February to 1 March
            (Renewal::Yearly, 1_704_067_200, Some(1_735_689_600)),
            (Renewal::Never, 0, None),
        ] {
            assert_eq!((renewal.start(LEAP_DAY), renewal.end(LEAP_DAY)), (start, end), "{renewal:?}");
        }
    }

    #[test]
    fn every_day_of_two_centuries_is_in_its_period_and_periods_meet() {
        for day in 0..73_000 {
            let now = day * DAY_S + 4321;
            for renewal in [Renewal::Daily, Renewal::Weekly, Renewal::Monthly, Renewal::Yearly] {
                let (start, end) = (renewal.start(now), renewal.end(now).unwrap());
                assert!(start <= now && now < end, "{renewal:?} {day}");
                assert_eq!(renewal.start(end), end, "{renewal:?} {day}");
                assert_eq!(renewal.start(end - 1), start, "{renewal:?} {day}");
            }
        }
    }
}
