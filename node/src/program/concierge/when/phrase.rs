//! Finds what somebody says about time in a sentence, and tells it from what to be reminded of.
//!
//! A phrase is any order of parts: a repetition, a length of time, a time of day, a part of the day, a day. It is
//! looked for at the beginning ("in 10m to stretch"), at the end ("to stretch in 10m"), at both ("tomorrow to
//! call Bob at 9"), and last in the middle ("to call Bob tomorrow about the invoice").

use super::super::words::{self, Word};
use super::When;
use super::clock::{self, Bare, Clock, Period};
use super::day::{self, Day};
use super::duration::{self, Delay};
use super::repeat::{self, Every};

/// Words at the end of a sentence in which a phrase may begin; the longest ones have about a dozen.
const TAIL_WORDS: usize = 16;

/// Words at the beginning of a sentence in which a phrase may stand between others.
const HEAD_WORDS: usize = 64;

/// What a sentence says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Found {
    /// A time and what it is for.
    Both { when: When, text: String },
    /// A time alone.
    NoText,
    /// What it is for, and no time.
    NoTime,
    /// Neither.
    Nothing,
}

/// Reads what follows "remind me".
pub(in super::super) fn find(sentence: &str) -> Found {
    let words = words::split(sentence);
    let words = trim(&words);
    if words.is_empty() {
        return Found::Nothing;
    }
    let found = match (at_front(sentence, words), at_end(sentence, words)) {
        // "today is Ann's birthday, in 10m": the end says it all, so the beginning was meant as text.
        (Some((front, _)), Some(end)) if !front.has_time() && front.every.is_none() && end.0.is_whole() => {
            Some(end)
        }
        (front, end) => front.or(end).or_else(|| between(sentence, words)),
    };
    match found.and_then(|(draft, text)| Some((draft.finish()?, text))) {
        Some((_, text)) if !text.chars().any(char::is_alphanumeric) && words::key(&text).is_empty() => {
            Found::NoText
        }
        Some((when, text)) => Found::Both { when, text },
        None => Found::NoTime,
    }
}

/// Drops what is said for politeness or grammar around the sentence.
fn trim(words: &[Word]) -> &[Word] {
    let polite = |word: &Word| matches!(word.key.as_str(), "" | "please" | "pls");
    let begin = words.iter().position(|word| !polite(word)).unwrap_or(words.len());
    let end = words.iter().rposition(|word| !polite(word)).map_or(begin, |last| last + 1);
    words.get(begin..end).unwrap_or_default()
}

fn at_front(sentence: &str, words: &[Word]) -> Option<(Draft, String)> {
    let skipped = usize::from(words.first()?.key == "for");
    let (mut draft, taken) = read(words.get(skipped..)?, Place::Front)?;
    let mut rest = without_glue(words.get(skipped + taken..)?);
    if !draft.is_whole() {
        let tail = rest.len().saturating_sub(TAIL_WORDS)..rest.len();
        for begin in tail {
            let ending = rest.get(begin..)?;
            match read(ending, Place::Inside) {
                Some((more, taken)) if taken == ending.len() && draft.takes(&more) => {
                    draft.merge(more);
                    rest = rest.get(..begin)?;
                    break;
                }
                _ => {}
            }
        }
    }
    Some((draft, slice(sentence, rest)))
}

fn at_end(sentence: &str, words: &[Word]) -> Option<(Draft, String)> {
    for begin in words.len().saturating_sub(TAIL_WORDS)..words.len() {
        let ending = words.get(begin..)?;
        match read(ending, Place::Inside) {
            Some((draft, taken)) if taken == ending.len() => {
                return Some((draft, slice(sentence, without_glue(words.get(..begin)?))));
            }
            _ => {}
        }
    }
    None
}

fn between(sentence: &str, words: &[Word]) -> Option<(Draft, String)> {
    for begin in 1..words.len().min(HEAD_WORDS) {
        if let Some((draft, taken)) = read(words.get(begin..)?, Place::Inside) {
            let before = slice(sentence, without_glue(words.get(..begin)?));
            let after = slice(sentence, words.get(begin + taken..)?);
            return Some((draft, format!("{before} {after}").trim().to_owned()));
        }
    }
    None
}

/// Drops the word that only joins the time to the rest, and the punctuation around it.
fn without_glue(words: &[Word]) -> &[Word] {
    let solid = |words: &[Word]| words.iter().take_while(|word| word.key.is_empty()).count();
    let words = words.get(solid(words)..).unwrap_or_default();
    match words.split_first() {
        Some((first, rest)) if matches!(first.key.as_str(), "to" | "that" | "about" | "of") => {
            rest.get(solid(rest)..).unwrap_or_default()
        }
        _ => words,
    }
}

