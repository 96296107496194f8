//! What is being read from one relay: fetches of stored events, and one reconciliation.

use std::collections::{BTreeMap, VecDeque};

use oa_nips::nostr::Event;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Action;
use crate::drivers::nostr::link::{End, Fetch, Fetched, Negotiate, Negotiated};
use crate::drivers::nostr::wire;

/// Fetches the relay is asked for at once. 8: relays cap subscriptions, some at 20, and ours must fit too.
const ACTIVE_MAX: usize = 8;
/// Fetches that wait for one of those.
const WAITING_MAX: usize = 64;
/// Events of one fetch; who needs more pages.
const EVENTS_MAX: usize = 5_000;
/// Bytes of one fetch, counted by content and tags.
const BYTES_MAX: usize = 32 << 20;

/// All that is being read.
#[derive(Debug, Default)]
pub(super) struct Queries {
    serial: u64,
    active: BTreeMap<String, Active>,
    waiting: VecDeque<Fetch>,
    negotiation: Option<Negotiation>,
}

#[derive(Debug)]
struct Active {
    fetch: Fetch,
    events: Vec<Event>,
    bytes: usize,
    auth: Auth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Auth {
    NotAsked,
    Waiting,
    Done,
}

#[derive(Debug)]
struct Negotiation {
    sub: String,
    /// Who waits for the relay's next message, and until when.
    awaiting: Option<(oneshot::Sender<Negotiated>, Instant)>,
    /// Whether the relay has answered at all.
    answered: bool,
}

/// What a CLOSED meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// Not one of these.
    Unknown,
    /// Whoever asked has been told.
    Settled,
    /// The node's key must authenticate; the fetch will be asked for again.
    NeedsAuth,
}

impl Queries {
    /// Whether one more may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    /// Whether an answer is awaited.
    pub(super) fn is_empty(&self) -> bool {
        let negotiating = self.negotiation.as_ref().is_some_and(|negotiation| negotiation.awaiting.is_some());
        self.active.is_empty() && self.waiting.is_empty() && !negotiating
    }

    /// Asks, or waits for its turn.
    pub(super) fn fetch(&mut self, fetch: Fetch, out: &mut Vec<Action>) {
        self.waiting.push_back(fetch);
        self.pump(out);
    }

    fn pump(&mut self, out: &mut Vec<Action>) {
        while self.active.len() < ACTIVE_MAX {
            let Some(fetch) = self.waiting.pop_front() else { return };
            self.serial += 1;
            let sub = format!("f{}", self.serial);
            out.push(Action::Send(wire::req(&sub, &fetch.filter)));
            self.active.insert(sub, Active { fetch, events: Vec::new(), bytes: 0, auth: Auth::NotAsked });
        }
    }

    /// Takes an event of a fetch; gives back one that belongs to none.
    pub(super) fn event(
        &mut self,
        sub: &str,
        event: Box<Event>,
        out: &mut Vec<Action>,
    ) -> Result<(), Box<Event>> {
        let Some(active) = self.active.get_mut(sub) else { return Err(event) };
        active.bytes += size(&event);
        active.events.push(*event);
        if active.events.len() >= EVENTS_MAX || active.bytes >= BYTES_MAX {
            self.finish(sub, End::Full, true, out);
        }
        Ok(())
    }

    /// Takes an EOSE; whether it was one of these.
    pub(super) fn eose(&mut self, sub: &str, out: &mut Vec<Action>) -> bool {
        let known = self.active.contains_key(sub);
        self.finish(sub, End::Eose, true, out);
        known
    }

    /// Takes a CLOSED.
    pub(super) fn closed(
        &mut self,
        sub: &str,
        reason: &str,
        may_auth: bool,
        out: &mut Vec<Action>,
    ) -> Closed {
        if self.negotiation.as_ref().is_some_and(|negotiation| negotiation.sub == sub) {
            self.refuse(reason, out);
            return Closed::Settled;
        }
        let Some(active) = self.active.get_mut(sub) else { return Closed::Unknown };
        if may_auth && wire::prefix(reason) == "auth-required" && active.auth == Auth::NotAsked {
            active.auth = Auth::Waiting;
            return Closed::NeedsAuth;
        }
        self.finish(sub, End::Closed(wire::words(reason)), false, out);
        Closed::Settled
    }

