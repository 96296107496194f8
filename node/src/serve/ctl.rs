//! `/ctl`, `/manifest`, `/program`, `/inbox/new`: what owners and operators do to an agent, and a little that it may do
//! to itself.

use std::sync::Arc;

use oa_nips::files::Code;
use oa_nips::hex::Hex;
use oa_nips::mail::Protocol;
use oa_nips::nostr::PublicKey;
use serde_json::json;

use super::creator::Creator;
use super::{OneFile, Parts, at};
use crate::agent::Lifecycle;
use crate::agent::envelope::{Envelope, Kind, Origin};
use crate::agent::manifest::Manifest;
use crate::approvals::Index;
use crate::codes;
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::rights::Role;
use crate::namespace::service::{Change, Context, Effect, FileType, Subject};
use crate::store::row::Claim;
use crate::store::write::{AgentChange, Poke, Write};

/// How long a claim code is good, in milliseconds.
pub(crate) const CLAIM_MS: u64 = 10 * 60 * 1000;

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts, creator: &Arc<Creator>) {
    let wishes = parts.wishes.clone();
    let ctl = OneFile::call(move |cx, change| {
        let wishes = wishes.clone();
        Box::pin(async move { ctl(cx, &wishes, text(change)?) })
    });
    mounts.mount_file(at("/ctl"), FileType::Call, Arc::new(ctl), "control");
    let wishes = parts.wishes.clone();
    let new = OneFile::append(move |cx, change| {
        let wishes = wishes.clone();
        Box::pin(async move { put_in_inbox(cx, &wishes, change.body()) })
    });
    mounts.mount_file(at("/inbox/new"), FileType::Append, Arc::new(new), "a message");
    let creator = creator.clone();
    let read = |cx: &Context<'_>| Ok(cx.subject()?.manifest.to_toml().into_bytes());
    let manifest = OneFile::value(read).taking(move |cx, change| {
        let creator = creator.clone();
        Box::pin(async move { set_manifest(cx, &creator, text(change)?) })
    });
    let manifest = manifest.watched(super::metrics::changes(parts));
    mounts.mount_file(at("/manifest"), FileType::Value, Arc::new(manifest), "manifest");
}

/// What was written, as text.
pub(super) fn text(change: &Change) -> Result<&str, Error> {
    std::str::from_utf8(change.body()).map_err(|_| Error::invalid("/", "what is sent is not UTF-8"))
}

/// A fresh claim: the code to show, and what is stored of it.
pub(crate) fn claim(now_ms: u64) -> (String, Claim) {
    let code = codes::code();
    let claim = Claim { digest: codes::digest(&code), expires_at_ms: now_ms + CLAIM_MS, misses: 0 };
    (code, claim)
}

fn ctl(cx: &Context<'_>, wishes: &Index, command: &str) -> Result<Effect, Error> {
    let row = cx.subject()?.row;
    let (verb, argument) = command.trim().split_once(' ').unwrap_or((command.trim(), ""));
    if cx.role == Role::Agent && !matches!(verb, "tick" | "hibernate" | "stop") {
        return Err(Error::new(Code::PermissionDenied, "/ctl", format!("{verb} is for owner and operator")));
    }
    if row.lifecycle == Lifecycle::Terminated {
        return Err(Error::new(Code::Unavailable, "/ctl", format!("{} is terminated", row.name)));
    }
    let lifecycle = |lifecycle| Write::ChangeAgent(row.id, AgentChange::Lifecycle(lifecycle, None));
    let poke = |kind, name: &str| {
        let name = format!("{name}:{}:{}", row.id, Hex(cx.key));
        // An agent may ask for a tick in any tick, a stranger's too.
        let envelope =
            Envelope::from_node(kind, &name, cx.now_ms).because_of(cx.wake.map(|wake| wake.envelope));
        Write::Poke(Box::new(Poke { agent: row.id, envelope }))
    };
    let mut said = json!({ "name": row.name, "did": verb });
    // What was granted and has begun outside nobody can take back.
    let under_way = if matches!(verb, "stop" | "remove") { wishes.doing(row.id) } else { Vec::new() };
    if !under_way.is_empty() {
        said = json!({ "name": row.name, "did": verb, "under_way": under_way });
    }
    let write = match verb {
        "tick" | "wake" => poke(Kind::Poke, "poke"),
        "hibernate" => poke(Kind::Sleep, "sleep"),
        "stop" => lifecycle(Lifecycle::Stopped),
        "resume" => lifecycle(Lifecycle::Active),
        "remove" => Write::ChangeAgent(row.id, AgentChange::Remove),
        "allow" | "deny" => {
            let peer = PublicKey::parse(argument.trim())
                .map_err(|_| Error::invalid("/ctl", format!("{verb} takes an npub, not {argument:?}")))?;
            Write::ChangeAgent(row.id, AgentChange::Allow(peer, verb == "allow"))
        }
        "claim" => {
            let (code, claim) = claim(cx.now_ms);
            said = json!({ "name": row.name, "did": verb, "code": code, "expires_at": claim.expires_at_ms / 1000 });
            Write::ChangeAgent(row.id, AgentChange::Claim(claim))
        }
        "disown" => Write::ChangeAgent(row.id, AgentChange::Owner(None)),
        _ => {
            let known = "tick, wake, hibernate, stop, resume, remove, claim, disown, allow NPUB, deny NPUB";
            return Err(Error::invalid("/ctl", format!("{verb:?} is none of {known}")));
        }
    };
    Ok(Effect::write(write, said.to_string()))
}

