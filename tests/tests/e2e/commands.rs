//! What an operator does: agents come and go, logs are read, a server's node is run; and how each command ends.

use anyhow::{Context as _, Result, ensure};
use oa_nips::mail::Protocol::Nip17;
use oa_nips::nostr::{Keys, PublicKey};
use oa_tests::client::Client;
use oa_tests::world::{DEADLINE, Done, Home, Program, World, eventually, field, is};
use serde_json::Value;

fn first(done: Done) -> Result<Value> {
    done.json()?.into_iter().next().with_context(|| format!("{done:?}"))
}

/// A command that fails: its exit code, a sentence, a hint, and nothing on stdout.
fn failed(done: &Done, code: i32, sentence: &str) -> Result<()> {
    ensure!(done.code == Some(code), "{code} is wanted: {done:?}");
    ensure!(done.stdout.is_empty(), "{done:?}");
    ensure!(done.stderr.contains(sentence), "{sentence:?} is wanted: {done:?}");
    Ok(())
}

#[tokio::test]
async fn agents_are_made_listed_shown_and_removed_for_good() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let up = home.up().start().await?;
    let made =
        first(home.oa(&["agent", "new", "echo-1", "--program", "echo", "--dm", "open", "--json"]).await?)?;
    ensure!(field(&made, "name") == Some("echo-1"), "{made}");
    let key = PublicKey::parse(field(&made, "npub").context("an npub")?)?;
    let mut client = Client::connect(&up.relay()?, Keys::generate(), DEADLINE).await?;
    let mail = client.ask(key, "hi", Nip17, DEADLINE).await?;
    ensure!(mail.text() == Some("You said: hi") && mail.author == key, "{mail:?}");
    failed(&home.oa(&["agent", "new", "echo-1"]).await?, 1, "echo-1")?;

    let list = home.oa(&["agent", "list", "--json"]).await?.json()?;
    let names: Vec<_> = list.iter().filter_map(|agent| field(agent, "name")).collect();
    ensure!(names == ["concierge", "echo-1"], "{names:?}");
    let shown = first(home.oa(&["agent", "show", "echo-1", "--json"]).await?)?;
    ensure!(
        field(&shown, "npub") == field(&made, "npub") && field(&shown, "program") == Some("echo"),
        "{shown}"
    );

    home.oa(&["agent", "rm", "echo-1"]).await?.ok()?;
    failed(&home.oa(&["agent", "show", "echo-1"]).await?, 3, "echo-1")?;
    let again = first(home.oa(&["agent", "new", "echo-1", "--program", "echo", "--json"]).await?)?;
    ensure!(field(&again, "npub") != field(&made, "npub"), "a key never returns");
    Ok(())
}

#[tokio::test]
async fn a_manifest_comes_from_a_file_and_what_is_wrong_in_it_is_named() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let _up = home.up().start().await?;
    home.write(
        "m.toml",
        "name = \"x\"\nprogram = \"echo\"\nabout = \"says it back\"\n[dm]\npolicy = \"open\"\n",
    )?;
    let file = home.dir().join("m.toml").display().to_string();
    home.oa(&["agent", "new", "bob", "--file", &file]).await?.ok()?;
    ensure!(home.oa(&["dm", "bob", "hi"]).await?.ok()? == "You said: hi\n");
    home.write("m.toml", "name = \"x\"\n[dm]\npolicy = \"everybody\"\n")?;
    let done = home.oa(&["agent", "new", "eve", "--file", &file]).await?;
    for part in [file.as_str(), "line 3", "policy"] {
        failed(&done, 2, part)?;
    }
    Ok(())
}

#[tokio::test]
async fn logs_show_each_tick_and_follow_what_comes() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let _up = home.up().start().await?;
    home.oa(&["dm", "concierge", "ping"]).await?.ok()?;
    let ticks = home.oa(&["logs", "concierge", "--json"]).await?.json()?;
    let seqs: Vec<_> = ticks.iter().filter_map(|tick| tick.get("seq")?.as_u64()).collect();
    ensure!(seqs == [0, 1], "its creation and the message: {ticks:?}");
    let outcome = ticks.last().and_then(|tick| tick.pointer("/fields/outcome")).and_then(Value::as_str);
    ensure!(outcome == Some("replied"), "{ticks:?}");
    let follow = home.launch(Program::Oa, ["logs", "concierge", "-f"]).spawn()?;
    let seen = |seq: u64| follow.wait_for(DEADLINE, move |tick| tick.get("seq") == Some(&seq.into()));
    seen(1).await?;
    home.oa(&["dm", "concierge", "ping"]).await?.ok()?;
    seen(2).await?;
    failed(&home.oa(&["logs", "nobody"]).await?, 3, "nobody")
}

