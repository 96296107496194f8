//! Carries out what the lease's machine says: asks and tells the relays, keeps its state, looks at the clock.
//!
//! One actor a key, started by [`start`]. It ends after [`Handle::release`], or with the handle, and then others wait
//! until the lease has run out. What comes live from relays is given to it, unverified, by whoever has the pool.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use oa_nips::hex::Hex;
use oa_nips::lease::{Id, Lease, Published, filter};
use oa_nips::nostr::{Event, PublicKey, RelayUrl, Timestamp};
use oa_nips::port::{Ack, Publish, Signer, Subscribe};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::lease::machine::{Action, Event as What, Machine, Round};
use crate::lease::{Config, LeaseState, Memory, MemoryError, Need, Standing, Start};
use crate::time::Time;

/// Answers that wait for the actor, who does nothing but take them: a handful of rounds are under way at once.
const ANSWERS: usize = 16;
/// The longest time without a look at the clock: it may be set, and the machine may have slept.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a release waits for the relays beyond those that are enough. Half a second: they are mostly as fast.
const REST: Duration = Duration::from_millis(500);

/// What a lease is kept with.
#[derive(Debug)]
pub struct Parts {
    /// The key's.
    pub signer: Arc<dyn Signer>,
    /// To the relays.
    pub publish: Arc<dyn Publish>,
    /// From the relays.
    pub subscribe: Arc<dyn Subscribe>,
    /// Where its state is kept.
    pub memory: Arc<dyn Memory>,
    /// The clock.
    pub time: Arc<dyn Time>,
    /// The relays that every node with this key would use. One that only this machine reaches keeps nobody out, and
    /// does not belong here beside others that do.
    pub relays: Vec<RelayUrl>,
    /// How many of them must answer.
    pub need: Need,
    /// Sixteen random bytes for this process, and for the instance if one must be named.
    pub boot: Id,
    pub fresh_instance: Id,
    /// Where the store is; see [`LeaseState::at_place`].
    pub place: Option<Id>,
    /// What the relays bring.
    pub heard: mpsc::Receiver<Heard>,
}

/// What came from the relays without being asked for.
#[derive(Debug)]
pub enum Heard {
    /// An event that matches [`filter`]. It need not be verified.
    Lease(Box<Event>),
    /// A relay is connected.
    RelayUp,
}

/// A lease that is being kept. Dropping it ends that without a word: others wait.
#[derive(Debug)]
pub struct Handle {
    standing: watch::Receiver<Standing>,
    ending: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Handle {
    /// Whether the key may be used, from now on. After the lease's end it says that it is not held.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Leaves the lease to others, who need not wait. Whatever uses the key has ended before.
    pub async fn release(self) {
        self.ending.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the lease ended badly");
        }
    }
}

/// Begins to take a lease, and keeps it.
///
/// Must be called within a tokio runtime.
///
/// # Errors
/// When what is remembered of it cannot be read.
pub fn start(config: Config, start: Start, parts: Parts) -> Result<Handle, MemoryError> {
    let known = parts.memory.load()?;
    let fresh = parts.fresh_instance;
    let mut kept = known.clone().unwrap_or_else(|| LeaseState::new(fresh));
    if start == Start::Renounced {
        kept = kept.renounced(fresh);
    }
    if let Some(place) = parts.place {
        kept = kept.at_place(place, fresh);
    }
    let is_new = known.as_ref() != Some(&kept);
    let key = parts.signer.public_key();
    let now_ms = parts.time.now_ms();
    let (machine, mut actions) =
        Machine::start(config, parts.need, key, kept.clone(), parts.boot, start, now_ms);
    if is_new {
        actions.insert(0, Action::Save(kept));
    }
    let why = "the lease is not looked for yet".to_owned();
    let (standing, seen) = watch::channel(Standing::Waiting { why });
    let ending = CancellationToken::new();
    let (answers, answered) = mpsc::channel(ANSWERS);
    let Parts { signer, publish, subscribe, memory, time, relays, heard, .. } = parts;
    let carrier = Carrier { key, signer, publish, subscribe, relays, answers };
    let actor = Actor { machine, carrier, memory, time, standing, rounds: JoinSet::new() };
    let task = tokio::spawn(actor.run(actions, answered, heard, ending.clone()));
    Ok(Handle { standing: seen, ending, task: AbortOnDropHandle::new(task) })
}

