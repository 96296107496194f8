//! The operator protocol: requests on paths, replies, in numbered frames, a 9P in spirit (DESIGN section 3).
//!
//! A request is an ephemeral event of kind 25930 from the caller to the node, a reply one of kind 25931 back; the
//! content of both is NIP-44 between the two around the JSON of a [`Frame`]. A message longer than one frame
//! travels in several, numbered from 0, the last marked; the same `op` ties them together, and ties a re-sent
//! request to its first sending.
//!
//! - [`watch`]: stream frames and a reader's words; [`sender`] and [`reader`]: the machines on either side
//! - [`queued`]: commands for a node that is offline

mod assemble;
pub mod queued;
pub mod reader;
pub mod sender;
pub mod watch;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nostr::{Event, PublicKey, Tag, Timestamp, UnsignedEvent};
use serde::{Deserialize, Serialize};

pub use self::assemble::{Assembler, FrameError, Message};
use crate::hex::Hex;
use crate::{kind, tags};

/// Bytes of body in one frame; its event stays under 64 KiB.
pub const FRAME_BODY_BYTES_MAX: usize = 16 * 1024;
/// Bytes of body in one message, of all its frames.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Frames of one message. Shorter ones than [`FRAME_BODY_BYTES_MAX`] are taken, so their number has its own bound.
pub const FRAMES_MAX: u32 = 1024;
/// Characters of an error's sentence that are sent: it may quote what was asked, and must fit its one frame.
pub const ERROR_CHARS_MAX: usize = 1000;
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

/// Why an operation failed. A code that is not known is read as `io`, so that the sentence still arrives.
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
    #[serde(other)]
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

    /// As it is sent: the sentence cut to [`ERROR_CHARS_MAX`].
    pub(crate) fn cut(&self) -> Self {
        Self { code: self.code, message: self.message.chars().take(ERROR_CHARS_MAX).collect() }
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
    /// Most bytes to read; 0 for as many as the server sends. Of a watch the first credit, where 0 is none.
    pub count: u64,
    /// Content to write, the argument of a call, or the new path of a rename.
    pub body: Vec<u8>,
}

impl Request {
    /// A request without offset or count.
    pub fn new(op: OpId, verb: Verb, path: impl Into<String>, body: Vec<u8>) -> Self {
        Self { op, verb, path: path.into(), offset: 0, count: 0, body }
    }

    /// Moves what is at `from` to `to`.
    pub fn rename(op: OpId, from: impl Into<String>, to: impl Into<String>) -> Self {
        Self::new(op, Verb::Rename, from, to.into().into_bytes())
    }

    /// Watches a path from a byte on, with a first credit.
    pub fn watch(op: OpId, path: impl Into<String>, offset: u64, credit: u64) -> Self {
        Self { offset, count: credit, ..Self::new(op, Verb::Watch, path, Vec::new()) }
    }

    /// The new path of a rename.
    ///
    /// # Errors
    /// [`Code::InvalidPath`]
    pub fn new_path(&self) -> Result<&str, OpError> {
        std::str::from_utf8(&self.body)
            .map_err(|_| OpError::new(Code::InvalidPath, "the new path is not UTF-8"))
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
    /// Bytes, where known; of a stream, where it ends.
    pub size: u64,
    /// Of a stream, where the oldest byte is that it still has. Reading from before begins there.
    #[serde(default, skip_serializing_if = "is_beginning")]
    pub start: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_beginning(offset: &u64) -> bool {
    *offset == 0
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
    /// Only in a reply that failed, which is one frame without a body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<OpError>,
}

/// What is read of a frame before the rest.
#[derive(Deserialize)]
struct Version {
    v: u8,
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

impl Request {
    /// Cuts the request into frames. A body over [`MESSAGE_BYTES_MAX`] will be refused by whoever reads it.
    pub fn frames(&self) -> Vec<Frame> {
        let ask = Ask { verb: self.verb, path: self.path.clone(), offset: self.offset, count: self.count };
        let mut frames = cut(self.op, &self.body);
        if let Some(first) = frames.first_mut() {
            first.ask = Some(ask);
        }
        frames
    }
}

/// Cuts a reply into frames. One that no reader would take becomes the error that says so.
pub fn reply_frames(op: OpId, reply: &Reply) -> Vec<Frame> {
    match reply {
        Ok(body) if body.len() > MESSAGE_BYTES_MAX => {
            let message =
                format!("the answer has {} bytes, at most {MESSAGE_BYTES_MAX} are sent", body.len());
            vec![failed(op, &OpError::new(Code::TooLarge, message))]
        }
        Ok(body) => cut(op, body),
        Err(error) => vec![failed(op, error)],
    }
}

fn failed(op: OpId, error: &OpError) -> Frame {
    let error = Some(error.cut());
    Frame { v: 1, op, seq: 0, last: true, body: String::new(), ask: None, error }
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
        // The version first: a later one may have another shape.
        let Version { v } = serde_json::from_str(json)?;
        if v == 1 { Ok(serde_json::from_str(json)?) } else { Err(FrameError::Version(v)) }
    }

    /// The JSON to encrypt.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a frame has string keys and integers")
    }
}

/// The operation that a frame which does not parse names, so that its error can be answered.
pub fn op_of(json: &str) -> Option<OpId> {
    let value: serde_json::Value = serde_json::from_str(json).ok()?;
    value.get("op")?.as_str()?.parse().ok()
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
    fn what_does_not_fit_is_an_error_that_does() {
        let huge = reply_frames(Hex([1; 16]), &Ok(vec![0; MESSAGE_BYTES_MAX + 1]));
        let refused = assemble(huge).unwrap().into_reply().unwrap_err();
        assert_eq!(refused.code, Code::TooLarge);
        let wordy: Reply = Err(OpError::new(Code::InvalidPath, "\u{1}".repeat(100_000)));
        let frames = reply_frames(Hex([1; 16]), &wordy);
        assert!(frames[0].to_json().len() < 24 * 1024);
        assert_eq!(assemble(frames).unwrap().into_reply().unwrap_err().code, Code::InvalidPath);
    }

    #[test]
    fn later_versions_and_codes_are_told_apart() {
        let later = r#"{"v":2,"something":"else"}"#;
        assert!(matches!(Frame::parse(later), Err(FrameError::Version(2))));
        let code: Code = serde_json::from_str(r#""on_fire""#).unwrap();
        assert_eq!(code, Code::Io);
    }
}
