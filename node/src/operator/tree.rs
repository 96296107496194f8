//! The trees of a node and of its agents, as somebody outside sees them: roles, rights, mounts.
//!
//! A path under `/agents/<name>` is the agent's own path; everything else is the node's. What a caller may touch
//! depends on who they are to that agent or to the node, by the table in [`crate::namespace::rights`].

use std::sync::Arc;

use oa_nips::files::{Code, FileType, OpError, Reply, Request, Stat, Verb};
use oa_nips::hex::{Hash, Hex};
use oa_nips::nostr::PublicKey;
use oa_nips::nostr::hashes::{Hash as _, HashEngine, sha256};

use super::admin::Admin;
use crate::agent::manifest::Manifest;
use crate::engine::hooks::After;
use crate::engine::world;
use crate::namespace::error::Error;
use crate::namespace::mount::{Found, Mounts};
use crate::namespace::path::Path;
use crate::namespace::rights::{self, Right, Rights, Role};
use crate::namespace::service::{
    Change, ChangeKey, Class, Context, Effect, Span, Subject, Watch, dir, resume,
};
use crate::store::row::{AgentRow, OpRow};
use crate::store::write::{AgentChange, Verdict, Write};

/// Names listed at once.
const NAMES: usize = 100_000;

/// Times that a part of a stream is read which is let go meanwhile, before the reader is told that it is gone.
const TRIES: usize = 8;

/// What may be done to an agent whose own key another node uses now: it is steered, and taken along.
const WITHOUT_LEASE: [&str; 3] = ["/ctl", "/export", "/bunker"];

/// A mutating operation: whose, and what it is known by when it comes again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation<'a> {
    pub(super) caller: &'a PublicKey,
    pub(super) request: &'a Request,
    /// SHA-256 of what was asked.
    pub(super) digest: Hash,
    pub(super) at_ms: u64,
    /// Whether it was begun before, and the node ended before it was answered.
    pub(super) was_begun: bool,
}

impl Operation<'_> {
    /// The write by which its reply is kept, in the transaction of what it changes.
    pub(super) fn kept(&self, reply: &Reply) -> Write {
        self.row(reply.clone(), false)
    }

    /// The write by which it is noted as begun, before it acts outside.
    fn noted(&self) -> Write {
        let unknown = "it was begun, and the node ended before it was answered";
        self.row(Err(OpError::new(Code::OutcomeUnknown, unknown)), true)
    }

    fn row(&self, reply: Reply, begun: bool) -> Write {
        let row = OpRow { request: self.digest, reply, begun, at_ms: self.at_ms };
        Write::Op(*self.caller, self.request.op, Box::new(row))
    }
}

/// Whether somebody may be answered at all. A node that does not hold the lease of its key is silent: another may be
/// answering under it.
pub(super) fn has_role(admin: &Admin, caller: &PublicKey) -> bool {
    if admin.shared.tenure.epoch().is_none() {
        return false;
    }
    admin
        .roles
        .anywhere(&admin.shared.store, &admin.shared.manifests, caller)
        .is_ok_and(|role| role > Role::Stranger)
}

/// What a path names, for a caller.
pub(super) struct Place {
    /// As it was asked for.
    whole: Path,
    /// In the tree it belongs to.
    path: Path,
    role: Role,
    caller: PublicKey,
    agent: Option<Agent>,
    now_ms: u64,
}

/// The agent whose tree it is.
struct Agent {
    row: AgentRow,
    manifest: Arc<Manifest>,
    mounts: Arc<Mounts>,
    files: world::Files,
    /// Why nothing may be done in its name now.
    waits: Option<String>,
}

impl Place {
    /// Finds whose tree a path is in, and who the caller is there.
    pub(super) fn find(admin: &Admin, caller: &PublicKey, path: &str) -> Result<Self, OpError> {
        let whole: Path = path.parse().map_err(|reason| OpError::from(Error::invalid_path(path, reason)))?;
        let now_ms = admin.shared.time.now_ms();
        let caller = *caller;
        let named = {
            let mut parts = whole.components();
            let is_agents = parts.next() == Some("agents");
            parts.next().filter(|name| is_agents && !matches!(*name, "new" | "import")).map(str::to_owned)
        };
        let Some(name) = named.as_deref() else {
            let role = admin.roles.anywhere(&admin.shared.store, &admin.shared.manifests, &caller)?;
            return Ok(Self { path: whole.clone(), whole, role, caller, agent: None, now_ms });
        };
        let row = admin.named(name)?;
        let shared = &admin.shared;
        let manifest = shared.manifests.get(&shared.store, row.id, row.version)?;
        let role = admin.roles.in_agent(&caller, &row, &manifest);
        if role == Role::Stranger {
            // Whom an agent is none of their business learns nothing of it.
            return Err(OpError::new(Code::NotFound, format!("there is no agent named {name}")));
        }
        let rest = whole.strip(&format!("/agents/{name}")).unwrap_or_default();
        let path = format!("/{rest}").parse().unwrap_or_else(|_| Path::root());
        let mounts = shared.mounts.of(&manifest);
        let files = world::Files { store: shared.store.clone(), agent: row.id };
        let waits = shared.tenure.why_of(row.id);
        Ok(Self {
            whole,
            path,
            role,
            caller,
            agent: Some(Agent { row, manifest, mounts, files, waits }),
            now_ms,
        })
    }