/// Sixteen bytes of thirty-two.
pub fn id(random: [u8; 32]) -> Id {
    let (id, _) = random.split_first_chunk().expect("thirty-two are more than sixteen");
    Hex(*id)
}

#[derive(Debug)]
struct Actor {
    machine: Machine,
    carrier: Carrier,
    memory: Arc<dyn Memory>,
    time: Arc<dyn Time>,
    standing: watch::Sender<Standing>,
    rounds: JoinSet<()>,
}

/// What a round needs to go its way alone.
#[derive(Debug, Clone)]
struct Carrier {
    key: PublicKey,
    signer: Arc<dyn Signer>,
    publish: Arc<dyn Publish>,
    subscribe: Arc<dyn Subscribe>,
    relays: Vec<RelayUrl>,
    answers: mpsc::Sender<What>,
}

impl Actor {
    async fn run(
        mut self,
        actions: Vec<Action>,
        mut answered: mpsc::Receiver<What>,
        mut heard: mpsc::Receiver<Heard>,
        ending: CancellationToken,
    ) {
        let (mut is_ending, mut is_deaf) = (false, false);
        let mut goes_on = self.perform(actions).await;
        while goes_on {
            let wake = self.wake();
            let what = tokio::select! {
                biased;
                () = ending.cancelled(), if !is_ending => {
                    is_ending = true;
                    What::Release
                }
                Some(what) = answered.recv() => what,
                Some(_) = self.rounds.join_next() => continue,
                one = heard.recv(), if !is_deaf => match one {
                    Some(Heard::RelayUp) => What::RelayUp,
                    Some(Heard::Lease(event)) => match self.carrier.genuine(&event) {
                        Some(lease) => What::Heard(lease),
                        None => continue,
                    },
                    None => {
                        is_deaf = true;
                        continue;
                    }
                },
                () = wait(wake) => What::Tick,
            };
            let actions = self.machine.apply(self.time.now_ms(), what);
            goes_on = self.perform(actions).await;
        }
        let others = async { while self.rounds.join_next().await.is_some() {} };
        if is_ending && timeout_at(Instant::now() + REST, others).await.is_err() {
            tracing::debug!("some relays have not taken the release yet");
        }
        let why = "the lease is not kept any more".to_owned();
        self.standing.send_if_modified(|standing| match standing {
            Standing::Held { .. } => {
                *standing = Standing::Waiting { why };
                true
            }
            Standing::Waiting { .. } | Standing::Lost { .. } => false,
        });
    }

    fn wake(&self) -> Option<Duration> {
        let wake_ms = self.machine.wake_ms()?;
        let left = Duration::from_millis(wake_ms.saturating_sub(self.time.now_ms()));
        Some(left.min(LOOK_EVERY))
    }

    /// Carries out what is to be done; answers whether there will be more.
    async fn perform(&mut self, actions: Vec<Action>) -> bool {
        for action in actions {
            match action {
                Action::Save(kept) => {
                    if let Err(error) = self.memory.save(&kept).await {
                        tracing::error!(%error, "lease given up");
                        self.standing.send_replace(Standing::Lost { why: error.to_string() });
                        return false;
                    }
                }
                Action::Stand(standing) => self.stand(standing),
                Action::Ask { round, enough, within } => {
                    let carrier = self.carrier.clone();
                    self.rounds.spawn(async move { carrier.ask(round, enough, within).await });
                }
                Action::Publish { round, lease, at, enough, within } => {
                    let carrier = self.carrier.clone();
                    let at = Timestamp::from_secs(at);
                    self.rounds.spawn(async move { carrier.tell(round, lease, at, enough, within).await });
                }
                Action::End => return false,
            }
        }
        true
    }

