//! Reading and writing the few tags our formats use; nobody else in the workspace looks at tag strings.

use std::fmt;

use nostr::{EventId, PublicKey, RelayUrl, Tag, TagKind, Tags};
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::mail::AUTO_HOPS_MAX;

/// The hop count of an automatic message: `["auto", "1"]`.
pub(crate) const AUTO: &str = "auto";
/// Milliseconds within the second of `created_at`: `["ms", "0".."999"]`.
pub(crate) const MS: &str = "ms";
/// The longest relay URL taken from others, in bytes: what they publish about themselves is remembered.
const RELAY_BYTES_MAX: usize = 512;

pub(crate) fn custom<const N: usize>(name: &str, values: [String; N]) -> Tag {
    Tag::custom(TagKind::custom(name.to_owned()), values)
}

/// The first values of all tags called `name`.
fn values<'a>(tags: &'a Tags, name: &'a str) -> impl Iterator<Item = &'a str> {
    tags.iter().filter_map(move |tag| match tag.as_slice() {
        [head, value, ..] if head == name => Some(value.as_str()),
        _ => None,
    })
}

pub(crate) fn people(tags: &Tags) -> impl Iterator<Item = PublicKey> {
    values(tags, "p").filter_map(|key| PublicKey::from_hex(key).ok())
}

/// The last well-formed `e` tag: replies name their parent last.
pub(crate) fn parent(tags: &Tags) -> Option<EventId> {
    values(tags, "e").filter_map(|id| EventId::from_hex(id).ok()).last()
}

/// The first `d` tag, by which relays tell addressable events of a kind apart.
pub(crate) fn identifier(tags: &Tags) -> Option<&str> {
    values(tags, "d").next()
}

/// The values of the first tag called `name`, if it has three.
pub(crate) fn triple<'a>(tags: &'a Tags, name: &str) -> Option<[&'a str; 3]> {
    let tag = tags.iter().map(Tag::as_slice).find(|tag| tag.first().is_some_and(|head| head == name))?;
    match tag {
        [_, first, second, third] => Some([first, second, third]),
        _ => None,
    }
}

/// The values of `t` tags.
pub(crate) fn topics(tags: &Tags) -> impl Iterator<Item = &str> {
    values(tags, "t")
}

/// The well-formed URLs of tags called `name`, each once, at most `max`.
pub(crate) fn relays(tags: &Tags, name: &'static str, max: usize) -> Vec<RelayUrl> {
    let short = values(tags, name).filter(|url| url.len() <= RELAY_BYTES_MAX);
    let mut relays: Vec<RelayUrl> = Vec::new();
    for url in short.filter_map(|url| RelayUrl::parse(url).ok()) {
        if relays.len() < max && !relays.contains(&url) {
            relays.push(url);
        }
    }
    relays
}

/// Milliseconds by the first `ms` tag, 0 where that says nothing sensible.
pub(crate) fn milliseconds(tags: &Tags) -> u64 {
    values(tags, MS).next().and_then(decimal).filter(|ms| *ms < 1000).unwrap_or(0)
}

/// Hops by the first `auto` tag; 0 without one, and never over [`AUTO_HOPS_MAX`].
///
/// Whoever sets the tag is a machine: a count that cannot be read is the highest, so that it is not answered.
pub(crate) fn hops(tags: &Tags) -> u8 {
    let tag = tags.iter().map(Tag::as_slice).find(|tag| tag.first().is_some_and(|head| head == AUTO));
    let Some(tag) = tag else { return 0 };
    let hops = tag.get(1).and_then(|hops| decimal(hops)).and_then(|hops| u8::try_from(hops).ok());
    hops.unwrap_or(AUTO_HOPS_MAX).min(AUTO_HOPS_MAX)
}

/// A number as we write them: digits alone, no sign, no zeros before it.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|c| c.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

/// Counts the tags of an event's JSON without keeping any: five bytes of JSON make a tag of a hundred in memory.
///
/// # Errors
/// When it is no JSON object, its `tags` are no array, or its `kind` is none.
pub(crate) fn count(json: &str) -> Result<usize, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let tags = reader.deserialize_map(EventTags)?;
    reader.end()?;
    Ok(tags)
}

struct EventTags;

impl<'de> Visitor<'de> for EventTags {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
        let mut tags = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "tags" if tags.is_some() => return Err(A::Error::duplicate_field("tags")),
                "tags" => tags = Some(map.next_value::<Length>()?.0),
                // The library would cut it to sixteen bits, and 65550 would be a text.
                "kind" => drop(map.next_value::<u16>()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(tags.unwrap_or(0))
    }
}

/// The length of a JSON array.
struct Length(usize);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Items).map(Self)
    }
}

struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while items.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(tags: &[&[&str]]) -> Tags {
        tags.iter().map(|tag| Tag::parse(tag.iter().copied()).unwrap()).collect()
    }

    #[test]
    fn milliseconds_are_digits_below_a_thousand() {
        for (text, ms) in
            [("0", 0), ("7", 7), ("999", 999), ("1000", 0), ("+5", 0), ("007", 0), ("", 0), ("5 ", 0)]
        {
            assert_eq!(milliseconds(&tags(&[&["ms", text]])), ms, "{text:?}");
        }
        assert_eq!(milliseconds(&tags(&[&["ms"], &["ms", "3"], &["ms", "4"]])), 3);
    }

    #[test]
    fn who_says_auto_is_a_machine_whatever_the_count() {
        assert_eq!(hops(&tags(&[&["p", "auto"]])), 0);
        assert_eq!(hops(&tags(&[&["auto", "0"]])), 0);
        assert_eq!(hops(&tags(&[&["auto", "2"]])), 2);
        for odd in ["5", "255", "256", "99999999999999999999", "+1", "01", "-1", "", "yes"] {
            assert_eq!(hops(&tags(&[&["auto", odd]])), AUTO_HOPS_MAX, "{odd:?}");
        }
        assert_eq!(hops(&tags(&[&["auto"]])), AUTO_HOPS_MAX);
    }

    #[test]
    fn relays_are_short_and_each_stands_once() {
        let long = format!("wss://example.com/{}", "x".repeat(RELAY_BYTES_MAX));
        let given = tags(&[
            &["relay", "wss://a.example"],
            &["relay", "wss://a.example/"],
            &["relay", "https://b.example"],
            &["relay", &long],
            &["r", "wss://c.example"],
            &["relay", "ws://d.example"],
            &["relay", "ws://e.example"],
        ]);
        let urls: Vec<_> = relays(&given, "relay", 2).iter().map(ToString::to_string).collect();
        assert_eq!(urls, ["wss://a.example", "ws://d.example"]);
    }

    #[test]
    fn tags_are_counted_in_objects_alone() {
        assert_eq!(count(r#"{"a":[[]],"tags":[["p","x"],[],3]}"#).unwrap(), 3);
        assert_eq!(count("{}").unwrap(), 0);
        for bad in ["", "[]", "{", r#"{"kind":65550}"#, r#"{"tags":{}}"#, r#"{"tags":[],"tags":[]}"#, "{} {}"]
        {
            assert!(count(bad).is_err(), "{bad}");
        }
    }
}
