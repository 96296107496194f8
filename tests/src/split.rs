//! A server as operators run it: a relay and a node in homes of their own, and a proxy between the two.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use oa_nips::nostr::{Keys, PublicKey};
use serde_json::Value;

use crate::client::Client;
use crate::proxy::Proxy;
use crate::world::{DEADLINE, Home, Process, World, eventually, field};

/// Relay, proxy and node.
#[derive(Debug)]
pub struct Split {
    /// The relay, alone in its home.
    pub relay: Process,
    /// What the node takes for the relay.
    pub proxy: Proxy,
    /// The node.
    pub node: Process,
    /// The node's home, with its operator's key.
    pub home: Home,
}

/// What is particular about a server.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Milliseconds between two sweeps.
    pub sweep_every_ms: u64,
    /// Relays besides the one behind the proxy, named before it.
    pub relays: Vec<String>,
    /// Its agents: name and program; all take mail from anybody.
    pub agents: Vec<(String, &'static str)>,
}

impl Default for Plan {
    fn default() -> Self {
        let agents = vec![("concierge".to_owned(), "concierge")];
        Self { sweep_every_ms: 60_000, relays: Vec::new(), agents }
    }
}

impl Plan {
    fn config(&self, operator: &str, relay: &str) -> String {
        let relays: Vec<&str> = self.relays.iter().map(String::as_str).chain([relay]).collect();
        let sweep = self.sweep_every_ms;
        let mut text = format!(
            "operators = [{operator:?}]\nrelays = {relays:?}\n[relay]\nenabled = false\n[sweep]\nevery_ms = {sweep}\n"
        );
        for (name, program) in &self.agents {
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "[[agents]]\nname = {name:?}\nprogram = {program:?}\n[agents.dm]\npolicy = \"open\"\n"
            );
        }
        text
    }
}

impl Split {
    /// Starts all three.
    ///
    /// # Errors
    /// What could not be started.
    pub async fn start(world: &World, plan: Plan) -> Result<Self> {
        let relay = world.home("relay")?.relay().start().await?;
        let proxy = Proxy::start(&relay.relay()?).await?;
        let home = world.home("node")?;
        let said = home.oa_node(&["--json", "init"]).await?.json()?;
        let operator = said.first().and_then(|said| field(said, "operator")).context("an operator")?;
        home.write("config.toml", &plan.config(operator, proxy.url()))?;
        let node = home.run().start().await?;
        Ok(Self { relay, proxy, node, home })
    }

    /// Somebody new, connected to the relay itself.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn client(&self) -> Result<Client> {
        Client::connect(&self.relay.relay()?, Keys::generate(), DEADLINE).await
    }

    /// An agent's key.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn agent(&self, name: &str) -> Result<PublicKey> {
        self.node.agent(name)
    }

    /// The mail an agent refused.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn refused(&self, name: &str) -> Result<Vec<Value>> {
        self.home.oa(&["logs", name, "--refused", "--json"]).await?.json()
    }

    /// Waits until an agent has refused mail of this sender (nobody's, if it could not be read) for this reason, with
    /// these words in the details.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn refuses(&self, name: &str, from: Option<&str>, reason: &str, words: &str) -> Result<()> {
        eventually(DEADLINE, || async {
            let refused = self.refused(name).await?;
            let is_it = |line: &&Value| {
                field(line, "reason") == Some(reason)
                    && field(line, "from") == from
                    && field(line, "detail").unwrap_or_default().contains(words)
            };
            let found = refused.iter().find(is_it);
            found
                .map(drop)
                .with_context(|| format!("{reason:?}, {words:?} of {from:?} is not in {refused:?}"))
        })
        .await
    }
}
