//! `/task/{spec.json,meta.json,status,result.json}`: delegated work. What the agent writes about it goes to the one who
//! asked, with the tick's commit; the result ends the task.

use std::sync::Arc;

use oa_nips::envelope::Envelope as Message;
use oa_nips::files::Code;
use oa_nips::mail::{Protocol, TEXT_BYTES_MAX};

use super::nostr::{check_rates, next_hop};
use super::{Parts, StateFolder, at};
use crate::agent::envelope::{Envelope, Trust};
use crate::agent::task::{self, META, Meta, RESULT, SPEC, STATUS};
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::path::Path;
use crate::namespace::service::{Answer, Change, Context, Effect, FileService, Span, Stat, State, not_taken};
use crate::outbox::Directory;
use crate::store::Store;
use crate::store::row::Outgoing;

/// The longest status, in bytes.
const STATUS_BYTES_MAX: usize = 1000;

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts) {
    let files = StateFolder::new(at("/task"));
    let (store, directory) = (parts.store.clone(), parts.directory.clone());
    mounts.mount(at("/task"), Arc::new(Task { files, store, directory }), "delegated work");
}

/// The open task.
fn open(state: &dyn State) -> Result<Option<Meta>, Error> {
    if state.read(&at(RESULT))?.is_some() {
        return Ok(None);
    }
    Ok(state.read(&at(META))?.and_then(|json| serde_json::from_slice(&json).ok()))
}

/// What an envelope brings into its tick: the files of its task, or an answer that there is another already.
pub(crate) fn begin(envelope: &Envelope, trust: Trust, state: &dyn State) -> Result<Effect, Error> {
    let Some((meta, spec)) = task::brought(envelope, trust) else { return Ok(Effect::default()) };
    if let Some(other) = open(state)?.filter(|open| open.id != meta.id) {
        let message = Some(format!("busy with {}", other.task.chars().take(100).collect::<String>()));
        let refusal = Message::TaskResponse { task: meta.task.clone(), accepted: false, message };
        let hop = envelope.auto_hop() + 1;
        let draft = meta
            .answer(&refusal, hop, envelope.accepted_at_ms)
            .filter(|_| hop <= oa_nips::mail::AUTO_HOPS_MAX);
        let mail = |draft| Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: None };
        return Ok(Effect { out: draft.map(mail).into_iter().collect(), ..Effect::default() });
    }
    let files = vec![
        (at(SPEC), serde_json::to_vec(&spec).ok()),
        (at(META), serde_json::to_vec(&meta).ok()),
        (at(STATUS), None),
        (at(RESULT), None),
    ];
    Ok(Effect { files, ..Effect::default() })
}

#[derive(Debug)]
struct Task {
    files: StateFolder,
    store: Store,
    directory: Arc<Directory>,
}

impl Task {
    fn write(&self, cx: &Context<'_>, path: &Path, content: &[u8]) -> Result<Effect, Error> {
        let subject = cx.subject()?;
        let wake = cx.wake.ok_or_else(|| Error::denied(path))?;
        let meta = open(subject.state)?;
        let meta = meta.ok_or_else(|| Error::new(Code::Unavailable, path, "no task is open"))?;
        let message = if path.as_str() == "/status" {
            let status = std::str::from_utf8(content).ok().filter(|status| status.len() <= STATUS_BYTES_MAX);
            let status =
                status.ok_or_else(|| Error::invalid(path, format!("a text of {STATUS_BYTES_MAX} bytes")))?;
            Message::TaskResponse {
                task: meta.task.clone(),
                accepted: true,
                message: Some(status.to_owned()),
            }
        } else {
            let result =
                serde_json::from_slice(content).map_err(|error| Error::invalid(path, error.to_string()))?;
            // The chain as it stands before this tick, whose own record names this very message.
            let trajectory_hash = Some(subject.row.head.hash.to_string());
            Message::TaskComplete { task: meta.task.clone(), result, trajectory_hash }
        };
        let auto_hop = next_hop(path.as_str(), cx.wake)?;
        let before = check_rates(&self.store, &self.directory, cx, &wake, &meta.from.0)?;
        let draft = meta.answer(&message, auto_hop, cx.now_ms.saturating_add(before));
        let draft = draft.ok_or_else(|| Error::too_large(path, TEXT_BYTES_MAX))?;
        let file = if path.as_str() == "/status" { STATUS } else { RESULT };
        Ok(Effect {
            files: vec![(at(file), Some(content.to_vec()))],
            out: vec![Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: None }],
            ..Effect::default()
        })
    }
}

impl FileService for Task {
    fn is_fixed(&self) -> bool {
        true
    }

    /// What may still be said to whom is in the store.
    fn is_own(&self) -> bool {
        false
    }

    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        self.files.stat(cx, path)
    }

    fn list<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        self.files.list(cx, path)
    }

    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        self.files.read(cx, path, span)
    }

    fn change<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async move {
            match change {
                Change::Write(content) if matches!(path.as_str(), "/status" | "/result.json") => {
                    self.write(cx, path, content)
                }
                _ => Err(not_taken(path, change)),
            }
        })
    }
}
