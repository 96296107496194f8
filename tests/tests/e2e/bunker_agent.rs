//! An agent whose key is in a bunker: it answers as others do, and while the bunker is away its mail waits.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use oa_nips::mail::Protocol::Nip17;
use oa_nips::nostr::{Keys, ToBech32 as _};
use oa_tests::bunker::TheirBunker;
use oa_tests::client::Client;
use oa_tests::world::{DEADLINE, Done, Home, World, eventually, field};
use serde_json::Value;

/// `oa agent new` with the bunker's address in a file.
async fn create(home: &Home, name: &str, bunker: &TheirBunker) -> Result<Done> {
    let file = home.dir().join("address");
    let _ = std::fs::remove_file(&file);
    std::fs::write(&file, &bunker.uri)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    let file = file.display().to_string();
    home.oa(&["--json", "agent", "new", name, "--program", "echo", "--dm", "open", "--bunker", &file]).await
}

async fn status(home: &Home) -> Result<Value> {
    let shown = home.oa(&["agent", "show", "far", "--json"]).await?.json()?;
    shown.into_iter().next().context("a status")
}

/// What goes out of far that has this text: at which stage it is, and whether a relay has it.
async fn outgoing(home: &Home, text: &str) -> Result<(String, bool)> {
    let list = home.oa(&["ls", "--json", "/agents/far/outbox"]).await?.json()?;
    for name in list.iter().filter_map(|entry| field(entry, "name")).filter(|name| name.ends_with(".json")) {
        let item = home.oa(&["cat", &format!("/agents/far/outbox/{name}")]).await?.ok()?;
        let item: Value = serde_json::from_str(&item)?;
        if field(&item, "text") == Some(text) {
            let is_sent = item.get("sent").and_then(Value::as_bool).unwrap_or_default();
            return Ok((field(&item, "stage").unwrap_or_default().to_owned(), is_sent));
        }
    }
    anyhow::bail!("nothing says {text:?}: {list:?}")
}

fn failed(done: &Done, code: i32, sentence: &str) -> Result<()> {
    ensure!(done.code == Some(code), "{code} is wanted: {done:?}");
    ensure!(done.stderr.contains(sentence), "{sentence:?} is wanted: {done:?}");
    Ok(())
}

#[tokio::test]
async fn an_agent_answers_with_a_key_that_is_elsewhere_and_waits_for_it() -> Result<()> {
    let bunker = TheirBunker::start("bunker").await?;
    let world = World::new()?;
    let home = world.home("a")?;
    let mut up = home.up().start().await?;
    let made = create(&home, "far", &bunker).await?;
    ensure!(made.code == Some(0), "{made:?}");
    let npub = bunker.key.to_bech32()?;
    ensure!(made.json()?.first().and_then(|made| field(made, "npub")) == Some(&npub), "{made:?}");
    failed(&create(&home, "twin", &bunker).await?, 1, "that key already")?;
    let mut client = Client::connect(&up.relay()?, Keys::generate(), DEADLINE).await?;
    let said = client.ask(bunker.key, "one", Nip17, DEADLINE).await?;
    ensure!(said.text() == Some("You said: one") && said.author == bunker.key, "{said:?}");
    let key = status(&home).await?;
    ensure!(key.pointer("/key/in") == Some(&"bunker".into()), "{key}");
    ensure!(key.pointer("/key/away_since") == Some(&Value::Null), "{key}");
    ensure!(key.pointer("/key/lease/held") == Some(&true.into()), "{key}");
    // After a restart the node is still let in.
    ensure!(up.terminate(DEADLINE).await? == 0);
    up.restart().await?;
    client.reconnect(DEADLINE).await?;
    let said = client.ask(bunker.key, "two", Nip17, DEADLINE).await?;
    ensure!(said.text() == Some("You said: two"), "{said:?}");
    // While it is stopped nothing is opened, nobody else waits for that, and the status says so.
    bunker.pause()?;
    let three = client.dm(bunker.key, "three", Nip17, DEADLINE).await?;
    let away = || async {
        let status = status(&home).await?;
        ensure!(status.pointer("/key/away_since").is_some_and(Value::is_u64), "{status}");
        ensure!(
            field(status.pointer("/key").context("a key")?, "why")
                .is_some_and(|why| why.contains("no answer"))
        );
        Ok(status)
    };
    let status = eventually(DEADLINE, away).await?;
    ensure!(field(&status, "lifecycle").is_some_and(|lifecycle| lifecycle != "quarantined"), "{status}");
    ensure!(home.oa(&["dm", "concierge", "ping"]).await?.ok()? == "pong\n");
    // What it says meanwhile waits for its signature.
    home.oa(&["append", "/agents/far/inbox/new", r#"{"text":"four"}"#]).await?.ok()?;
    let said = eventually(DEADLINE, || outgoing(&home, "You said: four")).await?;
    ensure!(said == ("unsigned".to_owned(), false), "{said:?}");
    bunker.resume()?;
    let said = client.answer(three, 3 * DEADLINE).await?;
    ensure!(said.text() == Some("You said: three"), "{said:?}");
    let is_sent = || async {
        let said = outgoing(&home, "You said: four").await?;
        ensure!(said.1, "{said:?}");
        Ok(())
    };
    eventually(3 * DEADLINE, is_sent).await?;
    ensure!(
        home.oa(&["logs", "far", "--refused", "--json"]).await?.json()?.is_empty(),
        "nothing was refused"
    );
    bunker.end().await;
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_an_agents_key_is_refused() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let _up = home.up().start().await?;
    // Its owner is asked; he has done what he should, and it is tried again.
    let asking = TheirBunker::start("asking").await?;
    failed(&create(&home, "far", &asking).await?, 1, "open URL https://bunker.example/approve")?;
    let made = create(&home, "far", &asking).await?;
    ensure!(made.code == Some(0), "{made:?}");
    // Of one that is not there nothing is left behind.
    let mut gone = TheirBunker::start("bunker").await?;
    gone.leave().await?;
    failed(&create(&home, "late", &gone).await?, 1, "no answer")?;
    failed(&home.oa(&["agent", "show", "late"]).await?, 3, "late")?;
    // Nor is the key of whoever asks an agent's.
    asking.end().await;
    gone.end().await;
    Ok(())
}
