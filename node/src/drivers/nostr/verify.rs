//! Signatures of many events, away from the threads that serve connections.

use oa_nips::nostr::Event;

/// As many are verified on the spot: half a millisecond.
const INLINE_MAX: usize = 16;

/// The events whose id and signature hold, in the same order. The others are logged and gone.
pub(super) async fn genuine(events: Vec<Event>) -> Vec<Event> {
    if events.len() <= INLINE_MAX {
        return sift(events);
    }
    tokio::task::spawn_blocking(|| sift(events)).await.unwrap_or_default()
}

fn sift(mut events: Vec<Event>) -> Vec<Event> {
    events.retain(|event| {
        let genuine = event.verify().is_ok();
        if !genuine {
            tracing::warn!(id = %event.id, "event with a wrong id or signature");
        }
        genuine
    });
    events
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::{EventBuilder, Keys};

    use super::*;

    #[tokio::test]
    async fn forged_events_are_gone_in_small_and_large_sets() {
        for n in [2, 100] {
            let keys = Keys::generate();
            let events: Vec<_> = (0..n)
                .map(|i| EventBuilder::text_note(i.to_string()).sign_with_keys(&keys).unwrap())
                .collect();
            let mut forged = events.clone();
            forged[1].content.push('!');
            let left = genuine(forged).await;
            assert_eq!(left.len(), n - 1);
            assert!(!left.contains(&events[1]));
        }
    }
}
