//! Dead letters come back with what they had done, or without, or not at all.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use oa_nips::hex::Hex;
use oa_node::agent::envelope::Trust;
use oa_node::agent::mailbox::INBOX_MAX;
use oa_node::namespace::journal::{Line, LineState};
use oa_node::store::Store;
use oa_node::store::row::Waiting;
use oa_node::store::write::{AgentChange, Failed, Journaled, LetterChange, Verdict, Write};

use super::fixture::{AT_MS, Fixture, both};

/// An agent with one dead letter, whose run had done something outside; answers the letter's number.
async fn buried(store: Store) -> (Fixture, u64) {
    let world = Fixture::new(store).await;
    let seq = world.deliver(1).await;
    let mail = world.mail(1);
    let line = Line { request: Hex([3; 32]), path: "/tools/pay".into(), state: LineState::Intent };
    let (agent, envelope) = (world.agent, mail.id);
    let journaled =
        Journaled { agent, seq, envelope, lease_epoch: 0, first: 0, lines: vec![line], at_ms: AT_MS };
    assert_eq!(world.write(Write::Journal(Box::new(journaled))).await, Verdict::Done);
    let failed = Failed { max: 1, then: None, ..world.failed(seq) };
    assert!(matches!(world.write(Write::Fail(failed)).await, Verdict::Buried(_)));
    let letters = world.store.dead_letters(agent).unwrap();
    assert_eq!((letters.len(), world.store.dead_letter_count(agent).unwrap()), (1, 1));
    (world, letters[0].0)
}

fn journal(world: &Fixture) -> usize {
    world.store.journal(world.agent, &world.mail(1).id).unwrap().len()
}

async fn change(world: &Fixture, n: u64, change: LetterChange) -> Verdict {
    world.write(Write::Letter(world.agent, n, change)).await
}

#[tokio::test]
async fn a_replayed_letter_keeps_its_name_and_its_journal_and_comes_back_once() {
    both(async |store: Store| {
        let (world, n) = buried(store).await;
        let Verdict::Queued(seq) = change(&world, n, LetterChange::Replay).await else {
            panic!("is put back")
        };
        let waiting = world.store.waiting(world.agent, seq).unwrap().unwrap();
        let expected = Waiting {
            envelope: world.mail(1),
            is_strangers: false,
            failures: 0,
            crashes: 0,
            journaled: true,
        };
        assert_eq!((waiting, journal(&world)), (expected, 1));
        assert_eq!(world.row().inbox_depth, 1);
        assert_eq!(world.store.peer(world.agent, &world.sender).unwrap().unwrap().queued, 1);
        assert_eq!(world.store.dead_letter(world.agent, n).unwrap(), None);
        assert_eq!(change(&world, n, LetterChange::Replay).await, Verdict::Stale);
        assert_eq!(world.row().inbox_depth, 1, "once is once");
        // The message itself is known as before.
        assert_eq!(world.take(&world.mail(1), Trust::Allowed).await, Verdict::Duplicate);
        world.tick(seq).await;
        assert_eq!(world.store.peer(world.agent, &world.sender).unwrap().unwrap().queued, 0);
    })
    .await;
}

#[tokio::test]
async fn a_letter_that_is_run_afresh_has_another_name_and_no_journal() {
    both(async |store: Store| {
        let (world, n) = buried(store).await;
        let rerun = LetterChange::Rerun { id: Hex([8; 32]), at_ms: AT_MS + 5 };
        let Verdict::Queued(seq) = change(&world, n, rerun).await else { panic!("is put back") };
        let waiting = world.store.waiting(world.agent, seq).unwrap().unwrap();
        assert_eq!((waiting.envelope.id, waiting.journaled), (Hex([8; 32]), false));
        assert_eq!((waiting.envelope.accepted_at_ms, waiting.envelope.text), (AT_MS + 5, world.mail(1).text));
        assert_eq!(journal(&world), 0);
    })
    .await;
}

#[tokio::test]
async fn a_dropped_letter_is_gone_and_a_full_inbox_or_an_ended_agent_takes_none_back() {
    both(async |store: Store| {
        let (world, n) = buried(store).await;
        for n in 0..u64::from(INBOX_MAX) {
            let mail = world.mail_from_anybody(10 + n);
            world.take(&mail, Trust::Allowed).await;
        }
        assert_eq!(change(&world, n, LetterChange::Replay).await, Verdict::Stale);
        assert_eq!(world.row().inbox_depth, INBOX_MAX);
        world.write(Write::ChangeAgent(world.agent, AgentChange::Remove)).await;
        assert_eq!(change(&world, n, LetterChange::Replay).await, Verdict::Stale);
        assert_eq!(journal(&world), 1, "what was refused changed nothing");
        assert_eq!(change(&world, n, LetterChange::Drop).await, Verdict::Done);
        assert_eq!((journal(&world), world.store.dead_letter_count(world.agent).unwrap()), (0, 0));
        assert_eq!(change(&world, n, LetterChange::Drop).await, Verdict::Stale);
    })
    .await;
}
