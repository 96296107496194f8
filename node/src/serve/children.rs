//! `/children/{new,<name>.json}`: agents that this one made.
//!
//! What it made is noted in files of its state, which only this server writes, so that a tick that makes two sees the
//! first. A child whose parent is removed is its owner's like any other; a name whose child was removed is free again,
//! and so is its share.

use std::collections::BTreeSet;
use std::sync::Arc;

use oa_nips::files::Code;
use oa_nips::nostr::ToBech32;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::creator::Creator;
use super::ctl::text;
use super::mail::io;
use super::{OneFile, Parts, at};
use crate::agent::Lifecycle;
use crate::agent::child::{self, CHILDREN_MAX, DEPTH_MAX, Share, Wish};
use crate::agent::manifest::{Manifest, Npub};
use crate::keyring::Keyring;
use crate::namespace::blocks::Rows;
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::path::Path;
use crate::namespace::service::{Context, Effect, FileType, Subject, file};
use crate::store::Store;
use crate::store::row::AgentRow;
use crate::store::write::{AgentChange, Write};

const NEW: &str = "/children/new";
/// Where they are noted.
const FOLDER: &str = "/children/";

/// What is noted of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    npub: Npub,
    /// Milliseconds since 1970.
    created_at_ms: u64,
    share: Share,
}

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts, creator: &Arc<Creator>) {
    let store = parts.store.clone();
    let children = Rows::new(
        |cx| {
            Ok(notes(cx)?
                .into_iter()
                .map(|(name, _)| file(format!("{name}.json"), FileType::Value, 0))
                .collect())
        },
        move |cx, name| name.strip_suffix(".json").map_or(Ok(None), |name| status(&store, cx, name)),
    );
    mounts.mount(at("/children"), children.build(), "agents it made");
    let (store, keyring, creator) = (parts.store.clone(), parts.keyring.clone(), creator.clone());
    let new = OneFile::call(move |cx, change| {
        let maker = Maker { store: store.clone(), keyring: keyring.clone(), creator: creator.clone() };
        Box::pin(async move { maker.make(cx, text(change)?) })
    });
    mounts.mount_file(at(NEW), FileType::Call, Arc::new(new), "makes an agent");
}

/// What an agent has of a daily budget, what its children have of it taken off.
pub(super) fn left(store: &Store, cx: &Context<'_>, http_per_day: u32) -> Result<u32, Error> {
    let mut left = http_per_day;
    for (name, note) in notes(cx)? {
        if alive(store, cx, &name, &note)?.is_some() {
            left = left.saturating_sub(note.share.http_per_day);
        }
    }
    Ok(left)
}

/// Its children by name, removed ones too.
fn notes(cx: &Context<'_>) -> Result<Vec<(String, Note)>, Error> {
    let state = cx.subject()?.state;
    let mut notes = Vec::new();
    for path in state.paths(FOLDER)? {
        let name = path.strip_prefix(FOLDER).and_then(|name| name.strip_suffix(".json"));
        let (Some(name), Ok(path)) = (name, path.parse::<Path>()) else { continue };
        let note = state.read(&path)?.and_then(|json| serde_json::from_slice(&json).ok());
        notes.extend(note.map(|note| (name.to_owned(), note)));
    }
    Ok(notes)
}

/// A child's row, if it is there still, or is made by the tick that asks.
fn alive(
    store: &Store,
    cx: &Context<'_>,
    name: &str,
    note: &Note,
) -> Result<Option<Option<AgentRow>>, Error> {
    let parent = cx.subject()?.row;
    let id = store.agent_named(&format!("{}-{name}", parent.name)).map_err(io)?;
    let row = id.map(|id| store.agent(id)).transpose().map_err(io)?.flatten();
    let row = row.filter(|row| row.pubkey == note.npub.0 && row.lifecycle != Lifecycle::Terminated);
    let is_being_made = cx.wake.is_some() && row.is_none() && note.created_at_ms == cx.now_ms;
    Ok(if row.is_some() || is_being_made { Some(row) } else { None })
}

fn status(store: &Store, cx: &Context<'_>, name: &str) -> Result<Option<Vec<u8>>, Error> {
    let Some((_, note)) = notes(cx)?.into_iter().find(|(noted, _)| noted == name) else { return Ok(None) };
    let alive = alive(store, cx, name, &note)?;
    let lifecycle = match &alive {
        Some(Some(row)) => json!(row.lifecycle),
        Some(None) => json!(Lifecycle::Creating),
        None => json!(Lifecycle::Terminated),
    };
    let queue = alive.flatten().map_or(0, |row| row.inbox_depth);
    let status = json!({
        "name": format!("{}-{name}", cx.subject()?.row.name),
        "npub": note.npub,
        "lifecycle": lifecycle,
        "created_at": note.created_at_ms / 1000,
        "queue": queue,
        "share": note.share,
    });
    Ok(Some(status.to_string().into_bytes()))
}

