//! What the view of a tick is made of, and what it leaves behind.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use oa_nips::files::Code;
use oa_nips::hex::Hash;

use super::error::Error;
use super::journal::Line;
use super::mount::Mounts;
use super::overlay::Files;
use super::path::Path;
use super::service::{Change, Context, State};
use crate::agent::envelope::Envelope;
use crate::agent::manifest::Manifest;
use crate::store::row::{AgentRow, Outgoing};
use crate::store::write::Write;

/// The disk under a tick's journal.
pub trait Durable: std::fmt::Debug + Send + Sync {
    /// Returns once the lines are on disk, the first of them at ordinal `first`.
    ///
    /// # Errors
    /// `Stale` when the tick may no longer run.
    fn record(&self, first: u32, lines: Vec<Line>) -> BoxFuture<'_, Result<(), Error>>;
}

/// Asks whether a change needs somebody's consent.
pub trait Consent: std::fmt::Debug + Send + Sync {
    /// What becomes of a change, as it was asked for, with paths of the agent's tree: frozen, for the commit, and the
    /// refusal that the program hears; nothing when it may go ahead.
    fn freeze(&self, cx: &Context<'_>, path: &Path, change: &Change) -> Option<(Vec<Write>, Error)>;
}

/// Nobody is asked.
#[derive(Debug, Clone, Copy)]
pub struct NoConsent;

impl Consent for NoConsent {
    fn freeze(&self, _: &Context<'_>, _: &Path, _: &Change) -> Option<(Vec<Write>, Error)> {
        None
    }
}

/// What a tick begins with.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The agent's mounts.
    pub mounts: Arc<Mounts>,
    /// The agent.
    pub row: Arc<AgentRow>,
    /// What it is.
    pub manifest: Arc<Manifest>,
    /// What woke it.
    pub envelope: Arc<Envelope>,
    /// Its files.
    pub committed: Arc<dyn State>,
    /// Where its journal goes.
    pub durable: Arc<dyn Durable>,
    /// Who is asked.
    pub consent: Arc<dyn Consent>,
}

/// What a tick did, for its commit.
#[derive(Debug, Default)]
pub struct Done {
    /// Files of the agent's state and alarms; nothing for a removed one.
    pub files: Files,
    /// The reply, if one was written.
    pub reply: Option<String>,
    /// Mail and events besides.
    pub out: Vec<Outgoing>,
    /// What else lands.
    pub writes: Vec<Write>,
    /// The journaled changes, for the record.
    pub calls: Vec<CallMade>,
}

/// A change that was made outside, as the record lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallMade {
    /// Where.
    pub path: String,
    /// SHA-256 of what was asked.
    pub request: Hash,
    /// SHA-256 of what was answered, or the error's code.
    pub reply: Result<Hash, Code>,
}

impl CallMade {
    /// As records have it.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let (path, request) = (&self.path, self.request);
        match &self.reply {
            Ok(digest) => serde_json::json!({ "path": path, "request": request, "reply": digest }),
            Err(code) => serde_json::json!({ "path": path, "request": request, "error": code }),
        }
    }
}
