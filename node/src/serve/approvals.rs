//! `/approvals`: what waits for consent, of one agent or of all that a caller may see, and `ctl` to decide.

use std::sync::Arc;

use oa_nips::files::Code;
use oa_nips::nostr::ToBech32;
use serde_json::json;

use super::Parts;
use super::ctl::text;
use crate::approvals::{self, Approval, Stage, Versioned, decided};
use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::rights::Role;
use crate::namespace::service::{
    Answer, Change, Context, Effect, FileService, FileType, Span, Stat, dir, file, not_taken,
};
use crate::operator::Roles;
use crate::store::Store;
use crate::store::backend::BackendError;

/// Serves approvals: in an agent's tree its own, in the node's those of all agents for which the caller has a role.
#[derive(Debug)]
pub(crate) struct Approvals {
    store: Store,
    wishes: Arc<approvals::Index>,
    roles: Roles,
}

impl Approvals {
    pub(super) fn new(parts: &Parts) -> Self {
        Self { store: parts.store.clone(), wishes: parts.wishes.clone(), roles: parts.roles.clone() }
    }

    fn seen(&self, cx: &Context<'_>) -> Result<Vec<Versioned>, Error> {
        let mut seen = Vec::new();
        for id in self.wishes.of(cx.subject.map(|subject| subject.row.id)) {
            seen.extend(self.seen_as(cx, &id)?);
        }
        Ok(seen)
    }

    /// The approval of this id, if the caller may see it.
    fn seen_as(&self, cx: &Context<'_>, id: &str) -> Result<Option<Versioned>, Error> {
        let io = |error: BackendError| Error::io("/", error.to_string());
        let Some(approval) = approvals::one(&self.store, id).map_err(io)? else { return Ok(None) };
        let is_seen = match cx.subject {
            Some(subject) => approval.1.agent == subject.row.id,
            None => self.role(cx, &approval.1).map_err(io)? >= Role::Approver,
        };
        Ok(is_seen.then_some(approval))
    }

    /// Who the caller is to the agent that asked.
    fn role(&self, cx: &Context<'_>, approval: &Approval) -> Result<Role, BackendError> {
        if cx.subject.is_some() {
            return Ok(cx.role);
        }
        let Some(row) = self.store.agent(approval.agent)? else { return Ok(Role::Stranger) };
        let Some(manifest) = self.store.manifest(row.id)? else { return Ok(Role::Stranger) };
        Ok(self.roles.in_agent(&cx.caller, &row, &manifest))
    }

    fn one(&self, cx: &Context<'_>, path: &Path) -> Result<Versioned, Error> {
        let id = path.as_str().trim_start_matches('/').strip_suffix(".json").unwrap_or_default();
        self.seen_as(cx, id)?.ok_or_else(|| Error::not_found(path))
    }

    fn shown(&self, approval: &Approval) -> Vec<u8> {
        let by = match &approval.state {
            Stage::Granted { by } | Stage::Doing { by } | Stage::Denied { by } => by.to_bech32().ok(),
            Stage::Waiting | Stage::Done | Stage::Expired => None,
        };
        let name = self.store.agent(approval.agent).ok().flatten().map(|row| row.name);
        let body = &approval.change.body.0;
        let text = std::str::from_utf8(body).ok();
        json!({
            "id": approval.id,
            "agent": name,
            "state": approval.state.name(),
            "by": by,
            "path": approvals::line(&approval.path),
            "to": approval.change.to.as_deref().map(approvals::line),
            "verb": approval.change.verb,
            "category": approval.category,
            "bytes": body.len(),
            "text": text,
            "base64": text.is_none().then(|| approvals::base64(body)),
            "sha256": approvals::digest(body),
            "asked_at": approval.asked_at_ms / 1000,
            "expires_at": approval.expires_at_ms / 1000,
        })
        .to_string()
        .into_bytes()
    }

    fn ctl(&self, cx: &Context<'_>, path: &Path, command: &str) -> Result<Effect, Error> {
        let invalid = || Error::invalid(path, "takes: approve ID, deny ID");
        let (verb, id) = command.trim().split_once(' ').ok_or_else(invalid)?;
        let yes = match verb {
            "approve" => true,
            "deny" => false,
            _ => return Err(invalid()),
        };
        let name: Path = format!("/{}.json", id.trim()).parse().map_err(|_| invalid())?;
        let (version, approval) = self.one(cx, &name)?;
        if approval.state != Stage::Waiting || approval.expires_at_ms <= cx.now_ms {
            let said = if approval.state == Stage::Waiting { "expired" } else { approval.state.name() };
            return Err(Error::new(Code::Unavailable, path, format!("{} is {said} already", approval.id)));
        }
        let state = decided(yes, cx.caller);
        let reply = json!({ "id": approval.id, "state": state.name() }).to_string();
        Ok(Effect::write(approvals::put(&(version, Approval { state, ..approval })), reply))
    }
}

impl FileService for Approvals {
    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async move {
            match path.as_str() {
                "/" => Ok(dir("approvals")),
                "/ctl" => Ok(file("ctl", FileType::Call, 0)),
                _ => {
                    let size = self.shown(&self.one(cx, path)?.1).len() as u64;
                    Ok(file(path.name().unwrap_or_default(), FileType::Value, size))
                }
            }
        })
    }

    fn list<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move {
            if *path != Path::root() {
                return Err(self.one(cx, path).map_or_else(|error| error, |_| Error::not_dir(path)));
            }
            let seen = self.seen(cx)?;
            let name = |(_, old): &Versioned| {
                file(format!("{}.json", old.id), FileType::Value, self.shown(old).len() as u64)
            };
            let mut entries: Vec<Stat> = seen.iter().map(name).collect();
            entries.push(file("ctl", FileType::Call, 0));
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(entries)
        })
    }

    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            match path.as_str() {
                "/" => Err(Error::is_dir(path)),
                "/ctl" => Err(Error::new(Code::PermissionDenied, path, "is called, not read")),
                _ => Ok(span.of(&self.shown(&self.one(cx, path)?.1))),
            }
        })
    }

    fn change<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async move {
            match (path.as_str(), change) {
                ("/ctl", Change::Call(_)) => self.ctl(cx, path, text(change)?),
                _ => Err(not_taken(path, change)),
            }
        })
    }
}
