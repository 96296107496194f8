//! Relay, node and client, each on its host; and what the node has, read from a copy of its memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use oa_nips::nostr::{Keys, PublicKey, ToBech32 as _};
use oa_node::agent::{AgentId, Lifecycle};
use oa_node::signer::KeyFile;
use oa_node::store::Store;
use oa_node::store::sqlite::SqliteBackend;
use rusqlite::{Connection, OpenFlags};

use super::plan::{AGENT, Deed};
use super::verdict::{Outcome, State, Told};
use crate::hosts::{Hosts, RELAY};
use crate::world::{DEADLINE, Home, Process, Program, World, eventually};

/// The relay's port.
const PORT: u16 = 7447;
/// Milliseconds between two sweeps of the node.
const SWEEP_MS: u64 = 2_000;

/// Where the relay is, for both sides.
pub(super) fn relay_url() -> String {
    format!("ws://{RELAY}:{PORT}")
}

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) relay: Process,
    pub(super) node: Process,
    node_home: Home,
    /// The client's home.
    pub(super) laptop: Home,
    /// The client's key.
    pub(super) operator: Keys,
}

impl Stage {
    pub(super) async fn start(world: &World, hosts: &Hosts) -> Result<Self> {
        let (relay_home, node_home, laptop) =
            (world.home("relay")?, world.home("node")?, world.home("laptop")?);
        let operator = Keys::generate();
        std::fs::create_dir_all(relay_home.dir())?;
        let relay = relay_home.launch(Program::Oa, ["relay", "--listen", &format!("{RELAY}:{PORT}")]);
        let relay = relay.inside(hosts.relay.name()).start().await.context("the relay")?;
        configure(&node_home, &[operator.public_key()])?;
        let node = node_home.run().inside(hosts.node.name()).start().await.context("the node")?;
        let stage = Self { relay, node, node_home, laptop, operator };
        let key = world.path().join("key");
        KeyFile::save(&key, stage.operator.clone())?;
        let node = stage.node_key().to_bech32()?;
        let key = key.display().to_string();
        let connect = ["connect", &node, "--relay", &relay_url(), "--key-file", &key];
        stage.laptop.oa(&connect).await?.ok()?;
        Ok(stage)
    }

    pub(super) fn node_key(&self) -> PublicKey {
        self.node.node().expect("its ready line named it")
    }

    /// Who may steer the node from its next start on.
    pub(super) fn configure(&self, operators: &[PublicKey]) -> Result<()> {
        configure(&self.node_home, operators)
    }

    /// What the node has, once all ticks that the client knows of are on record.
    pub(super) async fn state(&self, outcomes: &[Outcome]) -> Result<State> {
        let is_tick = |outcome: &&Outcome| {
            outcome.operation.deed == Deed::Tick && matches!(outcome.told, Told::Done(_))
        };
        let ticks = outcomes.iter().filter(is_tick).count();
        let settled = eventually(DEADLINE, || async {
            let state = self.look()?;
            anyhow::ensure!(state.ticks >= ticks, "{} of {ticks} ticks are on record", state.ticks);
            Ok(state)
        });
        match settled.await {
            Ok(state) => Ok(state),
            // Too few ticks are for the verdict.
            Err(_) => self.look(),
        }
    }

    /// What the node has committed by now, whether it runs or not.
    pub(super) fn look(&self) -> Result<State> {
        look(&self.node_home.dir().join("node.db"))
    }
}

fn configure(home: &Home, operators: &[PublicKey]) -> Result<()> {
    let operators = operators.iter().map(|key| Ok(key.to_bech32()?)).collect::<Result<Vec<_>>>()?;
    let text = format!(
        "operators = {operators:?}\nrelays = [{:?}]\n[relay]\nenabled = false\n[sweep]\nevery_ms = {SWEEP_MS}\n\
         [[agents]]\nname = {AGENT:?}\nprogram = \"echo\"\n",
        relay_url()
    );
    home.write("config.toml", &text)
}

fn look(db: &Path) -> Result<State> {
    let copy = tempfile::tempdir()?;
    let to = copy.path().join("node.db");
    {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(db, flags)?;
        db.busy_timeout(DEADLINE)?;
        db.execute("VACUUM INTO ?1", [to.display().to_string()]).context("a snapshot of the database")?;
    }
    let store = Store::new(Arc::new(SqliteBackend::open(&to)?))?;
    let alice = store.agent_named(AGENT)?.context("no alice")?;
    let mut files = BTreeMap::new();
    for path in store.file_paths(alice, "/memory/")? {
        let content = store.file(alice, &path)?.context("a file has content")?;
        files.insert(path, content);
    }
    let rows = store.agents(AgentId(0), usize::MAX)?;
    let alive = rows.into_iter().filter(|row| row.lifecycle != Lifecycle::Terminated);
    let agents: BTreeSet<String> = alive.map(|row| row.name).collect();
    let records = store.records(alice, 0, usize::MAX)?;
    let is_poke = |record: &&oa_nips::record::Record| {
        let fields = serde_json::to_value(&record.fields).unwrap_or_default();
        fields.pointer("/trigger/kind").and_then(serde_json::Value::as_str) == Some("poke")
    };
    let ticks = records.iter().filter(is_poke).count();
    Ok(State { files, agents, ticks })
}