struct Maker {
    store: Store,
    keyring: Arc<dyn Keyring>,
    creator: Arc<Creator>,
}

impl Maker {
    fn make(&self, cx: &Context<'_>, text: &str) -> Result<Effect, Error> {
        let invalid = |reason: String| Error::invalid(NEW, reason);
        let refused = |code, reason: String| Err(Error::new(code, NEW, reason));
        let Subject { row, manifest, .. } = cx.subject()?;
        let wish = Wish::parse(text).map_err(invalid)?;
        let mut living = BTreeSet::new();
        for (name, note) in notes(cx)? {
            if alive(&self.store, cx, &name, &note)?.is_some() {
                living.insert(name);
            }
        }
        if living.len() >= CHILDREN_MAX {
            return refused(Code::BudgetExceeded, format!("has {CHILDREN_MAX} children already"));
        }
        if self.depth(manifest)? >= DEPTH_MAX {
            return refused(Code::PermissionDenied, format!("descends from {DEPTH_MAX} agents itself"));
        }
        let share = wish.share(Share { http_per_day: manifest.http.per_day }).map_err(invalid)?;
        // What it has asked for today is gone for its children too.
        let used = super::http::used_today(&self.store, row.id, cx.now_ms)?;
        let left = left(&self.store, cx, manifest.http.per_day)?.saturating_sub(used);
        if share.http_per_day > left {
            return refused(Code::BudgetExceeded, format!("share: http_per_day: {left} are left"));
        }
        let parent = Npub(row.pubkey);
        let mut child =
            child::derive(manifest, parent, row.owner.map(Npub), &wish, share).map_err(invalid)?;
        self.leave_out_mounts(&mut child);
        self.creator.check(&child).map_err(invalid)?;
        let is_taken = self.store.agent_named(&child.name).map_err(io)?.is_some();
        if is_taken || living.contains(&wish.name) {
            return refused(Code::Exists, format!("there is an agent named {} already", child.name));
        }
        self.commit(cx, &wish, child, share)
    }

    fn commit(&self, cx: &Context<'_>, wish: &Wish, child: Manifest, share: Share) -> Result<Effect, Error> {
        let name = child.name.clone();
        let (_, pubkey, create) = self.creator.create(child, cx.now_ms);
        let note = Note { npub: Npub(pubkey), created_at_ms: cx.now_ms, share };
        let path = format!("{FOLDER}{}.json", wish.name);
        let path = path.parse().map_err(|reason| Error::invalid_path(&path, reason))?;
        let hears = Write::ChangeAgent(cx.subject()?.row.id, AgentChange::Allow(pubkey, true));
        Ok(Effect {
            reply: json!({ "name": name, "npub": pubkey.to_bech32().unwrap_or_default() })
                .to_string()
                .into_bytes(),
            files: vec![(path, serde_json::to_vec(&note).ok())],
            writes: vec![create, hears],
            ..Effect::default()
        })
    }

    /// How many agents it descends from. One whose parent is gone is its owner's, and begins anew.
    fn depth(&self, manifest: &Manifest) -> Result<usize, Error> {
        let (mut depth, mut parent) = (0, manifest.parent);
        while let Some(npub) = parent.filter(|_| depth < DEPTH_MAX) {
            let Some(id) = self.keyring.whose(&npub.0) else { break };
            let Some(manifest) = self.store.manifest(id).map_err(io)? else { break };
            (depth, parent) = (depth + 1, manifest.parent);
        }
        Ok(depth)
    }

