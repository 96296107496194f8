//! An operator whose key is in a bunker: his home is let in once, and everything works through it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use oa_nips::nostr::ToBech32 as _;
use oa_tests::bunker::TheirBunker;
use oa_tests::world::{DEADLINE, Done, Home, Process, Program, World, field, programs};
use tokio::io::AsyncWriteExt as _;

/// A node that obeys the key of a bunker, and a home from which it is steered.
struct Stage {
    _world: World,
    node: Process,
    desk: Home,
    bunker: TheirBunker,
}

impl Stage {
    async fn start(how: &str) -> Result<Self> {
        let bunker = TheirBunker::start(how).await?;
        let world = World::new()?;
        let (server, desk) = (world.home("server")?, world.home("desk")?);
        let config = format!(
            "operators = [{:?}]\n[relay]\nlisten = {:?}\n[[agents]]\nname = \"concierge\"\nprogram = \
             \"concierge\"\n[agents.dm]\npolicy = \"open\"\n",
            bunker.key.to_bech32()?,
            server.listen()
        );
        server.write("config.toml", &config)?;
        let node = server.run().start().await?;
        Ok(Self { _world: world, node, desk, bunker })
    }

    fn connecting<'a>(&'a self, npub: &'a str, relay: &'a str, bunker: &'a str) -> Vec<&'a str> {
        vec!["--json", "connect", npub, "--relay", relay, "--bunker", bunker]
    }

    /// `oa connect` with the address in a file.
    async fn connect(&self) -> Result<Done> {
        let file = self.desk.dir().with_extension("address");
        std::fs::write(&file, &self.bunker.uri)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
        let (npub, relay) = (self.node.node()?.to_bech32()?, self.node.relay()?);
        self.desk.oa(&self.connecting(&npub, &relay, &file.display().to_string())).await
    }
}

fn failed(done: &Done, code: i32, sentence: &str) -> Result<()> {
    ensure!(done.code == Some(code), "{code} is wanted: {done:?}");
    ensure!(done.stderr.contains(sentence), "{sentence:?} is wanted: {done:?}");
    Ok(())
}

#[tokio::test]
async fn a_home_is_let_in_once_and_every_verb_works() -> Result<()> {
    let Stage { _world, mut node, desk, mut bunker } = {
        let stage = Stage::start("asking").await?;
        let said = stage.connect().await?;
        ensure!(said.stderr.contains("open https://bunker.example/approve"), "{said:?}");
        let said = said.json()?;
        let operator = said.first().and_then(|said| field(said, "operator")).context("an operator")?;
        ensure!(operator == stage.bunker.key.to_bech32()?, "{said:?}");
        stage
    };
    ensure!(!desk.dir().join("operator.key").exists(), "the key is elsewhere");
    for file in ["bunker.json", "bunker.key"] {
        ensure!(std::fs::metadata(desk.dir().join(file))?.mode() & 0o777 == 0o600, "{file}");
        ensure!(!std::fs::read_to_string(desk.dir().join(file))?.contains("once"), "the secret is not kept");
    }
    ensure!(desk.oa(&["ls", "/agents"]).await?.ok()?.contains("concierge"));
    let status = desk.oa(&["cat", "/agents/concierge/status"]).await?.ok()?;
    ensure!(status.contains("npub"), "{status}");
    ensure!(desk.oa(&["dm", "concierge", "ping"]).await?.ok()? == "pong\n");
    desk.oa(&["write", "/agents/concierge/memory/notes/x", "kept"]).await?.ok()?;
    ensure!(desk.oa(&["cat", "/agents/concierge/memory/notes/x"]).await?.ok()?.trim() == "kept");
    desk.oa(&["call", "/agents/concierge/ctl", "tick"]).await?.ok()?;
    let tail = desk.oa(&["tail", "/agents/concierge/logs/ticks", "-n", "1", "--once"]).await?;
    ensure!(tail.json()?.len() == 1);
    let key = desk.oa(&["key", "show"]).await?.ok()?;
    ensure!(key.contains(&bunker.key.to_bech32()?) && key.contains("in a bunker"), "{key}");
    failed(&desk.oa(&["key", "backup"]).await?, 3, "in a bunker")?;
    // A command that waits for the node is signed there too.
    let relay = node.relay()?;
    ensure!(node.terminate(DEADLINE).await? == 0);
    node.restart().await?;
    ensure!(node.relay()? == relay);
    desk.oa(&["mkdir", "/agents/concierge/memory/later", "--queue", "--wait=20s"]).await?.ok()?;
    // Without the bunker nothing works, and within seconds that is said.
    bunker.leave().await?;
    let began = Instant::now();
    failed(&desk.oa(&["ls", "/"]).await?, 5, "no answer from the bunker")?;
    ensure!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    bunker.end().await;
    Ok(())
}

