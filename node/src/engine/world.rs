//! What a tick sees of the store: the agent's files as committed, its alarms as files, and its status.

use oa_nips::nostr::ToBech32;
use serde_json::json;

use crate::agent::AgentId;
use crate::agent::alarm::{self, Alarm};
use crate::agent::envelope::{Envelope, Trust};
use crate::agent::manifest::Manifest;
use crate::namespace::{Committed, Path, ScheduleCheck, Values};
use crate::store::Store;
use crate::store::row::AgentRow;

/// One agent's committed files.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) store: Store,
    pub(crate) agent: AgentId,
}

/// The id of an alarm from its path, `/schedule/<id>.json`.
pub(crate) fn alarm_id(path: &str) -> Option<&str> {
    path.strip_prefix("/schedule/")?.strip_suffix(".json")
}

impl Committed for Files {
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, String> {
        let read = match alarm_id(path.as_str()) {
            Some(id) => self.store.alarm(self.agent, id).map(|alarm| alarm.map(|alarm| alarm.to_json())),
            None => self.store.file(self.agent, path.as_str()),
        };
        read.map_err(|error| error.to_string())
    }

    fn paths(&self, prefix: &str) -> Result<Vec<String>, String> {
        let paths = if prefix == "/schedule/" {
            let name = |(id, _): (String, Alarm)| format!("/schedule/{id}.json");
            self.store.alarms(self.agent).map(|alarms| alarms.into_iter().map(name).collect())
        } else {
            self.store.file_paths(self.agent, prefix)
        };
        paths.map_err(|error| error.to_string())
    }
}

/// Checks what is written to `/schedule` at the tick's time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Alarms {
    pub(crate) now_ms: u64,
}

impl ScheduleCheck for Alarms {
    fn check(&self, id: &str, content: &[u8]) -> Result<(), String> {
        id.parse::<alarm::AlarmId>().map_err(|error| error.to_string())?;
        alarm::parse(content, self.now_ms).map(drop).map_err(|error| error.to_string())
    }
}

/// The value files of a tick.
pub(crate) fn values(
    row: &AgentRow,
    manifest: &Manifest,
    envelope: &Envelope,
    trust: Trust,
    relays: &[String],
) -> Values {
    let npub = row.pubkey.to_bech32().unwrap_or_default();
    Values {
        trigger: envelope.trigger(trust),
        status: status(row, manifest, relays, envelope.accepted_at_ms).to_string().into_bytes(),
        npub,
        pubkey: row.pubkey.to_hex(),
    }
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
