//! The way to a bunker over relays of its own: a pool that only it is spoken to on.
//!
//! A bunker's relays need not be anybody else's, and there its client is known by the client's key alone, so it gets
//! connections of its own. They end with the last handle of the [`Link`].

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{Event, Keys, RelayUrl};
use oa_nips::port::{Ack, Publish};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::nostr::{Config, Incoming, OneKey, Pool};
use crate::bunker::uri::Remote;
use crate::signer::bunker::{Link, Patience, WeakLink};
use crate::signer::{Conversations, LocalSigner};
use crate::time::Time;

/// Answers that wait to be read; while it is full the sockets wait.
const INCOMING: usize = 256;

/// Begins to connect to the relays of a bunker, which knows us by `client`, or shall.
///
/// Must be called within a tokio runtime.
pub fn dial(patience: Patience, remote: Remote, client: Keys, time: Arc<dyn Time>) -> Link {
    let config = Config::client(&remote.relays);
    let (sender, incoming) = mpsc::channel(INCOMING);
    let key = Arc::new(LocalSigner::new(client.clone(), Conversations::new(1)));
    let pool = Pool::start(config, Arc::new(OneKey(key)), None, sender);
    let wire = Arc::new(Wire { pool: pool.clone(), delivering: OnceLock::new() });
    let link = Link::patient(patience, remote, client, wire.clone(), time);
    pool.stand("bunker", link.filter());
    let delivering = tokio::spawn(deliver(incoming, link.downgrade()));
    // A second setting would be a bug of this function.
    let _ = wire.delivering.set(AbortOnDropHandle::new(delivering));
    link
}

async fn deliver(mut incoming: mpsc::Receiver<Incoming>, link: WeakLink) {
    while let Some(next) = incoming.recv().await {
        let Some(link) = link.upgrade() else { return };
        if let Incoming::Event { event, .. } = next {
            link.deliver(&event);
        }
    }
}

/// Sends only where the answer will be heard: requests and answers are ephemeral.
#[derive(Debug)]
struct Wire {
    pool: Pool,
    delivering: OnceLock<AbortOnDropHandle<()>>,
}

impl Publish for Wire {
    fn publish<'a>(
        &'a self,
        relay: &'a RelayUrl,
        event: &'a Event,
        deadline: Duration,
    ) -> BoxedFuture<'a, Ack> {
        Box::pin(async move {
            let began = Instant::now();
            if !self.pool.ready_on(relay, deadline).await {
                return Ack::Unreached("no connection".to_owned());
            }
            self.pool.publish(relay, event, deadline.saturating_sub(began.elapsed())).await
        })
    }
}
