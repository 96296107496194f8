//! `/deadletter/{count,<n>,ctl}`: envelopes that were given up, and what can still be done about them.

use std::sync::Arc;

use oa_nips::files::Code;
use oa_nips::hex::Hex;
use oa_nips::nostr::ToBech32;
use oa_nips::nostr::hashes::{Hash as _, HashEngine, sha256};
use serde_json::{Value, json};

use super::ctl::text;
use super::mail::io;
use super::{OneFile, Parts, at};
use crate::agent::Lifecycle;
use crate::agent::envelope::Trust;
use crate::agent::mailbox::INBOX_MAX;
use crate::engine::world;
use crate::namespace::blocks::Rows;
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::service::{Context, Effect, FileType, Subject, file};
use crate::store::Store;
use crate::store::row::DeadLetter;
use crate::store::write::{LetterChange, Write};

/// What `/deadletter/ctl` takes.
const TAKES: &str = "replay N, rerun N --fresh confirmed, drop N";

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts) {
    let (listed, read) = (parts.store.clone(), parts.store.clone());
    let letters = Rows::new(
        move |cx| {
            let letters = listed.dead_letters(cx.subject()?.row.id).map_err(io)?;
            Ok(letters.into_iter().map(|(n, _)| file(n.to_string(), FileType::Value, 0)).collect())
        },
        move |cx, name| number(name).map_or(Ok(None), |n| letter(&read, cx, n)),
    );
    mounts.mount(at("/deadletter"), letters.build(), "what was given up");
    let store = parts.store.clone();
    let count = OneFile::value(move |cx| {
        let count = store.dead_letter_count(cx.subject()?.row.id).map_err(io)?;
        Ok(count.to_string().into_bytes())
    });
    mounts.mount_file(at("/deadletter/count"), FileType::Value, Arc::new(count), "how many");
    let store = parts.store.clone();
    let ctl = OneFile::call(move |cx, change| {
        let store = store.clone();
        Box::pin(async move { ctl(&store, cx, text(change)?) })
    });
    mounts.mount_file(at("/deadletter/ctl"), FileType::Call, Arc::new(ctl), "control");
}

fn number(name: &str) -> Option<u64> {
    name.parse::<u64>().ok().filter(|n| n.to_string() == name)
}

fn letter(store: &Store, cx: &Context<'_>, n: u64) -> Result<Option<Vec<u8>>, Error> {
    let Subject { row, manifest, .. } = cx.subject()?;
    let Some(letter) = store.dead_letter(row.id, n).map_err(io)? else { return Ok(None) };
    let DeadLetter { envelope, reason, at_ms, effects } = letter;
    let trust: Trust = world::trust(store, row, manifest, &envelope).map_err(io)?;
    let shown: Value = serde_json::from_slice(&envelope.trigger(trust)).unwrap_or_default();
    let journaled = store.journal(row.id, &envelope.id).map_err(io)?.len();
    let letter = json!({
        "n": n,
        "at": at_ms / 1000,
        "reason": reason,
        "envelope": shown,
        "effects": effects,
        "journal": journaled,
    });
    Ok(Some(letter.to_string().into_bytes()))
}

fn ctl(store: &Store, cx: &Context<'_>, command: &str) -> Result<Effect, Error> {
    let path = "/deadletter/ctl";
    let row = cx.subject()?.row;
    let invalid = || Error::invalid(path, format!("takes: {TAKES}"));
    let mut words = command.split_whitespace();
    let verb = words.next().ok_or_else(invalid)?;
    let n = words.next().and_then(number).ok_or_else(invalid)?;
    let rest: Vec<&str> = words.collect();
    let letter = store.dead_letter(row.id, n).map_err(io)?;
    let letter = letter.ok_or_else(|| Error::new(Code::NotFound, path, format!("there is no letter {n}")))?;
    let change = match (verb, rest.as_slice()) {
        ("replay", []) => LetterChange::Replay,
        ("drop", []) => LetterChange::Drop,
        ("rerun", ["--fresh", "confirmed"]) => {
            LetterChange::Rerun { id: fresh(cx, &letter), at_ms: cx.now_ms }
        }
        ("rerun", _) => {
            let done = letter.effects.len();
            let reason = format!(
                "forgets what was done outside, {done} calls that are known of, and does it again: \
                 say rerun {n} --fresh confirmed"
            );
            return Err(Error::new(Code::ApprovalRequired, path, reason));
        }
        _ => return Err(invalid()),
    };
    if change != LetterChange::Drop {
        if row.lifecycle == Lifecycle::Terminated {
            return Err(Error::new(Code::Unavailable, path, format!("{} is terminated", row.name)));
        }
        if row.inbox_depth >= INBOX_MAX {
            return Err(Error::new(Code::RateLimited, path, "the inbox is full"));
        }
    }
    let id = match change {
        LetterChange::Rerun { id, .. } => id,
        LetterChange::Replay | LetterChange::Drop => letter.envelope.id,
    };
    let from = letter.envelope.sender().and_then(|key| key.to_bech32().ok());
    let said = json!({ "name": row.name, "did": verb, "n": n, "envelope": id, "from": from });
    Ok(Effect::write(Write::Letter(row.id, n, change), said.to_string()))
}

