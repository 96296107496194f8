//! Cron lines: when the clocks of a zone match five fields.

use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::{AlarmError, CRON_MISSED_MAX, wrong};

/// Longest line and longest name of a zone, in bytes.
const EXPR_BYTES_MAX: usize = 256;
const TZ_BYTES_MAX: usize = 64;

/// A line and the zone whose clocks it is about.
#[derive(Debug)]
pub(super) struct Cron {
    line: croner::Cron,
    zone: TimeZone,
}

impl Cron {
    /// Reads five fields, or a nickname such as `@daily`, and a zone of the tz database.
    pub(super) fn parse(expr: &str, tz: &str) -> Result<Self, AlarmError> {
        if expr.len() > EXPR_BYTES_MAX {
            return Err(wrong("cron", format!("longer than {EXPR_BYTES_MAX} bytes")));
        }
        // Lines are ASCII; the parser below need not show how it cuts anything else.
        if !expr.is_ascii() {
            return Err(wrong("cron", "expected five fields of digits, names and signs"));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let line = parser.parse(expr).map_err(|error| wrong("cron", error.to_string()))?;
        let zone = Some(tz).filter(|tz| tz.len() <= TZ_BYTES_MAX).and_then(|tz| TimeZone::get(tz).ok());
        let zone = zone.ok_or_else(|| wrong("tz", "expected a time zone such as Europe/Prague"))?;
        Ok(Self { line, zone })
    }

    /// The first time after `ms`; both in milliseconds since 1970.
    pub(super) fn next_ms(&self, ms: u64) -> Option<u64> {
        let next = self.line.find_next_occurrence(&self.zoned(ms)?, false).ok()?;
        // Strictly later, whatever the line: nobody may fire the same time for ever.
        unix_ms(&next).filter(|next_ms| *next_ms > ms)
    }

    /// The last time that is not after `ms`.
    fn last_ms(&self, ms: u64) -> Option<u64> {
        let last = self.line.find_previous_occurrence(&self.zoned(ms)?, true).ok()?;
        unix_ms(&last).filter(|last_ms| *last_ms <= ms)
    }

    /// The last time due at `now_ms`, how many were missed before it, and the next.
    pub(super) fn fire(&self, due_ms: u64, now_ms: u64) -> (u64, u64, Option<u64>) {
        let (mut last_ms, mut missed) = (due_ms, 0);
        loop {
            match self.next_ms(last_ms) {
                Some(next_ms) if next_ms <= now_ms => last_ms = next_ms,
                next_ms => return (last_ms, missed, next_ms),
            }
            missed += 1;
            if missed == CRON_MISSED_MAX {
                return (self.last_ms(now_ms).unwrap_or(last_ms), missed, self.next_ms(now_ms));
            }
        }
    }

    /// What the zone's clocks show, in whole seconds.
    fn zoned(&self, ms: u64) -> Option<Zoned> {
        let timestamp = Timestamp::from_second(i64::try_from(ms / 1000).ok()?).ok()?;
        Some(timestamp.to_zoned(self.zone.clone()))
    }
}

fn unix_ms(zoned: &Zoned) -> Option<u64> {
    u64::try_from(zoned.timestamp().as_millisecond()).ok()
}
