//! Other people's clients, as their users would write them, talk to the concierge. `tests/interop/install.sh`
//! installs them.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use oa_tests::interop::{installed, node, script};
use oa_tests::world::{DEADLINE, World, field, programs};
use serde_json::Value;
use tokio::process::Command;

fn nostr_tools(dir: &Path) -> Result<Command> {
    node(dir, "nostr-tools.mjs")
}

fn nostr_sdk(dir: &Path) -> Result<Command> {
    let mut command = Command::new(dir.join("python/bin/python"));
    command.arg(script("nostr_sdk_client.py")).stdin(Stdio::null());
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
