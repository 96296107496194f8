//! What a store promises its node, on every backend: the conformance names of the original design that apply so far.

mod store {
    pub(crate) mod fixture;
    mod letters;
    mod owner;
    mod repeats;
}

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oa_nips::hex::Hex;
use oa_nips::mail::{Draft, Protocol};
use oa_nips::nostr::{EventId, Keys};
use oa_nips::port::RowWrite;
use oa_nips::record::Head;
use oa_node::agent::Lifecycle;
use oa_node::agent::envelope::{Kind, Trust};
use oa_node::agent::mailbox::{INBOX_MAX, INBOX_SENDER_MAX, INBOX_STRANGERS_MAX, Refusal};
use oa_node::agent::manifest::{Manifest, Overflow};
use oa_node::signer::{Conversations, LocalSigner};
use oa_node::store::Store;
use oa_node::store::backend::{Backend, BackendError, Change, Pair, Range, Table};
use oa_node::store::memory::MemoryBackend;
use oa_node::store::row::{OpRow, OutRow, Outgoing, Stage};
use oa_node::store::write::{AgentChange, Delivery, Failed, Verdict, Write};
use store::fixture::{AT_MS, Fixture, both};

#[tokio::test]
async fn single_tick_lock() {
    both(async |store: Store| {
        let world = Fixture::new(store).await;
        let seq = world.deliver(1).await;
        // Two ticks of one envelope, begun at the same version: the second finds it gone.
        let (first, second) = (world.commit_of(seq), world.commit_of(seq));
        assert!(matches!(world.write(Write::Commit(first)).await, Verdict::Landed(_)));
        assert_eq!(world.write(Write::Commit(second)).await, Verdict::Stale);
        // An owner's change while a tick runs: the tick starts over on what is now.
        let seq = world.deliver(2).await;
        let begun = world.commit_of(seq);
        world.write(Write::ChangeAgent(world.agent, AgentChange::Owner(None))).await;
        assert_eq!(world.write(Write::Commit(begun)).await, Verdict::Stale);
        assert_eq!(world.row().inbox_depth, 1, "the envelope still waits");
        let again = world.commit_of(seq);
        assert!(matches!(world.write(Write::Commit(again)).await, Verdict::Landed(_)));
    })
    .await;
}

#[tokio::test]
async fn at_least_once_delivery() {
    both(async |store: Store| {
        let world = Fixture::new(store).await;
        let seq = world.deliver(1).await;
        // A tick that fails gives nothing up: the envelope waits for the next try, up to the last.
        for _ in 0..3 {
            assert_eq!(world.write(Write::Fail(world.failed(seq))).await, Verdict::Done);
            assert_eq!(world.store.inbox(world.agent, 9).unwrap().len(), 1);
        }
        assert!(matches!(world.write(Write::Fail(world.failed(seq))).await, Verdict::Buried(_)));
        assert_eq!(world.store.dead_letters(world.agent).unwrap().len(), 1);
        assert_eq!((world.row().lifecycle, world.row().inbox_depth), (Lifecycle::Quarantined, 0));
    })
    .await;
}

#[tokio::test]
async fn crashes_are_counted_apart_from_failures() {
    both(async |store: Store| {
        let world = Fixture::new(store).await;
        let seq = world.deliver(1).await;
        for _ in 0..3 {
            world.write(Write::Fail(world.failed(seq))).await;
            world.write(Write::Fail(Failed { is_crash: true, max: 20, ..world.failed(seq) })).await;
        }
        let waiting = world.store.waiting(world.agent, seq).unwrap().unwrap();
        assert_eq!((waiting.failures, waiting.crashes), (3, 3));
    })
    .await;
}

