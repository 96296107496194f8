//! Each transition of the machine, by what it says is to be done.

use oa_nips::hex::Hex;
use oa_nips::nostr::Keys;

use super::*;

/// The time at which everything begins, in milliseconds since 1970.
const T: u64 = 1_790_000_000_000;
const TERM: u64 = 90_000;
const SKEW: u64 = 30_000;
const SETTLE: u64 = 5000;
const WITHIN: u64 = 3000;

fn id(n: u8) -> Id {
    Hex([n; 16])
}

fn kept(tenure: Option<Tenure>) -> LeaseState {
    LeaseState { instance: id(1), place: None, tenure }
}

fn tenure(epoch: u64, until_ms: u64) -> Tenure {
    Tenure { epoch, boot: id(10), at: T / 1000 - 60, until_ms }
}

/// A machine of the store 1 in its process 11, with one relay.
fn start(start: Start, kept: LeaseState) -> (Machine, Vec<Action>) {
    let key = Keys::parse(&"77".repeat(32)).unwrap().public_key();
    Machine::start(Config::default(), Need::overlapping(1), key, kept, id(11), start, T)
}

/// A lease on a relay, until so many milliseconds after the beginning.
fn lease(instance: u8, boot: u8, epoch: u64, at_ms: u64, until_ms: u64, state: Says) -> Published {
    let (instance, boot) = (id(instance), id(boot));
    let lease = Lease { v: 1, instance, boot, epoch, expires_at: until_ms / 1000, state, node: None };
    Published { id: EventId::from_byte_array([9; 32]), at: at_ms / 1000, lease }
}

fn asked(actions: &[Action]) -> Round {
    let round = |action: &Action| match action {
        Action::Ask { round, .. } => Some(*round),
        _ => None,
    };
    actions.iter().find_map(round).unwrap_or_else(|| panic!("nothing is asked: {actions:?}"))
}

fn published(actions: &[Action]) -> (Round, Published) {
    let event = |action: &Action| match action {
        Action::Publish { round, lease, at, .. } => {
            Some((*round, Published { id: EventId::from_byte_array([5; 32]), at: *at, lease: lease.clone() }))
        }
        _ => None,
    };
    actions.iter().find_map(event).unwrap_or_else(|| panic!("nothing is published: {actions:?}"))
}

fn stands(actions: &[Action]) -> Standing {
    let standing = |action: &Action| match action {
        Action::Stand(standing) => Some(standing.clone()),
        _ => None,
    };
    actions.iter().rev().find_map(standing).unwrap_or_else(|| panic!("nobody is told: {actions:?}"))
}

fn why(actions: &[Action]) -> String {
    stands(actions).why().unwrap_or_else(|| panic!("it is held: {actions:?}")).to_owned()
}

fn answers(round: Round, leases: &[Published]) -> Event {
    Event::Answers { round, answered: 1, leases: leases.to_vec() }
}

fn taken(round: Round, event: &Published) -> Event {
    Event::Taken { round, id: Some(event.id), acks: 1, said: Vec::new() }
}

/// Claims with an empty relay, up to the rest.
fn claimed() -> (Machine, Published) {
    let (mut machine, actions) = start(Start::Again, kept(None));
    let actions = machine.apply(T + 10, answers(asked(&actions), &[]));
    let (round, claim) = published(&actions);
    let actions = machine.apply(T + 20, taken(round, &claim));
    assert!(why(&actions).contains("whether another node claims"));
    (machine, claim)
}

/// Holds since `T + 20 + SETTLE`; its first renewal is being asked about.
fn held() -> (Machine, Published, Round) {
    let (mut machine, claim) = claimed();
    let actions = machine.apply(T + 20 + SETTLE, Event::Tick);
    let actions = machine.apply(T + 20 + SETTLE, answers(asked(&actions), std::slice::from_ref(&claim)));
    assert_eq!(stands(&actions).epoch(T + 6000), Some(1));
    (machine, claim, asked(&actions))
}

