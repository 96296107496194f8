//! The first things a person does: `oa up`, a direct message, becoming the owner, letting others in.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oa_nips::mail::Protocol::{self, Nip04, Nip17};
use oa_nips::nostr::{Keys, PublicKey, ToBech32 as _};
use oa_tests::client::Client;
use oa_tests::world::{DEADLINE, Home, Process, World, eventually, field, is};
use serde_json::Value;

/// A fresh home that is up, and a stranger.
async fn up(world: &World) -> Result<(Home, Process, Client)> {
    let home = world.home("a")?;
    let up = home.up().start().await?;
    let stranger = stranger(&up).await?;
    Ok((home, up, stranger))
}

async fn stranger(up: &Process) -> Result<Client> {
    Client::connect(&up.relay()?, Keys::generate(), DEADLINE).await
}

/// What is answered.
async fn said(client: &mut Client, to: PublicKey, text: &str, protocol: Protocol) -> Result<String> {
    let mail = client.ask(to, text, protocol, DEADLINE).await?;
    ensure!(mail.protocol == protocol, "{text:?} by {protocol:?} was answered by {:?}", mail.protocol);
    ensure!(mail.author == to, "answered by another");
    Ok(mail.text().context("a text")?.to_owned())
}

#[tokio::test]
async fn the_ready_line_says_where_everything_is() -> Result<()> {
    let world = World::new()?;
    let (home, up, _) = up(&world).await?;
    let keys: BTreeSet<&str> =
        up.ready().as_object().context("an object")?.keys().map(String::as_str).collect();
    ensure!(keys.is_superset(&BTreeSet::from(["agents", "event", "node", "operator", "relay"])), "{keys:?}");
    ensure!(up.relay()? == home.relay_url());
    let npubs =
        [up.node()?, up.agent("concierge")?, PublicKey::parse(field(up.ready(), "operator").unwrap())?];
    ensure!(BTreeSet::from(npubs).len() == 3, "three different keys");
    ensure!(up.ready()["agents"].as_array().unwrap().len() == 1);
    for key in ["node", "operator"] {
        ensure!(field(up.ready(), key).unwrap().starts_with("npub1"), "{key}");
    }
    ensure!(up.ready()["claim"].as_str().unwrap().len() == 6);
    Ok(())
}

#[tokio::test]
async fn every_line_of_stdout_is_json_with_an_event_of_its_own() -> Result<()> {
    let world = World::new()?;
    let (_, mut up, mut stranger) = up(&world).await?;
    let agent = up.agent("concierge")?;
    said(&mut stranger, agent, "ping", Nip17).await?;
    for name in ["ready", "mail_in", "tick", "mail_out"] {
        up.wait_for(DEADLINE, |event| is(event, name)).await.with_context(|| name.to_owned())?;
    }
    up.terminate(DEADLINE).await?;
    up.wait_for(DEADLINE, |event| is(event, "stopping")).await?;
    for line in up.stdout()?.lines() {
        let event: Value = serde_json::from_str(line)?;
        ensure!(field(&event, "event").is_some(), "{line}");
    }
    Ok(())
}

#[tokio::test]
async fn without_json_a_person_is_told_how_to_write_to_it() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let up = home.up().plain().spawn()?;
    let paste = format!("oa --home {} dm concierge help", home.dir().display());
    let told = eventually(DEADLINE, || async {
        let told = up.stdout()?;
        ensure!(told.contains("Ctrl-C"), "{told}");
        Ok(told)
    });
    let told = told.await?;
    for part in ["npub1", "nprofile1", &home.relay_url(), "claim ", &paste] {
        ensure!(told.contains(part), "{part} is not in: {told}");
    }
    let words: Vec<&str> = paste.split(' ').skip(3).collect();
    ensure!(home.oa(&words).await?.ok()?.contains("note buy milk"), "the line to paste works");
    Ok(())
}

