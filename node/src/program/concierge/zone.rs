//! Time zones: from what somebody calls one to its rules, and how an instant is written for people.
//!
//! Only the zone data bundled with the program is used, never the host's: a tick reads nothing but its
//! namespace, and the same tick on another machine gives the same answer.

use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, Zoned};

use super::words;

/// Zones offered when a name fits several, or is only close to some.
const CHOICES_MAX: usize = 4;

/// Names longer than this are not looked for; the longest zone has 32 letters.
const NAME_CHARS_MAX: usize = 40;

/// Why a name gives no zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// An offset has no summer time, so it would be wrong for half of the year.
    #[error("an offset is not a zone")]
    Offset,
    /// Several zones have this city; the user chooses.
    #[error("several zones have this name")]
    Several(Vec<String>),
    /// No zone has this name; some may be close to it.
    #[error("no zone has this name")]
    Unknown(Vec<String>),
}

/// The zone with exactly this name, letter case aside.
pub(super) fn named(name: &str) -> Option<TimeZone> {
    TimeZoneDatabase::bundled().get(name).ok()
}

/// Finds a zone by what a person types: its name, or only its city; a blank does for an underscore.
///
/// # Errors
/// [`Error`] carries what to offer instead.
pub(super) fn find(said: &str) -> Result<TimeZone, Error> {
    let name = words::key(said.trim()).split_whitespace().collect::<Vec<_>>().join("_");
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
        return Err(Error::Unknown(Vec::new()));
    }
    if let Some(zone) = named(&name) {
        return Ok(zone);
    }
    let offset = name.trim_start_matches("utc").trim_start_matches("gmt");
    if offset.starts_with(['+', '-', '−']) || offset.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Error::Offset);
    }
    match same_city(&name).as_slice() {
        [] => Err(Error::Unknown(close(&name))),
        [only] => named(only).ok_or(Error::Unknown(Vec::new())),
        several => Err(Error::Several(several.iter().take(CHOICES_MAX).cloned().collect())),
    }
}

fn same_city(name: &str) -> Vec<String> {
    zones().filter(|zone| city(zone).eq_ignore_ascii_case(name)).collect()
}

fn close(name: &str) -> Vec<String> {
    let most = if name.chars().count() < 5 { 1 } else { 2 };
    let mut found: Vec<(usize, String)> = zones()
        .filter_map(|zone| {
            let whole = words::distance(name, &zone.to_lowercase(), most);
            let near = whole.or_else(|| words::distance(name, &city(&zone).to_lowercase(), most))?;
            Some((near, zone))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, zone)| zone).take(CHOICES_MAX).collect()
}

/// Names of the form `Area/City`, in the order of the alphabet; the others are old aliases.
fn zones() -> impl Iterator<Item = String> {
    let mut names: Vec<String> = TimeZoneDatabase::bundled()
        .available()
        .map(|name| name.as_str().to_owned())
        .filter(|name| name.contains('/') && !name.starts_with("Etc/"))
        .collect();
    names.sort();
    names.into_iter()
}

fn city(zone: &str) -> &str {
    zone.rsplit('/').next().unwrap_or(zone)
}

/// The name people and alarms know a zone by.
pub(super) fn name(zone: &TimeZone) -> &str {
    zone.iana_name().unwrap_or("UTC")
}

/// A zone with its offset at an instant: `Europe/Prague, UTC+1`.
pub(super) fn label(at: &Zoned) -> String {
    let name = name(at.time_zone());
    if matches!(name, "UTC" | "Etc/UTC") {
        return "UTC".to_owned();
    }
    let seconds = at.offset().seconds();
    let (sign, minutes) = (if seconds < 0 { '-' } else { '+' }, seconds.unsigned_abs() / 60);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{name}, UTC"),
        (hours, 0) => format!("{name}, UTC{sign}{hours}"),
        (hours, rest) => format!("{name}, UTC{sign}{hours}:{rest:02}"),
    }
}

/// An instant in full: `Fri 20 Nov 2026 at 17:00 (Europe/Prague, UTC+1)`, with seconds where they count.
pub(super) fn instant(at: &Zoned) -> String {
    let clock = if at.second() == 0 { "%H:%M" } else { "%H:%M:%S" };
    format!("{} at {} ({})", at.strftime("%a %-d %b %Y"), at.strftime(clock), label(at))
}

/// An instant of the Unix epoch in a zone; `None` beyond the calendar.
pub(super) fn at_unix_s(unix_s: i64, zone: &TimeZone) -> Option<Zoned> {
    Timestamp::from_second(unix_s).ok().map(|at| at.to_zoned(zone.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_found_by_name_or_city_in_any_case() {
        let cases = [
            ("Europe/Prague", "Europe/Prague"),
            ("europe/prague", "Europe/Prague"),
            (" Prague. ", "Europe/Prague"),
            ("new york", "America/New_York"),
            ("America/new york", "America/New_York"),
            ("UTC", "UTC"),
            ("kolkata", "Asia/Kolkata"),
        ];
        for (said, expected) in cases {
            assert_eq!(find(said).as_ref().map(name), Ok(expected), "{said}");
        }
    }

    #[test]
    fn what_is_no_zone_says_what_could_be_meant() {
        assert_eq!(find("Europe/Pragu"), Err(Error::Unknown(vec!["Europe/Prague".to_owned()])));
        assert_eq!(find("pargue"), Err(Error::Unknown(vec!["Europe/Prague".to_owned()])));
        assert!(matches!(find("Louisville"), Err(Error::Several(zones)) if zones.len() == 2));
        for offset in ["UTC+2", "+02:00", "gmt-5", "5"] {
            assert_eq!(find(offset), Err(Error::Offset), "{offset}");
        }
        for nothing in ["", "??", "Atlantis of the deep", "../../etc/passwd"] {
            assert_eq!(find(nothing), Err(Error::Unknown(Vec::new())), "{nothing}");
        }
        assert_eq!(find(&"x".repeat(10_000)), Err(Error::Unknown(Vec::new())));
    }

    #[test]
    fn an_instant_is_written_with_date_time_and_zone() {
        let cases = [
            (1_795_190_400, "Europe/Prague", "Fri 20 Nov 2026 at 17:00 (Europe/Prague, UTC+1)"),
            (1_782_831_600, "Europe/Prague", "Tue 30 Jun 2026 at 17:00 (Europe/Prague, UTC+2)"),
            (1_795_190_437, "UTC", "Fri 20 Nov 2026 at 16:00:37 (UTC)"),
            (1_795_190_400, "Asia/Kolkata", "Fri 20 Nov 2026 at 21:30 (Asia/Kolkata, UTC+5:30)"),
            (1_795_190_400, "America/St_Johns", "Fri 20 Nov 2026 at 12:30 (America/St_Johns, UTC-3:30)"),
            (1_795_190_400, "Europe/London", "Fri 20 Nov 2026 at 16:00 (Europe/London, UTC)"),
        ];
        for (unix_s, zone, expected) in cases {
            let at = at_unix_s(unix_s, &named(zone).unwrap()).unwrap();
            assert_eq!(instant(&at), expected);
        }
        assert!(at_unix_s(i64::MAX, &TimeZone::UTC).is_none());
    }
}
