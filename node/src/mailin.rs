//! Mail in: events from relays become envelopes in inboxes.
//!
//! Opening (verify, decrypt twice) is spread over the machine; what it yields is handled in the order the events
//! came, or for a sweep in the order the messages were written. Live events are hints, a sweep is the truth: its
//! cursor moves only once everything it brought is committed.

mod decide;
mod node;
mod open;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use futures_util::StreamExt;
use oa_nips::kind;
use oa_nips::nostr::{Event, EventId, PublicKey, RelayUrl, UnsignedEvent};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::mailbox::FLOOR_BEHIND_S;
use crate::bunker;
use crate::drivers::nostr::{Incoming, MAIL_KINDS, Pool, Sweep};
use crate::engine::Engine;
use crate::engine::hooks::After;
use crate::engine::shared::Shared;
use crate::lease;
use crate::mailin::open::{Opened, open};
use crate::notice::Notice;
use crate::operator::{Door, Queues, Taken};
use crate::store::Pending;
use crate::store::backend::BackendError;
use crate::store::write::{Verdict, Write};
use crate::subscriptions::Subscriptions;
use crate::tenure::{self, Tenure};

/// Events being opened at once.
const OPENING: usize = 64;
/// Units on their way to disk at once; verdicts are taken in order.
const PENDING: usize = 256;

/// The parts of a node that mail goes through.
#[derive(Debug)]
pub(crate) struct MailIn {
    pub(crate) shared: Arc<Shared>,
    pub(crate) engine: Engine,
    /// Where queued commands go, once the operator server runs.
    pub(crate) queues: Arc<OnceLock<Arc<Queues>>>,
    /// Requests of the operator protocol are not mail; they go there.
    pub(crate) requests: Door,
    /// Events that are neither mail nor requests may be what agents subscribed to.
    pub(crate) subscriptions: Arc<Subscriptions>,
    /// Requests to the bunker are not mail either; one too many is asked again.
    pub(crate) bunker: mpsc::Sender<Event>,
    /// Where news of the node's lease go.
    pub(crate) lease: Option<mpsc::Sender<lease::driver::Heard>>,
    /// Told when something was left that can be dealt with once the node may act.
    pub(crate) left: Arc<Notify>,
    /// The node's own relays, all of which a floor must have been swept on.
    pub(crate) relays: Vec<RelayUrl>,
    /// Told when nothing more can come.
    pub(crate) ended: CancellationToken,
    /// Tells that no mail is taken in any more.
    pub(crate) deaf: CancellationToken,
}

/// Starts taking mail in; ends with [`MailIn::ended`], after what has come until then.
pub(crate) fn start(mailin: MailIn, incoming: mpsc::Receiver<Incoming>) -> JoinHandle<()> {
    tokio::spawn(async move {
        // However it ends: a node that hears nothing must not look alive.
        let _deaf = mailin.deaf.clone().drop_guard();
        if let Err(error) = mailin.run(incoming).await {
            tracing::error!(%error, "mail can no longer be taken in");
        }
    })
}

/// Has what was left swept for as soon as the node may act, until `cancel`: somebody waits for the answer, and the next
/// sweep by the clock is far.
pub(crate) fn catch_up(
    left: Arc<Notify>,
    mut tenure: Tenure,
    pool: Pool,
    cancel: CancellationToken,
) -> JoinHandle<()> {
    let again = async move {
        loop {
            left.notified().await;
            tenure.begins().await;
            pool.sweep_again();
        }
    };
    tokio::spawn(async move { cancel.run_until_cancelled(again).await.unwrap_or(()) })
}

/// Something opened, in its place in line.
type Opening = JoinHandle<Opened>;

impl MailIn {
    async fn run(self, mut incoming: mpsc::Receiver<Incoming>) -> Result<(), BackendError> {
        let mut opening: VecDeque<(RelayUrl, Opening)> = VecDeque::new();
        let mut pending: VecDeque<(Pending, decide::Decided)> = VecDeque::new();
        let mut is_over = false;
        while !is_over || !opening.is_empty() {
            tokio::select! {
                biased;
                () = self.ended.cancelled(), if !incoming.is_closed() => incoming.close(),
                opened = next_opened(&mut opening) => {
                    let Some((relay, opened)) = opened else { continue };
                    self.take(opened, Some(&relay), &mut pending).await?;
                }
                verdicts = next_verdicts(&mut pending) => self.settled(verdicts?).await,
                next = incoming.recv(), if !is_over && opening.len() < OPENING && pending.len() < PENDING => match next {
                    Some(Incoming::Event { relay, event }) if event.kind == kind::FILES_REQUEST => {
                        self.requests.knock(relay, *event);
                    }
                    Some(Incoming::Event { event, .. }) if event.kind == kind::LEASE => self.heard_of_lease(event),
                    Some(Incoming::Event { event, .. }) if event.kind == bunker::message::KIND => {
                        if self.bunker.try_send(*event).is_err() {
                            tracing::warn!("too many requests to the bunker at once");
                        }
                    }
                    Some(Incoming::Event { event, .. }) if !MAIL_KINDS.contains(&event.kind) => {
                        self.subscriptions.hear(*event);
                    }
                    Some(Incoming::Event { relay, event }) => {
                        opening.push_back((relay, self.spawn_open(*event, false)));
                    }
                    Some(Incoming::Sweep(sweep)) => {
                        // What came before the sweep stays before it.
                        while !opening.is_empty() {
                            if let Some((relay, opened)) = next_opened(&mut opening).await {
                                self.take(opened, Some(&relay), &mut pending).await?;
                            }
                        }
                        self.sweep(sweep, &mut pending).await?;
                    }
                    Some(Incoming::Up { relay }) => {
                        self.tell_lease(lease::driver::Heard::RelayUp);
                        self.shared.tenure.relay_up();
                        self.shared.outbox.relay_up();
                        self.shared.notices.tell(|| Notice::RelayUp { relay: relay.to_string() });
                    }
                    Some(Incoming::Down { relay, reason }) => {
                        self.shared.notices.tell(|| Notice::RelayDown { relay: relay.to_string(), reason });
                    }
                    None => is_over = true,
                },
            }
        }
        self.drain(&mut pending, 0).await
    }

