//! The actor: gathers what happened, lets the machine decide, writes, then acts.
//!
//! One batch is one write to the store, however many requests are in it. Purse and relays are asked in tasks; their
//! number is bounded by the turns of the machine and by a semaphore.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oa_nips::nostr::secp256k1::rand::RngCore as _;
use oa_nips::nostr::secp256k1::rand::rngs::OsRng;
use oa_nips::nostr::{Event, EventId, JsonUtil, PublicKey, RelayUrl, Timestamp};
use oa_nips::nwc::{self, Encryption, Info};
use oa_nips::port::{Ack, RowWrite, SignerError};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::admit::Gate;
use super::machine::{Action, Call, Input, Machine, Output, Reply};
use super::row::{self, RequestRow, Stage};
use super::{Command, Config, Ended, Ports, StartError};
use crate::account::Holder;
use crate::nwc::message::{Method, Topic};
use crate::nwc::seal;

/// Inputs of one batch: one write to the store serves them all.
const BATCH: usize = 64;
/// Answers on their way to relays at once; a slow relay holds each for its deadline.
const SENDING: usize = 512;
/// Times an event is sent to a relay that did not answer.
const TRIES: u32 = 3;
/// Between them, and each time twice as long.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// How often the machine is told the time when nothing waits: old rows are pruned then.
const IDLE_TICK: Duration = Duration::from_secs(60);

pub(super) struct Driver {
    config: Config,
    ports: Ports,
    machine: Machine,
    events: mpsc::Receiver<Event>,
    commands: mpsc::Receiver<Command>,
    cancel: CancellationToken,
    asked: JoinSet<(EventId, Reply)>,
    /// The relays that the info event did not reach, of what else is sent none.
    sending: JoinSet<Vec<RelayUrl>>,
    permits: Arc<Semaphore>,
    announce_at: Instant,
    /// Relays without the info event, and when they are tried again.
    missed: Vec<RelayUrl>,
    missed_at: Option<Instant>,
    /// What the batch does once it is written.
    actions: Vec<Action>,
    rows: Vec<RowWrite>,
}

/// What a batch begins with.
enum Woken {
    Events,
    Command(Command),
    Replied(EventId, Box<Reply>),
    Tick,
    Cancelled,
}

impl Driver {
    pub(super) async fn load(
        config: Config,
        ports: Ports,
        events: mpsc::Receiver<Event>,
        commands: mpsc::Receiver<Command>,
        cancel: CancellationToken,
    ) -> Result<Self, StartError> {
        let (wallet, now_ms) = (ports.signer.public_key(), (ports.clock)());
        let mut machine = Machine::new(wallet, config.relays.clone(), config.limits.clone(), now_ms);
        machine.steers = ports.steer.methods().iter().map(|method| (*method).to_owned()).collect();
        let connections = ports.rows.load(row::CONNECTIONS).await?;
        machine.load(connections, ports.rows.load(row::REQUESTS).await?)?;
        Ok(Self {
            config,
            ports,
            machine,
            events,
            commands,
            cancel,
            asked: JoinSet::new(),
            sending: JoinSet::new(),
            permits: Arc::new(Semaphore::new(SENDING)),
            announce_at: Instant::now(),
            missed: Vec::new(),
            missed_at: None,
            actions: Vec::new(),
            rows: Vec::new(),
        })
    }

    pub(super) async fn run(mut self) -> Ended {
        self.apply(Input::Tick).await;
        loop {
            if let Err(error) = self.commit().await {
                tracing::error!(%error, "the wallet's store failed: no more requests are served");
                return Ended::Store(error);
            }
            self.perform();
            let mut events = Vec::new();
            match self.select(&mut events).await {
                Woken::Events => {
                    for event in events {
                        self.hear(event).await;
                    }
                }
                Woken::Command(Command::Happened(account, told)) => {
                    self.apply(Input::Happened(account, told)).await;
                }
                Woken::Command(Command::Connect(connection)) => self.apply(Input::Connect(connection)).await,
                Woken::Replied(id, reply) => {
                    self.apply(Input::Replied(id, *reply)).await;
                    self.gather().await;
                }
                Woken::Tick => self.apply(Input::Tick).await,
                Woken::Cancelled => return Ended::Stopped,
            }
            // However much comes in, what waits for its time gets it.
            if self.machine.next_at_ms().is_some_and(|at| at <= (self.ports.clock)()) {
                self.apply(Input::Tick).await;
            }
            self.announce().await;
        }
    }