#[tokio::test]
async fn wrong_command_lines_exit_with_2_and_unknown_agents_with_3() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    failed(&home.oa(&["agent", "list"]).await?, 3, "home")?;
    let _up = home.up().start().await?;
    failed(&home.oa(&["dm", "nobody", "hi"]).await?, 3, "nobody")?;
    failed(&home.oa(&["agent", "show", "nobody"]).await?, 3, "nobody")?;
    failed(&home.oa(&["agent", "rm", "nobody"]).await?, 3, "nobody")?;
    for wrong in [
        &["dm", "concierge"][..],
        &["dm", "concierge", " "],
        &["dm", "concierge", "hi", "--wait", "soon"],
        &["agent", "new", "No Name"],
        &["agent", "new", "x", "--program", "skynet"],
        &["agent", "allow", "concierge", "npub1nobody"],
        &["up", "--owner", "me"],
        &["up", "--relay", "example.com"],
        &["frobnicate"],
    ] {
        let done = home.oa(wrong).await?;
        ensure!(
            done.code == Some(2) && !done.stderr.is_empty() && done.stdout.is_empty(),
            "{wrong:?}: {done:?}"
        );
    }
    let long = "x".repeat(16 * 1024 + 1);
    failed(&home.oa(&["dm", "concierge", &long]).await?, 2, "16385")
}

#[tokio::test]
async fn silence_exits_with_5_and_says_what_can_be_the_cause() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let mut up = home.up().start().await?;
    // Another home knows the node, but the node does not know its key.
    let stranger = world.home("b")?;
    stranger.oa_node(&["init"]).await?.ok()?;
    std::fs::copy(home.dir().join("client.json"), stranger.dir().join("client.json"))?;
    let unauthorised = async {
        let done = stranger.oa(&["agent", "list"]).await?;
        ["offline", "relay", "key"].iter().try_for_each(|part| failed(&done, 5, part))
    };
    // An agent that does not talk to strangers, asked by one.
    let unheard = async {
        home.oa(&["agent", "new", "shy", "--dm", "owner"]).await?.ok()?;
        let shown = first(home.oa(&["agent", "show", "shy", "--json"]).await?)?;
        let npub = field(&shown, "npub").context("an npub")?;
        failed(&stranger.oa(&["dm", npub, "hi", "--wait", "500ms"]).await?, 5, "no answer")?;
        stranger.oa(&["dm", npub, "hi", "--no-wait"]).await?.ok()
    };
    tokio::try_join!(unauthorised, unheard)?;
    // An agent that does not tick: its node tells, before anybody waits.
    home.oa(&["agent", "ctl", "shy", "stop"]).await?.ok()?;
    let told = home.oa(&["dm", "shy", "hi", "--no-wait"]).await?;
    ensure!(told.code == Some(0) && told.stderr.contains("oa agent ctl shy resume"), "{told:?}");
    up.kill().await?;
    failed(&home.oa(&["dm", "concierge", "hi"]).await?, 5, "hint: ")
}

/// A server's home whose relay has this home's port.
async fn init(home: &Home, more: &[&str]) -> Result<Value> {
    let mut args = vec!["--json", "init"];
    args.extend(more);
    let said = first(home.oa_node(&args).await?)?;
    let config = std::fs::read_to_string(home.dir().join("config.toml"))?;
    home.write("config.toml", &config.replace("127.0.0.1:7447", &home.listen()))?;
    Ok(said)
}

