//! An agent that has something of everything.

use std::sync::Arc;

use oa_nips::hex::Hex;
use oa_nips::mail::{Draft, Protocol};
use oa_nips::nostr::{EventId, Keys, PublicKey, RelayUrl};
use oa_nips::record::{Fields, Record, state_hash};
use serde_json::json;

use crate::agent::alarm;
use crate::agent::envelope::{Envelope, Kind, Origin, Trust};
use crate::agent::manifest::{Manifest, Npub, Overflow};
use crate::agent::{AgentId, Lifecycle};
use crate::bundle::Bundle;
use crate::keyring::{Addresses, Keyring, SeedKeyring};
use crate::namespace::journal::{Line, LineState};
use crate::outbox;
use crate::signer::Seed;
use crate::store::Store;
use crate::store::memory::MemoryBackend;
use crate::store::row::{AgentRow, Claim, OutRow, Outgoing, Stage};
use crate::store::sqlite::SqliteBackend;
use crate::store::write::{
    AgentChange, AlarmChange, Answer, Delivery, Failed, Journaled, NewAgent, Settled, TickCommit, Verdict,
    Write,
};

/// The time of everything: milliseconds since 1970.
pub(super) const AT_MS: u64 = 1_790_000_000_000;
/// The seed of everything.
pub(super) const WORDS: &str = "legal winner thank year wave sausage worth useful legal winner thank yellow";
/// A code that a stranger was given.
pub(super) const CODE: &str = "PAIRME";
pub(super) const ID: AgentId = AgentId(3);

pub(super) fn memory() -> Store {
    Store::new(Arc::new(MemoryBackend::default())).unwrap()
}

/// A store of each kind, and what holds the file of the second.
pub(super) fn stores() -> ([Store; 2], tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = SqliteBackend::open(&dir.path().join("node.db")).unwrap();
    ([memory(), Store::new(Arc::new(sqlite)).unwrap()], dir)
}

pub(super) fn keyring() -> SeedKeyring {
    SeedKeyring::new(Seed::from_words(WORDS).unwrap(), Arc::new(Addresses::default()))
}

/// Somebody, always the same.
pub(super) fn someone(n: u8) -> PublicKey {
    Keys::parse(&Hex([n; 32]).to_string()).unwrap().public_key()
}

pub(super) fn row(store: &Store) -> AgentRow {
    store.agent(ID).unwrap().unwrap()
}

pub(super) fn gather(store: &Store, now_ms: u64) -> Bundle {
    Bundle::gather(store, ID, keyring().node().public_key(), now_ms).unwrap().unwrap()
}

/// The n-th message of somebody.
pub(super) fn mail(n: u8) -> Envelope {
    let origin = Origin {
        peer: someone(7),
        protocol: Protocol::Nip17,
        relay: Some(RelayUrl::parse("wss://relay.example").unwrap()),
        mail: EventId::from_slice(&[n; 32]).ok(),
        auto_hop: 0,
    };
    let sent_at_ms = AT_MS + u64::from(n);
    Envelope {
        id: Hex([n; 32]),
        origin: Some(origin),
        text: format!("message {n}"),
        sent_at_ms,
        ..Envelope::from_node(Kind::Dm, "", AT_MS + 1_000)
    }
}

pub(super) async fn write(store: &Store, write: Write) -> Verdict {
    store.write(write).await.unwrap()
}

pub(super) async fn deliver(store: &Store, n: u8) -> u64 {
    let event = (AT_MS / 1000, EventId::from_slice(&[n ^ 0x80; 32]).unwrap());
    let (trust, overflow) = (Trust::Allowed, Overflow::default());
    let delivery = Delivery { agent: ID, envelope: mail(n), trust, overflow, event };
    match write(store, Write::Deliver(Box::new(delivery))).await {
        Verdict::Queued(seq) => seq,
        verdict => panic!("{verdict:?}"),
    }
}

fn to(n: u8, text: &str) -> Outgoing {
    let draft =
        Draft { reply_to: EventId::from_slice(&[n; 32]).ok(), ..Draft::text(someone(7), text, AT_MS) };
    Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: None }
}

