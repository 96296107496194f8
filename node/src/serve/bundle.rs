//! `/export` and `/agents/import`: an agent as a bundle, out of this node and into it.
//!
//! A call of `/export` answers where the bundle is, `{"path": "/export/<id>", "bytes": n, "sha256": …}`; it is read
//! there, in pieces, for ten minutes. A call of `/agents/import` takes a line of JSON, [`Order`], and the bundle after
//! it; one that is larger than a message is first written to `/agents/import/<name>/<offset>`, in pieces.

use std::sync::Arc;

use oa_nips::files::Code;
use oa_nips::hex::{Hash, Hex};
use oa_nips::nostr::{PublicKey, ToBech32};
use serde::Deserialize;
use serde_json::json;

use super::creator::Creator;
use super::{Parts, at};
use crate::agent::manifest::Npub;
use crate::agent::{AgentId, Lifecycle};
use crate::bundle::admit::{AdmitError, Mode, Twin};
use crate::bundle::shelf::Shelf;
use crate::bundle::{Bundle, MIGRATED, SealError, digest, restoring};
use crate::codes;
use crate::elsewhere;
use crate::keyring::Adopted;
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::path::Path;
use crate::namespace::service::{
    Answer, Change, Context, Effect, FileService, FileType, Span, Stat, file, not_taken,
};
use crate::profiles;
use crate::store::backend::BackendError;
use crate::store::row::{OutId, OutRow, Outgoing, Stage};
use crate::store::write::{AgentChange, Write, handed_over};
use crate::tenure;

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts) {
    let export = Export { parts: parts.clone(), shelf: Shelf::default() };
    mounts.mount_file(at("/export"), FileType::Call, Arc::new(export), "a bundle");
}

pub(super) fn mount_node(mounts: &mut Mounts, parts: &Parts, creator: &Arc<Creator>) {
    let import = Import { parts: parts.clone(), creator: creator.clone(), shelf: Shelf::default() };
    mounts.mount_file(at("/agents/import"), FileType::Call, Arc::new(import), "takes in a bundle");
}

fn unreadable(path: &Path) -> Error {
    Error::new(Code::PermissionDenied, path, "is not to be read")
}

fn io(error: BackendError) -> Error {
    Error::io("/", error.to_string())
}

/// `/export` of every agent.
#[derive(Debug)]
struct Export {
    parts: Parts,
    shelf: Shelf,
}

impl Export {
    /// Makes a bundle. The caller has the agent's turn.
    async fn export(&self, cx: &Context<'_>, body: &[u8]) -> Result<Effect, Error> {
        let migrate = match std::str::from_utf8(body).map(str::trim) {
            Ok("") => false,
            Ok("migrate") => true,
            _ => {
                return Err(Error::invalid(
                    "/export",
                    "takes nothing, or migrate: then the agent is stopped here",
                ));
            }
        };
        let id = cx.subject()?.row.id;
        let Parts { store, keyring, .. } = &self.parts;
        let node = keyring.node();
        let gathered = Bundle::gather(store, id, node.public_key(), cx.now_ms).map_err(io)?;
        let gone = || Error::new(Code::Unavailable, "/export", "the agent is gone");
        let mut bundle = gathered.ok_or_else(gone)?;
        let mut writes = Vec::new();
        if migrate && !bundle.about.migrated {
            bundle.about.migrated = true;
            if bundle.about.lifecycle.ticks() {
                bundle.about.lifecycle = Lifecycle::Dormant;
            }
            let stopped = AgentChange::Lifecycle(Lifecycle::Stopped, Some(MIGRATED.to_owned()));
            writes.push(Write::ChangeAgent(id, stopped));
            // Signed twice, a message would go out as two. What is signed may be sent from both sides: it is the same.
            let is_mail = |item: &&(u64, OutRow)| {
                item.1.stage == Stage::Unsigned && matches!(item.1.outgoing, Outgoing::Mail { .. })
            };
            let unsigned = bundle.holdings.outbox.iter().filter(is_mail).cloned();
            writes.extend(
                unsigned.map(|(n, item)| Write::Out(OutId { agent: id, n }, Box::new(handed_over(item)))),
            );
        }
        let migrated = bundle.about.migrated;
        let bytes = bundle.seal(&*node).await.map_err(|error| {
            let code =
                if matches!(error, SealError::TooLarge(_)) { Code::TooLarge } else { Code::Unavailable };
            Error::new(code, "/export", crate::bundle::chain(&error))
        })?;
        let name = Hex::<16>(codes::random().first_chunk().copied().unwrap_or_default()).to_string();
        let reply = json!({
            "path": format!("/export/{name}"),
            "bytes": bytes.len(),
            "sha256": digest(&bytes),
            "migrated": migrated,
        });
        self.shelf.put(&held(id, &name), 0, bytes, cx.now_ms)?;
        Ok(Effect { writes, reply: reply.to_string().into_bytes(), ..Effect::default() })
    }
}

