//! One agent in a fresh store, and short ways to do things to it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what fails here is a failed test"
)]

use std::sync::Arc;

use oa_nips::hex::Hex;
use oa_nips::mail::Protocol;
use oa_nips::nostr::{EventId, Keys, PublicKey};
use oa_nips::record::{Fields, Record, state_hash};
use oa_node::agent::alarm;
use oa_node::agent::envelope::{AlarmFired, Envelope, Kind, Origin, Trust};
use oa_node::agent::manifest::{Manifest, Overflow};
use oa_node::agent::{AgentId, Lifecycle};
use oa_node::store::Store;
use oa_node::store::memory::MemoryBackend;
use oa_node::store::row::AgentRow;
use oa_node::store::sqlite::SqliteBackend;
use oa_node::store::write::{
    AlarmChange, AlarmFiring, Delivery, Failed, NewAgent, TickCommit, Verdict, Write,
};

/// The time of everything: milliseconds since 1970.
pub(crate) const AT_MS: u64 = 1_800_000_000_000;

/// Runs a test on each backend.
pub(crate) async fn both(test: impl AsyncFn(Store)) {
    let memory = Store::new(Arc::new(MemoryBackend::default())).unwrap();
    test(memory.clone()).await;
    memory.close().await;
    let dir = tempfile::tempdir().unwrap();
    let sqlite = SqliteBackend::open(&dir.path().join("node.db")).unwrap();
    let sqlite = Store::new(Arc::new(sqlite)).unwrap();
    test(sqlite.clone()).await;
    sqlite.close().await;
}

/// One agent, `alice`, and somebody who writes to it.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) agent: AgentId,
    pub(crate) sender: PublicKey,
    pub(crate) overflow: Overflow,
}

impl Fixture {
    /// A store with an agent whose creation is still to be ticked.
    pub(crate) async fn fresh(store: Store) -> Self {
        let (agent, sender) = (AgentId(0), Keys::generate().public_key());
        let world = Self { store, agent, sender, overflow: Overflow::default() };
        let new = world.new_agent(0, Manifest::new("alice", "echo"));
        assert!(matches!(world.write(Write::CreateAgent(Box::new(new))).await, Verdict::Landed(_)));
        world
    }

    /// A store with an agent whose inbox is empty.
    pub(crate) async fn new(store: Store) -> Self {
        let world = Self::fresh(store).await;
        // Its creation is dropped, so that records and sequence numbers begin with the test's own.
        let failed = Failed { max: 1, then: None, ..world.failed(0) };
        world.write(Write::Fail(failed)).await;
        world
            .write(Write::Forget(
                oa_node::store::backend::Table::DeadLetters,
                vec![[0u8; 4].into_iter().chain(0u64.to_be_bytes()).collect()],
            ))
            .await;
        world
    }

    pub(crate) fn new_agent(&self, id: u32, manifest: Manifest) -> NewAgent {
        let pubkey = Keys::generate().public_key();
        let session = Hex([id as u8; 16]);
        NewAgent { id: AgentId(id), pubkey, manifest, session, at_ms: AT_MS, profile: Vec::new() }
    }

    pub(crate) async fn write(&self, write: Write) -> Verdict {
        self.store.write(write).await.unwrap()
    }

    pub(crate) fn row(&self) -> AgentRow {
        self.store.agent(self.agent).unwrap().unwrap()
    }

    /// The sender's n-th message.
    pub(crate) fn mail(&self, n: u64) -> Envelope {
        self.mail_by(self.sender, n)
    }

    /// A message of somebody new.
    pub(crate) fn mail_from_anybody(&self, n: u64) -> Envelope {
        self.mail_by(Keys::generate().public_key(), n)
    }

