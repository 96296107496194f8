//! What the concierge says. All of its wording is here, short enough for the screen of a phone.

use std::fmt::Write as _;

use jiff::Zoned;
use jiff::civil::Weekday;
use oa_nips::files::Verb;

use super::alarm::Rhythm;
use super::command::{Removal, Shelf, Topic};
use super::person::{TEXT_CHARS_MAX, items_max};
use super::when::{self, AHEAD_YEARS_MAX, Days, Pattern, Weekdays};
use super::wish::Wish;
use super::words::cut;
use super::zone;

/// Characters of somebody's own unclear words that an answer repeats.
const QUOTE_CHARS: usize = 60;

/// Characters of a kept text that a confirmation repeats.
const ECHO_CHARS: usize = 200;

/// Characters of an item in a list.
const LINE_CHARS: usize = 100;

/// Items on one page of a list.
pub(super) const PAGE_ITEMS: usize = 20;

/// Lateness of a reminder that is worth a word, in seconds.
const LATE_S: i64 = 60;

const INTRODUCTION: &str = "I keep notes, goals and reminders for you.";

/// The commands that everybody has.
pub(super) fn help() -> String {
    format!(
        "{INTRODUCTION} Just write, for example:

note buy milk
notes, show 3, forget 3

goal learn Rust
goals, done 2, drop 2

remind me in 10m to stretch
remind me tomorrow at 9 to call Ann
remind me every weekday at 8:30 to plan
reminders, cancel 2

tz Europe/Prague (your time zone)
whoami, ping, help"
    )
}

/// The commands, with those that only the owner has.
pub(super) fn help_owner() -> String {
    format!("{}\n\nFor you as my owner: status, balance, invoice 500, pay lnbc…", help())
}

pub(super) fn hello() -> String {
    format!(
        "Hello! {INTRODUCTION} Try \"note buy milk\" or \"remind me in 10m to stretch\", or say \"help\"."
    )
}

pub(super) fn empty() -> String {
    format!("Your message was empty. {INTRODUCTION} Say \"help\" to see how.")
}

pub(super) fn thanks() -> String {
    "You are welcome!".to_owned()
}

pub(super) fn ping() -> String {
    "pong".to_owned()
}

pub(super) fn file() -> String {
    "I can only read text, so I did not open your file. Say \"help\" to see what I can do.".to_owned()
}

/// A claim by the owner has nothing left to do.
pub(super) fn claimed() -> String {
    "You are my owner. Say \"help\" to see what I can do for you.".to_owned()
}

/// A claim code got here, so the node did not accept it.
pub(super) fn claim_refused() -> String {
    "That claim code does not work: it is mistyped, used, or older than 10 minutes.".to_owned()
}

/// The node takes no claim from a legacy message, whatever its code.
pub(super) fn claim_unsealed() -> String {
    "A claim must come as a sealed message (NIP-17). Yours came by NIP-04, the old direct messages, which cannot \
     make you my owner: please send it from a client that writes NIP-17."
        .to_owned()
}

pub(super) fn not_owner() -> String {
    "Only my owner may see my status. Say \"ping\" to see that I am here.".to_owned()
}

pub(super) fn not_owners_wallet() -> String {
    "Only my owner may use my wallet. Say \"help\" to see what I can do for you.".to_owned()
}

/// Who the correspondent is to the agent.
pub(super) fn whoami(npub: &str, trust: &str, protocol: Option<&str>, now: &Zoned) -> String {
    let trust = match trust {
        "owner" => "You are my owner.",
        "allowed" => "I know you: you are on my list.",
        _ => "I do not know you yet, and that is fine.",
    };
    let protocol = match protocol {
        Some("nip17") => "We write by NIP-17 (private direct messages).",
        Some("nip04") => "We write by NIP-04 (the old direct messages).",
        Some(_) | None => "I cannot tell how this message travelled.",
    };
    format!("{npub}\n{trust}\n{protocol}\nYour time zone: {}", zone::label(now))
}

fn noun(shelf: Shelf) -> &'static str {
    match shelf {
        Shelf::Notes => "note",
        Shelf::Goals => "goal",
        Shelf::Reminders => "reminder",
    }
}

pub(super) fn added(shelf: Shelf, number: u64, text: &str) -> String {
    let text = cut(text, ECHO_CHARS);
    match shelf {
        Shelf::Goals => format!("Goal #{number} is set: {text}"),
        _ => format!("Noted as #{number}: {text}"),
    }
}

