//! The node that is killed: three agents whose program pays the invoice in its trigger, and writes down what it is told.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use oa_nips::nostr::RelayUrl;
use oa_node::Node;
use oa_node::agent::envelope::{Envelope, Kind};
use oa_node::agent::manifest::Manifest;
use oa_node::drivers::nostr::RelaySpec;
use oa_node::engine::Programs;
use oa_node::engine::running::Running;
use oa_node::keyring::{Addresses, SeedKeyring};
use oa_node::money;
use oa_node::node::{Config, Parts};
use oa_node::program::{Agent, Fault, Run, Tick};
use oa_node::signer::Seed;
use oa_node::store::Store;
use oa_node::store::sqlite::SqliteBackend;
use oa_node::store::write::{Poke, Write};
use oa_node::time::{System, Time as _};
use oa_wallet::msat::Msat;
use serde_json::Value;

use super::{AGENTS, Bill, EACH, INVOICES, Told};

/// The words of a node that nobody ever writes to.
const WORDS: &str =
    "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
/// Ends a run that did what it was to do.
pub const DONE: i32 = 42;
/// What an agent may spend in a day: more than it has.
const PER_DAY: Msat = Msat::from_sat(1_000_000);

/// Does what its trigger says.
#[derive(Debug)]
struct Payer;

impl Agent for Payer {
    fn on_trigger<'a>(&'a self, tick: &'a mut Tick) -> Run<'a> {
        Box::pin(async move {
            let trigger: Value = serde_json::from_slice(&tick.ns.read("/trigger").await?)
                .map_err(|e| Fault::Failed(e.to_string()))?;
            let text = trigger.get("text").and_then(Value::as_str).unwrap_or_default();
            if trigger.get("kind").and_then(Value::as_str) == Some("payment") {
                return Ok(tick.ns.write("/memory/funded", b"yes").await?);
            }
            match text.split_once(' ') {
                Some(("invoice", sum)) => {
                    let made = tick.ns.call("/wallet/invoice", sum.as_bytes()).await?;
                    let made: Value =
                        serde_json::from_slice(&made).map_err(|e| Fault::Failed(e.to_string()))?;
                    let invoice = made.get("invoice").and_then(Value::as_str).unwrap_or_default();
                    Ok(tick.ns.write("/memory/invoice", invoice.as_bytes()).await?)
                }
                Some((n, invoice)) => {
                    let told = match tick.ns.call("/wallet/pay", invoice.as_bytes()).await {
                        Ok(receipt) => Told::Done(String::from_utf8_lossy(&receipt).into_owned()),
                        Err(error) => {
                            let code = serde_json::to_value(error.code).unwrap_or_default();
                            let code = code.as_str().unwrap_or_default().to_owned();
                            Told::Failed { code, reason: error.reason }
                        }
                    };
                    let told = serde_json::to_vec(&told).unwrap_or_default();
                    Ok(tick.ns.write(&format!("/memory/told/{n}"), &told).await?)
                }
                None => Ok(()),
            }
        })
    }
}

