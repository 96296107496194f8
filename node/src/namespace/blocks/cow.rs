//! Copy-on-write: any service as it is, with what the agent changed laid over it.
//!
//! The changes are files of the agent's state, so they land with its ticks and travel with its bundle; the service
//! beneath is only read. Under the prefix that was chosen for the mount:
//!
//! - `f/<path>` is a file as the agent left it,
//! - `d/<path>` (empty) a folder that the agent made, which shows nothing of what is beneath,
//! - `w/<path>` (empty) says that what is beneath is gone, with all that is in it.
//!
//! Files win over folders over gone-marks. Watching tells of changes beneath; those of the agent itself are told by
//! who serves its state.

mod moving;
mod upper;

use std::collections::BTreeMap;
use std::sync::Arc;

use oa_nips::files::{Code, FileType};

use self::upper::Upper;
use crate::namespace::FILE_BYTES_MAX;
use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::service::{
    Answer, Change, Context, Effect, FileService, Span, Stat, Watch, dir, file, not_taken,
};

/// Files and folders that one rename moves at most.
pub const MOVED_ENTRIES_MAX: usize = 1000;
/// Bytes that one rename moves at most: they are copied into the agent's state.
pub const MOVED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A service with an agent's changes over it.
#[derive(Debug)]
pub struct Cow {
    lower: Arc<dyn FileService>,
    /// Where in the agent's state.
    prefix: Path,
    file_bytes_max: usize,
}

impl Cow {
    /// Keeps the changes of `lower` under `prefix` of the agent's state, such as `/cow/workspace`.
    pub fn new(lower: Arc<dyn FileService>, prefix: Path) -> Self {
        Self { lower, prefix, file_bytes_max: FILE_BYTES_MAX }
    }

    /// Takes files up to this many bytes, instead of [`FILE_BYTES_MAX`].
    #[must_use]
    pub fn holding(self, file_bytes_max: usize) -> Self {
        Self { file_bytes_max, ..self }
    }

    fn upper<'a>(&'a self, cx: &Context<'a>) -> Result<Upper<'a>, Error> {
        Ok(Upper::new(cx.subject()?.state, &self.prefix))
    }

