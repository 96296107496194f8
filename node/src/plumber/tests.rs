//! What rules match, and that every envelope ends in exactly one place.

use std::cell::Cell;
use std::collections::BTreeMap;

use oa_nips::mail::{Body, Mail, Protocol};
use oa_nips::nostr::{EventBuilder, EventId, Keys, PublicKey, Tag};
use proptest::prelude::*;

use super::rule::parse;
use super::*;

fn rules(text: &str) -> Vec<Rule> {
    parse(text, |_| true).unwrap()
}

fn rule(keys: &str) -> Vec<Rule> {
    rules(&format!("[[rule]]\nname = \"r\"\nto = \"nowhere\"\n{keys}"))
}

fn resident(name: &str, trust: Trust, rules: Vec<Rule>) -> Resident<String> {
    Resident { who: name.to_owned(), name: name.to_owned(), trust: Some(trust), rules }
}

fn mail(author: PublicKey, text: &str) -> Mail {
    Mail {
        id: EventId::all_zeros(),
        protocol: Protocol::Nip17,
        author,
        recipients: Vec::new(),
        sent_at_ms: 0,
        auto_hop: 0,
        reply_to: None,
        body: Body::Text(text.to_owned()),
    }
}

type Routed = Route<String>;

/// Routes among agents of these rules; answers how often another agent was looked up, too.
fn among(node: &[Rule], item: &Item<'_>, agents: &BTreeMap<&str, Vec<Rule>>, first: &str) -> (Routed, u32) {
    let found = Cell::new(0);
    let find = |name: &str| {
        let rules = agents.get(name).cloned();
        found.set(found.get() + u32::from(rules.is_some()));
        Ok::<_, ()>(rules.map(|rules| resident(name, Trust::Stranger, rules)))
    };
    let first = resident(first, Trust::Stranger, agents.get(first).cloned().unwrap_or_default());
    (route(node, item, &first, find).unwrap(), found.get())
}

#[test]
fn without_rules_everything_arrives_by_the_rule_of_its_source() {
    let me = Keys::generate();
    let event = EventBuilder::text_note("hi").sign_with_keys(&Keys::generate()).unwrap();
    let mention = EventBuilder::text_note("hi")
        .tag(Tag::public_key(me.public_key()))
        .sign_with_keys(&Keys::generate())
        .unwrap();
    let dm = mail(me.public_key(), "hi");
    for (item, rule) in [
        (Item::of_mail(&dm, false), "default-dm"),
        (Item::of_alarm("tea"), "default-alarm"),
        (Item::of_event(&event, &me.public_key(), false), "default-event"),
        (Item::of_event(&mention, &me.public_key(), false), "default-mention"),
    ] {
        let (route, _) = among(&[], &item, &BTreeMap::new(), "alice");
        assert_eq!(route, Route { rule: rule.to_owned(), place: Place::Inbox });
    }
}

