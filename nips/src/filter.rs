//! What an agent asks relays for, or lets itself be woken by: a filter of NIP-01 that was checked.
//!
//! The node's connections may see more than an agent should: mail of others, and the node's own protocols. So some
//! kinds are never asked for, and never handed over if they come all the same.

use nostr::filter::MatchEventOptions;
use nostr::{Event, EventId, Filter, JsonUtil, Kind, PublicKey};
use serde_json::{Map, Value};

/// Most events of one answer; what relays give at most.
pub const LIMIT_MAX: u64 = 500;
/// Ids, authors, or values of one tag.
pub const VALUES_MAX: usize = 100;
/// Kinds.
pub const KINDS_MAX: usize = 20;
/// Tags that are asked for.
pub const TAGS_MAX: usize = 10;
/// Longest value of a tag, in bytes.
const VALUE_BYTES_MAX: usize = 1024;

/// Kinds between two parties: first, last, what.
const PRIVATE: [(u16, u16, &str); 11] = [
    (4, 4, "direct messages"),
    (13, 15, "seals and messages"),
    (444, 445, "messages of encrypted groups"),
    (1059, 1059, "wraps"),
    (9910, 9910, "envelopes between agents"),
    (21_059, 21_059, "wraps"),
    (22_242, 22_242, "authentication to relays"),
    (23_194, 23_197, "wallets"),
    (24_133, 24_133, "remote signers"),
    (25_930, 25_933, "the operator protocol"),
    (27_235, 27_235, "authentication to servers"),
];

/// What a kind is that is never handed to an agent by a filter.
pub fn private(kind: Kind) -> Option<&'static str> {
    let kind = kind.as_u16();
    PRIVATE.iter().find(|(from, to, _)| (*from..=*to).contains(&kind)).map(|(.., what)| *what)
}

