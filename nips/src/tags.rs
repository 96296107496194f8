//! Reading and writing the few tags our formats use; nobody else in the workspace looks at tag strings.

use nostr::{EventId, PublicKey, RelayUrl, Tag, TagKind, Tags};

/// The hop count of an automatic message: `["auto", "1"]`.
pub(crate) const AUTO: &str = "auto";
/// Milliseconds within the second of `created_at`: `["ms", "0".."999"]`.
pub(crate) const MS: &str = "ms";

pub(crate) fn custom<const N: usize>(name: &str, values: [String; N]) -> Tag {
    Tag::custom(TagKind::custom(name.to_owned()), values)
}

/// The first value of the first tag called `name`.
pub(crate) fn value<'a>(tags: &'a Tags, name: &'a str) -> Option<&'a str> {
    values(tags, name).next()
}

/// The first values of all tags called `name`.
pub(crate) fn values<'a>(tags: &'a Tags, name: &'a str) -> impl Iterator<Item = &'a str> {
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

pub(crate) fn relays(tags: &Tags, name: &'static str) -> Vec<RelayUrl> {
    values(tags, name).filter_map(|url| RelayUrl::parse(url).ok()).collect()
}
