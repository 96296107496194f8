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
