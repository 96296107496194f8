//! Finds agents: by what they can do (kind 39200), and by name (NIP-05).
//!
//! What relays answer is anybody's: signatures are checked, an owner is shown by their own word only, and what does
//! not have the capability is left out. What was found is remembered for a minute.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use oa_nips::discovery::{self, AgentProfile, Capability};
use oa_nips::files::Code;
use oa_nips::nip05::{Found, Name};
use oa_nips::nostr::types::url::Url;
use oa_nips::nostr::{Event, Filter, PublicKey, RelayUrl, ToBech32};
use oa_nips::port::Subscribe;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::agent::mailbox::FUTURE_S_MAX;
use crate::agent::manifest::{Manifest, Method};
use crate::drivers::http::Client;
use crate::names::Names;
use crate::namespace::error::Error;
use crate::namespace::rights::Role;
use crate::namespace::service::Context;
use crate::serve::Door;
use crate::store::Store;
use crate::time::Time;

/// Longest request, in bytes.
const REQUEST_BYTES_MAX: usize = 4 * 1024;
/// Until what has come is answered; with a name's look-up before it under the ten seconds of a call.
const DEADLINE: Duration = Duration::from_secs(4);
/// Profiles asked of one relay, which must be verified: 200 take some 10 ms.
const ASKED_MAX: usize = 200;
/// Agents in one answer, and without a limit.
const LIMIT_MAX: usize = 100;
const LIMIT: usize = 20;
/// What was found for a capability is remembered so long, for so many; beyond that all is forgotten.
const KNOWN_FOR: Duration = Duration::from_secs(60);
const KNOWN_MAX: usize = 256;

/// What somebody looks for: one of the two.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    capability: Option<Capability>,
    #[serde(default)]
    name: Option<String>,
    /// Agents at most.
    #[serde(default)]
    limit: Option<usize>,
}

impl Wanted {
    fn parse(request: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(request)
    }
}

/// Whether a request to find somebody is one to a domain; what cannot be read will be refused.
pub(crate) fn asks_a_domain(request: &[u8]) -> bool {
    Wanted::parse(request).is_ok_and(|wanted| wanted.name.is_some())
}

/// What was found, and until when it is remembered.
type Known = (Instant, Arc<[Value]>);

/// Which domains may be asked whose a name is: a name is a request to a host, with words of the asker's in it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reach<'a> {
    /// Any: an operator asks.
    Any,
    /// Those that the agent's requests may go to, each counted as one of them.
    Requests(&'a Context<'a>, &'a Manifest),
}

impl Reach<'_> {
    /// That of whoever asks in an agent's tree, or the node's.
    pub(crate) fn of<'a>(cx: &'a Context<'a>) -> Reach<'a> {
        match cx.subject {
            Some(subject) if cx.role != Role::Operator => Reach::Requests(cx, subject.manifest),
            _ => Reach::Any,
        }
    }

    /// Whether a name's domain may be asked, by the scheme that is tried there.
    fn admit(self, name: &Name) -> Result<(), String> {
        let Self::Requests(_, manifest) = self else { return Ok(()) };
        Door::stands(manifest)?;
        let admit = |scheme| {
            let url = Url::parse(&format!("{scheme}://{}", name.place()));
            let url = url.map_err(|_| format!("{} makes no address", name.domain()))?;
            Door::admit(&manifest.http, Method::Get, &url)
        };
        admit("http").or_else(|_| admit("https"))
    }
}

/// Finds agents for whoever asks.
#[derive(Debug)]
pub(crate) struct Finder {
    subscribe: Arc<dyn Subscribe>,
    /// The node's own relays.
    relays: Arc<[RelayUrl]>,
    names: Names,
    /// What agents' requests are counted at.
    door: Door,
    time: Arc<dyn Time>,
    known: Mutex<HashMap<Capability, Known>>,
}

impl Finder {
    pub(crate) fn new(
        subscribe: Arc<dyn Subscribe>,
        relays: Arc<[RelayUrl]>,
        http: Arc<Client>,
        store: Store,
        time: Arc<dyn Time>,
    ) -> Self {
        let (names, door) = (Names::new(http), Door::new(store, time.clone()));
        Self { subscribe, relays, names, door, time, known: Mutex::default() }
    }

    /// Answers a request, which is JSON, with a list.
    ///
    /// # Errors
    /// When it cannot be read, no relay answers, or nobody knows whose a name is.
    pub(crate) async fn find(&self, path: &str, request: &[u8], reach: Reach<'_>) -> Result<Vec<u8>, Error> {
        if request.len() > REQUEST_BYTES_MAX {
            return Err(Error::too_large(path, REQUEST_BYTES_MAX));
        }
        let wanted = Wanted::parse(request)
            .map_err(|error| Error::invalid(path, format!("takes a capability or a name: {error}")))?;
        let limit = wanted.limit.unwrap_or(LIMIT).min(LIMIT_MAX);
        let found = match (wanted.capability, wanted.name) {
            (Some(capability), None) => {
                self.able(path, &capability).await?.iter().take(limit).cloned().collect()
            }
            (None, Some(name)) => vec![self.named(path, &name, reach).await?],
            _ => return Err(Error::invalid(path, "takes a capability or a name, one of them")),
        };
        Ok(Value::from(found).to_string().into_bytes())
    }

