use std::time::Duration;

use oa_nips::kind;
use oa_nips::nostr::{EventBuilder, Keys, Kind, Tag};

use super::*;
use crate::drivers::nostr::MAIL_KINDS;
use crate::drivers::nostr::link::{End, Fetch};

fn setup(own: bool, sweeps: bool) -> Setup {
    let node = Keys::generate().public_key();
    Setup { own, wide: false, sweeps, node, mail: Filter::new().kinds(MAIL_KINDS) }
}

fn wrap(to: PublicKey) -> Box<Event> {
    let event = EventBuilder::new(kind::WRAP, "x").tag(Tag::public_key(to));
    Box::new(event.sign_with_keys(&Keys::generate()).unwrap())
}

fn delivered(out: &[Action]) -> usize {
    out.iter().filter(|action| matches!(action, Action::Deliver(..))).count()
}

fn started(sweeps: bool) -> (Session, PublicKey, Vec<Action>) {
    let (mut wanted, mut out) = (Wanted::default(), Vec::new());
    let agent = Keys::generate().public_key();
    wanted.listen([agent]);
    wanted.stand("requests", Filter::new().kind(kind::FILES_REQUEST));
    let session = Session::start(setup(true, sweeps), &wanted, Instant::now(), &mut out);
    (session, agent, out)
}

#[test]
fn a_new_connection_asks_for_all_that_is_wanted() {
    let (session, _, out) = started(true);
    assert_eq!(out.len(), 2);
    assert!(!session.is_settled());
    assert!(session.is_awaited());
}

#[test]
fn a_foreign_relay_is_asked_for_nothing() {
    let (mut wanted, mut out) = (Wanted::default(), Vec::new());
    wanted.listen([Keys::generate().public_key()]);
    let session = Session::start(setup(false, false), &wanted, Instant::now(), &mut out);
    assert!(out.is_empty());
    assert!(session.is_settled());
}

#[test]
fn live_mail_waits_for_the_catch_up_and_requests_do_not() {
    let (mut session, agent, mut out) = started(true);
    out.clear();
    let now = Instant::now();
    session.frame(Frame::Event { sub: "l0".into(), event: wrap(agent) }, now, &mut out);
    assert_eq!(delivered(&out), 0);
    session.frame(Frame::Event { sub: "s1".into(), event: wrap(agent) }, now, &mut out);
    assert_eq!(delivered(&out), 1);
    session.release(&mut out);
    assert_eq!(delivered(&out), 2);
    session.frame(Frame::Event { sub: "l0".into(), event: wrap(agent) }, now, &mut out);
    assert_eq!(delivered(&out), 3);
}

#[test]
fn a_slow_catch_up_holds_live_mail_up_for_five_seconds_at_most() {
    let (mut session, agent, mut out) = started(true);
    let now = Instant::now();
    session.frame(Frame::Event { sub: "l0".into(), event: wrap(agent) }, now, &mut out);
    session.tick(now + Duration::from_secs(6), &mut out);
    assert_eq!(delivered(&out), 1);
}

#[test]
fn without_sweeps_nothing_is_held() {
    let (mut session, agent, mut out) = started(false);
    session.frame(Frame::Event { sub: "l0".into(), event: wrap(agent) }, Instant::now(), &mut out);
    assert_eq!(delivered(&out), 1);
}

#[test]
fn events_and_answers_that_nobody_asked_for_are_ignored() {
    let (mut session, agent, mut out) = started(false);
    out.clear();
    let now = Instant::now();
    let event = wrap(agent);
    let id = event.id;
    session.frame(Frame::Event { sub: "zz".into(), event }, now, &mut out);
    session.frame(Frame::Ok { id, accepted: true, reason: String::new() }, now, &mut out);
    session.frame(Frame::Eose { sub: "zz".into() }, now, &mut out);
    session.frame(Frame::Closed { sub: "zz".into(), reason: "auth-required: x".into() }, now, &mut out);
    session.frame(Frame::NegMsg { sub: "zz".into(), message: "61".into() }, now, &mut out);
    session.frame(Frame::NegErr { sub: "zz".into(), reason: String::new() }, now, &mut out);
    session.frame(Frame::Other, now, &mut out);
    assert!(out.is_empty(), "{out:?}");
}

#[test]
fn a_publish_that_needs_authentication_makes_the_nodes_key_authenticate() {
    let (mut session, _, mut out) = started(false);
    let (now, (reply, _answer)) = (Instant::now(), oneshot::channel());
    let event = EventBuilder::new(Kind::TextNote, "x").sign_with_keys(&Keys::generate()).unwrap();
    let frame = wire::event(&event);
    session.frame(Frame::Auth { challenge: "c".into() }, now, &mut out);
    session.publish(Publish { id: event.id, frame, deadline: now + Duration::from_secs(9), reply }, &mut out);
    out.clear();
    let reason = "auth-required: x".to_owned();
    session.frame(Frame::Ok { id: event.id, accepted: false, reason }, now, &mut out);
    let [Action::Sign { key, challenge }] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!((*key, challenge.as_str()), (session.setup.node, "c"));
    let node = *key;
    out.clear();
    session.signed(node, Err("away".into()), now, &mut out);
    assert!(matches!(out.as_slice(), [Action::Ack(_, Ack::Refused(_))]), "{out:?}");
}

#[test]
fn the_end_of_a_connection_is_told_to_all_who_wait() {
    let (mut session, _, mut out) = started(true);
    let (now, (reply, _answer)) = (Instant::now(), oneshot::channel());
    let (fetched, _answer) = oneshot::channel();
    let event = EventBuilder::new(Kind::TextNote, "x").sign_with_keys(&Keys::generate()).unwrap();
    let (frame, deadline) = (wire::event(&event), now + Duration::from_secs(9));
    session.publish(Publish { id: event.id, frame, deadline, reply }, &mut out);
    let fetch = Fetch { filter: Filter::new(), deadline, reply: fetched };
    session.query(Query::Fetch(fetch), &mut out);
    out.clear();
    session.stop("gone", &mut out);
    let [Action::Ack(_, ack), Action::Fetched(_, fetched)] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!(*ack, Ack::Unreached("gone".into()));
    assert_eq!(fetched.end, End::Down("gone".into()));
}
