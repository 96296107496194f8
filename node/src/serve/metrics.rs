//! `/metrics/{apm,queue}`: ticks a minute, and what waits.

use std::sync::Arc;

use serde_json::json;

use super::mail::io;
use super::{OneFile, Parts, at};
use crate::feeds::WINDOW_S;
use crate::namespace::mount::Mounts;
use crate::namespace::service::{Context, FileType, Watch};

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts) {
    let (feeds, time) = (parts.feeds.clone(), parts.time.clone());
    let apm = OneFile::value(move |cx| {
        // By the node's clock: a tick's own stands still.
        let value = feeds.pace.per_minute(cx.subject()?.row.id, time.now_ms());
        Ok(json!({ "value": value, "window_secs": WINDOW_S }).to_string().into_bytes())
    });
    let store = parts.store.clone();
    let queue = OneFile::value(move |cx| {
        let row = cx.subject()?.row;
        let oldest = store.inbox(row.id, 1).map_err(io)?.pop();
        let oldest = oldest.map(|(_, waiting)| waiting.envelope.accepted_at_ms / 1000);
        Ok(json!({ "depth": row.inbox_depth, "oldest": oldest }).to_string().into_bytes())
    });
    for (path, file, what) in
        [("/metrics/apm", apm, "ticks a minute"), ("/metrics/queue", queue, "what waits")]
    {
        mounts.mount_file(at(path), FileType::Value, Arc::new(file.watched(changes(parts))), what);
    }
}

/// Wakes with whatever changes about the agent.
pub(super) fn changes(parts: &Parts) -> impl Fn(&Context<'_>) -> Option<Watch> + Send + Sync + 'static {
    let feeds = parts.feeds.clone();
    move |cx| Some(feeds.changes.watch(cx.subject?.row.id))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture::{Fixture, NOW_MS, someone};
    use crate::agent::envelope::Trust;
    use crate::time::{System, Time as _};

    #[tokio::test]
    async fn pace_and_queue_are_told_and_their_watchers_woken_once() {
        let mut fixture = Fixture::stored().await;
        assert_eq!(fixture.json("/metrics/apm").await, json!({ "value": 0, "window_secs": 60 }));
        (0..3).for_each(|_| fixture.feeds.pace.count(fixture.row.id, System.now_ms()));
        assert_eq!(fixture.json("/metrics/apm").await["value"], 3);
        assert_eq!(fixture.json("/metrics/queue").await, json!({ "depth": 1, "oldest": NOW_MS / 1000 }));
        fixture.ticked().await;
        assert_eq!(fixture.json("/metrics/queue").await, json!({ "depth": 0, "oldest": null }));
        for path in ["/status", "/metrics/apm", "/metrics/queue", "/manifest"] {
            let (mut watch, _) = fixture.watch(path).unwrap();
            (0..9).for_each(|_| fixture.feeds.changes.changed(fixture.row.id));
            assert!(watch.has_changed().unwrap(), "{path}");
            watch.borrow_and_update();
            assert!(!watch.has_changed().unwrap(), "{path}");
        }
        fixture.mail(someone(), "hi", Trust::Allowed).await;
        assert_eq!(fixture.json("/metrics/queue").await["depth"], 1);
    }
}
