//! No secret is in any output: what is printed, logged, stored or sent is searched for every key and for the seed.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use oa_nips::mail::Protocol::{Nip04, Nip17};
use oa_nips::nostr::{Keys, ToBech32 as _};
use oa_node::signer::{KeyFile, Seed};
use oa_tests::client::{Client, forge};
use oa_tests::secrets::Secrets;
use oa_tests::world::{DEADLINE, Home, Process, World, field};

/// Agents of the homes of these tests.
const AGENTS: u32 = 3;

/// All secrets of a home.
fn secrets(home: &Home) -> Result<Secrets> {
    let mut secrets = Secrets::default();
    let seed = Seed::load(&home.dir().join("seed"))?;
    secrets.words("seed", &seed.reveal());
    secrets.key("node", seed.node().secret_key())?;
    for n in 0..AGENTS {
        secrets.key(&format!("agent {n}"), seed.agent(n)?.secret_key())?;
    }
    let operator = KeyFile::load(&home.dir().join("operator.key"))?;
    secrets.key("operator", operator.keys().secret_key())?;
    Ok(secrets)
}

/// Lets everything happen that a home sees in its life; the outputs of commands are left in files beside it.
async fn live(world: &World, home: &Home) -> Result<Process> {
    let mut up = home.up().env("OA_LOG", "trace").start().await?;
    let agent = up.agent("concierge")?;
    let mut alice = Client::connect(&up.relay()?, Keys::generate(), DEADLINE).await?;
    alice.ask(agent, "note buy milk", Nip17, DEADLINE).await?;
    alice.ask(agent, "whoami", Nip04, DEADLINE).await?;
    let claim = field(up.ready(), "claim").context("a code")?.to_owned();
    alice.ask(agent, &format!("claim {claim}"), Nip17, DEADLINE).await?;
    alice.ask(agent, "status", Nip17, DEADLINE).await?;
    // What is wrong is logged with more words than what is right.
    alice.put(&forge::wrap_raw(&agent, "garbage")?, DEADLINE).await?;
    alice.put(&forge::legacy_raw(alice.keys(), &agent, "garbage")?, DEADLINE).await?;
    let npub = alice.public_key().to_bech32()?;
    for (n, args) in [
        &["--json", "agent", "new", "bob", "--program", "echo", "--dm", "open"][..],
        &["--json", "agent", "new", "carol"],
        &["--json", "dm", "bob", "hi"],
        &["--json", "dm", "bob", "hello", "--nip04"],
        &["--json", "agent", "list"],
        &["--json", "agent", "show", "bob"],
        &["agent", "show", "carol"],
        &["--json", "agent", "allow", "carol", &npub],
        &["--json", "agent", "ctl", "carol", "claim"],
        &["--json", "logs", "concierge"],
        &["--json", "logs", "concierge", "--refused"],
        &["agent", "rm", "carol"],
        &["agent", "show", "carol"],
        &["dm", "nobody", "hi"],
    ]
    .into_iter()
    .enumerate()
    {
        keep(world, n, home.oa(&[&["--log", "trace"], args].concat()).await?)?;
    }
    keep(world, 100, home.oa_node(&["--log", "trace", "--json", "status"]).await?)?;
    ensure!(up.terminate(DEADLINE).await? == 0);
    up.restart().await?;
    alice.reconnect(DEADLINE).await?;
    alice.ask(agent, "notes", Nip17, DEADLINE).await?;
    up.kill().await?;
    up.restart().await?;
    Ok(up)
}

fn keep(world: &World, n: usize, done: oa_tests::world::Done) -> Result<()> {
    std::fs::write(world.path().join(format!("command-{n}")), format!("{}\n{}", done.stdout, done.stderr))?;
    Ok(())
}

/// Where secrets are meant to be.
fn places(home: &Home) -> [PathBuf; 2] {
    ["seed", "operator.key"].map(|file| home.dir().join(file))
}

