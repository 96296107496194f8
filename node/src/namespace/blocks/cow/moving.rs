//! Removing and renaming over a service that is only read: marks for what is gone, copies for what moved.

use oa_nips::files::{Code, FileType, Stat};

use super::{Changes, Cow, MOVED_BYTES_MAX, MOVED_ENTRIES_MAX};
use crate::namespace::blocks::tree::{into_itself, not_empty};
use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::service::Context;

impl Cow {
    pub(super) async fn remove(&self, cx: &Context<'_>, path: &Path) -> Result<Changes, Error> {
        if *path == Path::root() {
            return Err(Error::denied(path));
        }
        let stat = self.get(cx, path).await?;
        self.check_empty(cx, path, &stat).await?;
        let mut changes = Changes::default();
        self.let_go(cx, path, &mut changes).await?;
        Ok(changes)
    }

    async fn check_empty(&self, cx: &Context<'_>, path: &Path, stat: &Stat) -> Result<(), Error> {
        let holds = stat.file_type == FileType::Dir && !self.entries(cx, path).await?.is_empty();
        if holds { Err(not_empty(path)) } else { Ok(()) }
    }

    /// Makes a path be gone, of whose content the agent's part is dealt with.
    async fn let_go(&self, cx: &Context<'_>, path: &Path, changes: &mut Changes) -> Result<(), Error> {
        let upper = self.upper(cx)?;
        for (key, is_there) in [
            (upper.file_key(path)?, upper.file(path)?.is_some()),
            (upper.folder_key(path)?, upper.has_folder(path)?),
        ] {
            if is_there {
                changes.insert(key, None);
            }
        }
        // A folder that the agent made hides what is beneath only as long as it is there.
        let is_above_hidden = upper.is_hidden(&path.parent())?;
        if !is_above_hidden && self.lower.stat(cx, path).await.is_ok() {
            changes.insert(upper.gone_key(path)?, Some(Vec::new()));
        }
        // The one mark stands for those beneath it.
        changes.extend(upper.marks_beneath(path)?.into_iter().map(|key| (key, None)));
        Ok(())
    }

    pub(super) async fn rename(&self, cx: &Context<'_>, from: &Path, to: &Path) -> Result<Changes, Error> {
        for path in [from, to] {
            if path == &Path::root() {
                // What is not there is said first, as everywhere.
                self.get(cx, from).await?;
                return Err(Error::denied(path));
            }
        }
        let moved = self.get(cx, from).await?;
        if from == to {
            return Ok(Changes::default());
        }
        let is_dir = moved.file_type == FileType::Dir;
        if is_dir && to.strip(from.as_str()).is_some() {
            return Err(into_itself(to));
        }
        self.check_parent(cx, to).await?;
        let mut changes = Changes::default();
        if let Some(replaced) = self.find(cx, to).await? {
            match (is_dir, replaced.file_type == FileType::Dir) {
                (true, false) => return Err(Error::not_dir(to)),
                (false, true) => return Err(Error::is_dir(to)),
                _ => self.check_empty(cx, to, &replaced).await?,
            }
        }
        self.copy(cx, from, to, moved, &mut changes).await?;
        Ok(changes)
    }

    /// Lays a file or a folder with all it holds over another path, and lets it go where it was.
    async fn copy(
        &self,
        cx: &Context<'_>,
        from: &Path,
        to: &Path,
        moved: Stat,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        let upper = self.upper(cx)?;
        let (mut entries, mut bytes) = (0_usize, 0_usize);
        let mut waiting = vec![(from.clone(), to.clone(), moved)];
        let mut gone = Changes::default();
        while let Some((old, new, stat)) = waiting.pop() {
            entries += 1;
            if stat.file_type == FileType::Dir {
                changes.insert(upper.folder_key(&new)?, Some(Vec::new()));
                for stat in self.entries(cx, &old).await? {
                    let at = |folder: &Path| {
                        folder.join(&stat.name).map_err(|why| Error::invalid_path(folder, why))
                    };
                    let (old, new) = (at(&old)?, at(&new)?);
                    waiting.push((old, new, stat));
                }
            } else {
                let content = self.whole(cx, &old).await?;
                bytes += content.len();
                changes.insert(upper.file_key(&new)?, Some(content));
            }
            if entries + waiting.len() > MOVED_ENTRIES_MAX {
                let reason = format!("holds over {MOVED_ENTRIES_MAX} files and folders");
                return Err(Error::new(Code::TooLarge, from, reason));
            }
            if bytes > MOVED_BYTES_MAX {
                return Err(Error::too_large(from, MOVED_BYTES_MAX));
            }
            self.let_go(cx, &old, &mut gone).await?;
        }
        // One mark at the top says it all.
        gone.retain(|_, content| content.is_none());
        self.let_go(cx, from, &mut gone).await?;
        changes.append(&mut gone);
        Ok(())
    }
}
