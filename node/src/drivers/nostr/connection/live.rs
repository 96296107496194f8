//! One connection while it lasts: the socket, the session, and the tasks that work for them.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use oa_nips::nostr::{Event, EventBuilder, Filter, PublicKey, Timestamp};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

use super::{Connection, Ended, Kind};
use crate::drivers::nostr::link::{Publish, Query};
use crate::drivers::nostr::session::{Action, Purpose, Session, Setup};
use crate::drivers::nostr::socket::{Received, Socket};
use crate::drivers::nostr::sweep::{self, Outcome, Stop, unix_now_s};
use crate::drivers::nostr::wire::Frame;
use crate::drivers::nostr::{Incoming, MAIL_KINDS, SweepConfig};

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Bytes that wait to be written; above it no more publishes are taken.
const WRITE_BYTES_MAX: usize = 4 << 20;
/// A sweep begins once all subscriptions are answered, or after so long.
const SUBSCRIBE_WAIT: Duration = Duration::from_secs(5);
/// From the reason for an extra sweep to the sweep, so that many reasons make one.
const SWEEP_SOON: Duration = Duration::from_secs(1);
/// A relay without NIP-77 is asked again after so long; it may have been updated.
const NEGENTROPY_RETRY: Duration = Duration::from_secs(3600);
/// Stored events that a mail subscription asks for when a sweep follows: as few as every relay understands. The
/// filter has no `since`, since relays apply it to live events too and wraps are backdated.
const LIVE_LIMIT: usize = 1;
/// How far back a mail subscription reaches when no sweep follows: the two days by which wraps are backdated, and
/// an hour.
const STORED_LOOKBACK_S: u64 = 49 * 3600;

/// What happened.
#[derive(Debug)]
pub(super) enum Input {
    Cancelled,
    Tick,
    HandedOver,
    Wanted,
    Signed(PublicKey, Result<Event, String>),
    Swept(Result<Outcome, JoinError>),
    Publish(Publish),
    Query(Query),
    Received(Result<Received, String>),
}

/// The connection.
#[derive(Debug)]
pub(super) struct Live {
    socket: Socket,
    session: Session,
    ticks: Interval,
    signing: JoinSet<(PublicKey, Result<Event, String>)>,
    sweep: Option<AbortOnDropHandle<Outcome>>,
    /// When the next one is due by the clock, and by what happened.
    sweep_at: Instant,
    sweep_asked_at: Option<Instant>,
    sweep_failures: u32,
    /// How many sweeps had been asked for by others when this one looked.
    sweeps_asked: u64,
    connected_at: Instant,
    heard_at: Instant,
    pinged_at: Instant,
    /// When there was last something to do, for a foreign relay.
    busy_at: Instant,
    /// All that was wanted by `version` has been asked for and answered.
    subscribed: bool,
    worked: bool,
    version: u64,
    out: Vec<Action>,
}

impl Live {
    /// Begins with a fresh websocket.
    pub(super) fn start(conn: &mut Connection, socket: Socket) -> Self {
        let (now, mut out) = (Instant::now(), Vec::new());
        let sweeps = conn.sweeps().is_some();
        let mail = Filter::new().kinds(MAIL_KINDS);
        let since = Timestamp::from_secs(unix_now_s().saturating_sub(STORED_LOOKBACK_S));
        let setup = Setup {
            own: conn.kind != Kind::Foreign,
            wide: conn.kind == Kind::Own { wide: true },
            sweeps,
            node: conn.shared.keyring.node().public_key(),
            mail: if sweeps { mail.limit(LIVE_LIMIT) } else { mail.since(since) },
        };
        let wanted = conn.wanted.borrow_and_update();
        let session = Session::start(setup, &wanted, now, &mut out);
        let (version, sweeps_asked) = (wanted.version(), wanted.sweeps());
        drop(wanted);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut live = Self {
            socket,
            session,
            ticks,
            signing: JoinSet::new(),
            sweep: None,
            sweep_at: now,
            sweep_asked_at: None,
            sweep_failures: 0,
            sweeps_asked,
            connected_at: now,
            heard_at: now,
            pinged_at: now,
            busy_at: now,
            subscribed: false,
            worked: false,
            version,
            out,
        };
        if conn.kind != Kind::Foreign {
            tracing::info!("relay up");
            conn.hand_over(Incoming::Up { relay: conn.url.clone() });
        }
        conn.view.send_modify(|view| {
            (view.status.connected, view.status.since_s) = (true, unix_now_s());
        });
        live.perform(conn, now);
        live.after(conn, now);
        live
    }

