//! The client's actor: holds the requests that wait, sends them again, and matches what the relays bring.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use oa_nips::kind;
use oa_nips::nostr::{Event, PublicKey, RelayUrl};
use oa_nips::nwc::{self, Encryption};
use oa_nips::port::Publish;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::exchange::Exchanges;
use super::{Config, Ports, millis};
use crate::backend::PaymentHash;
use crate::nwc::message::{Notification, Response, Topic};
use crate::nwc::seal;

/// Notifications that are remembered, so that one which comes by two relays, or in both encryptions, is told once.
const TOLD_MAX: usize = 512;
/// Sendings to relays at once. A sending that does not fit is made by the next round.
const SENDING_MAX: usize = 256;
/// How long the actor sleeps when nothing waits.
const IDLE: Duration = Duration::from_secs(60);

/// A request to be sent and waited for.
pub(super) struct Ask {
    pub(super) event: Event,
    pub(super) method: String,
    /// Until when it is sent again, in milliseconds since 1970.
    pub(super) resend_until_ms: u64,
    /// Until when its answer counts.
    pub(super) until_ms: u64,
    pub(super) reply: oneshot::Sender<Response>,
}

pub(super) struct Actor {
    config: Config,
    ports: Ports,
    client: PublicKey,
    exchanges: Exchanges<oneshot::Sender<Response>>,
    asks: mpsc::Receiver<Ask>,
    events: mpsc::Receiver<Event>,
    notifications: broadcast::Sender<Notification>,
    told: VecDeque<(Topic, PaymentHash)>,
    sending: JoinSet<()>,
    cancel: CancellationToken,
}

impl Actor {
    pub(super) fn new(
        config: Config,
        ports: Ports,
        asks: mpsc::Receiver<Ask>,
        events: mpsc::Receiver<Event>,
        notifications: broadcast::Sender<Notification>,
        cancel: CancellationToken,
    ) -> Self {
        let client = ports.signer.public_key();
        let exchanges = Exchanges::new(client, config.wallet, millis(config.resend_after));
        let (told, sending) = (VecDeque::new(), JoinSet::new());
        Self { config, ports, client, exchanges, asks, events, notifications, told, sending, cancel }
    }

    pub(super) async fn run(mut self) {
        loop {
            let now_ms = (self.ports.clock)();
            for event in self.exchanges.due(now_ms, |reply| !reply.is_closed()) {
                self.send(event);
            }
            let wait = self.exchanges.next_at_ms().map(|at| Duration::from_millis(at.saturating_sub(now_ms)));
            let wake = Instant::now() + wait.unwrap_or(IDLE).min(IDLE);
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                Some(ask) = self.asks.recv() => self.ask(ask),
                Some(event) = self.events.recv() => self.hear(event).await,
                Some(sent) = self.sending.join_next() => {
                    if let Err(error) = sent {
                        tracing::error!(%error, "a request was not sent");
                    }
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    fn ask(&mut self, ask: Ask) {
        let now_ms = (self.ports.clock)();
        self.send(ask.event.clone());
        let until = (ask.resend_until_ms, ask.until_ms);
        self.exchanges.begin(ask.event, ask.method, ask.reply, now_ms, until);
    }

    /// To all relays at once. What they say matters little: only an answer says that the wallet has it.
    fn send(&mut self, event: Event) {
        if self.sending.len() >= SENDING_MAX {
            tracing::warn!(request = %event.id, "relays are slow: a request is sent later");
            return;
        }
        let (publish, relays) = (self.ports.publish.clone(), self.config.relays.clone());
        let deadline = self.config.publish_deadline;
        self.sending.spawn(async move { to_all(&publish, &relays, &event, deadline).await });
    }

    async fn hear(&mut self, event: Event) {
        if event.pubkey != self.config.wallet {
            return;
        }
        if event.kind == kind::WALLET_RESPONSE {
            self.hear_answer(&event).await;
        } else {
            self.hear_notification(&event).await;
        }
    }

    /// Late, repeated, forged and unreadable answers are passed over: the request goes on waiting.
    async fn hear_answer(&mut self, event: &Event) {
        let Some(exchange) = self.exchanges.answered_by(event) else { return };
        if event.verify().is_err() {
            tracing::debug!("an answer with a wrong id or signature");
            return;
        }
        // By its form, not by the request's: a wallet that does not understand that one answers in its own.
        let encryption = if event.content.contains("?iv=") { Encryption::Nip04 } else { Encryption::Nip44 };
        let id = exchange.id();
        let text = seal::decrypt(&*self.ports.signer, &self.config.wallet, encryption, &event.content).await;
        let response = text.ok().and_then(|text| Response::parse(&text).ok());
        let is_of = |response: &Response| {
            response.result_type.as_ref().is_none_or(|method| *method == exchange.method)
        };
        let Some(response) = response.filter(is_of) else {
            tracing::warn!(request = %id, "the wallet's answer cannot be read");
            return;
        };
        if let Some(exchange) = self.exchanges.end(&id) {
            // Whoever asked may have given up.
            let _ = exchange.reply.send(response);
        }
    }

    async fn hear_notification(&mut self, event: &Event) {
        let Ok(outside) = nwc::Notification::read(event) else { return };
        if outside.client != self.client || event.verify().is_err() {
            return;
        }
        let signer = &*self.ports.signer;
        let text = seal::decrypt(signer, &self.config.wallet, outside.encryption, &event.content).await;
        let Some(told) = text.ok().and_then(|text| Notification::parse(&text).ok()) else { return };
        let key = (told.topic, told.transaction.payment_hash);
        if self.told.contains(&key) {
            return;
        }
        self.told.push_back(key);
        if self.told.len() > TOLD_MAX {
            self.told.pop_front();
        }
        // Nobody need listen.
        let _ = self.notifications.send(told);
    }
}

async fn to_all(publish: &Arc<dyn Publish>, relays: &[RelayUrl], event: &Event, deadline: Duration) {
    let each = relays.iter().map(|relay| async move {
        let ack = publish.publish(relay, event, deadline).await;
        tracing::debug!(%relay, request = %event.id, ?ack, "a request was sent");
    });
    futures_util::future::join_all(each).await;
}
