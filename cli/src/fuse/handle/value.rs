//! A value that is open: a snapshot to read from, changes that are sent whole.
//!
//! Each handle has its own snapshot: whoever reads sees one version from beginning to end, whatever is written
//! meanwhile. Of two that write, the last to close wins.

use std::sync::{Mutex, MutexGuard, PoisonError};

use fuser::Errno;

use super::{Place, Site};
use crate::fuse::buffer::{Budget, Buffer};

/// The version of a file that was emptied and not written since.
const EMPTIED: u64 = 1;

/// One handle's view of a value.
#[derive(Debug)]
pub(super) struct Value {
    content: Mutex<Content>,
    /// Held while the tree is asked: it is read once, and written in order.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Content {
    /// None until it is needed.
    buffer: Option<Buffer>,
    /// Counts changes.
    version: u64,
    /// The version that the tree has.
    sent: u64,
}

impl Value {
    /// What the tree has, read when it is needed.
    pub(super) fn unread() -> Self {
        Self::new(Content { buffer: None, version: EMPTIED, sent: EMPTIED })
    }

    /// Nothing in it, which is to be sent.
    pub(super) fn emptied(budget: &Budget) -> Self {
        Self::new(Content { buffer: Some(Buffer::empty(budget)), version: EMPTIED, sent: 0 })
    }

    fn new(content: Content) -> Self {
        Self { content: Mutex::new(content), turn: tokio::sync::Mutex::new(()) }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads it from the tree, unless that was done.
    ///
    /// # Errors
    /// What the tree says.
    pub(super) async fn load(&self, site: Site<'_>) -> Result<(), Errno> {
        if self.content().buffer.is_some() {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        if self.content().buffer.is_some() {
            return Ok(());
        }
        let size_hint = site.inodes.get(site.ino)?.size;
        let bytes = site.remote.read_all(&site.path()?, size_hint).await?;
        self.content().buffer = Some(Buffer::of(bytes, site.budget)?);
        Ok(())
    }

    /// Reads a part of the snapshot.
    ///
    /// # Errors
    /// As [`Value::load`].
    pub(super) async fn read(&self, site: Site<'_>, offset: u64, count: u32) -> Result<Vec<u8>, Errno> {
        self.load(site).await?;
        let content = self.content();
        Ok(content.buffer.as_ref().map(|buffer| buffer.span(offset, count).to_vec()).unwrap_or_default())
    }

    /// Changes a part.
    ///
    /// # Errors
    /// As [`Value::load`]; `EFBIG`, `ENOMEM`.
    pub(super) async fn write(&self, site: Site<'_>, place: Place, data: &[u8]) -> Result<(), Errno> {
        let change = |buffer: &mut Buffer| match place {
            Place::At(offset) => buffer.put(offset, data),
            Place::End => buffer.push(data),
        };
        self.change(site, change).await
    }

    /// Cuts it, or fills it up with zeros.
    ///
    /// # Errors
    /// As [`Value::write`].
    pub(super) async fn resize(&self, site: Site<'_>, len: usize) -> Result<(), Errno> {
        self.change(site, |buffer| buffer.resize(len)).await
    }

    async fn change(
        &self,
        site: Site<'_>,
        change: impl FnOnce(&mut Buffer) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.load(site).await?;
        let mut content = self.content();
        change(content.buffer.as_mut().ok_or(Errno::EIO)?)?;
        content.version += 1;
        Ok(())
    }

    /// Sends it whole, if it was changed. A file that was removed meanwhile goes nowhere.
    ///
    /// # Errors
    /// What the tree says; it stays unsent, and the next flush tries again: a value may be replaced twice.
    pub(super) async fn flush(&self, site: Site<'_>) -> Result<(), Errno> {
        let _turn = self.turn.lock().await;
        let (bytes, version) = {
            let content = self.content();
            match &content.buffer {
                Some(buffer) if content.version != content.sent => (buffer.bytes().to_vec(), content.version),
                _ => return Ok(()),
            }
        };
        let Ok(path) = site.path() else { return Ok(()) };
        site.remote.write(&path, bytes).await?;
        self.content().sent = version;
        site.inodes.sent(site.ino);
        Ok(())
    }

    /// Whether it was emptied, and nothing else was done to it or sent.
    pub(super) fn is_only_emptied(&self) -> bool {
        let content = self.content();
        content.version == EMPTIED && content.sent != EMPTIED
    }

    /// Its size, when there are changes to send.
    pub(super) fn unsent_size(&self) -> Option<u64> {
        let content = self.content();
        content.buffer.as_ref().filter(|_| content.version != content.sent).map(Buffer::len)
    }

    /// Its size, when it is known.
    pub(super) fn size(&self) -> Option<u64> {
        self.content().buffer.as_ref().map(Buffer::len)
    }
}