    fn heard_of_lease(&self, event: Box<Event>) {
        if tenure::is_lease(&event, &self.shared.keyring.node().public_key()) {
            self.tell_lease(lease::driver::Heard::Lease(event));
        } else {
            self.shared.tenure.heard_of(event);
        }
    }

    fn tell_lease(&self, news: lease::driver::Heard) {
        // One too many is made up for by the next renewal.
        if let Some(lease) = &self.lease {
            let _ = lease.try_send(news);
        }
    }

    fn spawn_open(&self, event: Event, is_verified: bool) -> Opening {
        let shared = self.shared.clone();
        tokio::spawn(async move { open(&shared, event, is_verified).await })
    }

    /// Decides about one opened event and hands the decision to the store; answers whether it could.
    async fn take(
        &self,
        opened: Opened,
        relay: Option<&RelayUrl>,
        pending: &mut VecDeque<(Pending, decide::Decided)>,
    ) -> Result<bool, BackendError> {
        let opened = match opened {
            Opened::Command { caller, rumor, event } => return self.command(&caller, &rumor, event).await,
            opened => opened,
        };
        if let Opened::Mail { agent, mail, .. } = &opened
            && pending.iter().any(|(_, decided)| decided.holds_up(*agent, &mail.author))
        {
            self.drain(pending, 0).await?;
        }
        let decided = match decide::decide(&self.shared, opened, relay) {
            // Mail is taken in by whoever hears it; answering under the key is for who holds its lease.
            Ok(Some(decided))
                if decided.answers() && self.shared.tenure.epoch_of(decided.agent).is_none() =>
            {
                self.left.notify_one();
                return Ok(false);
            }
            Ok(Some(decided)) => decided,
            Ok(None) => return Ok(true),
            Err(error) => {
                // What cannot be decided about one agent is not decided; the next sweep brings it again.
                tracing::error!(%error, "mail left for later");
                return Ok(false);
            }
        };
        #[cfg(feature = "planted-bugs")]
        self.acknowledge_before_commit(&decided).await?;
        let mut unit = vec![decided.write.clone()];
        unit.extend(decided.also.iter().cloned());
        let submitted = self.shared.store.submit(unit).await;
        let must_settle = decided.binds == decide::Binds::All;
        pending.push_back((submitted, decided));
        // What changes who is heard must be on disk before the next message is judged by it.
        self.drain(pending, if must_settle { 0 } else { PENDING - 1 }).await?;
        Ok(true)
    }

    /// Hands a queued command to its queue; answers whether it is dealt with.
    async fn command(
        &self,
        caller: &PublicKey,
        rumor: &UnsignedEvent,
        event: (u64, EventId),
    ) -> Result<bool, BackendError> {
        // Before the server runs, or without the lease, nobody can take it; a sweep brings it again.
        let Some(queues) = self.queues.get().filter(|_| self.shared.tenure.epoch().is_some()) else {
            self.left.notify_one();
            return Ok(false);
        };
        if let Taken::Refused(reason) = queues.take(caller, rumor).await? {
            tracing::info!(%caller, reason, "queued command refused");
        }
        // Nobody waits for this flush: what is not noted as dealt with comes again, and does nothing.
        drop(self.shared.store.submit(vec![Write::Handled(vec![event])]).await);
        Ok(true)
    }

    /// Waits until at most so many units are on their way.
    async fn drain(
        &self,
        pending: &mut VecDeque<(Pending, decide::Decided)>,
        at_most: usize,
    ) -> Result<(), BackendError> {
        while pending.len() > at_most {
            let verdicts = next_verdicts(pending).await?;
            self.settled(verdicts).await;
        }
        Ok(())
    }