    /// Whose a name is.
    ///
    /// # Errors
    /// When the text is no name, or its domain does not tell.
    pub(crate) async fn who(&self, path: &str, name: &str, reach: Reach<'_>) -> Result<(Name, Found), Error> {
        let name: Name = name.parse().map_err(|error| Error::invalid(path, format!("{name:?}: {error}")))?;
        if let Err(reason) = reach.admit(&name) {
            let reason = format!("{} may not be asked whose a name is: {reason}", name.domain());
            return Err(Error::new(Code::PermissionDenied, path, reason));
        }
        // What is remembered is no request.
        if let Reach::Requests(cx, _) = reach
            && !self.names.remembers(&name)
        {
            self.door.count(cx).await.map_err(|error| Error { path: path.to_owned(), ..error })?;
        }
        match self.names.look_up(&name).await {
            Ok(found) => Ok((name, found)),
            Err(error) => {
                Err(Error::new(Code::NotFound, path, format!("nobody is known as {name}: {error}")))
            }
        }
    }

    async fn named(&self, path: &str, name: &str, reach: Reach<'_>) -> Result<Value, Error> {
        let (name, Found { pubkey, relays }) = self.who(path, name, reach).await?;
        let profiles = self.profiles(path, discovery::of(pubkey)).await.unwrap_or_default();
        let mut shown = profiles.get(&pubkey).map_or_else(|| bare(&pubkey), |(_, profile)| profile.clone());
        if let Some(shown) = shown.as_object_mut() {
            shown.insert("nip05".to_owned(), name.to_string().into());
            shown.insert("relays".to_owned(), json!(relays));
        }
        Ok(shown)
    }

    /// Agents that can do something, those that said so last first.
    async fn able(&self, path: &str, capability: &Capability) -> Result<Arc<[Value]>, Error> {
        let now = Instant::now();
        if let Some(known) = self.remembered(capability, now) {
            return Ok(known);
        }
        let profiles = self.profiles(path, discovery::with_capability(capability)).await?;
        let mut able: Vec<(u64, Value)> = profiles.into_values().collect();
        able.sort_by_key(|(at_s, _)| std::cmp::Reverse(*at_s));
        able.truncate(LIMIT_MAX);
        let able: Arc<[Value]> = able.into_iter().map(|(_, profile)| profile).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(capability.clone(), (now + KNOWN_FOR, able.clone()));
        Ok(able)
    }

    fn remembered(&self, capability: &Capability, now: Instant) -> Option<Arc<[Value]>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(capability).filter(|(until, _)| *until > now).map(|(_, known)| known.clone())
    }

    /// The newest profile of each author that matches.
    async fn profiles(&self, path: &str, filter: Filter) -> Result<BTreeMap<PublicKey, (u64, Value)>, Error> {
        let filter = filter.limit(ASKED_MAX);
        let asked = self.relays.iter().map(|relay| self.subscribe.fetch(relay, filter.clone(), DEADLINE));
        let answers = join_all(asked).await;
        if answers.iter().all(Result::is_err) {
            return Err(Error::new(Code::Unavailable, path, "no relay answered"));
        }
        let latest_s = self.time.now_ms() / 1000 + FUTURE_S_MAX;
        let mut newest: BTreeMap<PublicKey, Event> = BTreeMap::new();
        for event in answers.into_iter().flatten().flat_map(|events| events.into_iter().take(ASKED_MAX)) {
            // A relay may answer anything, and what is dated ahead would be the newest for ever.
            let is_asked = filter.match_event(&event, Default::default());
            let is_older =
                newest.get(&event.pubkey).is_some_and(|other| other.created_at >= event.created_at);
            if is_asked && !is_older && event.created_at.as_secs() <= latest_s && event.verify().is_ok() {
                newest.insert(event.pubkey, event);
            }
        }
        let shown = |event: Event| {
            let profile = AgentProfile::read(&event).ok()?;
            let at_s = event.created_at.as_secs();
            Some((event.pubkey, (at_s, shown(&event.pubkey, &profile, at_s))))
        };
        Ok(newest.into_values().filter_map(shown).collect())
    }
}

fn npub(key: &PublicKey) -> String {
    key.to_bech32().unwrap_or_default()
}

fn bare(key: &PublicKey) -> Value {
    json!({ "npub": npub(key) })
}

