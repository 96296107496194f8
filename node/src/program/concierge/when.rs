//! Time in the words of people, made into an alarm by a clock and a zone.
//!
//! [`find`] reads a sentence into a [`When`]; [`When::resolve`] makes the alarm of it. Both are pure. Where the
//! clocks are put forward or back, a local time that is skipped moves behind the gap, and of one that comes
//! twice the first is meant; the answer always states the instant, so nobody is left to guess.

mod clock;
mod day;
mod duration;
mod phrase;
mod repeat;

pub(super) use day::{Day, Weekdays};
pub(super) use duration::Delay;
pub(super) use phrase::{Found, find};
pub(super) use repeat::{Days, Every, Pattern};

use jiff::civil::{Date, Time};
use jiff::{Span, ToSpan, Zoned};

/// The furthest a reminder may lie ahead.
pub(super) const AHEAD_YEARS_MAX: i64 = 5;

/// The shortest repetition; a faster one would only fill the sender's mail.
pub(super) const REPEAT_S_MIN: u64 = 60;

/// The time meant by a day without one.
const USUAL_TIME: Time = Time::constant(9, 0, 0, 0);

const DAY_S: u64 = 86_400;

/// What somebody said about time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum When {
    /// So long from now: `in 1h30m`, `in 3 days at 9`; a time of day comes only with whole days.
    In { delay: Delay, time: Option<Time> },
    /// On a day, at a time, or both.
    At { day: Option<Day>, time: Option<Time> },
    /// Again and again; the day tells which one of a week, a month or a year.
    Every { every: Every, day: Option<Day>, time: Option<Time> },
    /// Written like a time, but there is none such: `25:00`, `30 February`.
    Impossible(String),
}

/// An alarm, and when it rings first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alarm {
    pub(super) spec: Spec,
    pub(super) first: Zoned,
}

/// How an alarm rings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Spec {
    Once,
    /// Every so many seconds from the first time on.
    Period {
        every_s: u64,
    },
    /// By the calendar, in the zone of the first time.
    Calendar(Pattern),
}

/// Why there is no alarm for what was said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// There is no such time or day.
    #[error("there is no such time: {0}")]
    Impossible(String),
    /// The instant that was named is over.
    #[error("{0} has passed")]
    Past(Box<Zoned>),
    /// It lies more than [`AHEAD_YEARS_MAX`] ahead.
    #[error("more than {AHEAD_YEARS_MAX} years ahead")]
    TooFar,
    /// It repeats faster than every [`REPEAT_S_MIN`].
    #[error("repeats faster than every {REPEAT_S_MIN} s")]
    TooOften,
}

impl When {
    /// Makes an alarm of it; `now` brings the zone.
    ///
    /// # Errors
    /// [`Error`] when the instant does not exist, is over, or lies outside of the limits.
    pub(super) fn resolve(self, now: &Zoned) -> Result<Alarm, Error> {
        let alarm = match self {
            When::Impossible(said) => return Err(Error::Impossible(said)),
            When::In { delay, time } => Alarm { spec: Spec::Once, first: after(now, delay, time)? },
            When::At { day, time } => Alarm { spec: Spec::Once, first: on(now, day, time)? },
            When::Every { every, day, time } => repeated(now, every, day, time)?,
        };
        let horizon = now.checked_add(AHEAD_YEARS_MAX.years()).map_err(|_| Error::TooFar)?;
        let period = match alarm.spec {
            Spec::Period { every_s } if every_s < REPEAT_S_MIN => return Err(Error::TooOften),
            Spec::Period { every_s } => every_s,
            Spec::Once | Spec::Calendar(_) => 0,
        };
        if alarm.first <= *now {
            return Err(Error::Past(Box::new(alarm.first)));
        }
        let too_far = alarm.first > horizon || period > AHEAD_YEARS_MAX.unsigned_abs() * 366 * DAY_S;
        if too_far { Err(Error::TooFar) } else { Ok(alarm) }
    }
}

fn after(now: &Zoned, delay: Delay, time: Option<Time>) -> Result<Zoned, Error> {
    let seconds = i64::try_from(delay.seconds).map_err(|_| Error::TooFar)?;
    let span = Span::new()
        .try_months(delay.months)
        .and_then(|span| span.try_days(delay.days))
        .and_then(|span| span.try_seconds(seconds))
        .map_err(|_| Error::TooFar)?;
    let then = now.checked_add(span).map_err(|_| Error::TooFar)?;
    match time {
        Some(time) => local(now, then.date(), time),
        None => Ok(then),
    }
}