/// Holds, with its first renewal on the relay.
fn renewed() -> (Machine, Published) {
    let (mut machine, claim, round) = held();
    let actions = machine.apply(T + 6000, answers(round, &[claim]));
    let (round, renewal) = published(&actions);
    machine.apply(T + 6000, taken(round, &renewal));
    (machine, renewal)
}

#[test]
fn needs_overlap_for_any_number_of_relays() {
    for relays in 1..20 {
        let Need { asks, acks } = Need::overlapping(relays);
        assert!(asks + acks > relays && asks <= relays && acks <= relays && acks > 0, "{relays}");
    }
    assert_eq!(Need::overlapping(2), Need { asks: 2, acks: 1 });
}

#[test]
fn a_fresh_key_is_held_before_anybody_answers() {
    let (machine, actions) = start(Start::Fresh, kept(None));
    let until_ms = T + TERM;
    let saved = kept(Some(Tenure { epoch: 1, boot: id(11), at: 0, until_ms }));
    // Kept first, then used.
    assert_eq!(actions[..2], [Action::Save(saved), Action::Stand(Standing::Held { epoch: 1, until_ms })]);
    assert_eq!(machine.wake_ms(), Some(until_ms));
}

#[test]
fn a_restart_within_the_lease_goes_on_under_the_next_epoch() {
    let (_, actions) = start(Start::Again, kept(Some(tenure(6, T + 20_000))));
    assert_eq!(stands(&actions), Standing::Held { epoch: 7, until_ms: T + 20_000 });
    asked(&actions);
    // A clock that was set back does not make the lease longer than a term.
    let (_, actions) = start(Start::Again, kept(Some(tenure(6, T + 10 * TERM))));
    assert_eq!(stands(&actions), Standing::Held { epoch: 7, until_ms: T + TERM });
}

#[test]
fn a_restart_after_the_lease_asks_first() {
    let (_, actions) = start(Start::Again, kept(Some(tenure(6, T))));
    assert!(why(&actions).contains("asking the relays who holds the lease of npub1"));
    assert_eq!(actions.len(), 2);
}

#[test]
fn a_store_without_a_past_claims_rests_and_looks_again() {
    let (machine, claim) = claimed();
    assert_eq!(claim.lease.state, Says::Claimed);
    assert_eq!(machine.wake_ms(), Some(T + 20 + SETTLE));
    let (mut machine, claim, round) = held();
    let actions = machine.apply(T + 6000, answers(round, &[claim]));
    let (_, renewal) = published(&actions);
    assert_eq!((renewal.lease.state, renewal.lease.epoch), (Says::Held, 1));
}

#[test]
fn another_lease_is_waited_out_with_the_skew() {
    let (mut machine, actions) = start(Start::Again, kept(None));
    let other = lease(2, 20, 4, T - 20_000, T + 70_000, Says::Held);
    let actions = machine.apply(T + 10, answers(asked(&actions), std::slice::from_ref(&other)));
    let why = why(&actions);
    assert!(why.starts_with("another node (instance 02020202, epoch 4) holds the lease of npub1"), "{why}");
    assert!(why.ends_with("until 2026-09-21T14:15:00Z"), "{why}");
    // It asks again now and then, and finds the lease unchanged.
    let actions = machine.apply(T + 31_000, Event::Tick);
    let actions = machine.apply(T + 31_000, answers(asked(&actions), std::slice::from_ref(&other)));
    assert!(stands(&actions).why().is_some());
    let over_ms = T + 70_000 + SKEW;
    let actions = machine.apply(over_ms, Event::Tick);
    let actions = machine.apply(over_ms, answers(asked(&actions), &[other]));
    let (_, claim) = published(&actions);
    assert_eq!((claim.lease.epoch, claim.lease.state), (5, Says::Claimed));
}

#[test]
fn a_release_is_heard_and_need_not_be_waited_for() {
    let (mut machine, actions) = start(Start::Again, kept(None));
    let other = lease(2, 20, 4, T - 20_000, T + 70_000, Says::Held);
    machine.apply(T + 10, answers(asked(&actions), std::slice::from_ref(&other)));
    let released = lease(2, 20, 4, T + 1000, T + 1000, Says::Released);
    let actions = machine.apply(T + 1000, Event::Heard(released.clone()));
    // One relay has missed the release.
    let actions = machine.apply(T + 1010, answers(asked(&actions), &[other, released.clone()]));
    let (_, claim) = published(&actions);
    assert!(claim.lease.epoch == 5 && claim.at > released.at);
}

