//! What cannot work says so: a sentence, a hint, an exit code that is not 0, and nothing destroyed.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use oa_nips::mail::Protocol::Nip17;
use oa_nips::nostr::Keys;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_tests::client::Client;
use oa_tests::secrets::files;
use oa_tests::world::{DEADLINE, Done, Home, Process, Program, World, eventually, finish, programs};
use rustix::process::geteuid;
use tokio::net::TcpListener;
use tokio::process::Command;

/// What is in a home, by content, but for what each start writes anew: locks, the slots of running ticks, and what
/// SQLite keeps beside its file.
fn contents(home: &Path) -> Result<BTreeMap<PathBuf, sha256::Hash>> {
    let volatile = ["node.db-shm", "node.db-wal", "lock", "lock.mdb", "running"];
    let is_kept =
        |path: &PathBuf| !path.file_name().is_some_and(|name| volatile.iter().any(|no| name == *no));
    let mut found = BTreeMap::new();
    for path in files(home)?.into_iter().filter(is_kept) {
        let bytes = std::fs::read(&path)?;
        found.insert(path, sha256::Hash::hash(&bytes));
    }
    Ok(found)
}

/// A failure as it should be: code 1 or 2, an `error:` that names all these, and a hint.
fn fails(done: &Done, words: &[&str]) -> Result<()> {
    ensure!(matches!(done.code, Some(1 | 2)), "{done:?}");
    let error =
        done.stderr.lines().find(|line| line.starts_with("error: ")).with_context(|| format!("{done:?}"))?;
    for word in words {
        ensure!(done.stderr.contains(word), "{word:?} is not in {}", done.stderr);
    }
    ensure!(!error.contains("panicked") && !done.stderr.contains("RUST_BACKTRACE"), "{}", done.stderr);
    Ok(())
}

fn fails_with_hint(done: &Done, words: &[&str]) -> Result<()> {
    fails(done, words)?;
    ensure!(done.stderr.lines().any(|line| line.starts_with("hint: ")), "no hint: {}", done.stderr);
    Ok(())
}

/// A home that has been used and left.
async fn used(world: &World) -> Result<Home> {
    let home = world.home("a")?;
    let mut up = home.up().start().await?;
    let agent = up.agent("concierge")?;
    let mut alice = Client::connect(&up.relay()?, Keys::generate(), DEADLINE).await?;
    alice.ask(agent, "note buy milk", Nip17, DEADLINE).await?;
    ensure!(up.terminate(DEADLINE).await? == 0);
    Ok(home)
}

/// `oa up` in a home where it must fail.
async fn up_fails(home: &Home, words: &[&str]) -> Result<()> {
    let before = contents(home.dir())?;
    let done = home.oa(&["up", "--listen", &home.listen()]).await?;
    fails_with_hint(&done, words)?;
    let after = contents(home.dir())?;
    ensure!(before == after, "files have changed: {before:#?} {after:#?}");
    Ok(())
}

async fn is_well(home: &Home) -> Result<Process> {
    let up = home.up().start().await?;
    ensure!(home.oa(&["dm", "concierge", "ping"]).await?.ok()? == "pong\n");
    Ok(up)
}

#[tokio::test]
async fn an_error_in_the_config_names_file_line_and_key() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    home.oa_node(&["init"]).await?.ok()?;
    let before = contents(home.dir())?;
    let path = home.dir().join("config.toml");
    let file = path.display().to_string();
    let good = std::fs::read_to_string(&path)?;
    for (text, line, key) in [
        ("dormant_after = 3\n", 1, "dormant_after"),
        ("dormant_after_s = \"long\"\n", 1, "dormant_after_s"),
        ("\noperators = [\"npub1nobody\"]\n", 2, "operators"),
        ("relays = [\n\"wss://a.example\",\n\"example.com\"]\n", 3, "relays"),
        ("[relay]\nlisten = \"here\"\n", 2, "listen"),
        ("[relay]\nurl = \"https://a.example\"\n", 2, "url"),
        ("[relay]\nenabled = false\n", 2, "relay.enabled"),
        ("[sweep]\nevery_ms = -1\n", 2, "every_ms"),
        ("[[agents]]\nname = \"a\"\n[agents.dm]\npolicy = \"everybody\"\n", 4, "policy"),
        ("[[agents]]\nname = \"A b\"\n", 2, "name"),
        ("[[agents]]\nname = \"a\"\nprogram = \"skynet\"\n", 3, "program"),
        ("[[agents]]\nname = \"a\"\n[[agents]]\nname = \"a\"\n", 4, "name"),
        ("relays = [\"wss://a.example\"\n", 1, "relays"),
    ] {
        home.write("config.toml", text)?;
        let done = home.oa_node(&["run"]).await?;
        ensure!(done.code == Some(2), "{text}: {done:?}");
        let line = format!("line {line}");
        fails(&done, &[&file, &line, key]).with_context(|| text.to_owned())?;
    }
    home.write("config.toml", &good)?;
    ensure!(contents(home.dir())? == before, "files have changed");
    Ok(())
}

