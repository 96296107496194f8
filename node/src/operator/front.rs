//! The trees as the server sees them: who may ask, what is done with a request, and what a watch reads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oa_nips::files::watch::Piece;
use oa_nips::files::{Code, FileType, OpError, Reply, Request};
use oa_nips::mail::{Draft, Protocol};
use oa_nips::nostr::PublicKey;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_nips::nostr::util::BoxedFuture;

use super::admin::Admin;
use super::source::Source;
use super::tree::{self, Operation, Place};
use super::watch::Listeners;
use crate::agent::AgentId;
use crate::namespace::service::Watch;
use crate::store::row::Outgoing;
use crate::store::write::{Verdict, Write};

/// The trees of the node and its agents.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) admin: Arc<Admin>,
}

impl Listeners for Front {
    fn has_role(&self, caller: &PublicKey) -> bool {
        tree::has_role(&self.admin, caller)
    }
}

impl Front {
    /// Answers what changes nothing.
    pub(super) async fn read(&self, caller: &PublicKey, request: &Request) -> Reply {
        tree::read(&self.admin, caller, request).await
    }

    /// Does what changes something, and keeps its reply with it.
    pub(super) async fn change(&self, operation: Operation<'_>) -> Reply {
        tree::change(&self.admin, operation).await
    }

    /// What a watch of a path reads.
    ///
    /// # Errors
    /// As watching it: it is not there, or not for this caller, or a folder.
    pub(super) async fn watch(&self, caller: &PublicKey, path: &str) -> Result<Box<dyn Source>, OpError> {
        let place = Place::find(&self.admin, caller, path)?;
        // Before anything else is told of it.
        place.may_watch()?;
        let file_type = place.stat(&self.admin).await?.file_type;
        if file_type == FileType::Dir {
            return Err(OpError::new(Code::IsDir, format!("{path}: is a folder")));
        }
        let changed = match place.watch(&self.admin) {
            Ok(changed) => Some(changed),
            // It does not tell of its changes: it is looked at.
            Err(error) if error.code == Code::Unavailable => None,
            Err(error) => return Err(error.into()),
        };
        let watched = Watched {
            admin: self.admin.clone(),
            caller: *caller,
            path: path.to_owned(),
            grows: file_type == FileType::Stream,
            changed,
            seen: Mutex::default(),
        };
        watched.look(0, 0).await?;
        Ok(Box::new(watched))
    }

    /// The writes by which the node's own key sends letters.
    pub(super) fn letters(&self, drafts: Vec<Draft>) -> Vec<Write> {
        let letter = |draft: Draft| {
            let at_ms = draft.at_ms;
            let mail = Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: None };
            Write::Send(AgentId::NODE, Box::new(mail), at_ms)
        };
        drafts.into_iter().map(letter).collect()
    }

    /// Such writes have landed.
    pub(super) fn landed(&self, verdicts: &[Verdict]) {
        self.admin.shared.outbox.nudge_landed(verdicts);
    }
}

/// How often a file that does not tell of its changes is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A file in a tree, watched by one caller, whose rights are asked anew at each read.
struct Watched {
    admin: Arc<Admin>,
    caller: PublicKey,
    path: String,
    /// Whether it is a stream, which only grows.
    grows: bool,
    /// What tells of changes, if something does.
    changed: Option<Watch>,
    /// The edition and length of the last read.
    seen: Mutex<Option<Seen>>,
}

type Seen = (Option<u64>, u64);

impl Watched {
    async fn look(&self, offset: u64, count: usize) -> Result<Piece, OpError> {
        let place = Place::find(&self.admin, &self.caller, &self.path)?;
        if self.grows {
            let (offset, bytes, length) = place.piece(&self.admin, offset, count).await?;
            return Ok(Piece { offset, bytes, length, edition: None });
        }
        let (_, content, _) = place.piece(&self.admin, 0, usize::MAX).await?;
        // Contents are told apart by their hash: of 53 bits, which every reader of JSON can hold.
        let digest = sha256::Hash::hash(&content).to_byte_array();
        let edition = digest.first_chunk().map(|bytes| u64::from_be_bytes(*bytes) >> 11);
        let length = content.len() as u64;
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = content.into_iter().skip(from).take(count).collect();
        Ok(Piece { offset, bytes, length, edition })
    }

    fn seen(&self) -> MutexGuard<'_, Option<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Watched {
    fn changed(&mut self) -> BoxedFuture<'_, ()> {
        Box::pin(async move {
            if let Some(changed) = &mut self.changed {
                if changed.changed().await.is_ok() {
                    return;
                }
                self.changed = None;
            }
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let seen = *self.seen();
                if self.look(0, 0).await.map(|piece| Some((piece.edition, piece.length))) != Ok(seen) {
                    return;
                }
            }
        })
    }

    fn read(&self, offset: u64, count: usize) -> BoxedFuture<'_, Result<Piece, OpError>> {
        Box::pin(async move {
            let piece = self.look(offset, count).await?;
            if count > 0 {
                *self.seen() = Some((piece.edition, piece.length));
            }
            Ok(piece)
        })
    }
}
