//! An agent's own files as a tick sees them: what is committed, with the tick's writes laid over it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::error::Error;
use super::path::Path;
use super::service::State;

/// Largest file an agent may write, in bytes.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;
/// All that one tick may write, in bytes.
pub const OVERLAY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Files one tick may change.
pub const OVERLAY_FILES_MAX: usize = 10_000;

/// Files by path; nothing stands for one that is removed.
pub type Files = BTreeMap<Path, Option<Vec<u8>>>;

/// What a tick wrote, over what is committed.
#[derive(Debug)]
pub struct Overlay {
    committed: Arc<dyn State>,
    files: Files,
    bytes: usize,
}

impl Overlay {
    /// An overlay with nothing in it.
    pub fn new(committed: Arc<dyn State>) -> Self {
        Self { committed, files: Files::new(), bytes: 0 }
    }

    /// Lays files over what is there, all of them or none.
    ///
    /// # Errors
    /// `TooLarge`, naming the file and the limit.
    pub fn lay(&mut self, files: Vec<(Path, Option<Vec<u8>>)>) -> Result<(), Error> {
        let mut bytes = self.bytes;
        for (path, content) in &files {
            let size = content.as_ref().map_or(0, Vec::len);
            if size > FILE_BYTES_MAX {
                return Err(Error::too_large(path, FILE_BYTES_MAX));
            }
            let replaced = self.files.get(path).and_then(Option::as_ref).map_or(0, Vec::len);
            bytes = bytes.saturating_sub(replaced).saturating_add(size);
            if bytes > OVERLAY_BYTES_MAX {
                return Err(Error::too_large(path, OVERLAY_BYTES_MAX));
            }
            if self.files.len() + files.len() > OVERLAY_FILES_MAX && !self.files.contains_key(path) {
                return Err(Error::too_large(path, OVERLAY_FILES_MAX));
            }
        }
        self.bytes = bytes;
        self.files.extend(files);
        Ok(())
    }

    /// What was laid.
    pub fn into_files(self) -> Files {
        self.files
    }
}

impl State for Overlay {
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        match self.files.get(path) {
            Some(content) => Ok(content.clone()),
            None => self.committed.read(path),
        }
    }

    fn paths(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let mut paths: BTreeSet<String> = self.committed.paths(prefix)?.into_iter().collect();
        for (path, content) in &self.files {
            if content.is_some() && path.as_str().starts_with(prefix) {
                paths.insert(path.to_string());
            } else {
                paths.remove(path.as_str());
            }
        }
        Ok(paths.into_iter().collect())
    }
}

/// Files in memory: the state of an agent whose program is under test.
#[derive(Debug, Default, Clone)]
pub struct MemoryState(pub BTreeMap<String, Vec<u8>>);

impl State for MemoryState {
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.get(path.as_str()).cloned())
    }

    fn paths(&self, prefix: &str) -> Result<Vec<String>, Error> {
        Ok(self.0.keys().filter(|path| path.starts_with(prefix)).cloned().collect())
    }
}
