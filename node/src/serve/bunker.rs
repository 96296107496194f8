//! `/bunker`: who else may have things signed with an agent's key (NIP-46). `new` invites, `<name>.json` shows a
//! connection, and removing that ends it.

use std::collections::BTreeSet;
use std::sync::Arc;

use oa_nips::files::Code;
use oa_nips::hex::Hex;
use oa_nips::nostr::{PublicKey, ToBech32};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ctl::text;
use super::{Creator, Parts, at};
use crate::agent::AgentId;
use crate::bunker::book::{self, AGENTS_MAX};
use crate::bunker::uri::{BunkerUri, RELAYS_MAX, Remote, Secret};
use crate::bunker::{Grant, State};
use crate::codes;
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::path::Path;
use crate::namespace::service::{
    Answer, Change, Context, Effect, FileService, FileType, Span, Stat, dir, file, not_taken,
};
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::write::Write;

/// How long an invitation can be used, in seconds: by default, and at most.
const VALID_S: u64 = 600;
const VALID_S_MAX: u64 = 24 * 3600;
/// The longest name of a connection.
const NAME_BYTES_MAX: usize = 63;

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts, creator: &Creator) {
    let mut relays = creator.place.relays.clone();
    relays.truncate(RELAYS_MAX);
    let node = parts.keyring.node().public_key();
    let bunker = Bunker { store: parts.store.clone(), remote: Remote { public_key: node, relays } };
    mounts.mount(at("/bunker"), Arc::new(bunker), "who else signs with its key");
}

/// What is asked of `new`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// What the connection is called.
    name: String,
    /// Kinds of event that it may have signed; notes, reposts, reactions and articles without it.
    #[serde(default)]
    kinds: Option<BTreeSet<u16>>,
    /// Whether it may encrypt and decrypt, and so read the agent's messages.
    #[serde(default)]
    nip44: bool,
    /// The same for legacy messages.
    #[serde(default)]
    nip04: bool,
    /// How long the invitation can be used.
    #[serde(default)]
    valid_s: Option<u64>,
}

/// Serves the connections of every agent.
#[derive(Debug)]
struct Bunker {
    store: Store,
    /// Where clients ask.
    remote: Remote,
}

fn io(error: BackendError) -> Error {
    Error::io("/bunker", error.to_string())
}

fn grant_json(grant: &Grant) -> Value {
    json!({ "kinds": grant.kinds, "nip44": grant.nip44, "nip04": grant.nip04 })
}

/// A connection as it is shown: by name, and never with its secret.
fn shown(state: &State, now_s: u64) -> Vec<(String, Vec<u8>)> {
    let client = |(key, client): (&PublicKey, &crate::bunker::Client)| {
        let shown = json!({
            "name": client.name,
            "state": "connected",
            "client": key.to_bech32().unwrap_or_default(),
            "since": client.since_s,
            "may": grant_json(&client.grant),
        });
        (client.name.clone(), shown.to_string().into_bytes())
    };
    let mut all: Vec<_> = state.clients.iter().map(client).collect();
    for invitation in state.invitations.values().filter(|invitation| invitation.until_s > now_s) {
        let shown = json!({
            "name": invitation.name,
            "state": "invited",
            "expires_at": invitation.until_s,
            "may": grant_json(&invitation.grant),
        });
        all.push((invitation.name.clone(), shown.to_string().into_bytes()));
    }
    all.sort();
    all
}

impl Bunker {
    fn state(&self, cx: &Context<'_>) -> Result<(AgentId, u64, State), Error> {
        let agent = cx.subject()?.row.id;
        let (version, state) = book::read(&self.store, agent).map_err(io)?;
        Ok((agent, version, state))
    }

    fn one(&self, cx: &Context<'_>, path: &Path) -> Result<Vec<u8>, Error> {
        let wanted = name(path)?;
        let all = shown(&self.state(cx)?.2, cx.now_ms / 1000);
        let found = all.into_iter().find(|(name, _)| name == wanted);
        found.map(|(_, content)| content).ok_or_else(|| Error::not_found(path))
    }

