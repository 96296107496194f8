//! The operator protocol: requests on paths, replies, in numbered frames, a 9P in spirit (DESIGN section 3).
//!
//! A request is an ephemeral event of kind 25930 from the caller to the node, a reply one of kind 25931 back; the
//! content of both is NIP-44 between the two around the JSON of a [`Frame`]. A message longer than one frame
//! travels in several, numbered from 0, the last marked; the same `op` ties them together, and ties a re-sent
//! request to its first sending.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nostr::{Event, PublicKey, Tag, Timestamp, UnsignedEvent};
use serde::{Deserialize, Serialize};

use crate::hex::Hex;
use crate::{kind, tags};

/// Bytes of body in one frame; its event stays under 64 KiB.
pub const FRAME_BODY_BYTES_MAX: usize = 16 * 1024;
/// Bytes of body in one message, of all its frames.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A live request is valid this many seconds around its `created_at`.
pub const VALID_S: u64 = 60;
/// Replies to mutating requests are kept this long, and repeated from there.
pub const REPLY_KEPT_S: u64 = 7 * 24 * 3600;

/// Names one operation across re-sends: 16 random bytes, chosen by the caller, inside the ciphertext.
pub type OpId = Hex<16>;

/// What is asked of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    Stat,
    List,
    Read,
    Write,
    Append,
    Call,
    Watch,
    Mkdir,
    Remove,
    Rename,
}

impl Verb {
    /// Whether a repeat must be answered from the record of the first.
    pub fn is_mutating(self) -> bool {
        !matches!(self, Self::Stat | Self::List | Self::Read | Self::Watch)
    }
}

/// Why an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    NotFound,
    PermissionDenied,
    Exists,
    NotDir,
    IsDir,
    InvalidPath,
    InvalidInput,
    BudgetExceeded,
    ApprovalRequired,
    TooLarge,
    RateLimited,
    Stale,
    Unavailable,
    OutcomeUnknown,
    Io,
}

/// A code and a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct OpError {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
}

impl OpError {
    /// An error of this kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// One operation on one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Kept across re-sends.
    pub op: OpId,
    /// What to do.
    pub verb: Verb,
    /// Absolute, in the operator's tree.
    pub path: String,
    /// First byte to read.
    pub offset: u64,
    /// Most bytes to read; 0 for as many as the server sends.
    pub count: u64,
    /// Content to write, or the argument of a call.
    pub body: Vec<u8>,
}

impl Request {
    /// A request without offset or count.
    pub fn new(op: OpId, verb: Verb, path: impl Into<String>, body: Vec<u8>) -> Self {
        Self { op, verb, path: path.into(), offset: 0, count: 0, body }
    }
}

/// What is answered: a body, or an error.
pub type Reply = Result<Vec<u8>, OpError>;

/// Whether a path is a folder or which of the four types of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileType {
    Dir,
    Value,
    Append,
    Call,
    Stream,
}

/// One entry of a folder, or what `stat` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// The last component of the path.
    pub name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub file_type: FileType,
    /// Bytes, where known.
    pub size: u64,
}

