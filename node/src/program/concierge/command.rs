//! What the concierge can be asked for, and the words it knows.
//!
//! [`parse`] makes a [`Command`] of any text, if only [`Command::Unknown`].

mod line;

pub(super) use line::parse;

use super::when::When;
use super::words;

/// What a message asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// Nothing but white space.
    Empty,
    Help,
    Hello,
    Thanks,
    Ping,
    WhoAmI,
    Status,
    /// A claim code that the node did not take for one; a valid code never gets here.
    Claim,
    /// Keeps a new item.
    Add(Shelf, String),
    /// Lists a page of items, counted from 1.
    List(Shelf, usize),
    /// Shows one item in full.
    Show(Shelf, u64),
    /// Removes an item.
    Remove(Shelf, u64, Removal),
    /// Sets a reminder.
    Remind {
        when: When,
        text: String,
    },
    /// A reminder without its time.
    RemindWhen,
    /// Shows the zone and the time in it.
    Zone,
    SetZone(String),
    /// What the account has.
    Balance,
    /// An invoice: how much, and what for.
    Invoice(String),
    /// A payment: an invoice, and how much where it does not say.
    Pay(String),
    /// A known word without what belongs to it.
    Incomplete(Topic),
    /// Anything else, with the known word it is close to.
    Unknown(Option<Topic>),
}

/// What is kept for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shelf {
    Notes,
    Goals,
    Reminders,
}

/// How an item ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    /// A goal was reached.
    Done,
    /// It is no longer wanted.
    Dropped,
}

/// What an example can be given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topic {
    Help,
    Note,
    Notes,
    Forget,
    Goal,
    Goals,
    Done,
    Drop,
    Remind,
    Reminders,
    Cancel,
    /// "delete 3" does not say of what.
    Delete,
    Show,
    Zone,
    WhoAmI,
    Ping,
    Status,
    Balance,
    Invoice,
    Pay,
}

/// The words a slip of the keyboard is compared with; of two that are equally close, the first is meant.
const KNOWN: [(&str, Topic); 22] = [
    ("help", Topic::Help),
    ("notes", Topic::Notes),
    ("note", Topic::Note),
    ("forget", Topic::Forget),
    ("goals", Topic::Goals),
    ("goal", Topic::Goal),
    ("done", Topic::Done),
    ("drop", Topic::Drop),
    ("remind", Topic::Remind),
    ("reminders", Topic::Reminders),
    ("reminder", Topic::Remind),
    ("cancel", Topic::Cancel),
    ("delete", Topic::Delete),
    ("remove", Topic::Delete),
    ("show", Topic::Show),
    ("timezone", Topic::Zone),
    ("whoami", Topic::WhoAmI),
    ("ping", Topic::Ping),
    ("status", Topic::Status),
    ("balance", Topic::Balance),
    ("invoice", Topic::Invoice),
    ("tz", Topic::Zone),
];

/// The known word that a slip of the keyboard is close to; a short word must be closer.
fn nearest(word: &str) -> Option<Topic> {
    let most = match word.chars().count() {
        0..=2 => return None,
        3..=4 => 1,
        _ => 2,
    };
    let near = |(known, topic): &(&str, Topic)| Some((words::distance(word, known, most)?, *topic));
    KNOWN.iter().filter_map(near).min_by_key(|(distance, _)| *distance).map(|(_, topic)| topic)
}

/// Whether a word is a known one.
fn is_known(word: &str) -> bool {
    KNOWN.iter().any(|(known, _)| *known == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_brought_to_the_nearest_word() {
        let cases = [
            ("nots", Some(Topic::Notes)),
            ("hepl", Some(Topic::Help)),
            ("remnid me in 5m to go", Some(Topic::Remind)),
            ("remindme", Some(Topic::Remind)),
            ("canel 3", Some(Topic::Cancel)),
            ("whoiam", Some(Topic::WhoAmI)),
            ("what is the weather", None),
            ("xy", None),
            ("🤷", None),
            ("!!!", None),
        ];
        for (text, nearest) in cases {
            assert_eq!(parse(text), Command::Unknown(nearest), "{text}");
        }
    }
}
