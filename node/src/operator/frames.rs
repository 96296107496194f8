//! Requests being put together from their frames.
//!
//! All of them together hold a bounded number of bytes. The room that a long request takes goes with it, until it
//! is answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oa_nips::files::{Assembler, Code, FRAME_BODY_BYTES_MAX, Frame, FrameError, OpError, OpId, Request};
use oa_nips::nostr::PublicKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Bytes of all requests of several frames. 64 MiB: four of the longest.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of those of one caller: two of the longest, so that nobody can keep the others out.
const CALLER_BYTES_MAX: usize = BYTES_MAX / 2;
/// How many there may be, however short.
const REQUESTS_MAX: usize = 256;
/// Of one caller.
const CALLER_REQUESTS_MAX: usize = REQUESTS_MAX / 4;
/// A request none of whose frames came for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// All that are not whole yet.
#[derive(Debug)]
pub(super) struct Assemblies {
    room: Arc<Semaphore>,
    open: Mutex<HashMap<(PublicKey, OpId), Open>>,
}

#[derive(Debug)]
struct Open {
    heard: Instant,
    assembler: Assembler,
    room: Option<OwnedSemaphorePermit>,
}

/// A whole request, and the room it takes.
#[derive(Debug)]
pub(super) struct Assembled {
    pub(super) request: Request,
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl Default for Assemblies {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(BYTES_MAX)), open: Mutex::default() }
    }
}

impl Assemblies {
    /// Takes a frame; answers the request once it is whole.
    ///
    /// # Errors
    /// [`Code::InvalidInput`], after which the request is given up; [`Code::RateLimited`] when there is no room.
    pub(super) fn push(
        &self,
        caller: PublicKey,
        frame: Frame,
        now: Instant,
    ) -> Result<Option<Assembled>, OpError> {
        let op = frame.op;
        if frame.seq == 0 && frame.last {
            let message = Assembler::default().push(frame).map_err(invalid)?;
            let request = message.map(|message| message.into_request(op).map_err(invalid)).transpose()?;
            return Ok(request.map(|request| Assembled { request, room: None }));
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, open| now.duration_since(open.heard) < SILENCE_MAX);
        let room = self.room(&open, &caller, &frame)?;
        let mut entry = open.remove(&(caller, op)).unwrap_or_else(|| Open {
            heard: now,
            assembler: Assembler::default(),
            room: None,
        });
        let before = entry.assembler.bytes();
        match entry.assembler.push(frame).map_err(invalid)? {
            Some(message) => {
                let request = message.into_request(op).map_err(invalid)?;
                Ok(Some(Assembled { request, room: merged(entry.room, room) }))
            }
            None => {
                if entry.assembler.bytes() > before {
                    entry.room = merged(entry.room, room);
                }
                entry.heard = now;
                open.insert((caller, op), entry);
                Ok(None)
            }
        }
    }

    fn room(
        &self,
        open: &HashMap<(PublicKey, OpId), Open>,
        caller: &PublicKey,
        frame: &Frame,
    ) -> Result<Option<OwnedSemaphorePermit>, OpError> {
        let busy = || OpError::new(Code::RateLimited, "too many long requests at once");
        if open.len() >= REQUESTS_MAX && !open.contains_key(&(*caller, frame.op)) {
            return Err(busy());
        }
        let bytes = (frame.body.len() / 4 * 3).min(FRAME_BODY_BYTES_MAX);
        let of_caller = || open.iter().filter(|((whose, _), _)| whose == caller);
        let held: usize = of_caller().map(|(_, open)| open.assembler.bytes()).sum();
        let is_new = !open.contains_key(&(*caller, frame.op));
        if held + bytes > CALLER_BYTES_MAX || (is_new && of_caller().count() >= CALLER_REQUESTS_MAX) {
            return Err(busy());
        }
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.room.clone().try_acquire_many_owned(permits).map(Some).map_err(|_| busy())
    }
}

fn merged(
    all: Option<OwnedSemaphorePermit>,
    more: Option<OwnedSemaphorePermit>,
) -> Option<OwnedSemaphorePermit> {
    match (all, more) {
        (Some(mut all), Some(more)) => {
            all.merge(more);
            Some(all)
        }
        (all, more) => all.or(more),
    }
}