    fn mail_by(&self, peer: PublicKey, n: u64) -> Envelope {
        let mut id = [9; 32];
        id[..8].copy_from_slice(&n.to_be_bytes());
        let mail = EventId::from_slice(&id).ok();
        let origin = Origin { peer, protocol: Protocol::Nip17, relay: None, mail, auto_hop: 0 };
        Envelope {
            id: Hex(id),
            kind: Kind::Dm,
            origin: Some(origin),
            text: format!("message {n}"),
            data: None,
            sent_at_ms: AT_MS + n,
            accepted_at_ms: AT_MS + n,
            alarm: None,
            heard: None,
            plumbed: None,
            in_reply_to: None,
        }
    }

    /// Takes a message in.
    pub(crate) async fn take(&self, mail: &Envelope, trust: Trust) -> Verdict {
        let event = (AT_MS / 1000, EventId::from_slice(mail.id.as_bytes()).unwrap());
        let (agent, envelope, overflow) = (self.agent, mail.clone(), self.overflow);
        self.write(Write::Deliver(Box::new(Delivery { agent, envelope, trust, overflow, event }))).await
    }

    /// Takes the sender's n-th message in, and answers its place.
    pub(crate) async fn deliver(&self, n: u64) -> u64 {
        match self.take(&self.mail(n), Trust::Allowed).await {
            Verdict::Queued(seq) => seq,
            verdict => panic!("{verdict:?}"),
        }
    }

    /// The commit of a tick that did nothing.
    pub(crate) fn commit_of(&self, seq: u64) -> Box<TickCommit> {
        let row = self.row();
        let state = state_hash(&row.head.state, []);
        let agent = Hex(row.pubkey.to_bytes());
        let record = Record::new(agent, row.session, &row.head, state, Fields::new(), &[1; 32]);
        let head = record.verify(&row.head).unwrap();
        Box::new(TickCommit {
            agent: row.id,
            expect_version: row.version,
            lease_epoch: row.lease_epoch,
            seq,
            files: Vec::new(),
            alarms: Vec::new(),
            out: Vec::new(),
            bucket: None,
            rows: Vec::new(),
            lifecycle: Lifecycle::Active,
            record: Box::new(record),
            head,
        })
    }

    /// Commits a tick that does nothing.
    pub(crate) async fn tick(&self, offset: u64) {
        let seq = self.store.inbox(self.agent, 1).unwrap()[0].0.max(offset);
        let commit = self.commit_of(seq);
        assert!(matches!(self.write(Write::Commit(commit)).await, Verdict::Landed(_)));
    }

    pub(crate) fn failed(&self, seq: u64) -> Failed {
        let then = Some(Lifecycle::Quarantined);
        Failed {
            agent: self.agent,
            seq,
            reason: "test".into(),
            effects: Vec::new(),
            is_crash: false,
            max: 4,
            then,
            at_ms: AT_MS,
            told: None,
        }
    }

    /// Sets an alarm that repeats, and answers its firing and when it is due.
    pub(crate) async fn alarm(&self, every_s: u64) -> (AlarmFiring, u64) {
        let json = format!(r#"{{"every_s": {every_s}, "from": {}, "text": "tea"}}"#, AT_MS / 1000);
        let set = alarm::parse(json.as_bytes(), AT_MS).unwrap();
        let due_ms = set.due_ms;
        let seq = self.deliver(1000).await;
        let mut commit = self.commit_of(seq);
        commit.alarms.push(AlarmChange { id: "tea".into(), alarm: Some(set.clone()) });
        assert!(matches!(self.write(Write::Commit(commit)).await, Verdict::Landed(_)));
        let fired = alarm::fire(&set, due_ms);
        let told = AlarmFired { id: "tea".into(), due: due_ms / 1000, missed: fired.missed };
        let envelope = Envelope::from_alarm(self.agent, told, set.text.clone(), None, due_ms);
        let envelope = Some(envelope);
        (AlarmFiring { agent: self.agent, id: "tea".into(), due_ms, envelope, next: fired.next }, due_ms)
    }
}