    fn rights(&self, path: &Path) -> Rights {
        match self.agent {
            Some(_) => rights::in_agent(self.role, path),
            None => rights::in_node(self.role, path),
        }
    }

    fn check(&self, right: Right) -> Result<(), Error> {
        let rights = self.rights(&self.path);
        if rights.has(right) {
            let waits = self.agent.as_ref().and_then(|agent| agent.waits.as_ref());
            let is_steered = || WITHOUT_LEASE.iter().any(|root| self.path.strip(root).is_some());
            return match waits.filter(|_| right == Right::Write && !is_steered()) {
                Some(why) => Err(Error::new(Code::Unavailable, &self.whole, why.clone())),
                None => Ok(()),
            };
        }
        Err(if rights.any() || self.role == Role::Operator {
            Error::denied(&self.whole)
        } else {
            Error::not_found(&self.whole)
        })
    }

    fn mounts<'a>(&'a self, admin: &'a Admin) -> &'a Mounts {
        self.agent.as_ref().map_or(&admin.mounts, |agent| &agent.mounts)
    }

    fn found<'a>(&'a self, admin: &'a Admin) -> Result<Found<'a>, Error> {
        self.mounts(admin).find(&self.path).map_err(|error| error.at(&self.whole))
    }

    fn context(&self, key: ChangeKey) -> Context<'_> {
        let subject = self.agent.as_ref().map(|agent| Subject {
            row: &agent.row,
            manifest: &agent.manifest,
            state: &agent.files,
        });
        Context { role: self.role, caller: self.caller, subject, wake: None, now_ms: self.now_ms, key }
    }

    pub(super) async fn stat(&self, admin: &Admin) -> Result<Stat, Error> {
        self.check(Right::Read).or_else(|error| self.check(Right::Write).map_err(|_| error))?;
        let name = self.whole.name().unwrap_or("/");
        if self.path == Path::root() || self.is_agents() {
            return Ok(dir(name));
        }
        let stat = match self.found(admin) {
            Ok(found) => {
                let cx = self.context([0; 32]);
                let service = &found.mount.service;
                let start = service.start(&cx, &found.rest);
                let stat = service.stat(&cx, &found.rest).await.map_err(|error| error.at(&self.whole));
                stat.map(|stat| Stat { start, ..stat })
            }
            Err(error) => Err(error),
        };
        match stat {
            Ok(stat) => Ok(Stat { name: name.to_owned(), ..stat }),
            // A folder of nothing but mounts.
            Err(error) if error.code == Code::NotFound => {
                let is_dir = self.mounts(admin).names(&self.path).next().is_some();
                if is_dir { Ok(dir(name)) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    fn is_agents(&self) -> bool {
        self.agent.is_none() && self.path.as_str() == "/agents"
    }

    async fn list(&self, admin: &Admin) -> Result<Vec<Stat>, Error> {
        self.check(Right::Read)?;
        let own = match self.found(admin) {
            Ok(found) => {
                let cx = self.context([0; 32]);
                found.mount.service.list(&cx, &found.rest).await.map_err(|error| error.at(&self.whole))
            }
            Err(error) => Err(error),
        };
        let own = if self.is_agents() { self.agents(admin) } else { own };
        let mut entries = self.mounts(admin).entries(&self.path, own)?;
        if self.agent.is_none() && self.path == Path::root() {
            entries.push(dir("agents"));
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            entries.dedup_by(|a, b| a.name == b.name);
        }
        entries.retain(|entry| {
            let is_agent = self.is_agents() && entry.file_type == FileType::Dir;
            is_agent || self.path.join(&entry.name).is_ok_and(|path| self.rights(&path).any())
        });
        Ok(entries)
    }

    /// The agents that the caller may see.
    fn agents(&self, admin: &Admin) -> Result<Vec<Stat>, Error> {
        let store = &admin.shared.store;
        let io = |error: crate::store::backend::BackendError| Error::io(&self.whole, error.to_string());
        if admin.roles.in_node(&self.caller) > Role::Stranger {
            return Ok(store.names(NAMES).map_err(io)?.into_iter().map(|(name, _)| dir(name)).collect());
        }
        let mut agents = Vec::new();
        for id in store.agents_that_know(&self.caller).map_err(io)? {
            let Some(row) = store.agent(id).map_err(io)? else { continue };
            let manifest = admin.shared.manifests.get(store, id, row.version).map_err(io)?;
            if row.lifecycle != crate::agent::Lifecycle::Terminated
                && admin.roles.in_agent(&self.caller, &row, &manifest) > Role::Stranger
            {
                agents.push(dir(row.name));
            }
        }
        Ok(agents)
    }

    async fn read(&self, admin: &Admin, span: Span) -> Result<Vec<u8>, Error> {
        self.check(Right::Read)?;
        if self.path == Path::root() || self.is_agents() {
            return Err(Error::is_dir(&self.whole));
        }
        let found = self.found(admin)?;
        let cx = self.context([0; 32]);
        found.mount.service.read(&cx, &found.rest, span).await.map_err(|error| error.at(&self.whole))
    }

    /// Whether its caller may watch what is there.
    ///
    /// # Errors
    /// When he may not.
    pub(super) fn may_watch(&self) -> Result<(), Error> {
        self.check(Right::Watch)
    }

    /// Where a watcher reads, and what wakes it.
    pub(super) fn watch(&self, admin: &Admin) -> Result<Watch, Error> {
        self.check(Right::Watch)?;
        let found = self.found(admin)?;
        let cx = self.context([0; 32]);
        found.mount.service.watch(&cx, &found.rest).map_err(|error| error.at(&self.whole))
    }

    /// What a watcher reads: from where it really begins, the bytes, and the length so far.
    pub(super) async fn piece(
        &self,
        admin: &Admin,
        offset: u64,
        count: usize,
    ) -> Result<(u64, Vec<u8>, u64), Error> {
        self.check(Right::Watch)?;
        let found = self.found(admin)?;
        let cx = self.context([0; 32]);
        let service = &found.mount.service;
        let at = |error: Error| error.at(&self.whole);
        let mut from = offset.max(service.start(&cx, &found.rest));
        let mut bytes = Vec::new();
        for _ in 0..TRIES {
            bytes = service.read(&cx, &found.rest, Span { offset: from, count }).await.map_err(at)?;
            let start = service.start(&cx, &found.rest);
            if start <= from {
                break;
            }
            // Bytes were let go meanwhile, maybe some of those: nobody can say where what was read stands.
            (from, bytes) = (start, Vec::new());
        }
        let length = service.stat(&cx, &found.rest).await.map_err(at)?.size;
        Ok((from, bytes, length))
    }
}

/// Answers what changes nothing.
pub(super) async fn read(admin: &Admin, caller: &PublicKey, request: &Request) -> Reply {
    let place = Place::find(admin, caller, &request.path)?;
    match request.verb {
        Verb::List => Ok(to_json(&place.list(admin).await?)),
        Verb::Stat => Ok(to_json(&place.stat(admin).await?)),
        Verb::Read => {
            let count = if request.count == 0 {
                usize::MAX
            } else {
                usize::try_from(request.count).unwrap_or(usize::MAX)
            };
            Ok(place.read(admin, Span { offset: request.offset, count }).await?)
        }
        verb => Err(OpError::new(Code::InvalidInput, format!("{verb:?} is not answered here"))),
    }
}

/// Does what changes something, and keeps its reply with it. An operation that was begun before is looked up, or done
/// again, or stays unknown, as its file's class says.
pub(super) async fn change(admin: &Admin, operation: Operation<'_>) -> Reply {
    let Operation { caller, request, .. } = operation;
    let place = Place::find(admin, caller, &request.path)?;
    let change = match request.verb {
        Verb::Write => Change::Write(request.body.clone()),
        Verb::Append => Change::Append(request.body.clone()),
        Verb::Call => Change::Call(request.body.clone()),
        Verb::Mkdir => Change::Mkdir,
        Verb::Remove => Change::Remove,
        Verb::Rename => Change::Rename(place.target(&request.body)?),
        verb => return Err(OpError::new(Code::InvalidInput, format!("{verb:?} changes nothing"))),
    };
    place.check(Right::Write)?;
    let found = place.found(admin)?;
    let change = found.within(place.mounts(admin), change)?;
    if let Change::Rename(_) = &change
        && !place.rights(&place.target(&request.body)?).has(Right::Write)
    {
        return Err(Error::denied(String::from_utf8_lossy(&request.body)).into());
    }
    let key = key(caller, &request.op);
    match found.mount.service.class(&found.rest, &change) {
        Class::Transactional => transact(admin, &place, &found, &change, key, operation).await,
        class => {
            let (cx, service) = (place.context(key), &*found.mount.service);
            let acted = if operation.was_begun {
                let resumed = resume(service, &cx, &found.rest, &change, class).await;
                // Nobody can find out now: it stays begun, and whoever asks again may hear more.
                resumed.map_err(|error| error.at(&place.whole))?
            } else {
                // What may not simply be done again is noted before it is done.
                if class != Class::Idempotent {
                    admin.shared.store.write(operation.noted()).await?;
                }
                service.act(&cx, &found.rest, &change).await
            };
            let reply: Reply = acted.map_err(|error| error.at(&place.whole).into());
            admin.shared.store.write(operation.kept(&reply)).await?;
            reply
        }
    }
}

impl Place {
    /// Where something is moved to, in the same tree.
    fn target(&self, body: &[u8]) -> Result<Path, Error> {
        let text = String::from_utf8_lossy(body);
        let whole: Path = text.parse().map_err(|reason| Error::invalid_path(&text, reason))?;
        let Some(agent) = &self.agent else { return Ok(whole) };
        let rest = whole.strip(&format!("/agents/{}", agent.row.name));
        let rest = rest.ok_or_else(|| Error::invalid(&whole, "not in the tree of what is renamed"))?;
        format!("/{rest}").parse().map_err(|reason| Error::invalid_path(&text, reason))
    }
}

async fn transact(
    admin: &Admin,
    place: &Place,
    found: &Found<'_>,
    change: &Change,
    key: ChangeKey,
    operation: Operation<'_>,
) -> Reply {
    let shared = &admin.shared;
    // A tick that runs has the agent's files to itself.
    let _turn = match &place.agent {
        Some(agent) if changes_state(&place.path) => Some(shared.turns.of(agent.row.id).await),
        _ => None,
    };
    // Of a stop and the beginning of what was granted one is first, and the other is told.
    let _begins = match &place.agent {
        Some(agent) if place.path.as_str() == "/ctl" => Some(shared.wishes.begins(agent.row.id).await),
        _ => None,
    };
    let cx = place.context(key);
    let effect = found.mount.service.change(&cx, &found.rest, change).await;
    let Effect { reply, files, out, mut writes } = effect.map_err(|error| error.at(&place.whole))?;
    if let Some(agent) = &place.agent {
        let id = agent.row.id;
        writes.extend(out.into_iter().map(|item| Write::Send(id, Box::new(item), place.now_ms)));
        if !files.is_empty() {
            let (files, alarms) = world::split(files, place.now_ms, None);
            writes.push(Write::Files(id, files, alarms));
        }
    }
    let reply: Reply = Ok(reply);
    let named = writes.iter().find_map(|write| match write {
        Write::CreateAgent(new) => Some(new.manifest.name.clone()),
        _ => None,
    });
    let removed = writes.iter().any(|write| matches!(write, Write::ChangeAgent(_, AgentChange::Remove)));
    let after = After::of(&writes);
    writes.push(operation.kept(&reply));
    let verdicts = shared.store.commit(writes).await?;
    match verdicts.iter().find(|verdict| verdict.stops_unit()) {
        Some(Verdict::NameTaken) => {
            let name = named.unwrap_or_default();
            return Err(OpError::new(Code::Exists, format!("there is an agent named {name} already")));
        }
        Some(verdict) => {
            tracing::debug!(?verdict, path = %place.whole, "change not taken");
            return Err(OpError::new(Code::Unavailable, format!("{} has changed meanwhile", place.whole)));
        }
        None => {}
    }
    shared.hooks.landed(after, &verdicts, &shared.outbox);
    if let Some(agent) = place.agent.as_ref().filter(|_| removed) {
        shared.hooks.removed(agent.row.id, agent.row.pubkey);
    }
    reply
}

/// Whether files of the agent's state are at a path.
fn changes_state(path: &Path) -> bool {
    matches!(
        path.components().next(),
        Some("memory" | "goals" | "schedule" | "nostr" | "workspace" | "task" | "children" | "export")
    )
}

fn key(caller: &PublicKey, op: &Hex<16>) -> ChangeKey {
    let mut engine = sha256::HashEngine::default();
    engine.input(caller.as_bytes());
    engine.input(op.as_bytes());
    sha256::Hash::from_engine(engine).to_byte_array()
}

fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