pub(super) fn invalid(error: FrameError) -> OpError {
    OpError::new(Code::InvalidInput, error.to_string())
}

#[cfg(test)]
mod tests {
    use oa_nips::files::{MESSAGE_BYTES_MAX, Verb};
    use oa_nips::hex::Hex;
    use oa_nips::nostr::Keys;

    use super::*;

    fn frames(op: u8, bytes: usize) -> Vec<Frame> {
        Request::new(Hex([op; 16]), Verb::Call, "/x", vec![op; bytes]).frames()
    }

    fn push_all(assemblies: &Assemblies, caller: PublicKey, frames: Vec<Frame>) -> Option<Assembled> {
        let now = Instant::now();
        frames.into_iter().fold(None, |whole, frame| assemblies.push(caller, frame, now).unwrap().or(whole))
    }

    #[test]
    fn room_is_taken_while_a_request_lives_and_given_back() {
        let (assemblies, caller) = (Assemblies::default(), Keys::generate().public_key());
        let request = push_all(&assemblies, caller, frames(1, 100_000)).unwrap();
        assert_eq!(request.request.body.len(), 100_000);
        let taken = BYTES_MAX - assemblies.room.available_permits();
        assert!((100_000..100_010).contains(&taken), "{taken}");
        drop(request);
        assert_eq!(assemblies.room.available_permits(), BYTES_MAX);
        // What contradicts itself is given up, with its room.
        let now = Instant::now();
        assemblies.push(caller, frames(2, 50_000).remove(0), now).unwrap();
        assemblies.push(caller, frames(2, 50_000).remove(0), now).unwrap();
        assert_eq!(
            BYTES_MAX - assemblies.room.available_permits(),
            FRAME_BODY_BYTES_MAX,
            "a repeat takes none"
        );
        let early = Frame { last: true, ..frames(2, 50_000).remove(1) };
        let beyond = Frame { seq: 4, ..frames(2, 50_000).remove(1) };
        assert!(assemblies.push(caller, frames(2, 50_000).remove(2), now).unwrap().is_none());
        assert_eq!(assemblies.push(caller, early, now).unwrap_err().code, Code::InvalidInput);
        assert_eq!(assemblies.room.available_permits(), BYTES_MAX);
        assemblies.push(caller, frames(2, 50_000).remove(3), now).unwrap();
        assert_eq!(assemblies.push(caller, beyond, now).unwrap_err().code, Code::InvalidInput);
        assert_eq!(assemblies.room.available_permits(), BYTES_MAX);
    }

    #[test]
    fn one_caller_cannot_begin_all_the_requests() {
        let assemblies = Assemblies::default();
        let (greedy, other) = (Keys::generate().public_key(), Keys::generate().public_key());
        let begin = |caller, op: u8| assemblies.push(caller, frames(op, 50_000).remove(0), Instant::now());
        let refused = (0..=u8::MAX).filter(|op| begin(greedy, *op).is_err()).count();
        assert_eq!(refused, REQUESTS_MAX - CALLER_REQUESTS_MAX);
        assert!(begin(other, 1).is_ok());
        let more = assemblies.push(greedy, frames(1, 50_000).remove(1), Instant::now());
        assert!(more.unwrap().is_none(), "what was begun goes on");
    }

    #[test]
    fn one_caller_cannot_take_all_the_room() {
        let assemblies = Assemblies::default();
        let (greedy, other) = (Keys::generate().public_key(), Keys::generate().public_key());
        let now = Instant::now();
        let mut refused = None;
        for op in 0..3 {
            for frame in frames(op, MESSAGE_BYTES_MAX).into_iter().skip(1) {
                refused = refused.or(assemblies.push(greedy, frame, now).err());
            }
        }
        assert_eq!(refused.unwrap().code, Code::RateLimited);
        assert!(push_all(&assemblies, other, frames(9, MESSAGE_BYTES_MAX)).is_some());
        // And what never became whole is let go in time.
        let later = now + SILENCE_MAX;
        assert!(assemblies.push(greedy, frames(8, 50_000).remove(0), later).unwrap().is_none());
        assert_eq!(assemblies.open.lock().unwrap().len(), 1);
    }
}