pub(super) fn removed(shelf: Shelf, number: u64, removal: Removal, text: &str) -> String {
    let text = cut(text, ECHO_CHARS);
    match (shelf, removal) {
        (Shelf::Goals, Removal::Done) => format!("Well done! Goal #{number} is reached: {text}"),
        (Shelf::Goals, Removal::Dropped) => format!("Dropped goal #{number}: {text}"),
        (Shelf::Reminders, _) => format!("Cancelled reminder #{number}: {text}"),
        (Shelf::Notes, _) => format!("Forgot note #{number}: {text}"),
    }
}

/// A change waits until somebody consents to it.
pub(super) fn asks_consent() -> String {
    "That needs consent. My node asks for it in a message of its own, and I will tell you what comes of it."
        .to_owned()
}

/// What became of a goal that waited for consent, and its text if it is there; nothing where nothing was wished.
pub(super) fn decided(number: u64, wish: &Wish, text: Option<&str>) -> Option<String> {
    Some(match (wish.verb, wish.is_done(), text) {
        (Verb::Write, true, Some(text)) => added(Shelf::Goals, number, text),
        (Verb::Write, false, _) => format!("Goal #{number} is not set: {}.", wish.why_not()),
        (Verb::Remove, true, _) => format!("Goal #{number} is off your list."),
        (Verb::Remove, false, _) => format!("Goal #{number} stays: {}.", wish.why_not()),
        _ => return None,
    })
}

pub(super) fn missing(shelf: Shelf, number: u64) -> String {
    let noun = noun(shelf);
    format!("You have no {noun} #{number}. Say \"{noun}s\" to see what you have.")
}

pub(super) fn full(shelf: Shelf) -> String {
    let (noun, max) = (noun(shelf), items_max(shelf));
    let remove = match shelf {
        Shelf::Notes => "forget",
        Shelf::Goals => "drop",
        Shelf::Reminders => "cancel",
    };
    format!(
        "You have {max} {noun}s, and I keep no more for one person. Say \"{noun}s\" to see them, and \"{remove}\" with the number of one that you no longer need."
    )
}

pub(super) fn too_long(shelf: Shelf, chars: usize) -> String {
    let noun = noun(shelf);
    format!(
        "That is too long: it has {chars} characters, and a {noun} can have {TEXT_CHARS_MAX}. Nothing was kept."
    )
}

/// One item in full, with when it was written.
pub(super) fn item(shelf: Shelf, number: u64, text: &str, written: Option<&Zoned>) -> String {
    let noun = noun(shelf);
    match written {
        Some(at) => format!("Your {noun} #{number} of {}:\n{text}", zone::instant(at)),
        None => format!("Your {noun} #{number}:\n{text}"),
    }
}

/// One reminder in full.
pub(super) fn reminder(number: u64, text: &str, rhythm: &Rhythm, due: Option<&Zoned>) -> String {
    format!("Your reminder #{number}, {}:\n{text}", rings(rhythm, due, "next on"))
}

/// One line of a list of notes or goals.
pub(super) fn line(number: u64, text: &str) -> String {
    format!("#{number} {}", cut(text, LINE_CHARS))
}

/// One line of the list of reminders.
pub(super) fn reminder_line(number: u64, text: &str, rhythm: &Rhythm, due: Option<&Zoned>) -> String {
    format!("#{number} {}: {}", rings(rhythm, due, "next on"), cut(text, LINE_CHARS))
}

/// A page of a list, from its lines; `page` counts from 1.
pub(super) fn list(shelf: Shelf, lines: &[String], page: usize, pages: usize) -> String {
    let noun = noun(shelf);
    if pages == 0 {
        return format!("You have no {noun}s. Try: {}", example(topic(shelf)));
    }
    if lines.is_empty() {
        return format!("Your {noun}s have only {pages} page{}.", if pages == 1 { "" } else { "s" });
    }
    let lines = lines.join("\n");
    if pages == 1 {
        return format!("Your {noun}s:\n{lines}");
    }
    let more = if page < pages { format!("\nMore: \"{noun}s {}\"", page + 1) } else { String::new() };
    format!("Your {noun}s, page {page} of {pages}:\n{lines}{more}")
}

/// The confirmation of a reminder, with its instant in full.
pub(super) fn reminding(number: u64, text: &str, rhythm: &Rhythm, first: &Zoned) -> String {
    let rings = rings(rhythm, Some(first), "first on");
    format!("OK, I will remind you {rings}: {} That is #{number}.", sentence(&cut(text, ECHO_CHARS)))
}

/// Goes with the first reminder of somebody who has not said where they are.
pub(super) const ZONE_HINT: &str =
    "I take your times as UTC. To set your time zone, say for example: tz Europe/Prague";

