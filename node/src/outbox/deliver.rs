//! Carries outgoing items: sign, find the relays, send, keep what they said, try again.
//!
//! One actor hands items to short-lived tasks; between tries an item is an entry in a heap, not a task. What does
//! not fit is in the database anyway, and found again by the next look through its open items.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use oa_nips::nostr::{PublicKey, RelayUrl, ToBech32};
use oa_nips::port::{Ack, Publish, SignerError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::feeds::Feeds;
use crate::keyring::Keyring;
use crate::notice::{Notice, Notices};
use crate::outbox::{ACK_DEADLINE, Directory, IN_FLIGHT, TRIED_FOR, sign};
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::row::{Audience, OutId, OutRow, Outgoing, Parcel, Stage, Target, TargetState};
use crate::store::write::{OutRange, Verdict, Write};
use crate::tenure::Tenure;
use crate::time::{Time, millis};

/// Nudges waiting for the actor; a full queue is made up for by the next look through the database.
const NUDGES: usize = 4096;
/// New items that wait for a place. What is beyond it is found again in the database.
const READY_MAX: usize = 10_000;
/// Items that wait for their next try. Beyond it the latest is forgotten here, and found again in the database.
const LATER_MAX: usize = 10_000;
/// Retries on their way at once: relays that are away must not hold up what is new.
const RETRIES: usize = IN_FLIGHT / 2;
/// How often the database is looked through for items nobody carries.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// First and longest pause between two tries.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(600);
/// Relays that one item goes to, each audience.
const TARGETS_MAX: usize = 8;

/// What the carrier needs of the node.
#[derive(Debug, Clone)]
pub(crate) struct Carrier {
    pub(crate) store: Store,
    pub(crate) keyring: Arc<dyn Keyring>,
    pub(crate) publish: Arc<dyn Publish>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) own: Vec<RelayUrl>,
    pub(crate) notices: Notices,
    pub(crate) feeds: Arc<Feeds>,
    pub(crate) time: Arc<dyn Time>,
    pub(crate) tenure: Tenure,
}

#[derive(Debug)]
enum Nudge {
    New(OutRange),
    RelayUp,
}

/// A handle to the outbox.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    nudges: mpsc::Sender<Nudge>,
    feeds: Arc<Feeds>,
}

impl Outbox {
    /// New items are committed.
    pub(crate) fn nudge(&self, range: OutRange) {
        if range.from < range.to {
            range.ids().for_each(|id| self.feeds.outgoing(id));
            let _ = self.nudges.try_send(Nudge::New(range));
        }
    }

    /// Whatever of these verdicts brought new items.
    pub(crate) fn nudge_landed(&self, verdicts: &[Verdict]) {
        for verdict in verdicts {
            if let Verdict::Landed(range) = verdict {
                self.nudge(*range);
            }
        }
    }

    /// A relay is back: what waits for its next try need not wait longer.
    pub(crate) fn relay_up(&self) {
        let _ = self.nudges.try_send(Nudge::RelayUp);
    }
}

/// Starts the actor; it ends when `cancel` does, giving what is on its way a moment to be answered.
pub(crate) fn start(carrier: Carrier, cancel: CancellationToken) -> (Outbox, tokio::task::JoinHandle<()>) {
    let (nudges, queue) = mpsc::channel(NUDGES);
    let feeds = carrier.feeds.clone();
    let actor = Actor {
        carrier,
        ready: VecDeque::new(),
        again: VecDeque::new(),
        known: HashSet::new(),
        later: BinaryHeap::new(),
        attempts: HashMap::new(),
        carried: JoinSet::new(),
        retrying: 0,
    };
    (Outbox { nudges, feeds }, tokio::spawn(actor.run(queue, cancel)))
}

#[derive(Debug)]
struct Actor {
    carrier: Carrier,
    /// New items, which go first.
    ready: VecDeque<OutId>,
    /// Items to be tried again, in a share of the places.
    again: VecDeque<OutId>,
    /// Items in `ready`, `again` or `later`, or being carried.
    known: HashSet<OutId>,
    later: BinaryHeap<Reverse<(Instant, OutId)>>,
    attempts: HashMap<OutId, u32>,
    carried: JoinSet<(OutId, Try, Result<Carried, BackendError>)>,
    retrying: usize,
}

/// Whether an item is tried for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Try {
    First,
    Again,
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carried {
    Finished,
    Again,
}

