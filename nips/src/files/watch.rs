//! Watching a path: the frames that bring what comes, and the words by which a reader asks for more.
//!
//! A request with the verb `watch` names the byte to begin at (`offset`) and how many bytes the reader is ready to
//! take (`count`, its first credit). What follows are events of kind 25932, each around one [`StreamFrame`]. The
//! reader goes on with [`Feed`]s, events of kind 25930 under the same `op`: a new credit, which counts from the
//! beginning of the watch, so that one that is lost or comes twice does no harm; or its end.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::{FRAME_BODY_BYTES_MAX, Frame, FrameError, OpError, OpId, is_zero};

/// A node that has nothing to say for this long says so, in milliseconds.
pub const BEAT_MS: u64 = 15_000;
/// A reader that heard nothing for this long takes the watch to be over, in milliseconds: two beats were lost.
pub const SILENCE_MS: u64 = 40_000;
/// A reader says at least this often that it is there, in milliseconds.
pub const KEEP_ALIVE_MS: u64 = 20_000;
/// A node that did not hear its reader for this long ends the watch, in milliseconds.
pub const READER_SILENCE_MS: u64 = 60_000;

/// What is read of a watched file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins; greater than what was asked for where older bytes were let go.
    pub offset: u64,
    /// What is there; none at the end of the file.
    pub bytes: Vec<u8>,
    /// The whole file's length so far.
    pub length: u64,
    /// Of a value, which of its contents this is part of: another number for another content. Nothing for what
    /// only grows.
    pub edition: Option<u64>,
}

/// One piece of a watched file on its way, as it stands inside the ciphertext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamFrame {
    /// Version of this format: 1.
    pub v: u8,
    /// The watch it belongs to.
    pub op: OpId,
    /// From 0, one more each frame, beats too.
    pub seq: u64,
    /// Where the body stands in the file.
    pub offset: u64,
    /// The file's length when the frame was made.
    pub length: u64,
    /// Base64 of the piece.
    pub body: String,
    /// As [`Piece::edition`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edition: Option<u64>,
    /// Bytes before `offset` that the reader will not get: they were let go before it took them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed: u64,
    /// Whether nothing new came: the node only says that it is there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub beat: bool,
    /// Why nothing follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<OpError>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference to skip_serializing_if")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl StreamFrame {
    /// A frame with this piece of a file.
    pub(super) fn new(op: OpId, seq: u64, piece: &Piece) -> Self {
        let Piece { offset, ref bytes, length, edition } = *piece;
        let body = STANDARD.encode(bytes);
        Self { v: 1, op, seq, offset, length, body, edition, missed: 0, beat: false, end: None }
    }

    /// Reads a decrypted content.
    ///
    /// # Errors
    /// When it is no frame of version 1.
    pub fn parse(json: &str) -> Result<Self, FrameError> {
        let Version { v } = serde_json::from_str(json)?;
        if v == 1 { Ok(serde_json::from_str(json)?) } else { Err(FrameError::Version(v)) }
    }

    /// The JSON to encrypt.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a frame has string keys and integers")
    }

    /// The piece it brings.
    ///
    /// # Errors
    /// [`FrameError::Base64`], [`FrameError::TooLarge`]
    pub fn piece(&self) -> Result<Piece, FrameError> {
        let bytes = STANDARD.decode(&self.body)?;
        if bytes.len() > FRAME_BODY_BYTES_MAX {
            return Err(FrameError::TooLarge);
        }
        Ok(Piece { offset: self.offset, bytes, length: self.length, edition: self.edition })
    }
}

#[derive(Deserialize)]
struct Version {
    v: u8,
}

/// What a reader says to a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feed {
    /// The watch.
    pub op: OpId,
    /// What it says.
    pub word: Word,
}

/// The two things a reader can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// How many bytes it is ready to take, in all since the watch began. Also says that it is there.
    Credit(u64),
    /// It has enough.
    Stop,
}

/// [`Feed`] as it stands inside the ciphertext.
#[derive(Debug, Serialize, Deserialize)]
struct FeedJson {
    v: u8,
    op: OpId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credit: Option<u64>,
    #[serde(default, skip_serializing_if = "is_false")]
    stop: bool,
}

