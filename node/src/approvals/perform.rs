//! Makes what was granted, once; lets what nobody answered expire; tells the agent either way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oa_nips::files::Code;
use oa_nips::hex::Hash;
use oa_nips::mail::{Draft, Protocol};
use oa_nips::nostr::PublicKey;
use serde_json::json;
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Approval, KEPT_MS, SPACE, Stage, Versioned, one, put, words};
use crate::agent::AgentId;
use crate::agent::envelope::{Envelope, Kind, Trust};
use crate::engine::hooks::After;
use crate::engine::shared::Shared;
use crate::engine::world;
use crate::namespace::journal::change_request;
use crate::namespace::mount::Found;
use crate::namespace::rights::Role;
use crate::namespace::service::{self, Change, Class, Context, Effect, Subject, Wake};
use crate::namespace::{Error, Path};
use crate::store::backend::BackendError;
use crate::store::row::{AgentRow, Outgoing};
use crate::store::write::{Poke, Verdict, Write};

/// How often it is looked for what has expired.
const EVERY: Duration = Duration::from_secs(5);

/// Starts performing; `kick` wakes it, `cancel` ends it after what it is at.
pub(crate) fn start(shared: Arc<Shared>, kick: Arc<Notify>, cancel: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut every = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = kick.notified() => {}
                _ = every.tick() => {}
            }
            if shared.tenure.epoch().is_none() {
                continue;
            }
            if let Err(error) = round(&shared).await {
                tracing::warn!(%error, "approvals are looked at again later");
            }
        }
    })
}

async fn round(shared: &Shared) -> Result<(), BackendError> {
    let now_ms = shared.time.now_ms();
    for id in shared.wishes.due(now_ms) {
        let Some((version, approval)) = one(&shared.store, &id)? else {
            shared.wishes.forget(&id);
            continue;
        };
        match &approval.state {
            Stage::Waiting if approval.expires_at_ms <= now_ms => {
                let over = Approval { state: Stage::Expired, ..approval };
                finish(shared, (version, over), Err(denial("nobody consented in time")), Effect::default())
                    .await?;
            }
            Stage::Granted { .. } | Stage::Doing { .. } => perform(shared, approval.agent, &id).await?,
            Stage::Denied { by } if !is_told(&approval) => {
                tracing::debug!(%by, id = approval.id, "consent denied");
                finish(shared, (version, approval), Err(denial("consent was denied")), Effect::default())
                    .await?;
            }
            Stage::Done | Stage::Expired | Stage::Denied { .. } => {
                if approval.asked_at_ms + KEPT_MS < now_ms {
                    let (space, key) = (SPACE.to_owned(), approval.id);
                    shared.wishes.forget(&key);
                    let gone = oa_nips::port::RowWrite { space, key, expect_version: version, value: None };
                    shared.store.write(Write::Row(gone)).await?;
                }
            }
            Stage::Waiting => {}
        }
    }
    Ok(())
}

/// A denial is told once; the change is let go of then.
fn is_told(approval: &Approval) -> bool {
    approval.change.verb.is_empty()
}

fn denial(reason: &str) -> Error {
    Error::new(Code::PermissionDenied, "/", reason)
}

/// What was granted and not made in time is not made any more; who granted it, the owner and the agent are told.
async fn give_up(
    shared: &Shared,
    row: &AgentRow,
    (version, approval): Versioned,
    by: PublicKey,
) -> Result<(), BackendError> {
    let now_ms = shared.time.now_ms();
    let text = words::too_late(&approval, row);
    let told: BTreeSet<PublicKey> = row.owner.into_iter().chain([by]).collect();
    let letter = |to: PublicKey| {
        let draft = Draft { auto_hop: 1, ..Draft::text(to, text.clone(), now_ms) };
        let mail = Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: None };
        Write::Send(AgentId::NODE, Box::new(mail), now_ms)
    };
    let writes = told.into_iter().map(letter).collect();
    let over = Approval { state: Stage::Expired, ..approval };
    let reason = Err(denial("it was granted, and could not be made in time"));
    finish(shared, (version, over), reason, Effect { writes, ..Effect::default() }).await
}

