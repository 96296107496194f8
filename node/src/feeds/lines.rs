//! The lines of streams: JSON for programs, and of the trace a sentence for people, without secrets.

use jiff::Timestamp;
use oa_nips::nostr::ToBech32;
use oa_nips::record::Record;
use serde_json::{Value, json};

use super::redact;
use crate::engine::Begun;
use crate::namespace::CallMade;
use crate::namespace::journal::{Line, LineState};
use crate::notice::Notice;
use crate::store::row::{AgentRow, OutRow, Outgoing, Stage};

/// A line of `/logs/ticks`.
pub(crate) fn tick_line(record: &Record) -> Value {
    json!({ "seq": record.header.seq, "fields": record.fields })
}

/// An outgoing item, and how far it came.
pub(crate) fn outgoing(n: u64, item: &OutRow) -> Value {
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
    json!({
        "n": n,
        "at": item.at_ms / 1000,
        "what": what,
        "to": to,
        "stage": stage,
        "sent": item.is_sent(),
        "relays": relays,
    })
}

/// Sets a field of an object.
pub(crate) fn set(object: &mut Value, name: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}

/// A line of `/logs/events.jsonl` and of `/node/log`: what happened, and when, in seconds since 1970.
pub(super) fn notice(notice: &Notice, now_ms: u64) -> String {
    let mut line = serde_json::to_value(notice).unwrap_or_default();
    set(&mut line, "at", json!(now_ms / 1000));
    redact::redact(line).to_string()
}

/// The lines of the node's log that are about an agent.
pub(super) fn about(log: &str, agent: &str) -> Vec<String> {
    let is_about = |line: &&str| {
        serde_json::from_str::<Value>(line)
            .is_ok_and(|line| line.get("agent").is_some_and(|name| name == agent))
    };
    log.lines().filter(is_about).map(str::to_owned).collect()
}

/// A line of the trace.
fn line(at_ms: u64, tick: u64, what: &str) -> String {
    let at =
        i64::try_from(at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    // A program's words could otherwise make lines of their own.
    let what: String = redact::text(what).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("{at:.3} tick {tick} {what}")
}

pub(super) fn begins(begun: &Begun, now_ms: u64) -> String {
    let word = |value: Value| value.as_str().unwrap_or("-").to_owned();
    let (kind, trust) = (word(json!(begun.envelope.kind)), word(json!(begun.trust)));
    let from = begun.envelope.sender().and_then(|key| key.to_bech32().ok());
    let from = from.map(|npub| format!(" from {npub}")).unwrap_or_default();
    let again = if begun.failures > 0 { format!(", try {}", begun.failures + 1) } else { String::new() };
    line(now_ms, begun.row.head.seq, &format!("begins: {kind}{from} ({trust}){again}"))
}

pub(super) fn ends(record: &Record, duration_ms: u64, now_ms: u64) -> String {
    let count = |field: &str| record.fields.get(field).and_then(Value::as_array).map_or(0, Vec::len);
    let outcome = record.fields.get("outcome").and_then(Value::as_str).unwrap_or("done");
    let what = format!("{outcome} in {duration_ms} ms: {} changes, {} sent", count("calls"), count("sent"));
    line(now_ms, record.header.seq, &what)
}

/// What the trace would have said of a tick that is known by its record alone.
pub(super) fn trace_of_record(record: &Record) -> String {
    let number = |field: &str| record.fields.get(field).and_then(Value::as_u64).unwrap_or_default();
    ends(record, number("duration_ms"), number("started_at"))
}

pub(super) fn fails(begun: &Begun, reason: &str, calls: &[CallMade], now_ms: u64) -> String {
    let what = match calls.len() {
        0 => format!("failed: {reason}"),
        made => format!("failed after {made} calls outside, which stay done: {reason}"),
    };
    line(now_ms, begun.row.head.seq, &what)
}

pub(super) fn call(row: &AgentRow, journaled: &Line, now_ms: u64) -> String {
    let path = &journaled.path;
    let what = match &journaled.state {
        LineState::Replied(Ok(reply)) => format!("{path} answered {} bytes", reply.0.len()),
        LineState::Replied(Err(error)) => format!("{path} failed: {}", error.reason),
        LineState::Intent | LineState::Pinned { .. } => format!("calls {path}"),
    };
    line(now_ms, row.head.seq, &what)
}

#[cfg(test)]
mod tests {
    use oa_nips::mail::Protocol;

    use super::*;

    #[test]
    fn a_trace_is_one_line_a_step_whatever_a_program_says() {
        let said = line(1_790_000_000_123, 7, "failed: a\nsk-abc\u{1b}[31m");
        assert_eq!(said, "2026-09-21T14:13:20.123Z tick 7 failed: a [redacted] [31m");
        assert_eq!(line(u64::MAX, 0, "x").lines().count(), 1);
    }

    #[test]
    fn the_lines_about_one_agent_are_found_in_the_nodes_log() {
        let of = |agent: &str| Notice::MailOut {
            agent: agent.into(),
            to: "npub1x".into(),
            protocol: Protocol::Nip17,
            relay: "wss://r".into(),
        };
        let up = Notice::RelayUp { relay: "wss://alice".into() };
        let log: Vec<String> =
            [of("alice"), up, of("alice2"), of("alice")].iter().map(|n| notice(n, 1_000)).collect();
        let found = about(&log.join("\n"), "alice");
        assert_eq!(found, [log[0].clone(), log[3].clone()]);
        assert_eq!(serde_json::from_str::<Value>(&found[0]).unwrap()["at"], 1);
    }
}
