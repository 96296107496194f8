//! Shows agents to the public whose owners want that: what happened since the last batch goes out as one ephemeral
//! event (kind 25933), signed once for all who look on, at most twice a second, in the fields that are allowed.
//!
//! Nobody depends on it: a batch that no relay takes is not sent again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oa_nips::hud::{Batch, EVENTS_MAX};
use oa_nips::nostr::{PublicKey, RelayUrl, Timestamp};
use oa_nips::port::Publish;
use serde_json::{Map, Value};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Feeds;
use crate::agent::AgentId;
use crate::agent::manifest::Hud;
use crate::keyring::Keyring;
use crate::store::row::AgentRow;
use crate::tenure::Tenure;

/// How often batches go out: twice a second.
const EVERY: Duration = Duration::from_millis(500);
/// Agents shown in one go; the others follow, and their batches say what was left out.
const AGENTS_MAX: usize = 64;
/// Batches on their way at once; while there are so many none is added.
const SENDING_MAX: usize = 256;
/// How long a signer and then each relay may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// What the public is to be shown.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<BTreeMap<AgentId, (PublicKey, Batch)>>);

impl Waiting {
    fn batches(&self) -> MutexGuard<'_, BTreeMap<AgentId, (PublicKey, Batch)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what the public may see of an event.
    pub(super) fn add(&self, row: &AgentRow, hud: &Hud, event: &Map<String, Value>) {
        let mut batches = self.batches();
        let empty = || (row.pubkey, Batch { v: 1, session: row.session, events: Vec::new(), left_out: 0 });
        let (_, batch) = batches.entry(row.id).or_insert_with(empty);
        if batch.events.len() >= EVENTS_MAX {
            batch.left_out += 1;
            return;
        }
        let shown = event.iter().filter(|(field, _)| hud.shows(field));
        batch.events.push(shown.map(|(field, value)| (field.clone(), value.clone())).collect());
    }

    /// Takes the batches of the next agents after this one.
    fn take(&self, after: AgentId) -> Vec<(AgentId, PublicKey, Batch)> {
        let mut batches = self.batches();
        let later = batches.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded));
        let earlier = batches.range(..=after);
        let next: Vec<AgentId> = later.chain(earlier).map(|(agent, _)| *agent).take(AGENTS_MAX).collect();
        let taken = next.into_iter().filter_map(|agent| Some((agent, batches.remove(&agent)?)));
        taken.map(|(agent, (key, batch))| (agent, key, batch)).collect()
    }
}

/// What publishing stands on.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) feeds: Arc<Feeds>,
    pub(crate) keyring: Arc<dyn Keyring>,
    pub(crate) publish: Arc<dyn Publish>,
    /// Where batches go.
    pub(crate) relays: Vec<RelayUrl>,
    /// Under whose lease: without it nothing is shown.
    pub(crate) tenure: Tenure,
}

/// Starts publishing; it ends when `cancel` does.
pub(crate) fn publish(publisher: Publisher, cancel: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let publisher = Arc::new(publisher);
        let (mut sending, mut last) = (JoinSet::new(), AgentId(0));
        let mut every = tokio::time::interval(EVERY);
        // Late is late: two batches never follow one another sooner.
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                _ = every.tick() => {}
            }
            while sending.try_join_next().is_some() {}
            if sending.len() >= SENDING_MAX {
                continue;
            }
            for (agent, key, batch) in publisher.feeds.public.take(last) {
                last = agent;
                let publisher = publisher.clone();
                sending.spawn(async move { publisher.send(agent, key, batch).await });
            }
        }
    })
}