    /// The node's key was accepted, or will not be.
    pub(super) fn authenticated(&mut self, accepted: bool, out: &mut Vec<Action>) {
        let waiting = self.active.iter_mut().filter(|(_, active)| active.auth == Auth::Waiting);
        let mut refused = Vec::new();
        for (sub, active) in waiting {
            if accepted {
                active.auth = Auth::Done;
                out.push(Action::Send(wire::req(sub, &active.fetch.filter)));
            } else {
                refused.push(sub.clone());
            }
        }
        let why = "auth-required: the relay did not accept the node's key";
        refused.iter().for_each(|sub| self.finish(sub, End::Closed(why.to_owned()), false, out));
    }

    fn finish(&mut self, sub: &str, end: End, close: bool, out: &mut Vec<Action>) {
        let Some(active) = self.active.remove(sub) else { return };
        if close {
            out.push(Action::Send(wire::close(sub)));
        }
        out.push(Action::Fetched(active.fetch.reply, Fetched { events: active.events, end }));
        self.pump(out);
    }

    /// Sends a message of a reconciliation.
    pub(super) fn negotiate(&mut self, negotiate: Negotiate, out: &mut Vec<Action>) {
        let Negotiate { open, message, deadline, reply } = negotiate;
        if let Some(filter) = open {
            self.negotiate_end(out);
            self.serial += 1;
            let sub = format!("n{}", self.serial);
            out.push(Action::Send(wire::neg_open(&sub, &filter, &message)));
            self.negotiation = Some(Negotiation { sub, awaiting: Some((reply, deadline)), answered: false });
        } else if let Some(negotiation) = &mut self.negotiation {
            out.push(Action::Send(wire::neg_msg(&negotiation.sub, &message)));
            negotiation.awaiting = Some((reply, deadline));
        } else {
            let gone = Negotiated::Refused("the reconciliation is over".to_owned());
            out.push(Action::Negotiated(reply, gone));
        }
    }

    /// Lets the relay forget the reconciliation.
    pub(super) fn negotiate_end(&mut self, out: &mut Vec<Action>) {
        if let Some(negotiation) = self.negotiation.take() {
            out.push(Action::Send(wire::neg_close(&negotiation.sub)));
        }
    }

    /// Takes a message of a reconciliation.
    pub(super) fn neg_msg(&mut self, sub: &str, message: String, out: &mut Vec<Action>) {
        let Some(negotiation) = self.negotiation.as_mut().filter(|negotiation| negotiation.sub == sub) else {
            return;
        };
        negotiation.answered = true;
        if let Some((reply, _)) = negotiation.awaiting.take() {
            out.push(Action::Negotiated(reply, Negotiated::Message(message)));
        }
    }

    /// Takes the end of a reconciliation.
    pub(super) fn neg_err(&mut self, sub: &str, reason: &str, out: &mut Vec<Action>) {
        if self.negotiation.as_ref().is_some_and(|negotiation| negotiation.sub == sub) {
            self.refuse(reason, out);
        }
    }

    /// Takes a NOTICE: how a relay that does not know NIP-77 answers the opening message.
    pub(super) fn notice(&mut self, text: &str, out: &mut Vec<Action>) {
        if self.negotiation.as_ref().is_some_and(|negotiation| !negotiation.answered) {
            self.refuse(text, out);
        }
    }

    fn refuse(&mut self, reason: &str, out: &mut Vec<Action>) {
        let awaiting = self.negotiation.take().and_then(|negotiation| negotiation.awaiting);
        if let Some((reply, _)) = awaiting {
            out.push(Action::Negotiated(reply, Negotiated::Refused(wire::words(reason))));
        }
    }

