//! Putting frames together again, in whatever order they come, and however often.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Ask, FRAME_BODY_BYTES_MAX, FRAMES_MAX, Frame, MESSAGE_BYTES_MAX, OpError, OpId, Reply, Request};

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
    #[error("a frame or message over the limits of {FRAME_BODY_BYTES_MAX} and {MESSAGE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("frame {0} came twice with different contents")]
    Conflict(u32),
    #[error("frame {0} has an ask or an error that only another frame may have")]
    Misplaced(u32),
    #[error("frame {0} lies beyond the last")]
    BeyondLast(u32),
}

/// Puts the frames of one message together. Holds at most [`MESSAGE_BYTES_MAX`] of body.
#[derive(Debug, Default)]
pub struct Assembler {
    pieces: BTreeMap<u32, Vec<u8>>,
    bytes: usize,
    last: Option<u32>,
    ask: Option<Ask>,
}

/// A message put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    ask: Option<Ask>,
    error: Option<OpError>,
    body: Vec<u8>,
}

impl Assembler {
    /// Takes one frame; answers the message once it is whole, and is empty again then. A repeated frame changes
    /// nothing.
    ///
    /// # Errors
    /// When the frame cannot belong to the message: too large, contradicting, beyond the end. It changes nothing
    /// then either; whether the rest is worth keeping is the caller's to say.
    pub fn push(&mut self, frame: Frame) -> Result<Option<Message>, FrameError> {
        let piece = STANDARD.decode(&frame.body)?;
        if self.is_repeat(&frame, &piece)? {
            return Ok(None);
        }
        self.check(&frame, &piece)?;
        if frame.last {
            self.last = Some(frame.seq);
        }
        self.bytes += piece.len();
        self.ask = self.ask.take().or(frame.ask);
        self.pieces.insert(frame.seq, piece);
        let whole = self.last.is_some_and(|last| self.pieces.len() == last as usize + 1);
        Ok(whole.then(|| {
            let Self { pieces, ask, .. } = std::mem::take(self);
            Message { ask, error: frame.error, body: pieces.into_values().flatten().collect() }
        }))
    }

