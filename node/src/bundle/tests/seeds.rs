//! What relays tell: what an agent answered, and which agents a seed has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oa_nips::hex::Hex;
use oa_nips::mail::{Draft, Protocol};
use oa_nips::nostr::filter::MatchEventOptions;
use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{Event, EventId, Filter, Keys, RelayUrl, Timestamp};
use oa_nips::port::{FetchError, Signer, Subscribe};
use oa_nips::profile::Profile;

use super::fixture::*;
use crate::agent::{AgentId, Lifecycle};
use crate::bundle::answered::{self, LookError};
use crate::bundle::rebuild::{Rebuild, RebuildError};
use crate::engine::Programs;
use crate::keyring::Keyring as _;
use crate::outbox;
use crate::signer::{Conversations, LocalSigner};
use crate::store::row::Outgoing;

/// Relays that answer the newest of what matches, and not more than some.
#[derive(Debug, Default)]
struct Relays {
    stored: BTreeMap<RelayUrl, Vec<Event>>,
    page: usize,
    asked: Mutex<usize>,
}

impl Subscribe for Relays {
    fn fetch<'a>(
        &'a self,
        relay: &'a RelayUrl,
        filter: Filter,
        _: Duration,
    ) -> BoxedFuture<'a, Result<Vec<Event>, FetchError>> {
        *self.asked.lock().unwrap() += 1;
        let found = self.stored.get(relay).map(|stored| {
            let mut found: Vec<Event> = stored
                .iter()
                .filter(|event| filter.match_event(event, MatchEventOptions::new()))
                .cloned()
                .collect();
            found.sort_by_key(|event| std::cmp::Reverse(event.created_at));
            found.truncate(self.page.min(filter.limit.unwrap_or(usize::MAX)));
            found
        });
        Box::pin(async move { found.ok_or_else(|| FetchError::NotConnected(relay.clone())) })
    }
}

fn url(name: &str) -> RelayUrl {
    RelayUrl::parse(&format!("wss://{name}.example")).unwrap()
}

/// What `from` sends to `to` in answer to a message, as its relays get it: the message, and the copy to itself.
async fn sent(
    from: &dyn Signer,
    to: &dyn Signer,
    answers: Option<u8>,
    protocol: Protocol,
    at_s: u64,
) -> Vec<Event> {
    let reply_to = answers.map(|n| EventId::from_slice(&[n; 32]).unwrap());
    let draft = Draft { reply_to, ..Draft::text(to.public_key(), "text", at_s * 1000) };
    let parcels = outbox::sign(&Outgoing::Mail { draft, protocol, relay: None }, from, at_s).await.unwrap();
    parcels.into_iter().map(|parcel| parcel.event).collect()
}

#[tokio::test]
async fn what_an_agent_answered_is_found_in_its_copies() {
    let (keys, at_s) = (keyring(), AT_MS / 1000);
    let agent = keys.agent(ID);
    let friend = LocalSigner::new(Keys::generate(), Conversations::default());
    let mut first = Vec::new();
    for n in 10..20 {
        first.extend(sent(&*agent, &friend, Some(n), Protocol::Nip17, at_s + u64::from(n)).await);
        first.extend(sent(&friend, &*agent, Some(n + 100), Protocol::Nip17, at_s).await);
    }
    first.extend(sent(&*agent, &friend, None, Protocol::Nip17, at_s).await);
    let mut second = sent(&*agent, &friend, Some(30), Protocol::Nip04, at_s + 1).await;
    second.extend(sent(&friend, &*agent, Some(130), Protocol::Nip04, at_s + 1).await);
    // Known from the first.
    second.extend(first.iter().take(3).cloned());
    let relays = Relays {
        stored: BTreeMap::from([(url("a"), first), (url("b"), second)]),
        page: 4,
        asked: Mutex::default(),
    };
    let found = answered::look(&relays, &[url("a"), url("b")], &*agent, at_s).await.unwrap();
    let expected = (10..20).chain([30]).map(|n| Hex([n; 32])).collect();
    assert_eq!(found.answered, expected);
    let count = |relay: &str| found.mail.get(&url(relay)).map_or(0, Vec::len);
    assert_eq!((count("a"), count("b")), (10, 1), "others' mail, once");
    assert!(*relays.asked.lock().unwrap() > 6, "page by page");
    // One relay that does not answer may be the one that knows.
    let error = answered::look(&relays, &[url("a"), url("c")], &*agent, at_s).await.unwrap_err();
    assert!(matches!(error, LookError::Fetch(FetchError::NotConnected(_))));
}