    /// Ends what is over its deadline, with what came, and what nobody waits for any more.
    pub(super) fn expire(&mut self, now: Instant, out: &mut Vec<Action>) {
        let over = |fetch: &Fetch| fetch.deadline <= now || fetch.reply.is_closed();
        let (late, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(over);
        self.waiting = waiting;
        for fetch in Vec::from(late) {
            let fetched = Fetched { events: Vec::new(), end: End::TimedOut };
            out.push(Action::Fetched(fetch.reply, fetched));
        }
        let late: Vec<_> = self
            .active
            .iter()
            .filter(|(_, active)| over(&active.fetch))
            .map(|(sub, _)| sub.clone())
            .collect();
        late.iter().for_each(|sub| self.finish(sub, End::TimedOut, true, out));
        let silent = |negotiation: &mut Negotiation| {
            negotiation.awaiting.take_if(|(reply, deadline)| *deadline <= now || reply.is_closed())
        };
        if let Some((reply, _)) = self.negotiation.as_mut().and_then(silent) {
            self.negotiate_end(out);
            out.push(Action::Negotiated(reply, Negotiated::Silent));
        }
    }

    /// Ends all: the connection broke.
    pub(super) fn fail(&mut self, reason: &str, out: &mut Vec<Action>) {
        let down = || End::Down(reason.to_owned());
        for (_, active) in std::mem::take(&mut self.active) {
            out.push(Action::Fetched(active.fetch.reply, Fetched { events: active.events, end: down() }));
        }
        for fetch in self.waiting.drain(..) {
            out.push(Action::Fetched(fetch.reply, Fetched { events: Vec::new(), end: down() }));
        }
        if let Some((reply, _)) = self.negotiation.take().and_then(|negotiation| negotiation.awaiting) {
            out.push(Action::Negotiated(reply, Negotiated::Down(reason.to_owned())));
        }
    }
}

/// About how much memory an event takes.
pub(in crate::drivers::nostr) fn size(event: &Event) -> usize {
    const FIXED: usize = 256;
    let tags: usize = event.tags.iter().flat_map(|tag| tag.as_slice()).map(String::len).sum();
    FIXED + event.content.len() + tags
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use oa_nips::nostr::{EventBuilder, Filter, Keys, Kind};

    use super::*;

    fn fetch(seconds: u64) -> (Fetch, oneshot::Receiver<Fetched>) {
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + Duration::from_secs(seconds);
        (Fetch { filter: Filter::new().kind(Kind::TextNote), deadline, reply }, answer)
    }

    fn event() -> Box<Event> {
        Box::new(EventBuilder::text_note("x").sign_with_keys(&Keys::generate()).unwrap())
    }

    fn sent(out: &[Action], label: &str) -> usize {
        let label = format!("[\"{label}\"");
        out.iter().filter(|a| matches!(a, Action::Send(text) if text.starts_with(&label))).count()
    }

    fn deliver(out: Vec<Action>) {
        for action in out {
            match action {
                Action::Fetched(reply, fetched) => drop(reply.send(fetched)),
                Action::Negotiated(reply, negotiated) => drop(reply.send(negotiated)),
                _ => {}
            }
        }
    }

    #[test]
    fn a_fetch_collects_until_eose() {
        let (mut queries, mut out) = (Queries::default(), Vec::new());
        let (ask, mut answer) = fetch(10);
        queries.fetch(ask, &mut out);
        queries.event("f1", event(), &mut out).unwrap();
        assert!(queries.event("f2", event(), &mut out).is_err());
        assert!(queries.eose("f1", &mut out));
        assert_eq!((sent(&out, "REQ"), sent(&out, "CLOSE")), (1, 1));
        deliver(out);
        let fetched = answer.try_recv().unwrap();
        assert_eq!((fetched.events.len(), fetched.end), (1, End::Eose));
    }

    #[test]
    fn a_late_fetch_gives_what_it_has() {
        let (mut queries, mut out) = (Queries::default(), Vec::new());
        let (ask, mut answer) = fetch(1);
        queries.fetch(ask, &mut out);
        queries.event("f1", event(), &mut out).unwrap();
        queries.expire(Instant::now() + Duration::from_secs(2), &mut out);
        deliver(out);
        let fetched = answer.try_recv().unwrap();
        assert_eq!((fetched.events.len(), fetched.end), (1, End::TimedOut));
    }

    #[test]
    fn only_so_many_are_asked_at_once() {
        let (mut queries, mut out) = (Queries::default(), Vec::new());
        let answers: Vec<_> = (0..ACTIVE_MAX + 2)
            .map(|_| {
                let (ask, answer) = fetch(10);
                queries.fetch(ask, &mut out);
                answer
            })
            .collect();
        assert_eq!(sent(&out, "REQ"), ACTIVE_MAX);
        queries.closed("f1", "", true, &mut out);
        assert_eq!(sent(&out, "REQ"), ACTIVE_MAX + 1);
        drop(answers);
        queries.expire(Instant::now(), &mut out);
        assert!(queries.is_empty());
    }

    #[test]
    fn a_fetch_that_needs_authentication_is_asked_again_once() {
        let (mut queries, mut out) = (Queries::default(), Vec::new());
        let (ask, mut answer) = fetch(10);
        queries.fetch(ask, &mut out);
        assert_eq!(queries.closed("f1", "auth-required: x", true, &mut out), Closed::NeedsAuth);
        queries.authenticated(true, &mut out);
        assert_eq!(sent(&out, "REQ"), 2);
        assert_eq!(queries.closed("f1", "auth-required: x", true, &mut out), Closed::Settled);
        deliver(out);
        assert_eq!(answer.try_recv().unwrap().end, End::Closed("auth-required: x".to_owned()));
    }

    #[test]
    fn a_notice_instead_of_an_answer_ends_a_reconciliation() {
        let (mut queries, mut out) = (Queries::default(), Vec::new());
        let deadline = Instant::now() + Duration::from_secs(5);
        let (reply, mut answer) = oneshot::channel();
        let open = Some(Filter::new());
        queries.negotiate(Negotiate { open, message: vec![0x61], deadline, reply }, &mut out);
        queries.notice("unknown message", &mut out);
        deliver(out);
        assert_eq!(answer.try_recv().unwrap(), Negotiated::Refused("unknown message".to_owned()));
    }

    #[test]
    fn a_notice_in_the_midst_of_a_reconciliation_is_only_a_notice() {
        let (mut queries, mut out) = (Queries::default(), Vec::new());
        let deadline = Instant::now() + Duration::from_secs(5);
        let (reply, mut answer) = oneshot::channel();
        let open = Some(Filter::new());
        queries.negotiate(Negotiate { open, message: vec![0x61], deadline, reply }, &mut out);
        queries.neg_msg("n1", "6100".into(), &mut out);
        let (reply, mut second) = oneshot::channel();
        queries.negotiate(Negotiate { open: None, message: vec![0x61], deadline, reply }, &mut out);
        queries.notice("hello", &mut out);
        queries.expire(deadline, &mut out);
        assert_eq!(sent(&out, "NEG-CLOSE"), 1);
        deliver(out);
        assert_eq!(answer.try_recv().unwrap(), Negotiated::Message("6100".to_owned()));
        assert_eq!(second.try_recv().unwrap(), Negotiated::Silent);
    }

    #[test]
    fn a_broken_connection_ends_all() {
        let (mut queries, mut out) = (Queries::default(), Vec::new());
        let (ask, mut answer) = fetch(10);
        queries.fetch(ask, &mut out);
        queries.fail("gone", &mut out);
        deliver(out);
        assert_eq!(answer.try_recv().unwrap().end, End::Down("gone".to_owned()));
        assert!(queries.is_empty());
    }
}
