//! Files that somebody changes in a mounted folder wake the agent that wants to know.

use anyhow::{Context as _, Result, ensure};
use oa_tests::world::{DEADLINE, Home, World, eventually, field};
use serde_json::Value;

/// The ticks of an agent that changes in folders began.
async fn woken(home: &Home, name: &str) -> Result<usize> {
    let ticks = home.oa(&["logs", name, "--json"]).await?.json()?;
    let kind =
        |tick: &&Value| tick.pointer("/fields/trigger/kind").and_then(Value::as_str) == Some("workspace");
    Ok(ticks.iter().filter(kind).count())
}

#[tokio::test]
async fn changes_in_a_folder_wake_who_mounts_it_with_a_trigger() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let folder = world.path().join("work");
    std::fs::create_dir(&folder)?;
    let said = home.oa_node(&["--json", "init"]).await?.json()?;
    let operator = said.first().and_then(|said| field(said, "operator")).context("an operator")?;
    let mount = "[[agents.mounts]]\npath = \"/workspace\"\nfrom = [\"work\"]\naccess = \"read_write\"\n";
    let config = format!(
        "operators = [{operator:?}]\n[relay]\nlisten = {:?}\n[srv.work]\npath = {folder:?}\naccess = \"read_write\"\n\
         [[agents]]\nname = \"wakes\"\nprogram = \"echo\"\n{mount}trigger = true\n\
         [[agents]]\nname = \"sleeps\"\nprogram = \"echo\"\n{mount}",
        home.listen()
    );
    home.write("config.toml", &config)?;
    let _node = home.run().start().await?;
    for n in 0..20 {
        std::fs::write(folder.join(format!("{n}.txt")), "new")?;
    }
    eventually(DEADLINE, || async {
        ensure!(woken(&home, "wakes").await? > 0, "not yet");
        Ok(())
    })
    .await?;
    // What an operator writes through the tree is a change like any other.
    home.oa(&["write", "/agents/sleeps/workspace/said.txt", "by an operator"]).await?.ok()?;
    ensure!(std::fs::read_to_string(folder.join("said.txt"))? == "by an operator");
    eventually(DEADLINE, || async {
        ensure!(woken(&home, "wakes").await? == 2, "twenty files were one burst, and this is another");
        Ok(())
    })
    .await?;
    ensure!(woken(&home, "sleeps").await? == 0, "it did not ask for it");
    // A manifest that asks for what nothing tells of is refused.
    let manifest = home.oa(&["cat", "/agents/wakes/manifest"]).await?.ok()?;
    ensure!(manifest.contains("trigger = true"), "{manifest}");
    let wrong = manifest.replace("from = [\"work\"]\n", "");
    let refused = home.oa(&["write", "/agents/wakes/manifest", &wrong]).await?;
    ensure!(refused.code == Some(2) && refused.stderr.contains("need a from"), "{refused:?}");
    Ok(())
}