#[test]
fn each_key_narrows_and_of_its_values_one_is_enough() {
    let bob = Keys::generate().public_key();
    let mut dm = mail(bob, "invoice 7");
    dm.recipients = vec![bob];
    let item = Item::of_mail(&dm, true);
    let matches = |keys: &str| rule(keys)[0].matches(&item, "alice", Some(Trust::Allowed));
    let npub = crate::agent::manifest::Npub(bob);
    for (keys, expected) in [
        ("", true),
        ("from = [\"alarm\", \"dm\"]", true),
        ("from = [\"alarm\"]", false),
        ("kind = [4, 14]", true),
        ("kind = [4]", false),
        ("for = [\"alice\", \"bob\"]", true),
        ("for = [\"bob\"]", false),
        ("sender = [\"owner\", \"stranger\"]", false),
        ("sender = [\"owner\", \"allowed\"]", true),
        ("sender = [\"agent\"]", true),
        (&format!("sender = [\"{npub}\"]"), true),
        (&format!("tags = {{ p = [\"x\", \"{}\"] }}", bob.to_hex()), true),
        ("tags = { p = [\"x\"] }", false),
        (&format!("tags = {{ p = [\"{}\"], t = [\"oa\"] }}", bob.to_hex()), false),
        ("text = \"invoice*\"", true),
        ("text = \"invoice ?\"", true),
        ("text = \"invoice\"", false),
        ("text = \"*oice*7\"", true),
        ("text = \"*8\"", false),
        ("from = [\"dm\"]\ntext = \"x*\"", false),
    ] {
        assert_eq!(matches(keys), expected, "{keys}");
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let node = rules(
        r#"
        [[rule]]
        name = "spam"
        text = "*viagra*"
        to = "nowhere"
        [[rule]]
        name = "gone"
        to = "agent nobody"
        [[rule]]
        name = "bills"
        text = "*invoice*"
        to = "agent bob"
        "#,
    );
    let drops = rule("text = \"*old*\"");
    let agents = BTreeMap::from([("alice", rule("text = \"*noise*\"")), ("bob", drops)]);
    let someone = Keys::generate().public_key();
    for (text, rule, place) in [
        ("viagra invoice", "spam", Place::Nowhere),
        ("an invoice", "bills", Place::Agent("bob".to_owned())),
        ("an old invoice", "r", Place::Nowhere),
        ("noise", "r", Place::Nowhere),
        ("noisy invoice noise", "bills", Place::Agent("bob".to_owned())),
        ("hello", "default-dm", Place::Inbox),
    ] {
        let dm = mail(someone, text);
        let (route, _) = among(&node, &Item::of_mail(&dm, false), &agents, "alice");
        assert_eq!(route, Route { rule: rule.to_owned(), place }, "{text}");
    }
    // An agent's alarms are its own.
    let (route, _) = among(&node, &Item::of_alarm("an invoice"), &agents, "alice");
    assert_eq!(route.place, Place::Inbox);
}

#[test]
fn what_is_no_table_is_refused_with_its_line_and_key() {
    let refused = |text: &str| parse(text, |name| name == "alice").unwrap_err().to_string();
    for (text, words) in [
        (
            "[[rule]]\nname = \"a\"\nto = \"inbox\"\n\n[[rule]]\nname = \"b\"\nto = \"agent bob\"",
            &["line 5", "to:", "bob"][..],
        ),
        ("[[rule]]\nname = \"a\"\nto = \"inbox\"\nfor = [\"bob\"]", &["line 1", "for:"]),
        ("[[rule]]\nname = \"a\"\nto = \"elsewhere\"", &["line 3", "elsewhere"]),
        ("[[rule]]\nname = \"a\"\nfrom = [\"dms\"]\nto = \"inbox\"", &["line 3", "dms"]),
        ("[[rule]]\nname = \"a\"\nsender = [\"bob\"]\nto = \"inbox\"", &["line 3", "sender"]),
        ("[[rule]]\nname = \"a\"\nto = \"inbox\"\ntext = 5", &["line 4"]),
        ("[[rule]]\nname = \"a\"\nto = \"inbox\"\ntxt = \"x\"", &["line 4", "txt"]),
        ("[[rule]]\nname = \"default-dm\"\nto = \"inbox\"", &["line 1", "name:"]),
        ("[[rule]]\nname = \"a\"\nto = \"inbox\"\ntags = { topic = [\"x\"] }", &["line 1", "tags:"]),
        (
            "[[rule]]\nname = \"a\"\nto = \"inbox\"\n[[rule]]\nname = \"a\"\nto = \"inbox\"",
            &["line 4", "taken"],
        ),
        ("rules = []", &["line 1", "rules"]),
    ] {
        let said = refused(text);
        assert!(words.iter().all(|word| said.contains(word)), "{text}: {said}");
    }
    assert!(parse("[[rule]]\nname = \"a\"\nto = \"agent alice\"", |name| name == "alice").is_ok());
}

#[test]
fn a_manifest_routes_nothing_to_others() {
    let checked = |keys: &str| {
        let text = format!("name = \"alice\"\n[[plumb]]\nname = \"r\"\n{keys}");
        crate::agent::manifest::Manifest::parse(&text).map_err(|error| error.to_string())
    };
    let manifest =
        checked("sender = [\"stranger\"]\ntext = \"*\"\nto = \"nowhere\"\ntags = { t = [\"a\"] }").unwrap();
    assert_eq!(crate::agent::manifest::Manifest::parse(&manifest.to_toml()).unwrap(), manifest);
    assert!(checked("to = \"agent bob\"").unwrap_err().contains("to:"));
    assert!(checked("to = \"inbox\"\nfor = [\"bob\"]").unwrap_err().contains("for:"));
}

/// Whether a text is as a pattern says, slowly and plainly.
fn plain(pattern: &[char], text: &[char]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some(('*', rest)), _) => {
            plain(rest, text) || text.split_first().is_some_and(|(_, after)| plain(pattern, after))
        }
        (Some((want, rest)), Some((is, after))) if *want == '?' || want == is => plain(rest, after),
        _ => false,
    }
}

