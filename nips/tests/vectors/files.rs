//! The operator protocol: requests and replies cut into frames, frames put together, events of frames.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oa_nips::files::{
    self, Assembler, Frame, FrameError, FramesKind, Message, OpError, OpId, Reply, Request, Stat, Verb,
};
use oa_nips::nostr::Timestamp;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_nips::nostr::nips::nip44;
use serde_json::{Value, json};

use crate::support::{self, given, keys, recompute, refuse, variant};

/// Text, or one byte many times.
fn body(case: &Value) -> Vec<u8> {
    match &case["body"] {
        Value::String(text) => text.clone().into_bytes(),
        repeated => vec![given(repeated, "byte"); given(repeated, "times")],
    }
}

/// Frames as they are; of those too long to print, the shape and the hash.
fn shown(frames: &[Frame]) -> Value {
    let frame = |frame: &Frame| {
        let json = frame.to_json();
        if json.len() < 1024 {
            return Value::from(json);
        }
        let bytes = STANDARD.decode(&frame.body).unwrap().len();
        let hash = sha256::Hash::hash(json.as_bytes()).to_string();
        json!({ "seq": frame.seq, "last": frame.last, "body_bytes": bytes, "json_sha256": hash })
    };
    frames.iter().map(frame).collect()
}

pub(crate) fn request(case: &Value) -> Value {
    let (op, verb): (OpId, Verb) = (given(case, "op"), given(case, "verb"));
    let mut request = Request::new(op, verb, case["path"].as_str().unwrap(), body(case));
    (request.offset, request.count) = (given(case, "offset"), given(case, "count"));
    let frames = request.frames();
    let mut assembler = Assembler::default();
    let whole = frames.iter().rev().find_map(|frame| assembler.push(frame.clone()).unwrap());
    assert_eq!(whole.unwrap().into_request(op).unwrap(), request);
    shown(&frames)
}

pub(crate) fn reply(case: &Value) -> Value {
    let op: OpId = given(case, "op");
    let reply: Reply = match case.get("error") {
        Some(_) => Err(given::<OpError>(case, "error")),
        None => Ok(body(case)),
    };
    let frames = files::reply_frames(op, &reply);
    let mut assembler = Assembler::default();
    let whole = frames.iter().find_map(|frame| assembler.push(frame.clone()).unwrap());
    assert_eq!(whole.unwrap().into_reply(), reply);
    shown(&frames)
}

fn push_all(case: &Value) -> Result<Option<Message>, FrameError> {
    let mut assembler = Assembler::default();
    let mut message = None;
    for frame in case["frames"].as_array().unwrap() {
        message = assembler.push(Frame::parse(frame.as_str().unwrap())?)?;
    }
    Ok(message)
}

pub(crate) fn assembled(case: &Value) -> Value {
    let message = push_all(case).unwrap().unwrap();
    if case["read_as"] == "reply" {
        return match message.into_reply() {
            Ok(body) => json!({ "body": String::from_utf8(body).unwrap() }),
            Err(error) => json!({ "error": error }),
        };
    }
    let request = message.into_request(given(case, "op")).unwrap();
    json!({
        "verb": request.verb,
        "path": request.path,
        "offset": request.offset,
        "count": request.count,
        "body": String::from_utf8(request.body).unwrap(),
    })
}

pub(crate) fn event(case: &Value) -> Value {
    let (author, peer) = (keys(case, "author_secret"), keys(case, "peer_secret"));
    let kind = match case["kind"].as_str().unwrap() {
        "request" => FramesKind::Request,
        _ => FramesKind::Reply,
    };
    let frame = case["frame"].as_str().unwrap();
    let text = support::encrypt(&author, &peer.public_key(), &case["nonce"], frame);
    let at = Timestamp::from_secs(given(case, "at"));
    let event = files::event(kind, author.public_key(), peer.public_key(), text, at);
    let event = support::sign(event, &author);

    assert!(files::is_for(&event, &peer.public_key()));
    let read = nip44::decrypt(peer.secret_key(), &event.pubkey, &event.content).unwrap();
    assert_eq!(Frame::parse(&read).unwrap().to_json(), frame);
    support::value(&event)
}

#[test]
fn requests_are_cut_into_these_frames() {
    recompute("files", "requests", request);
}

#[test]
fn replies_are_cut_into_these_frames() {
    recompute("files", "replies", reply);
}

#[test]
fn frames_of_others_are_put_together() {
    recompute("files", "assembled", assembled);
}

#[test]
fn events_of_frames_have_their_bytes() {
    recompute("files", "events", event);
}

#[test]
fn entries_of_folders_have_their_json() {
    recompute("files", "stats", |case| {
        let stat: Stat = serde_json::from_value(case.clone()).unwrap();
        Value::from(serde_json::to_string(&stat).unwrap())
    });
}

#[test]
fn bad_frames_are_refused() {
    refuse("files", |case| {
        let message = push_all(case).map_err(variant)?.ok_or("nothing")?;
        message.into_request(given(case, "op")).map(drop).map_err(variant)
    });
}
