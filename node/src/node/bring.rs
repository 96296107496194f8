//! What brings a node new work, or keeps its house: tasks of their own, which end before anything else does.

use std::sync::Arc;

use oa_nips::nostr::Event;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Config;
use super::relays::to_node;
use super::start::{Ears, place};
use crate::bundle::restoring::{self, Restoring};
use crate::bunker::{book, desk, message};
use crate::drivers::nostr::{Incoming, Pool};
use crate::engine::Engine;
use crate::engine::shared::Shared;
use crate::store::backend::BackendError;
use crate::store::write::Write;
use crate::tenure::own::Landlord;
use crate::workspace::{self, Workspaces};
use crate::{
    alarms, approvals, elsewhere, feeds, mailin, maintenance, money, profiles, publisher, serve, sockets,
    subscriptions,
};

/// What such tasks stand on.
pub(super) struct Bringing<'a> {
    pub(super) config: &'a Config,
    pub(super) pool: &'a Pool,
    pub(super) parts: &'a serve::Parts,
    pub(super) shared: &'a Arc<Shared>,
    pub(super) engine: &'a Engine,
    /// Ends them.
    pub(super) cancel: &'a CancellationToken,
}

impl Bringing<'_> {
    /// What the node does by itself.
    pub(super) fn of_the_node(
        &self,
        approvals: Arc<Notify>,
        left: Arc<Notify>,
        incoming: mpsc::Sender<Incoming>,
    ) -> Vec<JoinHandle<()>> {
        let cancel = || self.cancel.clone();
        let shared = || self.shared.clone();
        let landlord = self.config.leasing.clone().map(|leasing| Landlord {
            leasing,
            pool: self.pool.clone(),
            keyring: self.shared.keyring.clone(),
            store: self.shared.store.clone(),
            time: self.shared.time.clone(),
            tenure: self.shared.tenure.clone(),
        });
        let restoring = Restoring {
            shared: shared(),
            subscribe: Arc::new(self.pool.clone()),
            relays: self.parts.own.to_vec(),
            incoming,
        };
        let shower = feeds::Publisher {
            feeds: self.parts.feeds.clone(),
            keyring: self.shared.keyring.clone(),
            publish: Arc::new(self.pool.clone()),
            relays: self.parts.own.to_vec(),
            tenure: self.shared.tenure.clone(),
        };
        let (back, tenure) = (self.parts.reach.back.clone(), self.shared.tenure.clone());
        let mut tasks = vec![
            publisher::start(shared(), cancel()),
            maintenance::start(shared(), self.config.journals.clone(), cancel()),
            elsewhere::start(shared(), back, left.clone(), cancel()),
            mailin::catch_up(left, tenure, self.pool.clone(), cancel()),
            restoring::start(restoring, cancel()),
            feeds::publish(shower, cancel()),
            profiles::start(shared(), place(self.config), cancel()),
            approvals::start(shared(), approvals, cancel()),
        ];
        tasks.extend(landlord.map(|landlord| landlord.start(cancel())));
        tasks.extend(self.parts.money.clone().map(|money| money::start(money, self.shared, cancel())));
        tasks
    }

    /// What wakes agents besides mail.
    pub(super) fn of_agents(&self, ears: Ears, workspaces: Arc<Workspaces>) -> Vec<JoinHandle<()>> {
        let Ears { subscribed, arriving } = ears;
        let arrived = || {
            let engine = self.engine.clone();
            move |agent| engine.arrived_soon(agent)
        };
        let (waker, plumber) = (self.parts.subscriptions.clone(), self.shared.plumber.clone());
        vec![
            alarms::start(self.shared.clone(), self.engine.clone(), self.cancel.clone()),
            subscriptions::start(waker, plumber, self.engine.clone(), subscribed, self.cancel.clone()),
            workspace::start(workspaces, arrived(), self.cancel.clone()),
            sockets::start(self.parts.sockets.clone(), arriving, arrived(), self.cancel.clone()),
        ]
    }

    /// Serves agents' keys to those whom their owners invited.
    ///
    /// # Errors
    /// What the store said.
    pub(super) async fn bunker(&self, asked: mpsc::Receiver<Event>) -> Result<JoinHandle<()>, BackendError> {
        let Shared { store, keyring, tenure, time, .. } = &**self.shared;
        for gone in book::leftovers(store)? {
            store.write(Write::Row(gone)).await?;
        }
        self.pool.stand("bunker", to_node(self.shared).kind(message::KIND));
        let desk = desk::Desk {
            store: store.clone(),
            keyring: keyring.clone(),
            publish: Arc::new(self.pool.clone()),
            relays: self.parts.own.to_vec(),
            tenure: tenure.clone(),
            time: time.clone(),
        };
        Ok(desk::start(desk, asked, self.cancel.clone()))
    }
}