#[test]
fn too_few_answers_are_not_enough() {
    let (mut machine, actions) = start(Start::Again, kept(None));
    let round = asked(&actions);
    let none = Event::Answers { round, answered: 0, leases: Vec::new() };
    let actions = machine.apply(T + 10, none);
    assert!(why(&actions).starts_with("0 relays answered"));
    assert_eq!(machine.wake_ms(), Some(T + 10 + 50));
    let actions = machine.apply(T + 20, Event::RelayUp);
    assert!(asked(&actions) > round);
    // Late answers to an earlier question are not those to this one.
    assert_eq!(machine.apply(T + 21, answers(round, &[])), []);
}

#[test]
fn a_claim_that_took_too_long_is_given_up() {
    let (mut machine, actions) = start(Start::Again, kept(None));
    let actions = machine.apply(T + 10, answers(asked(&actions), &[]));
    let (round, claim) = published(&actions);
    let actions = machine.apply(T + WITHIN + 1, taken(round, &claim));
    assert!(why(&actions).contains("too few relays took the claim"));
    // It may have hidden somebody's, so it is waited out like somebody's.
    let actions = machine.apply(T + WITHIN + 1000, Event::Tick);
    let actions = machine.apply(T + WITHIN + 1000, answers(asked(&actions), &[claim]));
    assert!(why(&actions).contains("own claim"));
    assert_eq!(machine.wake_ms(), Some(T + WITHIN + 1000 + 30_000));
}

#[test]
fn of_two_claims_the_newer_wins() {
    for (at, wins) in [(-1, true), (0, false), (1, false)] {
        let (mut machine, claim) = claimed();
        let actions = machine.apply(T + 20 + SETTLE, Event::Tick);
        let at_ms = (T as i64 + at * 1000) as u64;
        // Its id is lower than ours.
        let mut rival = lease(2, 20, 1, at_ms, T + TERM, Says::Claimed);
        rival.id = EventId::from_byte_array([1; 32]);
        let actions = machine.apply(T + 20 + SETTLE, answers(asked(&actions), &[rival, claim]));
        assert_eq!(stands(&actions).epoch(T + 6000).is_some(), wins, "{at}");
    }
}

#[test]
fn a_claim_that_is_gone_is_made_again() {
    let (mut machine, _) = claimed();
    let actions = machine.apply(T + 20 + SETTLE, Event::Tick);
    let actions = machine.apply(T + 20 + SETTLE, answers(asked(&actions), &[]));
    assert!(why(&actions).contains("made again"));
}

#[test]
fn a_renewal_extends_the_lease_when_relays_took_it() {
    let (mut machine, _, round) = held();
    let actions = machine.apply(T + 6000, answers(round, &[]));
    let (round, renewal) = published(&actions);
    let refused = Event::Taken { round, id: Some(renewal.id), acks: 0, said: Vec::new() };
    assert_eq!(machine.apply(T + 6000, refused), []);
    assert_eq!(machine.wake_ms(), Some(T + 11_000));
    let actions = machine.apply(T + 11_000, Event::Tick);
    let actions = machine.apply(T + 11_000, answers(asked(&actions), &[]));
    let (round, renewal) = published(&actions);
    let actions = machine.apply(T + 11_100, taken(round, &renewal));
    assert_eq!(stands(&actions), Standing::Held { epoch: 1, until_ms: T + 11_000 + TERM });
    assert_eq!(machine.wake_ms(), Some(T + 11_100 + 30_000));
}