impl Publisher {
    async fn send(&self, agent: AgentId, key: PublicKey, batch: Batch) {
        if self.tenure.epoch_of(agent).is_none() {
            return tracing::debug!(%agent, "not shown: another node may hold the lease");
        }
        let at = Timestamp::from_secs(self.feeds.time.now_ms() / 1000);
        let signer = self.keyring.agent(agent);
        let event = match tokio::time::timeout(DEADLINE, signer.sign(batch.event(key, at))).await {
            Ok(Ok(event)) => event,
            Ok(Err(error)) => return tracing::debug!(%agent, %error, "not shown: not signed"),
            Err(_) => return tracing::debug!(%agent, "not shown: the signer is slow"),
        };
        let sendings = self.relays.iter().map(|relay| self.publish.publish(relay, &event, DEADLINE));
        futures_util::future::join_all(sendings).await;
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::util::BoxedFuture;
    use oa_nips::nostr::{Event, Keys};
    use oa_nips::port::Ack;
    use serde_json::json;
    use tokio::time::Instant;

    use super::super::hud;
    use super::*;
    use crate::keyring::{Addresses, SeedKeyring};
    use crate::signer::Seed;
    use crate::store::Store;
    use crate::store::memory::MemoryBackend;
    use crate::time::System;

    fn row(agent: u32) -> AgentRow {
        AgentRow::new(AgentId(agent), Keys::generate().public_key(), 0)
    }

    fn event(row: &AgentRow) -> Map<String, Value> {
        hud::event("tick_end", row, 7, json!({ "outcome": "done", "path": "/x", "message": "words" }))
    }

    #[test]
    fn the_public_sees_the_fields_that_are_allowed_and_how_many_events_it_does_not_see() {
        let (waiting, row, hud) = (Waiting::default(), row(1), Hud::default());
        for _ in 0..EVENTS_MAX + 3 {
            waiting.add(&row, &hud, &event(&row));
        }
        let taken = waiting.take(AgentId(0));
        let [(_, key, batch)] = taken.as_slice() else { panic!("{taken:?}") };
        assert_eq!((*key, batch.events.len(), batch.left_out), (row.pubkey, EVENTS_MAX, 3));
        let fields: Vec<&String> = batch.events[0].keys().collect();
        assert_eq!(fields, ["outcome", "session_id", "tick_id", "timestamp", "type"]);
        assert!(waiting.take(AgentId(0)).is_empty());
    }

    #[test]
    fn agents_take_turns() {
        let waiting = Waiting::default();
        let rows: Vec<AgentRow> = (0..100).map(row).collect();
        let fill = || rows.iter().for_each(|row| waiting.add(row, &Hud::default(), &event(row)));
        fill();
        let first: Vec<u32> = waiting.take(AgentId(0)).into_iter().map(|(agent, ..)| agent.0).collect();
        assert_eq!(first, (1..=64).collect::<Vec<_>>());
        fill();
        let second: Vec<u32> = waiting.take(AgentId(64)).into_iter().map(|(agent, ..)| agent.0).collect();
        assert_eq!(second, (65..100).chain(0..29).collect::<Vec<_>>());
    }

    /// Keeps what is sent, and when.
    #[derive(Debug, Default)]
    struct Sent(Mutex<Vec<(Instant, Event)>>);

    impl Publish for Sent {
        fn publish<'a>(&'a self, _: &'a RelayUrl, event: &'a Event, _: Duration) -> BoxedFuture<'a, Ack> {
            self.0.lock().unwrap().push((Instant::now(), event.clone()));
            Box::pin(async { Ack::Accepted })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_two_batches_a_second_go_out_signed_by_the_agent() {
        let store = Store::new(Arc::new(MemoryBackend::default())).unwrap();
        let feeds = Arc::new(Feeds::new(store, Arc::new(System)));
        let keyring = Arc::new(SeedKeyring::new(Seed::generate(), Arc::new(Addresses::default())));
        let row = AgentRow { pubkey: keyring.agent(AgentId(1)).public_key(), ..row(1) };
        let (sent, cancel) = (Arc::new(Sent::default()), CancellationToken::new());
        let relays = vec![RelayUrl::parse("wss://r.example").unwrap()];
        let tenure = Tenure::alone(Arc::new(System));
        let publisher = Publisher { feeds: feeds.clone(), keyring, publish: sent.clone(), relays, tenure };
        let task = publish(publisher, cancel.clone());
        let (began, hud) = (Instant::now(), Hud { public: true, ..Hud::default() });
        while began.elapsed() < Duration::from_secs(10) {
            feeds.push_hud(&row, &hud, "tick_end", json!({ "outcome": "done" }));
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        cancel.cancel();
        task.await.unwrap();
        let sent = sent.0.lock().unwrap();
        assert!((15..=21).contains(&sent.len()), "{}", sent.len());
        for two in sent.windows(2) {
            assert!(two[1].0 - two[0].0 >= EVERY, "{two:?}");
        }
        for (_, event) in sent.iter() {
            assert!(event.verify().is_ok() && event.pubkey == row.pubkey);
            assert!(!Batch::read(&event.content).unwrap().events.is_empty());
        }
    }
}