/// The text from the first to the last of the words, as it was written.
fn slice(sentence: &str, words: &[Word]) -> String {
    let (Some(first), Some(last)) = (words.first(), words.last()) else { return String::new() };
    let text = sentence.get(first.start..last.end).unwrap_or_default();
    text.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, ',' | ':' | ';' | '-' | '–' | '—'))
        .to_owned()
}

/// Where a phrase is looked for; what is doubtful inside of a sentence is clear at its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Front,
    Inside,
}

/// A phrase as far as it has been read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Draft {
    every: Option<Every>,
    delay: Option<Delay>,
    day: Option<Day>,
    period: Option<Period>,
    clock: Option<Clock>,
}

impl Draft {
    /// Whether no part is missing that could stand elsewhere in the sentence.
    fn is_whole(&self) -> bool {
        self.has_day() && self.has_time()
    }

    fn has_day(&self) -> bool {
        self.every.is_some() || self.delay.is_some() || self.day.is_some()
    }

    fn has_time(&self) -> bool {
        self.clock.is_some() || self.period.is_some() || self.delay.is_some_and(|delay| !delay.is_calendar())
    }

    /// Whether the other has exactly what this one lacks.
    fn takes(&self, other: &Draft) -> bool {
        let lengths = self.delay.is_some() || other.delay.is_some();
        !lengths && self.has_day() != other.has_day() && self.has_time() != other.has_time()
    }

    fn merge(&mut self, other: Draft) {
        self.every = self.every.take().or(other.every);
        self.day = self.day.take().or(other.day);
        self.period = self.period.or(other.period);
        self.clock = self.clock.take().or(other.clock);
    }

    /// Whether a day can go with what has been said: "every week on Monday", but not "in 2 hours on Monday".
    fn takes_day(&self) -> bool {
        let every = !matches!(self.every, Some(Every::On(_) | Every::Seconds(_) | Every::Impossible(_)));
        every && self.delay.is_none() && self.day.is_none()
    }

    fn takes_every(&self) -> bool {
        self.every.is_none() && self.delay.is_none() && self.day.is_none()
    }

    /// Reads one more part, and says how many words it took; zero when there is none.
    fn part(&mut self, words: &[Word], place: Place) -> usize {
        let bare = if self.has_day() { Bare::AfterDay } else { Bare::Refused };
        if self.takes_every()
            && let Some((said, taken)) = repeat::read(words)
        {
            (self.every, self.day) = (Some(said.every), said.day);
            self.period = self.period.or(said.period);
            return taken;
        }
        if !self.has_day()
            && let Some((delay, taken)) = length(words, place, self)
        {
            self.delay = Some(delay);
            return taken;
        }
        let lacks_clock = self.clock.is_none() && (self.period.is_some() || !self.has_time());
        if lacks_clock && let Some((clock, taken)) = clock::read(words, bare) {
            self.clock = Some(clock);
            return taken;
        }
        if self.period.is_none()
            && self.delay.is_none_or(Delay::is_calendar)
            && let Some((period, day, taken)) = part_of_day(words, bare)
            && (day.is_none() || self.takes_day())
        {
            self.period = Some(period);
            self.day = self.day.take().or(day);
            return taken;
        }
        if self.takes_day()
            && let Some((day, taken)) = day::read(words)
        {
            self.day = Some(day);
            return taken;
        }
        0
    }

    fn finish(self) -> Option<When> {
        let time = match (self.clock, self.period) {
            (Some(Clock::Impossible(said)), _) => return Some(When::Impossible(said)),
            (Some(Clock::At { time, open: true }), Some(period)) => Some(period.of(time)),
            (Some(Clock::At { time, .. }), _) => Some(time),
            (None, period) => period.map(Period::usual),
        };
        match (self.every, self.delay, self.day) {
            (_, _, Some(Day::Impossible(said))) | (Some(Every::Impossible(said)), ..) => {
                Some(When::Impossible(said))
            }
            (Some(every), _, day) => Some(When::Every { every, day, time }),
            (None, Some(delay), _) => Some(When::In { delay, time }),
            (None, None, None) if time.is_none() => None,
            (None, None, day) => Some(When::At { day, time }),
        }
    }
}

