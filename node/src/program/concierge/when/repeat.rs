//! Repetition: how "every …" is read, and the calendar patterns that become cron lines.

use jiff::Zoned;
use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;

use super::super::words::Word;
use super::clock::Period;
use super::day::{self, Day, Doubt, Weekdays};
use super::duration::{self, Delay};

/// Days looked through for the next match; the rarest pattern, 29 February, waits eight years at most.
const DAYS_SEARCHED: usize = 8 * 366 + 1;

/// How often something was said to repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Every {
    /// Every so many seconds, as they pass.
    Seconds(u64),
    /// Every so many days, two or more.
    Days(u32),
    /// Every so many weeks.
    Weeks(u32),
    /// On these days of every week.
    On(Weekdays),
    /// Once a month.
    Month,
    /// Once a year.
    Year,
    /// A period that nothing here can keep, such as every two months.
    Impossible(String),
}

/// What one phrase says about repetition, with the day or the part of the day that was said along with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) every: Every,
    pub(super) day: Option<Day>,
    pub(super) period: Option<Period>,
}

impl Said {
    fn only(every: Every) -> Said {
        Said { every, day: None, period: None }
    }
}

/// Reads a repetition at the beginning of `words`.
pub(super) fn read(words: &[Word]) -> Option<(Said, usize)> {
    let key = |at: usize| words.get(at).map_or("", |word| word.key.as_str());
    let alone = match key(0) {
        "daily" => Some(Every::On(Weekdays::ALL)),
        "hourly" => Some(Every::Seconds(3_600)),
        "weekly" => Some(Every::Weeks(1)),
        "monthly" => Some(Every::Month),
        "yearly" | "annually" => Some(Every::Year),
        "weekdays" => Some(Every::On(Weekdays::WORKING)),
        _ => None,
    };
    if let Some(every) = alone {
        return Some((Said::only(every), 1));
    }
    if key(0) == "on" {
        let (days, taken) = match key(1) {
            "weekdays" | "workdays" => (Weekdays::WORKING, 1),
            "weekends" => (Weekdays::WEEKEND, 1),
            _ => weekdays(words.get(1..)?, Plural::Required)?,
        };
        return Some((Said::only(Every::On(days)), taken + 1));
    }
    if !matches!(key(0), "every" | "each") {
        return None;
    }
    let other = usize::from(key(1) == "other");
    let rest = words.get(1 + other..)?;
    let (said, taken) = if other == 1 { second(rest)? } else { named(rest).or_else(|| counted(rest))? };
    Some((said, 1 + other + taken))
}

/// What has a name of its own: days, kinds of days, parts of the day, dates.
fn named(words: &[Word]) -> Option<(Said, usize)> {
    let every = |days| (Said::only(Every::On(days)), 1);
    let part = |period| (Said { every: Every::On(Weekdays::ALL), day: None, period: Some(period) }, 1);
    match words.first()?.key.as_str() {
        "day" => return Some(every(Weekdays::ALL)),
        "weekday" | "workday" | "weekdays" => return Some(every(Weekdays::WORKING)),
        "weekend" => return Some(every(Weekdays::WEEKEND)),
        "morning" => return Some(part(Period::Morning)),
        "afternoon" => return Some(part(Period::Afternoon)),
        "evening" => return Some(part(Period::Evening)),
        "night" => return Some(part(Period::Night)),
        "working" if words.get(1).is_some_and(|word| word.key == "day") => {
            return Some((Said::only(Every::On(Weekdays::WORKING)), 2));
        }
        _ => {}
    }
    if let Some((days, taken)) = weekdays(words, Plural::Allowed) {
        return Some((Said::only(Every::On(days)), taken));
    }
    let (day, taken) = day::date(words, Doubt::None)?;
    let (every, day) = match day {
        Day::Monthly(_) => (Every::Month, Some(day)),
        Day::Yearly { .. } => (Every::Year, Some(day)),
        Day::Impossible(said) => (Every::Impossible(said), None),
        _ => return None,
    };
    Some((Said { every, day, period: None }, taken))
}

/// "every other …".
fn second(words: &[Word]) -> Option<(Said, usize)> {
    let word = words.first()?;
    if let Some(day) = day::weekday(word, Doubt::None) {
        return Some((Said { every: Every::Weeks(2), day: Some(Day::Weekday(day)), period: None }, 1));
    }
    let one = duration::unit(word)?;
    let two = Delay { months: one.months * 2, days: one.days * 2, seconds: one.seconds * 2 };
    Some((Said::only(period_of(two, words.get(..1)?)), 1))
}

