//! Which subscription hears which event: a pure machine of all agents' filters.
//!
//! Relays tell an event but not for whom, so filters are matched here. They are found by the kinds they name, which
//! each must.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use oa_nips::filter;
use oa_nips::nostr::{Event, Filter, Kind, PublicKey};
use serde_json::{Map, Value, json};

use crate::agent::AgentId;
use crate::agent::mailbox::Bucket;
use crate::agent::manifest::Replies;

/// Subscriptions of one agent.
pub(crate) const AGENT_MAX: usize = 20;
/// Subscriptions of a node that are listened to: each is one more that every relay of the node has to serve.
pub(super) const NODE_MAX: usize = 1000;
/// Times a minute that one subscription may wake its agent, and at once after a pause.
const PER_MINUTE: u32 = 60;

/// A subscription's name: whose, and its id there.
pub(super) type Name = (AgentId, String);

/// What a file asks for: as it says, and as relays are asked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wish {
    pub(super) source: Filter,
    pub(super) asked: Filter,
}

#[derive(Debug)]
struct Sub {
    /// Whose events are not heard: the agent's own.
    agent_key: PublicKey,
    wish: Wish,
    listened: bool,
    bucket: Option<Bucket>,
    woken: u64,
    held_back: u64,
}

/// What is to be done at the relay pool.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    Stand(String, Filter),
    Unstand(String),
}

/// All subscriptions.
#[derive(Debug)]
pub(super) struct Index {
    subs: BTreeMap<Name, Sub>,
    by_kind: HashMap<Kind, BTreeSet<Name>>,
    /// Those beyond [`Index::max`], in the order they will be listened to as others end.
    unlistened: BTreeSet<Name>,
    max: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self::new(NODE_MAX)
    }
}

impl Index {
    fn new(max: usize) -> Self {
        Self { subs: BTreeMap::new(), by_kind: HashMap::new(), unlistened: BTreeSet::new(), max }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.subs.is_empty()
    }

    /// How many are listened to.
    pub(super) fn listened(&self) -> usize {
        self.subs.len() - self.unlistened.len()
    }

