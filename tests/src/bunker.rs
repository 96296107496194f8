//! nostr-tools on both sides of NIP-46: `tests/interop/install.sh` installs it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use oa_nips::nostr::{Event, JsonUtil as _, PublicKey};
use oa_relay::{Relay, StoreConfig};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::world::{DEADLINE, field};

/// The scripts.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/interop");

/// nostr-tools in one of its parts: `client URI`, `bunker RELAY`, `asking RELAY`.
///
/// # Errors
/// When it is not installed.
pub fn nostr_tools(arguments: &[&str]) -> Result<Command> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/oa-tests"));
    let cache = std::env::var_os("OA_TEST_CACHE").map(PathBuf::from).or_else(home).context("no HOME")?;
    let dir = cache.join("interop");
    ensure!(dir.join("installed").exists(), "the clients are not installed: run tests/interop/install.sh");
    // A module finds its dependencies by its own place; stdin is the bunker's life line, so that cannot be the script.
    let code = std::fs::read_to_string(Path::new(SCRIPTS).join("bunker.mjs"))?;
    let mut command = Command::new("node");
    command.current_dir(dir).args(["--input-type=module", "--eval", &code, "--"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}

/// Checks what their `client` went through: it was let in once, by a connection that may sign notes and encrypt, and the
/// key it signs with is this one.
///
/// # Errors
/// With all that it says, where something is otherwise.
pub fn signed_as(client: &Output, key: &PublicKey) -> Result<()> {
    let said: Value = serde_json::from_slice(&client.stdout)
        .with_context(|| String::from_utf8_lossy(&client.stderr).into_owned())?;
    let at = |path: &str| said.pointer(path).and_then(Value::as_str).unwrap_or_default();
    ensure!(at("/early/error") == "not connected", "{said}");
    ensure!(said.pointer("/connect/ok").is_some() && at("/key") == key.to_hex(), "{said}");
    let note = Event::from_json(said.pointer("/note/ok").context("no note")?.to_string())?;
    note.verify()?;
    ensure!(note.pubkey == *key && note.content == "signed elsewhere", "{said}");
    ensure!(at("/profile/error") == "not allowed: events of kind 0", "{said}");
    ensure!(at("/read") == "to a friend" && at("/back") == "to a friend", "{said}");
    ensure!(at("/legacy/error") == "not allowed: nip-04", "{said}");
    ensure!(said.pointer("/ping/ok").is_some() && said.get("moved") == Some(&false.into()), "{said}");
    ensure!(at("/again/error").starts_with("not invited"), "a secret lets in once: {said}");
    ensure!(at("/logout/ok") == "ack" && at("/late/error") == "not connected", "{said}");
    Ok(())
}

/// A bunker made with nostr-tools, on a relay of its own.
#[derive(Debug)]
pub struct TheirBunker {
    /// Its address, with a secret in it.
    pub uri: String,
    /// The key it has.
    pub key: PublicKey,
    relay: Relay,
    child: Child,
}

impl TheirBunker {
    /// Starts one: `bunker`, or `asking`.
    ///
    /// # Errors
    /// When it does not say where it is.
    pub async fn start(how: &str) -> Result<Self> {
        let config = oa_relay::Config::new(([127, 0, 0, 1], 0).into(), StoreConfig::Memory);
        let relay = Relay::start(config).await?;
        let mut child = nostr_tools(&[how, &relay.url()])?.spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("its stdout")?).lines();
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await??.context("it ended")?;
        let said: Value = serde_json::from_str(&line)?;
        let text = |name| field(&said, name).context("it says where it is");
        let (uri, key) = (text("uri")?.to_owned(), PublicKey::parse(text("key")?)?);
        Ok(Self { uri, key, relay, child })
    }

    /// Ends it; its relay goes on.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn leave(&mut self) -> Result<()> {
        drop(self.child.stdin.take());
        tokio::time::timeout(DEADLINE, self.child.wait()).await??;
        Ok(())
    }

    /// Stops it for a while, as a machine that sleeps.
    ///
    /// # Errors
    /// When it is gone.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Goes on.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid =
            self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).context("it ended")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Ends it and its relay.
    pub async fn end(self) {
        drop(self.child);
        self.relay.shutdown().await;
    }
}