/// The instant of a day and a time. Without a day, a time that is over today means tomorrow.
fn on(now: &Zoned, day: Option<Day>, time: Option<Time>) -> Result<Zoned, Error> {
    let today = now.date();
    let time = time.unwrap_or(USUAL_TIME);
    let next = |days| Pattern { days, time }.next(now).ok_or(Error::TooFar);
    match day {
        None => next(Days::Week(Weekdays::ALL)),
        Some(Day::Today) => local(now, today, time),
        Some(Day::After(days)) => {
            let date = Span::new().try_days(days).and_then(|span| today.checked_add(span));
            local(now, date.map_err(|_| Error::TooFar)?, time)
        }
        Some(Day::Weekday(day)) => next(Days::Week(Weekdays::only(day))),
        Some(Day::Date(date)) => local(now, date, time),
        Some(Day::Yearly { month, day }) => next(Days::Year { month, day }),
        Some(Day::Monthly(day)) => next(Days::Month(day)),
        Some(Day::Impossible(said)) => Err(Error::Impossible(said)),
    }
}

fn local(now: &Zoned, date: Date, time: Time) -> Result<Zoned, Error> {
    repeat::in_zone(date, time, now.time_zone()).ok_or(Error::TooFar)
}

fn repeated(now: &Zoned, every: Every, day: Option<Day>, time: Option<Time>) -> Result<Alarm, Error> {
    let today = now.date();
    let calendar = |days| {
        let pattern = Pattern { days, time: time.unwrap_or(USUAL_TIME) };
        let first = pattern.next(now).ok_or(Error::TooFar)?;
        Ok(Alarm { spec: Spec::Calendar(pattern), first })
    };
    match (every, day) {
        (Every::Impossible(said), _) | (_, Some(Day::Impossible(said))) => Err(Error::Impossible(said)),
        (Every::On(days), _) => calendar(Days::Week(days)),
        (Every::Weeks(1), Some(Day::Weekday(day))) => calendar(Days::Week(Weekdays::only(day))),
        (Every::Weeks(1), None) => calendar(Days::Week(Weekdays::only(today.weekday()))),
        (Every::Month, None) => calendar(Days::Month(today.day())),
        (Every::Month, Some(Day::Monthly(day))) => calendar(Days::Month(day)),
        (Every::Year, Some(Day::Yearly { month, day })) => calendar(Days::Year { month, day }),
        (Every::Year, None) => calendar(Days::Year { month: today.month(), day: today.day() }),
        (Every::Month, Some(day)) => calendar(Days::Month(on(now, Some(day), time)?.day())),
        (Every::Year, Some(day)) => {
            let date = on(now, Some(day), time)?.date();
            calendar(Days::Year { month: date.month(), day: date.day() })
        }
        (Every::Seconds(every_s), day) => period(now, every_s, day, time),
        (Every::Days(days), day) => period(now, u64::from(days) * DAY_S, day, time),
        (Every::Weeks(weeks), day) => period(now, u64::from(weeks) * 7 * DAY_S, day, time),
    }
}

