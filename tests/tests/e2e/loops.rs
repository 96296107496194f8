//! Machines that meet do not talk for ever, and nobody is answered more than people can bear.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oa_nips::mail::Protocol::{self, Nip04, Nip17};
use oa_nips::mail::{AUTO_HOPS_MAX, Draft};
use oa_nips::nostr::{Keys, PublicKey};
use oa_node::signer::Seed;
use oa_tests::client::forge::{self, now_ms};
use oa_tests::client::{Client, Letter};
use oa_tests::world::{DEADLINE, Home, Process, World, eventually};
use serde_json::Value;

async fn up(world: &World) -> Result<(Home, Process, Client)> {
    let home = world.home("a")?;
    let up = home.up().start().await?;
    let client = Client::connect(&up.relay()?, Keys::generate(), DEADLINE).await?;
    Ok((home, up, client))
}

/// Writes as a machine would, so many hops after a person did.
async fn automatic(
    client: &Client,
    to: PublicKey,
    text: &str,
    hop: u8,
    protocol: Protocol,
) -> Result<Letter> {
    let draft = Draft { auto_hop: hop, ..Draft::text(to, text, now_ms()) };
    let letter = Letter::new(client.keys(), &draft, protocol)?;
    client.put(&letter.event, DEADLINE).await?;
    Ok(letter)
}

/// How the ticks of an agent ended.
async fn outcomes(home: &Home, agent: &str) -> Result<Vec<String>> {
    let ticks = home.oa(&["logs", agent, "--json"]).await?.json()?;
    let outcome = |tick: &Value| tick.pointer("/fields/outcome").and_then(Value::as_str).map(str::to_owned);
    Ok(ticks.iter().filter_map(outcome).collect())
}

/// How the ticks of the concierge ended, once there are so many.
async fn after(home: &Home, ticks: usize) -> Result<Vec<String>> {
    eventually(DEADLINE, || async {
        let outcomes = outcomes(home, "concierge").await?;
        ensure!(outcomes.len() >= ticks, "{} ticks of {ticks}", outcomes.len());
        Ok(outcomes)
    })
    .await
}

#[tokio::test]
async fn hops_are_counted_and_the_fourth_is_the_last() -> Result<()> {
    let world = World::new()?;
    let (home, up, mut machine) = up(&world).await?;
    let agent = up.agent("concierge")?;
    for protocol in [Nip17, Nip04] {
        let mut unanswered = Vec::new();
        for hop in 0..=AUTO_HOPS_MAX + 1 {
            let letter = automatic(&machine, agent, &format!("{protocol:?} {hop}"), hop, protocol).await?;
            if hop < AUTO_HOPS_MAX {
                let reply = machine.answer(letter.id, DEADLINE).await?;
                ensure!(reply.auto_hop == hop + 1, "{hop}: {reply:?}");
            } else {
                unanswered.push(letter.id);
            }
        }
        // One sender's messages have their ticks in order, so the others are through when this is answered.
        machine.ask(agent, &format!("{protocol:?} ping"), protocol, DEADLINE).await?;
        for id in unanswered {
            ensure!(machine.answer(id, Duration::ZERO).await.is_err(), "answered after too many hops");
        }
    }
    let held = outcomes(&home, "concierge").await?.iter().filter(|outcome| *outcome == "held_hops").count();
    ensure!(held == 4, "what is not answered is recorded: {held}");
    Ok(())
}

#[tokio::test]
async fn a_machine_that_echoes_everything_is_left_alone_soon() -> Result<()> {
    let world = World::new()?;
    let (home, up, mut machine) = up(&world).await?;
    let agent = up.agent("concierge")?;
    let mut replies = 0;
    let mut last = machine.dm(agent, "hello", Nip17, DEADLINE).await?;
    loop {
        let outcomes = after(&home, replies + 2).await?;
        if outcomes.last().is_some_and(|outcome| outcome != "replied") {
            break;
        }
        let reply = machine.answer(last, DEADLINE).await?;
        replies += 1;
        ensure!(replies <= 10, "it goes on for ever");
        let text = reply.text().context("a text")?.to_owned();
        last = automatic(&machine, agent, &text, reply.auto_hop + 1, Nip17).await?.id;
    }
    ensure!(replies == 2, "hops 1 and 3 are the agent's: {replies}");
    Ok(())
}