    async fn select(&mut self, events: &mut Vec<Event>) -> Woken {
        let waited = self.machine.next_at_ms().map(|at| {
            let now_ms = (self.ports.clock)();
            Duration::from_millis(at.saturating_sub(now_ms))
        });
        let tick = Instant::now() + waited.unwrap_or(IDLE_TICK).min(IDLE_TICK);
        loop {
            let announces_at = self.announces_at();
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Woken::Cancelled,
                Some(replied) = self.asked.join_next() => match replied {
                    Ok((id, reply)) => return Woken::Replied(id, Box::new(reply)),
                    // The request stays as it is written, and is looked up at the next start.
                    Err(error) => tracing::error!(%error, "the purse panicked"),
                },
                Some(sent) = self.sending.join_next() => {
                    match sent {
                        Ok(missed) if missed.is_empty() => {}
                        Ok(missed) => {
                            self.missed.extend(missed);
                            self.missed_at = Some(Instant::now() + self.config.announce_again);
                        }
                        Err(error) => tracing::error!(%error, "an answer was not sent"),
                    }
                }
                Some(command) = self.commands.recv() => return Woken::Command(command),
                _ = self.events.recv_many(events, BATCH), if !self.events.is_closed() || !self.events.is_empty() => {
                    return Woken::Events;
                }
                () = sleep_until(tick.min(announces_at)) => return Woken::Tick,
            }
        }
    }

    /// Other answers of the purse that are there already share the write.
    async fn gather(&mut self) {
        for _ in 1..BATCH {
            match self.asked.try_join_next() {
                Some(Ok((id, reply))) => self.apply(Input::Replied(id, reply)).await,
                Some(Err(error)) => tracing::error!(%error, "the purse panicked"),
                None => return,
            }
        }
    }

    /// A request, or what claims to be one. Nothing is verified or decrypted for whom nothing is done.
    async fn hear(&mut self, event: Event) {
        let Ok(header) = nwc::Request::read(&event) else { return };
        match self.machine.look(&header, (self.ports.clock)()) {
            Gate::Ignore(reason) => {
                tracing::debug!(request = %header.id, client = %header.client, reason, "a request is passed over");
                return;
            }
            Gate::Open | Gate::Refuse(_) | Gate::Repeat => {}
        }
        if event.verify().is_err() {
            tracing::debug!(client = %header.client, "a request with a wrong id or signature");
            return;
        }
        let refused = match self.machine.admit(&header, (self.ports.clock)()) {
            Gate::Open => None,
            Gate::Refuse(error) => Some(error),
            Gate::Repeat => return self.apply(Input::Repeat(header.id)).await,
            Gate::Ignore(reason) => {
                tracing::debug!(request = %header.id, client = %header.client, reason, "a request is passed over");
                return;
            }
        };
        let text = match header.encryption {
            Ok(encryption) => {
                seal::decrypt(&*self.ports.signer, &header.client, encryption, &event.content).await.ok()
            }
            Err(_) => None,
        };
        let mut entropy = [0; 32];
        OsRng.fill_bytes(&mut entropy);
        self.apply(Input::Request { header, text, refused, entropy }).await;
    }

    /// Lets the machine decide, and signs what it wants signed, so that it is in the same batch.
    async fn apply(&mut self, input: Input) {
        let output = self.machine.apply(input, (self.ports.clock)());
        let mut wanted = self.take(output);
        while let Some((id, client, encryption, text)) = wanted.pop() {
            let input = match self.seal_answer(id, client, encryption, &text).await {
                Ok(event) => Input::Sealed(id, Box::new(event)),
                Err(error) => {
                    tracing::warn!(request = %id, %error, "an answer is not signed yet");
                    Input::Unsealed(id)
                }
            };
            let output = self.machine.apply(input, (self.ports.clock)());
            wanted.extend(self.take(output));
        }
    }

    /// Keeps rows and actions for the end of the batch; what is to be signed comes back.
    fn take(&mut self, output: Output) -> Vec<(EventId, PublicKey, Encryption, String)> {
        self.rows.extend(output.rows);
        let mut seals = Vec::new();
        for action in output.actions {
            match action {
                Action::Seal { request, client, encryption, text } => {
                    seals.push((request, client, encryption, text))
                }
                other => self.actions.push(other),
            }
        }
        seals
    }

    async fn seal_answer(
        &self,
        request: EventId,
        client: PublicKey,
        encryption: Encryption,
        text: &str,
    ) -> Result<Event, SignerError> {
        let signer = &*self.ports.signer;
        let ciphertext = seal::encrypt(signer, &client, encryption, text).await?;
        let at = Timestamp::from_secs((self.ports.clock)() / 1000);
        signer.sign(nwc::response(signer.public_key(), client, request, ciphertext, at)).await
    }

    async fn commit(&mut self) -> Result<(), super::RowsError> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() { Ok(()) } else { self.ports.rows.commit(rows).await }
    }

    fn perform(&mut self) {
        for action in std::mem::take(&mut self.actions) {
            match action {
                Action::Ask { request, account, call } => {
                    let ports = self.ports.clone();
                    self.asked.spawn(async move { (request, answer(&ports, &account, call, request).await) });
                }
                Action::Publish(event) => self.send(async move { Some(*event) }.boxed()),
                Action::Resend(request) => {
                    let ports = self.ports.clone();
                    self.send(async move { kept_answer(&ports, request).await }.boxed());
                }
                Action::Tell { client, encryption, text } => {
                    let ports = self.ports.clone();
                    self.send(async move { notice(&ports, client, encryption, &text).await }.boxed());
                }
                Action::Seal { .. } => {}
            }
        }
    }

    /// Sends an event to all relays. Beyond [`SENDING`] it is let go: the client asks again.
    fn send(&mut self, event: BoxFuture<'static, Option<Event>>) {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            tracing::warn!("too many answers are on their way: one is let go");
            return;
        };
        let (ports, relays) = (self.ports.clone(), self.config.relays.clone());
        let deadline = self.config.publish_deadline;
        self.sending.spawn(async move {
            if let Some(event) = event.await {
                publish(&ports, &relays, &event, deadline).await;
            }
            drop(permit);
            Vec::new()
        });
    }

    /// When the info event goes out next.
    fn announces_at(&self) -> Instant {
        self.missed_at.map_or(self.announce_at, |at| at.min(self.announce_at))
    }

    /// Publishes the info event, at the start and daily; to relays that were away again soon, since clients that find none
    /// there do not even ask.
    async fn announce(&mut self) {
        let now = Instant::now();
        if now < self.announces_at() {
            return;
        }
        let missed = std::mem::take(&mut self.missed);
        self.missed_at = None;
        let relays = if now < self.announce_at {
            missed
        } else {
            self.announce_at = now + self.config.announce_every;
            self.config.relays.clone()
        };
        let info = Info {
            methods: Method::ALL.iter().map(|method| method.as_str().to_owned()).collect(),
            notifications: Topic::ALL.iter().map(|topic| topic.as_str().to_owned()).collect(),
            encryptions: vec![Encryption::Nip44, Encryption::Nip04],
        };
        let at = Timestamp::from_secs((self.ports.clock)() / 1000);
        match self.ports.signer.sign(info.event(self.ports.signer.public_key(), at)).await {
            Ok(event) => {
                let (ports, deadline) = (self.ports.clone(), self.config.publish_deadline);
                self.sending.spawn(async move { spread(&ports, relays, &event, deadline).await });
            }
            Err(error) => {
                tracing::warn!(%error, "the info event is not signed yet");
                self.announce_at = Instant::now() + IDLE_TICK;
            }
        }
    }
}