#[test]
fn a_lease_that_cannot_be_renewed_runs_out() {
    let (mut machine, renewal) = renewed();
    let until_ms = T + 6000 + TERM;
    let actions = machine.apply(until_ms - 1, Event::Tick);
    assert!(!actions.iter().any(|action| matches!(action, Action::Stand(_))));
    let actions = machine.apply(until_ms, Event::Tick);
    assert!(why(&actions).contains("ran out"));
    // It had it last: no rest.
    let actions = machine.apply(until_ms + 10, answers(asked(&actions), &[renewal]));
    let (round, claim) = published(&actions);
    let actions = machine.apply(until_ms + 20, taken(round, &claim));
    let actions = machine.apply(until_ms + 30, answers(asked(&actions), &[claim]));
    assert_eq!(stands(&actions), Standing::Held { epoch: 2, until_ms: until_ms + 10 + SETTLE });
}

/// The last holder after a restart, holding on trust: its claim, and when it took the lease.
fn on_trust() -> (Machine, Published) {
    let (mut machine, actions) = start(Start::Again, kept(Some(tenure(6, 0))));
    let own = lease(1, 10, 6, T - 60_000, T - 1000, Says::Released);
    let actions = machine.apply(T + 10, answers(asked(&actions), &[own]));
    let (round, claim) = published(&actions);
    let actions = machine.apply(T + 20, taken(round, &claim));
    let actions = machine.apply(T + 30, answers(asked(&actions), std::slice::from_ref(&claim)));
    assert_eq!(stands(&actions), Standing::Held { epoch: 7, until_ms: T + 10 + SETTLE });
    assert_eq!(actions.len(), 2, "nothing is published on trust: {actions:?}");
    (machine, claim)
}

#[test]
fn the_last_holder_goes_on_at_once_and_proves_it_later() {
    let (mut machine, claim) = on_trust();
    assert_eq!(machine.wake_ms(), Some(T + 20 + WITHIN));
    let actions = machine.apply(T + 20 + WITHIN, Event::Tick);
    let actions = machine.apply(T + 3100, answers(asked(&actions), &[claim]));
    assert_eq!(stands(&actions), Standing::Held { epoch: 7, until_ms: T + TERM });
}

#[test]
fn without_proof_the_last_holder_gives_way_to_a_rival() {
    let (mut machine, claim) = on_trust();
    let rival = lease(2, 20, 7, T + 1000, T + TERM, Says::Claimed);
    let actions = machine.apply(T + 20 + WITHIN, Event::Tick);
    let actions = machine.apply(T + 3100, answers(asked(&actions), &[claim, rival]));
    assert!(why(&actions).contains("has claimed the lease"));
    // The rival made use of it.
    let used = lease(2, 20, 7, T + 9000, T + 9000 + TERM, Says::Held);
    let actions = machine.apply(T + 34_000, Event::Tick);
    let actions = machine.apply(T + 34_000, answers(asked(&actions), &[used]));
    assert!(matches!(stands(&actions), Standing::Lost { .. }));
}

#[test]
fn without_an_answer_trust_ends_before_a_rivals_rest() {
    let (mut machine, _) = on_trust();
    let actions = machine.apply(T + 10 + SETTLE, Event::Tick);
    assert!(why(&actions).contains("ran out"));
}

#[test]
fn a_higher_epoch_ends_the_hold_for_good() {
    let (mut machine, _) = renewed();
    let actions = machine.apply(T + 7000, Event::Heard(lease(2, 20, 2, T, T + TERM, Says::Held)));
    let Standing::Lost { why } = stands(&actions) else { panic!("{actions:?}") };
    assert!(why.contains("another node (instance 02020202, epoch 2) has taken the lease"), "{why}");
    assert!(matches!(&actions[1], Action::Save(kept) if kept.tenure.as_ref().unwrap().until_ms == 0));
    assert_eq!(machine.wake_ms(), None);
    assert_eq!(machine.apply(T + 500_000, Event::RelayUp), []);
}

#[test]
fn a_copy_that_started_later_ends_the_hold() {
    let (mut machine, _) = renewed();
    let actions = machine.apply(T + 7000, Event::Heard(lease(1, 12, 2, T + 7000, T + TERM, Says::Held)));
    assert!(why(&actions).starts_with("a copy of this store was started later"));
}