/// Runs the node until the agents are funded (`fund`), or until every bill has had its tick (`pay`).
///
/// # Errors
/// When the node does not start or fails.
pub async fn run(home: &FilePath, what: &str) -> Result<()> {
    let store = Store::new(Arc::new(SqliteBackend::open(&home.join("node.db"))?))?;
    let is_new = store.agent_named(AGENTS[0])?.is_none();
    let is_funding = match what {
        "fund" => true,
        "pay" => false,
        other => bail!("{other:?} is neither fund nor pay"),
    };
    if !is_new {
        feed(&store, home, is_funding).await?;
    }
    let node = start(home, store.clone()).await?;
    if is_new {
        for name in AGENTS {
            node.ensure_agent(manifest(name)?).await?;
        }
        feed(&store, home, is_funding).await?;
        node.shutdown().await;
        // The engine looks into inboxes that were filled behind its back when it starts.
        return Box::pin(run(home, what)).await;
    }
    let bills: Vec<Bill> = if is_funding { Vec::new() } else { bills(home)? };
    loop {
        let mut is_done = true;
        let mut invoices = Vec::new();
        for (at, name) in AGENTS.iter().enumerate() {
            let id = store.agent_named(name)?.context("an agent")?;
            let wanted = bills.iter().filter(|bill| bill.agent == at).count();
            invoices.extend(store.file(id, "/memory/invoice")?);
            is_done &= match is_funding {
                true => store.file(id, "/memory/funded")?.is_some(),
                false => store.file_paths(id, "/memory/told/")?.len() >= wanted,
            };
        }
        if is_funding && invoices.len() == AGENTS.len() {
            show(home, invoices)?;
        }
        if is_done {
            node.shutdown().await;
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Writes the invoices where the parent looks, whole.
fn show(home: &FilePath, invoices: Vec<Vec<u8>>) -> Result<()> {
    let texts: Vec<String> = invoices.into_iter().map(String::from_utf8).collect::<Result<_, _>>()?;
    let (new, file) = (home.join("invoices.new"), home.join(INVOICES));
    std::fs::write(&new, serde_json::to_vec(&texts)?)?;
    Ok(std::fs::rename(new, file)?)
}

async fn start(home: &FilePath, store: Store) -> Result<Node> {
    let addresses = Arc::new(Addresses::load(&store)?);
    let keyring = Arc::new(SeedKeyring::new(Seed::from_words(WORDS)?, addresses.clone()));
    let mut programs = Programs::default();
    programs.add("payer", Arc::new(Payer));
    // Nobody listens there: this node has nothing to hear.
    let url = RelayUrl::parse("ws://127.0.0.1:9")?;
    let uri = std::fs::read_to_string(home.join("node.nwc"))?.parse()?;
    let config = Config {
        programs,
        wallet: Some(money::Config { uri, rate: None }),
        ..Config::new(vec![RelaySpec { url, wide: false }])
    };
    let running = Running::open(&home.join("running"))?;
    let parts = Parts { store, keyring, addresses, running, time: Arc::new(System) };
    Ok(Node::start(config, parts).await?)
}

fn manifest(name: &str) -> Result<Manifest> {
    let mounts =
        format!("[[mounts]]\npath = \"/wallet\"\naccess = {{ budgeted = {{ per_day = \"{PER_DAY}\" }} }}");
    Ok(Manifest::parse(&format!("name = {name:?}\nprogram = \"payer\"\n{mounts}"))?)
}

fn bills(home: &FilePath) -> Result<Vec<Bill>> {
    Ok(serde_json::from_slice(&std::fs::read(home.join("bills.json"))?)?)
}

/// Puts every envelope into the inboxes that was not there before.
async fn feed(store: &Store, home: &FilePath, is_funding: bool) -> Result<()> {
    let now_ms = System.now_ms();
    let poke = |agent: usize, name: String, text: String| -> Result<Write> {
        let agent = AGENTS.get(agent).context("an agent")?;
        let agent = store.agent_named(agent)?.context("an agent")?;
        let envelope = Envelope { text, ..Envelope::from_node(Kind::Poke, &name, now_ms) };
        Ok(Write::Poke(Box::new(Poke { agent, envelope })))
    };
    let pokes: Result<Vec<Write>> = if is_funding {
        let text = format!("invoice {}msat", EACH.get());
        (0..AGENTS.len()).map(|agent| poke(agent, "fund".to_owned(), text.clone())).collect()
    } else {
        let bills = bills(home)?.into_iter().enumerate();
        bills
            .map(|(n, bill)| poke(bill.agent, format!("bill:{n}"), format!("{n} {}", bill.invoice)))
            .collect()
    };
    store.commit(pokes?).await?;
    Ok(())
}
