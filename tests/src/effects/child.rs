//! The node that is killed: its program calls one tool of each class, and writes down what it was told.

use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use oa_nips::nostr::RelayUrl;
use oa_node::Node;
use oa_node::agent::AgentId;
use oa_node::agent::envelope::{Envelope, Kind};
use oa_node::agent::manifest::Manifest;
use oa_node::drivers::nostr::RelaySpec;
use oa_node::engine::Programs;
use oa_node::engine::running::Running;
use oa_node::keyring::{Addresses, SeedKeyring};
use oa_node::namespace::service::{
    Answer as Reply, Change, Class as Journaled, Context, FileService, FileType, LookUp, Span, Stat, file,
};
use oa_node::namespace::{Error, Path};
use oa_node::node::{Config, Parts};
use oa_node::program::{Agent, Fault, Run, Tick};
use oa_node::signer::Seed;
use oa_node::store::Store;
use oa_node::store::sqlite::SqliteBackend;
use oa_node::store::write::{Poke, Write};
use oa_node::time::System;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::service::{Answer, Ask};
use super::{Class, Told};

/// The words of a node that nobody ever writes to.
const WORDS: &str =
    "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";

/// A tool of one class, which asks the counting service.
#[derive(Debug)]
struct Tool {
    class: Class,
    service: SocketAddr,
}

impl Tool {
    async fn ask(&self, cx: &Context<'_>, change: &Change, look_up: bool) -> Result<Answer> {
        let key = cx.key.iter().map(|byte| format!("{byte:02x}")).collect();
        let n = String::from_utf8_lossy(change.body()).parse()?;
        let mut socket = TcpStream::connect(self.service).await?;
        let line = serde_json::to_string(&Ask { class: self.class, key, look_up, n })?;
        socket.write_all(format!("{line}\n").as_bytes()).await?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await?;
        Ok(serde_json::from_slice(&answer)?)
    }
}

impl FileService for Tool {
    fn stat<'a>(&'a self, _: &'a Context<'a>, _: &'a Path) -> Reply<'a, Stat> {
        Box::pin(async { Ok(file(self.class.tool(), FileType::Call, 0)) })
    }

    fn list<'a>(&'a self, _: &'a Context<'a>, path: &'a Path) -> Reply<'a, Vec<Stat>> {
        Box::pin(async move { Err(Error::not_dir(path)) })
    }

    fn read<'a>(&'a self, _: &'a Context<'a>, path: &'a Path, _: Span) -> Reply<'a, Vec<u8>> {
        Box::pin(async move { Err(Error::denied(path)) })
    }

    fn class(&self, _: &Path, _: &Change) -> Journaled {
        match self.class {
            Class::Idempotent => Journaled::Idempotent,
            Class::Queryable => Journaled::Queryable,
            Class::AtMostOnce => Journaled::AtMostOnce,
        }
    }

    fn act<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Reply<'a, Vec<u8>> {
        Box::pin(async move {
            let answer = self.ask(cx, change, false).await.map_err(|e| Error::io(path, e.to_string()))?;
            Ok(format!("done: {}", answer.done).into_bytes())
        })
    }

    fn look_up<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Reply<'a, LookUp> {
        Box::pin(async move {
            let answer = self.ask(cx, change, true).await.map_err(|e| Error::io(path, e.to_string()))?;
            Ok(if answer.done { LookUp::Done(b"looked up".to_vec()) } else { LookUp::NotDone })
        })
    }
}

/// Calls each tool with the number in its trigger.
#[derive(Debug)]
struct Caller;

impl Agent for Caller {
    fn on_trigger<'a>(&'a self, tick: &'a mut Tick) -> Run<'a> {
        Box::pin(async move {
            let trigger: serde_json::Value = serde_json::from_slice(&tick.ns.read("/trigger").await?)
                .map_err(|e| Fault::Failed(e.to_string()))?;
            let n = trigger.get("text").and_then(|text| text.as_str()).unwrap_or_default().to_owned();
            let mut told = Vec::new();
            for class in Class::ALL {
                let called = tick.ns.call(&format!("/tools/{}", class.tool()), n.as_bytes()).await;
                told.push(match called {
                    Ok(reply) => Told::Done(String::from_utf8_lossy(&reply).into_owned()),
                    Err(error) => {
                        let code = serde_json::to_value(error.code).unwrap_or_default();
                        Told::Failed(code.as_str().unwrap_or_default().to_owned())
                    }
                });
            }
            let told = serde_json::to_vec(&told).unwrap_or_default();
            Ok(tick.ns.write(&format!("/memory/told/{n}"), &told).await?)
        })
    }
}

/// Runs the node until every envelope has its tick.
///
/// # Errors
/// When the node does not start or fails.
pub async fn run(service: SocketAddr, home: &FilePath, envelopes: u32) -> Result<()> {
    let store = Store::new(Arc::new(SqliteBackend::open(&home.join("node.db"))?))?;
    let addresses = Arc::new(Addresses::load(&store)?);
    let keyring = Arc::new(SeedKeyring::new(Seed::from_words(WORDS)?, addresses.clone()));
    let mut programs = Programs::default();
    programs.add("caller", Arc::new(Caller));
    let tool = |class: Class| {
        let tool: Arc<dyn FileService> = Arc::new(Tool { class, service });
        (class.tool().to_owned(), tool)
    };
    // Nobody listens there: this node has nothing to hear.
    let url = RelayUrl::parse("ws://127.0.0.1:9")?;
    let config = Config {
        programs,
        tools: Class::ALL.map(tool).into(),
        ..Config::new(vec![RelaySpec { url, wide: false }])
    };
    let running = Running::open(&home.join("running"))?;
    let parts = Parts { store: store.clone(), keyring, addresses, running, time: Arc::new(System) };
    let agent = AgentId(0);
    let is_new = store.agent(agent)?.is_none();
    if !is_new {
        feed(&store, envelopes).await?;
    }
    let node = Node::start(config, parts).await?;
    if is_new {
        node.ensure_agent(Manifest::new("caller", "caller")).await?;
        feed(&store, envelopes).await?;
        // The engine looks into inboxes that were filled behind its back when it starts.
        node.shutdown().await;
        std::process::exit(RESTART);
    }
    loop {
        if store.file_paths(agent, "/memory/told/")?.len() >= envelopes as usize {
            node.shutdown().await;
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Ends the run that only made the agent.
pub const RESTART: i32 = 42;

/// Puts every envelope into the inbox that was not there before.
async fn feed(store: &Store, envelopes: u32) -> Result<()> {
    let now_ms = oa_node::time::Time::now_ms(&System);
    let poke = |n: u32| {
        let envelope =
            Envelope { text: n.to_string(), ..Envelope::from_node(Kind::Poke, &format!("job:{n}"), now_ms) };
        Write::Poke(Box::new(Poke { agent: AgentId(0), envelope }))
    };
    store.commit((0..envelopes).map(poke).collect()).await?;
    Ok(())
}
