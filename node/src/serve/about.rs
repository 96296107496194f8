//! What an agent can read of itself: what woke it, how it stands, who it is.

use std::sync::Arc;

use oa_nips::nostr::ToBech32;
use serde_json::json;

use super::{OneFile, Parts, at};
use crate::agent::manifest::Manifest;
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::service::{Context, FileType};
use crate::store::row::AgentRow;

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts) {
    let trigger = OneFile::value(|cx| match cx.wake {
        Some(wake) => Ok(wake.envelope.trigger(wake.trust)),
        None => Err(Error::not_found("/trigger")),
    });
    mounts.mount_file(at("/trigger"), FileType::Value, Arc::new(trigger.fixed()), "envelope");
    let (relays, subscriptions) = (parts.relays.clone(), parts.subscriptions.clone());
    let reach = parts.reach.clone();
    let status = OneFile::value(move |cx| {
        let subject = cx.subject()?;
        let mut status = status(subject.row, subject.manifest, &relays, cx.now_ms);
        if let Some(status) = status.as_object_mut() {
            status.insert("subscriptions".to_owned(), subscriptions.status(subject.row.id));
            if let Some(key) = reach.status(subject.row.id) {
                status.insert("key".to_owned(), key);
            }
        }
        Ok(status.to_string().into_bytes())
    });
    let status = status.watched(super::metrics::changes(parts));
    mounts.mount_file(at("/status"), FileType::Value, Arc::new(status), "status");
    let identity = |read: fn(&Context<'_>) -> Result<Vec<u8>, Error>| Arc::new(OneFile::value(read).fixed());
    let npub = identity(|cx| Ok(cx.subject()?.row.pubkey.to_bech32().unwrap_or_default().into_bytes()));
    mounts.mount_file(at("/identity/npub"), FileType::Value, npub, "identity");
    let pubkey = identity(|cx| Ok(cx.subject()?.row.pubkey.to_hex().into_bytes()));
    mounts.mount_file(at("/identity/pubkey"), FileType::Value, pubkey, "identity");
}

/// The content of `/status`.
pub(crate) fn status(
    row: &AgentRow,
    manifest: &Manifest,
    relays: &[String],
    now_ms: u64,
) -> serde_json::Value {
    json!({
        "name": row.name,
        "npub": row.pubkey.to_bech32().unwrap_or_default(),
        "lifecycle": row.lifecycle,
        "reason": row.reason,
        "program": manifest.program,
        "dm": manifest.dm.policy,
        "owner": row.owner.and_then(|owner| owner.to_bech32().ok()),
        "created_at": row.created_at_ms / 1000,
        "age_s": now_ms.saturating_sub(row.created_at_ms) / 1000,
        "ticks": row.head.seq,
        "head": row.head.hash,
        "state": row.head.state,
        "queue": { "depth": row.inbox_depth, "strangers": row.inbox_strangers },
        "refused": row.refused_next,
        "dead_letters": row.dead_next,
        "relays": relays,
    })
}
