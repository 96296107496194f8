//! `oa-node doctor` finds what is wrong with a home, and nothing where all is well.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use oa_tests::world::{DEADLINE, Home, World, eventually};
use serde_json::Value;

/// What a check said, by its name, and the exit code.
async fn examined(home: &Home) -> Result<(Vec<(String, String, String)>, Option<i32>)> {
    let done = home.oa_node(&["doctor", "--json"]).await?;
    let text = |line: &Value, key: &str| line.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let found = done.json()?;
    Ok((
        found.iter().map(|line| (text(line, "check"), text(line, "state"), text(line, "hint"))).collect(),
        done.code,
    ))
}

fn state<'a>(found: &'a [(String, String, String)], check: &str) -> Result<&'a str> {
    let line = found.iter().find(|(name, ..)| name == check);
    line.map(|(_, state, _)| state.as_str()).with_context(|| format!("no {check} in {found:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doctor_finds_what_is_wrong_and_nothing_where_all_is_well() -> Result<()> {
    let world = World::new()?;
    let home = world.home("node")?;
    ensure!(home.oa_node(&["doctor"]).await?.code == Some(3), "there is no home");
    home.oa_node(&["init"]).await?.ok()?;
    let config = std::fs::read_to_string(home.dir().join("config.toml"))?;
    let config = config.replace("127.0.0.1:7447", &home.listen());
    home.write("config.toml", &config)?;
    let (found, code) = examined(&home).await?;
    ensure!(code == Some(0) && state(&found, "process")? == "doubt", "{found:?}");

    let mut node = home.run().start().await?;
    // The lease is on the relay a moment after the node is ready.
    eventually(DEADLINE, async || {
        let (found, code) = examined(&home).await?;
        ensure!(code == Some(0) && found.iter().all(|(_, state, _)| state == "ok"), "{found:?}");
        ensure!(found.iter().any(|(check, ..)| check == "node"), "{found:?}");
        Ok(())
    })
    .await?;

    let dead = world.home("nobody")?.relay_url();
    let without = config.lines().filter(|line| !line.starts_with("relays"));
    let without = without.collect::<Vec<_>>().join("\n");
    home.write("config.toml", &format!("relays = [{dead:?}]\n{without}"))?;
    let seed = home.dir().join("seed");
    let (found, code) = examined(&home).await?;
    ensure!(code == Some(1) && state(&found, "relay")? == "wrong", "{found:?}");
    std::fs::set_permissions(&seed, Permissions::from_mode(0o644))?;
    let (found, code) = examined(&home).await?;
    let mends = found.iter().any(|(check, _, hint)| check == "seed" && hint.starts_with("chmod 600 "));
    ensure!(code == Some(1) && state(&found, "seed")? == "wrong" && mends, "{found:?}");
    std::fs::set_permissions(&seed, Permissions::from_mode(0o600))?;
    home.write("config.toml", "relais = []\n")?;
    let (found, _) = examined(&home).await?;
    ensure!(state(&found, "config")? == "wrong", "{found:?}");

    home.write("config.toml", &config)?;
    ensure!(node.terminate(DEADLINE).await? == 0);
    std::fs::write(
        home.dir().join("node.db"),
        "this is no database, and long enough to be read as one".repeat(100),
    )?;
    let (found, code) = examined(&home).await?;
    ensure!(code == Some(1) && state(&found, "database")? == "wrong", "{found:?}");
    Ok(())
}
