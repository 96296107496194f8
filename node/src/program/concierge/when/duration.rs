//! Lengths of time as people write them: `10m`, `1h30m`, `2 hours and 15 minutes`, `an hour and a half`.

use super::super::words::Word;

const MINUTE_S: u64 = 60;
const HOUR_S: u64 = 60 * MINUTE_S;
const DAY_S: u64 = 24 * HOUR_S;

/// A length of time. Months and days are counted on the calendar, so that "in 3 days" keeps the time of day
/// over a change of the clocks; seconds are counted as they pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in super::super) struct Delay {
    pub(in super::super) months: u32,
    pub(in super::super) days: u32,
    pub(in super::super) seconds: u64,
}

impl Delay {
    /// Whether it is counted on the calendar alone, so that a time of day can go with it.
    pub(super) fn is_calendar(self) -> bool {
        self.seconds == 0 && (self.months > 0 || self.days > 0)
    }

    fn add(&mut self, amount: Amount, unit: Unit) -> Option<()> {
        if let Some(whole) = amount.whole() {
            match unit {
                Unit::Second => self.seconds = self.seconds.saturating_add(whole.into()),
                Unit::Minute => self.seconds = self.seconds.saturating_add(u64::from(whole) * MINUTE_S),
                Unit::Hour => self.seconds = self.seconds.saturating_add(u64::from(whole) * HOUR_S),
                Unit::Day => self.days = self.days.saturating_add(whole),
                Unit::Week => self.days = self.days.saturating_add(whole.saturating_mul(7)),
                Unit::Month => self.months = self.months.saturating_add(whole),
                Unit::Year => self.months = self.months.saturating_add(whole.saturating_mul(12)),
            }
            return Some(());
        }
        let unit_s = match unit {
            Unit::Second | Unit::Month | Unit::Year => return None,
            Unit::Minute => MINUTE_S,
            Unit::Hour => HOUR_S,
            Unit::Day => DAY_S,
            Unit::Week => 7 * DAY_S,
        };
        self.seconds = self.seconds.saturating_add(amount.thousandths.saturating_mul(unit_s) / 1_000);
        Some(())
    }
}

/// A number of units, in thousandths, because people write `1.5 h`.
#[derive(Debug, Clone, Copy)]
struct Amount {
    thousandths: u64,
}

impl Amount {
    const ONE: Amount = Amount { thousandths: 1_000 };
    const HALF: Amount = Amount { thousandths: 500 };

    fn whole(self) -> Option<u32> {
        self.thousandths
            .is_multiple_of(1_000)
            .then(|| u32::try_from(self.thousandths / 1_000).unwrap_or(u32::MAX))
    }

    /// Reads digits, with a fraction after a point or a comma; a number beyond all sense stays the largest.
    fn digits(text: &str) -> Option<Amount> {
        let (whole, fraction) = text.split_once(['.', ',']).unwrap_or((text, "0"));
        let decimal = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !decimal(whole) || !decimal(fraction) || fraction.len() > 3 {
            return None;
        }
        let fraction: u64 = format!("{fraction:0<3}").parse().ok()?;
        let whole: u32 = whole.parse().unwrap_or(u32::MAX);
        Some(Amount { thousandths: u64::from(whole) * 1_000 + fraction })
    }

