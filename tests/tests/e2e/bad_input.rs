//! What strangers and broken clients send: refused, with a reason where there is somebody to tell, and the node goes
//! on as if nothing had been.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use oa_nips::mail::Protocol::{Nip04, Nip17};
use oa_nips::mail::{Draft, TEXT_BYTES_MAX};
use oa_nips::nostr::nips::nip04;
use oa_nips::nostr::{Event, JsonUtil as _, Keys, PublicKey, ToBech32 as _};
use oa_tests::client::forge::{self, now_ms};
use oa_tests::client::{Client, Letter};
use oa_tests::split::{Plan, Split};
use oa_tests::world::{DEADLINE, World, is};
use tokio::net::TcpListener;

/// A server with a concierge, and a decent person.
struct Scene {
    split: Split,
    agent: PublicKey,
    alice: Client,
    _world: World,
}

impl Scene {
    async fn new() -> Result<Self> {
        let world = World::new()?;
        let split = Split::start(&world, Plan::default()).await?;
        let agent = split.agent("concierge")?;
        let alice = split.client().await?;
        Ok(Self { split, agent, alice, _world: world })
    }

    /// The node still answers, and what was sent before has been dealt with: it takes mail in the order it comes.
    async fn is_well(&mut self) -> Result<()> {
        let reply = self.alice.ask(self.agent, "notes", Nip17, DEADLINE).await?;
        let text = reply.text().context("a text")?;
        ensure!(text.starts_with("You have no notes"), "{text}");
        ensure!(self.split.node.is_running()?, "the node ended");
        Ok(())
    }

    /// The node refuses this as something nobody can read, for this reason.
    async fn unreadable(&mut self, event: &Event, words: &str) -> Result<()> {
        self.split.proxy.put_in(event)?;
        self.split.refuses("concierge", None, "unreadable", words).await?;
        self.is_well().await
    }

    /// The node refuses this mail of alice's for this reason.
    async fn refused(&mut self, event: &Event, reason: &str) -> Result<()> {
        self.split.proxy.put_in(event)?;
        let npub = self.alice.public_key().to_bech32()?;
        self.split.refuses("concierge", Some(&npub), reason, "").await?;
        self.is_well().await
    }

    /// How many ticks the agent had for mail.
    async fn ticks(&self) -> Result<usize> {
        Ok(self.split.home.oa(&["logs", "concierge", "--json"]).await?.json()?.len() - 1)
    }
}

