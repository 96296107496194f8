//! The file system's operations, one a function, on a tree somewhere else. What the kernel sends is translated in
//! [`super::kernel`]; what opened files do is in [`super::handle`].

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use fuser::{Errno, RenameFlags};
use oa_nips::files::{FileType, Stat};
use rustix::fs::OFlags;

use super::buffer::{Budget, Buffer};
use super::handle::{self, Closer, Handle, Owner, Place, Site};
use super::inodes::{Inode, Inodes, ROOT, is_name, join};
use super::opened::Opened;
use super::process::Pid;
use super::remote::Remote;

/// The state of a mount.
pub(super) struct Fs {
    point: PathBuf,
    remote: Remote,
    inodes: Inodes,
    budget: Budget,
    files: Opened<Handle>,
    folders: Opened<Folder>,
}

/// An opened folder: its entries as of when it was read from the beginning.
type Folder = Mutex<Arc<[Stat]>>;

impl Fs {
    /// A tree that is mounted on `point`.
    pub(super) fn new(remote: Remote, point: PathBuf) -> Self {
        let (inodes, budget) = (Inodes::new(), Budget::default());
        Self { point, remote, inodes, budget, files: Opened::new(), folders: Opened::new() }
    }

    fn site(&self, ino: u64) -> Site<'_> {
        Site { remote: &self.remote, inodes: &self.inodes, ino, budget: &self.budget, point: &self.point }
    }

    /// With the size of what is written here and not yet sent, if there is any.
    fn with_local_size(&self, mut inode: Inode) -> Inode {
        let unsent = self.files.of(inode.ino).iter().rev().find_map(|handle| handle.unsent_size());
        inode.size = unsent.unwrap_or(inode.size);
        inode
    }

    /// What a name in a folder is. The kernel is told its number.
    pub(super) async fn lookup(&self, parent: u64, name: &OsStr) -> Result<Inode, Errno> {
        let path = self.inodes.child(parent, name)?;
        if let Some(inode) = self.inodes.enter_new(&path) {
            return Ok(self.with_local_size(inode));
        }
        let stat = self.remote.stat(&path).await?;
        Ok(self.with_local_size(self.inodes.enter(&path, stat.file_type, stat.size)?))
    }

    /// The kernel forgets a number.
    pub(super) fn forget(&self, ino: u64, lookups: u64) {
        self.inodes.forget(ino, lookups);
    }

    /// What a number is now. The mount itself is always there.
    pub(super) async fn stat(&self, ino: u64, fh: Option<u64>) -> Result<Inode, Errno> {
        let mut inode = self.inodes.get(ino)?;
        if ino == ROOT {
            return Ok(inode);
        }
        if let Some(size) = fh.and_then(|fh| self.files.get(ino, fh).ok()?.unsent_size()) {
            inode.size = size;
            return Ok(inode);
        }
        let Ok(path) = self.inodes.path(ino) else {
            // Removed, and still open.
            let open = self.files.of(ino);
            inode.size = open.iter().rev().find_map(|handle| handle.size()).unwrap_or(inode.size);
            return if open.is_empty() { Err(Errno::ESTALE) } else { Ok(inode) };
        };
        if self.inodes.is_new(ino) {
            return Ok(self.with_local_size(inode));
        }
        let stat = self.remote.stat(&path).await?;
        Ok(self.with_local_size(self.inodes.note(ino, stat.file_type, stat.size)?))
    }

    /// Gives a file this modification time, for as long as its number is known.
    pub(super) fn touch(&self, ino: u64, at: SystemTime) {
        self.inodes.touch(ino, at);
    }

    /// Cuts a file or fills it up with zeros: an opened one when it is flushed, else at once.
    pub(super) async fn resize(&self, ino: u64, fh: Option<u64>, size: u64) -> Result<(), Errno> {
        let new = || self.files.of(ino).into_iter().next_back().filter(|_| self.inodes.is_new(ino));
        let handle = match fh {
            Some(fh) => Some(self.files.get(ino, fh)?),
            None => new(),
        };
        if let Some(handle) = handle {
            return handle.resize(self.site(ino), size).await;
        }
        match self.inodes.get(ino)?.kind {
            FileType::Dir => Err(Errno::EISDIR),
            FileType::Append | FileType::Call if size == 0 => Ok(()),
            FileType::Append | FileType::Call | FileType::Stream => Err(Errno::EINVAL),
            FileType::Value => self.resize_value(ino, handle::len(size)?).await,
        }
    }

    async fn resize_value(&self, ino: u64, len: usize) -> Result<(), Errno> {
        let path = self.inodes.path(ino)?;
        let mut body = Vec::new();
        if len > 0 {
            let old = self.remote.read_all(&path, self.inodes.get(ino)?.size).await?;
            let mut buffer = Buffer::of(old, &self.budget)?;
            buffer.resize(len)?;
            body = buffer.take();
        }
        self.remote.write(&path, body).await?;
        self.inodes.sent(ino);
        Ok(())
    }

    /// Creates a folder.
    pub(super) async fn mkdir(&self, parent: u64, name: &OsStr) -> Result<Inode, Errno> {
        let path = self.inodes.child(parent, name)?;
        self.remote.mkdir(&path).await?;
        self.inodes.enter(&path, FileType::Dir, 0)
    }

    /// Removes a file.
    pub(super) async fn unlink(&self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let path = self.inodes.child(parent, name)?;
        if !self.is_new_at(&path) {
            self.remote.remove(&path).await?;
        }
        self.inodes.detach(&path);
        Ok(())
    }

    /// Whether there is a file at this path of which the tree does not know yet.
    fn is_new_at(&self, path: &str) -> bool {
        let Some(inode) = self.inodes.enter_new(path) else { return false };
        self.inodes.forget(inode.ino, 1);
        true
    }

    /// Removes an empty folder. Whether it is empty is looked at here: a tree that removes what is beneath too would
    /// surprise `rmdir`.
    pub(super) async fn rmdir(&self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let path = self.inodes.child(parent, name)?;
        if !self.remote.list(&path).await?.is_empty() || !self.inodes.new_in(&path).is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.remote.remove(&path).await.map_err(not_empty)?;
        self.inodes.detach(&path);
        Ok(())
    }

    /// Moves a file or folder; what was there is replaced.
    pub(super) async fn rename(
        &self,
        (parent, name): (u64, &OsStr),
        (new_parent, new_name): (u64, &OsStr),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let from = self.inodes.child(parent, name)?;
        let to = self.inodes.child(new_parent, new_name)?;
        if !RenameFlags::RENAME_NOREPLACE.contains(flags) {
            return Err(Errno::EINVAL);
        }
        // Somebody may create it in between: the tree knows no such condition.
        if flags.contains(RenameFlags::RENAME_NOREPLACE) {
            match self.remote.stat(&to).await {
                Err(Errno::ENOENT) if !self.is_new_at(&to) => {}
                Err(Errno::ENOENT) | Ok(_) => return Err(Errno::EEXIST),
                Err(error) => return Err(error),
            }
        }
        // A file that the tree does not know yet will be sent to where it is then, over what is there.
        if !self.is_new_at(&from) {
            let is_folder = self.inodes.kind_at(&from) == Some(FileType::Dir);
            let renamed = self.remote.rename(&from, &to).await;
            renamed.map_err(|error| if is_folder { not_empty(error) } else { error })?;
        }
        self.inodes.moved(&from, &to);
        Ok(())
    }

    /// Opens a file.
    pub(super) async fn open(&self, ino: u64, flags: OFlags, opener: Pid) -> Result<u64, Errno> {
        let handle = Handle::open(self.site(ino), flags, opener).await?;
        self.files.add(ino, handle)
    }

    /// Creates a file and opens it. The tree is told with the content, at the first flush: an empty file may be
    /// nothing that it takes, and nobody should see a half one.
    pub(super) fn create(
        &self,
        parent: u64,
        name: &OsStr,
        flags: OFlags,
        opener: Pid,
    ) -> Result<(Inode, u64), Errno> {
        let path = self.inodes.child(parent, name)?;
        let inode = self.inodes.create(&path)?;
        match self.files.add(inode.ino, Handle::create(flags, opener, &self.budget)) {
            Ok(fh) => Ok((inode, fh)),
            Err(error) => {
                self.inodes.detach(&path);
                self.inodes.forget(inode.ino, 1);
                Err(error)
            }
        }
    }

    /// Reads a part of an opened file.
    pub(super) async fn read(&self, ino: u64, fh: u64, offset: u64, count: u32) -> Result<Vec<u8>, Errno> {
        self.files.get(ino, fh)?.read(self.site(ino), offset, count).await
    }

    /// Takes what is written to an opened file.
    pub(super) async fn write(
        &self,
        (ino, fh): (u64, u64),
        writer: Option<Owner>,
        place: Place,
        data: &[u8],
    ) -> Result<(), Errno> {
        self.files.get(ino, fh)?.write(self.site(ino), writer, place, data).await
    }

    /// Sends what was written to an opened file, as far as it is complete.
    pub(super) async fn flush(&self, ino: u64, fh: u64, closer: Closer) -> Result<(), Errno> {
        let result = self.files.get(ino, fh)?.flush(self.site(ino), closer).await;
        self.told(ino, result)
    }

    /// Sends what was written to an opened file.
    pub(super) async fn sync(&self, ino: u64, fh: u64) -> Result<(), Errno> {
        let result = self.files.get(ino, fh)?.sync(self.site(ino)).await;
        self.told(ino, result)
    }

    /// Says so here too: not every program looks at what `close` says, a shell's redirection does not.
    fn told(&self, ino: u64, result: Result<(), Errno>) -> Result<(), Errno> {
        result.inspect_err(|error| {
            let path = self.inodes.path(ino).unwrap_or_else(|_| Arc::from("a removed file"));
            let error = std::io::Error::from_raw_os_error(error.code());
            tracing::warn!(%path, %error, "what was written was not taken");
        })
    }

    /// Closes an opened file for good.
    pub(super) async fn release(&self, ino: u64, fh: u64) -> Result<(), Errno> {
        let handle = self.files.close(ino, fh)?;
        let _ = self.told(ino, handle.release(self.site(ino)).await);
        if self.inodes.is_new(ino)
            && self.files.of(ino).is_empty()
            && let Ok(path) = self.inodes.path(ino)
        {
            self.inodes.detach(&path);
        }
        Ok(())
    }

    /// Files with changes that are not sent.
    pub(super) fn unsent(&self) -> Vec<Arc<str>> {
        let unsent = self.files.all().into_iter().filter(|(_, handle)| handle.unsent_size().is_some());
        unsent.filter_map(|(ino, _)| self.inodes.path(ino).ok()).collect()
    }

    /// Opens a folder.
    pub(super) fn open_folder(&self, ino: u64) -> Result<u64, Errno> {
        self.folders.add(ino, Mutex::new(Arc::from([])))
    }

    /// The entries of an opened folder, read anew by whoever begins at 0.
    pub(super) async fn entries(&self, ino: u64, fh: u64, offset: u64) -> Result<Arc<[Stat]>, Errno> {
        let folder = self.folders.get(ino, fh)?;
        if offset > 0 {
            return Ok(Arc::clone(&folder.lock().unwrap_or_else(PoisonError::into_inner)));
        }
        let path = self.inodes.path(ino)?;
        let mut entries = self.remote.list(&path).await?;
        entries.retain(|entry| is_name(&entry.name));
        let new = self.inodes.new_in(&path).into_iter();
        entries.extend(new.map(|name| Stat { name, file_type: FileType::Value, size: 0, start: 0 }));
        let entries: Arc<[Stat]> = Arc::from(entries);
        *folder.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&entries);
        Ok(entries)
    }

    /// Tells the kernel of an entry of a folder, with its number.
    pub(super) fn enter(&self, folder: u64, entry: &Stat) -> Result<Inode, Errno> {
        let path = join(&self.inodes.path(folder)?, &entry.name);
        let inode = match self.inodes.enter_new(&path) {
            Some(inode) => inode,
            None => self.inodes.enter(&path, entry.file_type, entry.size)?,
        };
        Ok(self.with_local_size(inode))
    }

    /// Closes an opened folder.
    pub(super) fn close_folder(&self, ino: u64, fh: u64) -> Result<(), Errno> {
        self.folders.close(ino, fh).map(drop)
    }
}

/// The protocol has one code for a name that is taken and for a folder that is not empty.
fn not_empty(error: Errno) -> Errno {
    if error == Errno::EEXIST { Errno::ENOTEMPTY } else { error }
}