/// "every 2 hours", "every hour".
fn counted(words: &[Word]) -> Option<(Said, usize)> {
    let (delay, taken) = match duration::unit(words.first()?) {
        Some(one) => (one, 1),
        None => duration::read(words)?,
    };
    Some((Said::only(period_of(delay, words.get(..taken)?)), taken))
}

fn period_of(delay: Delay, said: &[Word]) -> Every {
    const DAY_S: u64 = 86_400;
    match delay {
        Delay { months: 0, days: 1, seconds: 0 } => Every::On(Weekdays::ALL),
        Delay { months: 0, days, seconds: 0 } if days > 0 && days % 7 == 0 => Every::Weeks(days / 7),
        Delay { months: 0, days, seconds: 0 } if days > 0 => Every::Days(days),
        Delay { months: 0, days, seconds } => Every::Seconds(seconds.saturating_add(u64::from(days) * DAY_S)),
        Delay { months: 1, days: 0, seconds: 0 } => Every::Month,
        Delay { months: 12, days: 0, seconds: 0 } => Every::Year,
        _ => {
            let keys: Vec<&str> = said.iter().map(|word| word.key.as_str()).collect();
            Every::Impossible(format!("every {}", keys.join(" ")))
        }
    }
}

/// Whether a weekday must be in the plural to mean each of them: "on Mondays", but "every Monday".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plural {
    Allowed,
    Required,
}

/// "Monday", "Mon, Wed and Fri", "Mondays & Thursdays".
fn weekdays(words: &[Word], plural: Plural) -> Option<(Weekdays, usize)> {
    let mut days = Weekdays::none();
    let mut taken = 0;
    loop {
        let joined = usize::from(
            taken > 0 && words.get(taken).is_some_and(|word| matches!(word.key.as_str(), "and" | "&")),
        );
        let Some(found) = words.get(taken + joined).and_then(|word| one_weekday(word, plural)) else { break };
        days = days.and(found);
        taken += joined + 1;
    }
    (taken > 0).then_some((days, taken))
}

/// One weekday, or several with nothing but commas or slashes between them: "mon,wed".
fn one_weekday(word: &Word, plural: Plural) -> Option<Weekdays> {
    let mut days = Weekdays::none();
    for part in word.key.split([',', '/']) {
        let singular = part.strip_suffix('s').filter(|part| part.ends_with("day"));
        if plural == Plural::Required && singular.is_none() {
            return None;
        }
        let key = singular.unwrap_or(part).to_owned();
        days = days.and(Weekdays::only(day::weekday(&Word { key, ..word.clone() }, Doubt::None)?));
    }
    Some(days)
}

/// A time of day on the days that the calendar repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Pattern {
    pub(in super::super) days: Days,
    /// To the minute.
    pub(in super::super) time: Time,
}

/// Days that come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Days {
    Week(Weekdays),
    /// A day of every month; months without it are skipped.
    Month(i8),
    /// A day of every year; 29 February is skipped in common years.
    Year {
        month: i8,
        day: i8,
    },
}

impl Pattern {
    /// The first instant after `now`, in its zone. A local time that the clocks skip moves behind the gap; of
    /// one that comes twice, the first is taken.
    pub(in super::super) fn next(&self, now: &Zoned) -> Option<Zoned> {
        std::iter::successors(Some(now.date()), |date: &Date| date.tomorrow().ok())
            .take(DAYS_SEARCHED)
            .filter(|date| self.days.has(*date))
            .filter_map(|date| in_zone(date, self.time, now.time_zone()))
            .find(|at| at > now)
    }

    /// The cron line: minute, hour, day of the month, month, day of the week with Sunday as 0.
    pub(in super::super) fn cron(&self) -> String {
        let (minute, hour) = (self.time.minute(), self.time.hour());
        match self.days {
            Days::Week(Weekdays::ALL) => format!("{minute} {hour} * * *"),
            Days::Week(Weekdays::WORKING) => format!("{minute} {hour} * * 1-5"),
            Days::Week(days) => {
                let mut numbers: Vec<i8> = days.iter().map(Weekday::to_sunday_zero_offset).collect();
                numbers.sort_unstable();
                let numbers: Vec<String> = numbers.iter().map(i8::to_string).collect();
                format!("{minute} {hour} * * {}", numbers.join(","))
            }
            Days::Month(day) => format!("{minute} {hour} {day} * *"),
            Days::Year { month, day } => format!("{minute} {hour} {day} {month} *"),
        }
    }