#[tokio::test]
async fn a_home_without_a_config_is_told_how_to_get_one() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let none = home.oa_node(&["run"]).await?;
    ensure!(none.code != Some(0) && none.stderr.contains("hint: "), "{none:?}");
    ensure!(!home.dir().exists(), "nothing is made");
    std::fs::create_dir(home.dir())?;
    fails_with_hint(&home.oa_node(&["run"]).await?, &["config.toml", "oa-node init"])
}

#[tokio::test]
async fn a_port_that_is_taken() -> Result<()> {
    let world = World::new()?;
    let home = used(&world).await?;
    let taken = TcpListener::bind(home.listen()).await?;
    up_fails(&home, &[&home.listen(), "in use", "--listen"]).await?;
    let relay = home.oa(&["relay", "--memory", "--listen", &home.listen()]).await?;
    fails_with_hint(&relay, &[&home.listen(), "in use"])?;
    drop(taken);
    is_well(&home).await.map(drop)
}

#[tokio::test]
async fn an_address_that_is_not_of_this_machine() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let done = home.oa(&["up", "--listen", "192.0.2.1:7447"]).await?;
    fails_with_hint(&done, &["192.0.2.1:7447", "--listen"])
}

#[tokio::test]
async fn a_home_that_another_process_has_locked() -> Result<()> {
    let world = World::new()?;
    let home = used(&world).await?;
    let up = home.up().start().await?;
    let pid = up.pid()?.to_string();
    let second = Home::at(home.dir())?;
    let dir = home.dir().display().to_string();
    fails_with_hint(&second.oa(&["up", "--listen", &second.listen()]).await?, &[&dir, "in use", &pid])?;
    fails_with_hint(&second.oa(&["relay", "--listen", &second.listen()]).await?, &[&dir, "in use", &pid])?;
    fails_with_hint(&second.oa_node(&["init"]).await?, &[&dir, "in use", &pid])?;
    ensure!(home.oa(&["dm", "concierge", "ping"]).await?.ok()? == "pong\n", "the first goes on");
    Ok(())
}

#[tokio::test]
async fn a_home_below_a_file() -> Result<()> {
    let world = World::new()?;
    std::fs::write(world.path().join("file"), "precious")?;
    for place in ["file", "file/below"] {
        let home = Home::at(world.path().join(place))?;
        let dir = home.dir().display().to_string();
        fails_with_hint(&home.oa(&["up", "--listen", &home.listen()]).await?, &[&dir, "not a folder"])?;
        fails_with_hint(&home.oa_node(&["init"]).await?, &[&dir, "not a folder"])?;
    }
    ensure!(std::fs::read_to_string(world.path().join("file"))? == "precious");
    Ok(())
}

/// A command of somebody who may not write everywhere: root has `nobody` do it.
fn as_nobody(program: Program) -> Result<Command> {
    let program = programs()?.path(program);
    if !geteuid().is_root() {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    Ok(command)
}

#[tokio::test]
async fn a_home_that_cannot_be_written() -> Result<()> {
    let world = World::new()?;
    let home = used(&world).await?;
    let before = contents(home.dir())?;
    // Others may come as far as the home, and read in it.
    for path in [world.path(), home.dir()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o555))?;
    }
    for dir in [home.dir().to_owned(), world.path().join("new")] {
        let mut command = as_nobody(Program::Oa)?;
        command.arg("--home").arg(&dir).args(["up", "--listen", &home.listen()]);
        let done = finish(command).await?;
        fails_with_hint(&done, &[&dir.display().to_string(), "cannot be written"])?;
    }
    for path in [world.path(), home.dir()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    }
    ensure!(contents(home.dir())? == before, "files have changed");
    is_well(&home).await.map(drop)
}

