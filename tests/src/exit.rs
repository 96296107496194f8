//! How the programs here begin and end: a seed, a report, and an exit code that says what was found.

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// What must not be was found.
pub const FOUND: u8 = 1;
/// The run could not be finished.
pub const UNFINISHED: u8 = 2;

/// The seed of a run that was given none.
pub fn by_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// Says a line to who runs the program.
pub fn say(line: impl Display) {
    // A reader that has gone away is no failure.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// The exit code of a run that was finished, by what it found.
pub fn code<T>(violations: &[T]) -> ExitCode {
    if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FOUND) }
}

/// The exit code of a run; why it could not be finished goes to stderr.
pub fn end(ended: anyhow::Result<ExitCode>) -> ExitCode {
    ended.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "{error:#}");
        ExitCode::from(UNFINISHED)
    })
}
