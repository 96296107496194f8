//! One request: its frames are sent, many at once, and sent again under the same `op` until it is answered or the
//! caller's patience ends. What is said then is the truth: whether it may have happened.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use oa_nips::files::{Assembler, Code, Frame, FrameError, Message, OpError, Reply, Request, Verb};
use oa_nips::port::Ack;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::router::{Heard, Route};
use super::{Client, Inner};
use crate::error::{Error, Kind, Result};

/// How long nothing may come of a request that reads.
const READ_PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing may come of one that changes something: a call is answered within 10 s.
const CHANGE_PATIENCE: Duration = Duration::from_secs(15);
/// After what silence a request is sent again; of several frames, so much later for each.
const AGAIN: Duration = Duration::from_secs(2);
const AGAIN_PER_FRAME: Duration = Duration::from_millis(10);
/// A node that is asked too much is asked again after this.
const RATE_LIMITED: Duration = Duration::from_millis(500);
/// Frames on their way at once, as the node's.
const PIPELINE: usize = 16;

impl Client {
    /// Sends a request and waits for the answer.
    ///
    /// # Errors
    /// The node's error, or [`Kind::TimedOut`], which says whether it may have happened.
    pub(crate) async fn request(&self, request: &Request) -> Result<Vec<u8>> {
        self.call(request).await.map_err(Error::from)
    }

    /// As [`Client::request`], for who needs the node's own words.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) async fn call(&self, request: &Request) -> std::result::Result<Vec<u8>, CallError> {
        let patience = if request.verb.is_mutating() { CHANGE_PATIENCE } else { READ_PATIENCE };
        let call = Call {
            inner: &self.inner,
            request,
            frames: request.frames().iter().map(Frame::to_json).collect(),
            route: self.inner.routes.open(request.op),
            assembler: Assembler::default(),
            taken: BTreeSet::new(),
            left: BTreeSet::new(),
            patience,
            deadline: Instant::now() + patience,
        };
        call.run().await
    }
}

/// Why a request brought nothing.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The node says so: nothing happened.
    Refused(OpError),
    /// Nothing happened, because nothing was sent, or nobody answered what only reads.
    Unanswered(Error),
    /// It may have happened.
    Unknown(Error),
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(error) => error.into(),
            CallError::Unanswered(error) | CallError::Unknown(error) => error,
        }
    }
}

impl From<CallError> for OpError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(error) => error,
            CallError::Unanswered(error) => Self::new(Code::Unavailable, error.message),
            CallError::Unknown(error) => Self::new(Code::OutcomeUnknown, error.message),
        }
    }
}

type Called<T> = std::result::Result<T, CallError>;

struct Call<'a> {
    inner: &'a Inner,
    request: &'a Request,
    frames: Vec<String>,
    route: Route,
    assembler: Assembler,
    /// Frames that the relay took since the request was last begun.
    taken: BTreeSet<usize>,
    /// Frames that may have left this machine, ever.
    left: BTreeSet<usize>,
    patience: Duration,
    /// When nothing more is expected; whatever comes or is taken puts it off.
    deadline: Instant,
}

