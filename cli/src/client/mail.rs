//! Direct messages, and the answers to them.

use std::sync::Arc;
use std::time::Duration;

use oa_nips::mail::{self, Draft, Mail, Protocol};
use oa_nips::nostr::{Event, EventId, PublicKey};
use oa_nips::port::{Ack, Publish as _};
use oa_node::outbox;
use oa_node::store::row::Outgoing;
use oa_node::time::{System, Time as _};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, timeout_at};

use super::{Client, Inner, failed};
use crate::error::{Error, Kind, Result};

/// How long relays may take to accept a message.
const DEADLINE: Duration = Duration::from_secs(10);
/// Silence after which a person is told what can be wrong.
const SILENCE: Duration = Duration::from_secs(5);

/// A message that was sent, and an ear for what comes since.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Its id.
    pub(crate) id: EventId,
    to: PublicKey,
    mail: broadcast::Receiver<Arc<Event>>,
}

impl Client {
    /// Sends a direct message; answers once the relay has it.
    ///
    /// # Errors
    /// When it cannot be signed, or the relay does not take it.
    pub(crate) async fn dm(&self, to: PublicKey, text: &str, protocol: Protocol) -> Result<Sent> {
        let Inner { signer, pool, remembered, routes, .. } = &*self.inner;
        let mail = routes.mail();
        let draft = Draft::text(to, text, System.now_ms());
        let rumor = draft.rumor(signer.public_key()).id;
        let outgoing = Outgoing::Mail { draft, protocol, relay: None };
        let parcels = outbox::sign(&outgoing, &**signer, System.now_ms() / 1000).await.map_err(failed)?;
        let sends = parcels.iter().map(|p| pool.publish(&remembered.relay, &p.event, DEADLINE));
        let acks = futures_util::future::join_all(sends).await;
        let first = parcels.first().map(|parcel| parcel.event.id);
        match acks.into_iter().next() {
            Some(Ack::Accepted) => {
                let id = if protocol == Protocol::Nip17 { rumor } else { first };
                let id = id.ok_or_else(|| Error::new(Kind::Failed, "the message has no id"))?;
                Ok(Sent { id, to, mail })
            }
            Some(Ack::Refused(reason)) => {
                let message = format!("{} refused the message: {reason}", remembered.relay);
                Err(Error::new(Kind::Denied, message))
            }
            _ => Err(self.inner.silence(format!("{} did not take the message", remembered.relay))),
        }
    }

    /// Waits for the answer to a message.
    ///
    /// # Errors
    /// [`Kind::TimedOut`]
    pub(crate) async fn answer(
        &self,
        sent: &mut Sent,
        wait: Duration,
        worried: impl FnOnce(&str),
    ) -> Result<Mail> {
        let started = Instant::now();
        let deadline = started + wait;
        let mut worried = (wait > SILENCE).then_some(worried);
        loop {
            let until = if worried.is_some() { started + SILENCE } else { deadline };
            match timeout_at(until, sent.mail.recv()).await {
                Ok(Ok(event)) => {
                    if let Some(mail) = self.open(&event).await
                        && mail.author == sent.to
                        && mail.reply_to == Some(sent.id)
                    {
                        return Ok(mail);
                    }
                }
                Ok(Err(RecvError::Lagged(count))) => {
                    tracing::warn!(count, "mail came faster than it was read")
                }
                Err(_) if let Some(worried) = worried.take() => {
                    worried("no answer yet: the node may be offline, or the agent may not talk to strangers");
                }
                Ok(Err(RecvError::Closed)) | Err(_) => {
                    return Err(self.inner.silence(format!("no answer within {} s", wait.as_secs_f32())));
                }
            }
        }
    }

    async fn open(&self, event: &Event) -> Option<Mail> {
        event.verify().ok()?;
        mail::unwrap(event, &*self.inner.signer).await.ok()
    }
}