    /// What is beneath, unless it is gone.
    async fn lower_stat(&self, cx: &Context<'_>, path: &Path) -> Result<Option<Stat>, Error> {
        if self.upper(cx)?.is_hidden(path)? {
            return Ok(None);
        }
        match self.lower.stat(cx, path).await {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if matches!(error.code, Code::NotFound | Code::NotDir) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a path is, whoever has it.
    async fn find(&self, cx: &Context<'_>, path: &Path) -> Result<Option<Stat>, Error> {
        let Some(name) = path.name() else { return Ok(Some(dir(""))) };
        let upper = self.upper(cx)?;
        if let Some(content) = upper.file(path)? {
            return Ok(Some(file(name, FileType::Value, content.len() as u64)));
        }
        if upper.has_folder(path)? {
            return Ok(Some(dir(name)));
        }
        match self.lower_stat(cx, path).await? {
            Some(stat) => Ok(Some(stat)),
            // The folder that a file of ours is in may have gone away beneath it.
            None => Ok((!upper.children(path)?.is_empty()).then(|| dir(name))),
        }
    }

    async fn get(&self, cx: &Context<'_>, path: &Path) -> Result<Stat, Error> {
        self.check_parent(cx, path).await?;
        self.find(cx, path).await?.ok_or_else(|| Error::not_found(path))
    }

    /// Refuses a path whose folder is none, or is not there.
    async fn check_parent(&self, cx: &Context<'_>, path: &Path) -> Result<(), Error> {
        // From the root, so that a file in the way is found before what would be beneath it.
        let mut folder = Path::root();
        for name in path.parent().components() {
            folder = folder.join(name).map_err(|why| Error::invalid_path(path, why))?;
            match self.find(cx, &folder).await? {
                Some(stat) if stat.file_type == FileType::Dir => {}
                Some(_) => return Err(Error::not_dir(path)),
                None => return Err(Error::not_found(path)),
            }
        }
        Ok(())
    }

    async fn entries(&self, cx: &Context<'_>, path: &Path) -> Result<Vec<Stat>, Error> {
        let upper = self.upper(cx)?;
        let mut entries = BTreeMap::new();
        if self.lower_stat(cx, path).await?.is_some() {
            for stat in self.lower.list(cx, path).await? {
                let at = path.join(&stat.name).map_err(|why| Error::invalid_path(path, why))?;
                if !upper.is_marked_gone(&at)? {
                    entries.insert(stat.name.clone(), stat);
                }
            }
        }
        entries.extend(upper.children(path)?);
        Ok(entries.into_values().collect())
    }

    async fn content(&self, cx: &Context<'_>, path: &Path, span: Span) -> Result<Vec<u8>, Error> {
        match self.upper(cx)?.file(path)? {
            Some(content) => Ok(span.of(&content)),
            None => self.lower.read(cx, path, span).await,
        }
    }

    /// All of a file that is to be copied.
    async fn whole(&self, cx: &Context<'_>, path: &Path) -> Result<Vec<u8>, Error> {
        // One more than is taken, to see whether there is more.
        let span = Span { offset: 0, count: self.file_bytes_max.saturating_add(1) };
        let content = self.content(cx, path, span).await?;
        if content.len() > self.file_bytes_max {
            return Err(Error::too_large(path, self.file_bytes_max));
        }
        Ok(content)
    }

    async fn put(&self, cx: &Context<'_>, path: &Path, change: &Change) -> Result<Changes, Error> {
        self.check_parent(cx, path).await?;
        let found = self.find(cx, path).await?;
        if found.as_ref().is_some_and(|stat| stat.file_type == FileType::Dir) {
            return Err(Error::is_dir(path));
        }
        let content = match (change, found) {
            (Change::Append(more), Some(_)) => [&self.whole(cx, path).await?, more.as_slice()].concat(),
            _ => change.body().to_vec(),
        };
        if content.len() > self.file_bytes_max {
            return Err(Error::too_large(path, self.file_bytes_max));
        }
        let mut changes = Changes::default();
        changes.insert(self.upper(cx)?.file_key(path)?, Some(content));
        Ok(changes)
    }

    async fn mkdir(&self, cx: &Context<'_>, path: &Path) -> Result<Changes, Error> {
        self.check_parent(cx, path).await?;
        if self.find(cx, path).await?.is_some() {
            return Err(Error::new(Code::Exists, path, "is there already"));
        }
        let mut changes = Changes::default();
        changes.insert(self.upper(cx)?.folder_key(path)?, Some(Vec::new()));
        Ok(changes)
    }
}

/// Files of the agent's state; nothing for one that goes.
type Changes = BTreeMap<Path, Option<Vec<u8>>>;

impl FileService for Cow {
    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(self.get(cx, path))
    }

    fn list<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move {
            if self.get(cx, path).await?.file_type != FileType::Dir {
                return Err(Error::not_dir(path));
            }
            self.entries(cx, path).await
        })
    }

    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            if self.get(cx, path).await?.file_type == FileType::Dir {
                return Err(Error::is_dir(path));
            }
            self.content(cx, path, span).await
        })
    }

    fn change<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async move {
            let changes = match change {
                Change::Write(_) | Change::Append(_) => self.put(cx, path, change).await?,
                Change::Mkdir => self.mkdir(cx, path).await?,
                Change::Remove => self.remove(cx, path).await?,
                Change::Rename(to) => self.rename(cx, path, to).await?,
                Change::Call(_) => return Err(not_taken(path, change)),
            };
            Ok(Effect { files: changes.into_iter().collect(), ..Effect::default() })
        })
    }

    fn watch(&self, cx: &Context<'_>, path: &Path) -> Result<Watch, Error> {
        self.lower.watch(cx, path)
    }
}

#[cfg(test)]
mod tests;