/// Asks the purse.
async fn answer(ports: &Ports, account: &Holder, call: Call, request: EventId) -> Reply {
    let purse = &*ports.purse;
    match call {
        Call::Info => Reply::Info(purse.info().await),
        Call::Balance => Reply::Balance(purse.balance(account).await),
        Call::MakeInvoice(order) => Reply::Made(purse.make_invoice(account, order, request).await),
        Call::MakeHoldInvoice(order) => Reply::Made(purse.make_hold_invoice(account, order, request).await),
        Call::Settle(preimage) => Reply::Done(purse.settle_hold_invoice(account, preimage).await),
        Call::Cancel(hash) => Reply::Done(purse.cancel_hold_invoice(account, hash).await),
        Call::LookUp(hash) => Reply::Found(purse.look_up(account, hash).await),
        Call::List(query) => Reply::Listed(purse.list(account, query).await),
        Call::Pay(payment) => Reply::Made(purse.pay(account, payment).await),
        Call::Keysend(keysend) => Reply::Made(purse.pay_keysend(account, keysend).await),
        Call::Steer(method, params) => Reply::Steered(ports.steer.steer(&method, params).await),
    }
}

/// The answer that is kept in a request's row.
async fn kept_answer(ports: &Ports, request: EventId) -> Option<Event> {
    let row = match ports.rows.get(row::REQUESTS, &request.to_hex()).await {
        Ok(row) => row?,
        Err(error) => {
            tracing::warn!(%request, %error, "an answer cannot be read again");
            return None;
        }
    };
    let kept: RequestRow = serde_json::from_slice(&row.value).ok()?;
    match kept.stage {
        Stage::Answered { event } => Event::from_json(event).ok(),
        Stage::Received | Stage::Asked { .. } => None,
    }
}