fn shown(key: &PublicKey, profile: &AgentProfile, at_s: u64) -> Value {
    json!({
        "npub": npub(key),
        "name": profile.name,
        "about": profile.about,
        "capabilities": profile.capabilities,
        "autonomy": profile.autonomy,
        "program": profile.program,
        "owner": profile.owner.map(|owner| npub(&owner.pubkey)),
        "at": at_s,
    })
}

#[cfg(test)]
mod tests {
    use oa_nips::discovery::{Autonomy, Program};
    use oa_nips::hex::Hex;
    use oa_nips::nostr::{Keys, Timestamp};

    use super::*;
    use crate::serve::fixture::Relays;
    use crate::store::memory::MemoryBackend;
    use crate::time::System;

    fn profile(keys: &Keys, name: &str, capabilities: &[&str], at_s: u64) -> Event {
        let profile = AgentProfile {
            name: name.to_owned(),
            about: String::new(),
            capabilities: capabilities.iter().map(|word| word.parse().unwrap()).collect(),
            autonomy: Autonomy::Supervised,
            program: Program { name: "echo".to_owned(), digest: Hex([7; 32]) },
            owner: None,
        };
        profile.event(keys.public_key(), Timestamp::from_secs(at_s)).sign_with_keys(keys).unwrap()
    }

    struct Rig {
        relays: Arc<Relays>,
        finder: Finder,
    }

    fn rig(stored: [Vec<Event>; 2]) -> Rig {
        let urls = ["wss://a.example", "wss://b.example"].map(|url| RelayUrl::parse(url).unwrap());
        let relays = Arc::new(Relays::default());
        relays.stored.lock().unwrap().extend(urls.iter().cloned().zip(stored));
        let http = Arc::new(Client::of_node(&[]));
        let store = Store::new(Arc::new(MemoryBackend::default())).unwrap();
        let finder = Finder::new(relays.clone(), Arc::new(urls), http, store, Arc::new(System));
        Rig { relays, finder }
    }

    impl Rig {
        async fn found(&self, request: &str) -> Result<Vec<(String, Value)>, Code> {
            let answer = self
                .finder
                .find("/find", request.as_bytes(), Reach::Any)
                .await
                .map_err(|error| error.code)?;
            let answer: Vec<Value> = serde_json::from_slice(&answer).unwrap();
            Ok(answer.into_iter().map(|one| (one["name"].as_str().unwrap().to_owned(), one)).collect())
        }

        async fn names(&self, request: &str) -> Vec<String> {
            self.found(request).await.unwrap().into_iter().map(|(name, _)| name).collect()
        }
    }

    #[tokio::test]
    async fn of_what_relays_answer_the_newest_that_is_true_is_shown() {
        let keys: [Keys; 5] = std::array::from_fn(|_| Keys::generate());
        let now_s = System.now_ms() / 1000;
        let mut forged = profile(&keys[2], "forged", &["chat"], now_s - 1);
        forged.content = forged.content.replace("forged", "better");
        let rig = rig([
            vec![
                profile(&keys[0], "old", &["chat"], now_s - 30),
                profile(&keys[1], "deaf", &["ocr"], now_s - 5),
                forged,
            ],
            vec![
                profile(&keys[0], "new", &["ocr", "chat"], now_s - 20),
                profile(&keys[3], "last", &["chat"], now_s - 10),
                profile(&keys[4], "ahead", &["chat"], now_s + 24 * 3600),
            ],
        ]);
        let found = rig.found(r#"{"capability":"chat"}"#).await.unwrap();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["last", "new"]);
        assert_eq!(found[1].1["npub"], keys[0].public_key().to_bech32().unwrap());
        assert_eq!(found[1].1["capabilities"], json!(["ocr", "chat"]));
        assert_eq!(found[1].1["owner"], Value::Null);
        assert_eq!(rig.names(r#"{"capability":"chat","limit":1}"#).await, ["last"]);
        assert_eq!(rig.relays.asked.lock().unwrap().len(), 2, "the second answer was remembered");
        assert!(rig.names(r#"{"capability":"sing"}"#).await.is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_found_is_told_apart() {
        let rig = rig([Vec::new(), Vec::new()]);
        for wrong in
            ["", "chat", "{}", r#"{"capability":"No"}"#, r#"{"capability":"a","name":"b@c"}"#, r#"{"who":1}"#]
        {
            assert_eq!(rig.found(wrong).await.unwrap_err(), Code::InvalidInput, "{wrong}");
        }
        assert_eq!(rig.found(r#"{"name":"bob"}"#).await.unwrap_err(), Code::InvalidInput);
        let private = rig.found(r#"{"name":"bob@127.0.0.1:1"}"#).await;
        assert_eq!(private.unwrap_err(), Code::NotFound, "and nothing of the operator's network was asked");
        rig.relays.stored.lock().unwrap().clear();
        assert_eq!(rig.found(r#"{"capability":"chat"}"#).await.unwrap_err(), Code::Unavailable);
    }
}
