//! Which paths changed, in order, as far back as it is kept.

use std::collections::{BTreeSet, VecDeque};

use crate::namespace::path::Path;

/// Changes that are kept: a `git checkout` of a small project.
const CHANGES_MAX: usize = 4096;

/// What changed since a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Each once.
    pub paths: BTreeSet<Path>,
    /// To be asked with next time.
    pub next: u64,
    /// Whether these are all: otherwise some were let go, or the kernel lost count, and the folder is to be looked
    /// through.
    pub is_complete: bool,
}

/// The newest changes, numbered from 1.
#[derive(Debug, Default)]
pub(super) struct Journal {
    last: u64,
    /// With the number of each.
    changes: VecDeque<(u64, Path)>,
    /// Up to this number not all are known.
    missed: u64,
}

impl Journal {
    pub(super) fn push(&mut self, path: &Path) {
        self.last += 1;
        // A file that is written in many pieces is one change, the newest.
        if self.changes.back().is_some_and(|(_, newest)| newest == path) {
            self.changes.pop_back();
        }
        self.changes.push_back((self.last, path.clone()));
        if self.changes.len() > CHANGES_MAX {
            self.missed = self.changes.pop_front().map_or(self.missed, |(number, _)| number.max(self.missed));
        }
    }

    /// Nobody knows what changed.
    pub(super) fn miss(&mut self) {
        self.last += 1;
        self.missed = self.last;
        self.changes.clear();
    }

    pub(super) fn since(&self, since: u64) -> Changed {
        let newer = self.changes.iter().filter(|(number, _)| *number > since);
        let paths = newer.map(|(_, path)| path.clone()).collect();
        Changed { paths, next: self.last, is_complete: since >= self.missed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    fn paths(texts: &[&str]) -> BTreeSet<Path> {
        texts.iter().copied().map(path).collect()
    }

    #[test]
    fn each_change_is_told_once_to_who_asks_with_the_last_number() {
        let mut journal = Journal::default();
        ["/a", "/a", "/b", "/a"].iter().for_each(|text| journal.push(&path(text)));
        let first = journal.since(0);
        assert_eq!(first, Changed { paths: paths(&["/a", "/b"]), next: 4, is_complete: true });
        assert_eq!(journal.since(first.next).paths, paths(&[]));
        journal.push(&path("/a"));
        assert_eq!(journal.since(first.next).paths, paths(&["/a"]));
    }

    #[test]
    fn what_was_let_go_or_lost_is_said() {
        let mut journal = Journal::default();
        (0..=CHANGES_MAX).for_each(|number| journal.push(&path(&format!("/{number}"))));
        assert!(!journal.since(0).is_complete);
        assert!(journal.since(1).is_complete);
        journal.miss();
        assert!(!journal.since(CHANGES_MAX as u64 + 1).is_complete);
        assert!(journal.since(journal.last).is_complete);
    }
}
