//! What happens, as streams: of each agent its trace, ticks, records, notices, outgoing mail and heads-up display, and
//! the log of the node.
//!
//! Those who make things happen tell [`Feeds`], which keeps the newest of it in memory, in rings under one budget. An
//! agent's ring begins when somebody first looks at it, with what the store knows of before; until then, and for
//! agents nobody looks at, telling costs the look at a number. A stream that nobody read for long may be let go when
//! room is needed, and begins anew with the next reader.

mod changes;
mod hud;
mod lines;
mod pace;
mod public;
mod redact;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oa_nips::record::{Record, canonical};

pub(crate) use self::changes::Changes;
pub(crate) use self::lines::{outgoing, set, tick_line};
pub(crate) use self::pace::{Pace, WINDOW_S};
pub(crate) use self::public::{Publisher, publish};
use crate::agent::manifest::{Hud, Manifest};
use crate::agent::{AgentId, Lifecycle};
use crate::engine::Begun;
use crate::namespace::CallMade;
use crate::namespace::blocks::ring::Config;
use crate::namespace::blocks::{Ring, Rings};
use crate::namespace::journal::Line;
use crate::notice::Notice;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::row::{AgentRow, OutId};
use crate::time::Time;

/// Bytes of one stream: a thousand records of the usual size.
const RING_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of all streams.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Ticks, and outgoing items, that a stream begins with.
const HISTORY: usize = 1000;
/// Ticks that a trace begins with.
const TRACE_HISTORY: usize = 100;
/// Records read at once.
const PAGE: usize = 256;

/// A stream of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    /// What its ticks do, a line a step, for people.
    Trace,
    /// What its ticks came to: the fields of its records.
    Ticks,
    /// Its records, as they are published.
    Trajectory,
    /// What the node has to tell about it.
    Events,
    /// What its program prints.
    Stdout,
    /// Likewise.
    Stderr,
    /// What an onlooker sees.
    Hud,
    /// Its outgoing items, a line whenever one comes further.
    Outbox,
}

impl Name {
    /// The name of its ring.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Ticks => "ticks",
            Self::Trajectory => "trajectory",
            Self::Events => "events",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Hud => "hud",
            Self::Outbox => "outbox",
        }
    }

    /// How a record stands in the stream, of those that have each record in its place.
    fn line_of(self) -> Option<fn(&Record) -> String> {
        match self {
            Self::Ticks => Some(|record| tick_line(record).to_string()),
            Self::Trajectory => Some(canonical),
            _ => None,
        }
    }
}

/// The streams of a node.
#[derive(Debug)]
pub(crate) struct Feeds {
    store: Store,
    time: Arc<dyn Time>,
    rings: Rings,
    /// Held while a stream begins or grows: what it begins with stands before what happens meanwhile.
    places: Mutex<Places>,
    /// `/node/log`
    log: Arc<Ring>,
    /// What the public is to be shown.
    public: public::Waiting,
    /// Who watches status and metrics.
    pub(crate) changes: Changes,
    /// Ticks a minute.
    pub(crate) pace: Pace,
}

/// The next record of each stream of records.
type Places = HashMap<(AgentId, Name), u64>;

