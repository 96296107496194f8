//! Days as people write them: `tomorrow`, `on Friday`, `2026-12-24`, `24th of December`, `on the 15th`.

use jiff::civil::{Date, Weekday};

use super::super::words::Word;

/// A day that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Day {
    Today,
    /// So many days after today.
    After(u32),
    /// The next such weekday, today included as long as the time is still ahead.
    Weekday(Weekday),
    Date(Date),
    /// The next such day of the year; the month and the day of the month exist together.
    Yearly {
        month: i8,
        day: i8,
    },
    /// The next such day of a month, 1 to 31.
    Monthly(i8),
    /// Written as a date, but the calendar has none such.
    Impossible(String),
}

/// Days of the week, one bit each from Monday.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Weekdays(u8);

impl Weekdays {
    pub(in super::super) const ALL: Weekdays = Weekdays(0b111_1111);
    /// Monday to Friday.
    pub(in super::super) const WORKING: Weekdays = Weekdays(0b001_1111);
    /// Saturday and Sunday.
    pub(in super::super) const WEEKEND: Weekdays = Weekdays(0b110_0000);

    pub(in super::super) fn none() -> Weekdays {
        Weekdays(0)
    }

    pub(in super::super) fn only(day: Weekday) -> Weekdays {
        Weekdays(1 << day.to_monday_zero_offset())
    }

    #[must_use]
    pub(in super::super) fn and(self, other: Weekdays) -> Weekdays {
        Weekdays(self.0 | other.0)
    }

    pub(in super::super) fn has(self, day: Weekday) -> bool {
        self.0 & Weekdays::only(day).0 != 0
    }

    /// The days in it, from Monday.
    pub(in super::super) fn iter(self) -> impl Iterator<Item = Weekday> {
        Weekday::Monday.cycle_forward().take(7).filter(move |day| self.has(*day))
    }
}

/// Whether the words around one leave no doubt that it is a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// "on sat", "every 15th": what follows can only be a day.
    None,
    /// A word that stands alone; "sun" and "15th" mean other things too.
    Some,
}

/// Reads a day at the beginning of `words`.
pub(super) fn read(words: &[Word]) -> Option<(Day, usize)> {
    let key = |at: usize| words.get(at).map_or("", |word| word.key.as_str());
    match key(0) {
        "today" => return Some((Day::Today, 1)),
        "tomorrow" | "tomorow" | "tommorow" | "tommorrow" | "tmrw" | "tmr" => {
            return Some((Day::After(1), 1));
        }
        "next" if key(1) == "week" => return Some((Day::After(7), 2)),
        "the" | "day" => {
            let the = usize::from(key(0) == "the");
            if key(the) == "day" && key(the + 1) == "after" && key(the + 2) == "tomorrow" {
                return Some((Day::After(2), the + 3));
            }
        }
        _ => {}
    }
    let prefix = usize::from(matches!(key(0), "on" | "this" | "next" | "coming"));
    let rest = words.get(prefix..)?;
    let doubt = if prefix == 1 || time_follows(rest) { Doubt::None } else { Doubt::Some };
    if let Some(day) = weekday(rest.first()?, doubt) {
        return Some((Day::Weekday(day), prefix + 1));
    }
    if prefix == 1 && key(0) != "on" {
        return None;
    }
    let the = usize::from(rest.first()?.key == "the");
    let doubt = if prefix + the > 0 { Doubt::None } else { Doubt::Some };
    let (day, taken) = date(rest.get(the..)?, doubt)?;
    Some((day, prefix + the + taken))
}

