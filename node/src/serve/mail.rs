//! `/inbox/<n>.json` and `/outbox/<n>.json`: what waits, and what goes out and how far it came.

use oa_nips::record::canonical;
use serde_json::{Value, json};

use super::{Parts, at};
use crate::engine::world;
use crate::feeds::{outgoing, set};
use crate::namespace::blocks::Rows;
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::service::{Context, FileType, Stat, Subject, file};
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::row::{OutId, Outgoing};

/// Rows listed: all of an inbox, the newest of an outbox.
const LISTED: usize = 2000;

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts) {
    let (listed, read) = (parts.store.clone(), parts.store.clone());
    let inbox = Rows::new(
        move |cx| numbers(listed.inbox(cx.subject()?.row.id, LISTED)),
        move |cx, name| number(name).map_or(Ok(None), |n| waiting(&read, cx, n)),
    );
    mounts.mount(at("/inbox"), inbox.build(), "what waits");
    let (listed, read) = (parts.store.clone(), parts.store.clone());
    let outbox = Rows::new(
        move |cx| numbers(listed.outbox(cx.subject()?.row.id, LISTED)),
        move |cx, name| number(name).map_or(Ok(None), |n| sent(&read, cx, n)),
    );
    mounts.mount(at("/outbox"), outbox.build(), "what goes out");
}

/// The number in `<n>.json`.
fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    // 007.json is not 7.json.
    digits.parse::<u64>().ok().filter(|n| n.to_string() == digits)
}

/// A file for each row.
fn numbers<T>(rows: Result<Vec<(u64, T)>, BackendError>) -> Result<Vec<Stat>, Error> {
    let rows = rows.map_err(io)?;
    Ok(rows.into_iter().map(|(n, _)| file(format!("{n}.json"), FileType::Value, 0)).collect())
}

pub(super) fn io(error: BackendError) -> Error {
    Error::io("/", error.to_string())
}

/// An envelope as its tick would find it in `/trigger`, with its place in line and how often it failed.
fn waiting(store: &Store, cx: &Context<'_>, n: u64) -> Result<Option<Vec<u8>>, Error> {
    let Subject { row, manifest, .. } = cx.subject()?;
    let Some(waiting) = store.waiting(row.id, n).map_err(io)? else { return Ok(None) };
    let trust = world::trust(store, row, manifest, &waiting.envelope).map_err(io)?;
    let mut shown: Value = serde_json::from_slice(&waiting.envelope.trigger(trust)).unwrap_or_default();
    set(&mut shown, "n", json!(n));
    set(&mut shown, "failures", json!(waiting.failures + waiting.crashes));
    Ok(Some(canonical(&shown).into_bytes()))
}

/// An outgoing item with what it says.
fn sent(store: &Store, cx: &Context<'_>, n: u64) -> Result<Option<Vec<u8>>, Error> {
    let agent = cx.subject()?.row;
    let Some(item) = store.outgoing(OutId { agent: agent.id, n }).map_err(io)? else { return Ok(None) };
    let mut shown = outgoing(n, &item);
    match &item.outgoing {
        Outgoing::Mail { draft, protocol, .. } => {
            set(&mut shown, "protocol", json!(protocol));
            set(&mut shown, "text", json!(draft.content));
        }
        Outgoing::Event { event } => set(&mut shown, "event", json!(event)),
    }
    Ok(Some(canonical(&shown).into_bytes()))
}

#[cfg(test)]
mod tests {
    use oa_nips::files::Code;
    use oa_nips::mail::{Draft, Protocol};

    use super::super::fixture::{Fixture, NOW_MS, someone};
    use crate::agent::envelope::Trust;
    use crate::store::row::Outgoing;
    use crate::store::write::Write;

    #[tokio::test]
    async fn what_waits_is_shown_as_its_tick_will_find_it() {
        let mut fixture = Fixture::stored().await;
        let (friend, stranger) = (someone(), someone());
        fixture.manifest.dm.allow = vec![crate::agent::manifest::Npub(friend)];
        let first = fixture.mail(friend, "hi", Trust::Allowed).await;
        let second = fixture.mail(stranger, "ho", Trust::Stranger).await;
        assert_eq!(fixture.names("/inbox").await, ["0.json", "1.json", "2.json", "new", "policy"]);
        let shown = fixture.json(&format!("/inbox/{first}.json")).await;
        assert_eq!(shown["n"], first);
        assert_eq!([&shown["text"], &shown["trust"], &shown["kind"]], ["hi", "allowed", "dm"]);
        assert_eq!(fixture.json(&format!("/inbox/{second}.json")).await["trust"], "stranger");
        for none in ["/inbox/9.json", "/inbox/01.json", "/inbox/1", "/inbox/-1.json"] {
            assert_eq!(fixture.read(none).await, Err(Code::NotFound), "{none}");
        }
        assert!(fixture.read("/inbox/policy").await.is_ok());
    }

    #[tokio::test]
    async fn what_goes_out_is_shown_with_what_it_says() {
        let mut fixture = Fixture::stored().await;
        let draft = Draft::text(someone(), "hello", NOW_MS);
        let mail = Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: None };
        fixture.write(Write::Send(fixture.row.id, Box::new(mail), NOW_MS)).await;
        assert_eq!(fixture.names("/outbox").await, ["0.json", "list", "stream"]);
        let shown = fixture.json("/outbox/0.json").await;
        assert_eq!([&shown["text"], &shown["stage"], &shown["protocol"]], ["hello", "unsigned", "nip17"]);
        assert_eq!(fixture.read("/outbox/1.json").await, Err(Code::NotFound));
    }
}
