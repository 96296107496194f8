//! A tree read and steered from elsewhere by the command line: what is tailed, what is long, what had no answer.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use oa_tests::split::{Plan, Split};
use oa_tests::world::{DEADLINE, Done, Program, World, eventually, programs};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

fn failed(done: &Done, code: i32, sentence: &str) -> Result<()> {
    ensure!(done.code == Some(code), "{code} is wanted: {done:?}");
    ensure!(done.stderr.contains(sentence), "{sentence:?} is wanted: {done:?}");
    Ok(())
}

#[tokio::test]
async fn tail_prints_the_end_of_a_file_and_what_comes_after() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let _up = home.up().start().await?;
    home.oa(&["dm", "concierge", "ping"]).await?.ok()?;
    let path = "/agents/concierge/logs/ticks";
    let once = home.oa(&["tail", path, "-n", "1", "--once"]).await?.json()?;
    let seqs: Vec<_> = once.iter().filter_map(|tick| tick.get("seq")?.as_u64()).collect();
    ensure!(seqs == [1], "{once:?}");
    let tail = home.launch(Program::Oa, ["tail", path, "-n", "1"]).spawn()?;
    let seen = |seq: u64| tail.wait_for(DEADLINE, move |tick| tick.get("seq") == Some(&seq.into()));
    seen(1).await?;
    home.oa(&["dm", "concierge", "ping"]).await?.ok()?;
    seen(2).await?;
    // What streams of removed agents had is nobody's: those that begin later begin further on, and are read once.
    for name in ["gone", "bob"] {
        home.oa(&["agent", "new", name]).await?.ok()?;
        let trace = format!("/agents/{name}/logs/trace");
        home.oa(&["tail", &trace, "--once"]).await?.ok()?;
        home.oa(&["agent", "ctl", name, "tick"]).await?.ok()?;
        if name == "gone" {
            home.oa(&["agent", "rm", name]).await?.ok()?;
        }
    }
    let stat = home.oa(&["stat", "/agents/bob/logs/trace", "--json"]).await?.json()?;
    let start = stat.first().and_then(|stat| stat.get("start")?.as_u64());
    ensure!(start.is_some_and(|start| start > 0), "{stat:?}");
    let tail = home.launch(Program::Oa, ["tail", "/agents/bob/logs/trace"]).spawn()?;
    eventually(DEADLINE, || async {
        ensure!(tail.stdout()?.contains("tick 1 done"), "it does not tail yet");
        Ok(())
    })
    .await?;
    home.oa(&["agent", "ctl", "bob", "tick"]).await?.ok()?;
    eventually(DEADLINE, || async {
        ensure!(tail.stdout()?.contains("tick 2 done"), "it does not tail on");
        Ok(())
    })
    .await?;
    let (out, notes) = (tail.stdout()?, tail.stderr()?);
    ensure!(out.matches("tick 1 done").count() == 1 && !notes.contains("missed"), "{out}{notes}");
    failed(&home.oa(&["tail", "/agents/nobody/logs/ticks"]).await?, 3, "nobody")?;
    failed(&home.oa(&["tail", "/agents"]).await?, 1, "folder")
}

#[tokio::test]
async fn a_node_that_comes_back_is_tailed_on() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let mut up = home.up().start().await?;
    let path = "/agents/concierge/logs/ticks";
    let tail = home.launch(Program::Oa, ["tail", path]).spawn()?;
    let seen = |seq: u64| tail.wait_for(3 * DEADLINE, move |tick| tick.get("seq") == Some(&seq.into()));
    seen(0).await?;
    up.terminate(DEADLINE).await?;
    up.restart().await?;
    home.oa(&["dm", "concierge", "ping"]).await?.ok()?;
    seen(1).await.map(drop)
}

#[tokio::test]
async fn ten_megabytes_travel_in_one_request_in_seconds() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let _up = home.up().start().await?;
    let long = "x".repeat(10 * 1024 * 1024);
    home.write("long", &long)?;
    let started = Instant::now();
    let mut call = Command::new(programs()?.path(Program::Oa));
    call.args(["call", "/agents/concierge/ctl", "-"]).env("OA_HOME", home.dir());
    call.stdin(std::fs::File::open(home.dir().join("long"))?);
    let done = timeout(3 * DEADLINE, call.output()).await??;
    // The node has read it: it quotes what it does not know.
    let stderr = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.code() == Some(2) && stderr.contains("xxx"), "{stderr}");
    ensure!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    Ok(())
}