#[tokio::test]
async fn dm_prints_the_reply_and_exits_with_0() -> Result<()> {
    let world = World::new()?;
    let (home, up, _) = up(&world).await?;
    let done = home.oa(&["dm", "concierge", "help"]).await?;
    ensure!(done.code == Some(0) && done.stderr.is_empty(), "{done:?}");
    ensure!(done.stdout.contains("note buy milk") && done.stdout.contains("whoami"), "{done:?}");
    let npub = up.agent("concierge")?.to_bech32()?;
    for (protocol, text) in [("nip17", "ping"), ("nip04", "Ping")] {
        let mut args = vec!["dm", &npub, text, "--json"];
        args.extend((protocol == "nip04").then_some("--nip04"));
        let lines = home.oa(&args).await?.json()?;
        let [reply] = lines.as_slice() else { anyhow::bail!("one line: {lines:?}") };
        ensure!(
            field(reply, "text") == Some("pong") && field(reply, "protocol") == Some(protocol),
            "{reply}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_comes_in_the_protocol_of_the_question() -> Result<()> {
    let world = World::new()?;
    let (_, up, mut stranger) = up(&world).await?;
    let agent = up.agent("concierge")?;
    // Not the same words: equal text over the other protocol is the same message.
    for (protocol, words, name) in [(Nip17, "whoami", "NIP-17"), (Nip04, "Whoami", "NIP-04")] {
        let whoami = said(&mut stranger, agent, words, protocol).await?;
        ensure!(whoami.contains(&stranger.public_key().to_bech32()?) && whoami.contains(name), "{whoami}");
    }
    Ok(())
}

#[tokio::test]
async fn the_concierge_keeps_notes_for_each_correspondent() -> Result<()> {
    let world = World::new()?;
    let (_, mut up, mut alice) = up(&world).await?;
    let mut bob = stranger(&up).await?;
    let agent = up.agent("concierge")?;
    ensure!(said(&mut alice, agent, "note buy milk", Nip17).await? == "Noted as #1: buy milk");
    ensure!(said(&mut alice, agent, "note call Ann", Nip04).await? == "Noted as #2: call Ann");
    let other = said(&mut bob, agent, "notes", Nip17).await?;
    ensure!(!other.contains("Ann"), "another's notes are not shown: {other}");
    up.kill().await?;
    up.restart().await?;
    alice.reconnect(DEADLINE).await?;
    let notes = said(&mut alice, agent, "notes", Nip17).await?;
    ensure!(notes.contains("buy milk") && notes.contains("call Ann"), "{notes}");
    ensure!(said(&mut alice, agent, "forget 1", Nip17).await?.contains("buy milk"));
    let notes = said(&mut alice, agent, "notes", Nip17).await?;
    ensure!(!notes.contains("buy milk") && notes.contains("call Ann"), "{notes}");
    let goal = said(&mut alice, agent, "goal learn Rust", Nip17).await?;
    ensure!(goal.contains("learn Rust") && goal.contains("#1"), "{goal}");
    let unknown = said(&mut alice, agent, "qwertz uiop", Nip17).await?;
    ensure!(unknown.contains("help"), "unknown text gets a helpful answer: {unknown}");
    Ok(())
}

#[tokio::test]
async fn a_reminder_comes_also_when_the_node_was_away_and_says_date_and_zone() -> Result<()> {
    let world = World::new()?;
    let (_, mut up, mut alice) = up(&world).await?;
    let agent = up.agent("concierge")?;
    said(&mut alice, agent, "tz Europe/Prague", Nip17).await?;
    let set = said(&mut alice, agent, "remind me in 2s to stretch", Nip17).await?;
    ensure!(set.contains("stretch") && set.contains("Prague") && set.contains("202"), "{set}");
    up.kill().await?;
    up.restart().await?;
    alice.reconnect(DEADLINE).await?;
    let reminder = alice.next(DEADLINE).await?;
    let text = reminder.text().unwrap_or_default();
    ensure!(text.contains("Reminder #1: stretch") && reminder.reply_to.is_none(), "{text}");
    // It rang once and is gone.
    let left = said(&mut alice, agent, "reminders", Nip17).await?;
    ensure!(left.starts_with("You have no reminders"), "{left}");
    Ok(())
}

#[tokio::test]
async fn the_agent_keeps_a_copy_of_what_it_says() -> Result<()> {
    let world = World::new()?;
    let (_, up, mut stranger) = up(&world).await?;
    let agent = up.agent("concierge")?;
    ensure!(stranger.wraps_of(agent, DEADLINE).await? == 0);
    said(&mut stranger, agent, "ping", Nip17).await?;
    // The question, and the copy of the answer.
    let stranger = &stranger;
    eventually(DEADLINE, || async move {
        let wraps = stranger.wraps_of(agent, DEADLINE).await?;
        ensure!(wraps == 2, "{wraps} wraps");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_claim_code_makes_an_owner_once_and_only_the_right_one() -> Result<()> {
    let world = World::new()?;
    let (_, mut up, mut alice) = up(&world).await?;
    let mut mallory = stranger(&up).await?;
    let agent = up.agent("concierge")?;
    let code = field(up.ready(), "claim").context("a code")?.to_owned();
    let claim = format!("claim {code}");
    let wrong = said(&mut mallory, agent, "claim AAAAAA", Nip17).await?;
    ensure!(wrong.contains("not the code"), "{wrong}");
    // Legacy mail can never command.
    said(&mut mallory, agent, &claim, Nip04).await?;
    ensure!(said(&mut mallory, agent, "status", Nip17).await?.contains("Only my owner"));
    let welcome = said(&mut alice, agent, &claim, Nip17).await?;
    ensure!(welcome.contains("owner"), "{welcome}");
    let owner = format!("Owner: {}", alice.public_key().to_bech32()?);
    let status = said(&mut alice, agent, "status", Nip17).await?;
    ensure!(status.contains(&owner), "{status}");
    let late = said(&mut mallory, agent, &format!("Claim {code}"), Nip17).await?;
    ensure!(late.contains("does not work"), "{late}");
    ensure!(said(&mut mallory, agent, "status", Nip17).await?.contains("Only my owner"));
    ensure!(said(&mut alice, agent, "status", Nip17).await?.contains(&owner));
    up.terminate(DEADLINE).await?;
    up.restart().await?;
    ensure!(up.ready()["claim"].is_null(), "who has an owner gives no more codes: {}", up.ready());
    alice.reconnect(DEADLINE).await?;
    ensure!(said(&mut alice, agent, "status", Nip17).await?.contains(&owner));
    Ok(())
}

#[tokio::test]
async fn a_wrong_code_can_be_tried_five_times_or_so_and_not_for_ever() -> Result<()> {
    let world = World::new()?;
    let (_, up, mut mallory) = up(&world).await?;
    let agent = up.agent("concierge")?;
    for n in 0..40_u32 {
        let guess = said(&mut mallory, agent, &format!("claim AAAA{n:02}"), Nip17).await?;
        if !guess.contains("not the code") {
            return Ok(());
        }
    }
    anyhow::bail!("forty guesses, and the code still stands")
}

#[tokio::test]
async fn the_owner_can_be_named_beforehand() -> Result<()> {
    let world = World::new()?;
    let keys = Keys::generate();
    let up = world.home("a")?.up().arg("--owner").arg(keys.public_key().to_bech32()?).start().await?;
    ensure!(up.ready()["claim"].is_null(), "{}", up.ready());
    let mut owner = Client::connect(&up.relay()?, keys, DEADLINE).await?;
    let status = said(&mut owner, up.agent("concierge")?, "status", Nip17).await?;
    ensure!(status.contains("Owner: npub1"), "{status}");
    Ok(())
}

#[tokio::test]
async fn a_stranger_is_let_in_by_the_owner_s_word() -> Result<()> {
    let world = World::new()?;
    let (home, _up, mut bob) = up(&world).await?;
    let lines = home.oa(&["agent", "new", "alice", "--dm", "pairing", "--json"]).await?.json()?;
    let alice = PublicKey::parse(field(&lines[0], "npub").context("an npub")?)?;
    let refused = said(&mut bob, alice, "note x", Nip17).await?;
    let code = refused.split("allow ").nth(1).context("a code")?.trim_end_matches('.').to_owned();
    ensure!(code.len() == 6, "{refused}");
    // The code is told once, and a stranger's own word does not let in.
    let unheard = bob.dm(alice, &format!("allow {code}"), Nip17, DEADLINE).await?;
    // Who made the agent owns it.
    let allowed = home.oa(&["dm", "alice", &format!("allow {code}")]).await?.ok()?;
    ensure!(allowed.contains(&bob.public_key().to_bech32()?), "{allowed}");
    ensure!(said(&mut bob, alice, "ping", Nip17).await? == "pong");
    ensure!(bob.answer(unheard, Duration::ZERO).await.is_err(), "what came before is refused");
    ensure!(said(&mut bob, alice, "whoami", Nip17).await?.contains("on my list"));
    let npub = bob.public_key().to_bech32()?;
    home.oa(&["agent", "allow", "alice", &npub, "--not"]).await?.ok()?;
    ensure!(said(&mut bob, alice, "ping", Nip17).await?.contains("allow "));
    Ok(())
}

#[tokio::test]
async fn the_bundled_relay_alone_in_memory() -> Result<()> {
    let world = World::new()?;
    let home = world.home("relay")?;
    let mut relay = home.relay().arg("--memory").start().await?;
    let alice = Client::connect(&relay.relay()?, Keys::generate(), DEADLINE).await?;
    let mut bob = Client::connect(&relay.relay()?, Keys::generate(), DEADLINE).await?;
    alice.dm(bob.public_key(), "hello", Nip17, DEADLINE).await?;
    ensure!(bob.next(DEADLINE).await?.text() == Some("hello"));
    ensure!(relay.terminate(DEADLINE).await? == 0);
    ensure!(!home.dir().join("relay").exists(), "nothing is stored");
    relay.restart().await?;
    bob.reconnect(DEADLINE).await?;
    ensure!(bob.wraps_of(bob.public_key(), DEADLINE).await? == 0);
    Ok(())
}
