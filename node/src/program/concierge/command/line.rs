//! The language of the concierge: from the text of a message to a [`Command`].
//!
//! Parsing is pure and total. Case, punctuation, a leading slash, a greeting or a "please" in front do not matter.

use super::super::when::{self, Found};
use super::super::words::{self, Word};
use super::{Command, Removal, Shelf, Topic, is_known, nearest};

/// Words that open a conversation.
const GREETINGS: [&str; 12] =
    ["hi", "hello", "hey", "hallo", "hola", "ahoj", "yo", "hiya", "howdy", "greetings", "gm", "moin"];

/// A text after a greeting that is at most so long is a part of the greeting: "hello there, my friend".
const GREETING_WORDS: usize = 4;

/// Reads a message.
pub(in super::super) fn parse(text: &str) -> Command {
    let text = text.trim();
    let words = words::split(text);
    let (greeted, begin) = preamble(&words);
    let Some(head) = words.get(begin) else {
        return if text.is_empty() {
            Command::Empty
        } else if greeted {
            Command::Hello
        } else {
            lonely(text)
        };
    };
    let line = Line { text, words: &words, begin };
    match line.command(head) {
        Command::Unknown(_) if greeted && words.len() - begin <= GREETING_WORDS => Command::Hello,
        command => command,
    }
}

/// Counts the words said before the matter, and tells whether a greeting is among them.
fn preamble(words: &[Word]) -> (bool, usize) {
    let mut greeted = false;
    let polite = |key: &str| matches!(key, "" | "please" | "pls" | "concierge");
    let begin = words.iter().position(|word| {
        let greeting = GREETINGS.contains(&word.key.as_str());
        greeted |= greeting;
        !greeting && !polite(&word.key)
    });
    let begin = begin.unwrap_or(words.len());
    let ask: Vec<&str> = words.iter().skip(begin).take(2).map(|word| word.key.as_str()).collect();
    let asked = matches!(ask.as_slice(), ["can" | "could" | "would" | "will", "you"]);
    let please = |at: usize| words.get(at).is_some_and(|word| matches!(word.key.as_str(), "please" | "pls"));
    match asked {
        true => (greeted, begin + 2 + usize::from(please(begin + 2))),
        false => (greeted, begin),
    }
}

/// A text of punctuation alone.
fn lonely(text: &str) -> Command {
    if text.chars().all(|c| c == '?' || c.is_whitespace()) { Command::Help } else { Command::Unknown(None) }
}

/// A message from its first word that matters.
struct Line<'a> {
    text: &'a str,
    words: &'a [Word],
    begin: usize,
}

impl<'a> Line<'a> {
    fn command(&self, head: &Word) -> Command {
        let (verb, rest) = self.verb(head);
        let second = self.key(1);
        match (verb.as_str(), second) {
            ("help" | "commands" | "menu" | "start" | "usage" | "man", _) => Command::Help,
            ("what", "can") if self.key(2) == "you" => Command::Help,
            ("good", "morning" | "afternoon" | "evening" | "day") => Command::Hello,
            ("thanks" | "thx" | "ty" | "cheers", _) | ("thank", "you") => Command::Thanks,
            ("ping", _) if blank(rest) => Command::Ping,
            ("whoami", _) => Command::WhoAmI,
            ("who", "am") if self.key(2) == "i" => Command::WhoAmI,
            ("status", _) if blank(rest) => Command::Status,
            ("claim", _) => Command::Claim,
            ("balance" | "wallet", _) if blank(rest) => Command::Balance,
            ("invoice", _) => money(rest, Command::Invoice, Topic::Invoice),
            ("pay", _) => money(rest, Command::Pay, Topic::Pay),
            ("new" | "add" | "create" | "set" | "make", _) if self.made().is_some() => {
                self.made().unwrap_or(Command::Unknown(None))
            }
            ("note", _) => add(Shelf::Notes, rest, Topic::Note),
            ("goal", _) => add(Shelf::Goals, rest, Topic::Goal),
            ("remember", _) => remember(rest),
            ("remind", "me") => remind(self.after(2)),
            ("remind" | "reminder", _) => remind(rest),
            ("notes" | "goals" | "reminders" | "alarms", _) => self.list(&verb, 1),
            ("list" | "my" | "see", "notes" | "goals" | "reminders" | "alarms") => self.list(second, 2),
            ("show" | "list" | "my", "my") => self.list(self.key(2), 3),
            ("show" | "read", "notes" | "goals" | "reminders" | "alarms") if self.key(2).is_empty() => {
                self.list(second, 2)
            }
            ("show" | "read", _) => self.numbered(&verb, Topic::Show),
            ("forget", _) => self.numbered(&verb, Topic::Forget),
            ("done" | "finish" | "finished" | "complete" | "completed", _) => {
                self.numbered(&verb, Topic::Done)
            }
            ("drop", _) => self.numbered(&verb, Topic::Drop),
            ("cancel" | "stop", _) => self.numbered(&verb, Topic::Cancel),
            ("delete" | "remove" | "rm" | "del", _) => self.numbered(&verb, Topic::Delete),
            ("tz" | "timezone" | "zone", _) => zone(rest),
            ("time", "zone") => zone(self.after(2)),
            ("time" | "date" | "now", _) if blank(rest) => Command::Zone,
            ("what", "time") => Command::Zone,
            ("my", "timezone" | "tz" | "zone") => zone(self.after(if self.key(2) == "is" { 3 } else { 2 })),
            (verb, _) => Command::Unknown(nearest(verb)),
        }
    }

