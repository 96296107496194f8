//! The operator protocol: requests and replies cut into frames, frames put together, events of frames.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oa_nips::files::queued::{self, Command};
use oa_nips::files::sender::{Taken, WatchSender};
use oa_nips::files::watch::{Asked, Feed, Piece, StreamFrame, Word};
use oa_nips::files::{
    self, Assembler, Frame, FrameError, FramesKind, Message, OpError, OpId, Reply, Request, Stat, Verb,
};
use oa_nips::kind;
use oa_nips::mail::Draft;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_nips::nostr::nips::nip44;
use oa_nips::nostr::{JsonUtil as _, PublicKey, Timestamp, UnsignedEvent};
use serde_json::{Value, json};

use crate::support::{self, given, keys, recompute, refuse, refuse_in, variant};

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

pub(crate) fn stream(case: &Value) -> Value {
    let (op, seq): (OpId, u64) = (given(case, "op"), given(case, "seq"));
    let bytes = case["bytes"].as_str().unwrap().as_bytes().to_vec();
    let (offset, length) = (given(case, "offset"), given(case, "length"));
    let edition = case.get("edition").map(|_| given(case, "edition"));
    let missed: u64 = case.get("missed").map_or(0, |_| given(case, "missed"));
    // The machine that sends it, as far as it is there: beats bring it to the frame's number.
    let mut sender = WatchSender::new(op, offset - missed, u64::MAX, 0);
    (0..seq).for_each(|_| drop(sender.beat(0)));
    sender.measured(length);
    let piece = Piece { offset, bytes, length, edition };
    let frame = match case.get("end") {
        Some(_) => sender.end(given(case, "end")),
        None if case["beat"] == true => sender.beat(0),
        None => match sender.take(piece.clone(), 0) {
            Taken::Frame(frame) => frame,
            other => panic!("{other:?}"),
        },
    };
    let json = frame.to_json();
    assert_eq!(StreamFrame::parse(&json).unwrap().piece().unwrap(), piece);
    Value::from(json)
}

pub(crate) fn feed(case: &Value) -> Value {
    let word = match case.get("credit") {
        Some(_) => Word::Credit(given(case, "credit")),
        None => Word::Stop,
    };
    let feed = Feed { op: given(case, "op"), word };
    assert_eq!(Asked::parse(&feed.to_json()).unwrap(), Asked::Feed(feed));
    Value::from(feed.to_json())
}

pub(crate) fn command(case: &Value) -> Value {
    let (caller, node) = (keys(case, "caller_secret").public_key(), keys(case, "node_secret").public_key());
    let (op, verb): (OpId, Verb) = (given(case, "op"), given(case, "verb"));
    let mut request = Request::new(op, verb, case["path"].as_str().unwrap(), body(case));
    (request.offset, request.count) = (given(case, "offset"), given(case, "count"));
    let (queue, seq, expires_s) = (given(case, "queue"), given(case, "seq"), given(case, "expires"));
    let command = Command { queue, seq, request, expires_s };
    let rumor = command.rumor(caller, node, Timestamp::from_secs(given(case, "at"))).unwrap();
    assert_eq!(Command::read(&rumor, &node).unwrap(), command);
    serde_json::from_str(&rumor.as_json()).unwrap()
}

pub(crate) fn queued_reply(case: &Value) -> Value {
    let (caller, node) = (keys(case, "caller_secret").public_key(), keys(case, "node_secret").public_key());
    let reply: Reply = match case.get("error") {
        Some(_) => Err(given::<OpError>(case, "error")),
        None => Ok(body(case)),
    };
    let content = queued::reply_contents(given(case, "op"), &reply).remove(0);
    let draft = Draft {
        recipient: caller,
        kind: kind::FILES_REPLY.as_u16(),
        content,
        at_ms: given(case, "at_ms"),
        reply_to: Some(given(case, "command")),
        auto_hop: 0,
    };
    let rumor = draft.rumor(node);
    let (command, frame) = queued::read_reply(&rumor, &caller).unwrap();
    assert_eq!(command, given(case, "command"));
    assert_eq!(Assembler::default().push(frame).unwrap().unwrap().into_reply(), reply);
    serde_json::from_str(&rumor.as_json()).unwrap()
}

#[test]
fn stream_frames_have_their_json() {
    recompute("files", "streams", stream);
}

#[test]
fn words_to_a_watch_have_their_json() {
    recompute("files", "feeds", feed);
}

#[test]
fn queued_commands_have_their_rumors() {
    recompute("files", "queued", command);
}

#[test]
fn replies_to_queued_commands_have_their_rumors() {
    recompute("files", "queued_replies", queued_reply);
}

#[test]
fn bad_stream_frames_are_refused() {
    refuse_in("files", "stream_refused", |case| {
        let frame = StreamFrame::parse(case.as_str().unwrap()).map_err(variant)?;
        frame.piece().map(drop).map_err(variant)
    });
}

#[test]
fn what_is_no_queued_command_is_refused() {
    refuse_in("files", "queued_refused", |case| {
        let rumor = UnsignedEvent::from_json(case["rumor"].to_string()).unwrap();
        let node: PublicKey = given(case, "node");
        Command::read(&rumor, &node).map(drop).map_err(variant)
    });
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