async fn notice(ports: &Ports, client: PublicKey, encryption: Encryption, text: &str) -> Option<Event> {
    let signer = &*ports.signer;
    let at = Timestamp::from_secs((ports.clock)() / 1000);
    let sealed = async {
        let ciphertext = seal::encrypt(signer, &client, encryption, text).await?;
        signer.sign(nwc::notification(signer.public_key(), client, encryption, ciphertext, at)).await
    };
    sealed.await.inspect_err(|error| tracing::warn!(%error, "a notification is not signed")).ok()
}

/// Sends an event to each relay once; answers those that were not reached.
async fn spread(ports: &Ports, relays: Vec<RelayUrl>, event: &Event, deadline: Duration) -> Vec<RelayUrl> {
    let each = relays.into_iter().map(|relay| async move {
        match ports.publish.publish(&relay, event, deadline).await {
            Ack::Accepted => None,
            Ack::Refused(reason) => {
                tracing::warn!(%relay, %reason, "a relay refuses the info event");
                None
            }
            Ack::Unreached(reason) => {
                tracing::debug!(%relay, %reason, "a relay has no info event yet");
                Some(relay)
            }
        }
    });
    futures_util::future::join_all(each).await.into_iter().flatten().collect()
}

/// To all relays at once, each some times.
async fn publish(ports: &Ports, relays: &[RelayUrl], event: &Event, deadline: Duration) {
    let each = relays.iter().map(|relay| async move {
        let mut pause = TRY_AGAIN;
        for _ in 0..TRIES {
            match ports.publish.publish(relay, event, deadline).await {
                Ack::Accepted => return,
                Ack::Refused(reason) => {
                    tracing::warn!(%relay, %reason, "a relay refuses what the wallet sends");
                    return;
                }
                Ack::Unreached(reason) => tracing::debug!(%relay, %reason, "a relay is not reached"),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    });
    futures_util::future::join_all(each).await;
}