    /// The first word and what follows it. "note:buy milk" is a note too, for people in a hurry.
    fn verb(&self, head: &Word) -> (String, &'a str) {
        let raw = self.text.get(head.start..).unwrap_or_default();
        if let Some((verb, rest)) = raw.split_once(':')
            && verb.len() < head.end - head.start
            && is_known(&words::key(verb))
        {
            return (words::key(verb), rest.trim());
        }
        (head.key.clone(), self.after(1))
    }

    fn key(&self, at: usize) -> &'a str {
        self.words.get(self.begin + at).map_or("", |word| word.key.as_str())
    }

    /// The text behind the first `count` words.
    fn after(&self, count: usize) -> &'a str {
        let end = self.words.get(self.begin + count - 1).map_or(self.text.len(), |word| word.end);
        self.text.get(end..).unwrap_or_default().trim()
    }

    /// "add note …", "set a reminder …".
    fn made(&self) -> Option<Command> {
        let article = usize::from(matches!(self.key(1), "a" | "an" | "my" | "the"));
        let rest = self.after(2 + article);
        Some(match self.key(1 + article) {
            "note" => add(Shelf::Notes, rest, Topic::Note),
            "goal" => add(Shelf::Goals, rest, Topic::Goal),
            "reminder" => remind(rest),
            "tz" | "timezone" | "zone" => zone(rest.strip_prefix("to ").unwrap_or(rest)),
            _ => return None,
        })
    }

    /// A list; the page may follow at `at`.
    fn list(&self, name: &str, at: usize) -> Command {
        let (shelf, topic) = match name {
            "notes" => (Shelf::Notes, Topic::Note),
            "goals" => (Shelf::Goals, Topic::Goal),
            "reminders" | "alarms" => (Shelf::Reminders, Topic::Remind),
            _ => return Command::Unknown(nearest(name)),
        };
        let at = at + usize::from(self.key(at) == "page");
        match (self.key(at), self.key(at + 1)) {
            ("" | "please" | "all", _) => Command::List(shelf, 1),
            (page, "") => match page.parse() {
                Ok(page) if page > 0 => Command::List(shelf, page),
                _ => Command::Incomplete(topic),
            },
            _ => Command::Incomplete(topic),
        }
    }

    /// A verb with the number of an item, and maybe the name of what it is one of: "forget note #3".
    fn numbered(&self, verb: &str, topic: Topic) -> Command {
        let named = match self.key(1) {
            "note" | "notes" => Some(Shelf::Notes),
            "goal" | "goals" => Some(Shelf::Goals),
            "reminder" | "reminders" | "alarm" | "alarms" => Some(Shelf::Reminders),
            _ => None,
        };
        let mut at = 1 + usize::from(named.is_some());
        at += usize::from(matches!(self.key(at), "number" | "no" | "nr"));
        let alone = matches!(self.key(at + 1), "" | "please" | "pls");
        let Some(number) = self.key(at).parse().ok().filter(|_| alone) else {
            return Command::Incomplete(topic);
        };
        let usual = match topic {
            Topic::Forget | Topic::Show => Some(Shelf::Notes),
            Topic::Done | Topic::Drop => Some(Shelf::Goals),
            Topic::Cancel => Some(Shelf::Reminders),
            _ => None,
        };
        match (named.or(usual), verb) {
            (None, _) => Command::Incomplete(topic),
            (Some(shelf), "show" | "read") => Command::Show(shelf, number),
            (Some(Shelf::Goals), _) if topic == Topic::Done => {
                Command::Remove(Shelf::Goals, number, Removal::Done)
            }
            (Some(shelf), _) => Command::Remove(shelf, number, Removal::Dropped),
        }
    }
}

/// Whether nothing is said in a text.
fn blank(text: &str) -> bool {
    words::split(text).iter().all(|word| matches!(word.key.as_str(), "" | "please" | "pls"))
}

