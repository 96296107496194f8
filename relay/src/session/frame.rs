//! Websocket framing (RFC 6455 section 5), as far as the gate needs it: where an incoming frame ends and how large
//! its message has become, and the two frames the relay sends by itself. Pure.

/// Longest frame header: 2 bytes, 8 of length, 4 of mask.
pub(crate) const HEADER_BYTES_MAX: usize = 14;

/// Longest close reason: a control frame carries 125 bytes, two of them the code.
const REASON_BYTES_MAX: usize = 123;

const OPCODE_CONTINUATION: u8 = 0x0;
const OPCODE_TEXT: u8 = 0x1;
const OPCODE_CLOSE: u8 = 0x8;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// Why the relay closes a connection, as the client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseCode {
    /// 1001: the relay shuts down.
    GoingAway = 1001,
    /// 1008: the client sent what the relay cannot answer.
    Policy = 1008,
    /// 1009: a message over the limit.
    TooLarge = 1009,
    /// 1013: reconnect and sync.
    TryAgain = 1013,
}

/// The start of an incoming frame.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    opcode: u8,
    /// Header and payload together.
    total_bytes: u64,
    payload_bytes: u64,
}

impl Header {
    /// Reads a header; `None` while it is not complete.
    fn read(bytes: &[u8]) -> Option<Header> {
        let (&[first, second], rest) = bytes.split_first_chunk::<2>()?;
        let mask_bytes = if second & MASKED != 0 { 4 } else { 0 };
        let (length_bytes, payload_bytes) = match second & !MASKED {
            126 => (2, u64::from(u16::from_be_bytes(*rest.first_chunk()?))),
            127 => (8, u64::from_be_bytes(*rest.first_chunk()?)),
            small => (0, u64::from(small)),
        };
        let header_bytes = 2 + length_bytes + mask_bytes;
        Some(Header {
            opcode: first & 0x0f,
            total_bytes: payload_bytes.saturating_add(header_bytes),
            payload_bytes,
        })
    }
}

/// What the bytes at the front of the buffer are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The header of a new frame is not complete.
    Incomplete,
    /// A new frame begins.
    Begins(Begin),
    /// The message this frame belongs to is larger than the limit.
    TooLarge,
    /// Bytes of the frame that was let in.
    Inside,
}

/// A frame that may be let in, by [`Frames::admit`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Begin {
    total_bytes: u64,
    message_bytes: u64,
}

/// Keeps count of where frames end in the incoming bytes.
#[derive(Debug)]
pub(super) struct Frames {
    message_bytes_max: u64,
    /// Payload of the message so far, over all its fragments.
    message_bytes: u64,
    /// Bytes of the admitted frame that are still to be handed over.
    left: u64,
}

impl Frames {
    pub(super) fn new(message_bytes_max: u64) -> Frames {
        Frames { message_bytes_max, message_bytes: 0, left: 0 }
    }

    /// Tells what `bytes` start with.
    pub(super) fn next(&self, bytes: &[u8]) -> Next {
        if self.left > 0 {
            return Next::Inside;
        }
        let Some(header) = Header::read(bytes) else { return Next::Incomplete };
        // A control frame may stand between the fragments of a message and is none of it.
        let message_bytes = match header.opcode {
            OPCODE_CONTINUATION => self.message_bytes.saturating_add(header.payload_bytes),
            opcode if opcode < OPCODE_CLOSE => header.payload_bytes,
            _ => self.message_bytes,
        };
        if message_bytes > self.message_bytes_max || header.payload_bytes > self.message_bytes_max {
            return Next::TooLarge;
        }
        Next::Begins(Begin { total_bytes: header.total_bytes, message_bytes })
    }

    /// Lets the frame in.
    pub(super) fn admit(&mut self, begin: &Begin) {
        self.left = begin.total_bytes;
        self.message_bytes = begin.message_bytes;
    }

    /// How many of `available` bytes belong to the admitted frame.
    pub(super) fn within(&self, available: usize) -> usize {
        usize::try_from(self.left).unwrap_or(usize::MAX).min(available)
    }