    /// Waits for something to happen. Commands come before the socket, or a relay that sends without end would keep
    /// them waiting; they cannot starve it in turn, since only answers from the socket make room for more of them.
    pub(super) async fn select(&mut self, conn: &mut Connection) -> Input {
        let reading = self.reads(conn);
        let takes_publishes = self.session.takes_publishes() && self.socket.queued_bytes() < WRITE_BYTES_MAX;
        let takes_queries = self.session.takes_queries();
        tokio::select! {
            biased;
            () = conn.shared.cancel.cancelled() => Input::Cancelled,
            _ = self.ticks.tick() => Input::Tick,
            permit = conn.shared.incoming.reserve(), if !conn.backlog.is_empty() => {
                match permit {
                    Ok(permit) => if let Some(incoming) = conn.backlog.pop_front() {
                        permit.send(incoming);
                    },
                    Err(_) => conn.backlog.clear(),
                }
                Input::HandedOver
            }
            Ok(()) = conn.wanted.changed() => Input::Wanted,
            Some(Ok((key, signed))) = self.signing.join_next(), if !self.signing.is_empty() => {
                Input::Signed(key, signed)
            }
            swept = finished(&mut self.sweep), if self.sweep.is_some() => Input::Swept(swept),
            Some(publish) = conn.inlet.publishes.recv(), if takes_publishes => Input::Publish(publish),
            Some(query) = conn.inlet.queries.recv(), if takes_queries => Input::Query(query),
            received = self.socket.next(reading) => Input::Received(received),
        }
    }

    /// Whether to read the socket. While events wait for the node it is left alone, so that the relay waits too; but
    /// not when somebody waits for an answer that comes through it, who may be the very one to make room.
    fn reads(&self, conn: &Connection) -> bool {
        let (limits, waiting) = (&conn.shared.config.limits, conn.backlog.len());
        if waiting < limits.backlog_soft {
            return true;
        }
        self.session.is_awaited() && (waiting < limits.backlog_hard || conn.sweeps().is_some())
    }

    /// Acts on what happened, without waiting for anything. Gives the end of the connection when it is one.
    pub(super) fn apply(&mut self, conn: &mut Connection, input: Input) -> Option<Ended> {
        let now = Instant::now();
        match input {
            Input::Cancelled => return Some(self.ended("shutting down", true)),
            Input::HandedOver => return None,
            Input::Tick => {
                if let Some(reason) = self.tick(conn, now) {
                    return Some(self.ended(&reason, false));
                }
            }
            Input::Wanted => {
                self.subscribed = false;
                self.sync(conn, now);
            }
            Input::Signed(key, signed) => self.session.signed(key, signed, now, &mut self.out),
            Input::Swept(outcome) => self.swept(conn, outcome, now),
            Input::Publish(publish) => {
                self.busy_at = now;
                self.session.publish(publish, &mut self.out);
            }
            Input::Query(query) => {
                self.busy_at = now;
                self.session.query(query, &mut self.out);
            }
            Input::Received(Err(reason)) => return Some(self.ended(&reason, false)),
            Input::Received(Ok(received)) => {
                self.heard_at = now;
                if let Received::Text(text) = received {
                    match Frame::parse(&text) {
                        Ok(frame) => self.session.frame(frame, now, &mut self.out),
                        Err(error) => tracing::debug!(%error, bytes = text.len(), "frame ignored"),
                    }
                }
            }
        }
        if self.session.needs_sync() {
            self.sync(conn, now);
        }
        self.perform(conn, now);
        self.after(conn, now);
        None
    }

    fn ended(&self, reason: &str, cancelled: bool) -> Ended {
        Ended { reason: reason.to_owned(), worked: self.worked, cancelled }
    }

    fn sync(&mut self, conn: &mut Connection, now: Instant) {
        let wanted = conn.wanted.borrow_and_update();
        self.version = wanted.version();
        self.session.sync(&wanted, now, &mut self.out);
        let is_asked = std::mem::replace(&mut self.sweeps_asked, wanted.sweeps()) != wanted.sweeps();
        drop(wanted);
        if is_asked {
            self.sweep_soon(now);
        }
    }

