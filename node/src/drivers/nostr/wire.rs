//! Frames of the relay protocol as text: NIP-01, NIP-42 and NIP-77, both directions.
//!
//! Parsing reads an event straight out of its frame and forgives what relays get wrong: a missing reason, fields
//! beyond those of the NIP, kinds of frame that came later.

use std::fmt;

use oa_nips::nostr::{Event, EventId, Filter, JsonUtil};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// What a relay says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// An event of a subscription. Not verified.
    Event { sub: String, event: Box<Event> },
    /// The answer to an event or to an authentication.
    Ok { id: EventId, accepted: bool, reason: String },
    /// Everything stored has been sent.
    Eose { sub: String },
    /// The relay ended a subscription.
    Closed { sub: String, reason: String },
    /// Words for people, tied to nothing.
    Notice { text: String },
    /// A challenge to authenticate (NIP-42).
    Auth { challenge: String },
    /// One message of a reconciliation (NIP-77), in hex.
    NegMsg { sub: String, message: String },
    /// The relay ended a reconciliation (NIP-77).
    NegErr { sub: String, reason: String },
    /// Something this client never asks for.
    Other,
}

impl Frame {
    /// Reads one text message.
    ///
    /// # Errors
    /// When it is no JSON array of a known shape.
    pub(super) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

impl<'de> Deserialize<'de> for Frame {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(FrameVisitor)
    }
}

struct FrameVisitor;

impl<'de> Visitor<'de> for FrameVisitor {
    type Value = Frame;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a relay message")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Frame, A::Error> {
        let label: String = required(&mut seq, "label")?;
        let frame = match label.as_str() {
            "EVENT" => Frame::Event {
                sub: required(&mut seq, "subscription")?,
                event: Box::new(required(&mut seq, "event")?),
            },
            "OK" => Frame::Ok {
                id: required(&mut seq, "event id")?,
                accepted: required(&mut seq, "status")?,
                reason: optional(&mut seq)?,
            },
            "EOSE" => Frame::Eose { sub: required(&mut seq, "subscription")? },
            "CLOSED" => {
                Frame::Closed { sub: required(&mut seq, "subscription")?, reason: optional(&mut seq)? }
            }
            "NOTICE" => Frame::Notice { text: optional(&mut seq)? },
            "AUTH" => Frame::Auth { challenge: required(&mut seq, "challenge")? },
            "NEG-MSG" => Frame::NegMsg {
                sub: required(&mut seq, "subscription")?,
                message: required(&mut seq, "message")?,
            },
            "NEG-ERR" => {
                Frame::NegErr { sub: required(&mut seq, "subscription")?, reason: optional(&mut seq)? }
            }
            _ => Frame::Other,
        };
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(frame)
    }
}

fn required<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(
    seq: &mut A,
    what: &'static str,
) -> Result<T, A::Error> {
    seq.next_element()?.ok_or_else(|| A::Error::custom(format_args!("no {what}")))
}

fn optional<'de, A: SeqAccess<'de>>(seq: &mut A) -> Result<String, A::Error> {
    Ok(seq.next_element::<Option<String>>()?.flatten().unwrap_or_default())
}

/// `["EVENT", event]`
pub(super) fn event(event: &Event) -> Utf8Bytes {
    format!("[\"EVENT\",{}]", event.as_json()).into()
}

/// `["AUTH", event]`
pub(super) fn auth(event: &Event) -> Utf8Bytes {
    format!("[\"AUTH\",{}]", event.as_json()).into()
}

/// `["REQ", sub, filter]`; `sub` is one of ours and needs no escaping.
pub(super) fn req(sub: &str, filter: &Filter) -> Utf8Bytes {
    format!("[\"REQ\",\"{sub}\",{}]", filter.as_json()).into()
}

/// `["CLOSE", sub]`
pub(super) fn close(sub: &str) -> Utf8Bytes {
    format!("[\"CLOSE\",\"{sub}\"]").into()
}

/// `["NEG-OPEN", sub, filter, message]`
pub(super) fn neg_open(sub: &str, filter: &Filter, message: &[u8]) -> Utf8Bytes {
    format!("[\"NEG-OPEN\",\"{sub}\",{},\"{}\"]", filter.as_json(), to_hex(message)).into()
}

