//! Commands for a node that is offline: they wait on the relay, and their answers come back as mail.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use oa_nips::files::queued::{self, Command, EXPIRES_S_MAX, QueueId};
use oa_nips::files::{Assembler, Reply, Request, Verb};
use oa_nips::hex::Hex;
use oa_nips::mail;
use oa_nips::nostr::nips::nip44;
use oa_nips::nostr::{Event, EventId, JsonUtil as _, Keys, PublicKey, Timestamp};
use oa_nips::port::{Ack, Publish as _, Signer, SignerError};
use oa_node::codes;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, timeout_at};

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

/// Commands that the relay has, in their order.
#[derive(Debug)]
pub(crate) struct Queued {
    /// The queue.
    pub(crate) id: QueueId,
    commands: Vec<EventId>,
    mail: broadcast::Receiver<Arc<Event>>,
}

impl Client {
    /// Leaves commands for the node, which does them in this order; answers once the relay has them all.
    ///
    /// # Errors
    /// When one is too long, or the relay does not take one: those before it may be done.
    pub(crate) async fn queue(&self, orders: Vec<Order>) -> Result<Queued> {
        let Inner { signer, pool, remembered, routes, .. } = &*self.inner;
        let (mail, id) = (routes.mail(), Hex(codes::random().first_chunk().copied().unwrap_or_default()));
        let (me, node, now_s) = (signer.public_key(), self.node(), self.inner.now_s());
        let mut commands = Vec::new();
        for (Order { verb, path, body }, seq) in orders.into_iter().zip(0..) {
            let request = Request::new(fresh(), verb, path, body);
            let command = Command { queue: id, seq, request, expires_s: now_s + EXPIRES_S_MAX };
            let rumor = command
                .rumor(me, node, Timestamp::from_secs(now_s))
                .map_err(|error| Error::new(Kind::Usage, format!("it cannot be queued: {error}")))?;
            let wrap = wrapped(&mail::to_json(&rumor), &node, &**signer, now_s).await.map_err(failed)?;
            match pool.publish(&remembered.relay, &wrap, DEADLINE).await {
                Ack::Accepted => commands.extend(rumor.id),
                Ack::Refused(reason) => {
                    let message = format!("{} refused command {seq}: {reason}", remembered.relay);
                    return Err(Error::new(Kind::Denied, message));
                }
                Ack::Unreached(reason) => {
                    let message = format!("{} did not take command {seq}: {reason}", remembered.relay);
                    return Err(Error::new(Kind::TimedOut, message)
                        .hint("it may have been taken all the same, and be done"));
                }
            }
        }
        Ok(Queued { id, commands, mail })
    }

    /// Waits for the answers to all commands of a queue.
    ///
    /// # Errors
    /// [`Kind::TimedOut`]; the commands still wait for the node.
    pub(crate) async fn replies(&self, queued: &mut Queued, wait: Duration) -> Result<Vec<Reply>> {
        let deadline = Instant::now() + wait;
        let mut open: HashMap<EventId, Assembler> = HashMap::new();
        let mut done: HashMap<EventId, Reply> = HashMap::new();
        while done.len() < queued.commands.len() {
            let event = match timeout_at(deadline, queued.mail.recv()).await {
                Ok(Ok(event)) => event,
                Ok(Err(RecvError::Lagged(count))) => {
                    tracing::warn!(count, "mail came faster than it was read");
                    continue;
                }
                Ok(Err(RecvError::Closed)) | Err(_) => {
                    let count = queued.commands.len() - done.len();
                    let message =
                        format!("{count} of {} commands are not answered yet", queued.commands.len());
                    return Err(Error::new(Kind::TimedOut, message).hint(
                        "they wait on the relay for seven days and are done when the node comes back",
                    ));
                }
            };
            let Some((command, frame)) = self.open_reply(&event).await else { continue };
            if !queued.commands.contains(&command) || done.contains_key(&command) {
                continue;
            }
            if let Ok(Some(message)) = open.entry(command).or_default().push(frame) {
                done.insert(command, message.into_reply());
            }
        }
        Ok(queued.commands.iter().filter_map(|command| done.remove(command)).collect())
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