    /// Sets all subscriptions of an agent. One that says what it said before goes on as it is.
    pub(super) fn set(
        &mut self,
        agent: AgentId,
        agent_key: PublicKey,
        mut wishes: BTreeMap<String, Wish>,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        let known: Vec<Name> = self.of(agent).map(|(name, _)| name.clone()).collect();
        for name in known {
            let same = self
                .subs
                .get(&name)
                .zip(wishes.get(&name.1))
                .is_some_and(|(sub, wish)| sub.wish.source == wish.source);
            if same {
                wishes.remove(&name.1);
            } else {
                self.remove(&name, &mut actions);
            }
        }
        for (id, wish) in wishes {
            self.add((agent, id), agent_key, wish, &mut actions);
        }
        while self.listened() < self.max
            && let Some(name) = self.unlistened.pop_first()
        {
            self.listen(&name, &mut actions);
        }
        // What is asked for again under its old name is a change there, not an end.
        let stands: BTreeSet<String> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Stand(name, _) => Some(name.clone()),
                Action::Unstand(_) => None,
            })
            .collect();
        actions.retain(|action| !matches!(action, Action::Unstand(name) if stands.contains(name)));
        actions
    }

    fn of(&self, agent: AgentId) -> impl Iterator<Item = (&Name, &Sub)> {
        self.subs.range((agent, String::new())..).take_while(move |((owner, _), _)| *owner == agent)
    }

    fn add(&mut self, name: Name, agent_key: PublicKey, wish: Wish, actions: &mut Vec<Action>) {
        for kind in wish.asked.kinds.iter().flatten() {
            self.by_kind.entry(*kind).or_default().insert(name.clone());
        }
        let is_full = self.listened() >= self.max;
        let sub = Sub { agent_key, wish, listened: false, bucket: None, woken: 0, held_back: 0 };
        self.subs.insert(name.clone(), sub);
        if is_full {
            self.unlistened.insert(name);
        } else {
            self.listen(&name, actions);
        }
    }

    fn listen(&mut self, name: &Name, actions: &mut Vec<Action>) {
        if let Some(sub) = self.subs.get_mut(name) {
            sub.listened = true;
            actions.push(Action::Stand(stand_name(name), sub.wish.asked.clone()));
        }
    }

    fn remove(&mut self, name: &Name, actions: &mut Vec<Action>) {
        let Some(sub) = self.subs.remove(name) else { return };
        self.unlistened.remove(name);
        for kind in sub.wish.asked.kinds.iter().flatten() {
            if let Some(names) = self.by_kind.get_mut(kind) {
                names.remove(name);
                if names.is_empty() {
                    self.by_kind.remove(kind);
                }
            }
        }
        if sub.listened {
            actions.push(Action::Unstand(stand_name(name)));
        }
    }

    /// Whom an event wakes, by which subscriptions. Nobody hears what they said themselves.
    pub(super) fn matches(&self, event: &Event) -> BTreeMap<AgentId, Vec<String>> {
        let mut woken: BTreeMap<AgentId, Vec<String>> = BTreeMap::new();
        for name in self.by_kind.get(&event.kind).into_iter().flatten() {
            let Some(sub) = self.subs.get(name) else { continue };
            if sub.listened && sub.agent_key != event.pubkey && filter::admits(&sub.wish.asked, event) {
                woken.entry(name.0).or_default().push(name.1.clone());
            }
        }
        woken
    }

    /// Draws on the first of an agent's subscriptions that may wake it now; whether there is one. An event that may not
    /// is counted with each.
    pub(super) fn draw(&mut self, agent: AgentId, ids: &[String], now_ms: u64) -> bool {
        let limits = Replies { burst: PER_MINUTE, per_minute: PER_MINUTE, ..Replies::default() };
        for id in ids {
            let Some(sub) = self.subs.get_mut(&(agent, id.clone())) else { continue };
            if let Some(bucket) = Bucket::take(sub.bucket, &limits, false, now_ms) {
                sub.bucket = Some(bucket);
                return true;
            }
        }
        self.hold_back(agent, ids);
        false
    }

    /// Counts an event that woke the agent.
    pub(super) fn wake(&mut self, agent: AgentId, ids: &[String]) {
        for id in ids {
            if let Some(sub) = self.subs.get_mut(&(agent, id.clone())) {
                sub.woken += 1;
            }
        }
    }

    /// Counts an event that did not wake the agent.
    pub(super) fn hold_back(&mut self, agent: AgentId, ids: &[String]) {
        for id in ids {
            if let Some(sub) = self.subs.get_mut(&(agent, id.clone())) {
                sub.held_back += 1;
            }
        }
    }

    /// How an agent's subscriptions do, since the node started: by id.
    pub(super) fn status(&self, agent: AgentId) -> Value {
        let line = |((_, id), sub): (&Name, &Sub)| {
            let state = if sub.listened { "listened" } else { "unlistened" };
            (id.clone(), json!({ "state": state, "woken": sub.woken, "held_back": sub.held_back }))
        };
        Value::Object(self.of(agent).map(line).collect::<Map<_, _>>())
    }
}

