//! What the concierge keeps of one correspondent, and where.
//!
//! `/memory/people/<npub>.json` holds the zone and, for each shelf, the next number and the numbers in use; it is
//! small however much somebody keeps, and a number is never given twice. The items are files of their own:
//!
//! | shelf | file | content |
//! |---|---|---|
//! | notes | `/memory/notes/<npub>/<n>.json` | [`Item`] |
//! | goals | `/goals/<key>-<n>.json` | [`Item`] |
//! | reminders | `/schedule/<key>-<n>.json` | an alarm |
//!
//! Goals lie there for everybody, not only for the owner, so that claiming the agent moves nobody's goals. `<key>`
//! is the beginning of the npub's data, long enough that no second key with it can be made.

use serde::{Deserialize, Serialize};

use super::command::Shelf;

/// The only version of the file so far.
const VERSION: u32 = 1;

/// Characters of an npub's data that tell people apart in a file name: 130 bits.
const KEY_CHARS: usize = 26;

/// Characters of an npub.
const NPUB_CHARS: usize = 63;

/// Notes kept for one person.
pub(super) const NOTES_MAX: usize = 500;

/// Goals kept for one person.
pub(super) const GOALS_MAX: usize = 100;

/// Reminders kept for one person; each is an alarm of the node.
pub(super) const REMINDERS_MAX: usize = 100;

/// Characters of one note, goal or reminder.
pub(super) const TEXT_CHARS_MAX: usize = 2_000;

/// Why a person's file cannot be used. It is left as it is, for somebody to mend.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("is not what the concierge wrote")]
    Format(#[from] serde_json::Error),
    #[error("has version {0}, this program knows version {VERSION}")]
    Version(u32),
    #[error("holds the number {0} twice, or one not given yet")]
    Number(u64),
    #[error("names the time zone {0:?}, which this program does not know")]
    Zone(String),
}

/// A correspondent by address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    npub: String,
}

impl Peer {
    /// Takes an npub that can stand in a path; `None` for anything else.
    pub(super) fn new(npub: &str) -> Option<Peer> {
        let data = npub.strip_prefix("npub1")?;
        let plain = data.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        (npub.len() == NPUB_CHARS && plain).then(|| Peer { npub: npub.to_owned() })
    }

    pub(super) fn npub(&self) -> &str {
        &self.npub
    }

    /// Where the person's own file lies.
    pub(super) fn file(&self) -> String {
        format!("/memory/people/{}.json", self.npub)
    }

    /// Where an item lies.
    pub(super) fn item(&self, shelf: Shelf, number: u64) -> String {
        match shelf {
            Shelf::Notes => format!("/memory/notes/{}/{number}.json", self.npub),
            Shelf::Goals => format!("/goals/{}-{number}.json", self.key()),
            Shelf::Reminders => format!("/schedule/{}-{number}.json", self.key()),
        }
    }

    /// The number of this person's reminder that an alarm is; `None` for somebody else's.
    pub(super) fn reminder(&self, alarm_id: &str) -> Option<u64> {
        alarm_id.strip_prefix(self.key())?.strip_prefix('-')?.parse().ok()
    }

    /// The number of this person's goal that lies at a path; `None` for what is none, or somebody else's.
    pub(super) fn goal(&self, path: &str) -> Option<u64> {
        let name = path.strip_prefix("/goals/")?.strip_suffix(".json")?;
        name.strip_prefix(self.key())?.strip_prefix('-')?.parse().ok()
    }

    fn key(&self) -> &str {
        self.npub.get(5..5 + KEY_CHARS).unwrap_or_default()
    }
}

/// The state of one correspondent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Person {
    version: u32,
    /// IANA name; nothing until it is set, which means UTC.
    pub(super) zone: Option<String>,
    notes: Register,
    goals: Register,
    reminders: Register,
}

impl Default for Person {
    fn default() -> Self {
        let empty = || Register { next: 1, kept: Vec::new() };
        Person { version: VERSION, zone: None, notes: empty(), goals: empty(), reminders: empty() }
    }
}

impl Person {
    /// Reads the file. Fields it does not know are refused, because writing the file would lose them.
    ///
    /// # Errors
    /// [`Error`] when it is damaged or of another version.
    pub(super) fn from_json(bytes: &[u8]) -> Result<Person, Error> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(bytes)?;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let person: Person = serde_json::from_slice(bytes)?;
        for register in [&person.notes, &person.goals, &person.reminders] {
            register.check()?;
        }
        if let Some(zone) = person.zone.as_ref().filter(|zone| super::zone::named(zone).is_none()) {
            return Err(Error::Zone(zone.clone()));
        }
        Ok(person)
    }

    /// The file's content.
    ///
    /// # Errors
    /// Never in practice; the encoder's own.
    pub(super) fn to_json(&self) -> Result<Vec<u8>, Error> {
        Ok(serde_json::to_vec(self)?)
    }

    pub(super) fn shelf(&self, shelf: Shelf) -> &Register {
        match shelf {
            Shelf::Notes => &self.notes,
            Shelf::Goals => &self.goals,
            Shelf::Reminders => &self.reminders,
        }
    }

    pub(super) fn shelf_mut(&mut self, shelf: Shelf) -> &mut Register {
        match shelf {
            Shelf::Notes => &mut self.notes,
            Shelf::Goals => &mut self.goals,
            Shelf::Reminders => &mut self.reminders,
        }
    }
}