    /// Reads back what [`Pattern::cron`] writes; any other cron line gives `None`.
    pub(in super::super) fn from_cron(cron: &str) -> Option<Pattern> {
        let parts: Vec<&str> = cron.split(' ').collect();
        let [minute, hour, day, month, week] = parts.as_slice() else { return None };
        let time = Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()?;
        let days = match (*day, *month, *week) {
            ("*", "*", "*") => Days::Week(Weekdays::ALL),
            ("*", "*", "1-5") => Days::Week(Weekdays::WORKING),
            ("*", "*", list) => {
                let mut days = Weekdays::none();
                for number in list.split(',') {
                    days = days
                        .and(Weekdays::only(Weekday::from_sunday_zero_offset(number.parse().ok()?).ok()?));
                }
                Days::Week(days)
            }
            (day, "*", "*") => Days::Month(day.parse().ok()?),
            (day, month, "*") => Days::Year { month: month.parse().ok()?, day: day.parse().ok()? },
            _ => return None,
        };
        let pattern = Pattern { days, time };
        (pattern.cron() == cron).then_some(pattern)
    }
}

impl Days {
    fn has(self, date: Date) -> bool {
        match self {
            Days::Week(days) => days.has(date.weekday()),
            Days::Month(day) => date.day() == day,
            Days::Year { month, day } => (date.month(), date.day()) == (month, day),
        }
    }
}

/// A local time as an instant; a gap in the clocks moves it behind the gap, of a fold the first is taken.
pub(super) fn in_zone(date: Date, time: Time, zone: &TimeZone) -> Option<Zoned> {
    zone.to_ambiguous_zoned(date.to_datetime(time)).compatible().ok()
}

#[cfg(test)]
mod tests {
    use super::super::super::words;
    use super::*;

    fn on(days: &[Weekday]) -> Every {
        Every::On(days.iter().fold(Weekdays::none(), |all, day| all.and(Weekdays::only(*day))))
    }

    #[test]
    fn repetitions_are_read_as_people_write_them() {
        use Weekday::{Friday, Monday, Thursday, Wednesday};
        let cases = [
            ("every day at", Every::On(Weekdays::ALL), 2),
            ("daily", Every::On(Weekdays::ALL), 1),
            ("every 1 day", Every::On(Weekdays::ALL), 3),
            ("Every weekday", Every::On(Weekdays::WORKING), 2),
            ("every working day", Every::On(Weekdays::WORKING), 3),
            ("on weekdays", Every::On(Weekdays::WORKING), 2),
            ("on weekends at", Every::On(Weekdays::WEEKEND), 2),
            ("every Monday", on(&[Monday]), 2),
            ("every mon, wed and fri at", on(&[Monday, Wednesday, Friday]), 5),
            ("each mon,thu", on(&[Monday, Thursday]), 2),
            ("on Mondays & Thursdays", on(&[Monday, Thursday]), 4),
            ("every hour", Every::Seconds(3_600), 2),
            ("hourly", Every::Seconds(3_600), 1),
            ("every 2 hours", Every::Seconds(7_200), 3),
            ("every 1h30m", Every::Seconds(5_400), 2),
            ("every half hour", Every::Seconds(1_800), 3),
            ("every 3 days", Every::Days(3), 3),
            ("every other day", Every::Days(2), 3),
            ("every week", Every::Weeks(1), 2),
            ("every 14 days", Every::Weeks(2), 3),
            ("every other week", Every::Weeks(2), 3),
            ("every month", Every::Month, 2),
            ("every year", Every::Year, 2),
            ("every 12 months", Every::Year, 3),
            ("every 2 months", Every::Impossible("every 2 months".to_owned()), 3),
        ];
        for (text, every, taken) in cases {
            assert_eq!(read(&words::split(text)), Some((Said::only(every), taken)), "{text}");
        }
        for text in ["", "every", "every time", "each of them", "on Monday", "on time", "everyday", "every m"]
        {
            assert_eq!(read(&words::split(text)), None, "{text}");
        }
    }

