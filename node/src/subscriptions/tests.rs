//! What is asked of relays for agents' files, and whom an event wakes.

use oa_nips::nostr::{EventBuilder, Keys, Kind};

use super::*;
use crate::agent::manifest::Manifest;
use crate::keyring::SeedKeyring;
use crate::namespace::Path;
use crate::signer::Seed;
use crate::store::memory::MemoryBackend;
use crate::store::write::{AgentChange, NewAgent};

const NOW_S: u64 = 1_790_000_000;
const ALICE: AgentId = AgentId(1);

#[derive(Debug)]
struct Fixed;

impl Time for Fixed {
    fn now_ms(&self) -> u64 {
        NOW_S * 1000
    }
}

/// What stands at the pool, by name.
#[derive(Debug, Default)]
struct Stood(Mutex<BTreeMap<String, Filter>>);

impl Stands for Stood {
    fn stand(&self, name: &str, filter: Filter) {
        self.0.lock().unwrap().insert(name.to_owned(), filter);
    }

    fn unstand(&self, name: &str) {
        self.0.lock().unwrap().remove(name);
    }

    fn are_heard(&self) -> bool {
        true
    }
}

/// A node with one agent.
struct World {
    store: Store,
    stood: Arc<Stood>,
    subscriptions: Arc<Subscriptions>,
    events: mpsc::Receiver<Event>,
    key: PublicKey,
}

impl World {
    async fn new() -> Self {
        let store = Store::new(Arc::new(MemoryBackend::default())).unwrap();
        let (stood, key) = (Arc::new(Stood::default()), Keys::generate().public_key());
        let new = NewAgent {
            id: ALICE,
            pubkey: key,
            manifest: Manifest::new("alice", "echo"),
            session: Hex::ZERO,
            at_ms: NOW_S * 1000,
            profile: Vec::new(),
        };
        store.write(Write::CreateAgent(Box::new(new))).await.unwrap();
        let (subscriptions, events) = Subscriptions::new(store.clone(), stood.clone(), Arc::new(Fixed));
        Self { store, stood, subscriptions, events, key }
    }

    async fn file(&self, id: &str, content: Option<&str>) {
        let path: Path = format!("{FOLDER}{id}.json").parse().unwrap();
        let files = vec![(path, content.map(|content| content.as_bytes().to_vec()))];
        self.store.write(Write::Files(ALICE, files, Vec::new())).await.unwrap();
    }

    fn stands(&self) -> BTreeMap<String, Filter> {
        self.stood.0.lock().unwrap().clone()
    }

    fn waker(&self) -> (Waker, mpsc::Receiver<AgentId>) {
        let (sender, arrivals) = mpsc::channel(1000);
        let keyring = Arc::new(SeedKeyring::new(Seed::generate(), Arc::default()));
        let plumber = Arc::new(Plumber::new(self.store.clone(), keyring, Arc::default()));
        let arrived = move |agent| sender.try_send(agent).unwrap();
        (Waker::new(self.subscriptions.clone(), plumber, arrived), arrivals)
    }

    /// Takes an event and waits until it has landed, or not.
    async fn take(&self, waker: &mut Waker, event: Event) {
        waker.take(event).await;
        while !waker.pending.is_empty() {
            let settled = next(&mut waker.pending).await.unwrap();
            waker.settled(settled);
        }
    }

    fn waiting(&self) -> usize {
        let inbox = self.store.inbox(ALICE, 2000).unwrap();
        inbox
            .iter()
            .filter(|(_, waiting)| waiting.envelope.kind == crate::agent::envelope::Kind::Event)
            .count()
    }
}

fn note(text: &str, at_s: u64) -> Event {
    EventBuilder::text_note(text).custom_created_at(at_s.into()).sign_with_keys(&Keys::generate()).unwrap()
}