/// A reminder that rings.
pub(super) struct Ring<'a> {
    /// Its number, if the concierge set it.
    pub(super) number: Option<u64>,
    pub(super) text: &'a str,
    /// Set when it will ring again.
    pub(super) rhythm: Option<&'a Rhythm>,
    pub(super) due: Option<&'a Zoned>,
    /// How long ago it was due, in seconds.
    pub(super) late_s: i64,
    /// Earlier ones that were slept through.
    pub(super) missed: u64,
}

pub(super) fn ring(ring: &Ring<'_>) -> String {
    let mut text = match ring.number {
        Some(number) => format!("Reminder #{number}: {}", ring.text),
        None => format!("Reminder: {}", ring.text),
    };
    if let Some(due) = ring.due.filter(|_| ring.late_s >= LATE_S) {
        let _ = write!(text, "\nThis is late: it was due on {}.", zone::instant(due));
    }
    match ring.missed {
        0 => {}
        1 => text.push_str("\nI missed the one before it."),
        missed => {
            let _ = write!(text, "\nI missed {missed} before it.");
        }
    }
    if let (Some(rhythm), Some(number)) = (ring.rhythm, ring.number) {
        let _ = write!(text, "\nIt comes {}. To stop it: cancel {number}", rhythm_name(rhythm));
    }
    text
}

/// When it rings: once "on …", else the rhythm and the next or first instant.
fn rings(rhythm: &Rhythm, due: Option<&Zoned>, then: &str) -> String {
    let due = due.map(zone::instant);
    match (rhythm, due) {
        (Rhythm::Once, Some(due)) => format!("on {due}"),
        (Rhythm::Once, None) => "once".to_owned(),
        (rhythm, Some(due)) => format!("{}, {then} {due}", rhythm_name(rhythm)),
        (rhythm, None) => rhythm_name(rhythm),
    }
}

fn rhythm_name(rhythm: &Rhythm) -> String {
    match rhythm {
        Rhythm::Once => "once".to_owned(),
        Rhythm::Every(every_s) => period(*every_s),
        Rhythm::Calendar(pattern) => calendar(pattern),
        Rhythm::Cron(line) => format!("by \"{}\"", cut(line, QUOTE_CHARS)),
    }
}

/// A period in its largest whole unit: `every 2 hours`.
fn period(every_s: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(604_800, "week"), (86_400, "day"), (3_600, "hour"), (60, "minute")];
    let unit = UNITS.iter().find(|(unit_s, _)| every_s.is_multiple_of(*unit_s));
    let (unit_s, name) = unit.copied().unwrap_or((1, "second"));
    match every_s / unit_s {
        1 => format!("every {name}"),
        count => format!("every {count} {name}s"),
    }
}

fn calendar(pattern: &Pattern) -> String {
    let time = pattern.time.strftime("%H:%M");
    let days = match pattern.days {
        Days::Week(Weekdays::ALL) => "every day".to_owned(),
        Days::Week(Weekdays::WORKING) => "every weekday".to_owned(),
        Days::Week(days) => format!("every {}", joined(&days.iter().map(weekday).collect::<Vec<_>>())),
        Days::Month(day) => format!("every month on the {}", ordinal(day)),
        Days::Year { month, day } => format!("every year on {day} {}", month_name(month)),
    };
    format!("{days} at {time}")
}

fn weekday(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "Monday",
        Weekday::Tuesday => "Tuesday",
        Weekday::Wednesday => "Wednesday",
        Weekday::Thursday => "Thursday",
        Weekday::Friday => "Friday",
        Weekday::Saturday => "Saturday",
        Weekday::Sunday => "Sunday",
    }
}

fn joined(names: &[&str]) -> String {
    match names {
        [rest @ .., last] if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        names => names.concat(),
    }
}

fn ordinal(day: i8) -> String {
    let ending = match (day % 10, day / 10) {
        (_, 1) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{day}{ending}")
}

fn month_name(month: i8) -> &'static str {
    const NAMES: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    usize::try_from(month - 1).ok().and_then(|at| NAMES.get(at)).copied().unwrap_or_default()
}

/// Ends a text with a full stop, unless it ends like a sentence already.
fn sentence(text: &str) -> String {
    if text.ends_with(['.', '!', '?', '…']) { text.to_owned() } else { format!("{text}.") }
}