#[tokio::test]
async fn a_mount_is_signed_for_by_the_bunker() -> Result<()> {
    let stage = Stage::start("bunker").await?;
    stage.connect().await?.ok()?;
    let folder = stage.desk.dir().with_extension("mount");
    std::fs::create_dir(&folder)?;
    let at = folder.display().to_string();
    let mut mount = stage.desk.launch(Program::Oa, ["mount", &at]).spawn()?;
    let file = folder.join("agents/concierge/status");
    let read = || async {
        Ok(tokio::task::spawn_blocking({
            let file = file.clone();
            move || std::fs::read_to_string(file)
        })
        .await??)
    };
    let status = oa_tests::world::eventually(DEADLINE, read).await?;
    ensure!(status.contains("npub"), "{status}");
    ensure!(mount.terminate(DEADLINE).await? == 0);
    stage.bunker.end().await;
    Ok(())
}

#[tokio::test]
async fn addresses_are_taken_from_where_nobody_else_reads_them() -> Result<()> {
    let stage = Stage::start("bunker").await?;
    let (npub, relay) = (stage.node.node()?.to_bech32()?, stage.node.relay()?);
    let desk = &stage.desk;
    let secret = "secret=once";
    ensure!(stage.bunker.uri.contains(secret));
    let done = desk.oa(&stage.connecting(&npub, &relay, &stage.bunker.uri)).await?;
    failed(&done, 2, "--bunker -")?;
    let file = desk.dir().with_extension("address");
    std::fs::write(&file, &stage.bunker.uri)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
    let path = file.display().to_string();
    failed(&desk.oa(&stage.connecting(&npub, &relay, &path)).await?, 2, &format!("chmod 600 {path}"))?;
    // Without its secret nobody is let in.
    let (plain, _) = stage.bunker.uri.split_once("&secret").context("a secret comes last")?;
    failed(&desk.oa(&stage.connecting(&npub, &relay, plain)).await?, 4, "not invited")?;
    ensure!(!desk.dir().join("bunker.json").exists(), "nothing is remembered");
    // From stdin.
    let mut command = tokio::process::Command::new(programs()?.path(Program::Oa));
    command.arg("--home").arg(desk.dir()).args(stage.connecting(&npub, &relay, "-"));
    let mut child =
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn()?;
    child.stdin.take().context("stdin")?.write_all(stage.bunker.uri.as_bytes()).await?;
    ensure!(tokio::time::timeout(DEADLINE, child.wait()).await??.success());
    ensure!(desk.oa(&["ls", "/agents"]).await?.ok()?.contains("concierge"));
    // It is in: again it needs no secret.
    desk.oa(&stage.connecting(&npub, &relay, plain)).await?.ok()?;
    // Another bunker is for another home.
    let other = TheirBunker::start("bunker").await?;
    std::fs::write(&file, &other.uri)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    failed(&desk.oa(&stage.connecting(&npub, &relay, &path)).await?, 1, "another bunker")?;
    other.end().await;
    stage.bunker.end().await;
    Ok(())
}
