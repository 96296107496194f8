//! Commands for a node that is offline: a request and its place in a queue as a rumor, which travels gift-wrapped
//! (NIP-59) and waits on relays; and its reply, which comes back the same way.
//!
//! The rumor of a command has kind 25930, tags `p` (the node) and `expiration` (NIP-40), and as its content the JSON
//! of a request in one frame with the queue's id; `seq` is its place there. The rumors of a reply have kind 25931,
//! tags `p` (the caller) and `e` (the command's rumor), and each holds one frame of the reply, as a live one would.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nostr::{EventId, PublicKey, Tag, Timestamp, UnsignedEvent};
use serde::{Deserialize, Serialize};

use super::{Ask, FRAME_BODY_BYTES_MAX, Frame, FrameError, OpId, Reply, Request, reply_frames};
use crate::hex::Hex;
use crate::{kind, tags};

/// A command is good this long after it was made, at most.
pub const EXPIRES_S_MAX: u64 = 7 * 24 * 3600;
/// Commands of one queue.
pub const QUEUE_MAX: u32 = 10_000;
/// Frames of a reply that are sent: each is a letter of its own.
pub const REPLY_FRAMES_MAX: usize = 64;

/// Names one queue: 16 random bytes, chosen by the caller.
pub type QueueId = Hex<16>;

/// One command in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The queue it stands in.
    pub queue: QueueId,
    /// Its place there, from 0. It runs after those before it.
    pub seq: u32,
    /// What to do; with a body of one frame.
    pub request: Request,
    /// When it is no longer to be done: seconds since 1970.
    pub expires_s: u64,
}

/// A command as it stands in its rumor.
#[derive(Debug, Serialize, Deserialize)]
struct CommandJson {
    v: u8,
    op: OpId,
    queue: QueueId,
    seq: u32,
    body: String,
    ask: Ask,
}

/// Why a rumor is no command, or no reply to one.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("kind {0} is neither a command nor a reply")]
    Kind(u16),
    #[error("it is addressed to somebody else")]
    Recipient,
    #[error("it has no expiration, or one over 7 days after it was made")]
    Expiration,
    #[error("place {0} of a queue; there are {QUEUE_MAX}")]
    Place(u32),
    #[error("the body has over {FRAME_BODY_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it names no command")]
    NoCommand,
    #[error(transparent)]
    Frame(#[from] FrameError),
}

#[derive(Deserialize)]
struct Version {
    v: u8,
}

impl Command {
    /// The rumor, with its id. The same command made at the same time is the same rumor.
    ///
    /// # Errors
    /// [`QueueError::TooLarge`], [`QueueError::Expiration`], [`QueueError::Place`]
    pub fn rumor(
        &self,
        caller: PublicKey,
        node: PublicKey,
        at: Timestamp,
    ) -> Result<UnsignedEvent, QueueError> {
        let Self { queue, seq, request, expires_s } = self;
        if request.body.len() > FRAME_BODY_BYTES_MAX {
            return Err(QueueError::TooLarge);
        }
        check(*seq, at, *expires_s)?;
        let Request { op, verb, offset, count, .. } = *request;
        let ask = Ask { verb, path: request.path.clone(), offset, count };
        let body = STANDARD.encode(&request.body);
        let json = CommandJson { v: 1, op, queue: *queue, seq: *seq, body, ask };
        let content = serde_json::to_string(&json).expect("a command has string keys and integers");
        let tags = vec![Tag::public_key(node), Tag::expiration(Timestamp::from_secs(*expires_s))];
        let mut rumor = UnsignedEvent::new(caller, at, kind::FILES_REQUEST, tags, content);
        rumor.ensure_id();
        Ok(rumor)
    }

    /// Reads a rumor that was opened by `node` and whose author is the caller. Whether it has expired is for whoever
    /// has a clock.
    ///
    /// # Errors
    /// What the rumor lacks.
    pub fn read(rumor: &UnsignedEvent, node: &PublicKey) -> Result<Self, QueueError> {
        if rumor.kind != kind::FILES_REQUEST {
            return Err(QueueError::Kind(rumor.kind.as_u16()));
        }
        if tags::people(&rumor.tags).all(|key| key != *node) {
            return Err(QueueError::Recipient);
        }
        let expires = rumor.tags.expiration().ok_or(QueueError::Expiration)?.as_secs();
        let Version { v } = serde_json::from_str(&rumor.content).map_err(FrameError::from)?;
        if v != 1 {
            return Err(FrameError::Version(v).into());
        }
        let json: CommandJson = serde_json::from_str(&rumor.content).map_err(FrameError::from)?;
        let CommandJson { op, queue, seq, body, ask: Ask { verb, path, offset, count }, .. } = json;
        check(seq, rumor.created_at, expires)?;
        let body = STANDARD.decode(&body).map_err(FrameError::from)?;
        if body.len() > FRAME_BODY_BYTES_MAX {
            return Err(QueueError::TooLarge);
        }
        let request = Request { op, verb, path, offset, count, body };
        Ok(Self { queue, seq, request, expires_s: expires })
    }
}

fn check(seq: u32, at: Timestamp, expires_s: u64) -> Result<(), QueueError> {
    if seq >= QUEUE_MAX {
        return Err(QueueError::Place(seq));
    }
    let latest = at.as_secs().saturating_add(EXPIRES_S_MAX);
    if (at.as_secs()..=latest).contains(&expires_s) { Ok(()) } else { Err(QueueError::Expiration) }
}