/// A weekday by its name; its short forms are common words ("sun", "sat") and count only without doubt.
pub(super) fn weekday(word: &Word, doubt: Doubt) -> Option<Weekday> {
    let (day, long) = match word.key.as_str() {
        "monday" => (Weekday::Monday, true),
        "tuesday" => (Weekday::Tuesday, true),
        "wednesday" => (Weekday::Wednesday, true),
        "thursday" => (Weekday::Thursday, true),
        "friday" => (Weekday::Friday, true),
        "saturday" => (Weekday::Saturday, true),
        "sunday" => (Weekday::Sunday, true),
        "mon" => (Weekday::Monday, false),
        "tue" | "tues" => (Weekday::Tuesday, false),
        "wed" | "weds" => (Weekday::Wednesday, false),
        "thu" | "thur" | "thurs" => (Weekday::Thursday, false),
        "fri" => (Weekday::Friday, false),
        "sat" => (Weekday::Saturday, false),
        "sun" => (Weekday::Sunday, false),
        _ => return None,
    };
    (long || doubt == Doubt::None).then_some(day)
}

fn time_follows(words: &[Word]) -> bool {
    use super::clock::{Bare, read};
    words.get(1..).is_some_and(|rest| read(rest, Bare::AfterDay).is_some())
}

/// Reads a date at the beginning of `words`; a lone day of the month counts only without doubt ("on the 15th").
pub(super) fn date(words: &[Word], doubt: Doubt) -> Option<(Day, usize)> {
    let key = |at: usize| words.get(at).map_or("", |word| word.key.as_str());
    if let Some(day) = numeric(key(0), doubt) {
        return Some((day, 1));
    }
    if let Some(month) = month(key(0)) {
        let day = ordinal(key(1)).or_else(|| small(key(1)))?;
        return Some(with_year(month, day, key(2), 2));
    }
    let (day, marked) = match ordinal(key(0)) {
        Some(day) => (day, true),
        None => (small(key(0))?, false),
    };
    let of = usize::from(key(1) == "of");
    if let Some(month) = month(key(1 + of)) {
        return Some(with_year(month, day, key(2 + of), 2 + of));
    }
    let of_the_month = ["of", "the", "month"].iter().enumerate().all(|(at, part)| key(1 + at) == *part);
    (marked && (doubt == Doubt::None || of_the_month)).then(|| {
        let day =
            if (1..=31).contains(&day) { Day::Monthly(day) } else { Day::Impossible(key(0).to_owned()) };
        (day, if of_the_month { 4 } else { 1 })
    })
}

/// A month and a day with the year that may follow; `taken` words were read so far.
fn with_year(month: i8, day: i8, next: &str, taken: usize) -> (Day, usize) {
    let year = (next.len() == 4).then(|| next.parse::<i16>().ok()).flatten().filter(|year| *year >= 1900);
    let (found, taken) = match year {
        Some(year) => (Date::new(year, month, day).ok().map(Day::Date), taken + 1),
        // A leap year tells whether a day can exist at all.
        None => (Date::new(2028, month, day).ok().map(|_| Day::Yearly { month, day }), taken),
    };
    (
        found.unwrap_or_else(|| {
            Day::Impossible(format!(
                "{day} {}",
                MONTHS.get(usize::from(month.unsigned_abs()) - 1).unwrap_or(&"")
            ))
        }),
        taken,
    )
}