/// "in 10m", "after an hour", "10 minutes from now"; at the beginning also "10m" and "10 minutes to".
fn length(words: &[Word], place: Place, draft: &Draft) -> Option<(Delay, usize)> {
    let first = words.first()?.key.as_str();
    let prefix = usize::from(matches!(first, "in" | "after"));
    let (delay, taken) = match (prefix, first, words.get(1).map(|word| word.key.as_str())) {
        (0, "next", Some("month")) => return Some((Delay { months: 1, ..Delay::default() }, 2)),
        (0, "next", Some("year")) => return Some((Delay { months: 12, ..Delay::default() }, 2)),
        _ => duration::read(words.get(prefix..)?)?,
    };
    if draft.has_time() && !delay.is_calendar() {
        return None;
    }
    let key = |at: usize| words.get(prefix + taken + at).map_or("", |word| word.key.as_str());
    if prefix == 1 {
        return Some((delay, prefix + taken));
    }
    if key(0) == "from" && key(1) == "now" {
        return Some((delay, taken + 2));
    }
    let terse = taken == 1 || matches!(key(0), "" | "to" | "that" | "about");
    (place == Place::Front && terse).then_some((delay, taken))
}

/// A part of the day with the day it implies: "tonight", "this evening".
fn part_of_day(words: &[Word], bare: Bare) -> Option<(Period, Option<Day>, usize)> {
    match words.first()?.key.as_str() {
        "tonight" => Some((Period::Night, Some(Day::Today), 1)),
        "this" => {
            let (period, taken) = clock::period(words.get(1..)?, Bare::AfterDay)?;
            (taken == 1).then_some((period, Some(Day::Today), 2))
        }
        _ => clock::period(words, bare).map(|(period, taken)| (period, None, taken)),
    }
}

/// Reads a phrase at the beginning of `words`, and says how many of them it took.
fn read(words: &[Word], place: Place) -> Option<(Draft, usize)> {
    let mut draft = Draft::default();
    let mut taken = 0;
    loop {
        let rest = words.get(taken..).unwrap_or_default();
        let here = draft.part(rest, place);
        let glue = rest
            .first()
            .is_some_and(|word| matches!(word.key.as_str(), "" | "and" | "starting" | "beginning"));
        let behind = if here == 0 && taken > 0 && glue {
            draft.part(rest.get(1..).unwrap_or_default(), place)
        } else {
            0
        };
        match (here, behind) {
            (0, 0) => break,
            (0, behind) => taken += 1 + behind,
            (here, _) => taken += here,
        }
    }
    (taken > 0).then_some((draft, taken))
}

#[cfg(test)]
mod tests {
    use super::super::day::Weekdays;
    use super::*;
    use jiff::civil::{Time, Weekday, date};

    fn at(day: Option<Day>, hour: i8, minute: i8) -> When {
        When::At { day, time: Some(Time::constant(hour, minute, 0, 0)) }
    }

    fn in_s(seconds: u64) -> When {
        When::In { delay: Delay { seconds, ..Delay::default() }, time: None }
    }

    fn every(every: Every, hour: i8, minute: i8) -> When {
        When::Every { every, day: None, time: Some(Time::constant(hour, minute, 0, 0)) }
    }