    /// Looks at the time; the reason to end, if there is one.
    fn tick(&mut self, conn: &mut Connection, now: Instant) -> Option<String> {
        let limits = &conn.shared.config.limits;
        self.session.tick(now, &mut self.out);
        if !self.reads(conn) {
            self.heard_at = now; // silence is ours
        }
        if now.duration_since(self.heard_at) >= limits.silence_max {
            return Some(format!("silent for {:?}", limits.silence_max));
        }
        if now.duration_since(self.pinged_at) >= limits.ping_interval {
            self.pinged_at = now;
            self.socket.ping();
        }
        if conn.kind == Kind::Foreign && !self.session.is_awaited() {
            let idle = now.duration_since(self.busy_at);
            let crowded = conn.shared.foreign_waiting.load(Ordering::Relaxed) > 0;
            if idle >= limits.foreign_idle || crowded && idle >= TICK {
                return Some("idle".to_owned());
            }
        }
        self.show(conn);
        None
    }

    /// Does what the session asks for.
    fn perform(&mut self, conn: &mut Connection, now: Instant) {
        for action in std::mem::take(&mut self.out) {
            match action {
                Action::Send(text) => self.socket.push(text),
                Action::Deliver(event, Purpose::Stand) => self.deliver(conn, event, now),
                Action::Deliver(event, Purpose::Mail) => {
                    if conn.wanted.borrow().is_for_us(&event) {
                        self.deliver(conn, event, now);
                    }
                }
                Action::Sign { key, challenge } => self.sign(conn, key, challenge),
                Action::Sweep => self.sweep_soon(now),
                Action::Ack(..) | Action::Fetched(..) | Action::Negotiated(..) => answer(action),
            }
        }
    }

    fn deliver(&mut self, conn: &mut Connection, event: Box<Event>, now: Instant) {
        if conn.backlog.len() >= conn.shared.config.limits.backlog_hard && conn.sweeps().is_some() {
            // Read on only because somebody waits for an answer. What a sweep can bring is let go.
            if event.kind.is_ephemeral() {
                tracing::warn!(kind = event.kind.as_u16(), "too much waits for the node, an event is lost");
            }
            self.sweep_soon(now);
            return;
        }
        conn.hand_over(Incoming::Event { relay: conn.url.clone(), event });
    }

    fn sign(&mut self, conn: &Connection, key: PublicKey, challenge: String) {
        let (keyring, url) = (conn.shared.keyring.clone(), conn.url.clone());
        self.signing.spawn(async move {
            let node = keyring.node();
            let signer = if node.public_key() == key { Some(node) } else { keyring.agent(&key) };
            let signed = match signer {
                Some(signer) => {
                    let event = EventBuilder::auth(challenge, url).build(key);
                    signer.sign(event).await.map_err(|error| error.to_string())
                }
                None => Err("no such key".to_owned()),
            };
            (key, signed)
        });
    }

    fn sweep_soon(&mut self, now: Instant) {
        self.sweep_asked_at.get_or_insert(now + SWEEP_SOON);
    }

    /// What follows every input: sweeps, and what others see.
    fn after(&mut self, conn: &mut Connection, now: Instant) {
        if !self.subscribed && self.session.is_settled() {
            (self.subscribed, self.worked) = (true, true);
            self.show(conn);
        }
        let waited = now.duration_since(self.connected_at) >= SUBSCRIBE_WAIT;
        let due = self.sweep_at <= now || self.sweep_asked_at.is_some_and(|at| at <= now);
        if self.sweep.is_none() && due && (self.subscribed || waited) {
            self.start_sweep(conn, now);
        }
    }