fn profile(number: u32, name: &str, at_s: u64) -> Event {
    let keys = crate::signer::Seed::from_words(WORDS).unwrap().agent(number).unwrap();
    let profile = Profile { name: name.into(), about: "an agent running echo".into(), nip05: None };
    profile.event(keys.public_key(), Timestamp::from_secs(at_s)).sign_with_keys(&keys).unwrap()
}

fn rebuild(stored: Vec<Event>) -> Rebuild {
    let relays = Relays { stored: BTreeMap::from([(url("a"), stored)]), page: 500, asked: Mutex::default() };
    Rebuild {
        store: memory(),
        keyring: Arc::new(keyring()),
        subscribe: Arc::new(relays),
        programs: Programs::default(),
        relays: vec![url("a"), url("away")],
        owner: someone(1),
        now_ms: AT_MS,
    }
}

#[tokio::test]
async fn the_agents_of_a_seed_come_back_from_bundles_and_profiles() {
    let from = memory();
    fill(&from).await;
    let stored = vec![
        profile(0, "old-name", 1),
        profile(0, "zero", 2),
        profile(2, "No Name!", 1),
        profile(3, "alice", 1),
        // Twenty after the last that is there, and twenty-two.
        profile(23, "zero", 1),
        profile(45, "too-far", 1),
    ];
    let rebuild = rebuild(stored);
    let store = rebuild.store.clone();
    let rebuilt = rebuild.run(vec![gather(&from, AT_MS)]).await.unwrap();
    let all: Vec<_> =
        rebuilt.iter().map(|agent| (agent.number.0, agent.name.as_str(), agent.is_whole)).collect();
    assert_eq!(all, [(0, "zero", false), (2, "agent-2", false), (3, "alice", true), (23, "agent-23", false)]);
    let alice = row(&store);
    assert_eq!(
        (alice.lifecycle, alice.head.seq),
        (Lifecycle::Stopped, 3),
        "it is looked up first what it answered"
    );
    let zero = store.agent(AgentId(0)).unwrap().unwrap();
    assert_eq!((zero.owner, zero.pubkey), (Some(someone(1)), keyring().agent(AgentId(0)).public_key()));
    assert_eq!(store.manifest(AgentId(0)).unwrap().unwrap().program, "echo");
    assert_eq!(store.next_agent_id().unwrap(), AgentId(24), "numbers never return");
}

#[tokio::test]
async fn nothing_is_rebuilt_by_halves() {
    let from = memory();
    fill(&from).await;
    let one = gather(&from, AT_MS);
    let twice = rebuild(Vec::new());
    let store = twice.store.clone();
    assert!(matches!(twice.run(vec![one.clone(), one.clone()]).await, Err(RebuildError::Twice(ID))));
    let nobody = Rebuild { relays: vec![url("away")], store: store.clone(), ..rebuild(Vec::new()) };
    assert!(matches!(nobody.run(vec![one.clone()]).await, Err(RebuildError::NoRelay)));
    let other = crate::keyring::SeedKeyring::new(crate::signer::Seed::generate(), Arc::default());
    let other = Rebuild { keyring: Arc::new(other), store: store.clone(), ..rebuild(Vec::new()) };
    assert!(matches!(other.run(vec![one]).await, Err(RebuildError::Admit(_))));
    assert_eq!(store.next_agent_id().unwrap(), AgentId(0));
    let full = Rebuild { store: from, ..rebuild(Vec::new()) };
    assert!(matches!(full.run(Vec::new()).await, Err(RebuildError::NotEmpty)));
}
