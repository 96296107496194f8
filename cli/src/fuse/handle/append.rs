//! An append file that is open for writing: what is written through one handle is one message.

use std::sync::{Mutex, PoisonError};

use fuser::Errno;

use super::Site;
use super::value::Value;
use crate::fuse::buffer::{Budget, Buffer};

/// A message in the making.
#[derive(Debug)]
pub(super) struct Append {
    message: Mutex<Buffer>,
    /// What can be read of the file, should anybody read.
    content: Value,
    /// Held while a message is sent: a close waits until those before are through.
    turn: tokio::sync::Mutex<()>,
}

impl Append {
    /// An empty message, which is none.
    pub(super) fn new(budget: &Budget) -> Self {
        let message = Mutex::new(Buffer::empty(budget));
        Self { message, content: Value::unread(), turn: tokio::sync::Mutex::new(()) }
    }

    /// Reads what the tree shows of the file.
    ///
    /// # Errors
    /// What the tree says.
    pub(super) async fn read(&self, site: Site<'_>, offset: u64, count: u32) -> Result<Vec<u8>, Errno> {
        self.content.read(site, offset, count).await
    }

    /// Adds to the message, in the order of writing: a message has no offsets.
    ///
    /// # Errors
    /// `EFBIG`, `ENOMEM`
    pub(super) fn write(&self, data: &[u8]) -> Result<(), Errno> {
        self.message.lock().unwrap_or_else(PoisonError::into_inner).push(data)
    }

    /// Ends the message and sends it. It is sent once: after an error nobody knows whether it arrived, and whoever
    /// wants it sent again writes it again.
    ///
    /// # Errors
    /// What the tree says.
    pub(super) async fn flush(&self, site: Site<'_>) -> Result<(), Errno> {
        let _turn = self.turn.lock().await;
        let message = self.message.lock().unwrap_or_else(PoisonError::into_inner).take();
        if message.is_empty() {
            return Ok(());
        }
        site.remote.append(&site.path()?, message).await
    }
}
