//! Valid input with a few bytes changed, cut or doubled: whatever comes of it, decoding answers and does not panic.

use oa_nips::discovery::AgentProfile;
use oa_nips::envelope::Envelope;
use oa_nips::files::queued::{self, Command};
use oa_nips::files::reader::WatchReader;
use oa_nips::files::watch::{Asked, StreamFrame};
use oa_nips::files::{Assembler, Frame};
use oa_nips::lease::Published;
use oa_nips::mail;
use oa_nips::nip05;
use oa_nips::nostr::{Event, JsonUtil, PublicKey, UnsignedEvent};
use oa_nips::profile;
use oa_nips::record::{Head, Record};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

use crate::support::FILES;

/// Every string and object of the vectors, as JSON text: rumors, seals, events, frames, records, envelopes.
fn texts() -> Vec<String> {
    fn collect(value: &Value, out: &mut Vec<String>) {
        match value {
            Value::String(text) => out.push(text.clone()),
            Value::Array(items) => items.iter().for_each(|item| collect(item, out)),
            Value::Object(map) => {
                out.push(value.to_string());
                map.values().for_each(|item| collect(item, out));
            }
            _ => {}
        }
    }
    let mut out = Vec::new();
    FILES.iter().for_each(|(_, text)| collect(&serde_json::from_str(text).unwrap(), &mut out));
    out.retain(|text| text.len() < 4096);
    out
}

#[derive(Debug, Clone)]
enum Change {
    Put(Index, Vec<u8>),
    Cut(Index, u8),
    Double(Index, u8),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let span = |at: &Index, len: u8| {
            let at = at.index(bytes.len() + 1);
            at..bytes.len().min(at + usize::from(len))
        };
        match self {
            Self::Put(at, new) => {
                let span = span(at, new.len() as u8);
                bytes.splice(span, new.iter().copied());
            }
            Self::Cut(at, len) => drop(bytes.drain(span(at, *len))),
            Self::Double(at, len) => {
                let span = span(at, *len);
                let copy = bytes[span.clone()].to_vec();
                bytes.splice(span.start..span.start, copy);
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let token = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..4),
        proptest::sample::select(vec![
            "\"",
            "\\u0000",
            "\\ud800",
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "-1",
            "1e999",
            "0.5",
            "null",
            "true",
            "18446744073709551616",
            "4294967296",
            "255",
            "\u{10ffff}",
        ])
        .prop_map(|token| token.as_bytes().to_vec()),
    ];
    prop_oneof![
        (any::<Index>(), token).prop_map(|(at, new)| Change::Put(at, new)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, len)| Change::Cut(at, len)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, len)| Change::Double(at, len)),
    ]
}

fn decode(text: &str) {
    let _ = mail::open_seal(text);
    if let Ok(rumor) = UnsignedEvent::from_json(text)
        && let Ok(mail) = mail::read_rumor(&rumor.pubkey, text)
    {
        assert!(mail.recipients.len() <= mail::TAGS_MAX && mail.auto_hop <= mail::AUTO_HOPS_MAX);
        let _ = mail.is_room(&mail.author);
    }
    if let Ok(frame) = Frame::parse(text) {
        let op = frame.op;
        if let Ok(Some(message)) = Assembler::default().push(frame) {
            let _ = message.clone().into_request(op).map(|request| request.frames());
            let _ = message.into_reply();
        }
    }
    if let Ok(Asked::Feed(feed)) = Asked::parse(text) {
        assert_eq!(Asked::parse(&feed.to_json()).ok(), Some(Asked::Feed(feed)));
    }
    if let Ok(frame) = StreamFrame::parse(text) {
        let (op, _) = (frame.op, frame.piece());
        let (mut reader, _) = WatchReader::new(op, 0, 1 << 16, 0);
        let _ = reader.frame(frame, op, 0);
        let _ = reader.tick(op, reader.due_ms());
    }
    if let Ok(rumor) = UnsignedEvent::from_json(text) {
        let _ = rumor.tags.public_keys().next().map(|node| Command::read(&rumor, node));
        let _ = queued::read_reply(&rumor, &rumor.pubkey);
    }
    if let Ok(record) = serde_json::from_str::<Record>(text) {
        let head = Head { seq: record.header.seq, hash: record.header.prev, ..Head::GENESIS };
        let _ = record.verify(&head);
    }
    if let Ok(envelope) = Envelope::parse(text) {
        let _ = envelope.to_json();
    }
    if let Ok(event) = Event::from_json(text) {
        let _ = mail::check_outer(&event);
        let _ = mail::read_legacy(&event, text.to_owned());
        let _ = profile::read_dm_relays(&event);
        let _ = profile::is_bot(&event);
        let _ = AgentProfile::read(&event);
        if let Ok(published) = Published::read(&event) {
            assert!(published.lease.expires_at <= published.at.saturating_add(oa_nips::lease::LASTS_S_MAX));
        }
    }
    let _ = nip05::read(text.as_bytes(), &"alice@example.com".parse().unwrap());
    let _ = text.parse::<nip05::Name>();
    let _ = text.parse::<PublicKey>();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn decoding_never_panics(
        text in proptest::sample::select(texts()),
        changes in proptest::collection::vec(change(), 0..6),
    ) {
        let mut bytes = text.into_bytes();
        changes.iter().for_each(|change| change.apply(&mut bytes));
        decode(&String::from_utf8_lossy(&bytes));
    }
}
