//! Files that never change: help texts, examples, what a build knows.

use super::tree::Tree;
use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::service::{Answer, Change, Context, Effect, FileService, Span, Stat, not_taken};

/// A tree of constant files.
#[derive(Debug, Clone, Default)]
pub struct Fixed(Tree);

impl Fixed {
    /// Files by path; the folders between come by themselves.
    ///
    /// # Errors
    /// When one path is a file and a folder at once.
    pub fn new<C: Into<Vec<u8>>>(files: impl IntoIterator<Item = (Path, C)>) -> Result<Self, Error> {
        let mut tree = Tree::default();
        for (path, content) in files {
            make_folders(&mut tree, &path.parent())?;
            tree.write(&path, content.into())?;
        }
        Ok(Self(tree))
    }
}

fn make_folders(tree: &mut Tree, folder: &Path) -> Result<(), Error> {
    if tree.stat(folder).is_err() {
        make_folders(tree, &folder.parent())?;
        tree.mkdir(folder)?;
    }
    Ok(())
}

impl FileService for Fixed {
    fn stat<'a>(&'a self, _cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async move { self.0.stat(path) })
    }

    fn list<'a>(&'a self, _cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move { self.0.list(path) })
    }

    fn read<'a>(&'a self, _cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move { self.0.read(path).map(|content| span.of(&content)) })
    }

    fn change<'a>(&'a self, _cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async move {
            if matches!(change, Change::Remove | Change::Rename(_)) {
                self.0.stat(path)?;
            }
            Err(not_taken(path, change))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use oa_nips::files::Code;

    use super::super::conformance::{Driver, path};
    use super::*;

    #[tokio::test]
    async fn it_is_read_and_never_changed() {
        let files = [(path("/help/a"), "one"), (path("/help/more/b"), "two"), (path("/c"), "")];
        let mut driver = Driver::new(Arc::new(Fixed::new(files).unwrap()));
        assert_eq!(driver.names("/").await.unwrap(), ["c", "help/"]);
        assert_eq!(driver.names("/help").await.unwrap(), ["a", "more/"]);
        assert_eq!(driver.read("/help/more/b").await.unwrap(), b"two");
        assert_eq!(driver.read_span("/help/more/b", 1, 1).await.unwrap(), b"w");
        assert_eq!(driver.read("/help").await, Err(Code::IsDir));
        let write = || Change::Write(Vec::new());
        for change in [write(), Change::Mkdir, Change::Remove, Change::Rename(path("/d"))] {
            assert_eq!(driver.apply("/c", change).await, Err(Code::PermissionDenied));
        }
        assert_eq!(driver.apply("/none", Change::Remove).await, Err(Code::NotFound));
    }

    #[test]
    fn a_file_cannot_be_a_folder() {
        for files in [["/a", "/a/b"], ["/a/b", "/a"]] {
            assert!(Fixed::new(files.map(|text| (path(text), ""))).is_err());
        }
    }
}