/// The next tick: takes what waits at `seq`, and leaves files, an alarm and mail of every stage.
async fn tick(store: &Store, seq: u64) {
    let row = row(store);
    let files = [("/memory/a", Some(b"text".to_vec())), ("/goals/b.json", Some(vec![0, 255, b'\n']))];
    let changed = files.iter().map(|(path, content)| (*path, content.as_deref()));
    let state = state_hash(&row.head.state, changed);
    let fields = Fields::from([("outcome".to_owned(), json!("replied"))]);
    let record = Record::new(Hex(row.pubkey.to_bytes()), row.session, &row.head, state, fields, &[1; 32]);
    let signed = outbox::sign(&to(1, "on its way"), &*keyring().agent(ID), AT_MS / 1000).await.unwrap();
    let item = |text, stage| OutRow { outgoing: to(1, text), stage, at_ms: AT_MS };
    let spec = format!(r#"{{"every_s": 3600, "from": {}, "text": "tea"}}"#, AT_MS / 1000 + 60);
    let alarm = alarm::parse(spec.as_bytes(), AT_MS).ok();
    let commit = TickCommit {
        agent: ID,
        expect_version: row.version,
        lease_epoch: row.lease_epoch,
        seq,
        files: files.map(|(path, content)| (path.parse().unwrap(), content)).into(),
        alarms: vec![AlarmChange { id: "tea".into(), alarm }],
        out: vec![
            item("arrived", Stage::Finished(Vec::new())),
            item("on its way", Stage::Signed(signed)),
            item("not signed", Stage::Unsigned),
        ],
        bucket: None,
        rows: Vec::new(),
        lifecycle: Lifecycle::Active,
        head: record.head(),
        record: Box::new(record),
    };
    assert!(matches!(write(store, Write::Commit(Box::new(commit))).await, Verdict::Landed(_)));
}

/// Agent 3 of the seed, with one of everything.
pub(super) async fn fill(store: &Store) {
    let mut manifest = Manifest::new("alice", "echo");
    manifest.owner = Some(Npub(someone(9)));
    let pubkey = keyring().agent(ID).public_key();
    let new = NewAgent { id: ID, pubkey, manifest, session: Hex([5; 16]), at_ms: AT_MS, profile: Vec::new() };
    write(store, Write::CreateAgent(Box::new(new))).await;
    tick(store, 0).await;
    tick(store, deliver(store, 1).await).await;
    // Given up, with what it did outside.
    let seq = deliver(store, 2).await;
    let intent = Line { request: Hex([4; 32]), path: "/tools/x".into(), state: LineState::Intent };
    let lines = |path: &str| vec![Line { path: path.into(), ..intent.clone() }; 2];
    let journal = |seq, n, path: &str| Journaled {
        agent: ID,
        seq,
        envelope: mail(n).id,
        lease_epoch: 0,
        first: 0,
        lines: lines(path),
        at_ms: AT_MS,
    };
    write(store, Write::Journal(Box::new(journal(seq, 2, "/tools/buried")))).await;
    let failed = Failed {
        agent: ID,
        seq,
        reason: "as it goes".into(),
        effects: vec![json!({ "path": "/tools/buried" })],
        is_crash: false,
        max: 1,
        then: None,
        at_ms: AT_MS,
        told: None,
    };
    write(store, Write::Fail(failed)).await;
    // Waiting in the midst of a tick, waiting for one, and done with.
    let seq = deliver(store, 3).await;
    write(store, Write::Journal(Box::new(journal(seq, 3, "/tools/waiting")))).await;
    deliver(store, 4).await;
    let seq = deliver(store, 5).await;
    write(store, Write::Journal(Box::new(journal(seq, 5, "/tools/over")))).await;
    tick(store, seq).await;
    // Somebody is let in, somebody asks to be, and somebody may claim it.
    write(store, Write::ChangeAgent(ID, AgentChange::Allow(someone(8), true))).await;
    let draft = Draft::text(someone(6), format!("ask my owner to say: allow {CODE}"), AT_MS);
    let reply = Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: None };
    let answer = Answer::Pair { with: someone(6), code: CODE.into(), reply };
    let event = (AT_MS / 1000, EventId::from_slice(&[6; 32]).unwrap());
    let settled = Settled { agent: ID, event, envelope: Some((Hex([6; 32]), AT_MS)), at_ms: AT_MS, answer };
    write(store, Write::Settle(Box::new(settled))).await;
    let claim = Claim { digest: Hex([0xcc; 32]), expires_at_ms: AT_MS + 1, misses: 0 };
    write(store, Write::ChangeAgent(ID, AgentChange::Claim(claim))).await;
}