#[tokio::test]
async fn a_database_that_is_corrupt() -> Result<()> {
    let world = World::new()?;
    let home = used(&world).await?;
    let path = home.dir().join("node.db");
    let good = std::fs::read(&path)?;
    let mut holed = good.clone();
    holed.iter_mut().skip(4096).for_each(|byte| *byte = 0x55);
    for bad in [b"no database at all, but long enough to be one".repeat(200), holed] {
        std::fs::write(&path, bad)?;
        up_fails(&home, &["node.db"]).await?;
    }
    std::fs::write(&path, good)?;
    is_well(&home).await.map(drop)
}

#[tokio::test]
async fn a_database_from_a_newer_version() -> Result<()> {
    let world = World::new()?;
    let home = used(&world).await?;
    let set = |version: i64| -> Result<i64> {
        let db = rusqlite::Connection::open(home.dir().join("node.db"))?;
        let was = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        db.pragma_update(None, "user_version", version)?;
        Ok(was)
    };
    let ours = set(9_999)?;
    up_fails(&home, &["node.db", "newer"]).await?;
    set(ours)?;
    is_well(&home).await.map(drop)
}

#[tokio::test]
async fn a_relay_store_that_is_corrupt() -> Result<()> {
    let world = World::new()?;
    let home = used(&world).await?;
    let path = home.dir().join("relay/data.mdb");
    let good = std::fs::read(&path)?;
    std::fs::write(&path, vec![0x55; good.len()])?;
    up_fails(&home, &["relay"]).await?;
    std::fs::write(&path, good)?;
    is_well(&home).await.map(drop)
}

#[tokio::test]
async fn secrets_that_are_gone_or_damaged() -> Result<()> {
    let world = World::new()?;
    let home = used(&world).await?;
    let seed = home.dir().join("seed");
    let good = std::fs::read_to_string(&seed)?;
    for bad in ["", "twelve words that are none", &good.replacen(' ', " abandon ", 1)] {
        std::fs::write(&seed, bad)?;
        up_fails(&home, &["seed"]).await?;
    }
    std::fs::remove_file(&seed)?;
    up_fails(&home, &["seed", "put the seed file back"]).await?;
    ensure!(!seed.exists(), "no other seed is made");
    // Another node's seed in its place: the agents of this database are not its.
    let other = world.home("b")?;
    other.oa_node(&["init"]).await?.ok()?;
    std::fs::copy(other.dir().join("seed"), &seed)?;
    up_fails(&home, &["another node"]).await?;
    std::fs::write(&seed, &good)?;
    let operator = home.dir().join("operator.key");
    let key = std::fs::read(&operator)?;
    std::fs::write(&operator, "not a key")?;
    up_fails(&home, &["operator.key"]).await?;
    std::fs::write(&operator, key)?;
    is_well(&home).await.map(drop)
}

#[tokio::test]
async fn a_seed_that_others_can_read() -> Result<()> {
    let world = World::new()?;
    let home = used(&world).await?;
    let seed = home.dir().join("seed");
    std::fs::set_permissions(&seed, std::fs::Permissions::from_mode(0o644))?;
    up_fails(&home, &["seed", "chmod 600"]).await?;
    std::fs::set_permissions(&seed, std::fs::Permissions::from_mode(0o600))?;
    is_well(&home).await.map(drop)
}

/// A disk of its own, which can be full.
struct Disk(PathBuf);

