//! Commands for a node that is offline: they wait on the relay, and their answers come back as mail.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oa_nips::files::queued::{self, Command, EXPIRES_S_MAX, QueueId};
use oa_nips::files::{Assembler, Reply, Request, Verb};
use oa_nips::mail;
use oa_nips::nostr::nips::nip44;
use oa_nips::nostr::{Event, EventId, JsonUtil as _, Keys, PublicKey, Timestamp};
use oa_nips::port::{Ack, Publish as _, Signer, SignerError};
use oa_node::codes;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, timeout_at};

use super::line::{Choice, Line};
use super::{Client, Inner, failed, fresh};
use crate::error::{Error, Kind, Result};

/// How long the relay may take to accept one command.
const DEADLINE: Duration = Duration::from_secs(10);

/// A command to be queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) verb: Verb,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

/// A command that the relay has.
#[derive(Debug)]
pub(crate) struct Queued {
    /// The queue.
    pub(crate) id: QueueId,
    /// Its place there.
    pub(crate) seq: u32,
    /// Whether a command of an earlier invocation was sent before it, of which nobody knew whether the relay had it.
    pub(crate) was_interrupted: bool,
    command: EventId,
    mail: broadcast::Receiver<Arc<Event>>,
}

impl Client {
    /// Leaves a command for the node, which does it after those before it in its queue; answers once the relay has it.
    ///
    /// # Errors
    /// When it is too long, or the relay does not take it.
    pub(crate) async fn queue(&self, home: &Path, choice: Choice, order: Order) -> Result<Queued> {
        let Inner { signer, routes, .. } = &*self.inner;
        let (me, node, now_s) = (signer.public_key(), self.node(), self.inner.now_s());
        let mail = routes.mail();
        let mut line = Line::open(home, choice, me, node, now_s).await?;
        let was_interrupted = self.send_unsent(&mut line).await?;
        let (id, seq) = line.place();
        let Order { verb, path, body } = order;
        let request = Request::new(fresh(), verb, path, body);
        let command = Command { queue: id, seq, request, expires_s: now_s + EXPIRES_S_MAX };
        let unqueued = |reason: &dyn std::fmt::Display| {
            Error::new(Kind::Usage, format!("it cannot be queued: {reason}"))
        };
        let rumor = command.rumor(me, node, Timestamp::from_secs(now_s)).map_err(|error| unqueued(&error))?;
        let command = rumor.id.ok_or_else(|| unqueued(&"it has no id"))?;
        let wrap = wrapped(&mail::to_json(&rumor), &node, &**signer, now_s).await.map_err(failed)?;
        line.take(&wrap, now_s)?;
        let relay = &self.inner.remembered.relay;
        match self.leave(&wrap).await {
            Ack::Accepted => line.sent()?,
            Ack::Refused(reason) => {
                line.refused()?;
                return Err(Error::new(Kind::Denied, format!("{relay} refused the command: {reason}")));
            }
            Ack::Unreached(reason) => {
                let message = format!("{relay} did not take the command: {reason}");
                return Err(Error::new(Kind::TimedOut, message).hint(
                    "it may have been taken all the same; with the next --queue it is sent again, with --queue=new it is not",
                ));
            }
        }
        Ok(Queued { id, seq, was_interrupted, command, mail })
    }

    /// Sends what an earlier invocation could not be sure of; answers whether there was something.
    async fn send_unsent(&self, line: &mut Line) -> Result<bool> {
        let Some(wrap) = line.unsent().cloned() else { return Ok(false) };
        match self.leave(&wrap).await {
            Ack::Accepted => line.sent().map(|()| true),
            // Whether it was taken the first time stays unknown, so its place can neither be used nor waited for.
            Ack::Refused(reason) => {
                tracing::warn!(reason, "an earlier command is refused now; a new queue begins");
                line.renew(self.inner.now_s());
                Ok(false)
            }
            Ack::Unreached(reason) => {
                let message =
                    format!("{} did not take an earlier command: {reason}", self.inner.remembered.relay);
                Err(Error::new(Kind::TimedOut, message).hint(
                    "this one was not sent; it is to be done after that one, but with --queue=new it waits for nothing",
                ))
            }
        }
    }

    async fn leave(&self, wrap: &Event) -> Ack {
        self.inner.pool.publish(&self.inner.remembered.relay, wrap, DEADLINE).await
    }

    /// Waits for the answer to a command.
    ///
    /// # Errors
    /// [`Kind::TimedOut`]; the command still waits for the node.
    pub(crate) async fn reply(&self, mut queued: Queued, wait: Duration) -> Result<Reply> {
        let deadline = Instant::now() + wait;
        let mut frames = Assembler::default();
        loop {
            let event = match timeout_at(deadline, queued.mail.recv()).await {
                Ok(Ok(event)) => event,
                Ok(Err(RecvError::Lagged(count))) => {
                    tracing::warn!(count, "mail came faster than it was read");
                    continue;
                }
                Ok(Err(RecvError::Closed)) | Err(_) => {
                    return Err(Error::new(Kind::TimedOut, "the command is not answered yet").hint(
                        "it waits on the relay for seven days and is done when the node comes back, after those before it",
                    ));
                }
            };
            let Some((command, frame)) = self.open_reply(&event).await else { continue };
            if command != queued.command {
                continue;
            }
            if let Ok(Some(message)) = frames.push(frame) {
                return Ok(message.into_reply());
            }
        }
    }

    async fn open_reply(&self, event: &Event) -> Option<(EventId, oa_nips::files::Frame)> {
        let signer = &self.inner.signer;
        event.verify().ok()?;
        mail::check_outer(event).ok()?;
        let seal = mail::open_seal(&signer.nip44_decrypt(&event.pubkey, &event.content).await.ok()?).ok()?;
        if seal.author != self.node() {
            return None;
        }
        let rumor = signer.nip44_decrypt(&seal.author, &seal.ciphertext).await.ok()?;
        let rumor = mail::rumor_of(&seal.author, &rumor).ok()?;
        queued::read_reply(&rumor, &signer.public_key()).ok()
    }
}

/// A rumor, sealed and gift-wrapped (NIP-59).
async fn wrapped(
    rumor: &str,
    to: &PublicKey,
    signer: &dyn Signer,
    now_s: u64,
) -> std::result::Result<Event, SignerError> {
    let refused = |error: &dyn std::fmt::Display| SignerError::Refused(format!("wrap: {error}"));
    let (one_time, now) = (Keys::generate(), Timestamp::from_secs(now_s));
    let entropy = || codes::random().first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    let seal = mail::seal(
        signer.public_key(),
        signer.nip44_encrypt(to, rumor).await?,
        mail::backdate(now, entropy()),
    );
    let seal = signer.sign(seal).await?.as_json();
    let content =
        nip44::encrypt(one_time.secret_key(), to, seal, nip44::Version::V2).map_err(|e| refused(&e))?;
    mail::wrap(one_time.public_key(), *to, content, mail::backdate(now, entropy()))
        .sign_with_keys(&one_time)
        .map_err(|error| refused(&error))
}
