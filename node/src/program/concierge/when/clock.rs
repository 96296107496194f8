//! Times of day as people write them: `17:00`, `5pm`, `5:30 p.m.`, `at 9`, `noon`, `in the evening`.

use jiff::civil::Time;

use super::super::words::Word;

/// A time of day that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Clock {
    /// A time; `open` when the hour could still be of the morning or of the evening ("at 8").
    At { time: Time, open: bool },
    /// Written as a time, but there is none such: `25:00`, `13pm`.
    Impossible(String),
}

/// A part of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Period {
    Morning,
    Afternoon,
    Evening,
    Night,
}

impl Period {
    fn named(key: &str) -> Option<Period> {
        Some(match key {
            "morning" => Period::Morning,
            "afternoon" => Period::Afternoon,
            "evening" => Period::Evening,
            "night" => Period::Night,
            _ => return None,
        })
    }

    /// The time meant when only the part of the day is said.
    pub(super) fn usual(self) -> Time {
        let hour = match self {
            Period::Morning => 9,
            Period::Afternoon => 15,
            Period::Evening => 19,
            Period::Night => 21,
        };
        Time::midnight().with().hour(hour).build().unwrap_or(Time::midnight())
    }

    /// The time meant by an open hour in this part of the day: "at 8 in the evening" is 20:00.
    pub(super) fn of(self, time: Time) -> Time {
        let later = self != Period::Morning && (1..12).contains(&time.hour());
        if !later {
            return time;
        }
        time.with().hour(time.hour() + 12).build().unwrap_or(time)
    }
}

/// How sure a bare number is to be a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bare {
    /// A number alone is not a time.
    Refused,
    /// It follows a day ("tomorrow 9"), so it is one where nothing but a time makes sense.
    AfterDay,
}

/// Reads a time of day at the beginning of `words`.
pub(super) fn read(words: &[Word], bare: Bare) -> Option<(Clock, usize)> {
    let first = words.first()?.key.as_str();
    let prefix = usize::from(matches!(first, "at" | "@" | "from" | "around"));
    let rest = words.get(prefix..)?;
    let key = rest.first()?.key.trim_start_matches('@');
    match key {
        "noon" | "midday" => return Some((exact(Time::constant(12, 0, 0, 0)), prefix + 1)),
        "midnight" => return Some((exact(Time::midnight()), prefix + 1)),
        _ => {}
    }
    let next = rest.get(1).map(|word| word.key.as_str());
    let (digits, half, joined) = match half_of(key) {
        Some((digits, half)) => (digits, Some(half), 0),
        None => match next.and_then(half_of) {
            Some(("", half)) => (key, Some(half), 1),
            _ => (key, None, usize::from(next == Some("o'clock") || next == Some("oclock"))),
        },
    };
    let written = digits.contains(':') || half.is_some();
    let ends = matches!(next, None | Some("" | "to" | "that" | "about" | "o'clock"));
    let trusted =
        written || prefix == 1 || rest.first()?.key.starts_with('@') || (bare == Bare::AfterDay && ends);
    if !trusted {
        return None;
    }
    let (hour, minute) = split(digits)?;
    let clock = match (twenty_four(hour, half), minute < 60) {
        (Some(hour), true) if hour < 24 => {
            let open = half.is_none() && !digits.contains(':') && hour < 12;
            Clock::At { time: Time::midnight().with().hour(hour).minute(minute).build().ok()?, open }
        }
        _ if written => Clock::Impossible(format!("{digits}{}", half.map_or("", Half::name))),
        _ => return None,
    };
    Some((clock, prefix + 1 + joined))
}

fn exact(time: Time) -> Clock {
    Clock::At { time, open: false }
}

/// Reads a part of the day: `in the morning`, `this evening`, `at night`; alone only after a day.
pub(super) fn period(words: &[Word], bare: Bare) -> Option<(Period, usize)> {
    let mut keys = words.iter().map(|word| word.key.as_str());
    let (first, second, third) = (keys.next()?, keys.next(), keys.next());
    match (first, second, third) {
        ("in", Some("the"), Some(name)) => Some((Period::named(name)?, 3)),
        ("at", Some("night"), _) => Some((Period::Night, 2)),
        (name, ..) if bare == Bare::AfterDay => Some((Period::named(name)?, 1)),
        _ => None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Am,
    Pm,
}

impl Half {
    fn name(self) -> &'static str {
        match self {
            Half::Am => "am",
            Half::Pm => "pm",
        }
    }
}

/// Takes `am` or `pm`, with or without its dots, off the end of a word.
fn half_of(key: &str) -> Option<(&str, Half)> {
    for (ending, half) in [("am", Half::Am), ("a.m", Half::Am), ("pm", Half::Pm), ("p.m", Half::Pm)] {
        if let Some(digits) = key.strip_suffix(ending) {
            return Some((digits, half));
        }
    }
    None
}