#[tokio::test]
async fn a_forged_signature() -> Result<()> {
    let mut scene = Scene::new().await?;
    let mallory = Keys::generate();
    for protocol in [Nip17, Nip04] {
        let text = format!("note planted {protocol:?}");
        let good = Letter::text(scene.alice.keys(), scene.agent, &text, protocol)?.event;
        let other = Letter::text(&mallory, scene.agent, &text, protocol)?.event;
        let forged = forge::with_signature_of(&good, &other)?;
        let answer = scene.alice.publish(&forged, DEADLINE).await?;
        ensure!(!answer.accepted, "the relay takes it");
        scene.split.proxy.put_in(&forged)?;
        scene.is_well().await?;
    }
    // Nobody is told, and nothing is remembered: the true event would still be taken.
    ensure!(scene.split.refused("concierge").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn an_id_that_is_not_the_hash() -> Result<()> {
    let mut scene = Scene::new().await?;
    let event = Letter::text(scene.alice.keys(), scene.agent, "note planted", Nip04)?.event;
    let other = Letter::text(scene.alice.keys(), scene.agent, "note other", Nip04)?.event;
    let text = event.as_json().replace(&event.content, &other.content);
    scene.split.proxy.put_in(&Event::from_json(text)?)?;
    scene.is_well().await
}

#[tokio::test]
async fn a_rumor_in_another_s_name() -> Result<()> {
    let mut scene = Scene::new().await?;
    let mallory = Keys::generate();
    let rumor = Draft::text(scene.agent, "note planted", now_ms()).rumor(scene.alice.public_key());
    let wrap = forge::wrap_rumor(&mallory, &scene.agent, &rumor)?;
    scene.alice.put(&wrap, DEADLINE).await?;
    scene.unreadable(&wrap, "sealed by").await
}

#[tokio::test]
async fn a_seal_with_another_s_signature() -> Result<()> {
    let mut scene = Scene::new().await?;
    let rumor = Draft::text(scene.agent, "note planted", now_ms()).rumor(scene.alice.public_key()).as_json();
    let good = forge::seal_text(scene.alice.keys(), &scene.agent, &rumor)?;
    let other = forge::seal_text(&Keys::generate(), &scene.agent, &rumor)?;
    let forged = forge::with_signature_of(&good, &other)?;
    scene.unreadable(&forge::wrap_text(&scene.agent, &forged.as_json())?, "signature").await
}

#[tokio::test]
async fn a_rumor_with_a_wrong_id() -> Result<()> {
    let mut scene = Scene::new().await?;
    let mut rumor = Draft::text(scene.agent, "note planted", now_ms()).rumor(scene.alice.public_key());
    rumor.id = Draft::text(scene.agent, "note other", now_ms()).rumor(scene.alice.public_key()).id;
    let wrap = forge::wrap_rumor(scene.alice.keys(), &scene.agent, &rumor)?;
    scene.unreadable(&wrap, "id is not the hash").await
}

#[tokio::test]
async fn a_wrap_for_another_key() -> Result<()> {
    let mut scene = Scene::new().await?;
    let stranger = Keys::generate();
    // Addressed to the agent, encrypted to somebody else.
    let wrap = Letter::text(scene.alice.keys(), stranger.public_key(), "note planted", Nip17)?.event;
    let readdressed = forge::wrap_raw(&scene.agent, wrap.content.clone())?;
    scene.alice.put(&readdressed, DEADLINE).await?;
    scene.unreadable(&readdressed, "").await?;
    // Addressed to somebody else altogether: no business of any agent here.
    let before = scene.split.refused("concierge").await?.len();
    scene.split.proxy.put_in(&wrap)?;
    scene.is_well().await?;
    ensure!(scene.split.refused("concierge").await?.len() == before);
    Ok(())
}

#[tokio::test]
async fn wraps_that_cannot_be_decrypted_or_hold_nothing_of_use() -> Result<()> {
    let mut scene = Scene::new().await?;
    let agent = scene.agent;
    for content in ["", "?", "garbage", "AgAA", "////", &"A".repeat(200), "\u{0}\u{ffff}🦀"] {
        let wrap = forge::wrap_raw(&agent, content)?;
        scene.alice.put(&wrap, DEADLINE).await?;
        scene.split.proxy.put_in(&wrap)?;
    }
    let deep = "[".repeat(20_000);
    for text in ["x", "{}", "[]", "null", &deep, r#"{"kind":13}"#] {
        let wrap = forge::wrap_text(&agent, text)?;
        scene.alice.put(&wrap, DEADLINE).await?;
        let seal = forge::seal_text(scene.alice.keys(), &agent, text)?;
        scene.alice.put(&forge::wrap_text(&agent, &seal.as_json())?, DEADLINE).await?;
    }
    // A note in place of a seal, and a profile in place of a rumor.
    let note = Letter::text(scene.alice.keys(), agent, "note planted", Nip04)?.event;
    scene.unreadable(&forge::wrap_text(&agent, &note.as_json())?, "kind 4").await?;
    let mut rumor = Draft::text(agent, "note planted", now_ms()).rumor(scene.alice.public_key());
    (rumor.kind, rumor.id) = (0.into(), None);
    scene.unreadable(&forge::wrap_rumor(scene.alice.keys(), &agent, &rumor)?, "kind 0").await?;
    let refused = scene.split.refused("concierge").await?.len();
    ensure!(refused == 7 + 6 * 2 + 2, "each is refused once, which makes no {refused}");
    Ok(())
}

#[tokio::test]
async fn bodies_of_64_kib_and_1_mib() -> Result<()> {
    let mut scene = Scene::new().await?;
    let agent = scene.agent;
    let fits = scene.alice.ask(agent, &"x".repeat(TEXT_BYTES_MAX), Nip17, DEADLINE).await?;
    ensure!(fits.text().is_some(), "the longest text is heard");
    for bytes in [64 * 1024, 1024 * 1024] {
        let text = "y".repeat(bytes);
        let legacy = nip04::encrypt(scene.alice.keys().secret_key(), &agent, &text)?;
        let legacy = forge::legacy_raw(scene.alice.keys(), &agent, legacy)?;
        // A wrap of this size is not what NIP-44 gives; its content is as long.
        let wrap = forge::wrap_raw(&agent, &text)?;
        for event in [legacy, wrap] {
            // The relay may have limits of its own; the node must hold without them.
            let published = scene.alice.publish(&event, DEADLINE).await;
            if published.is_err() {
                scene.alice.reconnect(DEADLINE).await?;
            }
            scene.unreadable(&event, "over the limit").await?;
        }
    }
    // The largest that NIP-44 can carry twice.
    let rumor = Draft::text(agent, "z".repeat(30 * 1024), now_ms()).rumor(scene.alice.public_key());
    let wrap = forge::wrap_rumor(scene.alice.keys(), &agent, &rumor)?;
    scene.unreadable(&wrap, "over the limit").await
}

#[tokio::test]
async fn a_replayed_wrap() -> Result<()> {
    let mut scene = Scene::new().await?;
    let letters = [Nip17, Nip04].map(|protocol| {
        Letter::text(scene.alice.keys(), scene.agent, &format!("ping {protocol:?}"), protocol)
    });
    for letter in letters {
        let letter = letter?;
        for _ in 0..3 {
            scene.alice.put(&letter.event, DEADLINE).await?;
            scene.split.proxy.put_in(&letter.event)?;
        }
        scene.alice.answer(letter.id, DEADLINE).await?;
    }
    scene.is_well().await?;
    ensure!(scene.ticks().await? == 3, "{} ticks", scene.ticks().await?);
    ensure!(scene.alice.next(Duration::ZERO).await.is_err() && scene.alice.copies() == 0);
    Ok(())
}

#[tokio::test]
async fn a_message_wrapped_anew() -> Result<()> {
    let mut scene = Scene::new().await?;
    let draft = Draft::text(scene.agent, "ping", now_ms());
    for _ in 0..3 {
        let letter = Letter::new(scene.alice.keys(), &draft, Nip17)?;
        scene.alice.put(&letter.event, DEADLINE).await?;
    }
    let id = draft.rumor(scene.alice.public_key()).id.context("an id")?;
    scene.alice.answer(id, DEADLINE).await?;
    scene.is_well().await?;
    ensure!(scene.ticks().await? == 2, "{} ticks", scene.ticks().await?);
    Ok(())
}

#[tokio::test]
async fn old_mail_replayed_after_a_restart() -> Result<()> {
    let mut scene = Scene::new().await?;
    let draft = Draft::text(scene.agent, "ping", now_ms());
    let letter = Letter::new(scene.alice.keys(), &draft, Nip17)?;
    scene.alice.put(&letter.event, DEADLINE).await?;
    scene.alice.answer(letter.id, DEADLINE).await?;
    let eight_days_ms = 8 * 24 * 3600 * 1000;
    let old = Draft::text(scene.agent, "note planted", now_ms() - eight_days_ms);
    let old = Letter::new(scene.alice.keys(), &old, Nip17)?.event;
    for _ in 0..2 {
        scene.split.node.kill().await?;
        scene.split.node.restart().await?;
        // The same wrap, the same message in a new one, and one from before this node was.
        scene.split.proxy.put_in(&letter.event)?;
        let again = Letter::new(scene.alice.keys(), &draft, Nip17)?;
        scene.alice.put(&again.event, DEADLINE).await?;
        scene.refused(&old, "below_floor").await?;
        ensure!(scene.alice.answer(letter.id, Duration::ZERO).await.is_err(), "answered twice");
    }
    ensure!(scene.ticks().await? == 3, "{} ticks", scene.ticks().await?);
    Ok(())
}

#[tokio::test]
async fn times_of_1971_and_2100() -> Result<()> {
    let mut scene = Scene::new().await?;
    for (at_ms, reason) in [(31_536_000_000, "below_floor"), (4_102_444_800_000, "future")] {
        for protocol in [Nip17, Nip04] {
            let draft = Draft::text(scene.agent, format!("note planted {protocol:?}"), at_ms);
            let event = Letter::new(scene.alice.keys(), &draft, protocol)?.event;
            scene.refused(&event, reason).await?;
        }
    }
    ensure!(scene.split.refused("concierge").await?.len() == 4);
    Ok(())
}

#[tokio::test]
async fn nip04_garbage() -> Result<()> {
    let mut scene = Scene::new().await?;
    let agent = scene.agent;
    let keys = scene.alice.keys().clone();
    let good = nip04::encrypt(keys.secret_key(), &agent, "note planted")?;
    let (ciphertext, iv) = good.split_once("?iv=").context("an iv")?;
    let (head, _) = ciphertext.split_at(ciphertext.len() - 4);
    let garbage = [
        String::new(),
        "garbage".to_owned(),
        "?iv=".to_owned(),
        format!("{ciphertext}?iv="),
        format!("?iv={iv}"),
        format!("{ciphertext}?iv=AAAA"),
        format!("{head}?iv={iv}"),
        format!("{ciphertext}?iv={iv}?iv={iv}"),
        format!("{}?iv={iv}", "A".repeat(10_001)),
    ];
    let many = garbage.len();
    for content in garbage {
        let event = forge::legacy_raw(&keys, &agent, content.clone())?;
        scene.alice.put(&event, DEADLINE).await.with_context(|| content)?;
        scene.split.proxy.put_in(&event)?;
    }
    scene.is_well().await?;
    let refused = scene.split.refused("concierge").await?;
    ensure!(refused.len() == many, "{many} were sent, {} are logged: {refused:?}", refused.len());
    Ok(())
}

#[tokio::test]
async fn a_relay_list_of_private_addresses() -> Result<()> {
    let mut scene = Scene::new().await?;
    let mut traps = Vec::new();
    for address in ["127.0.0.2:0", "127.0.0.1:0", "[::1]:0"] {
        // A machine without IPv6 has one way less to be led astray.
        match TcpListener::bind(address).await {
            Ok(trap) => traps.push(trap),
            Err(error) if address.starts_with('[') => eprintln!("no {address} here: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    let mut urls: Vec<String> = Vec::new();
    for trap in &traps {
        urls.push(format!("ws://{}", trap.local_addr()?));
    }
    urls.push(format!("ws://localhost:{}", traps[1].local_addr()?.port()));
    urls.push("ws://10.0.0.1".to_owned());
    urls.truncate(5);
    for protocol in [Nip17, Nip04] {
        let mut mallory = scene.split.client().await?;
        mallory.say_dm_relays(&urls.iter().map(String::as_str).collect::<Vec<_>>(), DEADLINE).await?;
        // The reply comes back the way the question came.
        let reply = mallory.ask(scene.agent, "ping", protocol, DEADLINE).await?;
        ensure!(reply.text() == Some("pong"));
    }
    for trap in traps {
        let led = tokio::time::timeout(Duration::ZERO, trap.accept()).await;
        ensure!(led.is_err(), "the node connected to {}", trap.local_addr()?);
    }
    scene.is_well().await
}

#[tokio::test]
async fn the_trap_of_the_test_above_would_be_noticed() -> Result<()> {
    let trap = TcpListener::bind("127.0.0.2:0").await?;
    let _led = tokio::net::TcpStream::connect(trap.local_addr()?).await?;
    ensure!(tokio::time::timeout(Duration::ZERO, trap.accept()).await.is_ok());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_messages_from_one_stranger() -> Result<()> {
    const MANY: usize = 10_000;
    /// What somebody else may wait meanwhile, most of the time and at worst; without a flood it is some milliseconds.
    const MEDIAN: Duration = Duration::from_millis(500);
    const WORST: Duration = Duration::from_secs(5);
    const MEMORY_BYTES_MAX: u64 = 400 * 1024 * 1024;
    let mut scene = Scene::new().await?;
    let agent = scene.agent;
    let mallory = scene.split.client().await?;
    let before = scene.split.node.rss_bytes()?;
    let flood = tokio::spawn(async move {
        for n in 0..MANY {
            let protocol = if n % 2 == 0 { Nip17 } else { Nip04 };
            let letter = Letter::text(mallory.keys(), agent, &format!("note {n}"), protocol)?;
            mallory.send(&letter.event).await?;
        }
        // The relay has taken them all when it has answered the last.
        mallory.dm(agent, "last", Nip17, 6 * DEADLINE).await?;
        anyhow::Ok(mallory)
    });
    let (mut waits, mut memory) = (Vec::new(), 0);
    while !flood.is_finished() {
        let mut person = scene.split.client().await?;
        let asked = Instant::now();
        person.ask(agent, "ping", Nip17, DEADLINE).await?;
        waits.push(asked.elapsed());
        memory = memory.max(scene.split.node.rss_bytes()?);
    }
    let mallory = flood.await??;
    waits.sort();
    let median = waits.get(waits.len() / 2).context("somebody asked meanwhile")?;
    let worst = waits.last().context("somebody asked meanwhile")?;
    eprintln!("{} asked, median {median:?}, worst {worst:?}; {before} to {memory} bytes", waits.len());
    ensure!(*median < MEDIAN && *worst < WORST, "the others wait: median {median:?}, worst {worst:?}");
    ensure!(memory < MEMORY_BYTES_MAX, "{memory} bytes of memory");
    scene.is_well().await?;
    let npub = mallory.public_key().to_bech32()?;
    let answered =
        |event: &serde_json::Value| is(event, "mail_out") && event.get("to") == Some(&npub.clone().into());
    let replies = scene.split.node.events().iter().filter(|event| answered(event)).count();
    ensure!((1..200).contains(&replies), "{replies} replies to one who asks so much");
    Ok(())
}
