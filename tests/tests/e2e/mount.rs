//! `oa mount` of a real node, when the node or the way to it goes away under it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use oa_tests::split::{Plan, Split};
use oa_tests::world::{DEADLINE, Process, Program, World, eventually, is};

/// The longest that a file of a node that is gone may take to say so.
const BOUND: Duration = Duration::from_secs(40);
const EIO: i32 = 5;

async fn mounted(world: &World, split: &Split) -> Result<(Process, PathBuf)> {
    let dir = world.path().join("net");
    std::fs::create_dir_all(&dir)?;
    let path = dir.to_str().context("a path")?.to_owned();
    let mount = split.home.launch(Program::Oa, ["mount", &path]).spawn()?;
    mount.wait_for(DEADLINE, |event| is(event, "ready")).await?;
    Ok((mount, dir))
}

/// Reads a file off the runtime; how it ended, and how long that took.
async fn read(file: PathBuf) -> Result<(std::io::Result<String>, Duration)> {
    let begin = Instant::now();
    let done = tokio::task::spawn_blocking(move || std::fs::read_to_string(file)).await?;
    Ok((done, begin.elapsed()))
}

fn is_mounted(dir: &Path) -> Result<bool> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts.lines().any(|line| line.split(' ').nth(1) == dir.to_str()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_under_a_mount_is_an_error_in_time_and_one_that_comes_back_is_read_on() -> Result<()>
{
    let world = World::new()?;
    let mut split = Split::start(&world, Plan::default()).await?;
    let (mut mount, dir) = mounted(&world, &split).await?;
    let status = dir.join("agents/concierge/status");
    let (first, _) = read(status.clone()).await?;
    ensure!(first?.contains("concierge"), "the status of the concierge");

    split.node.terminate(DEADLINE).await?;
    let readers =
        [status.clone(), status.clone(), dir.join("node/version")].map(|file| tokio::spawn(read(file)));
    for reader in readers {
        let (answer, took) = tokio::time::timeout(BOUND, reader).await.context("it hangs")???;
        let error = answer.err().context("a file of a node that is gone was read")?;
        ensure!(error.raw_os_error() == Some(EIO), "{error} after {took:?}");
    }

    split.node.restart().await?;
    eventually(2 * DEADLINE, || async {
        let (answer, _) = read(status.clone()).await?;
        ensure!(answer?.contains("concierge"), "the status of the concierge");
        Ok(())
    })
    .await?;

    split.node.kill().await?;
    ensure!(mount.terminate(DEADLINE).await? == 0, "{}", mount.stderr()?);
    ensure!(!is_mounted(&dir)?, "it is mounted still");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_whose_relay_is_gone_fails_in_time_and_unmounts_cleanly() -> Result<()> {
    let world = World::new()?;
    let mut split = Split::start(&world, Plan::default()).await?;
    let (mut mount, dir) = mounted(&world, &split).await?;
    let version = dir.join("node/version");
    let (first, _) = read(version.clone()).await?;
    ensure!(!first?.is_empty(), "a version");
    split.relay.kill().await?;
    let (answer, took) = tokio::time::timeout(BOUND, read(version)).await.context("it hangs")??;
    let error = answer.err().context("a file was read without a relay")?;
    ensure!(error.raw_os_error() == Some(EIO), "{error} after {took:?}");
    ensure!(mount.terminate(DEADLINE).await? == 0, "{}", mount.stderr()?);
    ensure!(!is_mounted(&dir)?, "it is mounted still");
    Ok(())
}