const NAMES: [&str; 4] = ["alice", "bob", "carol", "nobody"];

fn some_rule(own: bool) -> impl Strategy<Value = Rule> {
    let name = prop::sample::select(&NAMES[..]).prop_map(str::to_owned);
    let to = if own {
        prop_oneof![Just(To::Inbox), Just(To::Nowhere)].boxed()
    } else {
        prop_oneof![Just(To::Inbox), Just(To::Nowhere), name.clone().prop_map(To::Agent)].boxed()
    };
    let senders = prop::sample::select(vec![Sender::Owner, Sender::Stranger, Sender::Agent]);
    (
        prop::collection::vec(name, 0..2),
        prop::collection::vec(prop::sample::select(Source::ALL.to_vec()), 0..3),
        prop::collection::vec(senders, 0..2),
        proptest::option::of("[ab*?]{0,3}"),
        to,
        0u32..1000,
    )
        .prop_map(|(whose, from, sender, text, to, n)| Rule {
            name: format!("r{n}"),
            whose,
            from,
            kind: Vec::new(),
            tags: BTreeMap::new(),
            sender,
            text,
            to,
        })
}

proptest! {
    #[test]
    fn patterns_match_as_they_plainly_should(pattern in "[ab*?]{0,8}", text in "[abc]{0,10}") {
        let chars = |text: &str| text.chars().collect::<Vec<char>>();
        let mut rule = rule("").remove(0);
        rule.text = Some(pattern.clone());
        let author = Keys::generate().public_key();
        let dm = mail(author, &text);
        let is = rule.matches(&Item::of_mail(&dm, false), "alice", None);
        prop_assert_eq!(is, plain(&chars(&pattern), &chars(&text)));
    }

    #[test]
    fn every_envelope_ends_in_one_place_and_is_handed_on_once_at_most(
        node in prop::collection::vec(some_rule(false), 0..8),
        own in prop::collection::vec(prop::collection::vec(some_rule(true), 0..3), 3),
        text in "[ab]{0,3}",
        source in prop::sample::select(Source::ALL.to_vec()),
        is_agents in any::<bool>(),
        first in 0usize..3,
    ) {
        let agents: BTreeMap<&str, Vec<Rule>> = NAMES.into_iter().zip(own).collect();
        let item = Item { source, kind: None, tags: Vec::new(), sender: None, is_agents, text: &text };
        let (route, found) = among(&node, &item, &agents, NAMES[first]);
        prop_assert!(found <= 1, "looked further after it had found somebody");
        let by_node = node.iter().any(|rule| rule.name == route.rule);
        let by_own = |name: &str| agents[name].iter().any(|rule| rule.name == route.rule);
        match &route.place {
            Place::Agent(other) => {
                prop_assert!(by_node && other != NAMES[first] && source.is_from_outside());
                prop_assert!(agents.contains_key(other.as_str()), "to somebody who is not there");
                // Where it went nothing drops it.
                let dropped = agents[other.as_str()].iter().find(|r| r.matches(&item, other, Some(Trust::Stranger)));
                prop_assert!(dropped.is_none_or(|rule| rule.to == To::Inbox));
            }
            Place::Inbox => {
                prop_assert!(by_node || by_own(NAMES[first]) || route.rule == source.default_rule());
            }
            Place::Nowhere => prop_assert!(by_node || agents.keys().any(|name| by_own(name))),
        }
    }
}