/// One numbered piece of a request or a reply, as it stands inside the ciphertext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Version of this format: 1.
    pub v: u8,
    /// The operation it belongs to.
    pub op: OpId,
    /// From 0.
    pub seq: u32,
    /// Whether no frame follows.
    pub last: bool,
    /// Base64 of the piece.
    pub body: String,
    /// Only in the first frame of a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask: Option<Ask>,
    /// Only in a reply that failed, which is one frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<OpError>,
}

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub verb: Verb,
    pub path: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub count: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference to skip_serializing_if")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Why frames make no message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the frame is not valid JSON of a frame")]
    Syntax(#[from] serde_json::Error),
    #[error("the frame's body is not base64")]
    Base64(#[from] base64::DecodeError),
    #[error("frame version {0} is not known")]
    Version(u8),
    #[error("the first frame names no operation")]
    NoAsk,
    #[error("a message of over {MESSAGE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("frame {0} came twice with different contents")]
    Conflict(u32),
    #[error("frame {0} lies beyond the last")]
    BeyondLast(u32),
}

impl Request {
    /// Cuts the request into frames.
    pub fn frames(&self) -> Vec<Frame> {
        let ask = Ask { verb: self.verb, path: self.path.clone(), offset: self.offset, count: self.count };
        let mut frames = cut(self.op, &self.body);
        if let Some(first) = frames.first_mut() {
            first.ask = Some(ask);
        }
        frames
    }
}

/// Cuts a reply into frames.
pub fn reply_frames(op: OpId, reply: &Reply) -> Vec<Frame> {
    match reply {
        Ok(body) => cut(op, body),
        Err(error) => {
            let body = String::new();
            vec![Frame { v: 1, op, seq: 0, last: true, body, ask: None, error: Some(error.clone()) }]
        }
    }
}

fn cut(op: OpId, body: &[u8]) -> Vec<Frame> {
    let mut pieces: Vec<&[u8]> = body.chunks(FRAME_BODY_BYTES_MAX).collect();
    if pieces.is_empty() {
        pieces.push(&[]);
    }
    let count = pieces.len();
    let frame = |(seq, piece): (usize, &[u8])| Frame {
        v: 1,
        op,
        seq: u32::try_from(seq).unwrap_or(u32::MAX),
        last: seq + 1 == count,
        body: STANDARD.encode(piece),
        ask: None,
        error: None,
    };
    pieces.into_iter().enumerate().map(frame).collect()
}

impl Frame {
    /// Reads a decrypted content.
    ///
    /// # Errors
    /// When it is no frame of version 1.
    pub fn parse(json: &str) -> Result<Self, FrameError> {
        let frame: Self = serde_json::from_str(json)?;
        if frame.v == 1 { Ok(frame) } else { Err(FrameError::Version(frame.v)) }
    }

    /// The JSON to encrypt.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Puts the frames of one message together, in whatever order they come.
#[derive(Debug, Default)]
pub struct Assembler {
    pieces: BTreeMap<u32, Vec<u8>>,
    bytes: usize,
    last: Option<u32>,
    ask: Option<Ask>,
    error: Option<OpError>,
}

/// A message put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    ask: Option<Ask>,
    error: Option<OpError>,
    body: Vec<u8>,
}

impl Assembler {
    /// Takes one frame; answers the message once it is whole. A repeated frame changes nothing.
    ///
    /// # Errors
    /// When the frame cannot belong to the message: too large, contradicting, beyond the end.
    pub fn push(&mut self, frame: Frame) -> Result<Option<Message>, FrameError> {
        let piece = STANDARD.decode(&frame.body)?;
        let beyond = self.last.is_some_and(|last| frame.seq > last)
            || (frame.last && self.pieces.last_key_value().is_some_and(|(seq, _)| *seq > frame.seq));
        if beyond {
            return Err(FrameError::BeyondLast(frame.seq));
        }
        if let Some(known) = self.pieces.get(&frame.seq) {
            return if *known == piece { Ok(None) } else { Err(FrameError::Conflict(frame.seq)) };
        }
        // A piece may be empty, so its number is bounded as well as its bytes.
        let frames_max = MESSAGE_BYTES_MAX / FRAME_BODY_BYTES_MAX;
        self.bytes += piece.len();
        if piece.len() > FRAME_BODY_BYTES_MAX
            || self.bytes > MESSAGE_BYTES_MAX
            || frame.seq as usize > frames_max
        {
            return Err(FrameError::TooLarge);
        }
        if frame.last {
            self.last = Some(frame.seq);
        }
        self.ask = self.ask.take().or(frame.ask);
        self.error = self.error.take().or(frame.error);
        self.pieces.insert(frame.seq, piece);
        let whole = self.last.is_some_and(|last| self.pieces.len() == last as usize + 1);
        Ok(whole.then(|| Message {
            ask: self.ask.take(),
            error: self.error.take(),
            body: std::mem::take(&mut self.pieces).into_values().flatten().collect(),
        }))
    }
}

impl Message {
    /// Reads it as a request.
    ///
    /// # Errors
    /// [`FrameError::NoAsk`]
    pub fn into_request(self, op: OpId) -> Result<Request, FrameError> {
        let Ask { verb, path, offset, count } = self.ask.ok_or(FrameError::NoAsk)?;
        Ok(Request { op, verb, path, offset, count, body: self.body })
    }

    /// Reads it as a reply.
    pub fn into_reply(self) -> Reply {
        self.error.map_or(Ok(self.body), Err)
    }
}

/// The event of a frame from `author` to `peer`; `request` tells which of the two kinds.
pub fn event(
    kind: FramesKind,
    author: PublicKey,
    peer: PublicKey,
    ciphertext: String,
    at: Timestamp,
) -> UnsignedEvent {
    let kind = match kind {
        FramesKind::Request => kind::FILES_REQUEST,
        FramesKind::Reply => kind::FILES_REPLY,
        FramesKind::Stream => kind::FILES_STREAM,
    };
    UnsignedEvent::new(author, at, kind, vec![Tag::public_key(peer)], ciphertext)
}

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FramesKind {
    Request,
    Reply,
    Stream,
}

/// Whether an event is addressed to `me`.
pub fn is_for(event: &Event, me: &PublicKey) -> bool {
    tags::people(&event.tags).any(|key| key == *me)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assemble(frames: Vec<Frame>) -> Option<Message> {
        let mut assembler = Assembler::default();
        frames.into_iter().fold(None, |whole, frame| whole.or(assembler.push(frame).unwrap()))
    }

    proptest! {
        #[test]
        fn a_request_survives_cutting_shuffling_and_repeats(
            body in proptest::collection::vec(any::<u8>(), 0..60_000),
            offset in any::<u64>(),
            seed in any::<u64>(),
        ) {
            let mut request = Request::new(Hex([3; 16]), Verb::Write, "/agents/alice/manifest", body);
            request.offset = offset;
            let mut frames = request.frames();
            frames.iter().for_each(|frame| assert!(frame.to_json().len() < 24 * 1024));
            let turn = seed as usize % frames.len();
            frames.rotate_left(turn);
            if frames.len() > 1 {
                frames.insert(1, frames[0].clone());
            }
            let parsed: Vec<_> = frames.iter().map(|f| Frame::parse(&f.to_json()).unwrap()).collect();
            prop_assert_eq!(assemble(parsed).unwrap().into_request(request.op).unwrap(), request);
        }

        #[test]
        fn parsing_never_panics(text in ".{0,200}") {
            let _ = Frame::parse(&text);
        }
    }

    #[test]
    fn a_failed_reply_is_one_frame() {
        let reply: Reply = Err(OpError::new(Code::NotFound, "no agent bob"));
        let frames = reply_frames(Hex([1; 16]), &reply);
        assert_eq!(frames.len(), 1);
        assert_eq!(assemble(frames).unwrap().into_reply(), reply);
    }

    #[test]
    fn frames_that_contradict_or_run_past_the_end_are_refused() {
        let frames = Request::new(Hex([1; 16]), Verb::Call, "/x", vec![1; FRAME_BODY_BYTES_MAX * 2]).frames();
        let mut assembler = Assembler::default();
        assembler.push(frames[0].clone()).unwrap();
        let forged = Frame { body: STANDARD.encode([2]), ..frames[0].clone() };
        assert!(matches!(assembler.push(forged), Err(FrameError::Conflict(0))));
        let early_end = Frame { seq: 0, last: true, ..frames[0].clone() };
        let mut other = Assembler::default();
        other.push(frames[1].clone()).unwrap();
        assert!(matches!(other.push(early_end), Err(FrameError::BeyondLast(0))));
        let far = Frame { seq: 1_000_000, last: false, ..frames[0].clone() };
        assert!(matches!(Assembler::default().push(far), Err(FrameError::TooLarge)));
    }
}