    fn invite(&self, cx: &Context<'_>, path: &Path, text: &str) -> Result<Effect, Error> {
        let invalid = |reason: String| Error::invalid(path, reason);
        let wish: Wish = serde_json::from_str(text).map_err(|error| {
            invalid(format!(r#"takes {{"name": "phone", "kinds": [1, 30023], "nip44": false}}: {error}"#))
        })?;
        let is_plain = wish.name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        if !is_plain || wish.name.is_empty() || wish.name.len() > NAME_BYTES_MAX || wish.name == "new" {
            return Err(invalid(format!(
                "name: a connection's name is 1 to {NAME_BYTES_MAX} of a-z, 0-9 and -, and not new"
            )));
        }
        let valid_s = wish.valid_s.unwrap_or(VALID_S);
        if !(1..=VALID_S_MAX).contains(&valid_s) {
            return Err(invalid(format!("valid_s: 1 to {VALID_S_MAX}")));
        }
        let (agent, version, mut state) = self.state(cx)?;
        if version == 0 && book::all(&self.store).map_err(io)?.len() >= AGENTS_MAX {
            let reason = format!("{AGENTS_MAX} agents have connections already");
            return Err(Error::new(Code::RateLimited, path, reason));
        }
        let grant = Grant {
            kinds: wish.kinds.unwrap_or_else(|| Grant::default().kinds),
            nip44: wish.nip44,
            nip04: wish.nip04,
        };
        let (now_s, text) = (cx.now_ms / 1000, Hex(codes::random()).to_string());
        let secret = Secret::new(&text).ok_or_else(|| Error::io(path, "no secret"))?;
        let until_s = now_s.saturating_add(valid_s);
        state.invite(&secret, &wish.name, grant, until_s, now_s).map_err(|error| {
            let code = if error.is_taken() { Code::Exists } else { Code::InvalidInput };
            Error::new(code, path, error.to_string())
        })?;
        let uri = BunkerUri { remote: self.remote.clone(), secret: Some(secret) };
        let reply = json!({
            "name": wish.name,
            "npub": cx.subject()?.row.pubkey.to_bech32().unwrap_or_default(),
            "uri": uri.reveal().as_str(),
            "expires_at": until_s,
        });
        Ok(Effect::write(Write::Row(book::put(agent, version, &state)), reply.to_string()))
    }

    fn end(&self, cx: &Context<'_>, path: &Path) -> Result<Effect, Error> {
        let (agent, version, mut state) = self.state(cx)?;
        if !state.end(name(path)?) {
            return Err(Error::not_found(path));
        }
        Ok(Effect::write(Write::Row(book::put(agent, version, &state)), Vec::new()))
    }
}

/// The name of a connection from its path.
fn name(path: &Path) -> Result<&str, Error> {
    let mut parts = path.components();
    match (parts.next().and_then(|part| part.strip_suffix(".json")), parts.next()) {
        (Some(name), None) => Ok(name),
        _ => Err(Error::not_found(path)),
    }
}

impl FileService for Bunker {
    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async move {
            match path.as_str() {
                "/" => Ok(dir("bunker")),
                "/new" => Ok(file("new", FileType::Call, 0)),
                _ => {
                    let size = self.one(cx, path)?.len() as u64;
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
            let all = shown(&self.state(cx)?.2, cx.now_ms / 1000);
            let entry = |(name, content): (String, Vec<u8>)| {
                file(format!("{name}.json"), FileType::Value, content.len() as u64)
            };
            let mut entries: Vec<Stat> = all.into_iter().map(entry).collect();
            entries.push(file("new", FileType::Call, 0));
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(entries)
        })
    }

    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            match path.as_str() {
                "/" => Err(Error::is_dir(path)),
                "/new" => Err(Error::new(Code::PermissionDenied, path, "is called, not read")),
                _ => Ok(span.of(&self.one(cx, path)?)),
            }
        })
    }

    fn change<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async move {
            match (path.as_str(), change) {
                ("/new", Change::Call(_)) => self.invite(cx, path, text(change)?),
                ("/" | "/new", _) => Err(not_taken(path, change)),
                (_, Change::Remove) => self.end(cx, path),
                _ => Err(not_taken(path, change)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    async fn ask(fixture: &Fixture, wish: &str) -> Result<Effect, Code> {
        fixture.change("/bunker/new", Change::Call(wish.as_bytes().to_vec())).await
    }

    async fn land(fixture: &mut Fixture, effect: Effect) {
        for write in effect.writes {
            let verdict = fixture.write(write).await;
            assert!(!verdict.stops_unit(), "{verdict:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_is_made_shown_and_ended() {
        let mut fixture = Fixture::stored().await;
        let made = ask(&fixture, r#"{"name":"phone","kinds":[1,0]}"#).await.unwrap();
        let reply: Value = serde_json::from_slice(&made.reply).unwrap();
        let uri: BunkerUri = reply["uri"].as_str().unwrap().parse().unwrap();
        assert!(uri.secret.is_some() && !uri.remote.relays.is_empty(), "{uri:?}");
        land(&mut fixture, made).await;
        assert_eq!(fixture.names("/bunker").await, ["new", "phone.json"]);
        let shown = fixture.json("/bunker/phone.json").await;
        assert_eq!((&shown["state"], &shown["may"]["kinds"]), (&json!("invited"), &json!([0, 1])));
        assert_eq!((&shown["may"]["nip44"], &shown["may"]["nip04"]), (&json!(false), &json!(false)));
        let secret = uri.secret.unwrap();
        assert!(!shown.to_string().contains(secret.reveal()), "{shown}");
        assert_eq!(book::invited(&fixture.store, &secret, 0).unwrap(), Some(fixture.row.id));
        assert_eq!(ask(&fixture, r#"{"name":"phone"}"#).await.unwrap_err(), Code::Exists);
        let ended = fixture.change("/bunker/phone.json", Change::Remove).await.unwrap();
        land(&mut fixture, ended).await;
        assert_eq!(fixture.names("/bunker").await, ["new"]);
        assert_eq!(book::invited(&fixture.store, &secret, 0).unwrap(), None);
        assert_eq!(fixture.change("/bunker/phone.json", Change::Remove).await.unwrap_err(), Code::NotFound);
    }

    #[tokio::test]
    async fn what_is_wrong_is_refused() {
        let fixture = Fixture::stored().await;
        for wish in [
            "phone",
            r#"{"name":"Phone"}"#,
            r#"{"name":""}"#,
            r#"{"name":"new"}"#,
            r#"{"name":"a","kind":1}"#,
            r#"{"name":"a","kinds":[70000]}"#,
            r#"{"name":"a","kinds":[25930]}"#,
            r#"{"name":"a","kinds":[39205]}"#,
            r#"{"name":"a","valid_s":0}"#,
            r#"{"name":"a","valid_s":100000}"#,
        ] {
            assert_eq!(ask(&fixture, wish).await.unwrap_err(), Code::InvalidInput, "{wish}");
        }
        assert_eq!(fixture.names("/bunker").await, ["new"]);
    }
}
