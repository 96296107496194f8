//! `/node/config`: how the node was started. Its configuration names no secrets, and this shows only what it names.

use std::sync::Arc;

use oa_nips::nostr::{PublicKey, ToBech32};
use serde_json::{Value, json};

use super::{OneFile, Parts, at};
use crate::namespace::mount::Mounts;
use crate::namespace::service::FileType;
use crate::node::Config;

/// What is shown of a configuration.
pub(crate) fn shown(config: &Config) -> Arc<Value> {
    let npubs = |keys: &[PublicKey]| -> Vec<String> {
        keys.iter().map(|key| key.to_bech32().unwrap_or_default()).collect()
    };
    let relay = |relay: &crate::drivers::nostr::RelaySpec| json!({ "url": relay.url, "wide": relay.wide });
    Arc::new(json!({
        "relays": config.relays.iter().map(relay).collect::<Vec<_>>(),
        "published": config.published,
        "domain": config.domain,
        "operators": npubs(&config.operators),
        "approvers": npubs(&config.approvers),
        "viewers": npubs(&config.viewers),
        "dormant_after_s": config.dormant_after.as_secs(),
        "allow_private": config.allow_private,
        "http_private": config.http_private,
        "wallet": config.wallet.as_ref().map(|wallet| json!({ "key": wallet.uri.wallet, "relays": wallet.uri.relays })),
        "srv": config.srv.keys().collect::<Vec<_>>(),
        "tools": config.tools.iter().map(|(name, _)| name).collect::<Vec<_>>(),
    }))
}

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts) {
    let config = parts.config.clone();
    let file = OneFile::value(move |_| Ok(config.to_string().into_bytes()));
    mounts.mount_file(at("/node/config"), FileType::Value, Arc::new(file), "how it was started");
}
