//! What an agent publishes by itself: a template of kind, content and tags that somebody else dates and signs.
//!
//! A signature is the agent's word, so what can be signed is bounded: by the kinds that its manifest names, by
//! [`FORBIDDEN`], which wins over the manifest, and by limits that relays keep and people can bear.

mod forbidden;

use nostr::{Event, Kind, PublicKey, Tag, Timestamp, UnsignedEvent};
use serde::Deserialize;

pub use forbidden::{FORBIDDEN, forbidden};

use crate::tags;

/// Longest content, in bytes.
pub const CONTENT_BYTES_MAX: usize = 32 * 1024;
/// Tags.
pub const TAGS_MAX: usize = 100;
/// Values of one tag, its name included.
pub const TAG_VALUES_MAX: usize = 20;
/// Longest value of a tag, in bytes: what strfry takes.
pub const VALUE_BYTES_MAX: usize = 1024;
/// Longest name of a tag, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// People that one event calls: each `p` tag is a notification to somebody.
pub const PEOPLE_MAX: usize = 10;
/// Content and tags as JSON, in bytes: with id, key and signature it stays under the 64 KiB that many relays take.
pub const JSON_BYTES_MAX: usize = 60 * 1024;

/// Tags that an agent does not set, and why.
const RESERVED: [(&str, &str); 3] = [
    ("-", "a protected event is taken only from a connection that authenticated as its author"),
    (tags::AUTO, "the node counts the automatic events that led to this one"),
    ("delegation", "nobody speaks in the name of others"),
];

/// An event to be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// Its kind. A number over 65,535 is refused, not cut.
    pub kind: u16,
    /// What it says.
    pub content: String,
    /// Its tags: arrays of strings.
    #[serde(default)]
    pub tags: Vec<Vec<String>>,
}

