//! Relays that others name: dialled when something is to be said to them, left when nothing is.
//!
//! They cost the node a socket each and are chosen by strangers, so there is a bound on how many are open, and one
//! that failed is not dialled again at once. Nobody authenticates there.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oa_nips::nostr::RelayUrl;
use oa_nips::port::Ack;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::connection::{Connection, Kind, Shared, View};
use super::dial::DialError;
use super::link::{Link, link};

/// Relays remembered as failed.
const FAILED_MAX: usize = 1_024;

/// All of them.
#[derive(Debug)]
pub(super) struct Foreign {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    permits: Arc<Semaphore>,
    places: Arc<Mutex<HashMap<RelayUrl, Place>>>,
}

#[derive(Debug)]
enum Place {
    Open(Link),
    Failed { failure: Failure, until: Instant },
}

/// Why a relay cannot be spoken to now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// Its address is private: it never will.
    Forbidden(String),
    /// It may later.
    Away(String),
}

impl Failure {
    fn of(error: &DialError) -> Self {
        match error {
            DialError::Forbidden | DialError::NoHost => Self::Forbidden(error.to_string()),
            _ => Self::Away(error.to_string()),
        }
    }

    /// What a publisher is told.
    pub(super) fn ack(&self) -> Ack {
        match self {
            Self::Forbidden(reason) => Ack::Refused(reason.clone()),
            Self::Away(reason) => Ack::Unreached(reason.clone()),
        }
    }
}

impl Foreign {
    /// None yet; their tasks are counted in `tasks`.
    pub(super) fn new(shared: Arc<Shared>, tasks: TaskTracker) -> Self {
        let permits = Arc::new(Semaphore::new(shared.config.limits.foreign_max));
        Self { shared, tasks, permits, places: Arc::default() }
    }

    /// The connection to a relay, dialled if there is none.
    ///
    /// # Errors
    /// When it failed a moment ago, or so many are open that none ended by `deadline`.
    pub(super) async fn link(&self, url: &RelayUrl, deadline: Instant) -> Result<Link, Failure> {
        if let Some(known) = known(&lock(&self.places), url) {
            return known;
        }
        let permit = self.permit(deadline).await?;
        let mut places = lock(&self.places);
        // Somebody else may have been quicker while this one waited for its turn.
        if let Some(known) = known(&places, url) {
            return known;
        }
        let now = Instant::now();
        places.retain(|_, place| match place {
            Place::Open(link) => !link.is_closed(),
            Place::Failed { until, .. } => *until > now,
        });
        let (link, inlet) = link();
        places.insert(url.clone(), Place::Open(link.clone()));
        drop(places);
        let (view, _) = watch::channel(View::new(url.clone()));
        let connection = Connection::new(url.clone(), Kind::Foreign, self.shared.clone(), None, inlet, view);
        let span = tracing::info_span!("foreign relay", %url);
        self.tasks.spawn(self.visit(url.clone(), connection, permit).instrument(span));
        Ok(link)
    }

    async fn permit(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Failure> {
        let permits = Arc::clone(&self.permits);
        if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
            return Ok(permit);
        }
        self.shared.foreign_waiting.fetch_add(1, Ordering::Relaxed);
        let permit = timeout_at(deadline, permits.acquire_owned()).await;
        self.shared.foreign_waiting.fetch_sub(1, Ordering::Relaxed);
        match permit {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Failure::Away("too many relays are connected".to_owned())),
        }
    }

    fn visit(
        &self,
        url: RelayUrl,
        mut connection: Connection,
        permit: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (places, retry) = (Arc::clone(&self.places), self.shared.config.limits.foreign_retry);
        async move {
            let failure = match Box::pin(connection.visit()).await {
                Ok(()) => None,
                Err(error) => {
                    tracing::debug!(%error, "not reached");
                    Some(Failure::of(&error))
                }
            };
            // First nobody new is sent here, then those who were are told.
            let mut places = lock(&places);
            places.remove(&url);
            if let Some(failure) = failure.clone().filter(|_| places.len() < FAILED_MAX) {
                places.insert(url, Place::Failed { failure, until: Instant::now() + retry });
            }
            drop(places);
            let failure = failure.unwrap_or(Failure::Away("the connection has ended".to_owned()));
            connection.refuse_rest(&failure.ack());
            drop(permit);
        }
    }
}

fn known(places: &HashMap<RelayUrl, Place>, url: &RelayUrl) -> Option<Result<Link, Failure>> {
    match places.get(url)? {
        Place::Open(link) if !link.is_closed() => Some(Ok(link.clone())),
        Place::Failed { failure, until } if *until > Instant::now() => Some(Err(failure.clone())),
        _ => None,
    }
}

fn lock(places: &Mutex<HashMap<RelayUrl, Place>>) -> MutexGuard<'_, HashMap<RelayUrl, Place>> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}
