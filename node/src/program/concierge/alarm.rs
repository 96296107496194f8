//! The alarm files of reminders: what is written to `/schedule`, and how one is read back.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Serialize};

use super::when::{Alarm, Pattern, Spec};
use super::zone;

/// An alarm file. Which of the fields are there says how it rings: `at` once, `every_s` with `from` again and
/// again, `cron` with `tz` by the calendar. `due` is the node's own and never written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct File {
    pub(super) text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    every_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cron: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tz: Option<String>,
    #[serde(default, skip_serializing)]
    due: Option<i64>,
}

/// How a reminder rings, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rhythm {
    Once,
    Every(u64),
    Calendar(Pattern),
    /// A cron line that somebody else wrote.
    Cron(String),
}

impl File {
    /// The file of an alarm with its text.
    pub(super) fn new(alarm: &Alarm, text: String) -> File {
        let first = alarm.first.timestamp().as_second();
        let file = File { text, ..File::default() };
        match &alarm.spec {
            Spec::Once => File { at: Some(first), ..file },
            Spec::Period { every_s } => File { every_s: Some(*every_s), from: Some(first), ..file },
            Spec::Calendar(pattern) => {
                let tz = zone::name(alarm.first.time_zone()).to_owned();
                File { cron: Some(pattern.cron()), tz: Some(tz), ..file }
            }
        }
    }

    /// How it rings.
    pub(super) fn rhythm(&self) -> Rhythm {
        match (&self.cron, self.every_s) {
            (Some(cron), _) => {
                Pattern::from_cron(cron).map_or_else(|| Rhythm::Cron(cron.clone()), Rhythm::Calendar)
            }
            (None, Some(every_s)) => Rhythm::Every(every_s),
            (None, None) => Rhythm::Once,
        }
    }

    /// When it rings next, in its own zone or else in the reader's; as the node says, or worked out.
    pub(super) fn due(&self, now: Timestamp, reader: &TimeZone) -> Option<Zoned> {
        let own = self.tz.as_deref().and_then(zone::named);
        let zone = own.unwrap_or_else(|| reader.clone());
        let unix_s = match (self.due.or(self.at), self.every_s, self.from) {
            (Some(due), ..) => due,
            (None, Some(every_s), Some(from)) => next(from, i64::try_from(every_s).ok()?, now.as_second())?,
            _ => {
                let Rhythm::Calendar(pattern) = self.rhythm() else { return None };
                return pattern.next(&now.to_zoned(zone));
            }
        };
        zone::at_unix_s(unix_s, &zone)
    }
}

/// The first instant after `now` that is a whole number of periods from `from`, and not before it.
fn next(from: i64, every_s: i64, now: i64) -> Option<i64> {
    if now < from || every_s <= 0 {
        return Some(from);
    }
    let periods = now.checked_sub(from)? / every_s + 1;
    from.checked_add(periods.checked_mul(every_s)?)
}

#[cfg(test)]
mod tests {
    use super::super::when::{Found, find};
    use super::*;

    const NOW: &str = "2026-11-20T10:00:00+01:00[Europe/Prague]";

    fn file(sentence: &str) -> (File, Zoned) {
        let now: Zoned = NOW.parse().unwrap();
        let Found::Both { when, text } = find(sentence) else { panic!("{sentence}") };
        let alarm = when.resolve(&now).unwrap();
        (File::new(&alarm, text), alarm.first)
    }

    #[test]
    fn an_alarm_is_written_as_the_schedule_wants_it() {
        let cases = [
            ("in 10m to x", r#"{"text":"x","at":1795165800}"#),
            ("every 2 hours to x", r#"{"text":"x","every_s":7200,"from":1795172400}"#),
            ("every weekday at 9 to x", r#"{"text":"x","cron":"0 9 * * 1-5","tz":"Europe/Prague"}"#),
        ];
        for (sentence, json) in cases {
            assert_eq!(serde_json::to_string(&file(sentence).0).unwrap(), json);
        }
    }

    #[test]
    fn what_is_read_back_rings_when_it_was_set_to() {
        let now: Zoned = NOW.parse().unwrap();
        for sentence in
            ["in 10m to x", "every 2 hours to x", "every weekday at 9 to x", "every year on 24 December to x"]
        {
            let (file, first) = file(sentence);
            let read: File = serde_json::from_slice(&serde_json::to_vec(&file).unwrap()).unwrap();
            assert_eq!(read.due(now.timestamp(), now.time_zone()), Some(first), "{sentence}");
        }
        let with_due: File =
            serde_json::from_str(r#"{"text":"x","cron":"*/5 * * * *","due":1795165800,"origin":{}}"#)
                .unwrap();
        assert_eq!(with_due.rhythm(), Rhythm::Cron("*/5 * * * *".to_owned()));
        assert_eq!(
            with_due.due(now.timestamp(), &TimeZone::UTC).unwrap().timestamp().as_second(),
            1_795_165_800
        );
    }

    #[test]
    fn a_period_goes_on_from_its_first_time() {
        assert_eq!(next(100, 60, 50), Some(100));
        assert_eq!(next(100, 60, 100), Some(160));
        assert_eq!(next(100, 60, 159), Some(160));
        assert_eq!(next(0, 0, 5), Some(0));
        assert_eq!(next(i64::MIN, 60, i64::MAX), None);
    }
}