fn add(shelf: Shelf, rest: &str, topic: Topic) -> Command {
    let text = rest.trim_start_matches([':', ',']).trim();
    // An emoji is worth noting; a lone dash is not.
    if blank(text) { Command::Incomplete(topic) } else { Command::Add(shelf, text.to_owned()) }
}

fn money(rest: &str, command: fn(String) -> Command, topic: Topic) -> Command {
    let rest = rest.trim_start_matches([':', ',']).trim();
    if blank(rest) { Command::Incomplete(topic) } else { command(rest.to_owned()) }
}

fn remind(rest: &str) -> Command {
    match when::find(rest) {
        Found::Both { when, text } => Command::Remind { when, text },
        Found::NoTime => Command::RemindWhen,
        Found::NoText | Found::Nothing => Command::Incomplete(Topic::Remind),
    }
}

/// "remember …" is a reminder if it says when, and else a note.
fn remember(rest: &str) -> Command {
    match when::find(rest) {
        Found::Both { when, text } => Command::Remind { when, text },
        _ => add(Shelf::Notes, rest, Topic::Note),
    }
}

fn zone(rest: &str) -> Command {
    let name = rest.trim_matches(|c: char| c.is_whitespace() || matches!(c, ':' | '?' | '!' | '=' | ','));
    if name.is_empty() { Command::Zone } else { Command::SetZone(name.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::concierge::zone;
    use proptest::prelude::*;

    fn add(shelf: Shelf, text: &str) -> Command {
        Command::Add(shelf, text.to_owned())
    }

    #[test]
    fn plain_words_are_understood_however_they_are_written() {
        let cases: [(&[&str], Command); 11] = [
            (&["", "   ", "\n\t"], Command::Empty),
            (
                &[
                    "help",
                    "HELP",
                    "Help!",
                    "/help",
                    "help me please",
                    "?",
                    "??",
                    "what can you do?",
                    "/start",
                ],
                Command::Help,
            ),
            (
                &["hi", "Hello!", "hey there", "hello concierge :)", "Hi, my friend!", "good morning", "gm"],
                Command::Hello,
            ),
            (&["thanks", "Thank you!", "thx"], Command::Thanks),
            (&["ping", "Ping!", "/ping", "hey, ping"], Command::Ping),
            (&["whoami", "who am I?", "Whoami"], Command::WhoAmI),
            (&["status", "Status?", "/status", "please status"], Command::Status),
            (&["claim ABCDEF", "CLAIM x"], Command::Claim),
            (
                &["notes", "Notes.", "list notes", "my notes", "show my notes", "show notes", "notes please"],
                Command::List(Shelf::Notes, 1),
            ),
            (&["tz", "timezone", "time zone?", "what time is it", "time"], Command::Zone),
            (&["reminders", "list reminders", "alarms"], Command::List(Shelf::Reminders, 1)),
        ];
        for (texts, expected) in cases {
            for text in texts {
                assert_eq!(parse(text), expected, "{text}");
            }
        }
    }

    #[test]
    fn what_is_kept_is_kept_as_it_was_written() {
        let cases = [
            ("note buy milk", add(Shelf::Notes, "buy milk")),
            ("Note: Buy MILK!", add(Shelf::Notes, "Buy MILK!")),
            ("note:buy milk: two", add(Shelf::Notes, "buy milk: two")),
            ("/note buy\nmilk", add(Shelf::Notes, "buy\nmilk")),
            ("please note that it is -5 °C", add(Shelf::Notes, "that it is -5 °C")),
            ("add a note buy milk", add(Shelf::Notes, "buy milk")),
            ("note - milk\n- eggs", add(Shelf::Notes, "- milk\n- eggs")),
            ("note 🥛", add(Shelf::Notes, "🥛")),
            ("note 3", add(Shelf::Notes, "3")),
            ("note koupit mléko a žemle", add(Shelf::Notes, "koupit mléko a žemle")),
            ("remember the milk", add(Shelf::Notes, "the milk")),
            ("goal learn Rust", add(Shelf::Goals, "learn Rust")),
            ("New goal: learn Rust", add(Shelf::Goals, "learn Rust")),
            ("hello, note buy milk", add(Shelf::Notes, "buy milk")),
            ("Could you please note buy milk", add(Shelf::Notes, "buy milk")),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn items_are_named_by_their_number() {
        use Removal::{Done, Dropped};
        let cases = [
            ("forget 3", Command::Remove(Shelf::Notes, 3, Dropped)),
            ("Forget note #3.", Command::Remove(Shelf::Notes, 3, Dropped)),
            ("forget reminder 2", Command::Remove(Shelf::Reminders, 2, Dropped)),
            ("delete note 3", Command::Remove(Shelf::Notes, 3, Dropped)),
            ("remove goal no. 3", Command::Remove(Shelf::Goals, 3, Dropped)),
            ("done 2", Command::Remove(Shelf::Goals, 2, Done)),
            ("done goal 2!", Command::Remove(Shelf::Goals, 2, Done)),
            ("finished 2", Command::Remove(Shelf::Goals, 2, Done)),
            ("drop goal 2", Command::Remove(Shelf::Goals, 2, Dropped)),
            ("cancel 2", Command::Remove(Shelf::Reminders, 2, Dropped)),
            ("cancel reminder #2 please", Command::Remove(Shelf::Reminders, 2, Dropped)),
            ("stop 4", Command::Remove(Shelf::Reminders, 4, Dropped)),
            ("show 3", Command::Show(Shelf::Notes, 3)),
            ("show goal 3", Command::Show(Shelf::Goals, 3)),
            ("notes 2", Command::List(Shelf::Notes, 2)),
            ("goals page 3", Command::List(Shelf::Goals, 3)),
            ("forget", Command::Incomplete(Topic::Forget)),
            ("forget it", Command::Incomplete(Topic::Forget)),
            ("forget 3 4", Command::Incomplete(Topic::Forget)),
            ("forget -3", Command::Incomplete(Topic::Forget)),
            ("forget 99999999999999999999999", Command::Incomplete(Topic::Forget)),
            ("delete 3", Command::Incomplete(Topic::Delete)),
            ("notes buy milk", Command::Incomplete(Topic::Note)),
            ("notes 0", Command::Incomplete(Topic::Note)),
            ("note", Command::Incomplete(Topic::Note)),
            ("goal ...", Command::Incomplete(Topic::Goal)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn reminders_and_zones_are_handed_on() {
        for text in [
            "remind me in 10m to stretch",
            "Remind me to stretch in 10m",
            "remind stretch in 10 minutes",
            "please remind me in 10m to stretch",
            "reminder in 10m: stretch",
            "set a reminder in 10m to stretch",
            "remember to stretch in 10m",
            "Hey, could you remind me to stretch in 10m please?",
        ] {
            assert!(matches!(parse(text), Command::Remind { text, .. } if text == "stretch"), "{text}");
        }
        assert_eq!(parse("remind me to stretch"), Command::RemindWhen);
        for text in ["remind", "remind me", "remind me tomorrow at 9"] {
            assert_eq!(parse(text), Command::Incomplete(Topic::Remind), "{text}");
        }
        for text in [
            "tz Europe/Prague",
            "Timezone: Europe/Prague",
            "set tz Europe/Prague",
            "my timezone is Europe/Prague",
            "set my timezone to Europe/Prague",
        ] {
            assert_eq!(parse(text), Command::SetZone("Europe/Prague".to_owned()), "{text}");
        }
    }

    #[test]
    fn long_texts_are_read_to_their_end() {
        let long = "word ".repeat(2_000);
        assert_eq!(parse(&long), Command::Unknown(None));
        assert_eq!(parse(&format!("note {long}")), add(Shelf::Notes, long.trim()));
        assert!(matches!(parse(&format!("remind me in 10m to {long}")), Command::Remind { .. }));
        assert_eq!(parse(&"x".repeat(10_240)), Command::Unknown(None));
    }

    /// Texts that are likely to get far into the parser.
    fn likely() -> impl Strategy<Value = String> {
        let word = prop::sample::select(vec![
            "remind",
            "me",
            "to",
            "in",
            "at",
            "on",
            "every",
            "other",
            "tomorrow",
            "friday",
            "10m",
            "1h30m",
            "half",
            "an",
            "hour",
            "and",
            "a",
            "17:00",
            "5pm",
            "p.m.",
            "99:99",
            "2026-12-24",
            "29",
            "february",
            "the",
            "31st",
            "of",
            "month",
            "99999999999999999999",
            "years",
            "week",
            "evening",
            "note",
            "forget",
            "#3",
            "tz",
            "prague",
            "é",
            "🥛",
            "-",
            ":",
            "''",
            "0",
            "weekday",
            "mon,wed",
            "next",
            "from",
            "now",
            "starting",
            "please",
            "١٢",
            "½",
            "hi",
        ]);
        prop::collection::vec(word, 0..14).prop_map(|words| words.join(" "))
    }

    proptest! {
        #[test]
        fn parse_never_panics(text in "\\PC{0,200}", likely in likely(), at in -60_000_000_000_i64..250_000_000_000) {
            let _ = parse(&text);
            let zone = zone::named("Europe/Prague").unwrap();
            if let (Command::Remind { when, .. }, Some(now)) = (parse(&format!("remind me {likely}")), zone::at_unix_s(at, &zone))
                && let Ok(alarm) = when.resolve(&now)
            {
                prop_assert!(alarm.first > now);
            }
        }
    }
}
