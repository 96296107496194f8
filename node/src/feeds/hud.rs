//! What an onlooker sees of an agent: events with neither texts nor names of people in them, and without secrets.
//!
//! Each has `type`, `timestamp` (milliseconds since 1970), `session_id` and `tick_id`, the number of the tick's
//! record; a tick that is tried again has the same.

use oa_nips::record::Record;
use serde_json::{Map, Value, json};

use super::redact;
use crate::agent::Lifecycle;
use crate::engine::Begun;
use crate::namespace::journal::{Line, LineState};
use crate::store::row::AgentRow;

/// Characters of an error's message.
const MESSAGE_MAX: usize = 200;

/// An event. Whatever `more` says has its secrets taken out here, before anybody keeps it.
pub(super) fn event(name: &str, row: &AgentRow, now_ms: u64, more: Value) -> Map<String, Value> {
    let event = json!({
        "type": name,
        "timestamp": now_ms,
        "session_id": row.session,
        "tick_id": row.head.seq,
    });
    let mut event = event.as_object().cloned().unwrap_or_default();
    if let Value::Object(more) = redact::redact(more) {
        event.extend(more);
    }
    event
}

/// What a stream begins with: how the agent stands.
pub(super) fn session_start(row: &AgentRow, now_ms: u64) -> Map<String, Value> {
    event("session_start", row, now_ms, json!({ "agent": row.name, "state": row.lifecycle }))
}

pub(super) fn begins(begun: &Begun) -> Value {
    json!({ "trigger": begun.envelope.kind, "trust": begun.trust, "tries": begun.failures + 1 })
}

pub(super) fn ends(record: &Record, duration_ms: u64) -> Value {
    json!({ "outcome": record.fields.get("outcome"), "duration_ms": duration_ms })
}

/// Why a tick failed, in the program's words, of which there may be many.
pub(super) fn error(reason: &str) -> Value {
    json!({ "message": reason.chars().take(MESSAGE_MAX).collect::<String>() })
}

/// What a tick used.
pub(super) fn usage(record: &Record, duration_ms: u64) -> Value {
    let count = |field: &str| record.fields.get(field).and_then(Value::as_array).map_or(0, Vec::len);
    json!({ "duration_ms": duration_ms, "calls": count("calls"), "sent": count("sent") })
}

pub(super) fn state(from: Option<Lifecycle>, to: Lifecycle, reason: Option<&str>) -> Value {
    json!({ "from": from, "to": to, "reason": reason })
}

/// The event that a line of a journal is, if it is of a call that is made now.
pub(super) fn call(line: &Line) -> Option<&'static str> {
    match line.state {
        LineState::Intent => Some("tool_start"),
        LineState::Replied(_) => Some("tool_done"),
        LineState::Pinned { .. } => None,
    }
}

pub(super) fn tool(line: &Line) -> Value {
    match &line.state {
        LineState::Replied(Ok(reply)) => json!({ "path": line.path, "bytes": reply.0.len() }),
        LineState::Replied(Err(error)) => json!({ "path": line.path, "error": error.code }),
        LineState::Intent | LineState::Pinned { .. } => json!({ "path": line.path }),
    }
}