/// What an agent's bundle is called on the shelf, where those of all agents are.
fn held(id: AgentId, name: &str) -> String {
    format!("{id}/{name}")
}

impl FileService for Export {
    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async move {
            let Some(name) = path.name() else { return Ok(file("", FileType::Call, 0)) };
            let size = self.shelf.size(&held(cx.subject()?.row.id, name), cx.now_ms);
            let size = size.ok_or_else(|| Error::not_found(path))?;
            Ok(file(name, FileType::Value, size))
        })
    }

    fn list<'a>(&'a self, _: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move { Err(Error::not_dir(path)) })
    }

    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            let name = path.name().ok_or_else(|| unreadable(path))?;
            let whole = self.shelf.whole(&held(cx.subject()?.row.id, name), cx.now_ms)?;
            whole.map(|whole| span.of(&whole)).ok_or_else(|| Error::not_found(path))
        })
    }

    fn change<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async move {
            match change {
                Change::Call(body) if *path == Path::root() => self.export(cx, body).await,
                _ => Err(not_taken(path, change)),
            }
        })
    }
}

/// The line before a bundle that is taken in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    mode: Mode,
    /// What a clone is called; nothing for the old name.
    #[serde(default)]
    name: Option<String>,
    /// Whom a clone obeys; nothing for whoever takes it in.
    #[serde(default)]
    owner: Option<Npub>,
    /// Where the bundle was written to; nothing for what follows this line.
    #[serde(default)]
    upload: Option<String>,
    /// SHA-256 of the bundle as its reader has it, if they say.
    #[serde(default)]
    sha256: Option<Hash>,
}

/// `/agents/import`
#[derive(Debug)]
struct Import {
    parts: Parts,
    creator: Arc<Creator>,
    shelf: Shelf,
}

impl Import {
    async fn import(&self, cx: &Context<'_>, body: &[u8]) -> Result<Effect, Error> {
        let invalid = |reason: String| Error::invalid("/agents/import", reason);
        let at = body.iter().position(|byte| *byte == b'\n').unwrap_or(body.len());
        let (order, rest) = body.split_at_checked(at).unwrap_or((body, &[]));
        let order: Order = serde_json::from_slice(order).map_err(|error| {
            invalid(format!(
                r#"takes a line {{"mode": "restore"|"clone"|"migrate"}}, and a bundle after it: {error}"#
            ))
        })?;
        let bytes = match &order.upload {
            None => Arc::new(rest.get(1..).unwrap_or_default().to_vec()),
            Some(name) => {
                let whole = self.shelf.whole(&uploaded(&cx.caller, name), cx.now_ms)?;
                whole.ok_or_else(|| {
                    Error::new(Code::NotFound, "/agents/import", format!("nothing is at {name}"))
                })?
            }
        };
        if order.sha256.is_some_and(|sha256| sha256 != digest(&bytes)) {
            return Err(invalid("what arrived is not what was sent".to_owned()));
        }
        let bundle = Bundle::open(&bytes).map_err(|error| invalid(crate::bundle::chain(&error)))?;
        match order.mode {
            Mode::Clone => self.clone_of(cx, bundle, order),
            Mode::Restore | Mode::Migrate if order.name.is_some() || order.owner.is_some() => {
                Err(invalid("an agent that goes on has the name and the owner that it had".to_owned()))
            }
            mode => self.restore(cx, bundle, mode),
        }
    }

    /// The key of a bundle's agent, if it is the agent's own and here; and the bundle under a number of this node's.
    fn own_key(&self, bundle: &mut Bundle, mode: Mode) -> Result<Option<Adopted>, Error> {
        let Parts { keyring, reach, .. } = &self.parts;
        let error = match bundle.belongs(&**keyring, mode) {
            Ok(()) => return Ok(None),
            Err(error @ AdmitError::OtherSeed { .. }) => error,
            Err(error) => return Err(refused(&error)),
        };
        let found = reach.find(&bundle.about.pubkey);
        let found = found.map_err(|reason| Error::new(Code::Unavailable, "/agents/import", reason))?;
        let own = found.ok_or_else(|| refused(&error))?;
        if mode == Mode::Migrate && !bundle.about.migrated {
            return Err(refused(&AdmitError::NotMigrated(bundle.about.name.clone())));
        }
        if keyring.whose(&bundle.about.pubkey).is_some() {
            let reason = format!("{} is here already: nothing was changed", bundle.about.name);
            return Err(Error::new(Code::Exists, "/agents/import", reason));
        }
        // Its number elsewhere is somebody else's here.
        if bundle.about.node != keyring.node().public_key() {
            bundle.about.number = self.creator.number();
        }
        Ok(Some(own))
    }

