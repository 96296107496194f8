//! What a tick sees of the store: the agent's files as committed, its alarms as files, and its status.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use oa_nips::files::Code;
use oa_nips::mail::Protocol;
use serde_json::Value;

use crate::agent::AgentId;
use crate::agent::alarm::{self, Alarm};
use crate::agent::envelope::{Envelope, EnvelopeId, Trust};
use crate::agent::mailbox;
use crate::agent::manifest::Manifest;
use crate::feeds::Feeds;
use crate::namespace::journal::Line;
use crate::namespace::service::{Answer, State};
use crate::namespace::{Durable, Error, Path};
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::row::AgentRow;
use crate::store::write::{AlarmChange, FileChange, Journaled, Verdict, Write};
use crate::tenure::Tenure;
use crate::time::Time;

/// One agent's committed files.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) store: Store,
    pub(crate) agent: AgentId,
}

/// How far whoever an envelope is from is trusted now, which may differ from when the mail came in.
pub(crate) fn trust(
    store: &Store,
    row: &AgentRow,
    manifest: &Manifest,
    envelope: &Envelope,
) -> Result<Trust, BackendError> {
    // Whoever wrote an event did not write to the agent.
    if envelope.heard.is_some() {
        return Ok(Trust::Stranger);
    }
    let Some(origin) = &envelope.origin else { return Ok(Trust::Node) };
    let peer = store.peer(row.id, &origin.peer)?.unwrap_or_default();
    let trust = mailbox::trust(manifest, row.owner.as_ref(), &peer, &origin.peer);
    // A legacy message cannot command.
    let is_weak = trust == Trust::Owner && origin.protocol == Protocol::Nip04;
    Ok(if is_weak { Trust::Allowed } else { trust })
}

/// The id of an alarm from its path, `/schedule/<id>.json`.
pub(crate) fn alarm_id(path: &str) -> Option<&str> {
    path.strip_prefix("/schedule/")?.strip_suffix(".json")
}

impl State for Files {
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        let read = match alarm_id(path.as_str()) {
            Some(id) => self.store.alarm(self.agent, id).map(|alarm| alarm.map(|alarm| alarm.to_json())),
            None => self.store.file(self.agent, path.as_str()),
        };
        read.map_err(|error| Error::io(path, error.to_string()))
    }

    fn paths(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let paths = if prefix == "/schedule/" {
            let name = |(id, _): (String, Alarm)| format!("/schedule/{id}.json");
            self.store.alarms(self.agent).map(|alarms| alarms.into_iter().map(name).collect())
        } else {
            self.store.file_paths(self.agent, prefix)
        };
        paths.map_err(|error| Error::io(prefix, error.to_string()))
    }
}

/// One agent's files as a tick sees them: with those of ticks before it that may not be on disk yet.
#[derive(Debug)]
pub(crate) struct Own {
    files: Files,
    is_behind: AtomicBool,
}

impl Own {
    /// `is_behind` says whether the disk may be.
    pub(crate) fn new(files: Files, is_behind: bool) -> Self {
        Self { files, is_behind: AtomicBool::new(is_behind) }
    }
}

impl State for Own {
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        self.files.read(path)
    }

    fn paths(&self, prefix: &str) -> Result<Vec<String>, Error> {
        self.files.paths(prefix)
    }

    fn settled(&self) -> Answer<'_, ()> {
        Box::pin(async {
            if self.is_behind.load(Ordering::Relaxed) {
                self.files.store.settled().await.map_err(|error| Error::io("/", error.to_string()))?;
                self.is_behind.store(false, Ordering::Relaxed);
            }
            Ok(())
        })
    }
}

/// Files of a change set, apart: those of the state, and alarms. Alarms are as they were checked when written.
pub(crate) fn split(
    files: impl IntoIterator<Item = FileChange>,
    now_ms: u64,
    origin: Option<&Value>,
) -> (Vec<FileChange>, Vec<AlarmChange>) {
    let (mut kept, mut alarms) = (Vec::new(), Vec::new());
    for (path, content) in files {
        match alarm_id(path.as_str()) {
            Some(id) => {
                let set = content.and_then(|json| alarm::parse(&json, now_ms).ok());
                let alarm = set.map(|alarm| Alarm { origin: origin.cloned(), ..alarm });
                alarms.push(AlarmChange { id: id.to_owned(), alarm });
            }
            None => kept.push((path, content)),
        }
    }
    (kept, alarms)
}

/// The journal of one tick, in the store.
#[derive(Debug, Clone)]
pub(crate) struct JournalFile {
    pub(crate) store: Store,
    pub(crate) time: Arc<dyn Time>,
    pub(crate) tenure: Tenure,
    pub(crate) feeds: Arc<Feeds>,
    pub(crate) row: Arc<AgentRow>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) seq: u64,
    pub(crate) envelope: EnvelopeId,
}

impl Durable for JournalFile {
    fn record(&self, first: u32, lines: Vec<Line>) -> BoxFuture<'_, Result<(), Error>> {
        let Self { seq, envelope, .. } = *self;
        let AgentRow { id: agent, lease_epoch, .. } = *self.row;
        let at_ms = self.time.now_ms();
        self.feeds.calls(&self.row, &self.manifest.hud, &lines);
        let write =
            Write::Journal(Box::new(Journaled { agent, seq, envelope, lease_epoch, first, lines, at_ms }));
        Box::pin(async move {
            if self.tenure.epoch_of(agent).is_none() {
                return Err(Error::new(Code::Stale, "/", "the lease has run out"));
            }
            match self.store.write(write).await {
                Ok(Verdict::Done) => Ok(()),
                Ok(_) => Err(Error::new(Code::Stale, "/", "the tick may no longer run")),
                Err(error) => Err(Error::io("/", error.to_string())),
            }
        })
    }
}
