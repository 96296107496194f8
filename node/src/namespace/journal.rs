//! What a tick did on the outside, so that a run that comes after a crash does none of it twice.
//!
//! Every outside change, and every read of what is not the agent's own, has its place in line, its *ordinal*. A run
//! that finds its line recorded gets the recorded replies; one that asks something else than the line says is not
//! deterministic, and nothing of it may count. Reads are kept in memory until a change makes them matter: as long as
//! nothing was done outside, a second run may as well read anew.

use oa_nips::hex::{Hash, Hex};
use oa_nips::nostr::hashes::{Hash as _, HashEngine, sha256};
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::path::Path;
use super::service::{Change, Span};
use crate::agent::envelope::Trust;
use crate::store::row::Blob;

/// Lines one tick may journal.
pub const LINES_MAX: usize = 10_000;
/// Bytes of replies one tick may journal.
pub const BYTES_MAX: usize = 32 * 1024 * 1024;

/// What a read or a change answered.
pub type Outcome = Result<Blob, Error>;

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What was asked: verb, path and content.
    pub request: Hash,
    /// For people.
    pub path: String,
    /// How far it came.
    pub state: LineState,
}

/// How far a line came, named by what it waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineState {
    /// The conditions under which the tick began; they stay those of every later run.
    Pinned {
        /// What ran.
        program: String,
        /// How far the sender was trusted.
        trust: Trust,
    },
    /// Waits for its reply: it may have been done.
    Intent,
    /// Waits for nothing.
    Replied(Outcome),
}

/// The conditions under which a tick began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// What runs.
    pub program: String,
    /// How far the sender is trusted.
    pub trust: Trust,
}

/// Where a run is in its journal.
#[derive(Debug)]
pub struct Journal {
    /// As recorded by the runs before.
    recorded: Vec<Line>,
    /// The next ordinal.
    next: usize,
    /// Lines that are not on disk, from this ordinal on.
    unsaved: Vec<Line>,
    bytes: usize,
}

/// What a run may do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Nobody asked this before: it is this ordinal's.
    Fresh(u32),
    /// It was done before, and answered so.
    Replied(Outcome),
    /// It was begun before, and its reply was lost.
    Interrupted(u32),
}

/// A run that does not ask what the run before it asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Nondeterministic {
    #[error("the program asked {got} where it asked {was} before")]
    Otherwise { was: String, got: String },
    #[error("the program is {got} and was {was} when it began this tick")]
    Program { was: String, got: String },
    #[error("the program ended without asking {was}, which it asked before")]
    Sooner { was: String },
}

impl Journal {
    /// A journal with what earlier runs recorded; `pin` holds if this is the first.
    ///
    /// # Errors
    /// When the program is another than the one that began.
    pub fn new(recorded: Vec<Line>, pin: &mut Pin) -> Result<Self, Nondeterministic> {
        let mut journal = Self { recorded, next: 1, unsaved: Vec::new(), bytes: 0 };
        match journal.recorded.first().map(|line| &line.state) {
            Some(LineState::Pinned { program, trust }) => {
                if *program != pin.program {
                    return Err(Nondeterministic::Program { was: program.clone(), got: pin.program.clone() });
                }
                pin.trust = *trust;
            }
            _ => journal.unsaved.push(Line {
                request: Hash::ZERO,
                path: "/trigger".to_owned(),
                state: LineState::Pinned { program: pin.program.clone(), trust: pin.trust },
            }),
        }
        Ok(journal)
    }

    /// Whether an earlier run, or this one, did something outside.
    pub fn has_effects(&self) -> bool {
        self.recorded.len() > 1 || self.unsaved.is_empty()
    }

    /// Whether an earlier run asked this next.
    pub fn has(&self, request: &Hash) -> bool {
        self.recorded.get(self.next).is_some_and(|line| line.request == *request)
    }

    /// The next thing that is asked.
    ///
    /// # Errors
    /// When the earlier run asked something else here.
    pub fn next(&mut self, request: &Hash, path: &Path) -> Result<Next, Nondeterministic> {
        let ordinal = self.next;
        self.next += 1;
        let Some(line) = self.recorded.get(ordinal) else {
            return Ok(Next::Fresh(u32::try_from(ordinal).unwrap_or(u32::MAX)));
        };
        if line.request != *request {
            return Err(Nondeterministic::Otherwise { was: line.path.clone(), got: path.to_string() });
        }
        Ok(match &line.state {
            LineState::Replied(outcome) => Next::Replied(outcome.clone()),
            LineState::Intent | LineState::Pinned { .. } => {
                Next::Interrupted(u32::try_from(ordinal).unwrap_or(u32::MAX))
            }
        })
    }

    /// Whether one more line of so many bytes fits.
    pub fn fits(&self, bytes: usize) -> bool {
        self.next <= LINES_MAX && self.bytes.saturating_add(bytes) <= BYTES_MAX
    }

    /// Notes what was read: it becomes durable with the next intent.
    pub fn read(&mut self, request: Hash, path: &Path, outcome: Outcome) {
        self.bytes += outcome.as_ref().map_or(0, |blob| blob.0.len());
        self.unsaved.push(Line { request, path: path.to_string(), state: LineState::Replied(outcome) });
    }

