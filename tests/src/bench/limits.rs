//! What the machine can do: each step that a message or a tick needs, one after another, on one core.

use std::fs::File;
use std::hint::black_box;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use oa_nips::mail::{Draft, Protocol};
use oa_nips::nostr::nips::nip44::v2::ConversationKey;
use oa_nips::nostr::{Event, EventBuilder, Keys};
use oa_node::outbox;
use oa_node::signer::{Conversations, LocalSigner};
use oa_node::store::row::Outgoing;
use rusqlite::Connection;

use super::Size;
use super::report::{Report, Row};
use super::spread::Spread;
use crate::client::Letter;
use crate::client::forge::{now_ms, now_s};

/// Steps of the processor between two looks at the clock: a look costs as much as a hundredth of the cheapest.
const STEPS: usize = 16;
/// Conversations remembered: fewer than the wraps that are opened in turn.
const CONVERSATIONS: usize = 8;

/// Measures all of them.
///
/// # Errors
/// What the disk or the database said.
pub(crate) fn measure(report: &mut Report, size: Size) -> Result<()> {
    report.doing("the machine's own limits");
    let each = size.of(Duration::from_secs(2), Duration::from_millis(100));
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let note = EventBuilder::text_note("x".repeat(200)).build(alice.public_key());
    let event = note.clone().sign_with_keys(&alice)?;
    cpu(report, each, "limit: sign an event", || Ok(note.clone().sign_with_keys(&alice)?))?;
    cpu(report, each, "limit: verify an event", || Ok(black_box(&event).verify()?))?;
    cpu(report, each, "limit: conversation key (ECDH)", || {
        Ok(ConversationKey::derive(alice.secret_key(), &bob.public_key())?)
    })?;
    cpu(report, each, "limit: make a key", || Ok(Keys::generate()))?;
    wraps(report, each, &alice, &bob)?;
    disk(report, each)
}

/// Sealing and opening as a client does it, and a reply as the node makes it: two wraps, conversations remembered.
fn wraps(report: &mut Report, each: Duration, alice: &Keys, bob: &Keys) -> Result<()> {
    let to = bob.public_key();
    let letter = || Letter::text(alice, to, "how are you today?", Protocol::Nip17);
    cpu(report, each, "limit: wrap a message (client)", letter)?;
    // Room for the sender's conversation, and none for those with one-time keys: each of them is met once in life.
    let signer = LocalSigner::new(bob.clone(), Conversations::new(CONVERSATIONS));
    let letters = (0..1_000).map(|_| Ok(letter()?.event)).collect::<Result<Vec<Event>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut next = letters.iter().cycle();
    cpu(report, each, "limit: verify and unwrap (node)", || {
        let event = next.next().context("a cycle has no end")?;
        event.verify()?;
        Ok(runtime.block_on(oa_nips::mail::unwrap(event, &signer))?)
    })?;
    let draft = Draft::text(alice.public_key(), "You said: how are you today?", now_ms());
    let reply = Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: None };
    cpu(report, each, "limit: wrap a reply and its copy (node)", || {
        Ok(runtime.block_on(outbox::sign(&reply, &signer, now_s()))?)
    })
}

/// One step of the processor, as often as it fits.
fn cpu<T>(
    report: &mut Report,
    each: Duration,
    name: &str,
    mut step: impl FnMut() -> Result<T>,
) -> Result<()> {
    for _ in 0..STEPS {
        black_box(step()?);
    }
    let (began, mut steps) = (Instant::now(), 0_u32);
    while began.elapsed() < each {
        for _ in 0..STEPS {
            black_box(step()?);
            steps += 1;
        }
    }
    let took = began.elapsed().as_secs_f64();
    let per_s = format!("{:.0}/s a core", f64::from(steps) / took);
    report.row(Row::new(name, took * 1e6 / f64::from(steps), "µs").note(per_s))?;
    Ok(())
}

/// One durable step, as often as it fits.
fn durable(
    report: &mut Report,
    each: Duration,
    name: &str,
    mut step: impl FnMut() -> Result<()>,
) -> Result<()> {
    (0..10).try_for_each(|_| step())?;
    let (began, mut spread) = (Instant::now(), Spread::default());
    while began.elapsed() < each {
        let step_began = Instant::now();
        step()?;
        spread.add(step_began.elapsed());
    }
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    let per_s = spread.len() as f64 / began.elapsed().as_secs_f64();
    report.row(Row::new(name, per_s, "/s").spread(&spread))?;
    Ok(())
}

fn disk(report: &mut Report, each: Duration) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut file = File::create(dir.path().join("log"))?;
    durable(report, each, "limit: append 4 KiB, fdatasync", || {
        file.write_all(&[7; 4096])?;
        Ok(file.sync_data()?)
    })?;
    let db = Connection::open(dir.path().join("db"))?;
    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "synchronous", "full")?;
    db.execute_batch("CREATE TABLE t (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")?;
    let mut n = 0_u64;
    let mut put = db.prepare("REPLACE INTO t (key, value) VALUES (?1, ?2)")?;
    durable(report, each, "limit: SQLite commit (WAL, FULL)", || {
        n += 1;
        put.execute(rusqlite::params![n.to_be_bytes(), [7_u8; 200]])?;
        Ok(())
    })
}