#[tokio::test]
async fn dedup_helpers() {
    both(async |store: Store| {
        let world = Fixture::new(store).await;
        let mail = world.mail(1);
        assert!(matches!(world.take(&mail, Trust::Allowed).await, Verdict::Queued(_)));
        assert_eq!(world.take(&mail, Trust::Allowed).await, Verdict::Duplicate);
        // Also once its tick is long done.
        world.tick(0).await;
        assert_eq!(world.take(&mail, Trust::Allowed).await, Verdict::Duplicate);
        // The same words over the other protocol within two minutes are the same message.
        let mut twin = world.mail(1);
        twin.id = Hex([77; 32]);
        twin.origin.as_mut().unwrap().protocol = Protocol::Nip04;
        assert_eq!(world.take(&twin, Trust::Allowed).await, Verdict::Refused(Refusal::Twin));
        twin.id = Hex([78; 32]);
        twin.sent_at_ms += 121_000;
        assert!(matches!(world.take(&twin, Trust::Allowed).await, Verdict::Queued(_)));
    })
    .await;
}

#[tokio::test]
async fn per_sender_ordering() {
    both(async |store: Store| {
        let world = Fixture::new(store).await;
        for n in 1..=20 {
            world.deliver(n).await;
        }
        let texts = |world: &Fixture| -> Vec<String> {
            let inbox = world.store.inbox(world.agent, 100).unwrap();
            inbox.into_iter().map(|(_, waiting)| waiting.envelope.text).collect()
        };
        assert_eq!(texts(&world), (1..=20).map(|n| format!("message {n}")).collect::<Vec<_>>());
        // A failure keeps the place in line.
        world.write(Write::Fail(world.failed(0))).await;
        assert_eq!(texts(&world).first().map(String::as_str), Some("message 1"));
    })
    .await;
}

#[tokio::test]
async fn idempotent_effects() {
    both(async |store: Store| {
        let world = Fixture::new(store).await;
        let caller = Keys::generate().public_key();
        let (op, request) = (Hex([5; 16]), Hex([6; 32]));
        let reply = OpRow { request, reply: Ok(b"done".to_vec()), begun: false, at_ms: AT_MS };
        world.write(Write::Op(caller, op, Box::new(reply.clone()))).await;
        assert_eq!(world.store.op(&caller, &op).unwrap(), Some(reply));
        // A row of another machine is written once for each version, with the commit or not at all.
        let seq = world.deliver(1).await;
        let row = |expect_version| RowWrite {
            space: "wallet".into(),
            key: "ledger".into(),
            expect_version,
            value: Some(b"1".to_vec()),
        };
        let mut first = world.commit_of(seq);
        first.rows.push(row(0));
        assert!(matches!(world.write(Write::Commit(first)).await, Verdict::Landed(_)));
        let seq = world.deliver(2).await;
        let mut second = world.commit_of(seq);
        second.rows.push(row(0));
        assert_eq!(world.write(Write::Commit(second)).await, Verdict::Stale);
        assert_eq!(world.store.row("wallet", "ledger").unwrap().unwrap().version, 1);
        assert_eq!(world.row().head.seq, 1, "the second tick left no record");
    })
    .await;
}

