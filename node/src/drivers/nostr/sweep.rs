//! The catch-up of one relay: finds what it has and the node has not dealt with, and hands it over in batches.
//!
//! One task a sweep, started and awaited by the connection, which it asks through its [`Link`] like anybody else. It
//! ends with the connection. Nothing it has found is kept when it fails: the next sweep finds it again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use oa_nips::nostr::filter::MatchEventOptions;
use oa_nips::nostr::{Event, EventId, Filter, Kind, PublicKey, RelayUrl, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::link::{End, Link, Negotiated};
use super::negentropy::{Reconciler, Step};
use super::paging::{Next, PAGE_EVENTS, Pager};
use super::session::{Scope, size};
use super::wanted::Wanted;
use super::{Incoming, Ledger, Limits, MAIL_KINDS, Sweep, SweepConfig, verify};

/// Ids of one fetch: relays cap filters, and the answer stays under 20 MiB.
const FETCH_IDS: usize = 250;
/// For one fetch, and for each message of a reconciliation after the first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Events one sweep looks for: 200,000 ids are some 20 MB. If there are more, another sweep follows at once.
const MISSING_MAX: usize = 200_000;
/// Bytes of events in one batch, and of those kept from paging until their batch.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// Mail for nobody here that is remembered, so that a wide subscription does not fetch it again each minute.
const ASIDE_MAX: usize = 100_000;
/// Asked for when a second is read in parts.
const SPLIT_EVENTS: usize = 5_000;

/// One sweep to be done.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) relay: RelayUrl,
    pub(super) link: Link,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) incoming: mpsc::Sender<Incoming>,
    pub(super) wanted: watch::Receiver<Wanted>,
    pub(super) config: SweepConfig,
    pub(super) limits: Limits,
    pub(super) scopes: Vec<Scope>,
    /// Whether to try NIP-77 first.
    pub(super) negentropy: bool,
    pub(super) aside: Aside,
}

/// How a sweep went.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) result: Result<Swept, Stop>,
    /// Whether the relay was found to know NIP-77, or is still taken to.
    pub(super) negentropy: bool,
    pub(super) aside: Aside,
}

/// A sweep that came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Swept {
    pub(super) started_at_s: u64,
    /// Whether everything was handed over; else another sweep should follow.
    pub(super) complete: bool,
}

