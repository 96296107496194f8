//! A call file that is open for writing: what is written is the request, ended by the first read, which has the
//! reply from its beginning. Writing again begins the next request.

use fuser::Errno;
use tokio::sync::Mutex;

use super::{Place, Site};
use crate::fuse::buffer::{Budget, Buffer};

/// One handle's conversation.
#[derive(Debug)]
pub(super) struct Call(Mutex<State>);

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Where the writer stands in the file: the kernel moves one position for reads and writes.
    end: u64,
}

#[derive(Debug)]
enum Phase {
    /// Waits for the request to be ended.
    Asking { request: Buffer, is_begun: bool },
    /// Waits for readers. The reply begins at `base`: at 0 for who seeks there, else where the request ended.
    Answered { reply: Buffer, base: u64 },
    /// Waits for another request: this one failed, or nobody waited for its end. It is not made twice.
    Failed(Errno),
}

impl Call {
    /// An empty request.
    pub(super) fn new(budget: &Budget) -> Self {
        let phase = Phase::Asking { request: Buffer::empty(budget), is_begun: false };
        Self(Mutex::new(State { phase, end: 0 }))
    }

    /// Adds to the request, in the order of writing.
    ///
    /// # Errors
    /// `EFBIG`, `ENOMEM`
    pub(super) async fn write(&self, budget: &Budget, place: Place, data: &[u8]) -> Result<(), Errno> {
        let mut state = self.0.lock().await;
        if !matches!(state.phase, Phase::Asking { .. }) {
            state.phase = Phase::Asking { request: Buffer::empty(budget), is_begun: false };
        }
        if let Phase::Asking { request, is_begun } = &mut state.phase {
            request.push(data)?;
            *is_begun = true;
        }
        let written = u64::try_from(data.len()).unwrap_or(u64::MAX);
        if let Place::At(offset) = place {
            state.end = offset.saturating_add(written);
        }
        Ok(())
    }

    /// Ends the request if it is not ended, and reads a part of the reply.
    ///
    /// # Errors
    /// What the tree says, again to each read until another request is written.
    pub(super) async fn read(&self, site: Site<'_>, offset: u64, count: u32) -> Result<Vec<u8>, Errno> {
        let mut state = self.0.lock().await;
        if matches!(state.phase, Phase::Asking { .. }) {
            state.ask(site, offset).await;
        }
        match &mut state.phase {
            Phase::Answered { reply, base } => {
                if offset < *base {
                    *base = 0;
                }
                Ok(reply.span(offset - *base, count).to_vec())
            }
            Phase::Failed(error) => Err(*error),
            Phase::Asking { .. } => Err(Errno::EIO),
        }
    }

    /// Makes a request that was written and not read for its reply.
    ///
    /// # Errors
    /// What the tree says.
    pub(super) async fn ask(&self, site: Site<'_>) -> Result<(), Errno> {
        let mut state = self.0.lock().await;
        if !matches!(state.phase, Phase::Asking { is_begun: true, .. }) {
            return Ok(());
        }
        state.ask(site, 0).await;
        match state.phase {
            Phase::Failed(error) => Err(error),
            Phase::Answered { .. } | Phase::Asking { .. } => Ok(()),
        }
    }
}

impl State {
    /// Makes the request; a reader who is first at `offset` takes the reply to begin there if the request ended
    /// there.
    async fn ask(&mut self, site: Site<'_>, offset: u64) {
        // What is left behind if nobody waits for the end.
        let asked = std::mem::replace(&mut self.phase, Phase::Failed(Errno::EIO));
        let Phase::Asking { mut request, .. } = asked else { return };
        let base = if offset == self.end { offset } else { 0 };
        let reply = match site.path() {
            Ok(path) => site.remote.call(&path, request.take()).await,
            Err(error) => Err(error),
        };
        self.phase = match reply.and_then(|reply| Buffer::of(reply, site.budget)) {
            Ok(reply) => Phase::Answered { reply, base },
            Err(error) => Phase::Failed(error),
        };
    }
}