/// The numbers of one shelf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Register {
    /// Given to the next item, and never again.
    next: u64,
    /// In use, ascending.
    kept: Vec<u64>,
}

impl Register {
    /// Gives the next number.
    pub(super) fn give(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        self.kept.push(number);
        number
    }

    /// Puts a number that was given before into use again, if it is not.
    pub(super) fn put_back(&mut self, number: u64) {
        if number > 0 && number < self.next && !self.kept.contains(&number) {
            self.kept.push(number);
            self.kept.sort_unstable();
        }
    }

    /// Takes a number out of use, and says whether it was in use.
    pub(super) fn drop(&mut self, number: u64) -> bool {
        let before = self.kept.len();
        self.kept.retain(|kept| *kept != number);
        self.kept.len() < before
    }

    /// The numbers in use, ascending.
    pub(super) fn kept(&self) -> &[u64] {
        &self.kept
    }

    fn check(&self) -> Result<(), Error> {
        let mut last = 0;
        for number in &self.kept {
            if *number <= last || *number >= self.next {
                return Err(Error::Number(*number));
            }
            last = *number;
        }
        // Numbers go up by one; there is no honest way to the end of them.
        if self.next == 0 || self.next > u64::from(u32::MAX) { Err(Error::Number(self.next)) } else { Ok(()) }
    }
}

/// The most that one shelf holds for a person.
pub(super) fn items_max(shelf: Shelf) -> usize {
    match shelf {
        Shelf::Notes => NOTES_MAX,
        Shelf::Goals => GOALS_MAX,
        Shelf::Reminders => REMINDERS_MAX,
    }
}

/// A note or a goal in its file. Goals may be written by others too, so all but the text may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Item {
    pub(super) text: String,
    /// When it was written, in seconds since 1970.
    pub(super) created_at: Option<i64>,
    /// Who wrote it.
    pub(super) by: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NPUB: &str = "npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6";

    #[test]
    fn only_an_npub_becomes_a_path() {
        let peer = Peer::new(NPUB).unwrap();
        assert_eq!(peer.item(Shelf::Goals, 7), "/goals/80cvv07tjdrrgpa0j7j7tmnyl2-7.json");
        assert_eq!(peer.item(Shelf::Notes, 7), format!("/memory/notes/{NPUB}/7.json"));
        assert_eq!(peer.reminder("80cvv07tjdrrgpa0j7j7tmnyl2-12"), Some(12));
        for id in [
            "80cvv07tjdrrgpa0j7j7tmnyl2",
            "80cvv07tjdrrgpa0j7j7tmnyl2-x",
            "80cvv07tjdrrgpa0j7j7tmnyl3-1",
            "backup-1",
        ] {
            assert_eq!(peer.reminder(id), None, "{id}");
        }
        let upper = NPUB.to_uppercase();
        for text in [
            "",
            "npub1",
            "npub1../../x",
            upper.as_str(),
            &NPUB[..62],
            "nsec180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6",
        ] {
            assert_eq!(Peer::new(text), None, "{text}");
        }
    }

    #[test]
    fn an_alarm_id_fits_its_rule_up_to_the_last_number() {
        let path = Peer::new(NPUB).unwrap().item(Shelf::Reminders, u64::MAX);
        let id = path.strip_prefix("/schedule/").unwrap().strip_suffix(".json").unwrap();
        assert!(
            id.len() <= 64 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        );
    }

    #[test]
    fn a_number_is_never_given_twice() {
        let mut person = Person::default();
        let notes = person.shelf_mut(Shelf::Notes);
        assert_eq!((notes.give(), notes.give(), notes.give()), (1, 2, 3));
        assert!(notes.drop(3) && !notes.drop(3));
        assert_eq!(notes.give(), 4);
        let mut person = Person::from_json(&person.to_json().unwrap()).unwrap();
        assert_eq!(person.shelf(Shelf::Notes).kept(), [1, 2, 4]);
        assert!(person.shelf_mut(Shelf::Notes).drop(4));
        let mut person = Person::from_json(&person.to_json().unwrap()).unwrap();
        assert_eq!(person.shelf_mut(Shelf::Notes).give(), 5);
    }

    #[test]
    fn a_file_of_another_make_is_refused() {
        let json = |text: &str| text.replace('R', r#"{"next":3,"kept":[1,2]}"#);
        let good = json(r#"{"version":1,"zone":"Europe/Prague","notes":R,"goals":R,"reminders":R}"#);
        assert!(Person::from_json(good.as_bytes()).is_ok());
        let bad = [
            "",
            "{}",
            "[]",
            "\u{feff}nonsense",
            &json(r#"{"version":2,"everything":"else"}"#),
            &json(r#"{"version":1,"zone":null,"notes":R,"goals":R}"#),
            &json(r#"{"version":1,"zone":null,"notes":R,"goals":R,"reminders":R,"more":1}"#),
            &json(r#"{"version":1,"zone":"Mars/Olympus","notes":R,"goals":R,"reminders":R}"#),
            &good.replacen("[1,2]", "[2,2]", 1),
            &good.replacen("[1,2]", "[2,3]", 1),
            &good.replacen("\"next\":3", "\"next\":18446744073709551615", 1),
        ];
        for text in bad {
            assert!(Person::from_json(text.as_bytes()).is_err(), "{text}");
        }
    }
}
