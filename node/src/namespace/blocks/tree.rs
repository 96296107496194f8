//! A tree of files in memory: what [`super::Memory`] locks and [`super::Fixed`] never changes. No I/O, no locks.

use std::collections::BTreeMap;
use std::sync::Arc;

use oa_nips::files::{Code, FileType, Stat};

use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::service::{dir, file};

type Folder = BTreeMap<String, Node>;

/// Folders and files beneath a root.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    root: Folder,
    /// Of all files' content.
    bytes: usize,
    /// Files and folders.
    entries: usize,
}

#[derive(Debug, Clone)]
enum Node {
    File(Arc<Vec<u8>>),
    Dir(Folder),
}

impl Node {
    fn stat(&self, name: &str) -> Stat {
        match self {
            Self::File(content) => file(name, FileType::Value, content.len() as u64),
            Self::Dir(_) => dir(name),
        }
    }
}

impl Tree {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    pub(super) fn stat(&self, path: &Path) -> Result<Stat, Error> {
        match path.name() {
            None => Ok(dir("")),
            Some(name) => Ok(self.node(path)?.stat(name)),
        }
    }

    pub(super) fn list(&self, path: &Path) -> Result<Vec<Stat>, Error> {
        let folder = self.folder(path, path)?;
        Ok(folder.iter().map(|(name, node)| node.stat(name)).collect())
    }

    pub(super) fn read(&self, path: &Path) -> Result<Arc<Vec<u8>>, Error> {
        if path.name().is_none() {
            return Err(Error::is_dir(path));
        }
        match self.node(path)? {
            Node::File(content) => Ok(Arc::clone(content)),
            Node::Dir(_) => Err(Error::is_dir(path)),
        }
    }

    /// The size of the file that would be written to; nothing when it would be created.
    pub(super) fn size(&self, path: &Path) -> Result<Option<usize>, Error> {
        let Some(name) = path.name() else { return Err(Error::is_dir(path)) };
        match self.folder(&path.parent(), path)?.get(name) {
            Some(Node::File(content)) => Ok(Some(content.len())),
            Some(Node::Dir(_)) => Err(Error::is_dir(path)),
            None => Ok(None),
        }
    }

    pub(super) fn write(&mut self, path: &Path, content: Vec<u8>) -> Result<(), Error> {
        let Some(name) = path.name() else { return Err(Error::is_dir(path)) };
        let added = content.len();
        let old = match self.folder_mut(path)?.get_mut(name) {
            Some(Node::Dir(_)) => return Err(Error::is_dir(path)),
            Some(Node::File(old)) => Some(std::mem::replace(old, Arc::new(content)).len()),
            None => {
                self.folder_mut(path)?.insert(name.to_owned(), Node::File(Arc::new(content)));
                None
            }
        };
        self.bytes = self.bytes + added - old.unwrap_or(0);
        self.entries += usize::from(old.is_none());
        Ok(())
    }

    pub(super) fn append(&mut self, path: &Path, more: &[u8]) -> Result<(), Error> {
        let Some(name) = path.name() else { return Err(Error::is_dir(path)) };
        match self.folder_mut(path)?.get_mut(name) {
            None => return self.write(path, more.to_vec()),
            Some(Node::Dir(_)) => return Err(Error::is_dir(path)),
            // A reader that still holds the old content keeps it.
            Some(Node::File(content)) => Arc::make_mut(content).extend_from_slice(more),
        }
        self.bytes += more.len();
        Ok(())
    }

    pub(super) fn mkdir(&mut self, path: &Path) -> Result<(), Error> {
        let exists = || Error::new(Code::Exists, path, "is there already");
        let Some(name) = path.name() else { return Err(exists()) };
        let folder = self.folder_mut(path)?;
        if folder.contains_key(name) {
            return Err(exists());
        }
        folder.insert(name.to_owned(), Node::Dir(Folder::new()));
        self.entries += 1;
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> Result<(), Error> {
        let Some(name) = path.name() else { return Err(Error::denied(path)) };
        if matches!(self.node(path)?, Node::Dir(folder) if !folder.is_empty()) {
            return Err(not_empty(path));
        }
        if let Some(Node::File(content)) = self.folder_mut(path)?.remove(name) {
            self.bytes -= content.len();
        }
        self.entries -= 1;
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Error> {
        let Some(old_name) = from.name() else { return Err(Error::denied(from)) };
        let is_dir = matches!(self.node(from)?, Node::Dir(_));
        let Some(new_name) = to.name() else { return Err(Error::denied(to)) };
        if from == to {
            return Ok(());
        }
        if is_dir && to.strip(from.as_str()).is_some() {
            return Err(into_itself(to));
        }
        match self.folder(&to.parent(), to)?.get(new_name) {
            None => {}
            Some(Node::File(_)) if is_dir => return Err(Error::not_dir(to)),
            Some(Node::Dir(_)) if !is_dir => return Err(Error::is_dir(to)),
            Some(Node::Dir(folder)) if !folder.is_empty() => return Err(not_empty(to)),
            Some(_) => self.remove(to)?,
        }
        if let Some(node) = self.folder_mut(from)?.remove(old_name) {
            self.folder_mut(to)?.insert(new_name.to_owned(), node);
        }
        Ok(())
    }

    fn node(&self, path: &Path) -> Result<&Node, Error> {
        let name = path.name().unwrap_or_default();
        self.folder(&path.parent(), path)?.get(name).ok_or_else(|| Error::not_found(path))
    }

    /// A folder; errors are about `asked`.
    fn folder(&self, at: &Path, asked: &Path) -> Result<&Folder, Error> {
        let mut folder = &self.root;
        for name in at.components() {
            match folder.get(name) {
                Some(Node::Dir(next)) => folder = next,
                Some(Node::File(_)) => return Err(Error::not_dir(asked)),
                None => return Err(Error::not_found(asked)),
            }
        }
        Ok(folder)
    }

    /// The folder that a path is in.
    fn folder_mut(&mut self, path: &Path) -> Result<&mut Folder, Error> {
        let mut folder = &mut self.root;
        for name in path.parent().components() {
            match folder.get_mut(name) {
                Some(Node::Dir(next)) => folder = next,
                Some(Node::File(_)) => return Err(Error::not_dir(path)),
                None => return Err(Error::not_found(path)),
            }
        }
        Ok(folder)
    }
}

/// What removing or replacing a folder that holds something fails with.
pub(super) fn not_empty(path: &Path) -> Error {
    Error::new(Code::Exists, path, "holds something")
}

/// What moving a folder to beneath itself fails with.
pub(super) fn into_itself(path: &Path) -> Error {
    Error::invalid(path, "a folder cannot move into itself")
}
