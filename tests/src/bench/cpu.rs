//! Processor time, this program's and that of what it measures: both share the machine.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// Processor time that a process has used, in user and kernel mode, all threads.
///
/// # Errors
/// When there is no such process.
pub(crate) fn used(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    ticks(&stat).map(|ticks| Duration::from_millis(ticks * 1000 / TICKS_PER_S)).context("/proc/PID/stat")
}

/// Linux counts in hundredths of a second on every architecture (`USER_HZ`).
const TICKS_PER_S: u64 = 100;

/// Fields 14 and 15 of proc(5) stat; the name before them may hold anything but is in parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse_it() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 5";
        assert_eq!(ticks(stat), Some(300));
        assert!(used(std::process::id()).is_ok());
    }
}