    fn word(key: &str) -> Option<Amount> {
        const NAMES: [&str; 13] = [
            "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
            "twelve",
        ];
        let number = match key {
            "a" | "an" | "1" => 1,
            "fifteen" => 15,
            "twenty" => 20,
            "thirty" => 30,
            "forty" => 40,
            "fifty" => 50,
            "sixty" => 60,
            "ninety" => 90,
            _ => match NAMES.iter().position(|name| *name == key) {
                Some(number) => number as u64,
                None => return Amount::digits(key),
            },
        };
        Some(Amount { thousandths: number * 1_000 })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Unit {
    fn named(key: &str) -> Option<Unit> {
        Some(match key {
            "s" | "sec" | "secs" | "second" | "seconds" => Unit::Second,
            "m" | "min" | "mins" | "minute" | "minutes" => Unit::Minute,
            "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Hour,
            "d" | "day" | "days" => Unit::Day,
            "w" | "wk" | "wks" | "week" | "weeks" => Unit::Week,
            "mo" | "mon" | "mth" | "month" | "months" => Unit::Month,
            "y" | "yr" | "yrs" | "year" | "years" => Unit::Year,
            _ => return None,
        })
    }
}

/// Reads a length of time at the beginning of `words`, and says how many of them it took.
pub(super) fn read(words: &[Word]) -> Option<(Delay, usize)> {
    let mut delay = Delay::default();
    let mut taken = 0;
    loop {
        let rest = words.get(taken..)?;
        let joined = usize::from(taken > 0 && rest.first().is_some_and(|word| word.key == "and"));
        match rest.get(joined..).and_then(|rest| term(&mut delay, rest)) {
            Some(count) => taken += joined + count,
            None => break,
        }
    }
    (taken > 0).then_some((delay, taken))
}

/// A unit alone, as in "every hour".
pub(super) fn unit(word: &Word) -> Option<Delay> {
    let mut delay = Delay::default();
    // A bare letter is no unit: "every d" is a slip, not a day.
    if word.key.len() < 3 {
        return None;
    }
    delay.add(Amount::ONE, Unit::named(&word.key)?)?;
    Some(delay)
}

/// One number with its unit, in one word or in two; adds it and counts the words.
fn term(delay: &mut Delay, words: &[Word]) -> Option<usize> {
    let key = words.first()?.key.as_str();
    let second = words.get(1).map(|word| word.key.as_str());
    if key == "half" {
        let article = usize::from(matches!(second, Some("a" | "an")));
        let unit = Unit::named(&words.get(1 + article)?.key)?;
        delay.add(Amount::HALF, unit)?;
        return Some(2 + article);
    }
    if let Some(sum) = compact(*delay, key) {
        *delay = sum;
        return Some(1);
    }
    let unit = Unit::named(second?)?;
    delay.add(Amount::word(key)?, unit)?;
    let and_a_half = ["and", "a", "half"];
    let tail = words.get(2..5).unwrap_or_default();
    if tail.len() == 3 && tail.iter().zip(and_a_half).all(|(word, key)| word.key == key) {
        delay.add(Amount::HALF, unit)?;
        return Some(5);
    }
    Some(2)
}

/// Numbers and units written as one word: `90s`, `1h30m`; a bare number after hours counts minutes (`1h30`).
fn compact(mut delay: Delay, key: &str) -> Option<Delay> {
    let mut rest = key;
    let mut last = None;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ',').unwrap_or(rest.len());
        let (number, tail) = rest.split_at_checked(digits)?;
        let letters = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
        let (name, tail) = tail.split_at_checked(letters)?;
        let unit = match (name, last) {
            ("", Some(Unit::Hour)) => Unit::Minute,
            _ => Unit::named(name)?,
        };
        delay.add(Amount::digits(number)?, unit)?;
        last = Some(unit);
        rest = tail;
    }
    last.map(|_| delay)
}

#[cfg(test)]
mod tests {
    use super::super::super::words;
    use super::*;

    fn seconds(seconds: u64) -> Delay {
        Delay { seconds, ..Delay::default() }
    }

    #[test]
    fn lengths_of_time_are_read_in_words_and_letters() {
        let days = |days| Delay { days, ..Delay::default() };
        let months = |months| Delay { months, ..Delay::default() };
        let cases = [
            ("10m", seconds(600), 1),
            ("10 min", seconds(600), 2),
            ("90s", seconds(90), 1),
            ("1h30m", seconds(5_400), 1),
            ("1h30", seconds(5_400), 1),
            ("1h 30m", seconds(5_400), 2),
            ("1.5h", seconds(5_400), 1),
            ("1,5 hours", seconds(5_400), 2),
            ("2 hours and 15 minutes", seconds(8_100), 5),
            ("an hour", seconds(3_600), 2),
            ("An Hour and a Half", seconds(5_400), 5),
            ("half an hour", seconds(1_800), 3),
            ("half a day", seconds(43_200), 3),
            ("two weeks", days(14), 2),
            ("3 days", days(3), 2),
            ("1d12h", Delay { days: 1, seconds: 43_200, months: 0 }, 1),
            ("6 months", months(6), 2),
            ("a year", months(12), 2),
            ("10 minutes to stretch", seconds(600), 2),
            ("1 day and then", days(1), 2),
            ("0m", seconds(0), 1),
        ];
        for (text, delay, taken) in cases {
            assert_eq!(read(&words::split(text)), Some((delay, taken)), "{text}");
        }
    }

    #[test]
    fn what_is_no_length_of_time_is_left_alone() {
        for text in [
            "",
            "10",
            "m",
            "ten",
            "10x",
            "-5 minutes",
            "1..5h",
            "1h30m20",
            "half",
            "½ hour",
            "１０m",
            "1.5 months",
        ] {
            assert_eq!(read(&words::split(text)), None, "{text}");
        }
    }

    #[test]
    fn huge_numbers_saturate() {
        let huge = "9".repeat(5_000);
        let (delay, _) = read(&words::split(&format!("{huge} years {huge}h {huge}d"))).unwrap();
        assert_eq!((delay.months, delay.days), (u32::MAX, u32::MAX));
        assert!(delay.seconds > u64::from(u32::MAX));
    }
}