/// Makes what was granted, under the agent's turn. All that it stands on is read under it too: who stopped, moved or
/// changed the agent while the turn was waited for is obeyed.
async fn perform(shared: &Shared, agent: AgentId, id: &str) -> Result<(), BackendError> {
    let _turn = shared.turns.of(agent).await;
    let Some((version, approval)) = one(&shared.store, id)? else { return Ok(()) };
    let Some(row) = shared.store.agent(agent)? else { return Ok(()) };
    match &approval.state {
        Stage::Granted { by } if approval.expires_at_ms <= shared.time.now_ms() => {
            let by = *by;
            return give_up(shared, &row, (version, approval), by).await;
        }
        Stage::Granted { .. } | Stage::Doing { .. } => {}
        _ => return Ok(()),
    }
    // Another node may have the agent's key now. Whoever stopped the agent stopped this too: it goes on with the agent,
    // or expires.
    if shared.tenure.epoch_of(agent).is_none() || !row.lifecycle.ticks() {
        return Ok(());
    }
    let manifest = shared.manifests.get(&shared.store, row.id, row.version)?;
    let files = world::Files { store: shared.store.clone(), agent: row.id };
    let mounts = shared.mounts.of(&manifest);
    let asked = Envelope {
        id: approval.envelope,
        origin: approval.origin.clone(),
        heard: approval.heard.clone(),
        ..Envelope::from_node(Kind::Approval, "", approval.asked_at_ms)
    };
    let cx = Context {
        role: Role::Agent,
        caller: row.pubkey,
        subject: Some(Subject { row: &row, manifest: &manifest, state: &files }),
        wake: Some(Wake { envelope: &asked, trust: Trust::Node, sent: &[], is_consented: true }),
        now_ms: shared.time.now_ms(),
        key: approval.key.0,
    };
    let found = approval.path.parse::<Path>().ok().and_then(|path| Some((mounts.find(&path).ok()?, path)));
    let (Some((found, path)), Some(change)) = (found, approval.change.thaw()) else {
        let gone = Error::not_found(&approval.path);
        return finish(shared, done(version, approval), Err(gone), Effect::default()).await;
    };
    let change = match found.allow(&path, &change).and_then(|()| found.within(&mounts, change)) {
        Ok(change) => change,
        Err(error) => return finish(shared, done(version, approval), Err(error), Effect::default()).await,
    };
    let deed = Deed { cx: &cx, found: &found, change: &change };
    let made = make(shared, version, &approval, &deed).await?;
    let Some(Made { version, outcome, effect, begun: _begun }) = made else { return Ok(()) };
    finish(shared, done(version, approval), outcome.map_err(|error| error.at(&path)), effect).await
}

/// What was granted, and where it is made.
struct Deed<'a> {
    cx: &'a Context<'a>,
    found: &'a Found<'a>,
    change: &'a Change,
}

/// What came of it, and the version of the approval's row by then.
struct Made {
    version: u64,
    outcome: Result<Vec<u8>, Error>,
    /// What is to land.
    effect: Effect,
    /// Held until it has: a stop that comes now is answered after that.
    begun: Option<OwnedMutexGuard<()>>,
}

/// Makes it; nothing where the agent was stopped before, or where nobody can tell yet what became of it.
async fn make(
    shared: &Shared,
    version: u64,
    approval: &Approval,
    deed: &Deed<'_>,
) -> Result<Option<Made>, BackendError> {
    let Deed { cx, found, change } = *deed;
    let (service, rest) = (&found.mount.service, &found.rest);
    let class = service.class(rest, change);
    let outside = |version, outcome| Made { version, outcome, effect: Effect::default(), begun: None };
    if class == Class::Transactional {
        let Some(begun) = begin(shared, approval.agent).await? else { return Ok(None) };
        let (outcome, effect) = match service.change(cx, rest, change).await {
            Ok(mut effect) => (Ok(std::mem::take(&mut effect.reply)), effect),
            Err(error) => (Err(error), Effect::default()),
        };
        return Ok(Some(Made { version, outcome, effect, begun: Some(begun) }));
    }
    if let Stage::Granted { by } = &approval.state {
        let Some(begun) = begin(shared, approval.agent).await? else { return Ok(None) };
        let doing = Approval { state: Stage::Doing { by: *by }, ..approval.clone() };
        let doing = super::row(&(version, doing));
        if shared.store.write(Write::Row(doing.clone())).await? != Verdict::Done {
            return Ok(None);
        }
        // A stop that comes now is told of it.
        shared.wishes.landed(&doing);
        drop(begun);
        return Ok(Some(outside(version + 1, service.act(cx, rest, change).await)));
    }
    // Begun by a process that died. What cannot be found out now is looked at again later.
    match service::resume(service.as_ref(), cx, rest, change, class).await {
        Ok(outcome) => Ok(Some(outside(version, outcome))),
        Err(error) => {
            tracing::warn!(%error, id = approval.id, "what became of a granted wish is not known yet");
            Ok(None)
        }
    }
}