/// Why a template becomes no event.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error(r#"not {{"kind", "content", "tags"}}: {0}"#)]
    Syntax(#[from] serde_json::Error),
    #[error("kind {kind} is never published by an agent: {why}")]
    Forbidden { kind: u16, why: &'static str },
    #[error("the manifest allows kinds {allowed:?}, not {kind}")]
    NotAllowed { kind: u16, allowed: Vec<u16> },
    #[error("content of {0} bytes, at most {CONTENT_BYTES_MAX}")]
    ContentTooLarge(usize),
    #[error("{0} tags, at most {TAGS_MAX}")]
    TooManyTags(usize),
    #[error(
        "tag {0}: a name of 1 to {NAME_BYTES_MAX} bytes and at most {TAG_VALUES_MAX} values of {VALUE_BYTES_MAX} bytes"
    )]
    Tag(usize),
    #[error("tag {name:?} cannot be set: {why}")]
    Reserved { name: &'static str, why: &'static str },
    #[error("{0} p tags, at most {PEOPLE_MAX}: each is a notification to somebody")]
    TooManyPeople(usize),
    #[error("kind {0} needs one d tag")]
    NoIdentifier(u16),
    #[error("{0} bytes as JSON, at most {JSON_BYTES_MAX}")]
    TooLarge(usize),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`]
    pub fn parse(json: &[u8]) -> Result<Self, TemplateError> {
        Ok(serde_json::from_slice(json)?)
    }

    /// Checks that it may be published where `allowed` is what the manifest says.
    ///
    /// # Errors
    /// All but [`TemplateError::Syntax`].
    pub fn check(&self, allowed: &[u16]) -> Result<(), TemplateError> {
        let kind = self.kind;
        if let Some(why) = forbidden(kind) {
            return Err(TemplateError::Forbidden { kind, why });
        }
        if !allowed.contains(&kind) {
            return Err(TemplateError::NotAllowed { kind, allowed: allowed.to_vec() });
        }
        if self.content.len() > CONTENT_BYTES_MAX {
            return Err(TemplateError::ContentTooLarge(self.content.len()));
        }
        self.check_tags()?;
        // Control characters grow to six bytes each.
        let json = serde_json::to_string(&(&self.content, &self.tags))?;
        if json.len() > JSON_BYTES_MAX {
            return Err(TemplateError::TooLarge(json.len()));
        }
        Ok(())
    }

    fn check_tags(&self) -> Result<(), TemplateError> {
        if self.tags.len() > TAGS_MAX {
            return Err(TemplateError::TooManyTags(self.tags.len()));
        }
        for (n, tag) in self.tags.iter().enumerate() {
            let name = tag.first().map_or("", String::as_str);
            let is_small =
                tag.len() <= TAG_VALUES_MAX && tag.iter().all(|value| value.len() <= VALUE_BYTES_MAX);
            if name.is_empty() || name.len() > NAME_BYTES_MAX || !is_small {
                return Err(TemplateError::Tag(n));
            }
            if let Some((name, why)) = RESERVED.into_iter().find(|(reserved, _)| *reserved == name) {
                return Err(TemplateError::Reserved { name, why });
            }
        }
        let people = self.named(&["p", "P"]);
        if people > PEOPLE_MAX {
            return Err(TemplateError::TooManyPeople(people));
        }
        if Kind::from(self.kind).is_addressable() && self.named(&["d"]) != 1 {
            return Err(TemplateError::NoIdentifier(self.kind));
        }
        Ok(())
    }

    fn named(&self, names: &[&str]) -> usize {
        let is_named = |tag: &&Vec<String>| tag.first().is_some_and(|name| names.contains(&name.as_str()));
        self.tags.iter().filter(is_named).count()
    }

    /// The event, with its id: the same for the same arguments. `auto_hop` counts the automatic messages and events up
    /// to this one; 0 for what answers none.
    pub fn event(&self, author: PublicKey, at: Timestamp, auto_hop: u8) -> UnsignedEvent {
        let mut list: Vec<Tag> = self.tags.iter().filter_map(|tag| Tag::parse(tag).ok()).collect();
        if auto_hop > 0 {
            list.push(tags::custom(tags::AUTO, [auto_hop.to_string()]));
        }
        let mut event = UnsignedEvent::new(author, at, self.kind.into(), list, self.content.clone());
        event.ensure_id();
        event
    }
}

/// The automatic messages and events that led to an event, itself included, if it says so.
pub fn auto_hop(event: &Event) -> u8 {
    tags::hops(&event.tags)
}

#[cfg(test)]
mod tests {
    use nostr::Keys;
    use proptest::prelude::*;

    use super::*;

    const ALLOWED: [u16; 2] = [1, 30_023];

    fn check(json: &str) -> Result<(), TemplateError> {
        Template::parse(json.as_bytes())?.check(&ALLOWED)
    }

    fn tagged(kind: u16, tags: Vec<Vec<String>>) -> Result<(), TemplateError> {
        Template { kind, content: "x".to_owned(), tags }.check(&ALLOWED)
    }

    fn tag(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn what_the_manifest_names_becomes_an_event_whose_id_is_fixed() {
        let json = r#"{"kind":1,"content":"hi","tags":[["t","oa"]]}"#;
        check(json).unwrap();
        let (author, at) = (Keys::generate().public_key(), Timestamp::from_secs(1_790_000_000));
        let template = Template::parse(json.as_bytes()).unwrap();
        let event = template.event(author, at, 0);
        assert_eq!(event.id, template.event(author, at, 0).id);
        assert_eq!((event.kind.as_u16(), event.tags.len(), event.pubkey), (1, 1, author));
        let automatic = template.event(author, at, 2);
        assert_eq!((tags::hops(&event.tags), tags::hops(&automatic.tags)), (0, 2));
    }

    #[test]
    fn no_manifest_allows_what_is_forbidden() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        for kind in 0..=u16::MAX {
            let tags = vec![tag(&["d", "x"])];
            let checked = Template { kind, content: String::new(), tags }.check(&all);
            match forbidden(kind) {
                Some(_) => assert!(matches!(checked, Err(TemplateError::Forbidden { .. })), "{kind}"),
                None => checked.unwrap(),
            }
        }
        assert!(matches!(
            check(r#"{"kind":7,"content":"+"}"#),
            Err(TemplateError::NotAllowed { kind: 7, .. })
        ));
    }

    #[test]
    fn a_kind_is_not_cut_and_a_template_has_nothing_else() {
        for bad in [
            r#"{"kind":65541,"content":""}"#,
            r#"{"kind":-1,"content":""}"#,
            r#"{"kind":"1","content":""}"#,
            r#"{"kind":1.0,"content":""}"#,
            r#"{"kind":1,"kind":5,"content":""}"#,
            r#"{"kind":1,"content":"","created_at":0}"#,
            r#"{"kind":1,"content":"","pubkey":"00"}"#,
            r#"{"kind":1,"content":"","tags":[[1]]}"#,
            r#"{"kind":1}"#,
            "",
        ] {
            assert!(matches!(check(bad), Err(TemplateError::Syntax(_))), "{bad}");
        }
    }

    #[test]
    fn tags_are_bounded_and_some_are_not_the_agents() {
        tagged(1, vec![tag(&["t", "a"]); TAGS_MAX]).unwrap();
        assert!(matches!(
            tagged(1, vec![tag(&["t", "a"]); TAGS_MAX + 1]),
            Err(TemplateError::TooManyTags(101))
        ));
        assert!(matches!(tagged(1, vec![tag(&["p", "a"]); 11]), Err(TemplateError::TooManyPeople(11))));
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        for bad in
            [vec![], tag(&[""]), tag(&["t", &long]), tag(&["x"; TAG_VALUES_MAX + 1]), tag(&[&long[..65]])]
        {
            assert!(matches!(tagged(1, vec![bad]), Err(TemplateError::Tag(0))));
        }
        for name in ["-", "auto", "delegation"] {
            assert!(
                matches!(tagged(1, vec![tag(&[name, "0"])]), Err(TemplateError::Reserved { .. })),
                "{name}"
            );
        }
        assert!(matches!(tagged(30_023, Vec::new()), Err(TemplateError::NoIdentifier(30_023))));
        tagged(30_023, vec![tag(&["d", "article"])]).unwrap();
    }

    #[test]
    fn sizes_are_those_of_the_event_not_of_the_text() {
        let of = |content: String| Template { kind: 1, content, tags: Vec::new() }.check(&ALLOWED);
        of("x".repeat(CONTENT_BYTES_MAX)).unwrap();
        assert!(matches!(of("x".repeat(CONTENT_BYTES_MAX + 1)), Err(TemplateError::ContentTooLarge(_))));
        assert!(matches!(of("\u{1}".repeat(CONTENT_BYTES_MAX)), Err(TemplateError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(json in ".{0,200}", kind in any::<u16>(), content in ".{0,50}") {
            let _ = check(&json);
            let _ = check(&serde_json::json!({ "kind": kind, "content": content, "tags": [[content]] }).to_string());
        }
    }
}