impl Feeds {
    /// No streams yet.
    pub(crate) fn new(store: Store, time: Arc<dyn Time>) -> Self {
        let config = Config { ring_bytes_max: RING_BYTES_MAX, bytes_max: BYTES_MAX };
        Self {
            store,
            time,
            rings: Rings::new(config),
            places: Mutex::default(),
            log: Arc::new(Ring::new(RING_BYTES_MAX)),
            public: public::Waiting::default(),
            changes: Changes::default(),
            pace: Pace::default(),
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log of the node.
    pub(crate) fn log(&self) -> Arc<Ring> {
        self.log.clone()
    }

    /// An agent's stream, which begins now if nobody has looked at it.
    ///
    /// # Errors
    /// What the store said; the stream then begins with what happens from now on.
    pub(crate) fn open(&self, row: &AgentRow, name: Name) -> Result<Arc<Ring>, BackendError> {
        if name.line_of().is_none()
            && let Some(ring) = self.rings.get(row.id, name.as_str())
        {
            return Ok(ring);
        }
        let mut places = self.places();
        let is_new = self.rings.get(row.id, name.as_str()).is_none();
        // The ring is there before the past is read, so that whoever makes something happen meanwhile sees it, and
        // waits for its turn.
        let ring = self.rings.ring(row.id, name.as_str());
        if let Some(line_of) = name.line_of() {
            let first = row.head.seq.saturating_sub(HISTORY as u64);
            let place = places.entry((row.id, name)).or_insert(first);
            if is_new {
                *place = first;
            }
            self.catch_up(row.id, name, line_of, place)?;
        } else if is_new {
            let push = |line: String| self.rings.push_line(row.id, name.as_str(), line);
            self.past(row, name)?.into_iter().for_each(push);
        }
        Ok(ring)
    }

    /// What a stream begins with.
    fn past(&self, row: &AgentRow, name: Name) -> Result<Vec<String>, BackendError> {
        Ok(match name {
            Name::Trace => {
                let from = row.head.seq.saturating_sub(TRACE_HISTORY as u64);
                let records = self.store.records(row.id, from, TRACE_HISTORY)?;
                records.iter().map(lines::trace_of_record).collect()
            }
            Name::Outbox => {
                let items = self.store.outbox(row.id, HISTORY)?;
                items.into_iter().rev().map(|(n, item)| outgoing(n, &item).to_string()).collect()
            }
            Name::Events => {
                let log = self.log.read(crate::namespace::service::Span::ALL).bytes;
                lines::about(&String::from_utf8_lossy(&log), &row.name)
            }
            Name::Hud => {
                let start = hud::session_start(row, self.time.now_ms());
                vec![serde_json::Value::Object(start).to_string()]
            }
            Name::Stdout | Name::Stderr | Name::Ticks | Name::Trajectory => Vec::new(),
        })
    }

    /// Adds the records that a stream does not have yet.
    fn catch_up(
        &self,
        agent: AgentId,
        name: Name,
        line_of: fn(&Record) -> String,
        place: &mut u64,
    ) -> Result<(), BackendError> {
        loop {
            let records = self.store.records(agent, *place, PAGE)?;
            for record in &records {
                self.rings.push_line(agent, name.as_str(), line_of(record));
                *place = record.header.seq + 1;
            }
            if records.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// Adds a line to a stream that somebody has looked at.
    fn push(&self, agent: AgentId, name: Name, line: impl FnOnce() -> String) {
        let _turn = self.places();
        if self.rings.get(agent, name.as_str()).is_some() {
            self.rings.push_line(agent, name.as_str(), line());
        }
    }

    /// Adds the records that ticks have left to the streams that somebody has looked at.
    fn push_records(&self, agent: AgentId) {
        let mut places = self.places();
        for name in [Name::Ticks, Name::Trajectory] {
            let is_open = self.rings.get(agent, name.as_str()).is_some();
            match (name.line_of(), places.get_mut(&(agent, name))) {
                (Some(line_of), Some(place)) if is_open => {
                    if let Err(error) = self.catch_up(agent, name, line_of, place) {
                        tracing::warn!(%agent, %error, "a stream lags behind");
                    }
                }
                (_, Some(_)) => drop(places.remove(&(agent, name))),
                (_, None) => {}
            }
        }
    }

    /// Whether there is anybody to tell about an agent.
    fn is_open(&self, agent: AgentId) -> bool {
        self.rings.is_open(agent)
    }

    /// Whether there is anybody to show an agent to.
    pub(crate) fn is_shown(&self, agent: AgentId, hud: &Hud) -> bool {
        hud.public || self.is_open(agent)
    }

    fn push_hud(&self, row: &AgentRow, hud: &Hud, event: &str, more: serde_json::Value) {
        let event = hud::event(event, row, self.time.now_ms(), more);
        if hud.public {
            self.public.add(row, hud, &event);
        }
        self.push(row.id, Name::Hud, || serde_json::Value::Object(event).to_string());
    }

    /// A tick begins.
    pub(crate) fn tick_begins(&self, begun: &Begun) {
        if !self.is_shown(begun.row.id, &begun.manifest.hud) {
            return;
        }
        let now_ms = self.time.now_ms();
        self.push(begun.row.id, Name::Trace, || lines::begins(begun, now_ms));
        self.push_hud(&begun.row, &begun.manifest.hud, "tick_start", hud::begins(begun));
    }

    /// A tick has committed, and its agent is in this state now.
    pub(crate) fn tick_ends(&self, begun: &Begun, lifecycle: Lifecycle, duration_ms: u64) {
        let (row, hud) = (&begun.row, &begun.manifest.hud);
        self.pace.count(row.id, self.time.now_ms());
        self.changes.changed(row.id);
        if !self.is_shown(row.id, hud) {
            return;
        }
        self.push_records(row.id);
        let record = self.store.records(row.id, row.head.seq, 1).ok().and_then(|mut records| records.pop());
        let Some(record) = record.filter(|record| record.header.seq == row.head.seq) else { return };
        let now_ms = self.time.now_ms();
        self.push(row.id, Name::Trace, || lines::ends(&record, duration_ms, now_ms));
        if row.lifecycle != lifecycle {
            self.push_hud(row, hud, "state_change", hud::state(Some(row.lifecycle), lifecycle, None));
        }
        self.push_hud(row, hud, "usage", hud::usage(&record, duration_ms));
        self.push_hud(row, hud, "tick_end", hud::ends(&record, duration_ms));
    }

    /// A tick has failed.
    pub(crate) fn tick_fails(&self, begun: &Begun, reason: &str, calls: &[CallMade]) {
        let (row, hud) = (&begun.row, &begun.manifest.hud);
        self.changes.changed(row.id);
        if !self.is_shown(row.id, hud) {
            return;
        }
        let now_ms = self.time.now_ms();
        self.push(row.id, Name::Trace, || lines::fails(begun, reason, calls, now_ms));
        self.push_hud(row, hud, "error", hud::error(reason));
        self.push_hud(row, hud, "tick_end", serde_json::json!({ "outcome": "failed" }));
    }

    /// A tick is about to do something outside, or has.
    pub(crate) fn calls(&self, row: &AgentRow, hud: &Hud, journaled: &[Line]) {
        if !self.is_shown(row.id, hud) {
            return;
        }
        // What was read before it stands before an intent; it is no call.
        let Some((line, event)) = journaled.last().and_then(|line| Some((line, hud::call(line)?))) else {
            return;
        };
        let now_ms = self.time.now_ms();
        self.push(row.id, Name::Trace, || lines::call(row, line, now_ms));
        self.push_hud(row, hud, event, hud::tool(line));
    }

    /// An agent goes on in another state, at somebody's word.
    pub(crate) fn becomes(&self, agent: AgentId, lifecycle: Lifecycle, reason: Option<&str>) {
        // It happens seldom, so that the public's share need not be known beforehand.
        let Ok(Some(row)) = self.store.agent(agent) else { return };
        let Ok(Some(Manifest { hud, .. })) = self.store.manifest(agent) else { return };
        if self.is_shown(agent, &hud) {
            self.push_hud(&row, &hud, "state_change", hud::state(None, lifecycle, reason));
        }
    }

    /// An outgoing item is new, or has come further.
    pub(crate) fn outgoing(&self, id: OutId) {
        if self.is_open(id.agent)
            && let Ok(Some(item)) = self.store.outgoing(id)
        {
            self.push(id.agent, Name::Outbox, || outgoing(id.n, &item).to_string());
        }
    }

    /// Something happened that the node tells of.
    pub(crate) fn notice(&self, notice: &Notice) {
        let line = lines::notice(notice, self.time.now_ms());
        // Ticks that went well would leave no room for anything else.
        if !matches!(notice, Notice::Tick { outcome, .. } if outcome != "failed") {
            self.log.push_line(&line);
        }
        let is_lifecycle = matches!(notice, Notice::Lifecycle { .. });
        if self.rings.bytes() == 0 && !self.changes.any() && !is_lifecycle {
            return;
        }
        let Some(Ok(Some(agent))) = notice.agent().map(|name| self.store.agent_named(name)) else { return };
        self.push(agent, Name::Events, || line);
        self.changes.changed(agent);
        if let Notice::Lifecycle { reason, .. } = notice
            && let Ok(Some(row)) = self.store.agent(agent)
        {
            self.becomes(agent, row.lifecycle, Some(reason));
        }
    }

    /// Whether notices of ticks that went well are of use to a reader here.
    pub(crate) fn wants_ticks(&self, agent: AgentId) -> bool {
        self.is_open(agent)
    }

    /// An agent is gone, and its streams with it.
    pub(crate) fn removed(&self, agent: AgentId) {
        let mut places = self.places();
        places.retain(|(of, _), _| *of != agent);
        self.rings.remove(agent);
    }
}
