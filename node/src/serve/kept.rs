//! What a node keeps of an agent beside its files: ticks, refusals, dead letters, outgoing items, as JSON lines.

use std::sync::Arc;

use oa_nips::nostr::ToBech32;
use serde_json::{Value, json};

use super::{OneFile, Parts, at};
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::service::FileType;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::row::{AgentRow, OutRow, Outgoing, Stage};

/// Lines of a log that are answered: the newest.
const LINES: usize = 1000;

type Lines = fn(&Store, &AgentRow) -> Result<Vec<u8>, BackendError>;

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts) {
    let files: [(&'static str, Lines, &str); 4] = [
        ("/logs/ticks", ticks, "records"),
        ("/logs/refused", refused, "refusals"),
        ("/deadletter/list", dead_letters, "dead letters"),
        ("/outbox/list", outbox, "outgoing"),
    ];
    for (path, read, what) in files {
        let store = parts.store.clone();
        let file = OneFile::value(move |cx| {
            read(&store, cx.subject()?.row).map_err(|error| Error::io(path, error.to_string()))
        });
        mounts.mount_file(at(path), FileType::Value, Arc::new(file), what);
    }
}

/// One JSON value a line.
pub(super) fn lines(values: impl IntoIterator<Item = Value>) -> Vec<u8> {
    values.into_iter().flat_map(|value| format!("{value}\n").into_bytes()).collect()
}

fn ticks(store: &Store, row: &AgentRow) -> Result<Vec<u8>, BackendError> {
    let from = row.head.seq.saturating_sub(LINES as u64);
    let records = store.records(row.id, from, LINES)?;
    Ok(lines(records.into_iter().map(|record| json!({ "seq": record.header.seq, "fields": record.fields }))))
}

fn refused(store: &Store, row: &AgentRow) -> Result<Vec<u8>, BackendError> {
    let mut refused = store.refusals(row.id, LINES)?;
    refused.reverse();
    Ok(lines(refused.into_iter().map(|(n, refused)| {
        let from = refused.from.and_then(|key| key.to_bech32().ok());
        json!({ "n": n, "at": refused.at_ms / 1000, "from": from, "reason": refused.reason, "detail": refused.detail })
    })))
}

fn dead_letters(store: &Store, row: &AgentRow) -> Result<Vec<u8>, BackendError> {
    let letters = store.dead_letters(row.id)?;
    Ok(lines(letters.into_iter().map(|(n, letter)| {
        let from = letter.envelope.sender().and_then(|key| key.to_bech32().ok());
        let (kind, text) = (letter.envelope.kind, letter.envelope.text);
        json!({ "n": n, "at": letter.at_ms / 1000, "reason": letter.reason, "kind": kind, "from": from, "text": text, "effects": letter.effects })
    })))
}

fn outbox(store: &Store, row: &AgentRow) -> Result<Vec<u8>, BackendError> {
    let mut items = store.outbox(row.id, LINES)?;
    items.reverse();
    Ok(lines(items.into_iter().map(|(n, item)| outgoing(n, &item))))
}

/// An outgoing item, and how far it came.
pub(super) fn outgoing(n: u64, item: &OutRow) -> Value {
    let (what, to) = match &item.outgoing {
        Outgoing::Mail { draft, .. } => ("mail".to_owned(), draft.recipient.to_bech32().ok()),
        Outgoing::Event { event } => (format!("event of kind {}", event.kind.as_u16()), None),
    };
    let (stage, relays) = match &item.stage {
        Stage::Unsigned => ("unsigned", json!([])),
        Stage::Signed(parcels) | Stage::Finished(parcels) => {
            let targets: Vec<_> = parcels.iter().flat_map(|parcel| &parcel.targets).collect();
            (if matches!(item.stage, Stage::Finished(_)) { "finished" } else { "signed" }, json!(targets))
        }
    };
    json!({ "n": n, "at": item.at_ms / 1000, "what": what, "to": to, "stage": stage, "sent": item.is_sent(), "relays": relays })
}