/// `["NEG-MSG", sub, message]`
pub(super) fn neg_msg(sub: &str, message: &[u8]) -> Utf8Bytes {
    format!("[\"NEG-MSG\",\"{sub}\",\"{}\"]", to_hex(message)).into()
}

/// `["NEG-CLOSE", sub]`
pub(super) fn neg_close(sub: &str) -> Utf8Bytes {
    format!("[\"NEG-CLOSE\",\"{sub}\"]").into()
}

fn to_hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Reads hex of any length; nothing when it is none.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let nibble = |c: u8| char::from(c).to_digit(16).and_then(|n| u8::try_from(n).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect()
}

/// The machine-readable beginning of a reason (NIP-01): `auth-required`, `duplicate`.
pub(super) fn prefix(reason: &str) -> &str {
    reason.split_once(':').map_or("", |(prefix, _)| prefix)
}

/// A relay's words, cut to what fits a log line and a status.
pub(super) fn words(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    text.chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::{EventBuilder, Keys};

    use super::*;

    #[test]
    fn every_kind_of_frame_is_read() {
        let event =
            EventBuilder::text_note("a \"quoted\" \u{1f980} line\n").sign_with_keys(&Keys::generate());
        let event = event.unwrap();
        let id = event.id;
        let text = format!("[\"EVENT\",\"l0\",{}]", event.as_json());
        assert_eq!(Frame::parse(&text).unwrap(), Frame::Event { sub: "l0".into(), event: Box::new(event) });
        let text = format!("[\"OK\",\"{id}\",false,\"pow: 20\"]");
        assert_eq!(Frame::parse(&text).unwrap(), Frame::Ok { id, accepted: false, reason: "pow: 20".into() });
        assert_eq!(Frame::parse("[\"EOSE\",\"f1\"]").unwrap(), Frame::Eose { sub: "f1".into() });
        let closed = Frame::Closed { sub: "f1".into(), reason: "auth-required: x".into() };
        assert_eq!(Frame::parse("[\"CLOSED\",\"f1\",\"auth-required: x\"]").unwrap(), closed);
        assert_eq!(Frame::parse("[\"AUTH\",\"c\"]").unwrap(), Frame::Auth { challenge: "c".into() });
        let message = Frame::NegMsg { sub: "n1".into(), message: "61ff".into() };
        assert_eq!(Frame::parse("[\"NEG-MSG\",\"n1\",\"61ff\"]").unwrap(), message);
    }

    #[test]
    fn what_relays_get_wrong_is_forgiven() {
        let id = EventId::all_zeros();
        let ok = Frame::Ok { id, accepted: true, reason: String::new() };
        assert_eq!(Frame::parse(&format!("[\"OK\",\"{id}\",true]")).unwrap(), ok);
        assert_eq!(Frame::parse(&format!("[\"OK\",\"{id}\",true,null,7]")).unwrap(), ok);
        let closed = Frame::Closed { sub: "s".into(), reason: String::new() };
        assert_eq!(Frame::parse("[\"CLOSED\",\"s\"]").unwrap(), closed);
        assert_eq!(Frame::parse("[\"LATER\",{\"a\":[1]}]").unwrap(), Frame::Other);
    }

    #[test]
    fn garbage_is_an_error_and_no_panic() {
        for text in
            ["", "{}", "[]", "[1]", "[\"EVENT\"]", "[\"EVENT\",\"s\",{}]", "[\"OK\",\"zz\",true]", "nul"]
        {
            assert!(Frame::parse(text).is_err(), "{text} was read");
        }
    }

    #[test]
    fn hex_survives_the_way_there_and_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes));
        assert_eq!(from_hex("6"), None);
        assert_eq!(from_hex("6g"), None);
        assert_eq!(from_hex("é"), None);
    }

    #[test]
    fn words_of_a_relay_are_cut_and_cleaned() {
        assert_eq!(words("a\u{1b}[2Jb\n"), "a[2Jb");
        assert_eq!(words(&"é".repeat(1000)).chars().count(), 200);
    }
}
