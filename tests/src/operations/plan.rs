//! What is asked, decided by the seed: each operation leaves a mark of its own, from which it can be told later how often
//! it was done.

use oa_nips::files::Verb;

use crate::crash::plan::Dice;

/// The agent whose tree it is about.
pub const AGENT: &str = "alice";
/// The file in which operations count themselves, a line each.
pub const LEDGER: &str = "/memory/ledger";
/// What is read: a short file, and one of several frames.
pub const SHORT: &str = "/memory/fixed/short";
pub const LONG: &str = "/memory/fixed/long";
/// Bytes of a body of several frames.
const LONG_BYTES: usize = 64 * 1024;

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Appends its number to the ledger.
    Count,
    /// Appends a line to a file of its own.
    Append,
    Write,
    /// Writes several frames.
    WriteLong,
    Mkdir,
    Remove,
    /// Removes what is not there.
    RemoveNothing,
    Rename,
    /// Wakes the agent.
    Tick,
    /// Creates an agent.
    Create,
    /// Removes an agent.
    Retire,
    Read,
    /// Reads several frames.
    ReadLong,
    List,
    Stat,
}

/// How often each kind occurs, of a hundred.
const OFTEN: [(Deed, u64); 15] = [
    (Deed::Count, 24),
    (Deed::Append, 8),
    (Deed::Write, 10),
    (Deed::WriteLong, 5),
    (Deed::Mkdir, 7),
    (Deed::Remove, 7),
    (Deed::RemoveNothing, 3),
    (Deed::Rename, 7),
    (Deed::Tick, 9),
    (Deed::Create, 3),
    (Deed::Retire, 2),
    (Deed::Read, 5),
    (Deed::ReadLong, 3),
    (Deed::List, 3),
    (Deed::Stat, 4),
];

/// What is asked of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    pub verb: Verb,
    /// Of the operator's tree.
    pub path: String,
    pub body: String,
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// No other has it.
    pub number: u64,
    /// What kind.
    pub deed: Deed,
}

impl Operation {
    /// The `number`-th of a seed.
    pub fn new(seed: u64, number: u64) -> Self {
        let mut left = Dice::new(seed, "operation", number).below(100);
        let fallen = OFTEN.into_iter().find(|(_, often)| {
            let is_it = left < *often;
            left = left.saturating_sub(*often);
            is_it
        });
        Self { number, deed: fallen.map_or(Deed::Count, |(deed, _)| deed) }
    }

    /// Where in the agent's state its mark is, if it has a place of its own there.
    pub fn place(&self) -> Option<String> {
        let folder = match self.deed {
            Deed::Append => "appended",
            Deed::Write => "written",
            Deed::WriteLong => "long",
            Deed::Mkdir => "made",
            Deed::Remove => "removed",
            Deed::RemoveNothing => "nothing",
            Deed::Rename => "from",
            _ => return None,
        };
        Some(format!("/memory/{folder}/{}", self.number))
    }

    /// Where a rename leads.
    pub fn target(&self) -> String {
        format!("/memory/to/{}", self.number)
    }

    /// The agent it creates or removes.
    pub fn agent(&self) -> String {
        format!("n{}", self.number)
    }

    /// What a file of its own has when it was done once.
    pub fn content(&self) -> String {
        match self.deed {
            Deed::WriteLong => long(self.number),
            _ => format!("operation {}\n", self.number),
        }
    }

    /// What is asked.
    pub fn act(&self) -> Act {
        let place = || self.place().unwrap_or_default();
        match self.deed {
            Deed::Count => Act::new(Verb::Append, LEDGER, format!("{}\n", self.number)),
            Deed::Append => Act::new(Verb::Append, &place(), self.content()),
            Deed::Write | Deed::WriteLong => Act::new(Verb::Write, &place(), self.content()),
            Deed::Mkdir => Act::new(Verb::Mkdir, &place(), String::new()),
            Deed::Remove | Deed::RemoveNothing => Act::new(Verb::Remove, &place(), String::new()),
            Deed::Rename => Act::new(Verb::Rename, &place(), format!("/agents/{AGENT}{}", self.target())),
            Deed::Tick => Act::new(Verb::Call, "/ctl", "tick".to_owned()),
            Deed::Create => create(&self.agent()),
            Deed::Retire => Act {
                verb: Verb::Call,
                path: format!("/agents/{}/ctl", self.agent()),
                body: "remove".to_owned(),
            },
            Deed::Read => Act::new(Verb::Read, SHORT, String::new()),
            Deed::ReadLong => Act::new(Verb::Read, LONG, String::new()),
            Deed::List => Act::new(Verb::List, "/memory/fixed", String::new()),
            Deed::Stat => Act::new(Verb::Stat, LONG, String::new()),
        }
    }

    /// What must be there before.
    pub fn before(&self) -> Option<Act> {
        match self.deed {
            Deed::Remove | Deed::Rename => Some(Act::new(Verb::Write, &self.place()?, self.content())),
            Deed::Retire => Some(create(&self.agent())),
            _ => None,
        }
    }

    /// Whether what was answered is what is there.
    pub fn is_answer(&self, answer: &[u8]) -> bool {
        let text = String::from_utf8_lossy(answer);
        match self.deed {
            Deed::Read => text == short(),
            Deed::ReadLong => text == long(0),
            Deed::List => text.contains("short") && text.contains("long"),
            Deed::Stat => text.contains(&LONG_BYTES.to_string()),
            Deed::Tick => text.contains("tick"),
            Deed::Create => text.contains("npub1"),
            _ => true,
        }
    }
}

impl Act {
    /// On a path of the agent's tree.
    pub fn new(verb: Verb, path: &str, body: String) -> Self {
        Self { verb, path: format!("/agents/{AGENT}{path}"), body }
    }
}

/// What is read, and must be there.
pub fn fixtures() -> Vec<Act> {
    vec![Act::new(Verb::Write, SHORT, short()), Act::new(Verb::Write, LONG, long(0))]
}

fn create(name: &str) -> Act {
    let body = format!("name = {name:?}\nprogram = \"echo\"\n");
    Act { verb: Verb::Call, path: "/agents/new".to_owned(), body }
}

fn short() -> String {
    "short\n".to_owned()
}

fn long(number: u64) -> String {
    let line = format!("{number:015}\n");
    line.repeat(LONG_BYTES / line.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_and_all_kinds_occur_as_often_as_they_should() {
        assert_eq!(OFTEN.iter().map(|(_, often)| often).sum::<u64>(), 100);
        let all: Vec<_> = (0..1000).map(|n| Operation::new(7, n)).collect();
        assert_eq!(all, (0..1000).map(|n| Operation::new(7, n)).collect::<Vec<_>>());
        for (deed, often) in OFTEN {
            let count = all.iter().filter(|operation| operation.deed == deed).count() as u64;
            assert!((often * 5..often * 20).contains(&count), "{deed:?} {count}");
        }
        assert_eq!(long(7).len(), LONG_BYTES);
    }
}