impl Disk {
    /// Nothing where disks cannot be made, which is said.
    #[expect(clippy::print_stderr, reason = "whoever runs the tests is to see what was not tested")]
    async fn new(world: &World, size: &str) -> Result<Option<Self>> {
        let path = world.path().join("disk");
        std::fs::create_dir(&path)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "oa-test"]).arg(&path);
        let why = match finish(mount).await {
            Ok(done) if done.code == Some(0) => return Ok(Some(Self(path))),
            Ok(done) => done.stderr,
            Err(error) => format!("{error:#}"),
        };
        eprintln!("NOT TESTED: no disk can be made to fill: {}", why.trim());
        Ok(None)
    }

    /// Writes until there is no room.
    fn fill(&self) -> Result<PathBuf> {
        use std::io::Write as _;
        let path = self.0.join("ballast");
        let mut file = std::fs::File::create(&path)?;
        for size in [64 * 1024, 4096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What stays mounted is in the way of the folder's end only.
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_disk_that_is_full_from_the_start() -> Result<()> {
    let world = World::new()?;
    let Some(disk) = Disk::new(&world, "1m").await? else { return Ok(()) };
    let home = Home::at(disk.0.join("home"))?;
    let ballast = disk.fill()?;
    let done = home.oa(&["up", "--listen", &home.listen()]).await?;
    fails_with_hint(&done, &["full"])?;
    std::fs::remove_file(ballast)?;
    Ok(())
}

/// A node on a disk of its own, with its relay elsewhere.
async fn node_on_disk(home: &Home, relay: &Process) -> Result<Process> {
    home.oa_node(&["init", "--relay", &relay.relay()?]).await?.ok()?;
    let config = std::fs::read_to_string(home.dir().join("config.toml"))?;
    home.write("config.toml", &config.replacen("enabled = true", "enabled = false", 1))?;
    home.run().start().await
}

/// Fills the node's disk and writes to it until it ends, as it must; then makes room, and all is answered that was
/// written, before and after.
async fn outlives_a_full_disk(disk: &Disk, node: &mut Process, home: &Home, relay: &Process) -> Result<()> {
    let agent = node.agent("concierge")?;
    let mut alice = Client::connect(&relay.relay()?, Keys::generate(), DEADLINE).await?;
    alice.ask(agent, "note before", Nip17, DEADLINE).await?;
    let ballast = disk.fill()?;
    let mut asked = 0;
    while node.is_running()? && asked < 1_000 {
        alice.dm(agent, &format!("note {asked:0>2000}"), Nip17, DEADLINE).await?;
        asked += 1;
    }
    let status = node.wait(DEADLINE).await?;
    ensure!(status.code() == Some(1), "{status}: {}", node.stderr()?);
    std::fs::remove_file(ballast)?;
    node.restart().await?;
    let notes = alice.ask(agent, "notes", Nip17, 3 * DEADLINE).await?;
    ensure!(notes.text().is_some_and(|notes| notes.contains("before")), "{notes:?}");
    eventually(3 * DEADLINE, || async {
        let ticks = home.oa(&["agent", "show", "concierge", "--json"]).await?.json()?;
        let ticks = ticks.first().and_then(|status| status.get("ticks")?.as_u64()).context("ticks")?;
        // Its creation, the notes, and the question for them.
        ensure!(ticks == asked + 3, "{ticks} ticks, {asked} notes");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_disk_that_fills_up_while_a_node_runs() -> Result<()> {
    let world = World::new()?;
    let Some(disk) = Disk::new(&world, "32m").await? else { return Ok(()) };
    let relay = world.home("relay")?.relay().start().await?;
    // Only the home is on it, not what is kept of the node's output.
    std::fs::create_dir(disk.0.join("node"))?;
    std::os::unix::fs::symlink(disk.0.join("node"), world.path().join("node"))?;
    let home = world.home("node")?;
    let mut node = node_on_disk(&home, &relay).await?;
    outlives_a_full_disk(&disk, &mut node, &home, &relay).await?;
    let stderr = node.stderr()?;
    ensure!(stderr.contains("error: ") && stderr.contains("hint: make room"), "{stderr}");
    Ok(())
}

#[tokio::test]
async fn a_disk_that_fills_up_with_the_log_on_it() -> Result<()> {
    let world = World::new()?;
    let Some(disk) = Disk::new(&world, "32m").await? else { return Ok(()) };
    let relay = world.home("relay")?.relay().start().await?;
    let home = Home::at(disk.0.join("node"))?;
    let mut node = node_on_disk(&home, &relay).await?;
    outlives_a_full_disk(&disk, &mut node, &home, &relay).await
}