/// A repetition counted in seconds: from the named day or time on, else from one period ahead.
fn period(now: &Zoned, every_s: u64, day: Option<Day>, time: Option<Time>) -> Result<Alarm, Error> {
    let first = if day.is_none() && time.is_none() {
        let seconds = i64::try_from(every_s).map_err(|_| Error::TooFar)?;
        let span = Span::new().try_seconds(seconds).map_err(|_| Error::TooFar)?;
        now.checked_add(span).map_err(|_| Error::TooFar)?
    } else {
        on(now, day, time)?
    };
    Ok(Alarm { spec: Spec::Period { every_s }, first })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarm(sentence: &str, now: &str) -> Result<Alarm, Error> {
        match find(sentence) {
            Found::Both { when, .. } => when.resolve(&now.parse().unwrap()),
            other => panic!("{sentence}: {other:?}"),
        }
    }

    /// A Friday morning.
    const FRIDAY: &str = "2026-11-20T10:00:00+01:00[Europe/Prague]";

    #[test]
    fn one_shots_resolve_to_the_instant_that_was_meant() {
        let cases = [
            ("in 10m to x", "2026-11-20T10:10:00+01:00"),
            ("in 3 days to x", "2026-11-23T10:00:00+01:00"),
            ("in 3 days at 9 to x", "2026-11-23T09:00:00+01:00"),
            ("in 2 months to x", "2027-01-20T10:00:00+01:00"),
            ("next month to x", "2026-12-20T10:00:00+01:00"),
            ("in a year to x", "2027-11-20T10:00:00+01:00"),
            ("at 17:00 to x", "2026-11-20T17:00:00+01:00"),
            ("at 9 to x", "2026-11-21T09:00:00+01:00"),
            ("at 10 to x", "2026-11-21T10:00:00+01:00"),
            ("at 12am to x", "2026-11-21T00:00:00+01:00"),
            ("at 12pm to x", "2026-11-20T12:00:00+01:00"),
            ("today at 10:01 to x", "2026-11-20T10:01:00+01:00"),
            ("tonight to x", "2026-11-20T21:00:00+01:00"),
            ("tomorrow to x", "2026-11-21T09:00:00+01:00"),
            ("tomorrow at 9 to x", "2026-11-21T09:00:00+01:00"),
            ("the day after tomorrow at 9 to x", "2026-11-22T09:00:00+01:00"),
            ("on Friday at 11 to x", "2026-11-20T11:00:00+01:00"),
            ("on Friday at 9 to x", "2026-11-27T09:00:00+01:00"),
            ("on Monday to x", "2026-11-23T09:00:00+01:00"),
            ("on 2026-12-24 at 18:00 to x", "2026-12-24T18:00:00+01:00"),
            ("on 20 November at 9 to x", "2027-11-20T09:00:00+01:00"),
            ("on 29 February to x", "2028-02-29T09:00:00+01:00"),
            ("on 1 January at 0:00 to x", "2027-01-01T00:00:00+01:00"),
            ("on the 31st to x", "2026-12-31T09:00:00+01:00"),
        ];
        for (sentence, expected) in cases {
            let found = alarm(sentence, FRIDAY).unwrap_or_else(|error| panic!("{sentence}: {error}"));
            let expected: Zoned = format!("{expected}[Europe/Prague]").parse().unwrap();
            assert_eq!(found, Alarm { spec: Spec::Once, first: expected }, "{sentence}");
        }
    }

    #[test]
    fn the_clocks_going_forward_or_back_lose_no_reminder() {
        // On 2026-03-29 02:00-03:00 does not exist in Prague; on 2026-10-25 it comes twice.
        let cases = [
            ("2026-03-28T12:00:00+01:00", "tomorrow at 2:30 to x", "2026-03-29T03:30:00+02:00"),
            ("2026-03-29T01:59:00+01:00", "at 2:30 to x", "2026-03-29T03:30:00+02:00"),
            ("2026-03-29T01:30:00+01:00", "in 1h to x", "2026-03-29T03:30:00+02:00"),
            ("2026-03-28T10:00:00+01:00", "in 1 day to x", "2026-03-29T10:00:00+02:00"),
            ("2026-03-28T10:00:00+01:00", "in 24h to x", "2026-03-29T11:00:00+02:00"),
            ("2026-10-24T12:00:00+02:00", "tomorrow at 2:30 to x", "2026-10-25T02:30:00+02:00"),
            ("2026-10-25T02:45:00+02:00", "at 2:30 to x", "2026-10-26T02:30:00+01:00"),
            ("2026-10-25T02:30:00+02:00", "in 1h to x", "2026-10-25T02:30:00+01:00"),
            ("2026-10-24T10:00:00+02:00", "in 24h to x", "2026-10-25T09:00:00+01:00"),
        ];
        for (now, sentence, expected) in cases {
            let found = alarm(sentence, &format!("{now}[Europe/Prague]")).unwrap();
            assert_eq!(
                found.first,
                format!("{expected}[Europe/Prague]").parse::<Zoned>().unwrap(),
                "{now} {sentence}"
            );
        }
    }

    #[test]
    fn the_end_of_a_year_and_a_leap_day_are_days_like_any_other() {
        let cases = [
            ("2026-12-31T23:55:00+00:00[UTC]", "in 10m to x", "2027-01-01T00:05:00+00:00[UTC]"),
            ("2026-12-31T10:00:00+00:00[UTC]", "tomorrow to x", "2027-01-01T09:00:00+00:00[UTC]"),
            ("2026-12-31T10:00:00+00:00[UTC]", "at 9 to x", "2027-01-01T09:00:00+00:00[UTC]"),
            ("2028-02-28T10:00:00+00:00[UTC]", "tomorrow at noon to x", "2028-02-29T12:00:00+00:00[UTC]"),
            ("2028-02-29T10:00:00+00:00[UTC]", "in a year to x", "2029-02-28T10:00:00+00:00[UTC]"),
            ("2027-01-31T10:00:00+00:00[UTC]", "in a month to x", "2027-02-28T10:00:00+00:00[UTC]"),
        ];
        for (now, sentence, expected) in cases {
            assert_eq!(
                alarm(sentence, now).unwrap().first,
                expected.parse::<Zoned>().unwrap(),
                "{now} {sentence}"
            );
        }
    }

    #[test]
    fn repetitions_become_cron_lines_where_the_calendar_can_keep_them() {
        let cases = [
            ("every day at 9 to x", Some("0 9 * * *"), "2026-11-21T09:00:00+01:00"),
            ("every day to x", Some("0 9 * * *"), "2026-11-21T09:00:00+01:00"),
            ("every weekday at 8:30 to x", Some("30 8 * * 1-5"), "2026-11-23T08:30:00+01:00"),
            ("every Monday at 9 to x", Some("0 9 * * 1"), "2026-11-23T09:00:00+01:00"),
            ("every sunday to x", Some("0 9 * * 0"), "2026-11-22T09:00:00+01:00"),
            ("every week at 9 to x", Some("0 9 * * 5"), "2026-11-27T09:00:00+01:00"),
            ("every week on Monday at 9 to x", Some("0 9 * * 1"), "2026-11-23T09:00:00+01:00"),
            ("every month on the 15th at 9 to x", Some("0 9 15 * *"), "2026-12-15T09:00:00+01:00"),
            ("every month at 11 to x", Some("0 11 20 * *"), "2026-11-20T11:00:00+01:00"),
            ("every year on 24 December to x", Some("0 9 24 12 *"), "2026-12-24T09:00:00+01:00"),
            ("every evening to x", Some("0 19 * * *"), "2026-11-20T19:00:00+01:00"),
            ("every 2 hours to x", None, "2026-11-20T12:00:00+01:00"),
            ("every 2 hours from 9 to x", None, "2026-11-21T09:00:00+01:00"),
            ("every 3 days at 11 to x", None, "2026-11-20T11:00:00+01:00"),
            ("every other Monday at 9 to x", None, "2026-11-23T09:00:00+01:00"),
        ];
        for (sentence, cron, expected) in cases {
            let found = alarm(sentence, FRIDAY).unwrap_or_else(|error| panic!("{sentence}: {error}"));
            let expected: Zoned = format!("{expected}[Europe/Prague]").parse().unwrap();
            assert_eq!(found.first, expected, "{sentence}");
            let line = match found.spec {
                Spec::Calendar(pattern) => Some(pattern.cron()),
                Spec::Period { .. } => None,
                Spec::Once => panic!("{sentence}: not repeated"),
            };
            assert_eq!(line.as_deref(), cron, "{sentence}");
        }
    }

    #[test]
    fn what_lies_outside_of_the_limits_is_refused_with_its_reason() {
        let too_far = [
            "in 6 years to x",
            "on 2032-01-01 to x",
            "in 99999999999999999999 hours to x",
            "in 4294967295 days to x",
            "in 4294967295 months to x",
            "every 6000 weeks to x",
            "every 6000 weeks on Monday at 9 to x",
            "every 99999999999 hours to x",
            "on 9999-12-31 to x",
            "in 99999999999 years at 9 to x",
        ];
        for sentence in too_far {
            assert_eq!(alarm(sentence, FRIDAY), Err(Error::TooFar), "{sentence}");
        }
        for sentence in ["today at 9 to x", "on 2020-01-01 to x", "in 0m to x", "on 1900-01-01 to x"] {
            assert!(matches!(alarm(sentence, FRIDAY), Err(Error::Past(_))), "{sentence}");
        }
        for sentence in ["every 1 second to x", "every 59s to x", "every 0 hours to x", "every 0 days to x"] {
            assert_eq!(alarm(sentence, FRIDAY), Err(Error::TooOften), "{sentence}");
        }
        for sentence in [
            "at 25:00 to x",
            "on 30 February to x",
            "on 2026-02-29 to x",
            "every 2 months to x",
            "tomorrow at 13pm to x",
        ] {
            assert!(matches!(alarm(sentence, FRIDAY), Err(Error::Impossible(_))), "{sentence}");
        }
        assert!(alarm("in 5 years to x", FRIDAY).is_ok());
        assert!(alarm("every 60 seconds to x", FRIDAY).is_ok());
    }
}
