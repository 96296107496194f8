//! `/logs/{trace,ticks,trajectory,stdout,stderr,events.jsonl}`, `/hud/stream`, `/outbox/stream`, `/node/log`: what
//! happens, as it happens. A stream begins when somebody first asks for it; to be listed begins nothing.

use std::sync::Arc;

use super::{Parts, at};
use crate::feeds::{Feeds, Name};
use crate::namespace::blocks::Ring;
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::path::Path;
use crate::namespace::service::{Answer, Context, FileService, FileType, Span, Stat, Watch, file};

const OF_AGENTS: [(&str, Name, &str); 8] = [
    ("/logs/trace", Name::Trace, "steps of ticks"),
    ("/logs/ticks", Name::Ticks, "what ticks came to"),
    ("/logs/trajectory", Name::Trajectory, "records"),
    ("/logs/events.jsonl", Name::Events, "what the node tells"),
    ("/logs/stdout", Name::Stdout, "what the program prints"),
    ("/logs/stderr", Name::Stderr, "what the program prints"),
    ("/hud/stream", Name::Hud, "what an onlooker sees"),
    ("/outbox/stream", Name::Outbox, "how far outgoing items come"),
];

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts) {
    for (path, name, what) in OF_AGENTS {
        let stream = Stream { feeds: parts.feeds.clone(), of: Of::Agent(name) };
        mounts.mount_file(at(path), FileType::Stream, Arc::new(stream), what);
    }
}

pub(super) fn mount_node(mounts: &mut Mounts, parts: &Parts) {
    let log = Stream { feeds: parts.feeds.clone(), of: Of::Node };
    mounts.mount_file(at("/node/log"), FileType::Stream, Arc::new(log), "what happens on the node");
}

/// Whose stream.
#[derive(Debug, Clone, Copy)]
enum Of {
    /// Of the agent whose tree it is.
    Agent(Name),
    Node,
}

/// One stream, as a file.
#[derive(Debug)]
struct Stream {
    feeds: Arc<Feeds>,
    of: Of,
}

impl Stream {
    fn ring(&self, cx: &Context<'_>, path: &Path) -> Result<Arc<Ring>, Error> {
        here(path)?;
        match self.of {
            Of::Agent(name) => {
                let ring = self.feeds.open(cx.subject()?.row, name);
                ring.map_err(|error| Error::io(path, error.to_string()))
            }
            Of::Node => Ok(self.feeds.log()),
        }
    }
}

fn here(path: &Path) -> Result<(), Error> {
    if *path == Path::root() { Ok(()) } else { Err(Error::not_found(path)) }
}

