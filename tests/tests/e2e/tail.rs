//! `oa tail` of a log that grows faster than anybody reads: what is printed and what is told to be missed is all of it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oa_nips::nostr::{Keys, ToBech32 as _};
use oa_tests::local::{self, Plot};
use oa_tests::world::{DEADLINE, Process, Program, World, eventually};
use tokio::time::{Instant, sleep_until};

/// Lines a second, and so many of them.
const RATE: u64 = 10_000;
const STEADY: u64 = 50_000;
/// Lines at once after that: four times what the node keeps.
const BURST: u64 = 50_000;
const LINES: u64 = STEADY + BURST;
/// How often a handful is written.
const PACE: Duration = Duration::from_millis(10);
/// A reader of a log that is kept to a megabyte needs no more than this.
const RSS_BYTES_MAX: u64 = 96 << 20;

fn line(n: u64) -> String {
    format!("{{\"n\":{n},\"text\":\"a line as long as those that logs are made of\"}}")
}

/// A node in this process, and `oa tail /node/log` of its operator in another.
async fn tailed(world: &World) -> Result<(local::World, Process)> {
    let operator = Keys::generate();
    let node =
        local::World::start(Plot { operators: vec![operator.public_key()], ..Plot::default() }).await?;
    let home = world.home("laptop")?;
    home.write("key", &operator.secret_key().to_bech32()?)?;
    let key = home.dir().join("key");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let key = key.to_str().context("a path")?;
    let address = node.node.public_key().to_bech32()?;
    home.oa(&["connect", &address, "--relay", &node.relay_url(), "--key-file", key]).await?.ok()?;
    let tail = home.launch(Program::Oa, ["tail", "/node/log", "-n", "0"]).spawn()?;
    // It is there once it prints what is said.
    eventually(DEADLINE, || async {
        node.node.log("hello");
        ensure!(tail.stdout()?.contains("hello"), "it does not tail yet");
        Ok(())
    })
    .await?;
    Ok((node, tail))
}

/// Writes lines at their rate, then the burst, and a last line.
async fn write(node: &local::World) {
    let begin = Instant::now();
    let mut n = 0;
    while n < STEADY {
        let due = (begin.elapsed().as_millis() as u64 * RATE / 1000 + 1).min(STEADY);
        while n < due {
            node.node.log(&line(n));
            n += 1;
        }
        sleep_until(Instant::now() + PACE).await;
    }
    (STEADY..LINES).for_each(|n| node.node.log(&line(n)));
    node.node.log("the end");
}

/// The bytes that were told to be missed.
fn missed(stderr: &str) -> u64 {
    let count = |line: &str| line.strip_prefix('(')?.split_once(" bytes were missed")?.0.parse::<u64>().ok();
    stderr.lines().filter_map(count).sum()
}

/// Of what was written after the greetings: bytes printed, lines that are whole and in order.
fn printed(stdout: &str) -> Result<(u64, u64)> {
    let text = stdout.trim_start_matches("hello\n");
    let numbers = text.lines().filter_map(|line| {
        let json: serde_json::Value = serde_json::from_str(line).ok()?;
        json.get("n")?.as_u64()
    });
    let mut last = None;
    let mut count = 0;
    for n in numbers {
        ensure!(last.is_none_or(|last| last < n), "line {n} after {last:?}");
        (last, count) = (Some(n), count + 1);
    }
    Ok((text.len() as u64, count))
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_lines_a_second_are_printed_or_told_to_be_missed() -> Result<()> {
    let world = World::new()?;
    let (node, tail) = tailed(&world).await?;
    write(&node).await;
    let all = (0..LINES).map(|n| line(n).len() as u64 + 1).sum::<u64>() + "the end\n".len() as u64;
    let is_over = || async {
        let stdout = tail.stdout()?;
        ensure!(stdout.ends_with("the end\n"), "the end is not printed");
        Ok(stdout)
    };
    let stdout = eventually(3 * DEADLINE, is_over).await?;
    let (bytes, lines) = printed(&stdout)?;
    let missed = missed(&tail.stderr()?);
    ensure!(bytes + missed == all, "{bytes} printed, {missed} missed, of {all}");
    ensure!(lines > STEADY / 10 && missed > 0, "{lines} lines, {missed} bytes missed");
    let rss = tail.rss_bytes()?;
    ensure!(rss < RSS_BYTES_MAX, "the reader has {rss} bytes");
    node.end().await;
    Ok(())
}
