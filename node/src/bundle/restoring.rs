//! Restored agents, from the moment they are in the store to their first tick.
//!
//! Between the export and its end the lost node may have gone on. What it answered then must not be answered again,
//! and what came meanwhile must be taken in. So a restored agent is stopped at first, with a row that says what it
//! goes on as. Once the node has the lease of its key, so that nobody else answers any more, all of its relays are
//! asked ([`super::answered`]); what was answered counts as seen, the rest is handed to the mailbox; then it goes on.
//! Each step may be done twice, and a node that dies in the midst begins again.

use std::sync::Arc;
use std::time::Duration;

use oa_nips::nostr::{Event, EventId, RelayUrl};
use oa_nips::port::{Row, RowWrite, Subscribe};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::admit::{GoesOn, LOOKING};
use super::answered::{self, Found, LookError};
use crate::agent::{AgentId, Lifecycle};
use crate::drivers::nostr::{Incoming, Sweep};
use crate::engine::hooks::After;
use crate::engine::shared::Shared;
use crate::notice::Notice;
use crate::store::Store;
use crate::store::backend::{BackendError, Table};
use crate::store::row::{AgentRow, key};
use crate::store::write::{AgentChange, Answered, Verdict, Write};

/// The space of what restored agents go on as, among the store's rows.
const SPACE: &str = "restoring";
/// How often it is looked whether an agent was restored.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The pause after relays that did not answer.
const AGAIN: Duration = Duration::from_secs(5);
/// Agents looked for at once.
const AGENTS: usize = 100;
/// Events handed to the mailbox at once.
const BATCH: usize = 2_000;

/// The write that lands with a restored agent.
///
/// # Errors
/// What the store said.
pub(crate) fn note(store: &Store, agent: AgentId, goes_on: &GoesOn) -> Result<Write, BackendError> {
    let key = agent.to_string();
    // Of an agent that was removed in the midst, and is restored once more.
    let expect_version = store.row(SPACE, &key)?.map_or(0, |row| row.version);
    let value = serde_json::to_vec(goes_on).ok();
    Ok(Write::Row(RowWrite { space: SPACE.to_owned(), key, expect_version, value }))
}

/// What looks after restored agents.
#[derive(Debug)]
pub(crate) struct Restoring {
    pub(crate) shared: Arc<Shared>,
    pub(crate) subscribe: Arc<dyn Subscribe>,
    /// The node's own relays, all of which must answer.
    pub(crate) relays: Vec<RelayUrl>,
    /// Where mail is taken in.
    pub(crate) incoming: mpsc::Sender<Incoming>,
}

/// Why an agent does not go on yet.
#[derive(Debug, thiserror::Error)]
enum WaitError {
    #[error(transparent)]
    Look(#[from] LookError),
    #[error(transparent)]
    Store(#[from] BackendError),
    #[error("its mail is not taken in")]
    Mail,
}

/// Starts looking after them; it ends when `cancel` does.
pub(crate) fn start(restoring: Restoring, cancel: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = restoring.run() => {}
        }
    })
}

impl Restoring {
    async fn run(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            if self.shared.tenure.epoch().is_none() {
                continue;
            }
            let rows = match self.shared.store.rows(SPACE, "", AGENTS) {
                Ok(rows) => rows,
                Err(error) => {
                    tracing::error!(%error, "restored agents cannot be looked for");
                    continue;
                }
            };
            for (name, row) in rows {
                if let Err(error) = self.one(&name, &row).await {
                    let message = crate::bundle::chain(&error);
                    tracing::warn!(agent = name, error = message, "a restored agent waits");
                    self.shared.notices.tell(|| Notice::Error {
                        message: format!("restored agent {name} waits: {message}"),
                    });
                    look.reset_after(AGAIN);
                }
            }
        }
    }

    async fn one(&self, name: &str, row: &Row) -> Result<(), WaitError> {
        let store = &self.shared.store;
        let done = |version| {
            let (space, key) = (SPACE.to_owned(), name.to_owned());
            Write::Row(RowWrite { space, key, expect_version: version, value: None })
        };
        let id = name.parse().ok().map(AgentId);
        let goes_on: Option<GoesOn> = serde_json::from_slice(&row.value).ok();
        let agent = id.and_then(|id| store.agent(id).transpose()).transpose()?;
        let agent = agent.filter(|agent| agent.lifecycle != Lifecycle::Terminated);
        let (Some(agent), Some(goes_on)) = (agent, goes_on) else {
            store.write(done(row.version)).await?;
            return Ok(());
        };
        // Another node may have its key, and answer meanwhile.
        if self.shared.tenure.epoch_of(agent.id).is_none() {
            return Ok(());
        }
        let signer = self.shared.keyring.agent(agent.id);
        let since_s = goes_on.since_ms / 1000;
        let found = answered::look(&*self.subscribe, &self.relays, &*signer, since_s).await?;
        let (count, mail) = (found.answered.len(), found.mail.values().map(Vec::len).sum::<usize>());
        self.settle(&agent, found).await?;
        let mut unit = vec![done(row.version)];
        // Whoever stopped or resumed it meanwhile has the last word.
        let waits =
            |now: AgentRow| now.lifecycle == Lifecycle::Stopped && now.reason.as_deref() == Some(LOOKING);
        if store.agent(agent.id)?.is_some_and(waits) {
            unit.insert(
                0,
                Write::ChangeAgent(agent.id, AgentChange::Lifecycle(goes_on.lifecycle, goes_on.reason)),
            );
        }
        let after = After::of(&unit);
        let verdicts = store.commit(unit).await?;
        if !verdicts.iter().any(Verdict::stops_unit) {
            self.shared.hooks.landed(after, &verdicts, &self.shared.outbox);
            tracing::info!(agent = agent.name, answered = count, mail, "a restored agent goes on");
        }
        Ok(())
    }

    /// What was answered counts as seen; what others wrote is taken in, as a sweep would.
    async fn settle(&self, agent: &AgentRow, found: Found) -> Result<(), WaitError> {
        let Found { answered, mail } = found;
        let at_ms = self.shared.time.now_ms();
        let answered = Answered { agent: agent.id, envelopes: answered, at_ms };
        // A node that heard of the agent's mail before it had the agent took it for nobody's.
        let handled = |event: &Event| key::timed(event.created_at.as_secs(), event.id.as_bytes());
        let handled = mail.values().flatten().map(handled).collect();
        let unit = vec![Write::Answered(answered), Write::Forget(Table::Handled, handled)];
        self.shared.store.commit(unit).await?;
        let mut given = std::collections::HashSet::<EventId>::new();
        for (relay, mut events) in mail {
            events.retain(|event| given.insert(event.id));
            for batch in events.chunks(BATCH) {
                let (done, is_done) = oneshot::channel();
                let events = batch.to_vec();
                let sweep = Sweep { relay: relay.clone(), started_at_s: 0, events, complete: false, done };
                self.incoming.send(Incoming::Sweep(sweep)).await.map_err(|_| WaitError::Mail)?;
                is_done.await.map_err(|_| WaitError::Mail)?;
            }
        }
        Ok(())
    }
}