/// The leave to begin what was granted, if the agent still goes on. Whoever stopped it, and has been answered so, stopped
/// this too.
async fn begin(shared: &Shared, agent: AgentId) -> Result<Option<OwnedMutexGuard<()>>, BackendError> {
    let begun = shared.wishes.begins(agent).await;
    let goes_on = shared.store.agent(agent)?.is_some_and(|row| row.lifecycle.ticks());
    Ok(goes_on.then_some(begun))
}

fn done(version: u64, approval: Approval) -> Versioned {
    (version, Approval { state: Stage::Done, ..approval })
}

/// Lands the end of an approval with its effect and the envelope that tells of it.
async fn finish(
    shared: &Shared,
    (version, mut approval): Versioned,
    outcome: Result<Vec<u8>, Error>,
    effect: Effect,
) -> Result<(), BackendError> {
    let now_ms = shared.time.now_ms();
    let agent = approval.agent;
    let envelope = news(version, &approval, &outcome, now_ms);
    // What was asked is not kept longer than it is needed.
    approval.change = super::Frozen { verb: String::new(), body: Default::default(), to: None };
    let Effect { files, out, mut writes, .. } = effect;
    let (files, alarms) = world::split(files, now_ms, None);
    if !files.is_empty() || !alarms.is_empty() {
        writes.push(Write::Files(agent, files, alarms));
    }
    writes.extend(out.into_iter().map(|item| Write::Send(agent, Box::new(item), now_ms)));
    writes.push(put(&(version, approval)));
    writes.push(Write::Poke(Box::new(Poke { agent, envelope })));
    let after = After::of(&writes);
    let verdicts = shared.store.commit(writes).await?;
    if verdicts.iter().any(Verdict::stops_unit) {
        tracing::debug!(?verdicts, "an approval has changed meanwhile");
        return Ok(());
    }
    shared.hooks.landed(after, &verdicts, &shared.outbox);
    Ok(())
}

/// The name of the change as it was asked for, by which the record of the tick that asked has it too.
fn request(approval: &Approval) -> Option<Hash> {
    Some(change_request(&approval.path.parse().ok()?, &approval.change.thaw()?))
}

/// What the agent is told of the end of its wish: trusted, and answered, like the envelope that it wished in.
fn news(version: u64, approval: &Approval, outcome: &Result<Vec<u8>, Error>, now_ms: u64) -> Envelope {
    let told = match outcome {
        Ok(reply) => json!({
            "outcome": "done",
            "reply": std::str::from_utf8(reply).ok(),
            "reply_base64": STANDARD.encode(reply),
        }),
        Err(error) if matches!(approval.state, Stage::Denied { .. } | Stage::Expired) => {
            json!({ "outcome": approval.state.name(), "reason": error.reason })
        }
        Err(error) => json!({ "outcome": "failed", "error": error.code, "reason": error.reason }),
    };
    let mut data = json!({
        "id": approval.id,
        "path": approval.path,
        "verb": approval.change.verb,
        "request": request(approval),
    });
    if let (Some(data), Some(told)) = (data.as_object_mut(), told.as_object()) {
        data.extend(told.clone());
    }
    let name = format!("approval:{}:{}:{version}", approval.agent, approval.id);
    Envelope {
        origin: approval.origin.clone(),
        heard: approval.heard.clone(),
        data: Some(data),
        ..Envelope::from_node(Kind::Approval, &name, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::mail::Protocol;

    use super::super::fixture::{someone, wish};
    use super::*;
    use crate::agent::envelope::{Heard, Origin};

    #[test]
    fn the_end_of_a_wish_is_told_in_the_name_of_who_was_behind_it() {
        let heard = Heard { author: someone(), subscriptions: Vec::new(), auto_hop: 2 };
        let origin =
            Origin { peer: someone(), protocol: Protocol::Nip17, relay: None, mail: None, auto_hop: 1 };
        let asked = Approval { origin: Some(origin.clone()), heard: Some(heard.clone()), ..wish() };
        for state in [Stage::Done, Stage::Expired] {
            let over = Approval { state, ..asked.clone() };
            for outcome in [Ok(b"did".to_vec()), Err(denial("nobody consented in time"))] {
                let told = news(1, &over, &outcome, 0);
                assert_eq!((told.origin.as_ref(), told.heard.as_ref()), (Some(&origin), Some(&heard)));
            }
        }
    }
}
