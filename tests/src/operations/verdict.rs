//! What must hold: what the client was told of each operation agrees with what the node has.

use std::collections::{BTreeMap, BTreeSet};

use super::asker::Way;
use super::plan::{Deed, LEDGER, Operation};

/// What the client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It is done, and this is the answer.
    Done(Vec<u8>),
    /// The node says no: nothing happened.
    Refused(String),
    /// It did not happen, or nobody answered what only reads.
    NotDone(String),
    /// It may have happened.
    Unknown(String),
}

impl Told {
    /// Its column in a report.
    pub(super) fn column(&self) -> usize {
        match self {
            Self::Done(_) => 0,
            Self::Refused(_) => 1,
            Self::NotDone(_) => 2,
            Self::Unknown(_) => 3,
        }
    }
}

/// What came of an operation, for who asked for it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Which.
    pub operation: Operation,
    /// Who asked: one after the other.
    pub asker: usize,
    /// How.
    pub way: Way,
    /// What was told.
    pub told: Told,
}

/// What the node has.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The agent's files.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The agents that are alive.
    pub agents: BTreeSet<String>,
    /// How often the agent was woken by hand.
    pub ticks: usize,
}

impl State {
    fn ledger(&self) -> Vec<&str> {
        let ledger = self.files.get(LEDGER).map(Vec::as_slice).unwrap_or_default();
        std::str::from_utf8(ledger).unwrap_or("not UTF-8").lines().collect()
    }

    /// How often an operation was done; an error says how its mark is damaged.
    fn times(&self, operation: &Operation) -> Result<Option<usize>, String> {
        let file = |path: &str| self.files.get(path).map(Vec::as_slice);
        let place = operation.place().unwrap_or_default();
        let (here, content) = (file(&place), operation.content());
        let times = match operation.deed {
            Deed::Count => {
                let line = operation.number.to_string();
                self.ledger().into_iter().filter(|other| **other == line).count()
            }
            Deed::Append | Deed::Write | Deed::WriteLong => {
                let here = here.unwrap_or_default();
                let times = here.len() / content.len();
                if here != content.repeat(times).as_bytes() {
                    return Err(format!("{place} has {} bytes that nobody wrote", here.len()));
                }
                times
            }
            Deed::Mkdir => usize::from(
                self.files
                    .range(format!("{place}/")..)
                    .next()
                    .is_some_and(|(path, _)| path.starts_with(&format!("{place}/"))),
            ),
            Deed::Remove => usize::from(here.is_none()),
            Deed::RemoveNothing => 0,
            Deed::Rename => match (here, file(&operation.target())) {
                (Some(old), None) if old == content.as_bytes() => 0,
                (None, Some(new)) if new == content.as_bytes() => 1,
                other => return Err(format!("{place} and {}: {other:?}", operation.target())),
            },
            Deed::Create => usize::from(self.agents.contains(&operation.agent())),
            Deed::Retire => usize::from(!self.agents.contains(&operation.agent())),
            Deed::Tick | Deed::Read | Deed::ReadLong | Deed::List | Deed::Stat => return Ok(None),
        };
        Ok(Some(times))
    }
}

/// What must not be.
pub fn judge(outcomes: &[Outcome], state: &State) -> Vec<String> {
    let mut found = Vec::new();
    for outcome in outcomes {
        if let Err(reason) = check(outcome, state) {
            let Outcome { operation: Operation { number, deed }, way, told, .. } = outcome;
            let told: String = format!("{told:?}").chars().take(300).collect();
            found.push(format!("operation {number} ({deed:?} by {way:?}): {reason}; told {told}"));
        }
    }
    found.extend(ticks(outcomes, state));
    found.extend(order(outcomes, state));
    found
}

fn check(outcome: &Outcome, state: &State) -> Result<(), String> {
    let Outcome { operation, told, .. } = outcome;
    let times = state.times(operation)?;
    let is_right = match (told, times) {
        (Told::Done(answer), _) if !operation.is_answer(answer) => {
            return Err("another answer than what is there".to_owned());
        }
        (Told::Done(_), None) => true,
        (Told::Done(_), Some(times)) => times == 1,
        // Only what cannot be done is refused.
        (Told::Refused(_), times) => operation.deed == Deed::RemoveNothing && times == Some(0),
        (Told::NotDone(_), times) => times.unwrap_or(0) == 0,
        (Told::Unknown(_), times) => times.unwrap_or(0) <= 1,
    };
    if is_right { Ok(()) } else { Err(format!("done {} times", times.unwrap_or(0))) }
}