    #[test]
    fn a_repetition_can_bring_its_day_or_its_part_of_the_day() {
        let evening = read(&words::split("every evening")).unwrap().0;
        assert_eq!((evening.every, evening.period), (Every::On(Weekdays::ALL), Some(Period::Evening)));
        let monthly = read(&words::split("every 15th at 9")).unwrap();
        assert_eq!((monthly.0.every, monthly.0.day, monthly.1), (Every::Month, Some(Day::Monthly(15)), 2));
        let yearly = read(&words::split("every 24 December")).unwrap().0;
        assert_eq!((yearly.every, yearly.day), (Every::Year, Some(Day::Yearly { month: 12, day: 24 })));
        let other = read(&words::split("every other Monday")).unwrap().0;
        assert_eq!((other.every, other.day), (Every::Weeks(2), Some(Day::Weekday(Weekday::Monday))));
    }

    #[test]
    fn a_pattern_and_its_cron_line_say_the_same() {
        let time = Time::constant(8, 30, 0, 0);
        let days = |days: &[Weekday]| {
            Days::Week(days.iter().fold(Weekdays::none(), |all, day| all.and(Weekdays::only(*day))))
        };
        let cases = [
            (Days::Week(Weekdays::ALL), "30 8 * * *"),
            (Days::Week(Weekdays::WORKING), "30 8 * * 1-5"),
            (Days::Week(Weekdays::WEEKEND), "30 8 * * 0,6"),
            (days(&[Weekday::Monday]), "30 8 * * 1"),
            (days(&[Weekday::Thursday, Weekday::Monday]), "30 8 * * 1,4"),
            (Days::Month(15), "30 8 15 * *"),
            (Days::Year { month: 12, day: 24 }, "30 8 24 12 *"),
        ];
        for (days, cron) in cases {
            let pattern = Pattern { days, time };
            assert_eq!(pattern.cron(), cron);
            assert_eq!(Pattern::from_cron(cron), Some(pattern));
        }
        for other in [
            "",
            "*/5 * * * *",
            "30 8 * * MON",
            "30 8 * * 7",
            "99 8 * * *",
            "30 8 * * 1,,2",
            "30 8 1 * 1",
            "08 8 * * *",
        ] {
            assert_eq!(Pattern::from_cron(other), None, "{other}");
        }
    }

    #[test]
    fn the_next_match_is_after_now_and_follows_the_clocks() {
        let zoned = |text: &str| text.parse::<Zoned>().unwrap();
        let daily = |hour, minute| Pattern {
            days: Days::Week(Weekdays::ALL),
            time: Time::constant(hour, minute, 0, 0),
        };
        let leap = Pattern { days: Days::Year { month: 2, day: 29 }, time: Time::constant(9, 0, 0, 0) };
        let last = Pattern { days: Days::Month(31), time: Time::constant(9, 0, 0, 0) };
        let cases = [
            (
                daily(9, 0),
                "2026-11-20T09:00:00+01:00[Europe/Prague]",
                "2026-11-21T09:00:00+01:00[Europe/Prague]",
            ),
            (
                daily(9, 0),
                "2026-11-20T08:59:59+01:00[Europe/Prague]",
                "2026-11-20T09:00:00+01:00[Europe/Prague]",
            ),
            (
                daily(9, 0),
                "2026-12-31T10:00:00+01:00[Europe/Prague]",
                "2027-01-01T09:00:00+01:00[Europe/Prague]",
            ),
            (
                daily(2, 30),
                "2026-03-28T12:00:00+01:00[Europe/Prague]",
                "2026-03-29T03:30:00+02:00[Europe/Prague]",
            ),
            (
                daily(2, 30),
                "2026-10-24T12:00:00+02:00[Europe/Prague]",
                "2026-10-25T02:30:00+02:00[Europe/Prague]",
            ),
            (
                daily(2, 30),
                "2026-10-25T02:45:00+02:00[Europe/Prague]",
                "2026-10-26T02:30:00+01:00[Europe/Prague]",
            ),
            (leap, "2026-11-20T09:00:00+00:00[UTC]", "2028-02-29T09:00:00+00:00[UTC]"),
            (last, "2026-11-20T09:00:00+00:00[UTC]", "2026-12-31T09:00:00+00:00[UTC]"),
        ];
        for (pattern, now, expected) in cases {
            assert_eq!(pattern.next(&zoned(now)), Some(zoned(expected)), "{pattern:?} after {now}");
        }
        let never = Pattern { days: Days::Year { month: 2, day: 30 }, time: Time::midnight() };
        assert_eq!(never.next(&zoned("2026-11-20T09:00:00+00:00[UTC]")), None);
    }
}