/// Why an object is no filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("not a JSON object: {0}")]
    Syntax(#[from] serde_json::Error),
    #[error("{0:?} is none of ids, authors, kinds, #<letter>, since, until, limit")]
    Unknown(String),
    #[error("{key}: {reason}")]
    Value { key: String, reason: &'static str },
    #[error("{key}: {count} values, 1 to {max} are taken")]
    Count { key: String, count: usize, max: usize },
    #[error("over {TAGS_MAX} tags")]
    TooManyTags,
    #[error("kind {kind} is between others ({what})")]
    Private { kind: u16, what: &'static str },
    #[error("limit: 0 to {LIMIT_MAX}")]
    Limit,
    #[error("asks for everything: name ids, authors, kinds or a tag")]
    Everything,
}

/// Reads a filter. Authors and `#p` may be npubs.
///
/// # Errors
/// Names the key.
pub fn parse(json: &[u8]) -> Result<Filter, FilterError> {
    read(serde_json::from_slice(json)?)
}

/// Reads a filter from an object that is parsed already.
///
/// # Errors
/// As [`parse`].
pub fn read(object: Map<String, Value>) -> Result<Filter, FilterError> {
    let mut checked = Map::new();
    let (mut tags, mut is_narrow) = (0, false);
    for (key, value) in object {
        let (value, narrows) = match key.as_str() {
            "ids" => (list(&key, value, VALUES_MAX, id)?, true),
            "authors" => (list(&key, value, VALUES_MAX, person)?, true),
            "kinds" => (kinds(&key, value)?, true),
            "since" | "until" => (whole(&key, value, u64::MAX)?, false),
            "limit" => (whole(&key, value, LIMIT_MAX).map_err(|_| FilterError::Limit)?, false),
            _ if is_tag(&key) => {
                tags += 1;
                let read = if key == "#p" { person } else { text };
                (list(&key, value, VALUES_MAX, read)?, true)
            }
            _ => return Err(FilterError::Unknown(key.chars().take(64).collect())),
        };
        is_narrow |= narrows;
        checked.insert(key, value);
    }
    if tags > TAGS_MAX {
        return Err(FilterError::TooManyTags);
    }
    if !is_narrow {
        return Err(FilterError::Everything);
    }
    Ok(Filter::from_json(Value::Object(checked).to_string())?)
}

/// Whether an event is what was asked for, and may be handed over.
pub fn admits(filter: &Filter, event: &Event) -> bool {
    private(event.kind).is_none() && filter.match_event(event, MatchEventOptions::new())
}

/// The first values of an event's tags whose names are one letter: what filters look at.
pub fn letters(event: &Event) -> impl Iterator<Item = (char, &str)> {
    event.tags.iter().filter_map(|tag| match tag.as_slice() {
        [name, value, ..] if name.len() == 1 => {
            name.chars().next().filter(char::is_ascii_alphabetic).map(|letter| (letter, value.as_str()))
        }
        _ => None,
    })
}

fn is_tag(key: &str) -> bool {
    matches!(key.as_bytes(), [b'#', letter] if letter.is_ascii_alphabetic())
}

fn wrong(key: &str, reason: &'static str) -> FilterError {
    FilterError::Value { key: key.to_owned(), reason }
}

type ReadOne = fn(&str, Value) -> Result<Value, FilterError>;

fn list(key: &str, value: Value, max: usize, one: ReadOne) -> Result<Value, FilterError> {
    let Value::Array(values) = value else { return Err(wrong(key, "not an array")) };
    // An empty list matches nothing, or everything, as a relay sees fit.
    if values.is_empty() || values.len() > max {
        return Err(FilterError::Count { key: key.to_owned(), count: values.len(), max });
    }
    values.into_iter().map(|value| one(key, value)).collect()
}

fn text(key: &str, value: Value) -> Result<Value, FilterError> {
    match value {
        Value::String(text) if text.len() <= VALUE_BYTES_MAX => Ok(Value::String(text)),
        _ => Err(wrong(key, "not a text of at most 1,024 bytes")),
    }
}

fn id(key: &str, value: Value) -> Result<Value, FilterError> {
    let id = value.as_str().and_then(|id| EventId::from_hex(id).ok());
    id.map(|id| Value::String(id.to_hex())).ok_or_else(|| wrong(key, "not an id of 64 hex digits"))
}

fn person(key: &str, value: Value) -> Result<Value, FilterError> {
    let person = value.as_str().and_then(|key| PublicKey::parse(key).ok());
    let person = person.map(|person| Value::String(person.to_hex()));
    person.ok_or_else(|| wrong(key, "neither an npub nor a key of 64 hex digits"))
}

fn kinds(key: &str, value: Value) -> Result<Value, FilterError> {
    list(key, value, KINDS_MAX, |key, value| {
        // The library would cut what is larger to sixteen bits.
        let kind = value.as_u64().and_then(|kind| u16::try_from(kind).ok());
        let kind = kind.ok_or_else(|| wrong(key, "not a number from 0 to 65,535"))?;
        match private(Kind::from(kind)) {
            Some(what) => Err(FilterError::Private { kind, what }),
            None => Ok(Value::from(kind)),
        }
    })
}

fn whole(key: &str, value: Value, max: u64) -> Result<Value, FilterError> {
    let number = value.as_u64().filter(|number| *number <= max);
    number.map(Value::from).ok_or_else(|| wrong(key, "not a whole number of that size"))
}

#[cfg(test)]
mod tests {
    use nostr::{EventBuilder, Keys, Tag, ToBech32};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn of(json: Value) -> Result<Filter, FilterError> {
        parse(json.to_string().as_bytes())
    }

    #[test]
    fn a_filter_is_what_nip_01_says_and_people_may_be_npubs() {
        let ann = Keys::generate().public_key();
        let filter = of(json!({
            "kinds": [1, 30023], "authors": [ann.to_bech32().unwrap()], "#p": [ann.to_hex()], "#t": ["oa"],
            "since": 5, "until": 9, "limit": 500,
        }));
        let filter = filter.unwrap();
        let expected = Filter::new().kinds([Kind::TextNote, Kind::LongFormTextNote]).author(ann).pubkey(ann);
        let expected = expected.hashtag("oa").since(5.into()).until(9.into()).limit(500);
        assert_eq!(filter, expected);
    }

    #[test]
    fn what_relays_would_read_otherwise_is_refused() {
        assert!(matches!(of(json!({ "kinds": [1], "search": "x" })), Err(FilterError::Unknown(_))));
        assert!(matches!(of(json!({ "kinds": [65537] })), Err(FilterError::Value { .. })));
        assert!(matches!(of(json!({ "kinds": [] })), Err(FilterError::Count { .. })));
        assert!(matches!(of(json!({ "kinds": vec![1; KINDS_MAX + 1] })), Err(FilterError::Count { .. })));
        assert!(matches!(of(json!({ "ids": ["abc"] })), Err(FilterError::Value { .. })));
        assert!(matches!(of(json!({ "#tt": ["x"], "kinds": [1] })), Err(FilterError::Unknown(_))));
        assert!(matches!(of(json!({ "kinds": [1], "limit": 501 })), Err(FilterError::Limit)));
        assert!(matches!(of(json!({ "kinds": [1], "since": -1 })), Err(FilterError::Value { .. })));
        assert!(matches!(of(json!({ "limit": 5, "since": 1 })), Err(FilterError::Everything)));
        assert!(matches!(of(json!([])), Err(FilterError::Syntax(_))));
        let many: Map<String, Value> =
            ('a'..='k').map(|letter| (format!("#{letter}"), json!(["x"]))).collect();
        assert!(read(many).is_err());
    }

    #[test]
    fn what_is_between_others_is_not_asked_for() {
        for kind in [4, 13, 14, 15, 1059, 9910, 21059, 22242, 23194, 23197, 24133, 25930, 25931, 25932, 25933]
        {
            assert!(matches!(of(json!({ "kinds": [1, kind] })), Err(FilterError::Private { .. })), "{kind}");
        }
    }

    #[test]
    fn what_is_between_others_is_not_handed_over_either() {
        let (ann, bob) = (Keys::generate(), Keys::generate().public_key());
        let event = |kind: u16| {
            let to = Tag::public_key(bob);
            EventBuilder::new(Kind::from(kind), "x").tag(to).sign_with_keys(&ann).unwrap()
        };
        let filter = of(json!({ "#p": [bob.to_hex()] })).unwrap();
        assert!(admits(&filter, &event(1)));
        assert!(!admits(&filter, &event(1059)) && !admits(&filter, &event(4)));
        assert!(!admits(&of(json!({ "kinds": [7] })).unwrap(), &event(1)));
    }

    #[test]
    fn tags_of_one_letter_are_told() {
        let tags = [["t", "oa"], ["topic", "x"], ["é", "x"], ["5", "x"], ["T", "y"]];
        let tags = tags.map(|tag| Tag::parse(tag).unwrap());
        let event = EventBuilder::text_note("").tags(tags).sign_with_keys(&Keys::generate()).unwrap();
        assert_eq!(letters(&event).collect::<Vec<_>>(), [('t', "oa"), ('T', "y")]);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,200}", key in "[#a-z]{0,8}", value in ".{0,20}") {
            let _ = parse(text.as_bytes());
            let _ = of(json!({ key.clone(): value }));
            let _ = of(json!({ key: [value] }));
        }
    }
}