/// The contents of the rumors that answer a command, one frame each. One that is too long for letters becomes the
/// error that says so.
pub fn reply_contents(op: OpId, reply: &Reply) -> Vec<String> {
    let mut frames = reply_frames(op, reply);
    if frames.len() > REPLY_FRAMES_MAX {
        let message = "it was done; its answer is too long for letters";
        let error = super::OpError::new(super::Code::TooLarge, message);
        frames = reply_frames(op, &Err(error));
    }
    frames.iter().map(Frame::to_json).collect()
}

/// Reads a rumor that was opened by `caller` and whose author is the node: the command it answers, and a frame.
///
/// # Errors
/// What the rumor lacks.
pub fn read_reply(rumor: &UnsignedEvent, caller: &PublicKey) -> Result<(EventId, Frame), QueueError> {
    if rumor.kind != kind::FILES_REPLY {
        return Err(QueueError::Kind(rumor.kind.as_u16()));
    }
    if tags::people(&rumor.tags).all(|key| key != *caller) {
        return Err(QueueError::Recipient);
    }
    let command = tags::parent(&rumor.tags).ok_or(QueueError::NoCommand)?;
    Ok((command, Frame::parse(&rumor.content)?))
}

#[cfg(test)]
mod tests {
    use nostr::Keys;
    use proptest::prelude::*;

    use super::*;
    use crate::files::{Assembler, Code, Verb};
    use crate::mail::Draft;

    fn command(seq: u32, body: Vec<u8>, expires_s: u64) -> Command {
        let request = Request::new(Hex([3; 16]), Verb::Call, "/agents/alice/ctl", body);
        Command { queue: Hex([4; 16]), seq, request, expires_s }
    }

    fn keys() -> (PublicKey, PublicKey) {
        let key = |secret: &str| Keys::parse(&secret.repeat(32)).unwrap().public_key();
        (key("f6"), key("e5"))
    }

    const AT: Timestamp = Timestamp::from_secs(1_790_000_000);

    proptest! {
        #[test]
        fn commands_survive_their_rumor(
            seq in 0..QUEUE_MAX,
            body in proptest::collection::vec(any::<u8>(), 0..=FRAME_BODY_BYTES_MAX),
            offset in any::<u64>(),
            expires in 0..=EXPIRES_S_MAX,
        ) {
            let (caller, node) = keys();
            let mut command = command(seq, body, AT.as_secs() + expires);
            command.request.offset = offset;
            let rumor = command.rumor(caller, node, AT).unwrap();
            prop_assert_eq!(Command::read(&rumor, &node).unwrap(), command);
            // Sealed and wrapped, it stays under what relays take.
            prop_assert!(crate::mail::to_json(&rumor).len() < 24 * 1024);
        }

        #[test]
        fn reading_never_panics(content in ".{0,200}", of_reply in any::<bool>()) {
            let (caller, node) = keys();
            let kind = if of_reply { kind::FILES_REPLY } else { kind::FILES_REQUEST };
            let tags = vec![Tag::public_key(node), Tag::expiration(AT), Tag::event(EventId::all_zeros())];
            let rumor = UnsignedEvent::new(caller, AT, kind, tags, content);
            let _ = Command::read(&rumor, &node);
            let _ = read_reply(&rumor, &node);
        }
    }

    #[test]
    fn what_is_no_command_is_refused() {
        let (caller, node) = keys();
        let good = command(0, Vec::new(), AT.as_secs() + 60).rumor(caller, node, AT).unwrap();
        assert!(matches!(Command::read(&good, &caller), Err(QueueError::Recipient)));
        let other = UnsignedEvent { kind: kind::CHAT, ..good.clone() };
        assert!(matches!(Command::read(&other, &node), Err(QueueError::Kind(14))));
        let late = UnsignedEvent { created_at: AT + 61, ..good.clone() };
        assert!(matches!(Command::read(&late, &node), Err(QueueError::Expiration)));
        let long = command(0, Vec::new(), AT.as_secs() + EXPIRES_S_MAX + 1).rumor(caller, node, AT);
        assert!(matches!(long, Err(QueueError::Expiration)));
        let large = command(0, vec![0; FRAME_BODY_BYTES_MAX + 1], AT.as_secs()).rumor(caller, node, AT);
        assert!(matches!(large, Err(QueueError::TooLarge)));
        let place = command(QUEUE_MAX, Vec::new(), AT.as_secs()).rumor(caller, node, AT);
        assert!(matches!(place, Err(QueueError::Place(QUEUE_MAX))));
    }

    #[test]
    fn replies_come_back_in_letters() {
        let (caller, node) = keys();
        let rumor = command(0, Vec::new(), AT.as_secs()).rumor(caller, node, AT).unwrap();
        let (id, op) = (rumor.id.unwrap(), Hex([3; 16]));
        let reply: Reply = Ok(vec![7; FRAME_BODY_BYTES_MAX + 1]);
        let mut assembler = Assembler::default();
        let mut whole = None;
        for content in reply_contents(op, &reply) {
            let kind = kind::FILES_REPLY.as_u16();
            let draft = Draft { kind, content, reply_to: Some(id), ..Draft::text(caller, "", 0) };
            let (command, frame) = read_reply(&draft.rumor(node), &caller).unwrap();
            assert_eq!((command, frame.op), (id, op));
            whole = assembler.push(frame).unwrap();
        }
        assert_eq!(whole.unwrap().into_reply(), reply);
        let huge = reply_contents(op, &Ok(vec![0; FRAME_BODY_BYTES_MAX * REPLY_FRAMES_MAX + 1]));
        let frame = Frame::parse(&huge[0]).unwrap();
        assert_eq!((huge.len(), frame.error.unwrap().code), (1, Code::TooLarge));
    }
}
