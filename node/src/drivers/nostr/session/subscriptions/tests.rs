use oa_nips::nostr::{Event, EventBuilder, Keys, Kind, RelayUrl};

use super::*;
use crate::drivers::nostr::MAIL_KINDS;

/// The machine with its surroundings.
struct World {
    subs: Subscriptions,
    auth: Auth,
    wanted: Wanted,
    node: Keys,
    now: Instant,
    out: Vec<Action>,
}

impl World {
    fn new(wide: bool) -> Self {
        let node = Keys::generate();
        let subs = Subscriptions::new(true, wide, node.public_key(), Filter::new().kinds(MAIL_KINDS));
        let (auth, wanted) = (Auth::default(), Wanted::default());
        Self { subs, auth, wanted, node, now: Instant::now(), out: Vec::new() }
    }

    fn sync(&mut self) {
        self.subs.sync(&self.wanted, &mut self.auth, self.now, &mut self.out);
    }

    fn eose(&mut self, id: &str) {
        self.subs.eose(id, &mut self.auth, self.now, &mut self.out);
    }

    fn closed(&mut self, id: &str, reason: &str) {
        assert!(self.subs.closed(id, reason, &mut self.auth, self.now, &mut self.out));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.subs.tick(&mut self.auth, self.now, &mut self.out);
    }

    /// The relay's answer to the authentication of a key.
    fn answer(&mut self, keys: &Keys, accepted: bool) {
        let url = RelayUrl::parse("ws://relay.example").unwrap();
        let event: Event = EventBuilder::auth("c", url).sign_with_keys(keys).unwrap();
        let id = event.id;
        self.auth.signed(keys.public_key(), Ok(event), self.now, &mut self.out);
        let settled = self.auth.ok(&id, accepted, "", self.now, &mut self.out).unwrap();
        self.subs.key_settled(settled, &mut self.auth, self.now, &mut self.out);
    }

    /// What was sent since the last call, as JSON.
    fn sent(&mut self) -> Vec<serde_json::Value> {
        let frames = self.out.drain(..).filter_map(|action| match action {
            Action::Send(text) => serde_json::from_str(&text).ok(),
            _ => None,
        });
        frames.filter(|frame: &serde_json::Value| frame[0] != "AUTH").collect()
    }

    fn keys_asked(frame: &serde_json::Value) -> usize {
        frame[2]["#p"].as_array().map_or(0, Vec::len)
    }
}

fn key() -> PublicKey {
    Keys::generate().public_key()
}

#[test]
fn agents_added_meanwhile_share_the_next_request() {
    let mut world = World::new(false);
    world.wanted.listen([key()]);
    world.sync();
    assert_eq!(world.sent().len(), 1);
    for _ in 0..10 {
        world.wanted.listen([key()]);
        world.sync();
    }
    assert_eq!(world.sent().len(), 0);
    assert!(!world.subs.is_settled());
    world.eose("l0");
    let sent = world.sent();
    assert_eq!(sent.iter().map(World::keys_asked).collect::<Vec<_>>(), [11]);
    world.eose("l0");
    assert!(world.subs.is_settled());
    assert_eq!(world.sent().len(), 0);
}

#[test]
fn one_more_agent_costs_one_request_and_a_sweep() {
    let mut world = World::new(false);
    world.wanted.listen((0..1_100).map(|_| key()));
    world.sync();
    assert_eq!(world.sent().len(), 3);
    (0..3).for_each(|n| world.eose(&format!("l{n}")));
    world.wanted.listen([key()]);
    world.sync();
    world.eose("l2");
    assert_eq!(world.out.iter().filter(|action| matches!(action, Action::Sweep)).count(), 1);
    assert_eq!(world.sent().len(), 1);
}

#[test]
fn a_shard_without_agents_is_closed() {
    let mut world = World::new(false);
    let last = key();
    world.wanted.listen([last]);
    world.sync();
    world.eose("l0");
    world.wanted.unlisten(&last);
    world.sync();
    let sent = world.sent();
    assert_eq!(sent[1], serde_json::json!(["CLOSE", "l0"]));
    assert_eq!(world.subs.scopes(), []);
}

#[test]
fn a_wide_subscription_stays_one_whatever_is_added() {
    let mut world = World::new(true);
    world.wanted.listen((0..100).map(|_| key()));
    world.sync();
    world.eose("w");
    world.wanted.listen([key()]);
    world.sync();
    let sent = world.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(World::keys_asked(&sent[0]), 0);
    assert_eq!(world.subs.scopes(), [Scope::Wide]);
}