/// A name for an envelope that is run as if it had never been: of the old one, and of who asks for it.
fn fresh(cx: &Context<'_>, letter: &DeadLetter) -> crate::agent::envelope::EnvelopeId {
    let mut engine = sha256::HashEngine::default();
    for part in [b"rerun\0".as_slice(), letter.envelope.id.as_bytes(), &cx.key] {
        engine.input(part);
    }
    Hex(sha256::Hash::from_engine(engine).to_byte_array())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, NOW_MS, someone};
    use super::*;
    use crate::namespace::service::Change;
    use crate::store::write::{Failed, Verdict};

    /// An agent with a dead letter, and its number.
    async fn buried() -> (Fixture, u64) {
        let mut fixture = Fixture::stored().await;
        let seq = fixture.mail(someone(), "poison", Trust::Stranger).await;
        let failed = Failed {
            agent: fixture.row.id,
            seq,
            reason: "could not".into(),
            effects: vec![json!({ "path": "/tools/x" })],
            is_crash: false,
            max: 1,
            then: None,
            at_ms: NOW_MS,
            told: None,
        };
        assert!(matches!(fixture.write(Write::Fail(failed)).await, Verdict::Buried(_)));
        (fixture, 0)
    }

    async fn ctl(fixture: &mut Fixture, command: &str) -> Result<Vec<Verdict>, Code> {
        let change = Change::Call(command.as_bytes().to_vec());
        let effect = fixture.change("/deadletter/ctl", change).await?;
        let mut verdicts = Vec::new();
        for write in effect.writes {
            verdicts.push(fixture.write(write).await);
        }
        Ok(verdicts)
    }

    #[tokio::test]
    async fn a_letter_is_shown_counted_and_put_back() {
        let (mut fixture, n) = buried().await;
        assert_eq!(fixture.read("/deadletter/count").await.unwrap(), "1");
        assert_eq!(fixture.names("/deadletter").await, ["0", "count", "ctl", "list"]);
        let letter = fixture.json(&format!("/deadletter/{n}")).await;
        assert_eq!([&letter["reason"], &letter["envelope"]["text"]], ["could not", "poison"]);
        assert_eq!(letter["effects"][0]["path"], "/tools/x");
        let depth = fixture.row.inbox_depth;
        assert!(matches!(ctl(&mut fixture, "replay 0").await.as_deref(), Ok([Verdict::Queued(_)])));
        assert_eq!(fixture.row.inbox_depth, depth + 1);
        assert_eq!(fixture.read("/deadletter/count").await.unwrap(), "0");
        assert_eq!(ctl(&mut fixture, "replay 0").await, Err(Code::NotFound));
    }

    #[tokio::test]
    async fn a_fresh_run_needs_the_word_and_gets_another_name() {
        let (mut fixture, n) = buried().await;
        let old = fixture.json(&format!("/deadletter/{n}")).await["envelope"]["id"].clone();
        for (asked, code) in [
            ("rerun 0", Code::ApprovalRequired),
            ("rerun 0 --fresh", Code::ApprovalRequired),
            ("rerun 0 confirmed", Code::ApprovalRequired),
            ("replay 0 --fresh confirmed", Code::InvalidInput),
            ("replay", Code::InvalidInput),
            ("drop 00", Code::InvalidInput),
            ("bury 0", Code::InvalidInput),
            ("drop 7", Code::NotFound),
        ] {
            assert_eq!(ctl(&mut fixture, asked).await, Err(code), "{asked}");
        }
        let verdicts = ctl(&mut fixture, "rerun 0 --fresh confirmed").await.unwrap();
        let [Verdict::Queued(seq)] = verdicts.as_slice() else { panic!("{verdicts:?}") };
        let again = fixture.json(&format!("/inbox/{seq}.json")).await;
        assert_eq!(again["text"], "poison");
        assert_ne!(again["id"], old);
    }
}
