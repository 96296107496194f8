//! The bunker as a node serves it: requests come to the node's key, and are done with the keys of its agents.
//!
//! One row of the store for each agent that anybody was invited to ([`book`]), which says whom. The node's key is where
//! clients ask, so that one subscription is enough for all agents and the agents' programs have no part in it; by the
//! secret of its invitation a client is let in to one agent, and one only. What changes is on disk before it is answered.
//! A node without the lease is silent.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use oa_nips::nostr::{Event, EventId, PublicKey, RelayUrl, Timestamp};
use oa_nips::port::Publish;
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::book;
use super::event::{self, ReadError};
use super::message::{Call, Request, RequestError, Response};
use super::rate::Rates;
use super::{Service, Task};
use crate::agent::AgentId;
use crate::keyring::Keyring;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::write::{Verdict, Write};
use crate::tenure::Tenure;
use crate::time::Time;

/// Requests that wait to be looked at; the client of one too many asks again.
pub(crate) const WAITING: usize = 256;
/// Requests that are being done at once: an agent's key may itself be elsewhere, and slow.
const DOING: usize = 32;
/// For one answer, with a signer that is slow. 30 s: no client waits longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long a relay may take to accept an answer.
const TAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Requests remembered, so that what several relays tell is done once.
const RECENT: usize = 1024;
/// Two changes at the same moment: the later one looks again.
const TRIES: usize = 3;

/// What serves.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) store: Store,
    pub(crate) keyring: Arc<dyn Keyring>,
    pub(crate) publish: Arc<dyn Publish>,
    /// Where answers go.
    pub(crate) relays: Vec<RelayUrl>,
    pub(crate) tenure: Tenure,
    pub(crate) time: Arc<dyn Time>,
}

/// Serves what comes until `cancel`; what is being done then is given up, and asked for again.
pub(crate) fn start(desk: Desk, asked: mpsc::Receiver<Event>, cancel: CancellationToken) -> JoinHandle<()> {
    let door = Arc::new(Door { desk, changing: Mutex::default(), rates: StdMutex::new(Rates::default()) });
    tokio::spawn(async move { cancel.run_until_cancelled(door.serve(asked)).await.unwrap_or(()) })
}

#[derive(Debug)]
struct Door {
    desk: Desk,
    /// Held while a state is read, changed and written.
    changing: Mutex<()>,
    rates: StdMutex<Rates>,
}

/// Whether an event was not seen lately; it is from now on.
fn is_new(recent: &mut HashSet<EventId>, order: &mut VecDeque<EventId>, id: EventId) -> bool {
    if !recent.insert(id) {
        return false;
    }
    order.push_back(id);
    if order.len() > RECENT
        && let Some(oldest) = order.pop_front()
    {
        recent.remove(&oldest);
    }
    true
}

impl Door {
    async fn serve(self: Arc<Self>, mut asked: mpsc::Receiver<Event>) {
        let mut doing = JoinSet::new();
        let (mut recent, mut order) = (HashSet::new(), VecDeque::new());
        loop {
            let event = tokio::select! {
                biased;
                Some(_) = doing.join_next() => continue,
                event = asked.recv(), if doing.len() < DOING => match event {
                    Some(event) => event,
                    None => return,
                },
            };
            if !is_new(&mut recent, &mut order, event.id) || self.desk.tenure.epoch().is_none() {
                continue;
            }
            if let Some(agent) = self.admits(&event.pubkey) {
                doing.spawn(self.clone().answer(event, agent));
            }
        }
    }

    /// Whether somebody may ask now; the agent that they are let in to, if any.
    fn admits(&self, client: &PublicKey) -> Option<Option<AgentId>> {
        let found = book::whose(&self.desk.store, client).unwrap_or_else(|error| {
            tracing::error!(%error, "the bunker's state cannot be read");
            None
        });
        let key = found.is_some().then_some(*client);
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let admits = rates.admits(key, Instant::now());
        if !admits {
            tracing::debug!(%client, "too many requests to the bunker");
        }
        admits.then_some(found)
    }

    async fn answer(self: Arc<Self>, event: Event, agent: Option<AgentId>) {
        let (node, now_s) = (self.desk.keyring.node(), self.desk.time.now_ms() / 1000);
        let response = match event::read(&event, &*node, now_s).await {
            Ok(request) => self.respond(event.pubkey, agent, request, now_s).await,
            Err(ReadError::Request(RequestError::Wrong { id, reason })) => Response::error(id, reason),
            Err(error) => {
                tracing::debug!(%error, "no request to the bunker");
                return;
            }
        };
        let at = Timestamp::from_secs(self.desk.time.now_ms() / 1000);
        let answer = match event::write(&response, event.pubkey, &*node, at).await {
            Ok(answer) => answer,
            Err(error) => return tracing::warn!(%error, "the bunker's answer cannot be written"),
        };
        let sends =
            self.desk.relays.iter().map(|relay| self.desk.publish.publish(relay, &answer, TAKE_DEADLINE));
        join_all(sends).await;
    }

