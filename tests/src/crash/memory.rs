//! What node and relay remember at one instant, read from copies, so that looking disturbs nobody.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use oa_nips::nostr::{EventId, Filter, Keys};
use oa_node::agent::AgentId;
use oa_node::engine::running::Running;
use oa_node::home::Home;
use oa_node::store::Store;
use oa_node::store::row::{OutRow, Outgoing, Stage};
use oa_node::store::sqlite::SqliteBackend;
use oa_relay::{Config, Relay, StoreConfig};
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use super::phase::Scene;
use super::verdict::Aftermath;
use crate::client::Client;
use crate::world::DEADLINE;

/// Refusals looked at; any is one too many.
const REFUSALS: usize = 20;

/// A node's database and its note of running ticks, copied.
#[derive(Debug)]
pub(super) struct Memory {
    store: Store,
    agent: AgentId,
    copy: TempDir,
}

impl Memory {
    /// Of a node that is dead: its files as it left them, log and notes included.
    pub(super) fn of_dead(home: &Home, agent: &str) -> Result<Self> {
        let copy = tempfile::tempdir()?;
        for name in ["node.db", "node.db-wal", "running"] {
            copy_if_there(&home.dir().join(name), &copy.path().join(name))?;
        }
        Self::open(copy, agent)
    }

    /// Of a node that lives: what it has committed by now. What it runs is not told.
    pub(super) fn of_living(home: &Home, agent: &str) -> Result<Self> {
        let copy = tempfile::tempdir()?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(home.db(), flags)?;
        db.busy_timeout(DEADLINE)?;
        let to = copy.path().join("node.db").display().to_string();
        db.execute("VACUUM INTO ?1", [to]).context("a snapshot of the database")?;
        Self::open(copy, agent)
    }

    fn open(copy: TempDir, agent: &str) -> Result<Self> {
        let db = SqliteBackend::open(&copy.path().join("node.db")).context("the copied database")?;
        let store = Store::new(Arc::new(db))?;
        let agent = store.agent_named(agent)?.with_context(|| format!("no agent {agent}"))?;
        Ok(Self { store, agent, copy })
    }

    /// The unfinished work; what the relay has of it is for [`at_relay`] to say.
    pub(super) fn scene(&self) -> Result<Scene> {
        let inbox = self.store.inbox(self.agent, usize::MAX)?;
        let (_, running) = Running::open(&self.copy.path().join("running"))?;
        let unsent = self.open_mail()?.into_iter().filter(|row| !row.is_sent()).map(|row| match row.stage {
            Stage::Unsigned => None,
            Stage::Signed(parcels) | Stage::Finished(parcels) => {
                parcels.first().map(|parcel| parcel.event.id)
            }
        });
        Ok(Scene {
            inbox: inbox.into_iter().map(|(_, waiting)| waiting.envelope.id).collect(),
            running: running.into_iter().map(|slot| slot.envelope).collect(),
            unsent: unsent.collect(),
            at_relay: BTreeSet::new(),
        })
    }

    /// Direct messages that are not done with.
    fn open_mail(&self) -> Result<Vec<OutRow>> {
        let mut rows = Vec::new();
        for id in self.store.outbox_open(None, usize::MAX)? {
            let row = self.store.outgoing(id)?.context("an open item is in the outbox")?;
            if matches!(row.outgoing, Outgoing::Mail { .. }) {
                rows.push(row);
            }
        }
        Ok(rows)
    }

    /// What must add up in the end.
    pub(super) fn aftermath(&self) -> Result<Aftermath> {
        let (store, agent) = (&self.store, self.agent);
        let dead = store.dead_letters(agent)?;
        let refused = store.refusals(agent, REFUSALS)?;
        Ok(Aftermath {
            records: store.records(agent, 0, usize::MAX)?,
            head: store.agent(agent)?.map(|row| row.head),
            dead_letters: dead.into_iter().map(|(_, letter)| letter.reason).collect(),
            refusals: refused.into_iter().map(|(_, refused)| refused.reason.to_string()).collect(),
            waiting: store.inbox(agent, usize::MAX)?.len(),
            unsent: self.open_mail()?.len(),
        })
    }

    /// Lets the copy go.
    pub(super) async fn close(self) {
        self.store.close().await;
    }
}

/// Which of these events a running relay has.
pub(super) async fn at_relay(url: &str, ids: &[EventId]) -> Result<BTreeSet<EventId>> {
    if ids.is_empty() {
        return Ok(BTreeSet::new());
    }
    let client = Client::connect(url, Keys::generate(), DEADLINE).await?;
    let found = client.fetch(&Filter::new().ids(ids.iter().copied()), DEADLINE).await?;
    Ok(found.into_iter().map(|event| event.id).collect())
}

/// What a dead relay had: its store as it left it.
#[derive(Debug)]
pub(super) struct Shelf(TempDir);

impl Shelf {
    /// Copies the store of a relay that is dead.
    pub(super) fn of_dead(data: &Path) -> Result<Self> {
        let copy = tempfile::tempdir()?;
        copy_if_there(&data.join("data.mdb"), &copy.path().join("data.mdb"))?;
        Ok(Self(copy))
    }

    /// Which of these events were in it.
    pub(super) async fn has(&self, ids: &[EventId]) -> Result<BTreeSet<EventId>> {
        let store = StoreConfig::Lmdb(self.0.path().to_owned());
        let relay = Relay::start(Config::new(([127, 0, 0, 1], 0).into(), store)).await?;
        let found = at_relay(&relay.url(), ids).await;
        relay.shutdown().await;
        found
    }
}

fn copy_if_there(from: &Path, to: &Path) -> Result<()> {
    match std::fs::copy(from, to) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| from.display().to_string()),
    }
}