    /// What an operator mounts for the parent by its name is not the child's.
    fn leave_out_mounts(&self, child: &mut Manifest) {
        let mounts = std::mem::take(&mut child.mounts);
        child.mounts = mounts
            .into_iter()
            .filter(|mount| {
                let alone = Manifest { mounts: vec![mount.clone()], ..child.clone() };
                mount.from.is_empty() || self.creator.check(&alone).is_ok()
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;
    use crate::namespace::service::Change;

    /// An agent that may ask 100 times a day.
    async fn parent() -> Fixture {
        let mut fixture = Fixture::stored().await;
        fixture.manifest.http.per_day = 100;
        // The fixture's numbers begin with the parent's own.
        assert!(ask(&fixture, r#"{"name":"nobody"}"#).await.is_ok());
        fixture
    }

    async fn ask(fixture: &Fixture, wish: &str) -> Result<Effect, Code> {
        fixture.change(NEW, Change::Call(wish.as_bytes().to_vec())).await
    }

    /// Has an owner make a child; answers its row.
    async fn make(fixture: &mut Fixture, wish: &str) -> Result<AgentRow, Code> {
        let Effect { reply, files, writes, .. } = ask(fixture, wish).await?;
        for write in writes {
            let verdict = fixture.write(write).await;
            assert!(!verdict.stops_unit(), "{verdict:?}");
        }
        for (path, content) in files {
            fixture.files.0.insert(path.to_string(), content.unwrap());
        }
        let reply: serde_json::Value = serde_json::from_slice(&reply).unwrap();
        let id = fixture.store.agent_named(reply["name"].as_str().unwrap()).unwrap().unwrap();
        Ok(fixture.store.agent(id).unwrap().unwrap())
    }

    #[tokio::test]
    async fn a_child_is_made_shown_and_known_to_its_parent() {
        let mut fixture = parent().await;
        let child = make(&mut fixture, r#"{"name":"scout","share":0.25}"#).await.unwrap();
        assert_eq!((child.name.as_str(), child.owner), ("alice-scout", fixture.row.owner));
        let manifest = fixture.store.manifest(child.id).unwrap().unwrap();
        assert_eq!((manifest.parent, manifest.http.per_day), (Some(Npub(fixture.row.pubkey)), 25));
        assert!(fixture.store.peer(fixture.row.id, &child.pubkey).unwrap().unwrap().allowed);
        assert_eq!(fixture.names("/children").await, ["new", "scout.json"]);
        let status = fixture.json("/children/scout.json").await;
        assert_eq!((&status["name"], &status["share"]["http_per_day"]), (&json!("alice-scout"), &json!(25)));
        assert_eq!(status["lifecycle"], json!(child.lifecycle));
        assert_eq!(fixture.json("/http/policy").await["per_day"], 75);
        assert_eq!(make(&mut fixture, r#"{"name":"scout"}"#).await.unwrap_err(), Code::Exists);
        // Its name is its parent's before its own, and another agent may have it.
        assert_eq!(make(&mut fixture, r#"{"name":"Scout"}"#).await.unwrap_err(), Code::InvalidInput);
        assert_eq!(
            make(&mut fixture, r#"{"name":"x","program":"none"}"#).await.unwrap_err(),
            Code::InvalidInput
        );
    }

    #[tokio::test]
    async fn shares_never_come_to_more_than_there_is_and_return() {
        let mut fixture = parent().await;
        let child = make(&mut fixture, r#"{"name":"a","share":{"http_per_day":60}}"#).await.unwrap();
        let more = r#"{"name":"b","share":{"http_per_day":41}}"#;
        assert_eq!(make(&mut fixture, more).await.unwrap_err(), Code::BudgetExceeded);
        fixture.write(Write::ChangeAgent(child.id, AgentChange::Remove)).await;
        assert_eq!(fixture.json("/http/policy").await["per_day"], 100);
        assert_eq!(fixture.json("/children/a.json").await["lifecycle"], "terminated");
        assert!(make(&mut fixture, more).await.is_ok());
    }

    #[tokio::test]
    async fn a_tick_sees_what_it_has_made_and_sixteen_are_all() {
        let fixture = parent().await;
        let mut ns = fixture.tick();
        for n in 0..CHILDREN_MAX {
            ns.call(NEW, format!(r#"{{"name":"c{n}","share":{{"http_per_day":5}}}}"#).as_bytes())
                .await
                .unwrap();
            let again = ns.call(NEW, format!(r#"{{"name":"c{n}"}}"#).as_bytes()).await.unwrap_err();
            let full = n + 1 == CHILDREN_MAX;
            assert_eq!(again.code, if full { Code::BudgetExceeded } else { Code::Exists });
        }
        let status: serde_json::Value =
            serde_json::from_slice(&ns.read("/children/c3.json").await.unwrap()).unwrap();
        assert_eq!(status["lifecycle"], "creating");
        // Nothing but the call makes or changes one.
        for path in ["/children/c3.json", "/children/x.json"] {
            assert!(ns.write(path, b"{}").await.is_err(), "{path}");
            assert!(ns.remove(path).await.is_err(), "{path}");
        }
        let done = ns.finish().unwrap().unwrap();
        assert_eq!((done.files.len(), done.writes.len()), (CHILDREN_MAX, 2 * CHILDREN_MAX));
    }

    #[tokio::test]
    async fn descent_ends() {
        let mut fixture = parent().await;
        for n in 0..DEPTH_MAX {
            // The addresses are those of the keyring, as a running node keeps them.
            fixture.addresses.add(fixture.row.pubkey, fixture.row.id);
            let child = make(&mut fixture, r#"{"name":"x"}"#).await;
            let child = child.unwrap_or_else(|code| panic!("{n}: {code:?}"));
            fixture.manifest = fixture.store.manifest(child.id).unwrap().unwrap();
            (fixture.row, fixture.files) = (child, Default::default());
        }
        fixture.addresses.add(fixture.row.pubkey, fixture.row.id);
        assert_eq!(make(&mut fixture, r#"{"name":"x"}"#).await.unwrap_err(), Code::PermissionDenied);
    }
}
