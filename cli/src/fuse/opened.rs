//! What is open: files and folders by the numbers that the kernel gives back with each request on them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::Errno;

/// Files and folders that are open at once; each.
const OPEN_MAX: usize = 1024;

/// Opened things of one kind, by file and handle.
#[derive(Debug)]
pub(super) struct Opened<T> {
    entries: Mutex<BTreeMap<(u64, u64), Arc<T>>>,
    next: AtomicU64,
}

impl<T> Opened<T> {
    /// Nothing is open.
    pub(super) fn new() -> Self {
        Self { entries: Mutex::default(), next: AtomicU64::new(1) }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<(u64, u64), Arc<T>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens one more.
    ///
    /// # Errors
    /// `ENFILE`
    pub(super) fn add(&self, ino: u64, it: T) -> Result<u64, Errno> {
        let fh = self.next.fetch_add(1, Ordering::Relaxed);
        let mut entries = self.entries();
        if entries.len() >= OPEN_MAX {
            return Err(Errno::ENFILE);
        }
        entries.insert((ino, fh), Arc::new(it));
        Ok(fh)
    }

    /// The one that is open.
    ///
    /// # Errors
    /// `EBADF`
    pub(super) fn get(&self, ino: u64, fh: u64) -> Result<Arc<T>, Errno> {
        self.entries().get(&(ino, fh)).cloned().ok_or(Errno::EBADF)
    }

    /// All that are open of one file, the latest last.
    pub(super) fn of(&self, ino: u64) -> Vec<Arc<T>> {
        self.entries().range((ino, 0)..=(ino, u64::MAX)).map(|(_, it)| Arc::clone(it)).collect()
    }

    /// All that are open.
    pub(super) fn all(&self) -> Vec<(u64, Arc<T>)> {
        self.entries().iter().map(|((ino, _), it)| (*ino, Arc::clone(it))).collect()
    }

    /// Closes one.
    ///
    /// # Errors
    /// `EBADF`
    pub(super) fn close(&self, ino: u64, fh: u64) -> Result<Arc<T>, Errno> {
        self.entries().remove(&(ino, fh)).ok_or(Errno::EBADF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_found_by_file_and_has_a_bound() {
        let opened = Opened::new();
        let first = opened.add(7, "a").unwrap();
        let second = opened.add(7, "b").unwrap();
        opened.add(8, "c").unwrap();
        assert_eq!(opened.of(7), [Arc::new("a"), Arc::new("b")]);
        assert_eq!(opened.get(8, first), Err(Errno::EBADF));
        assert_eq!(opened.close(7, first), Ok(Arc::new("a")));
        assert_eq!(opened.close(7, first), Err(Errno::EBADF));
        assert_eq!((opened.of(7), opened.get(7, second)), (vec![Arc::new("b")], Ok(Arc::new("b"))));
        while opened.add(9, "d").is_ok() {}
        assert_eq!(opened.all().len(), OPEN_MAX);
    }
}