/// Hour and minute of `17:00`, `17.30`, `17h`, `17h30`, `0900` or `9`.
fn split(digits: &str) -> Option<(i8, i8)> {
    let number = |part: &str| -> Option<i8> {
        let plain = (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        if plain { part.parse().ok() } else { None }
    };
    if let Some((hour, minute)) = digits.split_once([':', '.', 'h']) {
        let minute = match minute {
            "" if digits.ends_with('h') => 0,
            two if two.len() == 2 => number(two)?,
            _ => return None,
        };
        return Some((number(hour)?, minute));
    }
    match digits.split_at_checked(2) {
        Some((hour, minute)) if minute.len() == 2 => Some((number(hour)?, number(minute)?)),
        _ => Some((number(digits)?, 0)),
    }
}

/// The hour of 24; `None` where the half of the day does not fit: there is no 13pm and no 0am.
fn twenty_four(hour: i8, half: Option<Half>) -> Option<i8> {
    match (half, hour) {
        (None, hour) => Some(hour),
        (Some(_), ..1 | 13..) => None,
        (Some(Half::Am), 12) => Some(0),
        (Some(Half::Pm), hour) if hour < 12 => Some(hour + 12),
        (Some(_), hour) => Some(hour),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::words;
    use super::*;

    fn at(hour: i8, minute: i8, open: bool) -> Clock {
        Clock::At { time: Time::constant(hour, minute, 0, 0), open }
    }

    #[test]
    fn times_of_day_are_read_as_people_write_them() {
        let cases = [
            ("17:00", at(17, 0, false), 1),
            ("at 17:00", at(17, 0, false), 2),
            ("at 7:05", at(7, 5, false), 2),
            ("at 17.30", at(17, 30, false), 2),
            ("at 17h30", at(17, 30, false), 2),
            ("at 17h", at(17, 0, false), 2),
            ("at 0900", at(9, 0, true), 2),
            ("at 9", at(9, 0, true), 2),
            ("at 9 o'clock", at(9, 0, true), 3),
            ("@9", at(9, 0, true), 1),
            ("@ 9", at(9, 0, true), 2),
            ("5pm", at(17, 0, false), 1),
            ("at 5 PM to", at(17, 0, false), 3),
            ("5:30 p.m.", at(17, 30, false), 2),
            ("11.15 a.m.", at(11, 15, false), 2),
            ("12am", at(0, 0, false), 1),
            ("12:01 am", at(0, 1, false), 2),
            ("12pm", at(12, 0, false), 1),
            ("1am", at(1, 0, false), 1),
            ("11pm", at(23, 0, false), 1),
            ("noon", at(12, 0, false), 1),
            ("at midnight", at(0, 0, false), 2),
            ("at 0:00", at(0, 0, false), 2),
            ("at 23:59", at(23, 59, false), 2),
        ];
        for (text, clock, taken) in cases {
            assert_eq!(read(&words::split(text), Bare::Refused), Some((clock, taken)), "{text}");
        }
    }

    #[test]
    fn impossible_times_are_named_and_other_numbers_left_alone() {
        for said in ["25:00", "24:00", "17:60", "13pm", "0am", "0:30am", "99:99"] {
            let found = read(&words::split(said), Bare::Refused);
            assert_eq!(found, Some((Clock::Impossible(said.to_owned()), 1)), "{said}");
        }
        for text in [
            "9", "at", "at 42", "at home", "at 123", "1234", "12:3", "17:000", ":", "at :30", "am", "at pm",
            "5 apples", "at ９", "-5:00",
        ] {
            assert_eq!(read(&words::split(text), Bare::Refused), None, "{text}");
        }
    }

    #[test]
    fn a_bare_number_is_a_time_only_after_a_day() {
        assert_eq!(read(&words::split("9 to call"), Bare::AfterDay), Some((at(9, 0, true), 1)));
        assert_eq!(read(&words::split("9"), Bare::AfterDay), Some((at(9, 0, true), 1)));
        assert_eq!(read(&words::split("9 eggs"), Bare::AfterDay), None);
    }

    #[test]
    fn parts_of_the_day_have_a_usual_time_and_settle_open_hours() {
        assert_eq!(period(&words::split("in the morning"), Bare::Refused), Some((Period::Morning, 3)));
        assert_eq!(period(&words::split("evening"), Bare::AfterDay), Some((Period::Evening, 1)));
        assert_eq!(period(&words::split("evening"), Bare::Refused), None);
        assert_eq!(Period::Evening.of(Time::constant(8, 0, 0, 0)), Time::constant(20, 0, 0, 0));
        assert_eq!(Period::Morning.of(Time::constant(8, 0, 0, 0)), Time::constant(8, 0, 0, 0));
        assert_eq!(Period::Night.of(Time::constant(12, 0, 0, 0)), Time::constant(12, 0, 0, 0));
        assert_eq!(Period::Afternoon.usual(), Time::constant(15, 0, 0, 0));
    }
}