    #[test]
    fn the_time_stands_before_or_behind_or_around_what_it_is_for() {
        let friday = Some(Day::Weekday(Weekday::Friday));
        let monday = Every::On(Weekdays::only(Weekday::Monday));
        let cases = [
            ("in 10m to stretch", in_s(600), "stretch"),
            ("to stretch in 10m", in_s(600), "stretch"),
            ("stretch in 10 minutes.", in_s(600), "stretch"),
            ("10m stretch", in_s(600), "stretch"),
            ("10 minutes to stretch", in_s(600), "stretch"),
            ("to stretch 10 minutes from now", in_s(600), "stretch"),
            ("in 1h30m: Check the Oven!", in_s(5_400), "Check the Oven!"),
            ("in 2 hours and 15 minutes that it is late", in_s(8_100), "it is late"),
            ("in half an hour, please, tea", in_s(1_800), "please, tea"),
            ("to drink tea in an hour please", in_s(3_600), "drink tea"),
            ("at 17:00 to call Ann", at(None, 17, 0), "call Ann"),
            ("at 5pm call Ann", at(None, 17, 0), "call Ann"),
            ("at 5 p.m. - call Ann", at(None, 17, 0), "call Ann"),
            ("call Ann, at 5pm", at(None, 17, 0), "call Ann"),
            ("tomorrow at 9 to call Ann", at(Some(Day::After(1)), 9, 0), "call Ann"),
            ("tomorrow 9 to call Ann", at(Some(Day::After(1)), 9, 0), "call Ann"),
            ("at 9 tomorrow to call Ann", at(Some(Day::After(1)), 9, 0), "call Ann"),
            ("tomorrow to call Ann at 9", at(Some(Day::After(1)), 9, 0), "call Ann"),
            ("at 9 to call Ann tomorrow", at(Some(Day::After(1)), 9, 0), "call Ann"),
            (
                "call Ann tomorrow about the invoice",
                When::At { day: Some(Day::After(1)), time: None },
                "call Ann about the invoice",
            ),
            ("on 2026-12-24 at 18:00 dinner", at(Some(Day::Date(date(2026, 12, 24))), 18, 0), "dinner"),
            ("dinner on December 24, 2026 at 6pm", at(Some(Day::Date(date(2026, 12, 24))), 18, 0), "dinner"),
            ("on Friday at 9 bins out", at(friday.clone(), 9, 0), "bins out"),
            ("for Friday at 9: bins out", at(friday.clone(), 9, 0), "bins out"),
            ("bins out friday 9am", at(friday.clone(), 9, 0), "bins out"),
            ("bins out on Friday evening", at(friday, 19, 0), "bins out"),
            ("tonight at 8 to read", at(Some(Day::Today), 20, 0), "read"),
            ("this evening to read", at(Some(Day::Today), 19, 0), "read"),
            ("at 8 in the evening to read", at(None, 20, 0), "read"),
            (
                "tomorrow to plan on Friday",
                When::At { day: Some(Day::After(1)), time: None },
                "plan on Friday",
            ),
            ("today is Ann's birthday in 10m", in_s(600), "today is Ann's birthday"),
            ("every day at 9 to drink water", every(Every::On(Weekdays::ALL), 9, 0), "drink water"),
            ("to drink water every day at 9", every(Every::On(Weekdays::ALL), 9, 0), "drink water"),
            ("at 9 every day drink water", every(Every::On(Weekdays::ALL), 9, 0), "drink water"),
            ("every day to drink water at 9", every(Every::On(Weekdays::ALL), 9, 0), "drink water"),
            ("every weekday at 8:30 stand-up", every(Every::On(Weekdays::WORKING), 8, 30), "stand-up"),
            ("every Monday at 9, report", every(monday, 9, 0), "report"),
            ("every evening to read", every(Every::On(Weekdays::ALL), 19, 0), "read"),
            (
                "every 2 hours to stretch",
                When::Every { every: Every::Seconds(7_200), day: None, time: None },
                "stretch",
            ),
            ("every 2 hours starting at 9 to stretch", every(Every::Seconds(7_200), 9, 0), "stretch"),
            (
                "in 3 days at 9 to pay",
                When::In {
                    delay: Delay { days: 3, ..Delay::default() },
                    time: Some(Time::constant(9, 0, 0, 0)),
                },
                "pay",
            ),
            ("to meet at the bar at 9", at(None, 9, 0), "meet at the bar"),
            ("to buy 3 tickets in 2 parts in 10m", in_s(600), "buy 3 tickets in 2 parts"),
            ("at 25:00 to sleep", When::Impossible("25:00".to_owned()), "sleep"),
            ("in 10m 🎂", in_s(600), "🎂"),
            ("v 10m něco in 10m", in_s(600), "v 10m něco"),
            ("in 10m to: first\nsecond line", in_s(600), "first\nsecond line"),
        ];
        for (sentence, when, text) in cases {
            assert_eq!(find(sentence), Found::Both { when, text: text.to_owned() }, "{sentence}");
        }
    }

    #[test]
    fn a_missing_half_is_told() {
        for sentence in ["in 10m", "tomorrow at 9", "every day", "at 17:00 to", "in 10m please!", "in 10m -"]
        {
            assert_eq!(find(sentence), Found::NoText, "{sentence}");
        }
        for sentence in
            ["to stretch", "stretch", "that the sun is out", "to sit in 2 chairs", "10", "every", "🎂"]
        {
            assert_eq!(find(sentence), Found::NoTime, "{sentence}");
        }
        for sentence in ["", "  ", "please", "...", " - "] {
            assert_eq!(find(sentence), Found::Nothing, "{sentence}");
        }
    }

    #[test]
    fn a_long_sentence_is_read_to_its_end() {
        let long = "blah ".repeat(2_000);
        let Found::Both { when, text } = find(&format!("to {long} in 10m")) else { panic!("not found") };
        assert_eq!((when, text.len()), (in_s(600), long.trim_end().len()));
        assert_eq!(find(&"at ".repeat(4_000)), Found::NoTime);
    }
}