impl Actor {
    async fn run(mut self, mut queue: mpsc::Receiver<Nudge>, cancel: CancellationToken) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut tenure = self.carrier.tenure.clone();
        loop {
            self.fill();
            let next = self.later.peek().map(|Reverse((at, _))| *at);
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                Some(ended) = self.carried.join_next() => match ended {
                    Ok((id, which, outcome)) => self.carried(id, which, outcome),
                    Err(error) => tracing::error!(%error, "carrying an item ended badly"),
                },
                Some(nudge) = queue.recv() => self.nudged(nudge),
                // What waited for the lease need not wait longer.
                () = tenure.changed() => self.nudged(Nudge::RelayUp),
                () = sleep_until(next) => self.wake(Instant::now()),
                _ = look.tick() => self.look(),
            }
        }
        let drain = async { while self.carried.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(2), drain).await.is_err() {
            tracing::info!("outgoing items wait for the next start");
        }
    }

    fn nudged(&mut self, nudge: Nudge) {
        match nudge {
            Nudge::New(range) => range.ids().for_each(|id| self.add(id)),
            Nudge::RelayUp => {
                let all: Vec<_> = self.later.drain().map(|Reverse((_, id))| id).collect();
                self.again.extend(all);
            }
        }
    }

    fn add(&mut self, id: OutId) {
        if self.ready.len() < READY_MAX && self.known.insert(id) {
            self.ready.push_back(id);
        }
    }

    /// Looks for open items that nobody carries: after a start, and those forgotten for want of room.
    fn look(&mut self) {
        let mut from = None;
        while self.again.len() < LATER_MAX
            && let Ok(page) = self.carrier.store.outbox_open(from, IN_FLIGHT)
        {
            let next = page.last().map(|id| OutId { agent: id.agent, n: id.n + 1 });
            let is_last_page = page.len() < IN_FLIGHT;
            let news: Vec<_> = page.into_iter().filter(|id| self.known.insert(*id)).collect();
            self.again.extend(news);
            if is_last_page {
                return;
            }
            from = next;
        }
    }

    fn wake(&mut self, now: Instant) {
        while let Some(Reverse((at, id))) = self.later.peek().copied() {
            if at > now {
                break;
            }
            self.later.pop();
            self.again.push_back(id);
        }
    }

    fn fill(&mut self) {
        while self.carried.len() < IN_FLIGHT {
            let next = match self.ready.pop_front() {
                Some(id) => Some((id, Try::First)),
                None if self.retrying < RETRIES => self.again.pop_front().map(|id| (id, Try::Again)),
                None => None,
            };
            let Some((id, which)) = next else { break };
            self.retrying += usize::from(which == Try::Again);
            let carrier = self.carrier.clone();
            self.carried.spawn(async move {
                let carried = AssertUnwindSafe(carrier.carry(id)).catch_unwind().await;
                (id, which, carried.unwrap_or(Ok(Carried::Again)))
            });
        }
    }

    fn carried(&mut self, id: OutId, which: Try, outcome: Result<Carried, BackendError>) {
        self.retrying -= usize::from(which == Try::Again);
        match outcome {
            Ok(Carried::Again) if self.later.len() < LATER_MAX => {
                let attempt = self.attempts.entry(id).or_insert(0);
                let pause = RETRY_FIRST.saturating_mul(1 << (*attempt).min(16)).min(RETRY_LAST);
                *attempt += 1;
                self.later.push(Reverse((Instant::now() + pause, id)));
            }
            // Finished, or open in a database that will be looked through again.
            Ok(_) | Err(_) => {
                self.known.remove(&id);
                self.attempts.remove(&id);
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Carrier {
    /// One try of one item. Without the lease of its key nothing is signed and nothing sent: another node may have
    /// answered meanwhile.
    async fn carry(&self, id: OutId) -> Result<Carried, BackendError> {
        let Some(mut row) = self.store.outgoing(id)? else { return Ok(Carried::Finished) };
        let may_act = || self.tenure.epoch_of(id.agent).is_some();
        if !may_act() {
            return Ok(Carried::Again);
        }
        let expired = self.time.now_ms() > row.at_ms.saturating_add(millis(TRIED_FOR));
        let mut parcels = match &row.stage {
            Stage::Finished(_) => return Ok(Carried::Finished),
            Stage::Signed(parcels) => parcels.clone(),
            Stage::Unsigned => match self.sign(id, &mut row).await? {
                Some(parcels) => parcels,
                None if expired => return self.finish(id, row, Vec::new()).await,
                None => return Ok(Carried::Again),
            },
        };
        let was_sent = row.is_sent();
        self.address(&row.outgoing, &mut parcels).await;
        // Signer and directory may have taken long.
        if !may_act() {
            return Ok(Carried::Again);
        }
        self.send(&mut parcels).await;
        self.fall_back(&row.outgoing, &mut parcels).await;
        if expired {
            expire(&mut parcels);
        }
        let waits =
            parcels.iter().flat_map(|parcel| &parcel.targets).any(|t| t.state == TargetState::Waiting);
        if !waits {
            let finished = OutRow { stage: Stage::Finished(parcels), ..row };
            self.tell(id, was_sent, &finished);
            self.moved(id, finished).await?;
            return Ok(Carried::Finished);
        }
        let moved = Stage::Signed(parcels);
        if moved != row.stage {
            row.stage = moved;
            self.tell(id, was_sent, &row);
            self.moved(id, row).await?;
        }
        Ok(Carried::Again)
    }

    async fn finish(
        &self,
        id: OutId,
        mut row: OutRow,
        parcels: Vec<Parcel>,
    ) -> Result<Carried, BackendError> {
        row.stage = Stage::Finished(parcels);
        self.moved(id, row).await?;
        Ok(Carried::Finished)
    }

    /// Keeps how far an item has come.
    async fn moved(&self, id: OutId, row: OutRow) -> Result<(), BackendError> {
        self.store.write(Write::Out(id, Box::new(row))).await?;
        self.feeds.outgoing(id);
        Ok(())
    }

    /// Signs and persists; nothing when the signer is away, an empty list when it will never sign this.
    async fn sign(&self, id: OutId, row: &mut OutRow) -> Result<Option<Vec<Parcel>>, BackendError> {
        let signer = self.keyring.agent(id.agent);
        let parcels = match sign(&row.outgoing, &*signer, self.time.now_ms() / 1000).await {
            Ok(parcels) => parcels,
            Err(SignerError::Unavailable(reason)) => {
                tracing::warn!(agent = %id.agent, reason, "signer away, item waits");
                return Ok(None);
            }
            Err(error) => {
                self.notices.tell(|| Notice::Error {
                    message: format!("an outgoing item cannot be signed: {error}"),
                });
                Vec::new()
            }
        };
        row.stage = Stage::Signed(parcels.clone());
        self.moved(id, row.clone()).await?;
        Ok(Some(parcels))
    }

    /// Fills in the relays of parcels that have none yet.
    async fn address(&self, outgoing: &Outgoing, parcels: &mut [Parcel]) {
        let mut taken: Vec<(oa_nips::nostr::EventId, RelayUrl)> = Vec::new();
        for parcel in parcels.iter_mut() {
            if parcel.targets.is_empty() {
                let relays = match (parcel.audience, outgoing) {
                    (Audience::Peer, Outgoing::Mail { draft, relay, .. }) => {
                        self.relays_of(&draft.recipient, relay.as_ref()).await
                    }
                    _ => self.own.clone(),
                };
                for relay in relays.into_iter().take(TARGETS_MAX) {
                    if !taken.contains(&(parcel.event.id, relay.clone())) {
                        parcel.targets.push(Target { relay, state: TargetState::Waiting });
                    }
                }
            }
            taken.extend(parcel.targets.iter().map(|target| (parcel.event.id, target.relay.clone())));
        }
    }

    async fn relays_of(&self, who: &PublicKey, came_from: Option<&RelayUrl>) -> Vec<RelayUrl> {
        let listed = self.directory.contact(who).await.relays;
        match (listed.is_empty(), came_from) {
            (false, _) => listed,
            (true, Some(relay)) => vec![relay.clone()],
            (true, None) => self.own.clone(),
        }
    }

    /// When no relay that somebody listed has taken it, their mail goes back where it came from as well.
    async fn fall_back(&self, outgoing: &Outgoing, parcels: &mut [Parcel]) {
        let Outgoing::Mail { relay: Some(relay), .. } = outgoing else { return };
        let Some(parcel) = parcels.iter_mut().find(|parcel| parcel.audience == Audience::Peer) else {
            return;
        };
        let is_taken = parcel.targets.iter().any(|target| target.state == TargetState::Acked);
        if !is_taken && !parcel.targets.iter().any(|target| target.relay == *relay) {
            parcel.targets.push(Target { relay: relay.clone(), state: TargetState::Waiting });
            self.send(std::slice::from_mut(parcel)).await;
        }
    }

    /// Sends to every relay that has not answered, all at once.
    async fn send(&self, parcels: &mut [Parcel]) {
        let mut sendings = Vec::new();
        for parcel in parcels {
            let Parcel { event, targets, .. } = parcel;
            let event = &*event;
            for target in targets.iter_mut().filter(|target| target.state == TargetState::Waiting) {
                sendings.push(async move {
                    match self.publish.publish(&target.relay, event, ACK_DEADLINE).await {
                        Ack::Accepted => target.state = TargetState::Acked,
                        Ack::Refused(reason) => target.state = TargetState::Refused(reason),
                        Ack::Unreached(reason) => {
                            tracing::debug!(relay = %target.relay, reason, "not reached")
                        }
                    }
                });
            }
        }
        futures_util::future::join_all(sendings).await;
    }

    fn tell(&self, id: OutId, was_sent: bool, row: &OutRow) {
        let Outgoing::Mail { draft, protocol, .. } = &row.outgoing else { return };
        let (Stage::Signed(parcels) | Stage::Finished(parcels)) = &row.stage else { return };
        let acked = parcels.first().and_then(|p| p.targets.iter().find(|t| t.state == TargetState::Acked));
        let (false, Some(target)) = (was_sent, acked) else { return };
        let name = || self.store.agent(id.agent).ok().flatten().map_or_else(String::new, |row| row.name);
        self.notices.tell(|| Notice::MailOut {
            agent: name(),
            to: draft.recipient.to_bech32().unwrap_or_default(),
            protocol: *protocol,
            relay: target.relay.to_string(),
        });
    }
}

fn expire(parcels: &mut [Parcel]) {
    for target in parcels.iter_mut().flat_map(|parcel| &mut parcel.targets) {
        if target.state == TargetState::Waiting {
            target.state = TargetState::Expired("no answer for a day".to_owned());
        }
    }
}