    fn restore(&self, cx: &Context<'_>, mut bundle: Bundle, mode: Mode) -> Result<Effect, Error> {
        let own = self.own_key(&mut bundle, mode)?;
        let Parts { store, reach, .. } = &self.parts;
        let (import, goes_on) = bundle.restored().map_err(|error| refused(&error))?;
        self.creator.check(&import.manifest).map_err(|reason| Error::invalid("/agents/import", reason))?;
        let row = &import.row;
        let old = store.agent(row.id).map_err(io)?;
        if let Some(old) = old.filter(|old| old.lifecycle != Lifecycle::Terminated) {
            let reason = format!("{} is here already, as agent {}: nothing was changed", old.name, old.id);
            return Err(Error::new(Code::Exists, "/agents/import", reason));
        }
        self.creator.never_again(row.id);
        let reply = json!({
            "name": row.name,
            "npub": row.pubkey.to_bech32().unwrap_or_default(),
            "mode": mode,
            "exported_at": goes_on.since_ms / 1000,
        });
        let mut writes = profiles::publish(row, &import.manifest, &self.creator.place, cx.now_ms);
        if let Some(own) = own {
            writes.push(elsewhere::put(store, row.id, &own).map_err(io)?);
            reach.adopt(row.id, own);
        }
        // What is taken in is newer than what this node knew when it let the agent go.
        writes.extend(tenure::own::forget(store, row.id).map(Write::Row));
        writes.push(restoring::note(store, row.id, &goes_on).map_err(io)?);
        writes.insert(0, Write::Import(Box::new(import)));
        Ok(Effect { writes, reply: reply.to_string().into_bytes(), ..Effect::default() })
    }

    fn clone_of(&self, cx: &Context<'_>, bundle: Bundle, order: Order) -> Result<Effect, Error> {
        let id = self.creator.number();
        let pubkey = self.parts.keyring.agent(id).public_key();
        let owner = order.owner.map_or(cx.caller, |npub| npub.0);
        let session = Hex(codes::random().first_chunk().copied().unwrap_or_default());
        let twin = Twin { id, pubkey, name: order.name, owner, session, at_ms: cx.now_ms };
        let import = bundle.cloned(twin).map_err(|error| refused(&error))?;
        self.creator.check(&import.manifest).map_err(|reason| Error::invalid("/agents/import", reason))?;
        let reply = json!({
            "name": import.row.name,
            "npub": pubkey.to_bech32().unwrap_or_default(),
            "mode": Mode::Clone,
        });
        let mut writes = profiles::publish(&import.row, &import.manifest, &self.creator.place, cx.now_ms);
        writes.insert(0, Write::Import(Box::new(import)));
        Ok(Effect { writes, reply: reply.to_string().into_bytes(), ..Effect::default() })
    }

    /// A piece of a bundle: `/<name>/<offset>`.
    fn upload(&self, cx: &Context<'_>, path: &Path, piece: &[u8]) -> Result<Effect, Error> {
        let mut parts = path.components();
        let place = parts.next().zip(parts.next().and_then(|offset| offset.parse().ok()));
        let Some((name, offset)) = place.filter(|_| parts.next().is_none()) else {
            return Err(Error::invalid(path, "pieces are written to /agents/import/<name>/<offset>"));
        };
        self.shelf.put(&uploaded(&cx.caller, name), offset, piece.to_vec(), cx.now_ms)?;
        Ok(Effect::default())
    }
}

/// What somebody's upload is called on the shelf, where those of all callers are.
fn uploaded(by: &PublicKey, name: &str) -> String {
    format!("{by}/{name}")
}

fn refused(error: &AdmitError) -> Error {
    Error::invalid("/agents/import", error.to_string())
}

impl FileService for Import {
    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async move {
            let Some(name) = path.components().next() else { return Ok(file("", FileType::Call, 0)) };
            let size = self.shelf.size(&uploaded(&cx.caller, name), cx.now_ms);
            size.map(|size| file(name, FileType::Value, size)).ok_or_else(|| Error::not_found(path))
        })
    }

    fn list<'a>(&'a self, _: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move { Err(Error::not_dir(path)) })
    }

    fn read<'a>(&'a self, _: &'a Context<'a>, path: &'a Path, _: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move { Err(unreadable(path)) })
    }

    fn change<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async move {
            match change {
                Change::Call(body) if *path == Path::root() => self.import(cx, body).await,
                Change::Write(piece) if *path != Path::root() => self.upload(cx, path, piece),
                _ => Err(not_taken(path, change)),
            }
        })
    }
}