impl Call<'_> {
    async fn run(mut self) -> Called<Vec<u8>> {
        loop {
            self.send().await?;
            let again = AGAIN + AGAIN_PER_FRAME * u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
            let Some((reply, node_s)) = self.listen(again).await else {
                if Instant::now() >= self.deadline {
                    return Err(self.unanswered());
                }
                continue;
            };
            match reply {
                Ok(body) => return Ok(body),
                Err(error) if error.code == Code::Stale && self.inner.follow_clock(node_s) => {
                    self.taken.clear();
                }
                Err(error) if error.code == Code::RateLimited && Instant::now() < self.deadline => {
                    sleep_until(self.deadline.min(Instant::now() + RATE_LIMITED)).await;
                    self.taken.clear();
                }
                Err(error) if error.code == Code::OutcomeUnknown => return Err(self.unknown(&error)),
                Err(error) => return Err(CallError::Refused(error)),
            }
        }
    }

    /// Sends the frames that the relay has not taken; all of them again once it has them all.
    async fn send(&mut self) -> Called<()> {
        if self.taken.len() == self.frames.len() {
            self.taken.clear();
        }
        let missing: Vec<usize> = (0..self.frames.len()).filter(|n| !self.taken.contains(n)).collect();
        let (inner, frames) = (self.inner, &self.frames);
        let say = |n: usize| async move {
            (n, inner.say(frames.get(n).map(String::as_str).unwrap_or_default()).await)
        };
        let mut sends = futures_util::stream::iter(missing.clone()).map(say).buffer_unordered(PIPELINE);
        let is_first = self.left.is_empty();
        let mut answered = 0;
        while let Some((n, ack)) = sends.next().await {
            answered += 1;
            match ack.map_err(CallError::Unanswered)? {
                Ack::Accepted => {
                    self.taken.insert(n);
                    // A frame that is sent again gets nothing further: without a node it would go on for ever.
                    let is_further = self.left.insert(n);
                    if is_further && self.frames.len() > 1 {
                        self.deadline = Instant::now() + self.patience;
                    }
                }
                Ack::Refused(reason) if is_first => {
                    let message = format!("{} refused the request: {reason}", inner.remembered.relay);
                    return Err(CallError::Unanswered(Error::new(Kind::Denied, message)));
                }
                // What is not answered may have been taken all the same.
                Ack::Refused(reason) | Ack::Unreached(reason) => {
                    // So may those that were under way beside it.
                    self.left.extend(missing.iter().take(answered + PIPELINE));
                    self.left.insert(n);
                    tracing::debug!(reason, "request not taken, sent again");
                    break;
                }
            }
        }
        Ok(())
    }

    /// Listens until the reply is whole or silence has lasted; also answers the node's time.
    async fn listen(&mut self, silence: Duration) -> Option<(Reply, u64)> {
        let mut until = self.deadline.min(Instant::now() + silence);
        while let Ok(Some(heard)) = timeout_at(until, self.route.next()).await {
            let Heard::Reply(frame, node_s) = heard else { continue };
            let before = self.assembler.bytes();
            if let Some(message) = self.push(frame) {
                return Some((message.into_reply(), node_s));
            }
            if self.assembler.bytes() > before {
                self.deadline = Instant::now() + self.patience;
                until = Instant::now() + silence;
            }
        }
        None
    }

    fn push(&mut self, frame: Frame) -> Option<Message> {
        match self.assembler.push(frame.clone()) {
            Ok(whole) => whole,
            // What is read may have changed between two sendings: then the later answer counts.
            Err(FrameError::Conflict(_) | FrameError::BeyondLast(_)) => {
                self.assembler = Assembler::default();
                self.assembler.push(frame).ok().flatten()
            }
            Err(error) => {
                tracing::debug!(%error, "reply frame ignored");
                None
            }
        }
    }

    fn unanswered(&self) -> CallError {
        let Request { verb, path, .. } = self.request;
        let silent = format!("no answer to {} {path} within {} s", word(*verb), self.patience.as_secs());
        if !verb.is_mutating() {
            return CallError::Unanswered(self.inner.silence(silent));
        }
        if self.left.len() < self.frames.len() {
            let message = format!("{silent}: it was not sent whole, so it did not happen");
            return CallError::Unanswered(self.inner.silence(message));
        }
        self.may_have_happened(&silent)
    }

    fn unknown(&self, error: &OpError) -> CallError {
        self.may_have_happened(&error.message)
    }

    fn may_have_happened(&self, what: &str) -> CallError {
        let op = self.request.op;
        let mut error =
            self.inner.silence(format!("{what}: outcome unknown, it may have happened (operation {op})"));
        let look = format!("look at {} before you send it again", self.request.path);
        error.hint = Some(error.hint.map_or_else(|| look.clone(), |hint| format!("{look}; {hint}")));
        CallError::Unknown(error)
    }
}

fn word(verb: Verb) -> String {
    format!("{verb:?}").to_lowercase()
}