#[tokio::test]
async fn files_become_standing_filters_and_go_with_them() {
    let world = World::new().await;
    let since = NOW_S - 3600;
    world.file("a", Some(&format!(r#"{{"kinds":[1],"since":{since}}}"#))).await;
    world.file("b", Some("of another release")).await;
    world.subscriptions.refresh(ALICE);
    let notes = Filter::new().kind(Kind::TextNote);
    let expected = notes.clone().since((since - SLACK_S).into()).limit(STORED_MAX);
    assert_eq!(world.stands(), BTreeMap::from([("sub:1:a".to_owned(), expected)]));
    // After a start, from when relays were last heard; never from further back than is remembered.
    world.file("old", Some(r#"{"kinds":[1],"since":5,"limit":7}"#)).await;
    world.subscriptions.refresh_since(ALICE, 5);
    let oldest = NOW_S - BEHIND_S_MAX - SLACK_S;
    assert_eq!(world.stands()["sub:1:old"], notes.since(oldest.into()).limit(7));
    world.file("a", None).await;
    world.subscriptions.refresh(ALICE);
    assert_eq!(world.stands().into_keys().collect::<Vec<_>>(), ["sub:1:old"]);
    world.store.write(Write::ChangeAgent(ALICE, AgentChange::Remove)).await.unwrap();
    world.subscriptions.refresh(ALICE);
    assert_eq!(world.stands(), BTreeMap::new());
}

#[tokio::test]
async fn after_a_start_all_who_subscribed_are_listened_for_from_the_last_note_on() {
    let world = World::new().await;
    world.file("a", Some(r#"{"kinds":[1],"since":5}"#)).await;
    let (waker, _arrivals) = world.waker();
    world.subscriptions.refresh(ALICE);
    waker.note(false).await.unwrap();
    assert_eq!(world.store.meta(HEARD).unwrap(), None, "something waits to be looked at");
    waker.note(true).await.unwrap();
    let (again, _) = Subscriptions::new(world.store.clone(), world.stood.clone(), Arc::new(Fixed));
    let waker = Waker { subscriptions: again.clone(), ..waker };
    waker.load(&CancellationToken::new()).await.unwrap();
    assert_eq!(world.stands()["sub:1:a"].since, Some((NOW_S - OVERLAP_S - SLACK_S).into()));
    assert_eq!(again.totals(), (1, 0));
}

#[tokio::test]
async fn an_event_wakes_an_agent_once_and_a_forged_one_nobody() {
    let mut world = World::new().await;
    world.file("a", Some(r#"{"kinds":[1],"since":5}"#)).await;
    world.file("b", Some(r#"{"kinds":[1,7],"since":5}"#)).await;
    world.subscriptions.refresh(ALICE);
    let (mut waker, mut arrivals) = world.waker();
    let event = note("hello", NOW_S);
    world.subscriptions.hear(event.clone());
    world
        .subscriptions
        .hear(EventBuilder::new(Kind::Reaction, "+").sign_with_keys(&Keys::generate()).unwrap());
    world
        .subscriptions
        .hear(EventBuilder::new(Kind::LongFormTextNote, "").sign_with_keys(&Keys::generate()).unwrap());
    assert_eq!(world.events.try_recv().unwrap(), event);
    assert!(world.events.try_recv().is_ok() && world.events.try_recv().is_err(), "the article is nobody's");

    let mut forged = event.clone();
    forged.content = "goodbye".to_owned();
    world.take(&mut waker, forged).await;
    assert_eq!(world.waiting(), 0);
    world.take(&mut waker, event.clone()).await;
    world.take(&mut waker, event.clone()).await;
    assert_eq!((world.waiting(), arrivals.try_recv()), (1, Ok(ALICE)));
    let envelope = world.store.inbox(ALICE, 9).unwrap().pop().unwrap().1.envelope;
    let heard = envelope.heard.clone().unwrap();
    assert_eq!((heard.author, heard.subscriptions), (event.pubkey, vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(
        (envelope.sender(), envelope.origin.is_none(), envelope.text.as_str()),
        (Some(event.pubkey), true, "")
    );
    assert_eq!(serde_json::from_value::<Event>(envelope.data.unwrap()).unwrap(), event);
    // Also by another process, which remembers nothing but the store.
    let (mut other, _arrivals) = world.waker();
    world.take(&mut other, event).await;
    assert_eq!(world.waiting(), 1);
}

#[tokio::test]
async fn what_is_out_of_time_too_large_or_the_agents_own_wakes_nobody() {
    let world = World::new().await;
    world.file("a", Some(r#"{"kinds":[1],"since":5}"#)).await;
    world.subscriptions.refresh(ALICE);
    let (mut waker, _arrivals) = world.waker();
    for event in [
        note("old", NOW_S - BEHIND_S_MAX - 1),
        note("early", NOW_S + FUTURE_S_MAX + 1),
        note(&"x".repeat(EVENT_BYTES_MAX), NOW_S),
    ] {
        world.take(&mut waker, event).await;
    }
    assert_eq!(world.waiting(), 0);
    let status = world.subscriptions.status(ALICE);
    assert_eq!(status["a"]["held_back"], 1, "the large one; the others are nobody's affair");
    assert!(world.subscriptions.index().matches(&note("x", NOW_S)).contains_key(&ALICE));
    let mut own = note("x", NOW_S);
    own.pubkey = world.key;
    assert!(world.subscriptions.index().matches(&own).is_empty());
}

#[tokio::test]
async fn a_flood_is_held_back_and_never_fills_the_inbox() {
    let world = World::new().await;
    for id in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] {
        world.file(id, Some(&format!(r##"{{"kinds":[1],"#t":["{id}"],"since":5}}"##))).await;
    }
    world.subscriptions.refresh(ALICE);
    let (mut waker, _arrivals) = world.waker();
    for n in 0..700_u32 {
        let tag = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"][(n % 10) as usize];
        let event = EventBuilder::text_note(n.to_string()).tag(oa_nips::nostr::Tag::hashtag(tag));
        let event = event.custom_created_at(NOW_S.into()).sign_with_keys(&Keys::generate()).unwrap();
        world.take(&mut waker, event).await;
    }
    // 60 for each of ten subscriptions would be 600; strangers have half of the inbox.
    assert_eq!(world.waiting(), 500);
    let status = world.subscriptions.status(ALICE);
    let held_back: u64 =
        status.as_object().unwrap().values().map(|sub| sub["held_back"].as_u64().unwrap()).sum();
    assert_eq!(held_back, 200, "what did not get through is counted");
    let row = world.store.agent(ALICE).unwrap().unwrap();
    assert_eq!((row.inbox_strangers, row.refused_next), (500, 0));
}