#[tokio::test]
async fn a_unit_lands_whole_or_not_at_all() {
    both(async |store: Store| {
        let world = Fixture::new(store).await;
        let taken = Manifest::new("alice", "echo");
        let unit = vec![
            Write::Floor(1_000),
            Write::CreateAgent(Box::new(world.new_agent(9, taken))),
            Write::Floor(2_000),
        ];
        let verdicts = world.store.commit(unit).await.unwrap();
        assert_eq!(verdicts, [Verdict::Done, Verdict::NameTaken]);
        assert_eq!(world.store.floor_s().unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn signer_no_key_leak() {
    use oa_node::keyring::{Addresses, Keyring, SeedKeyring};
    use oa_node::signer::Seed;

    let seed = Seed::generate();
    let words = seed.reveal();
    let secret = seed.agent(0).unwrap().secret_key().to_secret_hex();
    let keyring = SeedKeyring::new(seed, Arc::new(Addresses::default()));
    keyring.agent(oa_node::agent::AgentId(0));
    let shown = format!("{keyring:?} {:?}", keyring.node());
    assert!(!shown.contains(&secret) && !words.split(' ').any(|word| shown.contains(&format!(" {word} "))));
}

#[tokio::test]
async fn trigger_envelope_id() {
    both(async |store: Store| {
        let world = Fixture::new(store).await;
        let mail = world.mail(1);
        let trigger: serde_json::Value = serde_json::from_slice(&mail.trigger(Trust::Allowed)).unwrap();
        assert_eq!(trigger["id"], serde_json::json!(mail.id));
        // An alarm's firing is one envelope, however often it is tried.
        let (firing, due_ms) = world.alarm(60).await;
        assert!(matches!(world.write(Write::Fire(Box::new(firing.clone()))).await, Verdict::Queued(_)));
        assert_eq!(world.write(Write::Fire(Box::new(firing))).await, Verdict::Stale);
        let next = world.store.alarm(world.agent, "tea").unwrap().unwrap();
        assert_eq!(next.due_ms, due_ms + 60_000, "the alarm advanced with it");
        assert_eq!(world.store.alarms_due(9).unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn overflow_deadletter() {
    both(async |store: Store| {
        let mut world = Fixture::new(store).await;
        let quota = u64::from(INBOX_SENDER_MAX);
        for n in 0..quota {
            world.deliver(n).await;
        }
        let more = world.mail(quota);
        assert_eq!(world.take(&more, Trust::Allowed).await, Verdict::Refused(Refusal::SenderQuota));
        // Strangers fill their half; friends still get in, until all is full.
        let mut n = 10_000;
        for _ in 0..INBOX_STRANGERS_MAX {
            let mail = world.mail_from_anybody(n);
            assert!(matches!(world.take(&mail, Trust::Stranger).await, Verdict::Queued(_)));
            n += 1;
        }
        let stranger = world.mail_from_anybody(n);
        assert_eq!(world.take(&stranger, Trust::Stranger).await, Verdict::Refused(Refusal::StrangerQuota));
        while world.row().inbox_depth < INBOX_MAX {
            n += 1;
            let mail = world.mail_from_anybody(n);
            world.take(&mail, Trust::Allowed).await;
        }
        let (kept, dropped) = (world.mail_from_anybody(n + 1), world.mail_from_anybody(n + 2));
        assert!(matches!(world.take(&kept, Trust::Owner).await, Verdict::Buried(_)));
        let stranger = world.mail_from_anybody(n + 4);
        assert!(
            matches!(world.take(&stranger, Trust::Stranger).await, Verdict::Refused(_)),
            "strangers bury nobody"
        );
        assert_eq!(world.store.dead_letters(world.agent).unwrap().len(), 1);
        world.overflow = Overflow::DropOldest;
        assert!(matches!(world.take(&dropped, Trust::Owner).await, Verdict::Queued(_)));
        assert_eq!(world.row().inbox_depth, INBOX_MAX);
        world.overflow = Overflow::RejectNew;
        let refused = world.mail_from_anybody(n + 3);
        assert_eq!(world.take(&refused, Trust::Owner).await, Verdict::Refused(Refusal::Full));
        assert!(world.store.refusals(world.agent, 9).unwrap().len() >= 3, "each refusal is logged");
    })
    .await;
}

#[tokio::test]
async fn hibernation_state_persists() {
    both(async |store: Store| {
        let world = Fixture::new(store).await;
        let seq = world.deliver(1).await;
        let mut commit = world.commit_of(seq);
        commit.files.push(("/memory/a".parse().unwrap(), Some(b"kept".to_vec())));
        commit.lifecycle = Lifecycle::Dormant;
        assert!(matches!(world.write(Write::Commit(commit)).await, Verdict::Landed(_)));
        assert_eq!(world.row().lifecycle, Lifecycle::Dormant);
        world.deliver(2).await;
        assert_eq!(world.store.file(world.agent, "/memory/a").unwrap().as_deref(), Some(&b"kept"[..]));
        assert_eq!(world.store.file_paths(world.agent, "/memory/").unwrap(), ["/memory/a"]);
        let seq = world.row().inbox_next - 1;
        world.tick(seq).await;
        assert_eq!(world.row().lifecycle, Lifecycle::Active);
    })
    .await;
}

#[tokio::test]
async fn old_and_future_mail_is_refused_and_the_floor_only_rises() {
    both(async |store: Store| {
        let world = Fixture::new(store).await;
        let mut old = world.mail(1);
        old.sent_at_ms = 31_536_000_000;
        assert_eq!(world.take(&old, Trust::Owner).await, Verdict::Refused(Refusal::BelowFloor));
        let mut future = world.mail(2);
        future.sent_at_ms = 4_102_444_800_000;
        assert_eq!(world.take(&future, Trust::Owner).await, Verdict::Refused(Refusal::Future));
        world.write(Write::Floor(500)).await;
        world.write(Write::Floor(400)).await;
        assert_eq!(world.store.floor_s().unwrap(), 500);
        // A clock that once was years ahead does not make the agent deaf: the node's floor stays a week behind.
        world.write(Write::Floor(AT_MS / 1000 + 100_000_000)).await;
        let late = world.mail(3);
        assert!(matches!(world.take(&late, Trust::Owner).await, Verdict::Queued(_)));
    })
    .await;
}

#[tokio::test]
async fn an_outgoing_item_is_open_until_it_is_finished() {
    both(async |store: Store| {
        let world = Fixture::new(store).await;
        let seq = world.deliver(1).await;
        let mut commit = world.commit_of(seq);
        let draft = Draft::text(Keys::generate().public_key(), "hi", AT_MS);
        let outgoing = Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: None };
        commit.out.push(oa_node::store::row::OutRow { outgoing, stage: Stage::Unsigned, at_ms: AT_MS });
        let before = world.store.outbox_open(None, 99).unwrap().len();
        let Verdict::Landed(range) = world.write(Write::Commit(commit)).await else { panic!("commits") };
        let id = range.ids().next().unwrap();
        assert_eq!(world.store.outbox_open(None, 99).unwrap().len(), before + 1);
        let mut row = world.store.outgoing(id).unwrap().unwrap();
        row.stage = Stage::Finished(Vec::new());
        assert_eq!(world.write(Write::Out(id, Box::new(row.clone()))).await, Verdict::Done);
        assert_eq!(world.store.outbox_open(None, 99).unwrap().len(), before);
        // An answer that comes late does not open it again.
        row.stage = Stage::Unsigned;
        assert_eq!(world.write(Write::Out(id, Box::new(row))).await, Verdict::Duplicate);
    })
    .await;
}

#[tokio::test]
async fn a_removed_agent_takes_no_mail_and_frees_its_name_but_not_its_number() {
    both(async |store: Store| {
        let world = Fixture::new(store).await;
        world.write(Write::ChangeAgent(world.agent, AgentChange::Remove)).await;
        let mail = world.mail(1);
        assert_eq!(world.take(&mail, Trust::Owner).await, Verdict::Refused(Refusal::Terminated));
        assert_eq!(world.store.agent_named("alice").unwrap(), None);
        assert!(world.store.next_agent_id().unwrap() > world.agent);
        let new = world.new_agent(world.agent.0 + 1, Manifest::new("alice", "echo"));
        assert!(matches!(world.write(Write::CreateAgent(Box::new(new))).await, Verdict::Landed(_)));
    })
    .await;
}

#[tokio::test]
async fn an_agents_life_begins_with_its_creation() {
    both(async |store: Store| {
        let world = Fixture::fresh(store).await;
        let inbox = world.store.inbox(world.agent, 9).unwrap();
        assert_eq!(inbox.len(), 1);
        assert_eq!(inbox[0].1.envelope.kind, Kind::Created);
        assert_eq!(world.row().head, Head::GENESIS);
        assert_eq!(world.row().lifecycle, Lifecycle::Creating);
    })
    .await;
}

/// A memory backend whose reads of one table fail while it is told to.
#[derive(Debug, Default)]
struct Flaky {
    inner: MemoryBackend,
    fails: AtomicBool,
}

impl Backend for Flaky {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        if table == Table::Peers && self.fails.load(Ordering::Relaxed) {
            return Err(BackendError::Io { path: "peers".into(), detail: "planted".into() });
        }
        self.inner.get(table, key)
    }

    fn scan(&self, table: Table, range: &Range) -> Result<Vec<Pair>, BackendError> {
        self.inner.scan(table, range)
    }

    fn flush(&self, changes: &[Change]) -> Result<(), BackendError> {
        self.inner.flush(changes)
    }
}

#[tokio::test]
async fn a_unit_that_fails_half_way_leaves_nothing_to_the_next() {
    let backend = Arc::new(Flaky::default());
    let world = Fixture::new(Store::new(backend.clone()).unwrap()).await;
    let mail = world.mail(1);
    let event = (AT_MS / 1000, EventId::from_slice(mail.id.as_bytes()).unwrap());
    let (agent, trust, overflow) = (world.agent, Trust::Allowed, Overflow::default());
    let delivery = Delivery { agent, envelope: mail.clone(), trust, overflow, event };
    backend.fails.store(true, Ordering::Relaxed);
    // Both in one flush, most likely; in any case one after the other.
    let failing = world.store.submit(vec![Write::Deliver(Box::new(delivery))]).await;
    let next = world.store.submit(vec![Write::Floor(1)]).await;
    assert!(failing.verdicts().await.is_err());
    assert_eq!(next.verdicts().await.unwrap(), [Verdict::Done]);
    assert!(!world.store.is_handled(&event.1).unwrap(), "the event would never be looked at again");
    backend.fails.store(false, Ordering::Relaxed);
    assert!(matches!(world.take(&mail, Trust::Allowed).await, Verdict::Queued(_)));
}

#[tokio::test]
async fn alarms_of_an_agent_that_does_not_tick_wait_for_it() {
    both(async |store: Store| {
        let world = Fixture::new(store).await;
        let (firing, due_ms) = world.alarm(60).await;
        let stop = AgentChange::Lifecycle(Lifecycle::Stopped, None);
        world.write(Write::ChangeAgent(world.agent, stop)).await;
        assert_eq!(world.write(Write::Fire(Box::new(firing.clone()))).await, Verdict::Done);
        assert_eq!(world.store.alarms_due(9).unwrap(), [], "it does not come up again and again");
        assert_eq!(world.row().inbox_depth, 0);
        let resume = AgentChange::Lifecycle(Lifecycle::Active, None);
        world.write(Write::ChangeAgent(world.agent, resume)).await;
        assert_eq!(world.store.alarms_due(9).unwrap()[0].due_ms, due_ms);
        assert!(matches!(world.write(Write::Fire(Box::new(firing))).await, Verdict::Queued(_)));
        world.write(Write::ChangeAgent(world.agent, AgentChange::Remove)).await;
        assert_eq!(world.store.alarms_due(9).unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn what_one_agent_sends_another_of_the_same_node_is_not_taken_for_known() {
    both(async |store: Store| {
        let world = Fixture::new(store).await;
        let (a, b) = (Keys::generate(), Keys::generate().public_key());
        let signer = LocalSigner::new(a.clone(), Conversations::default());
        let draft = Draft::text(b, "hello, neighbour", AT_MS);
        let outgoing = Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: None };
        let parcels = oa_node::outbox::sign(&outgoing, &signer, AT_MS / 1000).await.unwrap();
        let Verdict::Landed(range) =
            world.write(Write::Send(world.agent, Box::new(outgoing.clone()), AT_MS)).await
        else {
            panic!("is sent")
        };
        let row = OutRow { outgoing, stage: Stage::Signed(parcels.clone()), at_ms: AT_MS };
        world.write(Write::Out(range.ids().next().unwrap(), Box::new(row))).await;
        let [to_peer, own_copy] = parcels.as_slice() else { panic!("two parcels") };
        assert!(!world.store.is_handled(&to_peer.event.id).unwrap());
        assert!(world.store.is_handled(&own_copy.event.id).unwrap());
    })
    .await;
}

#[tokio::test]
async fn dropping_the_oldest_keeps_count_of_the_sender() {
    both(async |store: Store| {
        let mut world = Fixture::new(store).await;
        world.overflow = Overflow::DropOldest;
        world.deliver(0).await;
        for n in 1..u64::from(INBOX_MAX) {
            let mail = world.mail_from_anybody(n);
            world.take(&mail, Trust::Allowed).await;
        }
        // The sender's own oldest makes room: it still has one waiting.
        world.deliver(5_000).await;
        assert_eq!(world.row().inbox_depth, INBOX_MAX);
        assert_eq!(world.store.peer(world.agent, &world.sender).unwrap().unwrap().queued, 1);
    })
    .await;
}