#[test]
fn a_wide_subscription_that_is_not_granted_becomes_shards() {
    let mut world = World::new(true);
    world.wanted.listen((0..600).map(|_| key()));
    world.sync();
    world.auth.challenge("c".into(), world.now, &mut world.out);
    world.closed("w", "auth-required: who are you");
    let node = world.node.clone();
    world.answer(&node, true);
    world.closed("w", "restricted: not you");
    world.closed("w", "restricted: not you");
    assert!(world.subs.needs_sync());
    world.sync();
    assert_eq!(world.subs.subs.keys().collect::<Vec<_>>(), ["l0", "l1"]);
}

#[test]
fn a_shard_waits_for_all_its_keys_and_leaves_out_the_refused() {
    let mut world = World::new(false);
    let agents: Vec<_> = (0..3).map(|_| Keys::generate()).collect();
    world.wanted.listen(agents.iter().map(Keys::public_key));
    world.sync();
    world.auth.challenge("c".into(), world.now, &mut world.out);
    world.closed("l0", "auth-required: who are you");
    let node = world.node.clone();
    world.answer(&node, true);
    world.answer(&agents[0], true);
    world.answer(&agents[1], false);
    assert_eq!(world.sent().len(), 1, "asked before all were settled");
    world.answer(&agents[2], true);
    let sent = world.sent();
    assert_eq!(sent.iter().map(World::keys_asked).collect::<Vec<_>>(), [2]);
    world.eose("l0");
    assert_eq!(world.subs.unlistened(3), 1);
    assert!(world.subs.is_settled());
}

#[test]
fn where_authentication_is_demanded_a_new_agent_authenticates_first() {
    let mut world = World::new(false);
    let (first, second) = (Keys::generate(), Keys::generate());
    world.wanted.listen([first.public_key()]);
    world.sync();
    world.auth.challenge("c".into(), world.now, &mut world.out);
    world.closed("l0", "auth-required: x");
    let node = world.node.clone();
    world.answer(&node, true);
    world.answer(&first, true);
    world.eose("l0");
    world.sent();
    world.wanted.listen([second.public_key()]);
    world.sync();
    assert_eq!(world.sent().len(), 0, "asked for a key that was not authenticated");
    world.answer(&second, true);
    assert_eq!(World::keys_asked(&world.sent()[0]), 2);
}

#[test]
fn a_relay_that_refuses_for_good_is_asked_again_ever_more_rarely() {
    let mut world = World::new(false);
    world.wanted.listen([key(), key()]);
    world.sync();
    world.sent();
    let mut waits = Vec::new();
    for _ in 0..4 {
        world.closed("l0", "rate-limited: slow down");
        assert_eq!(world.subs.unlistened(2), 2);
        let mut waited = 0;
        while world.sent().is_empty() {
            world.pass(Duration::from_secs(1));
            waited += 1;
        }
        waits.push(waited);
    }
    assert_eq!(waits, [5, 10, 20, 40]);
    world.eose("l0");
    assert_eq!(world.subs.unlistened(2), 0);
    assert!(world.out.iter().any(|action| matches!(action, Action::Sweep)), "nothing heals the gap");
}

#[test]
fn a_relay_that_never_answers_does_not_hold_everything_up() {
    let mut world = World::new(false);
    world.wanted.listen([key()]);
    world.sync();
    world.pass(EOSE_TIMEOUT);
    assert!(world.subs.is_settled());
    assert_eq!(world.subs.unlistened(1), 1);
}

#[test]
fn a_standing_filter_is_replaced_under_its_id_and_closed() {
    let mut world = World::new(false);
    world.wanted.stand("requests", Filter::new().kind(Kind::TextNote));
    world.sync();
    world.eose("s1");
    world.wanted.stand("requests", Filter::new().kind(Kind::Metadata));
    world.sync();
    world.eose("s1");
    world.wanted.unstand("requests");
    world.sync();
    let sent = world.sent();
    let labels: Vec<_> =
        sent.iter().map(|frame| (frame[0].as_str().unwrap(), frame[1].as_str().unwrap())).collect();
    assert_eq!(labels, [("REQ", "s1"), ("REQ", "s1"), ("CLOSE", "s1")]);
    assert_eq!(world.subs.purpose("s1"), None);
}

#[test]
fn nothing_is_ever_asked_with_an_empty_list_of_recipients() {
    let mut world = World::new(false);
    let agent = Keys::generate();
    world.wanted.listen([agent.public_key()]);
    world.sync();
    world.sent();
    world.auth.challenge("c".into(), world.now, &mut world.out);
    world.closed("l0", "restricted: x");
    let node = world.node.clone();
    world.answer(&node, true);
    world.answer(&agent, false);
    assert_eq!(world.sent().len(), 0);
    assert_eq!(world.subs.unlistened(1), 1);
}