#[tokio::test]
async fn two_concierges_that_meet_fall_silent() -> Result<()> {
    let world = World::new()?;
    let (a_home, a, _) = up(&world).await?;
    let b_home = world.home("b")?;
    let b = b_home.up().arg("--relay").arg(a.relay()?).start().await?;
    let (a_key, b_key) = (a.agent("concierge")?, b.agent("concierge")?);
    // What the second would have said of its own accord, signed with its key and put on the first one's relay.
    let keys = Seed::load(&b_home.dir().join("seed"))?.agent(0)?;
    ensure!(keys.public_key() == b_key, "the seed gives the key");
    let letter = Letter::text(&keys, a_key, "hello there", Nip17)?;
    let client = Client::connect(&a.relay()?, Keys::generate(), DEADLINE).await?;
    client.put(&letter.event, DEADLINE).await?;
    let ended = |agent: &'static str, home: &Home, wanted: &'static [&'static str]| {
        let home = home.clone();
        eventually(DEADLINE, move || {
            let home = home.clone();
            async move {
                let outcomes = outcomes(&home, agent).await?;
                ensure!(outcomes == wanted, "{outcomes:?}");
                Ok(())
            }
        })
    };
    // a answers (hop 1), b answers that (2), a (3), b (4), and a says no more.
    ended("concierge", &a_home, &["done", "replied", "replied", "held_hops"]).await?;
    ended("concierge", &b_home, &["done", "replied", "replied"]).await
}

#[tokio::test]
async fn a_bot_is_answered_ten_times_and_then_in_its_time() -> Result<()> {
    let world = World::new()?;
    let (home, up, mut bot) = up(&world).await?;
    let agent = up.agent("concierge")?;
    bot.say_bot("robot", DEADLINE).await?;
    let mut answered = 0;
    for n in 0..14 {
        let id = bot.dm(agent, &format!("note {n}"), Nip17, DEADLINE).await?;
        // The creation, and each message, answered or not.
        let is_held = after(&home, n + 2).await?.last().is_some_and(|outcome| outcome == "held_rate");
        if !is_held {
            bot.answer(id, DEADLINE).await?;
            answered += 1;
        }
    }
    // Its first message may be answered before anybody knew what it is.
    ensure!((10..=11).contains(&answered), "{answered} answers");
    Ok(())
}

#[tokio::test]
async fn a_person_is_answered_a_hundred_times_in_a_row_and_the_rest_is_recorded() -> Result<()> {
    const MANY: usize = 130;
    let world = World::new()?;
    let (home, up, mut person) = up(&world).await?;
    let agent = up.agent("concierge")?;
    for n in 0..MANY {
        person.put(&Letter::text(person.keys(), agent, &format!("{n}"), Nip17)?.event, DEADLINE).await?;
    }
    let outcomes = after(&home, MANY + 1).await?;
    let replied = outcomes.iter().filter(|outcome| *outcome == "replied").count();
    // Twenty a minute come back.
    ensure!((100..=110).contains(&replied), "{replied} replies");
    for _ in 0..replied {
        person.next(DEADLINE).await?;
    }
    ensure!(person.next(Duration::ZERO).await.is_err() && person.copies() == 0);
    Ok(())
}

#[tokio::test]
async fn equal_text_over_both_protocols_is_one_message() -> Result<()> {
    let world = World::new()?;
    let (_home, up, mut person) = up(&world).await?;
    let agent = up.agent("concierge")?;
    let first = person.dm(agent, "note once", Nip17, DEADLINE).await?;
    let twin = person.dm(agent, "note once", Nip04, DEADLINE).await?;
    let notes = person.ask(agent, "notes", Nip17, DEADLINE).await?;
    ensure!(
        notes.text().is_some_and(|notes| notes.contains("#1 once") && !notes.contains("#2")),
        "{notes:?}"
    );
    person.answer(first, DEADLINE).await?;
    ensure!(person.answer(twin, Duration::ZERO).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_room_of_three_is_not_answered() -> Result<()> {
    let world = World::new()?;
    let (_home, up, mut person) = up(&world).await?;
    let agent = up.agent("concierge")?;
    let mut rumor = Draft::text(agent, "note for all", now_ms()).rumor(person.public_key());
    rumor.tags.push(oa_nips::nostr::Tag::public_key(Keys::generate().public_key()));
    rumor.id = None;
    rumor.ensure_id();
    let id = rumor.id.context("an id")?;
    person.put(&forge::wrap_rumor(person.keys(), &agent, &rumor)?, DEADLINE).await?;
    person.ask(agent, "ping", Nip17, DEADLINE).await?;
    ensure!(person.answer(id, Duration::ZERO).await.is_err());
    up.wait_for(DEADLINE, |event| event.to_string().contains("more than two")).await?;
    Ok(())
}
