//! What a node keeps of an agent beside its files: refusals, dead letters, outgoing items, as JSON lines.

use std::sync::Arc;

use oa_nips::nostr::ToBech32;
use serde_json::{Value, json};

use super::{OneFile, Parts, at};
use crate::feeds::outgoing;
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::service::FileType;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::row::AgentRow;

/// Lines of a log that are answered: the newest.
const LINES: usize = 1000;

type Lines = fn(&Store, &AgentRow) -> Result<Vec<u8>, BackendError>;

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts) {
    let files: [(&'static str, Lines, &str); 3] = [
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