    /// The lines that must be on disk before the change at this ordinal is made: an intent, and all that was read
    /// before it. The first ordinal among them comes with them.
    pub fn intend(&mut self, ordinal: u32, request: Hash, path: &Path) -> (u32, Vec<Line>) {
        self.unsaved.push(Line { request, path: path.to_string(), state: LineState::Intent });
        let lines = std::mem::take(&mut self.unsaved);
        let first = (ordinal + 1).saturating_sub(u32::try_from(lines.len()).unwrap_or(u32::MAX));
        (first, lines)
    }

    /// The line that must be on disk before the program hears the reply.
    pub fn replied(&mut self, request: Hash, path: &Path, outcome: Outcome) -> Line {
        self.bytes += outcome.as_ref().map_or(0, |blob| blob.0.len());
        Line { request, path: path.to_string(), state: LineState::Replied(outcome) }
    }

    /// Checks that nothing recorded was left out.
    ///
    /// # Errors
    /// When an earlier run did something that this one did not ask for.
    pub fn finish(&self) -> Result<(), Nondeterministic> {
        match self.recorded.get(self.next) {
            Some(line) => Err(Nondeterministic::Sooner { was: line.path.clone() }),
            None => Ok(()),
        }
    }
}

/// The name of a change or a read in the journal.
pub fn request_of(verb: &str, path: &Path, body: &[u8]) -> Hash {
    let mut engine = sha256::HashEngine::default();
    for part in [verb.as_bytes(), b"\0", path.as_str().as_bytes(), b"\0", body] {
        engine.input(part);
    }
    Hex(sha256::Hash::from_engine(engine).to_byte_array())
}

/// The name of a change.
pub fn change_request(path: &Path, change: &Change) -> Hash {
    match change {
        Change::Rename(to) => request_of(change.verb(), path, to.as_str().as_bytes()),
        change => request_of(change.verb(), path, change.body()),
    }
}

/// The name of a read.
pub fn read_request(verb: &str, path: &Path, span: Span) -> Hash {
    let count = u64::try_from(span.count).unwrap_or(u64::MAX);
    request_of(verb, path, &[span.offset.to_be_bytes(), count.to_be_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin() -> Pin {
        Pin { program: "test".to_owned(), trust: Trust::Owner }
    }

    fn path() -> Path {
        "/svc/count".parse().unwrap()
    }

    fn ask(n: u8) -> Hash {
        change_request(&path(), &Change::Call(vec![n]))
    }

    /// The lines on disk after a run that read, called and lost the reply to a second call.
    fn interrupted() -> Vec<Line> {
        let mut journal = Journal::new(Vec::new(), &mut pin()).unwrap();
        assert!(!journal.has_effects());
        assert_eq!(journal.next(&ask(0), &path()), Ok(Next::Fresh(1)));
        journal.read(ask(0), &path(), Ok(Blob(b"seen".to_vec())));
        assert_eq!(journal.next(&ask(1), &path()), Ok(Next::Fresh(2)));
        let (first, mut disk) = journal.intend(2, ask(1), &path());
        assert_eq!((first, disk.len()), (0, 3), "pin, read and intent");
        assert!(journal.has_effects());
        disk[2] = journal.replied(ask(1), &path(), Ok(Blob(b"one".to_vec())));
        assert_eq!(journal.next(&ask(2), &path()), Ok(Next::Fresh(3)));
        let (first, more) = journal.intend(3, ask(2), &path());
        assert_eq!((first, more.len()), (3, 1));
        disk.extend(more);
        disk
    }

    #[test]
    fn a_second_run_gets_the_recorded_replies_and_learns_what_was_interrupted() {
        let changed = &mut Pin { trust: Trust::Stranger, ..pin() };
        let mut journal = Journal::new(interrupted(), changed).unwrap();
        assert_eq!(changed.trust, Trust::Owner, "the trust of the first run holds");
        assert_eq!((journal.has(&ask(0)), journal.has(&ask(1))), (true, false));
        assert_eq!(journal.next(&ask(0), &path()), Ok(Next::Replied(Ok(Blob(b"seen".to_vec())))));
        assert_eq!(journal.next(&ask(1), &path()), Ok(Next::Replied(Ok(Blob(b"one".to_vec())))));
        assert!(matches!(journal.finish(), Err(Nondeterministic::Sooner { .. })));
        assert_eq!(journal.next(&ask(2), &path()), Ok(Next::Interrupted(3)));
        assert_eq!(journal.finish(), Ok(()));
        assert_eq!(journal.next(&ask(3), &path()), Ok(Next::Fresh(4)));
    }

    #[test]
    fn another_question_or_program_is_not_deterministic() {
        let mut journal = Journal::new(interrupted(), &mut pin()).unwrap();
        assert!(matches!(journal.next(&ask(9), &path()), Err(Nondeterministic::Otherwise { .. })));
        let other = &mut Pin { program: "other".to_owned(), ..pin() };
        assert!(matches!(Journal::new(interrupted(), other), Err(Nondeterministic::Program { .. })));
    }

    #[test]
    fn what_is_asked_is_told_apart_by_verb_path_and_content() {
        let call = change_request(&path(), &Change::Call(b"x".to_vec()));
        assert_ne!(call, change_request(&path(), &Change::Write(b"x".to_vec())));
        assert_ne!(call, change_request(&"/svc/coun".parse().unwrap(), &Change::Call(b"tx".to_vec())));
        assert_ne!(
            read_request("read", &path(), Span::ALL),
            read_request("read", &path(), Span { offset: 1, count: 1 })
        );
    }
}
