//! The operator protocol: a real `oa-node run` with its bundled relay, a caller in this process, and a FUSE mount by
//! the real `oa mount`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use oa_nips::files::Verb;
use oa_nips::nostr::Keys;

use super::report::{Report, Row};
use super::spread::Spread;
use super::{Size, replies};
use crate::caller::Caller;
use crate::world::{DEADLINE, Process, Program, World};

/// What is transferred: 10 MB.
const LARGE_BYTES: usize = 10_000_000;
/// Files that are 1 MB each hold it: an agent's largest.
const PIECE_BYTES: usize = 1_000_000;

/// What the node takes of one caller at once, and the pause between requests after that, with some room.
const BURST: u32 = 1_500;
const PAUSE: Duration = Duration::from_micros(2_200);

/// Measures round trips, transfers, watches and the mount.
///
/// # Errors
/// When something does not start or answer.
pub(crate) async fn measure(report: &mut Report, size: Size) -> Result<()> {
    report.doing("operator protocol");
    let world = World::new()?;
    let home = world.home("operator")?;
    let keys = Keys::generate();
    let operator = format!("operators = [\"{}\"]\n", keys.public_key().to_hex());
    home.write("config.toml", &(operator + &replies::config(&home, "echo", 1)))?;
    let mut node = home.run().start().await?;
    let mut caller = Caller::connect(&node.relay()?, node.node()?, keys.clone()).await?;
    round_trips(report, size, &mut caller).await?;
    transfers(report, &mut caller).await?;
    watches(report, size, &mut caller, &node).await?;
    mount(report, size, &world, &node, &keys).await?;
    ensure!(node.terminate(DEADLINE).await? == 0, "the node ended badly");
    Ok(())
}

async fn round_trips(report: &mut Report, size: Size, caller: &mut Caller) -> Result<()> {
    for (name, verb, path, body) in [
        ("operator: read, round trip", Verb::Read, "/agents/echo-0/status", ""),
        ("operator: write, round trip", Verb::Write, "/agents/echo-0/memory/x", "hello"),
    ] {
        let mut spread = Spread::default();
        for _ in 0..size.of(500, 50) {
            let began = Instant::now();
            caller.ask(verb, path, body).await??;
            spread.add(began.elapsed());
        }
        report.row(Row::new(name, spread.percentile_ms(50), "ms").spread(&spread))?;
    }
    Ok(())
}

async fn transfers(report: &mut Report, caller: &mut Caller) -> Result<()> {
    let piece = "x".repeat(PIECE_BYTES);
    let megabytes = |took: Duration| {
        #[expect(clippy::cast_precision_loss, reason = "ten million")]
        let bytes = LARGE_BYTES as f64;
        bytes / 1e6 / took.as_secs_f64()
    };
    let began = Instant::now();
    for n in 0..LARGE_BYTES / PIECE_BYTES {
        caller.ask(Verb::Write, &format!("/agents/echo-0/memory/large/{n}"), &piece).await??;
    }
    report.row(
        Row::new("operator: 10 MB written", megabytes(began.elapsed()), "MB/s")
            .note("files of 1 MB, one by one"),
    )?;
    let began = Instant::now();
    for n in 0..LARGE_BYTES / PIECE_BYTES {
        let read = caller.ask(Verb::Read, &format!("/agents/echo-0/memory/large/{n}"), "").await??;
        ensure!(read.len() == PIECE_BYTES, "read {} bytes", read.len());
    }
    report.row(Row::new("operator: 10 MB read", megabytes(began.elapsed()), "MB/s").note("likewise"))?;
    Ok(())
}

async fn watches(report: &mut Report, size: Size, caller: &mut Caller, node: &Process) -> Result<()> {
    let count = size.of(10_000, 500);
    let before = node.rss_bytes()?;
    let began = Instant::now();
    for n in 0..count {
        // As fast as one caller may ask: a burst, and then so many a second.
        if n >= BURST {
            tokio::time::sleep(PAUSE).await;
        }
        caller.begin_watch("/agents/echo-0/logs/events.jsonl", u64::MAX >> 12, 1 << 20).await?;
    }
    let took = began.elapsed();
    #[expect(clippy::cast_precision_loss, reason = "a memory is less than 2^52 bytes")]
    let each = (node.rss_bytes()?.saturating_sub(before)) as f64 / f64::from(count) / 1024.0;
    let mut spread = Spread::default();
    for _ in 0..size.of(100, 10) {
        let began = Instant::now();
        caller.ask(Verb::Read, "/node/version", "").await??;
        spread.add(began.elapsed());
    }
    let note = format!("begun in {:.1} s; {each:.1} KiB of the node's memory each", took.as_secs_f64());
    let name = format!("operator: read beside {count} watches");
    report.row(Row::new(name, spread.percentile_ms(50), "ms").spread(&spread).note(note))?;
    Ok(())
}

async fn mount(report: &mut Report, size: Size, world: &World, node: &Process, keys: &Keys) -> Result<()> {
    if !std::path::Path::new("/dev/fuse").exists() {
        report.doing("no /dev/fuse: the mount is NOT MEASURED");
        return Ok(());
    }
    let client = world.home("client")?;
    let key = client.dir().with_extension("key");
    std::fs::write(&key, keys.secret_key().to_secret_hex())?;
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
    std::fs::set_permissions(&key, mode)?;
    let npub = node.node()?.to_hex();
    let key = key.to_str().context("a path of ours")?.to_owned();
    client.oa(&["connect", &npub, "--relay", &node.relay()?, "--key-file", &key]).await?.ok()?;
    let folder = world.path().join("net");
    std::fs::create_dir(&folder)?;
    let at = folder.to_str().context("a path of ours")?;
    let mut mount = client.launch(Program::Oa, ["mount", at]).start().await?;
    let file = folder.join("agents/echo-0/memory/x");
    let times = size.of(300, 30);
    let spread = tokio::task::spawn_blocking(move || -> Result<Spread> {
        let mut spread = Spread::default();
        for _ in 0..times {
            let began = Instant::now();
            std::fs::read(&file)?;
            spread.add(began.elapsed());
        }
        Ok(spread)
    })
    .await??;
    report.row(Row::new("FUSE: cat of a small file", spread.percentile_ms(50), "ms").spread(&spread))?;
    ensure!(mount.terminate(DEADLINE).await? == 0, "the mount ended badly");
    Ok(())
}