/// Ticks carry no number of their own: they are counted.
fn ticks(outcomes: &[Outcome], state: &State) -> Option<String> {
    let count = |is_it: fn(&Told) -> bool| {
        outcomes.iter().filter(|outcome| outcome.operation.deed == Deed::Tick && is_it(&outcome.told)).count()
    };
    let (done, unknown) =
        (count(|told| matches!(told, Told::Done(_))), count(|told| matches!(told, Told::Unknown(_))));
    let is_right = (done..=done + unknown).contains(&state.ticks);
    (!is_right).then(|| format!("{} ticks; told {done} done, {unknown} unknown", state.ticks))
}

/// What one asker did, one after the other, stands in that order; and nothing else stands there.
fn order(outcomes: &[Outcome], state: &State) -> Vec<String> {
    let counted: BTreeMap<String, &Outcome> = outcomes
        .iter()
        .filter(|outcome| outcome.operation.deed == Deed::Count)
        .map(|outcome| (outcome.operation.number.to_string(), outcome))
        .collect();
    let mut last: BTreeMap<usize, u64> = BTreeMap::new();
    let mut found = Vec::new();
    for line in state.ledger() {
        let Some(outcome) = counted.get(line) else {
            found.push(format!("the ledger has {line:?}, which nobody wrote"));
            continue;
        };
        // What nobody knew of when the next was asked for may come late.
        if !matches!(outcome.told, Told::Done(_)) {
            continue;
        }
        let number = outcome.operation.number;
        if last.insert(outcome.asker, number).is_some_and(|before| before > number) {
            found.push(format!("operation {number} was done after a later one of the same asker"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(number: u64, deed: Deed, told: Told) -> Outcome {
        Outcome { operation: Operation { number, deed }, asker: 0, way: Way::Held, told }
    }

    fn done() -> Told {
        Told::Done(Vec::new())
    }

    fn unknown() -> Told {
        Told::Unknown(String::new())
    }

    fn with(path: &str, content: &str) -> State {
        State { files: [(path.to_owned(), content.into())].into(), ..State::default() }
    }

    fn count(outcomes: &[Outcome], state: &State) -> usize {
        judge(outcomes, state).len()
    }

    #[test]
    fn what_is_lost_done_twice_or_told_wrong_is_found() {
        let one = |told| vec![outcome(1, Deed::Count, told)];
        for (ledger, told, violations) in [
            ("1\n", done(), 0),
            ("", done(), 1),
            ("1\n1\n", done(), 1),
            ("1\n", Told::NotDone(String::new()), 1),
            ("", Told::NotDone(String::new()), 0),
            ("1\n", Told::Refused(String::new()), 1),
            ("", Told::Refused(String::new()), 1),
            ("1\n", unknown(), 0),
            ("", unknown(), 0),
            ("1\n1\n", unknown(), 1),
            ("1\n7\n", done(), 1),
        ] {
            assert_eq!(count(&one(told.clone()), &with(LEDGER, ledger)), violations, "{ledger:?} {told:?}");
        }
    }

    #[test]
    fn each_mark_is_read() {
        let renamed = [outcome(2, Deed::Rename, done())];
        assert_eq!(count(&renamed, &with("/memory/to/2", "operation 2\n")), 0);
        assert_eq!(count(&renamed, &with("/memory/from/2", "operation 2\n")), 1);
        assert_eq!(count(&renamed, &State::default()), 1, "neither here nor there");
        let made = [outcome(3, Deed::Mkdir, done())];
        assert_eq!(count(&made, &with("/memory/made/3/.dir", "")), 0);
        assert_eq!(count(&made, &with("/memory/made/30/.dir", "")), 1);
        let appended = [outcome(4, Deed::Append, done())];
        assert_eq!(count(&appended, &with("/memory/appended/4", "operation 4\noperation 4\n")), 1);
        let read = [outcome(5, Deed::Read, done())];
        assert_eq!(count(&read, &State::default()), 1, "the answer is not what is there");
        let ticks = [outcome(6, Deed::Tick, Told::Done("tick".into())), outcome(7, Deed::Tick, unknown())];
        let ticked = |ticks| State { ticks, ..State::default() };
        assert_eq!([0, 1, 2, 3].map(|n| count(&ticks, &ticked(n))), [1, 0, 0, 1]);
    }

    #[test]
    fn one_asker_is_served_in_order() {
        let outcomes = [outcome(1, Deed::Count, done()), outcome(2, Deed::Count, done())];
        assert_eq!(count(&outcomes, &with(LEDGER, "1\n2\n")), 0);
        assert_eq!(count(&outcomes, &with(LEDGER, "2\n1\n")), 1);
        let late = [outcome(1, Deed::Count, unknown()), outcome(2, Deed::Count, done())];
        assert_eq!(count(&late, &with(LEDGER, "2\n1\n")), 0);
    }
}