impl Feed {
    /// The JSON to encrypt.
    pub fn to_json(&self) -> String {
        let (credit, stop) = match self.word {
            Word::Credit(bytes) => (Some(bytes), false),
            Word::Stop => (None, true),
        };
        serde_json::to_string(&FeedJson { v: 1, op: self.op, credit, stop })
            .expect("a feed has string keys and integers")
    }
}

/// What an event of kind 25930 holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A piece of a request.
    Frame(Frame),
    /// A word to a watch.
    Feed(Feed),
}

/// What tells the two apart: only a frame has a body.
#[derive(Deserialize)]
struct Head {
    v: u8,
    body: Option<IgnoredAny>,
}

impl Asked {
    /// Reads a decrypted content.
    ///
    /// # Errors
    /// When it is neither, or of another version than 1.
    pub fn parse(json: &str) -> Result<Self, FrameError> {
        let Head { v, body } = serde_json::from_str(json)?;
        if v != 1 {
            return Err(FrameError::Version(v));
        }
        if body.is_some() {
            return Frame::parse(json).map(Self::Frame);
        }
        let FeedJson { op, credit, stop, .. } = serde_json::from_str(json)?;
        let word = match (credit, stop) {
            (_, true) => Word::Stop,
            (Some(bytes), false) => Word::Credit(bytes),
            (None, false) => {
                return Err(serde_json::Error::custom("neither a body nor a credit nor a stop").into());
            }
        };
        Ok(Self::Feed(Feed { op, word }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::files::{Code, Request, Verb};
    use crate::hex::Hex;

    proptest! {
        #[test]
        fn stream_frames_survive_the_wire(
            (seq, offset, length, missed) in any::<(u64, u64, u64, u64)>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..FRAME_BODY_BYTES_MAX),
            edition in any::<Option<u64>>(),
            (beat, ends) in any::<(bool, bool)>(),
        ) {
            let piece = Piece { offset, bytes, length, edition };
            let end = ends.then(|| OpError::new(Code::Io, "gone"));
            let frame = StreamFrame { missed, beat, end, ..StreamFrame::new(Hex([7; 16]), seq, &piece) };
            prop_assert!(frame.to_json().len() < 24 * 1024);
            let read = StreamFrame::parse(&frame.to_json()).unwrap();
            prop_assert_eq!(&read, &frame);
            prop_assert_eq!(read.piece().unwrap(), piece);
        }

        #[test]
        fn feeds_survive_the_wire_and_are_told_from_frames(bytes in any::<u64>(), op in any::<[u8; 16]>()) {
            for word in [Word::Credit(bytes), Word::Stop] {
                let feed = Feed { op: Hex(op), word };
                prop_assert_eq!(Asked::parse(&feed.to_json()).unwrap(), Asked::Feed(feed));
            }
            let frame = Request::new(Hex(op), Verb::Watch, "/x", Vec::new()).frames().remove(0);
            prop_assert_eq!(Asked::parse(&frame.to_json()).unwrap(), Asked::Frame(frame));
        }

        #[test]
        fn parsing_never_panics(text in ".{0,200}") {
            let _ = Asked::parse(&text);
            let _ = StreamFrame::parse(&text).map(|frame| frame.piece());
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        let op = "000102030405060708090a0b0c0d0e0f";
        let nothing = format!(r#"{{"v":1,"op":"{op}"}}"#);
        assert!(matches!(Asked::parse(&nothing), Err(FrameError::Syntax(_))));
        let later = format!(r#"{{"v":2,"op":"{op}","credit":"much"}}"#);
        assert!(matches!(Asked::parse(&later), Err(FrameError::Version(2))));
        let negative = format!(r#"{{"v":1,"op":"{op}","credit":-1}}"#);
        assert!(matches!(Asked::parse(&negative), Err(FrameError::Syntax(_))));
        // A body that is null is none; then a credit must be there.
        let odd = format!(r#"{{"v":1,"op":"{op}","body":null}}"#);
        assert!(matches!(Asked::parse(&odd), Err(FrameError::Syntax(_))));
    }

    #[test]
    fn a_piece_over_the_limit_of_a_frame_is_refused() {
        let bytes = vec![0; FRAME_BODY_BYTES_MAX + 1];
        let piece = Piece { offset: 0, bytes, length: 1, edition: None };
        let frame = StreamFrame::new(Hex([1; 16]), 0, &piece);
        assert!(matches!(frame.piece(), Err(FrameError::TooLarge)));
    }
}
