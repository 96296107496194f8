//! What `stat` shows, and for how long the kernel may believe it.

use std::time::Duration;

use fuser::{FileAttr, INodeNo};
use oa_nips::files::FileType;

use super::inodes::Inode;

/// How long a name or a size is believed before the tree is asked again.
pub(super) const TTL: Duration = Duration::from_secs(1);

/// The user who mounts: nobody else is let in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    /// Whoever runs this.
    pub(super) fn current() -> Self {
        Self { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() }
    }

    /// What `stat` shows. The modes say what a type of file is for; what is allowed the tree decides at each use.
    pub(super) fn attr(self, inode: &Inode) -> FileAttr {
        let Inode { ino, kind, size, changed } = *inode;
        let perm = match kind {
            FileType::Dir => 0o700,
            FileType::Value | FileType::Append | FileType::Call => 0o600,
            FileType::Stream => 0o400,
        };
        FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: changed,
            mtime: changed,
            ctime: changed,
            crtime: changed,
            kind: kind_of(kind),
            perm,
            nlink: if kind == FileType::Dir { 2 } else { 1 },
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// Call, append and stream files are regular files too, else programs would not open them.
pub(super) fn kind_of(kind: FileType) -> fuser::FileType {
    match kind {
        FileType::Dir => fuser::FileType::Directory,
        FileType::Value | FileType::Append | FileType::Call | FileType::Stream => {
            fuser::FileType::RegularFile
        }
    }
}

/// How long these attributes are believed: not at all where the size grows by itself, or is not known.
pub(super) fn ttl(inode: &Inode) -> Duration {
    match inode.kind {
        FileType::Stream => Duration::ZERO,
        FileType::Value if inode.size == 0 => Duration::ZERO,
        FileType::Dir | FileType::Value | FileType::Append | FileType::Call => TTL,
    }
}