impl FileService for Stream {
    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async move {
            // Who reads on from the end must be told where that is.
            Ok(file("", FileType::Stream, self.ring(cx, path)?.end()))
        })
    }

    fn list<'a>(&'a self, _: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move {
            here(path)?;
            Err(Error::not_dir(path))
        })
    }

    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move { Ok(self.ring(cx, path)?.read(span).bytes) })
    }

    fn watch(&self, cx: &Context<'_>, path: &Path) -> Result<Watch, Error> {
        Ok(self.ring(cx, path)?.watch())
    }

    fn start(&self, cx: &Context<'_>, path: &Path) -> u64 {
        self.ring(cx, path).map_or(0, |ring| ring.start())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use oa_nips::files::Code;
    use oa_nips::mail::{Draft, Protocol};
    use serde_json::Value;

    use super::super::fixture::{Fixture, NOW_MS, someone};
    use crate::agent::Lifecycle;
    use crate::agent::envelope::{Envelope, Kind, Trust};
    use crate::engine::Begun;
    use crate::namespace::journal::{Line, LineState};
    use crate::notice::Notice;
    use crate::store::row::{Blob, OutId, Outgoing};
    use crate::store::write::Write;

    fn begun(fixture: &Fixture) -> Begun {
        Begun {
            row: Arc::new(fixture.row.clone()),
            manifest: Arc::new(fixture.manifest.clone()),
            seq: 0,
            envelope: Arc::new(Envelope::from_node(Kind::Poke, "x", NOW_MS)),
            failures: 0,
            journaled: false,
            trust: Trust::Node,
        }
    }

    /// A tick that commits, and is told of.
    async fn tick(fixture: &mut Fixture) {
        tick_to(fixture, Lifecycle::Active).await;
    }

    async fn tick_to(fixture: &mut Fixture, lifecycle: Lifecycle) {
        let begun = begun(fixture);
        fixture.feeds.tick_begins(&begun);
        fixture.ticked().await;
        fixture.feeds.tick_ends(&begun, lifecycle, 3);
    }

    async fn lines(fixture: &Fixture, path: &str) -> Vec<Value> {
        let text = fixture.read(path).await.unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn seqs(fixture: &Fixture, path: &str, key: &str) -> Vec<u64> {
        lines(fixture, path).await.iter().map(|line| line.pointer(key).unwrap().as_u64().unwrap()).collect()
    }

    #[tokio::test]
    async fn what_nobody_looked_at_is_not_kept_and_begins_with_what_the_store_knows() {
        let mut fixture = Fixture::stored().await;
        for _ in 0..5 {
            tick(&mut fixture).await;
        }
        assert_eq!(fixture.names("/logs").await.len(), 7);
        assert!(!fixture.feeds.wants_ticks(fixture.row.id));
        for (path, key) in [("/logs/ticks", "/seq"), ("/logs/trajectory", "/header/seq")] {
            let (mut watch, start) = fixture.watch(path).unwrap();
            let known: Vec<u64> = (0..fixture.row.head.seq).collect();
            assert_eq!((seqs(&fixture, path, key).await, start), (known, 0));
            watch.borrow_and_update();
            let before = fixture.length(path).await;
            tick(&mut fixture).await;
            assert!(watch.has_changed().unwrap(), "{path}");
            let more = fixture.read_from(path, before).await.unwrap();
            assert_eq!(
                serde_json::from_str::<Value>(&more).unwrap().pointer(key).unwrap(),
                fixture.row.head.seq - 1
            );
            // Each record stands there once, also one that nobody told of.
            fixture.ticked().await;
            let all: Vec<u64> = (0..fixture.row.head.seq).collect();
            assert_eq!(seqs(&fixture, path, key).await, all);
            assert_eq!(seqs(&fixture, path, key).await, all);
        }
    }

    #[tokio::test]
    async fn a_tick_is_traced_and_shown_step_by_step_without_secrets() {
        let mut fixture = Fixture::stored().await;
        tick(&mut fixture).await;
        assert_eq!(fixture.read("/logs/trace").await.unwrap().lines().count(), 1, "the tick before");
        let kinds = |lines: Vec<Value>| -> Vec<String> {
            lines.iter().map(|line| line["type"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(kinds(lines(&fixture, "/hud/stream").await), ["session_start"]);
        let line = |state| Line { request: oa_nips::hex::Hex([1; 32]), path: "/tools/pay".into(), state };
        fixture.feeds.calls(
            &fixture.row,
            &fixture.manifest.hud,
            &[line(LineState::Replied(Ok(Blob::default()))), line(LineState::Intent)],
        );
        fixture.feeds.calls(
            &fixture.row,
            &fixture.manifest.hud,
            &[line(LineState::Replied(Ok(Blob(vec![1; 9]))))],
        );
        tick_to(&mut fixture, Lifecycle::Dormant).await;
        fixture.feeds.tick_fails(&begun(&fixture), "no: token=abc and sk-secret\nmore", &[]);
        fixture.feeds.becomes(fixture.row.id, Lifecycle::Stopped, Some("nsec1xyz"));
        let events = lines(&fixture, "/hud/stream").await;
        let expected = [
            "session_start",
            "tool_start",
            "tool_done",
            "tick_start",
            "state_change",
            "usage",
            "tick_end",
            "error",
            "tick_end",
            "state_change",
        ];
        assert_eq!(kinds(events.clone()), expected);
        for event in &events {
            for field in ["timestamp", "session_id", "tick_id"] {
                assert!(!event[field].is_null(), "{event}");
            }
        }
        let trace = fixture.read("/logs/trace").await.unwrap();
        assert_eq!(trace.lines().count(), 6, "{trace}");
        let shown = format!("{trace}{events:?}");
        for secret in ["abc", "sk-", "nsec1"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(
            trace.contains("tick 1 begins: poke (node)") && trace.contains("/tools/pay answered 9 bytes"),
            "{trace}"
        );
    }

    #[tokio::test]
    async fn notices_and_outgoing_items_are_followed_from_what_is_known() {
        let mut fixture = Fixture::stored().await;
        let notice = |agent: &str, id: &str| Notice::MailIn {
            agent: agent.into(),
            from: "npub1x".into(),
            protocol: Protocol::Nip17,
            id: id.into(),
        };
        fixture.feeds.notice(&notice("alice", "1"));
        fixture.feeds.notice(&notice("bob", "2"));
        let ids = async |fixture: &Fixture| -> Vec<String> {
            lines(fixture, "/logs/events.jsonl")
                .await
                .iter()
                .map(|line| line["id"].as_str().unwrap().into())
                .collect()
        };
        assert_eq!(ids(&fixture).await, ["1"]);
        fixture.feeds.notice(&notice("bob", "3"));
        fixture.feeds.notice(&notice("alice", "4"));
        assert_eq!(ids(&fixture).await, ["1", "4"]);

        let send = |fixture: &Fixture| {
            let draft = Draft::text(someone(), "hello", NOW_MS);
            let mail = Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: None };
            Write::Send(fixture.row.id, Box::new(mail), NOW_MS)
        };
        fixture.write(send(&fixture)).await;
        fixture.feeds.outgoing(OutId { agent: fixture.row.id, n: 0 });
        assert_eq!(seqs(&fixture, "/outbox/stream", "/n").await, [0]);
        fixture.write(send(&fixture)).await;
        for n in [1, 0] {
            fixture.feeds.outgoing(OutId { agent: fixture.row.id, n });
        }
        assert_eq!(seqs(&fixture, "/outbox/stream", "/n").await, [0, 1, 0]);
        for path in ["/logs/stdout", "/logs/stderr"] {
            assert_eq!(fixture.read(path).await.unwrap(), "");
            assert!(fixture.watch(path).is_ok());
        }
        assert_eq!(fixture.read("/logs/other").await, Err(Code::NotFound));
        fixture.feeds.removed(fixture.row.id);
        assert!(!fixture.feeds.wants_ticks(fixture.row.id));
    }
}