/// A message from whoever asks: `{"text": "…"}`. Its answer goes there by direct message.
fn put_in_inbox(cx: &Context<'_>, wishes: &Index, body: &[u8]) -> Result<Effect, Error> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct New {
        text: String,
    }
    let New { text } = serde_json::from_slice(body)
        .map_err(|error| Error::invalid("/inbox/new", format!(r#"takes {{"text": "..."}}: {error}"#)))?;
    if wishes.holds_code(&text) {
        let reason = "it holds a code of the node's, which no agent may see: send it to the node, or use /approvals/ctl";
        return Err(Error::new(Code::PermissionDenied, "/inbox/new", reason));
    }
    let origin = Origin { peer: cx.caller, protocol: Protocol::Nip17, relay: None, mail: None, auto_hop: 0 };
    let name = format!("op:{}:{}", cx.caller, Hex(cx.key));
    let envelope = Envelope { origin: Some(origin), text, ..Envelope::from_node(Kind::Dm, &name, cx.now_ms) };
    let reply = json!({ "id": envelope.id }).to_string();
    Ok(Effect::write(Write::Poke(Box::new(Poke { agent: cx.subject()?.row.id, envelope })), reply))
}

/// A new manifest: the next tick runs under it, and the profile follows.
fn set_manifest(cx: &Context<'_>, creator: &Creator, text: &str) -> Result<Effect, Error> {
    let Subject { row, .. } = cx.subject()?;
    let invalid = |reason: String| Error::invalid("/manifest", reason);
    let manifest = Manifest::parse(text).map_err(|error| invalid(format!("manifest: {error}")))?;
    creator.check(&manifest).map_err(invalid)?;
    if manifest.name != row.name {
        return Err(invalid(format!("manifest: name: {} cannot be renamed", row.name)));
    }
    if manifest.parent != cx.subject()?.manifest.parent {
        return Err(invalid("manifest: parent: says who made the agent, and stays as it is".to_owned()));
    }
    change_manifest(cx, manifest)
}

/// The effect of a manifest that was checked.
pub(super) fn change_manifest(cx: &Context<'_>, manifest: Manifest) -> Result<Effect, Error> {
    let row = cx.subject()?.row;
    // The change is published soon after it has landed.
    let writes = vec![Write::ChangeAgent(row.id, AgentChange::Manifest(Box::new(manifest)))];
    Ok(Effect { writes, ..Effect::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oa_nips::port::RowWrite;

    use crate::agent::envelope::{Heard, Trust};
    use crate::approvals::fixture::{CODE, wish};
    use crate::engine::world;
    use crate::serve::fixture::{Fixture, NOW_MS, someone};

    #[test]
    fn no_message_brings_an_agent_a_code_that_waits() {
        let (fixture, wishes) = (Fixture::new(), Index::default());
        let value = serde_json::to_vec(&wish()).ok();
        let (space, key) = (String::new(), wish().id);
        wishes.landed(&RowWrite { space, key, expect_version: 0, value });
        let cx = Context {
            role: Role::Owner,
            caller: someone(),
            subject: Some(Subject { row: &fixture.row, manifest: &fixture.manifest, state: &fixture.files }),
            wake: None,
            now_ms: NOW_MS,
            key: [0; 32],
        };
        let put = |text: &str| put_in_inbox(&cx, &wishes, json!({ "text": text }).to_string().as_bytes());
        let spaced = format!("yes {}-{}", &CODE[..3], &CODE[3..]);
        for text in [CODE, &spaced] {
            assert_eq!(put(text).unwrap_err().code, Code::PermissionDenied, "{text}");
        }
        assert_eq!(put("yes").unwrap().writes.len(), 1);
    }

    #[tokio::test]
    async fn a_tick_that_a_strangers_tick_asks_for_is_a_strangers_too() {
        let fixture = Fixture::new();
        let peer = someone();
        let origin = Origin { peer, protocol: Protocol::Nip17, relay: None, mail: None, auto_hop: 0 };
        let heard = Heard { author: peer, subscriptions: Vec::new(), auto_hop: 0 };
        for (origin, heard) in [(Some(origin), None), (None, Some(heard))] {
            for command in ["tick", "hibernate"] {
                let (origin, heard) = (origin.clone(), heard.clone());
                let woken = Envelope { origin, heard, ..Envelope::from_node(Kind::Event, command, NOW_MS) };
                let mut ns = fixture.tick_for(woken, Trust::Stranger);
                ns.call("/ctl", command.as_bytes()).await.unwrap();
                let done = ns.finish().unwrap().unwrap();
                let Some(Write::Poke(poke)) = done.writes.first() else { panic!("{:?}", done.writes) };
                let Fixture { store, row, manifest, .. } = &fixture;
                let trust = world::trust(store, row, manifest, &poke.envelope).unwrap();
                assert_eq!(trust, Trust::Stranger, "{command}");
            }
        }
    }
}