#[test]
fn a_lower_epoch_or_a_claim_is_overwritten() {
    for other in
        [lease(2, 20, 2, T + 8000, T + TERM, Says::Claimed), lease(1, 12, 0, T + 8000, T + TERM, Says::Held)]
    {
        let (mut machine, _) = renewed();
        let actions = machine.apply(T + 8000, Event::Heard(other.clone()));
        let round = asked(&actions);
        let actions = machine.apply(T + 8010, answers(round, std::slice::from_ref(&other)));
        let (_, renewal) = published(&actions);
        assert!(renewal.replaces(&other));
    }
}

#[test]
fn what_it_said_itself_does_not_disturb() {
    let (mut machine, renewal) = renewed();
    assert_eq!(machine.apply(T + 7000, Event::Heard(renewal)), []);
}

#[test]
fn a_store_that_another_used_since_is_lost_after_a_restart() {
    let (mut machine, actions) = start(Start::Again, kept(Some(tenure(6, 0))));
    let other = lease(2, 20, 7, T - 50_000, T - 40_000, Says::Released);
    let actions = machine.apply(T + 10, answers(asked(&actions), std::slice::from_ref(&other)));
    assert!(matches!(stands(&actions), Standing::Lost { .. }));
    // A claim that came to nothing was no use.
    let (mut machine, actions) = start(Start::Again, kept(Some(tenure(6, 0))));
    let claim = lease(2, 20, 7, T - 200_000, T - 110_000, Says::Claimed);
    let actions = machine.apply(T + 10, answers(asked(&actions), &[claim]));
    assert_eq!(published(&actions).1.lease.epoch, 8);
    // Its operator may say that it shall go on.
    let (mut machine, actions) = start(Start::Renounced, kept(Some(tenure(6, 0))).renounced(id(3)));
    let actions = machine.apply(T + 10, answers(asked(&actions), &[other]));
    let (_, claim) = published(&actions);
    assert_eq!((claim.lease.instance, claim.lease.epoch), (id(3), 8));
}

#[test]
fn a_store_at_another_place_is_another_node() {
    let here = kept(Some(tenure(6, T + 50_000))).at_place(id(7), id(3));
    assert_eq!((here.instance, here.tenure.as_ref().unwrap().until_ms), (id(1), T + 50_000));
    let there = here.clone().at_place(id(8), id(3));
    assert_eq!((there.instance, there.tenure.as_ref().unwrap().until_ms), (id(3), 0));
    // Its original may still run.
    let (mut machine, actions) = start(Start::Again, there);
    let original = lease(1, 10, 6, T - 60_000, T + 30_000, Says::Held);
    let actions = machine.apply(T + 10, answers(asked(&actions), &[original]));
    assert!(why(&actions).contains("another node (instance 01010101"));
    assert_eq!(here.clone().at_place(id(7), id(3)), here);
}

#[test]
fn a_release_stops_first_and_then_says_so() {
    let (mut machine, renewal) = renewed();
    let actions = machine.apply(T + 9000, Event::Release);
    assert!(matches!(&actions[0], Action::Stand(Standing::Waiting { .. })));
    assert!(matches!(&actions[1], Action::Save(kept) if kept.tenure.as_ref().unwrap().until_ms == 0));
    let (round, released) = published(&actions);
    assert_eq!((released.lease.state, released.lease.epoch), (Says::Released, renewal.lease.epoch));
    assert!(released.replaces(&renewal));
    assert_eq!(machine.apply(T + 9010, Event::Release), []);
    assert_eq!(machine.apply(T + 9020, taken(round, &released)), [Action::End]);
}

#[test]
fn who_does_not_surely_hold_has_nothing_to_release() {
    let (mut waiting, _) = start(Start::Again, kept(None));
    let (mut trusted, _) = on_trust();
    for machine in [&mut waiting, &mut trusted] {
        let actions = machine.apply(T + 1000, Event::Release);
        assert!(!actions.iter().any(|action| matches!(action, Action::Publish { .. })));
        assert_eq!(actions.last(), Some(&Action::End));
    }
}
