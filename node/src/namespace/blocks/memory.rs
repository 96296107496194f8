//! A folder in memory, bounded. It lives as long as its service: for tests, and for those who embed a node.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::tree::Tree;
use super::watchers::Watchers;
use crate::namespace::FILE_BYTES_MAX;
use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::service::{Answer, Change, Class, Context, FileService, Span, Stat, Watch, not_taken};

/// How much a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Bytes of one file.
    pub file_bytes_max: usize,
    /// Bytes of all files.
    pub bytes_max: usize,
    /// Files and folders.
    pub entries_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { file_bytes_max: FILE_BYTES_MAX, bytes_max: 64 * FILE_BYTES_MAX, entries_max: 100_000 }
    }
}

/// A folder in memory.
#[derive(Debug, Default)]
pub struct Memory {
    config: Config,
    tree: Mutex<Tree>,
    watchers: Watchers,
}

impl Memory {
    /// An empty folder.
    pub fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does a change at once, and wakes whom it concerns.
    ///
    /// # Errors
    /// What a plain folder says, `TooLarge` over the limits, `PermissionDenied` for a call.
    pub fn apply(&self, path: &Path, change: &Change) -> Result<(), Error> {
        let mut tree = self.tree();
        self.check_room(&tree, path, change)?;
        match change {
            Change::Write(content) => tree.write(path, content.clone())?,
            Change::Append(more) => tree.append(path, more)?,
            Change::Mkdir => tree.mkdir(path)?,
            Change::Remove => tree.remove(path)?,
            Change::Rename(to) => tree.rename(path, to)?,
            Change::Call(_) => return Err(not_taken(path, change)),
        }
        drop(tree);
        self.watchers.changed(path);
        if let Change::Rename(to) = change {
            self.watchers.changed(to);
        }
        Ok(())
    }

    fn check_room(&self, tree: &Tree, path: &Path, change: &Change) -> Result<(), Error> {
        let Config { file_bytes_max, bytes_max, entries_max } = self.config;
        let (old, new) = match change {
            Change::Write(content) => (tree.size(path)?, content.len()),
            Change::Append(more) => {
                let old = tree.size(path)?;
                (old, old.unwrap_or(0).saturating_add(more.len()))
            }
            Change::Mkdir => (None, 0),
            Change::Call(_) | Change::Remove | Change::Rename(_) => return Ok(()),
        };
        if new > file_bytes_max {
            return Err(Error::too_large(path, file_bytes_max));
        }
        if (tree.bytes() - old.unwrap_or(0)).saturating_add(new) > bytes_max {
            return Err(Error::too_large("/", bytes_max));
        }
        if tree.entries() >= entries_max && tree.stat(path).is_err() {
            let reason = format!("over {entries_max} files and folders");
            return Err(Error::new(oa_nips::files::Code::TooLarge, "/", reason));
        }
        Ok(())
    }
}

impl FileService for Memory {
    fn stat<'a>(&'a self, _cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async move { self.tree().stat(path) })
    }

    fn list<'a>(&'a self, _cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move { self.tree().list(path) })
    }

    fn read<'a>(&'a self, _cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            let content = self.tree().read(path)?;
            Ok(span.of(&content))
        })
    }

    fn class(&self, _path: &Path, change: &Change) -> Class {
        match change {
            Change::Append(_) | Change::Call(_) => Class::AtMostOnce,
            Change::Write(_) | Change::Mkdir | Change::Remove | Change::Rename(_) => Class::Idempotent,
        }
    }

    fn act<'a>(&'a self, _cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Vec<u8>> {
        Box::pin(async move { self.apply(path, change).map(|()| Vec::new()) })
    }

    fn watch(&self, _cx: &Context<'_>, path: &Path) -> Result<Watch, Error> {
        Ok(self.watchers.watch(path))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use oa_nips::files::Code;
    use proptest::prelude::*;

    use super::super::conformance::{self, Driver, path};
    use super::*;

    fn driver() -> Driver {
        Driver::new(Arc::new(Memory::new(conformance::LIMITS)))
    }

    #[tokio::test]
    async fn it_is_a_plain_folder() {
        conformance::suite(&mut driver()).await;
    }

    proptest! {
        #[test]
        fn random_operations_end_as_in_the_model(ops in conformance::ops()) {
            conformance::against_model(driver(), conformance::Model::default(), &ops);
        }
    }

    #[test]
    fn it_holds_no_more_than_it_was_told() {
        let memory = Memory::new(Config { file_bytes_max: 8, bytes_max: 10, entries_max: 2 });
        let write = |at: &str, length: usize| {
            let done = memory.apply(&path(at), &Change::Write(vec![0; length]));
            done.map_err(|error| error.code)
        };
        assert_eq!(write("/a", 9), Err(Code::TooLarge));
        assert_eq!(write("/a", 8), Ok(()));
        assert_eq!(write("/b", 3), Err(Code::TooLarge));
        assert_eq!(write("/b", 2), Ok(()));
        assert_eq!(write("/c", 0), Err(Code::TooLarge), "a third entry");
        assert_eq!(write("/a", 1), Ok(()), "what is replaced makes room");
        assert_eq!(write("/b", 8), Ok(()));
        let append = memory.apply(&path("/b"), &Change::Append(vec![0]));
        assert_eq!(append.map_err(|error| error.code), Err(Code::TooLarge));
    }

    #[tokio::test]
    async fn changes_wake_and_refusals_do_not() {
        let memory = Memory::default();
        let watch = memory.watchers.watch(&path("/a"));
        assert!(memory.apply(&path("/a/b"), &Change::Mkdir).is_err());
        assert!(!watch.has_changed().unwrap());
        memory.apply(&path("/b"), &Change::Write(b"x".to_vec())).unwrap();
        assert!(!watch.has_changed().unwrap());
        memory.apply(&path("/b"), &Change::Rename(path("/a"))).unwrap();
        assert!(watch.has_changed().unwrap());
    }
}
