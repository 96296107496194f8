//! Which events are taken, beyond what relay-builder checks (id, signature, protected events). Its verdicts reach
//! the sender as `blocked: …` in an OK, before anything is stored.

use std::net::SocketAddr;
use std::sync::Arc;

use nostr_database::NostrDatabase;
use nostr_database::prelude::BoxedFuture;
use nostr_relay_builder::builder::{PolicyResult, WritePolicy};
use oa_nips::nostr::{Event, Filter, JsonUtil, Timestamp};

use crate::config::Limits;
use crate::store::{Published, Store};

/// Whether an event is taken.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Admit,
    Reject { reason: String },
}

/// The policy of one relay.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) limits: Limits,
    pub(crate) store: Arc<Store>,
    pub(crate) published: Published,
}

impl WritePolicy for Policy {
    fn admit_event<'a>(&'a self, event: &'a Event, _from: &'a SocketAddr) -> BoxedFuture<'a, PolicyResult> {
        Box::pin(async move {
            if let Verdict::Reject { reason } = judge(event, &self.limits, Timestamp::now()) {
                return PolicyResult::Reject(reason);
            }
            if self.is_superseded(event).await {
                return PolicyResult::Reject("replaced: have a newer version of this event".into());
            }
            // Never stored, so the store cannot count it.
            if event.kind.is_ephemeral() {
                self.published.add();
            }
            PolicyResult::Accept
        })
    }
}

impl Policy {
    /// Whether the store has a newer version of this replaceable event. Without asking first, the sender would
    /// get an `error: unknown`, and might try for ever. A store that cannot answer leaves it to the write.
    async fn is_superseded(&self, event: &Event) -> bool {
        let same = Filter::new().author(event.pubkey).kind(event.kind).limit(1);
        let same = if event.kind.is_replaceable() {
            same
        } else if event.kind.is_addressable() {
            let Some(identifier) = event.tags.identifier() else { return false };
            same.identifier(identifier)
        } else {
            return false;
        };
        let stored = self.store.query(same).await.ok().and_then(|events| events.first_owned());
        stored.is_some_and(|stored| supersedes(&stored, event))
    }
}

/// NIP-01: the newer one stays, and of two of the same second the one with the lower id.
fn supersedes(stored: &Event, event: &Event) -> bool {
    stored.created_at > event.created_at || (stored.created_at == event.created_at && stored.id < event.id)
}

fn judge(event: &Event, limits: &Limits, now: Timestamp) -> Verdict {
    if event.tags.len() > limits.event_tags_max {
        let reason = format!("event has {} tags, at most {}", event.tags.len(), limits.event_tags_max);
        return Verdict::Reject { reason };
    }
    let bytes = event.as_json().len();
    if bytes > limits.event_bytes_max {
        let reason = format!("event is {bytes} bytes, at most {}", limits.event_bytes_max);
        return Verdict::Reject { reason };
    }
    let ahead_secs = event.created_at.as_secs().saturating_sub(now.as_secs());
    if ahead_secs > limits.event_ahead_secs_max {
        let reason = format!("created_at is {ahead_secs} s ahead, at most {}", limits.event_ahead_secs_max);
        return Verdict::Reject { reason };
    }
    if event.is_expired_at(&now) {
        return Verdict::Reject { reason: "event has expired".into() };
    }
    Verdict::Admit
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::{EventBuilder, Keys, Tag};

    use super::*;

    const NOW: u64 = 1_790_000_000;

    fn judged(builder: EventBuilder, limits: &Limits) -> Verdict {
        let event = builder.sign_with_keys(&Keys::generate()).expect("signs");
        judge(&event, limits, Timestamp::from(NOW))
    }

    fn reason(verdict: Verdict) -> String {
        match verdict {
            Verdict::Reject { reason } => reason,
            Verdict::Admit => panic!("admitted"),
        }
    }

    fn note_at(secs: u64) -> EventBuilder {
        EventBuilder::text_note("hi").custom_created_at(Timestamp::from(secs))
    }

    #[test]
    fn the_future_is_bounded_and_the_past_is_not() {
        let limits = Limits::default();
        assert_eq!(judged(note_at(NOW + 900), &limits), Verdict::Admit);
        assert_eq!(reason(judged(note_at(NOW + 901), &limits)), "created_at is 901 s ahead, at most 900");
        assert!(matches!(judged(note_at(u64::from(u32::MAX)), &limits), Verdict::Reject { .. }));
        assert_eq!(judged(note_at(0), &limits), Verdict::Admit);
    }

    #[test]
    fn size_and_tags_are_bounded() {
        let limits = Limits { event_bytes_max: 1_000, event_tags_max: 2, ..Limits::default() };
        let long = EventBuilder::text_note("a".repeat(1_000)).custom_created_at(Timestamp::from(NOW));
        assert!(reason(judged(long, &limits)).ends_with("bytes, at most 1000"));
        let tagged = note_at(NOW).tags(["a", "b", "c"].map(Tag::hashtag));
        assert_eq!(reason(judged(tagged, &limits)), "event has 3 tags, at most 2");
    }

    #[test]
    fn an_expired_event_is_refused() {
        let limits = Limits::default();
        let expiring = |secs| note_at(NOW - 10).tag(Tag::expiration(Timestamp::from(secs)));
        assert_eq!(reason(judged(expiring(NOW - 1), &limits)), "event has expired");
        assert_eq!(judged(expiring(NOW + 1), &limits), Verdict::Admit);
    }

    #[test]
    fn the_newer_version_stays_and_the_lower_id_breaks_ties() {
        let keys = Keys::generate();
        let sign = |text: &str, secs| {
            EventBuilder::text_note(text).custom_created_at(Timestamp::from(secs)).sign_with_keys(&keys)
        };
        let (old, new) = (sign("a", NOW).expect("signs"), sign("a", NOW + 1).expect("signs"));
        assert!(supersedes(&new, &old) && !supersedes(&old, &new) && !supersedes(&old, &old));
        let tie = sign("b", NOW).expect("signs");
        assert_eq!(supersedes(&old, &tie), old.id < tie.id);
        assert_ne!(supersedes(&old, &tie), supersedes(&tie, &old));
    }
}