/// The subscription's name at the pool.
fn stand_name((agent, id): &Name) -> String {
    format!("sub:{agent}:{id}")
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::{EventBuilder, Keys, Tag};

    use super::*;

    const ALICE: AgentId = AgentId(1);
    const BOB: AgentId = AgentId(2);

    fn wish(filter: Filter) -> Wish {
        Wish { source: filter.clone(), asked: filter }
    }

    fn wishes(of: &[(&str, Filter)]) -> BTreeMap<String, Wish> {
        of.iter().map(|(id, filter)| ((*id).to_owned(), wish(filter.clone()))).collect()
    }

    fn notes() -> Filter {
        Filter::new().kind(Kind::TextNote)
    }

    fn key() -> PublicKey {
        Keys::generate().public_key()
    }

    fn names(actions: &[Action]) -> Vec<String> {
        let name = |action: &Action| match action {
            Action::Stand(name, _) => format!("+{name}"),
            Action::Unstand(name) => format!("-{name}"),
        };
        actions.iter().map(name).collect()
    }

    #[test]
    fn only_what_changed_is_asked_for() {
        let (mut index, me) = (Index::default(), key());
        let begun = index.set(ALICE, me, wishes(&[("a", notes()), ("b", notes().hashtag("oa"))]));
        assert_eq!(names(&begun), ["+sub:1:a", "+sub:1:b"]);
        assert_eq!(index.set(ALICE, me, wishes(&[("a", notes()), ("b", notes().hashtag("oa"))])), []);
        let changed = index.set(ALICE, me, wishes(&[("a", notes()), ("b", notes())]));
        assert_eq!(names(&changed), ["+sub:1:b"]);
        assert_eq!(names(&index.set(ALICE, me, wishes(&[("b", notes())]))), ["-sub:1:a"]);
        assert_eq!(names(&index.set(ALICE, me, BTreeMap::new())), ["-sub:1:b"]);
        assert!(index.is_empty() && index.by_kind.is_empty());
    }

    #[test]
    fn each_agent_hears_what_it_asked_for_and_not_itself() {
        let (mut index, alice, bob) = (Index::default(), Keys::generate(), Keys::generate());
        index.set(ALICE, alice.public_key(), wishes(&[("all", notes()), ("oa", notes().hashtag("oa"))]));
        index.set(BOB, bob.public_key(), wishes(&[("oa", notes().hashtag("oa"))]));
        let note = |keys: &Keys, tag: Option<&str>| {
            let note = EventBuilder::text_note("x").tags(tag.map(Tag::hashtag));
            index.matches(&note.sign_with_keys(keys).unwrap())
        };
        let stranger = Keys::generate();
        assert_eq!(note(&stranger, None), BTreeMap::from([(ALICE, vec!["all".to_owned()])]));
        let both = note(&stranger, Some("oa"));
        assert_eq!((both[&ALICE].len(), both[&BOB].len()), (2, 1));
        assert_eq!(note(&alice, Some("oa")).into_keys().collect::<Vec<_>>(), [BOB]);
        let other = EventBuilder::new(Kind::Reaction, "+").sign_with_keys(&stranger).unwrap();
        assert!(index.matches(&other).is_empty());
    }

    #[test]
    fn beyond_the_bound_nobody_listens_until_there_is_room() {
        let mut index = Index::new(2);
        index.set(ALICE, key(), wishes(&[("a", notes()), ("b", notes())]));
        assert_eq!(index.set(BOB, key(), wishes(&[("c", notes())])), []);
        let event = EventBuilder::text_note("x").sign_with_keys(&Keys::generate()).unwrap();
        assert!(!index.matches(&event).contains_key(&BOB));
        assert_eq!(index.status(BOB)["c"]["state"], "unlistened");
        let actions = index.set(ALICE, key(), wishes(&[("a", notes())]));
        assert_eq!(names(&actions), ["-sub:1:b", "+sub:2:c"]);
        assert!(index.matches(&event).contains_key(&BOB));
        assert_eq!((index.status(BOB)["c"]["state"].as_str(), index.listened()), (Some("listened"), 2));
    }

    #[test]
    fn a_flood_wakes_nobody_more_than_sixty_times_a_minute_and_is_counted() {
        let mut index = Index::default();
        index.set(ALICE, key(), wishes(&[("a", notes()), ("b", notes())]));
        let a = ["a".to_owned()];
        let woken = (0..100).filter(|_| index.draw(ALICE, &a, 1_000)).count();
        assert_eq!(woken, PER_MINUTE as usize);
        assert_eq!(index.status(ALICE)["a"], json!({ "state": "listened", "woken": 0, "held_back": 40 }));
        index.wake(ALICE, &a);
        assert_eq!(index.status(ALICE)["a"]["woken"], 1);
        assert!(index.draw(ALICE, &["a".to_owned(), "b".to_owned()], 1_000), "another one hears it too");
        assert!(index.draw(ALICE, &a, 2_000), "one a second comes back");
        assert!(!index.draw(ALICE, &a, 2_000));
    }
}