/// Why a sweep stopped in the midst.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    #[error("the store failed: {0}")]
    Ledger(String),
    #[error("the relay did not answer: {0:?}")]
    Relay(End),
    #[error("the reconciliation failed: {0}")]
    Reconciliation(#[from] super::negentropy::Error),
    #[error("the batch was not committed")]
    NotCommitted,
    #[error("the task ended")]
    Task(#[from] tokio::task::JoinError),
}

/// Mail on the relay that is for nobody here, by id, with its `created_at`.
#[derive(Debug, Default)]
pub(super) struct Aside {
    ids: HashMap<EventId, u64>,
    /// What was wanted when it was found to be for nobody.
    version: u64,
}

impl Aside {
    /// Forgets what is too old to be asked about, and all of it when others are listened for now.
    fn refresh(&mut self, since_s: u64, version: u64) {
        if self.version != version {
            *self = Self { ids: HashMap::new(), version };
        }
        self.ids.retain(|_, at| *at >= since_s);
    }

    fn add(&mut self, event: &Event) {
        if self.ids.len() < ASIDE_MAX {
            self.ids.insert(event.id, event.created_at.as_secs());
        }
    }
}

/// What was found missing.
#[derive(Debug, Default)]
struct Missing {
    seen: HashSet<EventId>,
    found: Vec<Found>,
    /// Events that came with paging, as far as there is room.
    bodies: HashMap<EventId, Event>,
    bodies_bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Found {
    /// Index of the scope it was found in.
    scope: usize,
    /// Known from paging; reconciliation gives ids alone, about in order of time.
    at_s: u64,
    id: EventId,
}

impl Missing {
    fn room(&self) -> usize {
        MISSING_MAX.saturating_sub(self.found.len())
    }

    fn add(&mut self, scope: usize, at_s: u64, id: EventId) {
        if self.room() > 0 && self.seen.insert(id) {
            self.found.push(Found { scope, at_s, id });
        }
    }

    fn keep(&mut self, event: Event) {
        let bytes = self.bodies_bytes + size(&event);
        if bytes <= BATCH_BYTES_MAX {
            self.bodies_bytes = bytes;
            self.bodies.insert(event.id, event);
        }
    }
}

/// Does it.
pub(super) async fn run(mut job: Job) -> Outcome {
    let result = job.sweep().await;
    job.link.negotiate_end().await;
    Outcome { result, negentropy: job.negentropy, aside: job.aside }
}

/// Seconds since 1970, by this machine.
pub(super) fn unix_now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|since| since.as_secs()).unwrap_or_default()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Stop> {
    Ok(tokio::task::spawn_blocking(work).await?)
}

impl Job {
    async fn sweep(&mut self) -> Result<Swept, Stop> {
        let started_at_s = unix_now_s();
        let (ledger, relay) = (Arc::clone(&self.ledger), self.relay.clone());
        let cursor = blocking(move || ledger.cursor(&relay)).await?.map_err(Stop::Ledger)?;
        let since_s = cursor.unwrap_or(started_at_s).saturating_sub(self.config.lookback_s);
        self.aside.refresh(since_s, self.wanted.borrow().version());
        let mut missing = Missing::default();
        for index in 0..self.scopes.len() {
            if self.negentropy {
                self.negentropy = self.reconcile(index, since_s, &mut missing).await?;
            }
            if !self.negentropy {
                self.page(index, since_s, &mut missing).await?;
            }
        }
        tracing::debug!(missing = missing.found.len(), since_s, negentropy = self.negentropy, "compared");
        self.hand_over(missing, started_at_s).await
    }

    fn filter(&self, scope: usize) -> Filter {
        let filter = Filter::new().kinds(MAIL_KINDS);
        match self.keys(scope) {
            Some(keys) => filter.pubkeys(keys.iter().copied()),
            None => filter,
        }
    }

    fn keys(&self, scope: usize) -> Option<&[PublicKey]> {
        match self.scopes.get(scope) {
            Some(Scope::Keys(keys)) => Some(keys),
            _ => None,
        }
    }

    /// Finds what is missing by NIP-77; `false` if the relay does not know it.
    async fn reconcile(&self, scope: usize, since_s: u64, missing: &mut Missing) -> Result<bool, Stop> {
        let (ledger, keys, room) =
            (Arc::clone(&self.ledger), self.keys(scope).map(<[_]>::to_vec), missing.room());
        let aside: Vec<_> = self.aside.ids.iter().map(|(id, at)| (*at, *id)).collect();
        let (mut reconciler, mut message) = blocking(move || {
            let handled = ledger.handled(since_s, keys.as_deref()).map_err(Stop::Ledger)?;
            let known = handled.into_iter().filter(|(at, _)| *at >= since_s).chain(aside);
            Ok::<_, Stop>(Reconciler::start(known, room)?)
        })
        .await??;
        let mut open = Some(self.filter(scope).since(Timestamp::from_secs(since_s)));
        let mut patience = self.limits.negentropy_timeout;
        loop {
            let first = open.is_some();
            let answer = self.link.negotiate(open.take(), message, Instant::now() + patience).await;
            let step = match answer {
                Negotiated::Message(answer) => {
                    let (back, step) = blocking(move || {
                        let step = reconciler.step(&answer);
                        (reconciler, step)
                    })
                    .await?;
                    reconciler = back;
                    step?
                }
                Negotiated::Refused(reason) if first => {
                    tracing::debug!(reason, "no reconciliation, paging instead");
                    return Ok(false);
                }
                Negotiated::Silent if first => {
                    tracing::debug!("no answer to a reconciliation, paging instead");
                    return Ok(false);
                }
                Negotiated::Refused(reason) => return Err(Stop::Relay(End::Closed(reason))),
                Negotiated::Silent => return Err(Stop::Relay(End::TimedOut)),
                Negotiated::Down(reason) => return Err(Stop::Relay(End::Down(reason))),
            };
            match step {
                Step::Ask(next) => message = next,
                Step::Done => break,
            }
            patience = ANSWER_TIMEOUT;
        }
        reconciler.into_needed().into_iter().for_each(|id| missing.add(scope, 0, id));
        Ok(true)
    }

    /// Finds what is missing by reading all of it.
    async fn page(&self, scope: usize, since_s: u64, missing: &mut Missing) -> Result<(), Stop> {
        let mut pager = Pager::new(since_s);
        while missing.room() > 0 {
            let mut filter = self.filter(scope).since(Timestamp::from_secs(since_s)).limit(PAGE_EVENTS);
            filter.until = pager.until_s().map(Timestamp::from_secs);
            let events = self.fetch(filter).await?;
            let page = pager.page(events.iter().map(|event| (event.created_at.as_secs(), event.id)));
            let new: HashSet<_> = page.new.into_iter().map(|(_, id)| id).collect();
            let new = events.into_iter().filter(|event| new.contains(&event.id)).collect();
            self.keep_missing(scope, new, missing).await?;
            match page.next {
                Next::Page => {}
                Next::Split { second, last } => {
                    self.page_second(scope, second, &pager, missing).await?;
                    if last {
                        break;
                    }
                }
                Next::Done => break,
            }
        }
        Ok(())
    }

    /// Reads one second in parts, by kind and then by ever fewer recipients: it holds more than the relay gives.
    async fn page_second(
        &self,
        scope: usize,
        second: u64,
        pager: &Pager,
        missing: &mut Missing,
    ) -> Result<(), Stop> {
        let keys = self.keys(scope).map(<[_]>::to_vec);
        let mut parts: Vec<(Kind, Option<Vec<PublicKey>>)> =
            MAIL_KINDS.into_iter().map(|kind| (kind, keys.clone())).collect();
        while let Some((kind, keys)) = parts.pop() {
            let at = Timestamp::from_secs(second);
            let mut filter = Filter::new().kind(kind).since(at).until(at).limit(SPLIT_EVENTS);
            if let Some(keys) = &keys {
                filter = filter.pubkeys(keys.iter().copied());
            }
            let events = self.fetch(filter).await?;
            let cut = pager.is_cut(events.len(), SPLIT_EVENTS);
            self.keep_missing(scope, events, missing).await?;
            match keys {
                Some(mut keys) if cut && keys.len() > 1 => {
                    let half = keys.split_off(keys.len() / 2);
                    parts.extend([(kind, Some(keys)), (kind, Some(half))]);
                }
                _ if cut => tracing::warn!(second, "more mail in one second than the relay gives"),
                _ => {}
            }
        }
        Ok(())
    }

    async fn keep_missing(
        &self,
        scope: usize,
        events: Vec<Event>,
        missing: &mut Missing,
    ) -> Result<(), Stop> {
        let unknown = self.unhandled(events.iter().map(|event| event.id).collect()).await?;
        for event in events.into_iter().filter(|event| unknown.contains(&event.id)) {
            missing.add(scope, event.created_at.as_secs(), event.id);
            missing.keep(event);
        }
        Ok(())
    }

    /// Those that the node has not dealt with by now, and that are not known to be for nobody.
    async fn unhandled(&self, ids: Vec<EventId>) -> Result<HashSet<EventId>, Stop> {
        let ids: Vec<_> = ids.into_iter().filter(|id| !self.aside.ids.contains_key(id)).collect();
        let ledger = Arc::clone(&self.ledger);
        blocking(move || {
            let mut unknown = HashSet::new();
            for id in ids {
                if !ledger.is_handled(&id).map_err(Stop::Ledger)? {
                    unknown.insert(id);
                }
            }
            Ok(unknown)
        })
        .await?
    }

    /// One complete answer of the relay, without what does not match.
    async fn fetch(&self, filter: Filter) -> Result<Vec<Event>, Stop> {
        let mut fetched = self.link.fetch(filter.clone(), Instant::now() + ANSWER_TIMEOUT).await;
        match fetched.end {
            End::Eose => {
                fetched.events.retain(|event| filter.match_event(event, MatchEventOptions::new()));
                Ok(fetched.events)
            }
            end => Err(Stop::Relay(end)),
        }
    }

    /// Hands over all that is missing, a batch at a time, each when the one before is committed.
    async fn hand_over(&mut self, mut missing: Missing, started_at_s: u64) -> Result<Swept, Stop> {
        let complete = missing.room() > 0;
        missing.found.sort_by_key(|found| found.at_s); // stable: by id alone stays in the order it was found in
        let mut batch = Vec::new();
        let found = std::mem::take(&mut missing.found);
        for window in found.chunks(self.limits.batch_events_max.max(1)) {
            if !batch.is_empty() {
                self.commit(std::mem::take(&mut batch), started_at_s, false).await?;
            }
            let unknown = self.unhandled(window.iter().map(|found| found.id).collect()).await?;
            let (mut by_scope, mut bytes) = (HashMap::<usize, Vec<EventId>>::new(), 0);
            for found in window.iter().filter(|found| unknown.contains(&found.id)) {
                match missing.bodies.remove(&found.id) {
                    Some(event) => batch.extend(self.sift(vec![event]).await),
                    None => by_scope.entry(found.scope).or_default().push(found.id),
                }
            }
            for (scope, ids) in by_scope {
                for ids in ids.chunks(FETCH_IDS) {
                    let events = self.fetch_ids(scope, ids).await?;
                    bytes += events.iter().map(size).sum::<usize>();
                    batch.extend(self.sift(events).await);
                    if bytes > BATCH_BYTES_MAX {
                        bytes = 0;
                        self.commit(std::mem::take(&mut batch), started_at_s, false).await?;
                    }
                }
            }
        }
        self.commit(batch, started_at_s, complete).await?;
        Ok(Swept { started_at_s, complete })
    }

    /// Events by id. A relay that gives fewer at a time than asked for is asked again for the rest.
    async fn fetch_ids(&self, scope: usize, ids: &[EventId]) -> Result<Vec<Event>, Stop> {
        let mut open: HashSet<_> = ids.iter().copied().collect();
        let mut got = Vec::new();
        while !open.is_empty() {
            let filter = self.filter(scope).ids(open.iter().copied()).limit(open.len());
            let events = self.fetch(filter).await?;
            let before = open.len();
            got.extend(events.into_iter().filter(|event| open.remove(&event.id)));
            if open.len() == before {
                tracing::debug!(gone = before, "the relay does not give what it has named");
                break;
            }
        }
        Ok(got)
    }

    /// The genuine ones that are for somebody here.
    async fn sift(&mut self, events: Vec<Event>) -> Vec<Event> {
        let mut events = verify::genuine(events).await;
        let wanted = self.wanted.borrow();
        events.retain(|event| {
            let ours = wanted.is_for_us(event);
            if !ours {
                self.aside.add(event);
            }
            ours
        });
        events
    }

    async fn commit(&self, mut events: Vec<Event>, started_at_s: u64, complete: bool) -> Result<(), Stop> {
        events.sort_by_key(|event| (event.created_at, event.id));
        let (done, committed) = oneshot::channel();
        let sweep = Sweep { relay: self.relay.clone(), started_at_s, events, complete, done };
        self.incoming.send(Incoming::Sweep(sweep)).await.map_err(|_| Stop::NotCommitted)?;
        committed.await.map_err(|_| Stop::NotCommitted)
    }
}