/// `2026-12-24`, `24.12.2026`, and after "on" `24.12` too. Slashes are left alone: nobody agrees on their order.
fn numeric(key: &str, doubt: Doubt) -> Option<Day> {
    let digits = |part: &str| -> Option<i16> {
        let plain = (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        if plain { part.parse().ok() } else { None }
    };
    let (separator, iso) = if key.contains('-') { ('-', true) } else { ('.', false) };
    let parts: Vec<&str> = key.split(separator).collect();
    let (year, month, day) = match parts.as_slice() {
        [year, month, day] if iso && year.len() == 4 => (Some(digits(year)?), digits(month)?, digits(day)?),
        [day, month, year] if !iso && year.len() == 4 => (Some(digits(year)?), digits(month)?, digits(day)?),
        [day, month] if !iso && doubt == Doubt::None => (None, digits(month)?, digits(day)?),
        _ => return None,
    };
    let (month, day) = (i8::try_from(month).unwrap_or(0), i8::try_from(day).unwrap_or(0));
    let found = match year {
        Some(year) => Date::new(year, month, day).ok().map(Day::Date),
        None => Date::new(2028, month, day).ok().map(|_| Day::Yearly { month, day }),
    };
    Some(found.unwrap_or_else(|| Day::Impossible(key.to_owned())))
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

fn month(key: &str) -> Option<i8> {
    let found = MONTHS.iter().position(|name| {
        *name == key || (key.len() == 3 && name.starts_with(key)) || (key == "sept" && *name == "september")
    })?;
    i8::try_from(found + 1).ok()
}

fn ordinal(key: &str) -> Option<i8> {
    ["st", "nd", "rd", "th"].iter().find_map(|ending| small(key.strip_suffix(ending)?))
}

fn small(key: &str) -> Option<i8> {
    let plain = (1..=2).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_digit());
    if plain { key.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::super::super::words;
    use super::*;
    use jiff::civil::date as ymd;

    #[test]
    fn days_are_read_as_people_write_them() {
        let christmas = Day::Yearly { month: 12, day: 24 };
        let cases = [
            ("today at", Day::Today, 1),
            ("Tomorrow", Day::After(1), 1),
            ("the day after tomorrow", Day::After(2), 4),
            ("next week", Day::After(7), 2),
            ("on Friday", Day::Weekday(Weekday::Friday), 2),
            ("Friday", Day::Weekday(Weekday::Friday), 1),
            ("next fri", Day::Weekday(Weekday::Friday), 2),
            ("fri at 9", Day::Weekday(Weekday::Friday), 1),
            ("on 2026-12-24 at", Day::Date(ymd(2026, 12, 24)), 2),
            ("2028-02-29", Day::Date(ymd(2028, 2, 29)), 1),
            ("24.12.2026", Day::Date(ymd(2026, 12, 24)), 1),
            ("on 24.12.", christmas.clone(), 2),
            ("on 24 December", christmas.clone(), 3),
            ("24th of Dec", christmas.clone(), 3),
            ("the 24th of December 2026", Day::Date(ymd(2026, 12, 24)), 5),
            ("December 24, 2026", Day::Date(ymd(2026, 12, 24)), 3),
            ("on Dec 24th", christmas, 3),
            ("on 29 February", Day::Yearly { month: 2, day: 29 }, 3),
            ("on the 15th", Day::Monthly(15), 3),
            ("15th of the month", Day::Monthly(15), 4),
        ];
        for (text, day, taken) in cases {
            assert_eq!(read(&words::split(text)), Some((day, taken)), "{text}");
        }
    }

    #[test]
    fn days_the_calendar_lacks_are_named() {
        for said in ["2026-02-30", "2026-13-01", "2026-02-29", "31.4.2026"] {
            assert_eq!(read(&words::split(said)), Some((Day::Impossible(said.to_owned()), 1)), "{said}");
        }
        let found = read(&words::split("on 30 February"));
        assert_eq!(found, Some((Day::Impossible("30 february".to_owned()), 3)));
    }

    #[test]
    fn other_words_are_no_days() {
        for text in [
            "",
            "sun",
            "sat down",
            "may",
            "march on",
            "24",
            "24.12",
            "15th",
            "on",
            "on time",
            "24/12/2026",
            "next time",
            "1.5.3",
            "２０２６-12-24",
            "this day",
        ] {
            assert_eq!(read(&words::split(text)), None, "{text}");
        }
    }

    #[test]
    fn weekday_sets_hold_what_was_put_in() {
        let set = Weekdays::none().and(Weekdays::only(Weekday::Sunday)).and(Weekdays::only(Weekday::Tuesday));
        assert_eq!(set.iter().collect::<Vec<_>>(), [Weekday::Tuesday, Weekday::Sunday]);
        assert_eq!(Weekdays::WORKING.and(Weekdays::WEEKEND), Weekdays::ALL);
    }
}