    /// A bug for the crash harness to find: the event counts as dealt with before its mail is in the inbox.
    #[cfg(feature = "planted-bugs")]
    async fn acknowledge_before_commit(&self, decided: &decide::Decided) -> Result<(), BackendError> {
        if let Write::Deliver(delivery) = &decided.write {
            self.shared.store.write(Write::Handled(vec![delivery.event])).await?;
        }
        Ok(())
    }

    async fn sweep(
        &self,
        sweep: Sweep,
        pending: &mut VecDeque<(Pending, decide::Decided)>,
    ) -> Result<(), BackendError> {
        let Sweep { relay, started_at_s, events, complete, done } = sweep;
        let count = events.len();
        let opening = futures_util::stream::iter(events).map(|event| self.spawn_open(event, true));
        let mut opened: Vec<Opened> =
            opening.buffered(OPENING).filter_map(|opened| async { opened.ok() }).collect().await;
        opened.sort_by_key(Opened::order);
        // A signer that was away, or a task that died, leaves something for the next sweep: then this was not all.
        let mut is_all =
            complete && opened.len() == count && !opened.iter().any(|o| matches!(o, Opened::Later));
        for opened in opened {
            is_all &= self.take(opened, Some(&relay), pending).await?;
        }
        self.drain(pending, 0).await?;
        if is_all {
            self.shared.store.write(Write::Cursor(relay.clone(), started_at_s)).await?;
            self.raise_floor(&relay).await?;
        }
        if count > 0 {
            tracing::debug!(%relay, count, complete, "swept");
        }
        // The pool may have let go of the relay meanwhile; the cursor is moved all the same.
        let _ = done.send(());
        Ok(())
    }

    /// The floor follows the oldest of the complete catch-ups, seven days behind.
    async fn raise_floor(&self, swept: &RelayUrl) -> Result<(), BackendError> {
        let store = &self.shared.store;
        let mut oldest_s = store.cursor(swept)?.unwrap_or(0);
        for relay in &self.relays {
            oldest_s = oldest_s.min(store.cursor(relay)?.unwrap_or(0));
        }
        let floor_s = oldest_s.saturating_sub(FLOOR_BEHIND_S);
        // A day's step is enough, and spares a write each sweep.
        if floor_s > store.floor_s()? + 24 * 3600 {
            store.write(Write::Floor(floor_s)).await?;
        }
        Ok(())
    }

    /// Tells those whom a durable decision concerns.
    async fn settled(&self, (verdicts, decided): (Vec<Verdict>, decide::Decided)) {
        // A unit may end with its mail, and then nothing that was to follow has landed.
        let is_whole = verdicts.len() > decided.also.len() && !verdicts.iter().any(Verdict::stops_unit);
        if !decided.also.is_empty() && is_whole {
            let after = After::of(&decided.also);
            self.shared.hooks.landed(after, verdicts.get(1..).unwrap_or_default(), &self.shared.outbox);
        }
        if !decided.also.is_empty() && verdicts.iter().any(Verdict::stops_unit) {
            // Somebody else decided the same at the same instant. It is asked for anew, and answered by what holds now.
            self.left.notify_one();
        }
        let Some(verdict) = verdicts.into_iter().next() else { return };
        match verdict {
            Verdict::Queued(_) => {
                self.engine.arrived(decided.agent).await;
                if let Some(peer) = decided.from {
                    // Asked ahead, so that the reply need not wait for it.
                    let directory = self.shared.directory.clone();
                    if directory.remembered(&peer).is_none() {
                        tokio::spawn(async move { directory.contact(&peer).await });
                    }
                }
                self.shared.notices.tell(|| decided.mail_in());
            }
            Verdict::Landed(range) => self.shared.outbox.nudge(range),
            Verdict::Refused(reason) => {
                tracing::info!(agent = decided.name, %reason, "mail refused");
                self.shared.notices.tell(|| decided.refused(&reason.to_string()));
            }
            Verdict::Buried(_) => {
                self.shared.notices.tell(|| decided.refused("inbox full: kept as a dead letter"))
            }
            Verdict::Done | Verdict::Duplicate | Verdict::Stale | Verdict::NameTaken | Verdict::NoAgent => {}
        }
    }
}

async fn next_opened(opening: &mut VecDeque<(RelayUrl, Opening)>) -> Option<(RelayUrl, Opened)> {
    let Some((_, task)) = opening.front_mut() else { return std::future::pending().await };
    let opened = task.await;
    let (relay, _) = opening.pop_front()?;
    match opened {
        Ok(opened) => Some((relay, opened)),
        Err(error) => {
            tracing::error!(%error, "opening an event ended badly");
            None
        }
    }
}

async fn next_verdicts(
    pending: &mut VecDeque<(Pending, decide::Decided)>,
) -> Result<(Vec<Verdict>, decide::Decided), BackendError> {
    let Some((front, _)) = pending.front_mut() else { return std::future::pending().await };
    let verdicts = front.wait().await;
    let decided = pending.pop_front().map(|(_, decided)| decided);
    let verdicts = verdicts?;
    decided.map(|decided| (verdicts, decided)).ok_or_else(|| BackendError::Stopped("no verdict".to_owned()))
}