    fn stand(&self, new: Standing) {
        let is_news = self.standing.send_if_modified(|standing| {
            let is_news = *standing != new;
            if is_news {
                standing.clone_from(&new);
            }
            is_news
        });
        match new {
            _ if !is_news => {}
            Standing::Held { epoch, until_ms } => tracing::debug!(epoch, until_ms, "lease held"),
            Standing::Waiting { why } => tracing::info!(why, "lease waited for"),
            Standing::Lost { why } => tracing::error!(why, "lease lost"),
        }
    }
}

async fn wait(span: Option<Duration>) {
    match span {
        Some(span) => tokio::time::sleep(span).await,
        None => std::future::pending().await,
    }
}

impl Carrier {
    /// The lease that an event is, if it is the key's own.
    fn genuine(&self, event: &Event) -> Option<Published> {
        if event.pubkey != self.key || event.verify().is_err() {
            tracing::debug!(id = %event.id, "an event that is no lease of this key");
            return None;
        }
        read(event)
    }

    async fn ask(&self, round: Round, enough: usize, within: Duration) {
        let deadline = Instant::now() + within;
        let (mut answered, mut leases) = (0, Vec::new());
        let mut asked: FuturesUnordered<_> =
            self.relays.iter().map(|url| self.subscribe.fetch(url, filter(self.key), within)).collect();
        while answered < enough
            && let Ok(Some(fetched)) = timeout_at(deadline, asked.next()).await
        {
            match fetched {
                Ok(events) => {
                    answered += 1;
                    let own = events.iter().filter(|event| event.pubkey == self.key);
                    leases.extend(own.filter_map(read));
                }
                Err(error) => tracing::debug!(%error, "a relay did not say who has the lease"),
            }
        }
        self.answer(What::Answers { round, answered, leases }).await;
    }

    /// Publishes; after enough relays have answered the others still have their time.
    async fn tell(&self, round: Round, lease: Lease, at: Timestamp, enough: usize, within: Duration) {
        let deadline = Instant::now() + within;
        let signed = timeout_at(deadline, self.signer.sign(lease.event(self.key, at))).await;
        let event = match signed {
            Ok(Ok(event)) => event,
            Ok(Err(error)) => return self.untold(round, error.to_string()).await,
            Err(_) => return self.untold(round, "the signer did not answer in time".to_owned()).await,
        };
        let event = &event;
        let tell = |url| async move { (url, self.publish.publish(url, event, within).await) };
        let mut told: FuturesUnordered<_> = self.relays.iter().map(tell).collect();
        let (mut acks, mut said, mut is_answered) = (0, Vec::new(), false);
        while let Ok(Some((url, ack))) = timeout_at(deadline, told.next()).await {
            match ack {
                Ack::Accepted => acks += 1,
                Ack::Refused(reason) | Ack::Unreached(reason) => said.push(format!("{url}: {reason}")),
            }
            if acks >= enough && !is_answered {
                is_answered = true;
                self.answer(What::Taken { round, id: Some(event.id), acks, said: Vec::new() }).await;
            }
        }
        if !is_answered {
            self.answer(What::Taken { round, id: Some(event.id), acks, said }).await;
        }
    }

    async fn untold(&self, round: Round, said: String) {
        self.answer(What::Taken { round, id: None, acks: 0, said: vec![said] }).await;
    }

    async fn answer(&self, what: What) {
        // Fails only at the end.
        let _ = self.answers.send(what).await;
    }
}

fn read(event: &Event) -> Option<Published> {
    match Published::read(event) {
        Ok(published) => Some(published),
        Err(error) => {
            tracing::warn!(id = %event.id, %error, "a lease that cannot be read counts as none");
            None
        }
    }
}