/// Why a reminder was not set.
pub(super) fn no_alarm(error: &when::Error, now: &Zoned) -> String {
    match error {
        when::Error::Impossible(said) => {
            format!(
                "I can make no time of \"{}\". {}",
                cut(said, QUOTE_CHARS),
                example_sentence(Topic::Remind)
            )
        }
        when::Error::Past(at) => {
            format!("{} has passed; it is now {}.", zone::instant(at), zone::instant(now))
        }
        when::Error::TooFar => {
            format!("That is too far away: I remember reminders for {AHEAD_YEARS_MAX} years at most.")
        }
        when::Error::TooOften => "That is too often: a reminder can come once a minute at most.".to_owned(),
    }
}

pub(super) fn when() -> String {
    format!("When should I remind you? {}", example_sentence(Topic::Remind))
}

pub(super) fn zone_is(now: &Zoned) -> String {
    format!("Your time zone is {}. It is now {}.", zone::name(now.time_zone()), zone::instant(now))
}

/// The zone of somebody who has set none.
pub(super) fn zone_unset(now: &Zoned) -> String {
    format!("{} To set yours, say for example: tz Europe/Prague", zone_is(now))
}

/// The zone was set. Reminders keep the instant, or the zone, that they were set for; `reminders` counts them.
pub(super) fn zone_set(now: &Zoned, reminders: usize) -> String {
    let kept = if reminders > 0 { " The reminders you have already keep their time." } else { "" };
    format!("Your time zone is now {}. It is {}.{kept}", zone::name(now.time_zone()), zone::instant(now))
}

pub(super) fn no_zone(said: &str, error: &zone::Error) -> String {
    let said = cut(said, QUOTE_CHARS);
    match error {
        zone::Error::Offset => format!(
            "\"{said}\" is an offset, which would be wrong after the clocks change. Name a city: tz Europe/Prague"
        ),
        zone::Error::Several(zones) => {
            format!("Several time zones are called \"{said}\": tz {}", zones.join(", tz "))
        }
        zone::Error::Unknown(near) if near.is_empty() => {
            format!("I know no time zone \"{said}\". Name it by continent and city: tz Europe/Prague")
        }
        zone::Error::Unknown(near) => {
            format!("I know no time zone \"{said}\". Did you mean: tz {}", near.join(", tz "))
        }
    }
}

/// A known word without what belongs to it.
pub(super) fn incomplete(topic: Topic) -> String {
    let question = match topic {
        Topic::Note => "What should I note?",
        Topic::Goal => "What is your goal?",
        Topic::Remind => "What should I remind you of?",
        Topic::Delete => "Which one?",
        Topic::Zone => "Which time zone?",
        Topic::Invoice => "For how much, in sat?",
        Topic::Pay => "What should I pay?",
        _ => "Which one? Tell me its number.",
    };
    format!("{question} {}", example_sentence(topic))
}

/// A message that was not understood: quoted, with the nearest known word or with what there is to say.
pub(super) fn unknown(text: &str, near: Option<Topic>) -> String {
    let quote = cut(text, QUOTE_CHARS);
    match near {
        Some(topic) => format!(
            "I did not understand \"{quote}\". Did you mean: {}\nSay \"help\" to see all I can do.",
            example(topic)
        ),
        None => format!(
            "I did not understand \"{quote}\". {INTRODUCTION} Try \"note buy milk\" or \"remind me in 10m to stretch\", or say \"help\"."
        ),
    }
}

fn example_sentence(topic: Topic) -> String {
    format!("For example: {}", example(topic))
}

fn topic(shelf: Shelf) -> Topic {
    match shelf {
        Shelf::Notes => Topic::Note,
        Shelf::Goals => Topic::Goal,
        Shelf::Reminders => Topic::Remind,
    }
}

fn example(topic: Topic) -> &'static str {
    match topic {
        Topic::Help => "help",
        Topic::Note => "note buy milk",
        Topic::Notes => "notes",
        Topic::Forget => "forget 3",
        Topic::Goal => "goal learn Rust",
        Topic::Goals => "goals",
        Topic::Done => "done 2",
        Topic::Drop => "drop 2",
        Topic::Remind => "remind me in 10m to stretch",
        Topic::Reminders => "reminders",
        Topic::Cancel => "cancel 2",
        Topic::Delete => "forget 3 (a note), drop 2 (a goal), cancel 2 (a reminder)",
        Topic::Show => "show 3 (a note), show goal 2, show reminder 2",
        Topic::Zone => "tz Europe/Prague",
        Topic::WhoAmI => "whoami",
        Topic::Ping => "ping",
        Topic::Status => "status",
        Topic::Balance => "balance",
        Topic::Invoice => "invoice 500 tea",
        Topic::Pay => "pay lnbc…",
    }
}