#[tokio::test]
async fn a_server_is_initialised_run_asked_and_ended() -> Result<()> {
    let world = World::new()?;
    let home = world.home("server")?;
    let said = init(&home, &[]).await?;
    ensure!(is(&said, "initialised"), "{said}");
    failed(&home.oa_node(&["init"]).await?, 1, "config.toml")?;
    let mut node = home.run().start().await?;
    ensure!(field(node.ready(), "node") == field(&said, "node"), "{}", node.ready());
    ensure!(field(node.ready(), "operator") == field(&said, "operator"), "{}", node.ready());
    let status = first(home.oa_node(&["status", "--json"]).await?)?;
    ensure!(field(&status, "npub") == field(&said, "node"), "{status}");
    ensure!(status.pointer("/relays/0/connected") == Some(&true.into()), "{status}");
    ensure!(home.oa(&["dm", "concierge", "ping"]).await?.ok()? == "pong\n");
    ensure!(node.terminate(DEADLINE).await? == 0);
    node.restart().await?;
    ensure!(home.oa(&["dm", "concierge", "ping"]).await?.ok()? == "pong\n");
    Ok(())
}

#[tokio::test]
async fn a_server_that_knows_only_its_operators_address_obeys_its_key_from_elsewhere() -> Result<()> {
    let world = World::new()?;
    let (server, desk) = (world.home("server")?, world.home("desk")?);
    let operator = init(&desk, &[]).await?;
    let operator = field(&operator, "operator").context("an npub")?;
    init(&server, &["--operator", operator]).await?;
    ensure!(!server.dir().join("operator.key").exists(), "a server stores an address only");
    let _node = server.run().start().await?;
    std::fs::copy(server.dir().join("client.json"), desk.dir().join("client.json"))?;
    desk.oa(&["agent", "new", "far", "--program", "echo"]).await?.ok()?;
    ensure!(desk.oa(&["dm", "far", "hi"]).await?.ok()? == "You said: hi\n");
    Ok(())
}

#[tokio::test]
async fn a_home_has_a_node_or_steers_one_elsewhere() -> Result<()> {
    let world = World::new()?;
    let (home, desk) = (world.home("a")?, world.home("desk")?);
    let up = home.up().start().await?;
    let node = field(up.ready(), "node").context("an npub")?;
    let relay = up.relay()?;
    desk.oa(&["connect", node, "--relay", &relay]).await?.ok()?;
    let known = || Ok::<_, anyhow::Error>(std::fs::read_to_string(desk.dir().join("client.json"))?);
    let before = known()?;
    failed(&desk.oa(&["up", "--listen", "127.0.0.1:0"]).await?, 2, "steers another node")?;
    ensure!(known()? == before && !desk.dir().join("seed").exists(), "it is what it was");
    let other = oa_nips::nostr::ToBech32::to_bech32(&Keys::generate().public_key())?;
    failed(&home.oa(&["connect", &other, "--relay", &relay]).await?, 1, "the home of another node")?;
    home.oa(&["connect", node, "--relay", &relay]).await?.ok()?;

    // A file that nothing came into is not in the way of the next try.
    let file = world.path().join("nobody.oa");
    let export = ["agent", "export", "nobody", "--out", file.to_str().context("a path")?];
    failed(&home.oa(&export).await?, 3, "nobody")?;
    ensure!(!file.exists(), "it is taken away again");
    Ok(())
}

#[tokio::test]
async fn sigterm_under_load_loses_no_mail() -> Result<()> {
    const MANY: usize = 30;
    let world = World::new()?;
    let home = world.home("a")?;
    let mut up = home.up().start().await?;
    let agent = up.agent("concierge")?;
    let mut client = Client::connect(&up.relay()?, Keys::generate(), DEADLINE).await?;
    let mut asked = Vec::new();
    for n in 0..MANY {
        asked.push(client.dm(agent, &format!("note {n}"), Nip17, DEADLINE).await?);
    }
    ensure!(up.terminate(DEADLINE).await? == 0);
    up.restart().await?;
    client.reconnect(DEADLINE).await?;
    for id in asked {
        client.answer(id, DEADLINE).await?;
    }
    let home = &home;
    eventually(DEADLINE, || async move {
        let ticks = home.oa(&["logs", "concierge", "--json"]).await?.json()?;
        ensure!(ticks.len() == MANY + 1, "{} ticks", ticks.len());
        Ok(())
    })
    .await
}