    /// Notes bytes handed over.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes as u64);
    }
}

/// An unmasked text frame, as servers send them.
pub(crate) fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![FINAL | OPCODE_TEXT];
    match (u8::try_from(text.len()), u16::try_from(text.len())) {
        (Ok(length @ ..126), _) => frame.push(length),
        (_, Ok(length)) => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((text.len() as u64).to_be_bytes());
        }
    }
    frame.extend(text.as_bytes());
    frame
}

/// An unmasked close frame; a reason that does not fit is cut at a character.
pub(crate) fn close_frame(code: CloseCode, reason: &str) -> Vec<u8> {
    let reason = reason.get(..reason.floor_char_boundary(REASON_BYTES_MAX)).unwrap_or_default();
    let length = u8::try_from(reason.len() + 2).expect("cut to fit a control frame above");
    let mut frame = vec![FINAL | OPCODE_CLOSE, length];
    frame.extend((code as u16).to_be_bytes());
    frame.extend(reason.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begins(next: Next) -> Begin {
        match next {
            Next::Begins(begin) => begin,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn header_lengths_of_all_three_forms() {
        let small = Header::read(&[0x81, 0x85]).expect("complete");
        assert_eq!((small.payload_bytes, small.total_bytes), (5, 11));
        let medium = Header::read(&[0x81, 0xfe, 0x01, 0x00]).expect("complete");
        assert_eq!((medium.payload_bytes, medium.total_bytes), (256, 264));
        let large = Header::read(&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0]).expect("complete");
        assert_eq!((large.payload_bytes, large.total_bytes), (65_536, 65_550));
        let unmasked = Header::read(&[0x8a, 0x00]).expect("complete");
        assert_eq!(unmasked.total_bytes, 2);
    }

    #[test]
    fn header_is_incomplete_until_its_length_is_there() {
        for bytes in [&[][..], &[0x81], &[0x81, 0xfe, 0x01], &[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(Header::read(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_frame_is_handed_over_to_its_end_and_no_further() {
        let mut frames = Frames::new(100);
        let bytes = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i', 0x81, 0x80];
        let begin = begins(frames.next(&bytes));
        frames.admit(&begin);
        assert_eq!(frames.within(bytes.len()), 8);
        frames.advance(5);
        assert_eq!(frames.next(&bytes[5..]), Next::Inside);
        assert_eq!(frames.within(2), 2);
        frames.advance(3);
        begins(frames.next(&[0x81, 0x80, 0, 0, 0, 0]));
    }

    #[test]
    fn a_message_is_measured_over_its_fragments() {
        let mut frames = Frames::new(10);
        assert_eq!(frames.next(&[0x81, 0x8b]), Next::TooLarge);
        for header in [[0x01, 0x86], [0x89, 0x85], [0x00, 0x84]] {
            let begin = begins(frames.next(&header));
            frames.admit(&begin);
            frames.advance(usize::MAX);
        }
        assert_eq!(frames.next(&[0x80, 0x81]), Next::TooLarge, "eleven bytes in three fragments");
        begins(frames.next(&[0x81, 0x8a]));
    }

    #[test]
    fn a_length_near_the_end_of_u64_is_too_large() {
        let frames = Frames::new(u64::MAX - 1);
        assert_eq!(frames.next(&[0x81, 0xff, 255, 255, 255, 255, 255, 255, 255, 255]), Next::TooLarge);
    }

    #[test]
    fn frames_the_relay_sends() {
        assert_eq!(text_frame("hi"), [0x81, 2, b'h', b'i']);
        assert_eq!(text_frame(&"a".repeat(300))[..4], [0x81, 126, 1, 44]);
        assert_eq!(text_frame(&"a".repeat(70_000))[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
        assert_eq!(close_frame(CloseCode::GoingAway, "x"), [0x88, 3, 0x03, 0xe9, b'x']);
        let cut = close_frame(CloseCode::Policy, &"é".repeat(100));
        assert_eq!((cut.len(), cut[1]), (2 + 2 + 122, 124), "cut before the half character");
    }
}