    async fn respond(
        &self,
        client: PublicKey,
        agent: Option<AgentId>,
        request: Request,
        now_s: u64,
    ) -> Response {
        let id = request.id.clone();
        let (agent, task) = match self.judge(client, agent, request, now_s).await {
            Ok(Ok(judged)) => judged,
            Ok(Err(reason)) => return Response::error(id, reason),
            Err(error) => {
                tracing::error!(%error, "the bunker's state cannot be kept");
                return Response::error(id, "the node cannot keep this now");
            }
        };
        if self.desk.tenure.epoch_of(agent).is_none() {
            return Response::error(id, "the agent's key is used by another node now");
        }
        let what = task.what();
        let signer = self.desk.keyring.agent(agent);
        match timeout(ANSWER_WITHIN, task.perform(&*signer)).await {
            Ok(response) => {
                tracing::info!(%agent, %client, what, "bunker asked");
                response
            }
            Err(_) => Response::error(id, "the agent's key did not answer in time"),
        }
    }

    /// Finds the service that a request is for, has it judged, and keeps what that changed.
    async fn judge(
        &self,
        client: PublicKey,
        agent: Option<AgentId>,
        request: Request,
        now_s: u64,
    ) -> Result<Result<(AgentId, Task), String>, BackendError> {
        let store = &self.desk.store;
        let _changing = self.changing.lock().await;
        for _ in 0..TRIES {
            let invited = match &request.call {
                Call::Connect { secret: Some(secret), .. } => book::invited(store, secret, now_s)?,
                _ => None,
            };
            let agent = match (agent, invited) {
                (Some(here), Some(there)) if here != there => {
                    let reason =
                        "this client is connected as another agent: log out there, or use a new client key";
                    return Ok(Err(reason.to_owned()));
                }
                (here, there) => here.or(there),
            };
            let Some(agent) = agent else {
                let reason = match &request.call {
                    Call::Connect { .. } => "not invited: the secret is wrong, used or too old",
                    _ => "not connected",
                };
                return Ok(Err(reason.to_owned()));
            };
            let (version, state) = book::read(store, agent)?;
            let mut service = Service::new(state, self.desk.keyring.agent(agent).public_key());
            let heard = service.hear(client, request.clone(), now_s);
            if !heard.is_changed {
                return Ok(Ok((agent, heard.task)));
            }
            match store.write(Write::Row(book::put(agent, version, service.state()))).await? {
                Verdict::Stale => {}
                _ => return Ok(Ok((agent, heard.task))),
            }
        }
        Ok(Err("busy: ask again".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::hex::Hex;
    use oa_nips::nostr::Keys;
    use oa_nips::nostr::util::BoxedFuture;
    use oa_nips::port::{Ack, Signer as _};

    use super::*;
    use crate::agent::manifest::Manifest;
    use crate::bunker::event::carrying;
    use crate::bunker::message::Answer;
    use crate::bunker::uri::Secret;
    use crate::bunker::{Grant, State};
    use crate::keyring::{Addresses, SeedKeyring};
    use crate::signer::{Conversations, LocalSigner, Seed};
    use crate::store::memory::MemoryBackend;
    use crate::store::write::NewAgent;
    use crate::time::System;

    /// A relay that hands on what is published, with whom the store says was let in in that moment.
    #[derive(Debug)]
    struct Wire(mpsc::UnboundedSender<(Event, usize)>, Store);

    impl Publish for Wire {
        fn publish<'a>(&'a self, _: &'a RelayUrl, event: &'a Event, _: Duration) -> BoxedFuture<'a, Ack> {
            let clients = book::all(&self.1).unwrap().iter().map(|(_, state)| state.clients.len()).sum();
            self.0.send((event.clone(), clients)).unwrap();
            Box::pin(async { Ack::Accepted })
        }
    }

    struct Stage {
        store: Store,
        node: PublicKey,
        agents: Vec<PublicKey>,
        requests: mpsc::Sender<Event>,
        answers: mpsc::UnboundedReceiver<(Event, usize)>,
    }

    /// A desk that serves two agents.
    async fn stage() -> Stage {
        let store = Store::new(Arc::new(MemoryBackend::default())).unwrap();
        let keyring = Arc::new(SeedKeyring::new(Seed::generate(), Arc::new(Addresses::default())));
        let mut agents = Vec::new();
        for n in 0..2 {
            let pubkey = keyring.agent(AgentId(n)).public_key();
            let manifest = Manifest::new(format!("agent-{n}"), "echo");
            let new = NewAgent {
                id: AgentId(n),
                pubkey,
                manifest,
                session: Hex::ZERO,
                at_ms: 0,
                profile: Vec::new(),
            };
            store.write(Write::CreateAgent(Box::new(new))).await.unwrap();
            agents.push(pubkey);
        }
        let (sent, answers) = mpsc::unbounded_channel();
        let (requests, asked) = mpsc::channel(WAITING);
        let node = keyring.node().public_key();
        let desk = Desk {
            publish: Arc::new(Wire(sent, store.clone())),
            store: store.clone(),
            keyring,
            relays: vec![RelayUrl::parse("ws://127.0.0.1:1").unwrap()],
            tenure: Tenure::alone(Arc::new(System)),
            time: Arc::new(System),
        };
        start(desk, asked, CancellationToken::new());
        Stage { store, node, agents, requests, answers }
    }

    impl Stage {
        async fn invite(&self, agent: u32, word: &str) {
            let (version, mut state) = book::read(&self.store, AgentId(agent)).unwrap();
            let (secret, now_s) = (Secret::new(word).unwrap(), System.now_ms() / 1000);
            state.invite(&secret, word, Grant::default(), now_s + 600, now_s).unwrap();
            self.store.write(Write::Row(book::put(AgentId(agent), version, &state))).await.unwrap();
        }

        async fn send(&self, client: &LocalSigner, call: &Call) -> Event {
            let json = call.to_json("1", &self.node);
            let content = client.nip44_encrypt(&self.node, &json).await.unwrap();
            let at = Timestamp::from_secs(System.now_ms() / 1000);
            let event = client.sign(carrying(client.public_key(), self.node, content, at)).await.unwrap();
            self.requests.send(event.clone()).await.unwrap();
            event
        }

        async fn ask(&mut self, client: &LocalSigner, call: &Call) -> (Answer, usize) {
            self.send(client, call).await;
            let (event, clients) = self.answers.recv().await.unwrap();
            event.verify().unwrap();
            assert_eq!(event.pubkey, self.node, "the agent's key is not used for this");
            let json = client.nip44_decrypt(&self.node, &event.content).await.unwrap();
            (Response::parse(&json).unwrap().answer, clients)
        }
    }

    fn client() -> LocalSigner {
        LocalSigner::new(Keys::generate(), Conversations::default())
    }

    fn connect(word: &str) -> Call {
        Call::Connect { secret: Secret::new(word), permissions: String::new() }
    }

    fn is_refused(answer: &Answer, why: &str) {
        assert!(matches!(answer, Answer::Error(reason) if reason.contains(why)), "{answer:?}");
    }

    #[tokio::test]
    async fn the_secret_says_which_agent_and_it_is_kept_before_it_is_answered() {
        let mut stage = stage().await;
        stage.invite(1, "word").await;
        stage.invite(0, "other").await;
        let client = client();
        is_refused(&stage.ask(&client, &Call::GetPublicKey).await.0, "not connected");
        let (answer, kept) = stage.ask(&client, &connect("word")).await;
        assert_eq!((answer, kept), (Answer::Result("ack".to_owned()), 1));
        let (answer, _) = stage.ask(&client, &Call::GetPublicKey).await;
        assert_eq!(answer, Answer::Result(stage.agents[1].to_hex()));
        is_refused(&stage.ask(&client, &connect("other")).await.0, "as another agent");
        let (answer, kept) = stage.ask(&client, &Call::Logout).await;
        assert_eq!((answer, kept), (Answer::Result("ack".to_owned()), 0));
        assert_eq!(book::read(&stage.store, AgentId(1)).unwrap().1, State::default());
    }

    #[tokio::test]
    async fn what_two_relays_tell_is_answered_once() {
        let mut stage = stage().await;
        let client = client();
        let event = stage.send(&client, &Call::Ping).await;
        stage.requests.send(event).await.unwrap();
        let other = stage.send(&client, &Call::Logout).await;
        assert_eq!(other.pubkey, client.public_key());
        for _ in 0..2 {
            stage.answers.recv().await.unwrap();
        }
        // A third answer would have come before that of a later request.
        is_refused(&stage.ask(&client, &Call::Ping).await.0, "not connected");
    }

    #[tokio::test]
    async fn strangers_are_answered_so_often_and_no_more() {
        let mut stage = stage().await;
        stage.invite(0, "word").await;
        let friend = client();
        stage.ask(&friend, &connect("word")).await;
        for _ in 0..40 {
            stage.send(&client(), &Call::Ping).await;
        }
        // The friend's answer comes all the same.
        stage.send(&friend, &Call::Ping).await;
        let mut answered = 0;
        loop {
            let (event, _) = stage.answers.recv().await.unwrap();
            if event.tags.public_keys().any(|key| *key == friend.public_key()) {
                break;
            }
            answered += 1;
        }
        assert!(answered <= 20, "{answered}");
    }
}
