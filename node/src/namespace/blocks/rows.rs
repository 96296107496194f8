//! A folder whose files are rows of something: mail, peers, approvals. The functions are asked by the file's name.

use std::fmt;
use std::sync::Arc;

use oa_nips::files::Code;

use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::service::{
    Answer, Change, Context, Effect, FileService, FileType, Span, Stat, Watch, dir, file, not_taken,
};

type List = Box<dyn Fn(&Context<'_>) -> Result<Vec<Stat>, Error> + Send + Sync>;
type Read = Box<dyn Fn(&Context<'_>, &str) -> Result<Option<Vec<u8>>, Error> + Send + Sync>;
type Decide = Box<dyn Fn(&Context<'_>, &str, &Change) -> Result<Effect, Error> + Send + Sync>;
type WatchFor = Box<dyn Fn(&Context<'_>) -> Result<Watch, Error> + Send + Sync>;

/// A flat folder with a file for each row.
pub struct Rows {
    list: List,
    read: Read,
    change: Option<Decide>,
    watch: Option<WatchFor>,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rows")
    }
}

impl Rows {
    /// Rows by what lists them, in any order, and what reads one: nothing where there is none of that name.
    pub fn new<L, R>(list: L, read: R) -> Self
    where
        L: Fn(&Context<'_>) -> Result<Vec<Stat>, Error> + Send + Sync + 'static,
        R: Fn(&Context<'_>, &str) -> Result<Option<Vec<u8>>, Error> + Send + Sync + 'static,
    {
        Self { list: Box::new(list), read: Box::new(read), change: None, watch: None }
    }

    /// Takes changes of files, whether they exist or not; the function refuses what it does not take.
    #[must_use]
    pub fn changed_by<W>(mut self, change: W) -> Self
    where
        W: Fn(&Context<'_>, &str, &Change) -> Result<Effect, Error> + Send + Sync + 'static,
    {
        self.change = Some(Box::new(change));
        self
    }

    /// Says who tells of changes, of any row. To be woken too often does no harm.
    #[must_use]
    pub fn watched<W>(mut self, watch: W) -> Self
    where
        W: Fn(&Context<'_>) -> Result<Watch, Error> + Send + Sync + 'static,
    {
        self.watch = Some(Box::new(watch));
        self
    }

    /// The service.
    pub fn build(self) -> Arc<dyn FileService> {
        Arc::new(self)
    }

    fn find(&self, cx: &Context<'_>, path: &Path) -> Result<Stat, Error> {
        let Some(name) = row(path)? else { return Ok(dir("")) };
        if let Some(content) = (self.read)(cx, name)? {
            return Ok(file(name, FileType::Value, content.len() as u64));
        }
        // What is only written has no content, but may be listed.
        let listed = (self.list)(cx)?.into_iter().find(|stat| stat.name == name);
        listed.ok_or_else(|| Error::not_found(path))
    }
}

/// The name of the row that a path is; nothing for the folder itself.
fn row(path: &Path) -> Result<Option<&str>, Error> {
    let mut parts = path.components();
    match (parts.next(), parts.next()) {
        (name, None) => Ok(name),
        _ => Err(Error::not_found(path)),
    }
}

impl FileService for Rows {
    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async move { self.find(cx, path) })
    }

    fn list<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move {
            if row(path)?.is_some() {
                return self.find(cx, path).and_then(|_| Err(Error::not_dir(path)));
            }
            let mut stats = (self.list)(cx)?;
            stats.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(stats)
        })
    }

    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            let name = row(path)?.ok_or_else(|| Error::is_dir(path))?;
            match (self.read)(cx, name)? {
                Some(content) => Ok(span.of(&content)),
                None => self
                    .find(cx, path)
                    .and_then(|_| Err(Error::new(Code::PermissionDenied, path, "is not to be read"))),
            }
        })
    }

    fn change<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async move {
            match (row(path)?, &self.change) {
                (Some(name), Some(decide)) => decide(cx, name, change),
                _ => Err(not_taken(path, change)),
            }
        })
    }

    fn watch(&self, cx: &Context<'_>, path: &Path) -> Result<Watch, Error> {
        match &self.watch {
            Some(watch) => watch(cx),
            None => Err(Error::new(oa_nips::files::Code::Unavailable, path, "cannot be watched")),
        }
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::files::Code;

    use super::super::conformance::{Driver, path};
    use super::*;

    #[tokio::test]
    async fn rows_are_files() {
        let list =
            |_: &Context<'_>| Ok(vec![file("b.json", FileType::Value, 2), file("a", FileType::Append, 0)]);
        let read = |_: &Context<'_>, name: &str| Ok((name == "b.json").then(|| b"{}".to_vec()));
        let rows = Rows::new(list, read).changed_by(|_, name, change| match change {
            Change::Append(body) => Ok(Effect::file(path("/memory/x"), Some(body.clone()))),
            _ => Err(Error::denied(name)),
        });
        let mut driver = Driver::new(rows.build());
        assert_eq!(driver.names("/").await.unwrap(), ["a", "b.json"]);
        assert_eq!(driver.read("/b.json").await.unwrap(), b"{}");
        assert_eq!(driver.read("/a").await, Err(Code::PermissionDenied));
        assert_eq!(driver.read("/none").await, Err(Code::NotFound));
        assert_eq!(driver.read("/").await, Err(Code::IsDir));
        assert_eq!(driver.list("/b.json").await, Err(Code::NotDir));
        assert_eq!(driver.list("/none").await, Err(Code::NotFound));
        assert_eq!(driver.stat("/a").await.unwrap().file_type, FileType::Append);
        assert_eq!(driver.stat("/a/b").await, Err(Code::NotFound));
        assert_eq!(driver.apply("/a", Change::Append(b"y".to_vec())).await, Ok(vec![]));
        assert_eq!(driver.state.0[&path("/memory/x")], b"y");
        assert_eq!(driver.apply("/a", Change::Remove).await, Err(Code::PermissionDenied));
        assert_eq!(driver.apply("/", Change::Remove).await, Err(Code::PermissionDenied));
    }
}