    /// Bytes of body that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_repeat(&self, frame: &Frame, piece: &[u8]) -> Result<bool, FrameError> {
        let Some(known) = self.pieces.get(&frame.seq) else { return Ok(false) };
        let same_ask = if frame.seq == 0 { frame.ask == self.ask } else { frame.ask.is_none() };
        let same = *known == piece
            && same_ask
            && frame.error.is_none()
            && frame.last == (self.last == Some(frame.seq));
        if same { Ok(true) } else { Err(FrameError::Conflict(frame.seq)) }
    }

    fn check(&self, frame: &Frame, piece: &[u8]) -> Result<(), FrameError> {
        let is_alone = frame.seq == 0 && frame.last;
        let error_fits = is_alone && piece.is_empty() && frame.ask.is_none();
        if (frame.ask.is_some() && frame.seq != 0) || (frame.error.is_some() && !error_fits) {
            return Err(FrameError::Misplaced(frame.seq));
        }
        let bytes = self.bytes + piece.len();
        if piece.len() > FRAME_BODY_BYTES_MAX || bytes > MESSAGE_BYTES_MAX || frame.seq >= FRAMES_MAX {
            return Err(FrameError::TooLarge);
        }
        let newest = self.pieces.last_key_value().map(|(seq, _)| *seq);
        let is_beyond = self.last.is_some_and(|last| frame.seq > last)
            || (frame.last && newest.is_some_and(|newest| newest > frame.seq));
        if is_beyond { Err(FrameError::BeyondLast(frame.seq)) } else { Ok(()) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{Code, Verb};
    use crate::hex::Hex;

    fn frames(pieces: usize) -> Vec<Frame> {
        let body = vec![1; FRAME_BODY_BYTES_MAX * pieces];
        Request::new(Hex([1; 16]), Verb::Call, "/x", body).frames()
    }

    #[test]
    fn frames_that_contradict_each_other_are_refused_and_do_no_harm() {
        let frames = frames(2);
        let mut assembler = Assembler::default();
        assembler.push(frames[0].clone()).unwrap();
        let mut other_ask = frames[0].clone();
        other_ask.ask.as_mut().unwrap().path = "/y".into();
        let conflicts = [
            Frame { body: STANDARD.encode([2]), ..frames[0].clone() },
            Frame { last: true, ..frames[0].clone() },
            Frame { ask: None, ..frames[0].clone() },
            other_ask,
        ];
        for conflict in conflicts {
            assert!(matches!(assembler.push(conflict), Err(FrameError::Conflict(0))));
        }
        assert!(assembler.push(frames[0].clone()).unwrap().is_none());
        let whole = assembler.push(frames[1].clone()).unwrap().unwrap();
        assert_eq!(whole.into_request(Hex([1; 16])).unwrap().body.len(), FRAME_BODY_BYTES_MAX * 2);
        // Empty again: the same frames make the same message.
        assert!(assembler.push(frames[1].clone()).unwrap().is_none());
        assert!(assembler.push(frames[0].clone()).unwrap().is_some());
    }

    #[test]
    fn there_is_one_end_and_nothing_beyond_it() {
        let frames = frames(3);
        let mut assembler = Assembler::default();
        assembler.push(frames[1].clone()).unwrap();
        let early = Frame { last: true, ..frames[0].clone() };
        assert!(matches!(assembler.push(early), Err(FrameError::BeyondLast(0))));
        assembler.push(frames[2].clone()).unwrap();
        let late = Frame { seq: 3, ..frames[2].clone() };
        assert!(matches!(assembler.push(late), Err(FrameError::BeyondLast(3))));
        assert!(assembler.push(frames[0].clone()).unwrap().is_some());
    }

    #[test]
    fn asks_and_errors_stand_where_they_belong() {
        let ask = frames(1).remove(0).ask;
        let error = Some(OpError::new(Code::Io, "no"));
        let frames = frames(2);
        let wrong = [
            Frame { ask: ask.clone(), ..frames[1].clone() },
            Frame { error: error.clone(), ..frames[1].clone() },
            Frame { error: error.clone(), ask: None, ..frames[0].clone() },
            Frame { error, ask, last: true, body: String::new(), ..frames[0].clone() },
        ];
        for frame in wrong {
            let seq = frame.seq;
            let refused = Assembler::default().push(frame).unwrap_err();
            assert!(matches!(refused, FrameError::Misplaced(at) if at == seq), "{refused}");
        }
    }

    #[test]
    fn a_message_is_bounded_in_bytes_and_in_frames() {
        let frame = |seq, bytes| Frame {
            seq,
            last: false,
            ask: None,
            body: STANDARD.encode(vec![0; bytes]),
            ..frames(1).remove(0)
        };
        let refused = |frame| matches!(Assembler::default().push(frame), Err(FrameError::TooLarge));
        assert!(refused(frame(0, FRAME_BODY_BYTES_MAX + 1)));
        assert!(refused(frame(FRAMES_MAX, 0)));
        assert!(refused(frame(u32::MAX, 0)));
        let mut assembler = Assembler::default();
        let longest = MESSAGE_BYTES_MAX / FRAME_BODY_BYTES_MAX;
        assert_eq!(longest, FRAMES_MAX as usize);
        let piece = frame(0, FRAME_BODY_BYTES_MAX);
        for seq in 0..FRAMES_MAX - 1 {
            assert!(assembler.push(Frame { seq, ..piece.clone() }).unwrap().is_none());
        }
        let end = Frame { seq: FRAMES_MAX - 1, last: true, ..piece };
        assert_eq!(assembler.push(end).unwrap().unwrap().body.len(), MESSAGE_BYTES_MAX);
    }
}
