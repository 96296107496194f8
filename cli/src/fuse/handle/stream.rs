//! A stream that is open: what it still has, read once from beginning to end.
//!
//! A stream's offsets are absolute, and its oldest bytes go. Programs read from 0 and go on from where they are: each
//! read from before the beginning would be answered with the same oldest bytes. So a handle that is behind is moved to
//! the beginning, and stays ahead of its reader by as much.

use std::time::{Duration, Instant};

use fuser::Errno;
use tokio::sync::Mutex;

use super::Site;

/// How long a beginning is believed. A stream keeps far more than comes in that time.
const BELIEVED: Duration = Duration::from_secs(1);

/// One handle's place.
#[derive(Debug, Default)]
pub(super) struct Stream(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Bytes that were gone before this handle came to them.
    skipped: u64,
    /// When the tree last said where the stream begins.
    asked: Option<Instant>,
}

impl Stream {
    /// Reads on, at most `count` bytes.
    ///
    /// # Errors
    /// What the tree says.
    pub(super) async fn read(&self, site: Site<'_>, offset: u64, count: u32) -> Result<Vec<u8>, Errno> {
        let path = site.path()?;
        let mut state = self.0.lock().await;
        if state.asked.is_none_or(|asked| asked.elapsed() >= BELIEVED) {
            let start = site.remote.stat(&path).await?.start;
            state.skipped = state.skipped.max(start.saturating_sub(offset));
            state.asked = Some(Instant::now());
        }
        site.remote.read(&path, offset.saturating_add(state.skipped), count).await
    }
}
