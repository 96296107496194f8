//! What an agent laid over a service, as its state has it.

use std::collections::BTreeMap;

use oa_nips::files::FileType;

use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::service::{Stat, State, dir, file};

/// The agent's own files under one prefix.
#[derive(Debug, Clone, Copy)]
pub(super) struct Upper<'a> {
    state: &'a dyn State,
    prefix: &'a Path,
}

/// The trees under the prefix.
const FILE: &str = "f";
const FOLDER: &str = "d";
const GONE: &str = "w";

impl<'a> Upper<'a> {
    pub(super) fn new(state: &'a dyn State, prefix: &'a Path) -> Self {
        Self { state, prefix }
    }

    /// Where a path stands in one of the trees.
    fn key(&self, tree: &str, path: &Path) -> Result<Path, Error> {
        let rest = if *path == Path::root() { "" } else { path.as_str() };
        let key = format!("{}{tree}{rest}", self.prefix.beneath());
        key.parse().map_err(|why| Error::invalid_path(path, why))
    }

    pub(super) fn file_key(&self, path: &Path) -> Result<Path, Error> {
        self.key(FILE, path)
    }

    pub(super) fn folder_key(&self, path: &Path) -> Result<Path, Error> {
        self.key(FOLDER, path)
    }

    pub(super) fn gone_key(&self, path: &Path) -> Result<Path, Error> {
        self.key(GONE, path)
    }

    /// A file that the agent wrote.
    pub(super) fn file(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        self.state.read(&self.file_key(path)?)
    }

    /// Whether the agent made this folder.
    pub(super) fn has_folder(&self, path: &Path) -> Result<bool, Error> {
        Ok(self.state.read(&self.folder_key(path)?)?.is_some())
    }

    /// Whether what is beneath here is gone by a mark of its own.
    pub(super) fn is_marked_gone(&self, path: &Path) -> Result<bool, Error> {
        Ok(self.state.read(&self.gone_key(path)?)?.is_some())
    }

    /// Whether nothing is seen of what is beneath here: it or a folder above it is gone, or was made anew.
    pub(super) fn is_hidden(&self, path: &Path) -> Result<bool, Error> {
        let mut at = path.clone();
        while at != Path::root() {
            if self.is_marked_gone(&at)? || self.has_folder(&at)? {
                return Ok(true);
            }
            at = at.parent();
        }
        Ok(false)
    }

    /// What the agent has directly in a folder.
    pub(super) fn children(&self, folder: &Path) -> Result<BTreeMap<String, Stat>, Error> {
        let mut children = BTreeMap::new();
        for (tree, is_file) in [(FOLDER, false), (FILE, true)] {
            let prefix = self.key(tree, folder)?.beneath();
            for key in self.state.paths(&prefix)? {
                let rest = key.strip_prefix(&prefix).unwrap_or_default();
                match rest.split_once('/') {
                    None if is_file => {
                        let at = key.parse().map_err(|why| Error::invalid_path(&key, why))?;
                        let size = self.state.read(&at)?.map_or(0, |content| content.len() as u64);
                        children.insert(rest.to_owned(), file(rest, FileType::Value, size));
                    }
                    None => drop(children.insert(rest.to_owned(), dir(rest))),
                    Some((name, _)) => drop(children.insert(name.to_owned(), dir(name))),
                }
            }
        }
        Ok(children)
    }

    /// The keys of marks for what is gone beneath a folder.
    pub(super) fn marks_beneath(&self, folder: &Path) -> Result<Vec<Path>, Error> {
        let keys = self.state.paths(&self.key(GONE, folder)?.beneath())?;
        keys.iter().map(|key| key.parse().map_err(|why| Error::invalid_path(key, why))).collect()
    }
}