#[tokio::test]
async fn what_got_no_answer_is_told_as_it_is() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let mut up = home.up().start().await?;
    up.terminate(DEADLINE).await?;
    // The same relay, without the node.
    let _relay = home.relay().start().await?;
    failed(&home.oa(&["cat", "/node/version"]).await?, 5, "no answer")?;
    let call = home.oa(&["call", "/agents/concierge/ctl", "tick"]).await?;
    for words in ["outcome unknown", "operation", "/agents/concierge/ctl"] {
        failed(&call, 5, words)?;
    }
    // A queued command waits there; its answer does not come.
    let queued = home.oa(&["call", "/agents/concierge/ctl", "tick", "--queue"]).await?.ok()?;
    ensure!(queued.trim().len() == 32, "{queued}");
    let waited = home.oa(&["call", "/agents/concierge/ctl", "tick", "--queue", "--wait=1s"]).await?;
    failed(&waited, 5, "not answered yet")
}

#[tokio::test]
async fn commands_wait_for_a_node_that_is_away_and_run_once() -> Result<()> {
    let world = World::new()?;
    let mut split = Split::start(&world, Plan::default()).await?;
    split.node.terminate(DEADLINE).await?;
    let home = split.home.clone();
    let new = "name = \"later\"\nprogram = \"echo\"";
    home.oa(&["call", "/agents/new", new, "--queue"]).await?.ok()?;
    let tick = ["call", "/agents/concierge/ctl", "tick", "--queue", "--wait=50s"];
    let (ticked, back) = tokio::join!(home.oa(&tick), split.node.restart());
    back?;
    let ticked = ticked?.ok()?;
    ensure!(ticked.contains("tick") && ticked.contains("concierge"), "{ticked}");
    home.oa(&["agent", "show", "later"]).await?.ok()?;
    // What the relay still has does nothing the second time.
    split.node.terminate(DEADLINE).await?;
    split.node.restart().await?;
    home.oa(&["dm", "concierge", "ping"]).await?.ok()?;
    let lines = home.oa(&["logs", "concierge", "--json"]).await?.json()?;
    let kind = |line: &Value| line.pointer("/fields/trigger/kind").and_then(Value::as_str).map(str::to_owned);
    let pokes = lines.iter().filter(|line| kind(line).as_deref() == Some("poke")).count();
    ensure!(pokes == 1, "{lines:?}");
    Ok(())
}

#[tokio::test]
async fn commands_of_several_invocations_run_in_their_order() -> Result<()> {
    let world = World::new()?;
    let mut split = Split::start(&world, Plan::default()).await?;
    split.node.terminate(DEADLINE).await?;
    let home = split.home.clone();
    let note = |n: u32| format!("/agents/concierge/memory/notes/{n}");
    // Each needs what the one before it left: out of order, one finds nothing to move.
    home.oa(&["write", &note(0), "first", "--queue"]).await?.ok()?;
    for n in 0..9 {
        home.oa(&["mv", &note(n), &note(n + 1), "--queue"]).await?.ok()?;
    }
    let out = home.oa(&["write", &note(10), "last", "--queue", "--json"]).await?.json()?;
    ensure!(out.first().and_then(|line| line.get("seq")) == Some(&10.into()), "{out:?}");
    // A queue of its own waits for none of them.
    let new = home.oa(&["write", &note(11), "new", "--queue=new", "--json"]).await?.json()?;
    ensure!(new.first().and_then(|line| line.get("seq")) == Some(&0.into()), "{new:?}");
    let last = ["rm", &note(11), "--queue", "--wait=50s"];
    let (last, back) = tokio::join!(home.oa(&last), split.node.restart());
    back?;
    last?.ok()?;
    eventually(DEADLINE, || async {
        home.oa(&["cat", &note(10)]).await?.ok()?;
        let moved = home.oa(&["cat", &note(9)]).await?.ok()?;
        ensure!(moved.trim() == "first", "{moved}");
        Ok(())
    })
    .await
}
