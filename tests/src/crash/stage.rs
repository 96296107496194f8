//! The two processes of a run: one relay, one node with a concierge. Kills them, looks at what was unfinished, and
//! starts them again.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oa_nips::nostr::{EventId, PublicKey};
use rustix::process::Signal;

use super::memory::{Memory, Shelf, at_relay};
use super::phase::{Dead, Scene};
use super::plan::Strike;
use super::verdict::Aftermath;
use crate::world::{Home, Process, World};

/// The agent that everybody writes to.
const AGENT: &str = "concierge";
/// How often the node looks for mail that did not come by itself, in milliseconds.
const SWEEP_MS: u64 = 500;
/// How long what makes a kill due is waited for.
const CUE_WAIT: Duration = Duration::from_secs(5);
/// How long the node may take to end by itself.
const DRAIN: Duration = Duration::from_secs(50);

/// Relay and node.
#[derive(Debug)]
pub(super) struct Stage {
    node_home: Home,
    relay_home: Home,
    node: Process,
    relay: Process,
    agent: PublicKey,
}

impl Stage {
    /// Starts both.
    pub(super) async fn start(world: &World) -> Result<Self> {
        let (relay_home, node_home) = (world.home("relay")?, world.home("node")?);
        node_home.write("config.toml", &config(&relay_home.relay_url()))?;
        std::fs::create_dir_all(relay_home.dir())?;
        let relay = relay_home.relay().start().await.context("the relay")?;
        let node = node_home.run().start().await.context("the node")?;
        let agent = node.agent(AGENT)?;
        Ok(Self { node_home, relay_home, node, relay, agent })
    }

    /// Where mail goes.
    pub(super) fn relay_url(&self) -> String {
        self.relay_home.relay_url()
    }

    /// To whom.
    pub(super) fn agent(&self) -> PublicKey {
        self.agent
    }

    /// How many events the node has told since it was last started.
    pub(super) fn told(&self) -> u64 {
        self.node.told()
    }

    /// Waits until a kill is due; answers false when what it waits for does not come.
    pub(super) async fn due(&self, since: u64, strike: &Strike) -> Result<bool> {
        let mut left = strike.cues;
        let seen = self.node.wait_since(since, CUE_WAIT, |event| {
            if event["event"] == strike.cue.event() {
                left -= 1;
            }
            left == 0
        });
        let came = seen.await.is_ok();
        let delay = strike.delay;
        // The runtime's own timer knows whole milliseconds only.
        tokio::task::spawn_blocking(move || std::thread::sleep(delay)).await?;
        Ok(came)
    }

    /// Kills, copies what was left behind, and starts the dead again, at once; answers what was unfinished.
    pub(super) async fn kill(&mut self, dead: Dead) -> Result<Scene> {
        self.alive()?;
        if dead.has_node() {
            self.node.signal(Signal::KILL)?;
        }
        if dead.has_relay() {
            self.relay.signal(Signal::KILL)?;
        }
        let home = oa_node::home::Home::peek(self.node_home.dir())?;
        let memory = if dead.has_node() {
            self.node.kill().await?;
            Memory::of_dead(&home, AGENT)?
        } else {
            // Without the relay, the node has nothing to go on with.
            self.relay.kill().await?;
            Memory::of_living(&home, AGENT)?
        };
        let mut scene = memory.scene()?;
        memory.close().await;
        let ids: Vec<EventId> = scene.unsent.iter().copied().flatten().collect();
        if dead.has_relay() {
            self.relay.kill().await?;
            let shelf = Shelf::of_dead(&self.relay_home.dir().join("relay"))?;
            self.restart(dead).await?;
            scene.at_relay = shelf.has(&ids).await?;
        } else {
            // What the node had written to its socket has reached the relay's store while the copy was made.
            scene.at_relay = at_relay(&self.relay_url(), &ids).await?;
            self.restart(dead).await?;
        }
        Ok(scene)
    }

    async fn restart(&mut self, dead: Dead) -> Result<()> {
        let (node, relay) = (&mut self.node, &mut self.relay);
        let relay = async { if dead.has_relay() { relay.restart().await.map(drop) } else { Ok(()) } };
        let node = async { if dead.has_node() { node.restart().await.map(drop) } else { Ok(()) } };
        let (relay, node) = tokio::join!(relay, node);
        relay.context("the relay, started again")?;
        node.context("the node, started again")
    }

    /// Checks that nothing has ended by itself.
    fn alive(&mut self) -> Result<()> {
        ensure!(self.relay.is_running()?, "the relay ended by itself: {}", self.relay.stderr()?);
        ensure!(self.node.is_running()?, "the node ended by itself: {}", self.node.stderr()?);
        Ok(())
    }

    /// Ends the node as its operator would, and reads what it kept.
    pub(super) async fn end(&mut self) -> Result<Aftermath> {
        self.alive()?;
        let code = self.node.terminate(DRAIN).await?;
        ensure!(code == 0, "the node ended with {code}: {}", self.node.stderr()?);
        let memory = Memory::of_dead(&oa_node::home::Home::peek(self.node_home.dir())?, AGENT)?;
        let aftermath = memory.aftermath();
        memory.close().await;
        aftermath
    }
}

/// The node's config.toml. No limit on replies: a crash is to be seen, not a bucket.
fn config(relay: &str) -> String {
    format!(
        r#"relays = ["{relay}"]

[relay]
enabled = false

[sweep]
every_ms = {SWEEP_MS}
paging_every_ms = {SWEEP_MS}

[[agents]]
name = "{AGENT}"
program = "concierge"

[agents.dm]
policy = "open"

[agents.replies]
burst = 100000
"#
    )
}
