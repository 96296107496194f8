//! Other people's clients, as their users would write them, talk to the concierge. `tests/interop/install.sh`
//! installs them.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use oa_tests::world::{DEADLINE, World, field, programs};
use serde_json::Value;
use tokio::process::Command;

/// The scripts.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/interop");

/// Where the clients are installed, which they must be.
fn installed() -> Result<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/oa-tests"));
    let cache = std::env::var_os("OA_TEST_CACHE").map(PathBuf::from).or_else(home).context("no HOME")?;
    let dir = cache.join("interop");
    let wanted = ["package.json", "requirements.txt"]
        .map(|file| std::fs::read_to_string(Path::new(SCRIPTS).join(file)).unwrap_or_default())
        .concat();
    let found = std::fs::read_to_string(dir.join("installed")).unwrap_or_default();
    ensure!(
        found.trim() == wanted.trim(),
        "the clients are not installed, or old: run tests/interop/install.sh"
    );
    Ok(dir)
}

fn nostr_tools(dir: &Path) -> Result<Command> {
    let mut command = Command::new("node");
    // A module from stdin finds its dependencies by the current folder.
    let script = std::fs::File::open(Path::new(SCRIPTS).join("nostr-tools.mjs"))?;
    command.current_dir(dir).args(["--input-type=module", "-"]).stdin(Stdio::from(script));
    Ok(command)
}

fn nostr_sdk(dir: &Path) -> Result<Command> {
    let mut command = Command::new(dir.join("python/bin/python"));
    command.arg(Path::new(SCRIPTS).join("nostr_sdk_client.py")).stdin(Stdio::null());
    Ok(command)
}

/// Lets a client ask the concierge of a fresh home in both protocols.
async fn asks(client: fn(&Path) -> Result<Command>) -> Result<()> {
    let dir = installed()?;
    programs()?;
    let world = World::new()?;
    let up = world.home("a")?.up().start().await?;
    let ready = up.ready();
    let npub = ready.pointer("/agents/0/npub").and_then(Value::as_str).context("the concierge's npub")?;
    for (protocol, kind) in [("nip17", 14), ("nip04", 4)] {
        let mut command = client(&dir)?;
        command.args([&up.relay()?, npub, protocol, "note buy milk"]).kill_on_drop(true);
        let output = tokio::time::timeout(2 * DEADLINE, command.output()).await??;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{protocol}: {}\n{stderr}\n{}", output.status, up.stderr()?);
        let reply: Value = serde_json::from_slice(&output.stdout)?;
        ensure!(field(&reply, "text") == Some("Noted as #1: buy milk"), "{protocol}: {reply}");
        ensure!(reply.get("kind") == Some(&kind.into()), "{protocol}: {reply}");
    }
    Ok(())
}

#[tokio::test]
async fn nostr_tools_writes_and_reads_both_protocols() -> Result<()> {
    asks(nostr_tools).await
}

#[tokio::test]
async fn nostr_sdk_for_python_writes_and_reads_both_protocols() -> Result<()> {
    asks(nostr_sdk).await
}