    fn start_sweep(&mut self, conn: &mut Connection, now: Instant) {
        let (Some(config), Some(ledger), Some(link)) = (conn.sweeps(), &conn.shared.ledger, &conn.link)
        else {
            return;
        };
        let scopes = self.session.scopes();
        if scopes.is_empty() {
            return; // an empty sweep would move the cursor past mail of agents that are listened for later
        }
        let negentropy = conn.lacks_negentropy_until.is_none_or(|until| until <= now);
        let job = sweep::Job {
            relay: conn.url.clone(),
            link: link.clone(),
            ledger: ledger.clone(),
            incoming: conn.shared.incoming.clone(),
            wanted: conn.shared.wanted.subscribe(),
            config: config.clone(),
            limits: conn.shared.config.limits.clone(),
            scopes,
            negentropy,
            aside: std::mem::take(&mut conn.aside),
        };
        self.sweep_asked_at = None;
        let task = tracing::Instrument::in_current_span(Box::pin(sweep::run(job)));
        self.sweep = Some(AbortOnDropHandle::new(tokio::spawn(task)));
    }

    fn swept(&mut self, conn: &mut Connection, outcome: Result<Outcome, JoinError>, now: Instant) {
        self.sweep = None;
        self.session.release(&mut self.out);
        let result = match outcome {
            Ok(outcome) => {
                conn.aside = outcome.aside;
                let known = conn.lacks_negentropy_until.filter(|until| *until > now);
                conn.lacks_negentropy_until =
                    if outcome.negentropy { None } else { known.or(Some(now + NEGENTROPY_RETRY)) };
                outcome.result
            }
            Err(error) => Err(Stop::Task(error)),
        };
        let Some(config) = conn.sweeps() else { return };
        let negentropy = conn.lacks_negentropy_until.is_none();
        let interval = if negentropy { config.interval_negentropy } else { config.interval_paging };
        match result {
            Ok(swept) => {
                self.sweep_failures = 0;
                self.sweep_at = if swept.complete { now + interval } else { now };
                if swept.complete {
                    conn.view.send_modify(|view| view.status.swept_at_s = Some(swept.started_at_s));
                }
            }
            Err(stop) => {
                tracing::debug!(error = %stop, "sweep failed");
                let wait = SWEEP_SOON * (1 << self.sweep_failures.min(10));
                self.sweep_failures += 1;
                self.sweep_at = now + wait.min(interval);
                conn.view.send_modify(|view| view.status.last_error = Some(format!("sweep failed: {stop}")));
            }
        }
    }

    fn show(&mut self, conn: &Connection) {
        let keys = conn.wanted.borrow().keys();
        let (subscriptions, unlistened) = (self.session.live(), self.session.unlistened(keys));
        let subscribed = self.subscribed && self.session.is_settled();
        let error = self.session.take_error();
        conn.view.send_if_modified(|view| {
            let shown =
                (view.status.subscriptions, view.status.unlistened, view.status.subscribed, view.version);
            let changed = shown != (subscriptions, unlistened, subscribed, self.version) || error.is_some();
            view.status.subscriptions = subscriptions;
            view.status.unlistened = unlistened;
            view.status.subscribed = subscribed;
            view.version = self.version;
            if error.is_some() {
                view.status.last_error = error;
            }
            changed
        });
    }

    /// The end: whoever waits is told, and the relay hears a goodbye.
    pub(super) async fn stop(mut self, conn: &mut Connection, reason: &str) {
        self.session.stop(reason, &mut self.out);
        self.out.into_iter().for_each(answer);
        conn.view.send_modify(|view| view.status.connected = false);
        self.socket.close(reason).await;
    }
}

impl Connection {
    /// How to sweep, where there is something to compare with.
    pub(super) fn sweeps(&self) -> Option<&SweepConfig> {
        let own = self.kind != Kind::Foreign && self.shared.ledger.is_some();
        self.shared.config.sweep.as_ref().filter(|_| own)
    }
}

async fn finished(sweep: &mut Option<AbortOnDropHandle<Outcome>>) -> Result<Outcome, JoinError> {
    match sweep {
        Some(handle) => Pin::new(handle).await,
        None => std::future::pending().await,
    }
}

/// Tells whoever waits; it may have stopped waiting.
fn answer(action: Action) {
    match action {
        Action::Ack(replies, ack) => replies.into_iter().for_each(|reply| drop(reply.send(ack.clone()))),
        Action::Fetched(reply, fetched) => drop(reply.send(fetched)),
        Action::Negotiated(reply, negotiated) => drop(reply.send(negotiated)),
        Action::Send(_) | Action::Deliver(..) | Action::Sign { .. } | Action::Sweep => {}
    }
}