#[tokio::test]
async fn no_secret_is_in_any_output_or_file() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let up = live(&world, &home).await?;
    let secrets = secrets(&home)?;
    let places = places(&home);
    let except: Vec<&Path> = places.iter().map(PathBuf::as_path).collect();
    let found = secrets.search_files(world.path(), &except)?;
    ensure!(found.is_empty(), "{found:#?}");
    // Enough was looked at, and the logs say something.
    let log = up.stderr()?;
    ensure!(
        log.contains("TRACE") && log.contains("DEBUG") && log.len() > 10_000,
        "{} bytes of log",
        log.len()
    );
    ensure!(home.dir().join("node.db").exists() && home.dir().join("relay/data.mdb").exists());
    ensure!(up.stdout()?.contains("mail_in"));
    Ok(())
}

#[tokio::test]
async fn what_a_server_is_told_at_its_making_has_no_secret_either() -> Result<()> {
    let world = World::new()?;
    let home = world.home("server")?;
    keep(&world, 0, home.oa_node(&["--log", "trace", "init"]).await?)?;
    let again = home.oa_node(&["--log", "trace", "init"]).await?;
    ensure!(again.code == Some(1));
    keep(&world, 1, again)?;
    let places = places(&home);
    let except: Vec<&Path> = places.iter().map(PathBuf::as_path).collect();
    let found = secrets(&home)?.search_files(world.path(), &except)?;
    ensure!(found.is_empty(), "{found:#?}");
    for place in places {
        use std::os::unix::fs::MetadataExt as _;
        let mode = std::fs::metadata(&place)?.mode() & 0o777;
        ensure!(mode == 0o600, "{}: {mode:o}", place.display());
    }
    Ok(())
}

#[tokio::test]
async fn a_damaged_seed_file_is_not_quoted() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    home.oa_node(&["init"]).await?.ok()?;
    let secrets = secrets(&home)?;
    let seed = home.dir().join("seed");
    let good = std::fs::read_to_string(&seed)?;
    // Eleven words of it, and one that is none.
    let damaged =
        good.trim().rsplit_once(' ').map(|(words, _)| format!("{words} xyzzy\n")).context("words")?;
    std::fs::write(&seed, damaged)?;
    let operator = home.dir().join("operator.key");
    let key = std::fs::read_to_string(&operator)?;
    let done = home.oa(&["--log", "trace", "up", "--listen", &home.listen()]).await?;
    ensure!(done.code == Some(1) && secrets.search(done.stderr.as_bytes()).is_empty(), "{done:?}");
    std::fs::write(&seed, good)?;
    std::fs::write(&operator, format!("{} x", key.trim()))?;
    let done = home.oa(&["--log", "trace", "up", "--listen", &home.listen()]).await?;
    ensure!(done.code == Some(1) && secrets.search(done.stderr.as_bytes()).is_empty(), "{done:?}");
    Ok(())
}

#[tokio::test]
async fn a_planted_leak_is_found() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let up = home.up().start().await?;
    let secrets = secrets(&home)?;
    let seed = Seed::load(&home.dir().join("seed"))?;
    let words: Vec<String> = seed.reveal().split(' ').map(str::to_owned).collect();
    let agent = seed.agent(0)?;
    let key = agent.secret_key();
    let log = up.stderr()? + &up.stdout()?;
    ensure!(secrets.search(log.as_bytes()).is_empty(), "nothing is there before");
    let file = world.path().join("planted.log");
    for leak in [
        format!("agent key {}", key.to_secret_hex()),
        format!("agent key {}", key.to_bech32()?),
        format!("{:?}", words.get(3..7).context("words")?),
        format!("mnemonic={}", words.get(8..).context("words")?.join(" ")),
    ] {
        std::fs::write(&file, format!("{log}\n{leak}\n{log}"))?;
        let found = secrets.search_files(world.path(), &[home.dir().join("seed").as_path()])?;
        ensure!(found.iter().any(|(path, _)| *path == file), "not found: {leak}");
    }
    // The files that are left out are where secrets are.
    let found = secrets.search_files(home.dir(), &[])?;
    let found: Vec<&Path> = found.iter().map(|(path, _)| path.as_path()).collect();
    ensure!(
        found == places(&home).each_ref().map(PathBuf::as_path).into_iter().rev().collect::<Vec<_>>(),
        "{found:?}"
    );
    Ok(())
}
