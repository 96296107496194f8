//! The node's own tree: `/agents/new` and `/node/…`.

use std::sync::Arc;

use oa_nips::nostr::{PublicKey, ToBech32};
use serde_json::{Value, json};

use super::creator::Creator;
use super::{OneFile, Parts, at};
use crate::drivers::nostr::Pool;
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::rights::Role;
use crate::namespace::service::FileType;

/// Names counted at once.
const NAMES: usize = 100_000;

/// The tree of a node whose key is `node`.
pub(crate) fn node_mounts(parts: &Parts, creator: &Arc<Creator>, pool: &Pool, node: PublicKey) -> Mounts {
    let mut mounts = Mounts::default();
    super::bundle::mount_node(&mut mounts, parts, creator);
    super::new::mount(&mut mounts, parts, creator);
    let (store, pool, subscriptions) = (parts.store.clone(), pool.clone(), parts.subscriptions.clone());
    let all = {
        let pool = pool.clone();
        OneFile::value(move |_| Ok(json!(relays(&pool)).to_string().into_bytes()))
    };
    mounts.mount_file(at("/node/relays"), FileType::Value, Arc::new(all), "relays");
    let status = OneFile::value(move |cx| {
        // Which relays there are, and what they say, is the operator's.
        let shown = |mut relay: Value| {
            if let Some(relay) = relay.as_object_mut().filter(|_| cx.role != Role::Operator) {
                relay.retain(|key, _| !matches!(key.as_str(), "url" | "error"));
            }
            relay
        };
        let io = |error: crate::store::backend::BackendError| Error::io("/node/status", error.to_string());
        let (listened, lost) = subscriptions.totals();
        let status = json!({
            "npub": node.to_bech32().unwrap_or_default(),
            "version": env!("CARGO_PKG_VERSION"),
            "agents": store.names(NAMES).map_err(io)?.len(),
            "floor": store.floor_s().map_err(io)?,
            "subscriptions": { "listened": listened, "lost": lost },
            "relays": relays(&pool).into_iter().map(shown).collect::<Vec<_>>(),
        });
        Ok(status.to_string().into_bytes())
    });
    mounts.mount_file(at("/node/status"), FileType::Value, Arc::new(status), "status");
    super::find::mount(&mut mounts, parts, "/node/find");
    super::plumbing::mount(&mut mounts, parts);
    super::srv::mount(&mut mounts, &parts.srv);
    super::config::mount(&mut mounts, parts);
    super::secrets::mount(&mut mounts, parts);
    super::streams::mount_node(&mut mounts, parts);
    super::wallet::mount_node(&mut mounts, parts);
    mounts.mount(at("/approvals"), Arc::new(super::Approvals::new(parts)), "consent");
    let version = OneFile::value(|_| Ok(env!("CARGO_PKG_VERSION").as_bytes().to_vec()));
    mounts.mount_file(at("/node/version"), FileType::Value, Arc::new(version), "version");
    mounts
}

fn relays(pool: &Pool) -> Vec<Value> {
    let line = |relay: crate::drivers::nostr::RelayStatus| {
        json!({
            "url": relay.url,
            "connected": relay.connected,
            "since": relay.since_s,
            "subscriptions": relay.subscriptions,
            "unlistened": relay.unlistened,
            "error": relay.last_error,
        })
    };
    pool.status().into_iter().map(line).collect()
}
