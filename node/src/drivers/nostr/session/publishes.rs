//! Events on their way to one relay: many at once, each waiting for its OK.

use std::collections::HashMap;

use oa_nips::nostr::EventId;
use oa_nips::port::Ack;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::Action;
use crate::drivers::nostr::link::Publish;
use crate::drivers::nostr::wire;

/// Events that wait for an OK. 1,024: what a relay a second away answers at a thousand a second.
pub(super) const IN_FLIGHT_MAX: usize = 1_024;

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Publishes {
    pending: HashMap<EventId, Pending>,
}

#[derive(Debug)]
struct Pending {
    frame: Utf8Bytes,
    deadline: Instant,
    /// More than one when the same event was published again meanwhile.
    replies: Vec<oneshot::Sender<Ack>>,
    auth: Auth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Auth {
    NotAsked,
    Waiting,
    Done,
}

/// What an OK means for the session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing waited for it.
    Unknown,
    /// The publisher has been told.
    Settled,
    /// The node's key must authenticate; the event will be sent again.
    NeedsAuth,
}

impl Publishes {
    /// Whether one more may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < IN_FLIGHT_MAX
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Sends an event; one that is on its way already is only waited for.
    pub(super) fn publish(&mut self, publish: Publish, out: &mut Vec<Action>) {
        if let Some(pending) = self.pending.get_mut(&publish.id) {
            pending.deadline = pending.deadline.max(publish.deadline);
            pending.replies.push(publish.reply);
            return;
        }
        out.push(Action::Send(publish.frame.clone()));
        let Publish { id, frame, deadline, reply } = publish;
        self.pending.insert(id, Pending { frame, deadline, replies: vec![reply], auth: Auth::NotAsked });
    }

    /// Takes an OK. `may_auth`: whether to authenticate here when asked to.
    pub(super) fn ok(
        &mut self,
        id: &EventId,
        accepted: bool,
        reason: &str,
        may_auth: bool,
        out: &mut Vec<Action>,
    ) -> Verdict {
        let Some(pending) = self.pending.get_mut(id) else { return Verdict::Unknown };
        if !accepted && may_auth && wire::prefix(reason) == "auth-required" && pending.auth == Auth::NotAsked
        {
            pending.auth = Auth::Waiting;
            return Verdict::NeedsAuth;
        }
        if let Some(pending) = self.pending.remove(id) {
            out.push(Action::Ack(pending.replies, verdict(accepted, reason)));
        }
        Verdict::Settled
    }

    /// The node's key was accepted, or will not be: what waited for it goes out again, or comes to its end.
    pub(super) fn authenticated(&mut self, accepted: bool, out: &mut Vec<Action>) {
        if accepted {
            for pending in self.pending.values_mut().filter(|pending| pending.auth == Auth::Waiting) {
                pending.auth = Auth::Done;
                out.push(Action::Send(pending.frame.clone()));
            }
            return;
        }
        let refused = |_: &EventId, pending: &mut Pending| pending.auth == Auth::Waiting;
        for (_, pending) in self.pending.extract_if(refused) {
            let why = "auth-required: the relay did not accept the node's key".to_owned();
            out.push(Action::Ack(pending.replies, Ack::Refused(why)));
        }
    }

    /// Gives up on those whose time is over.
    pub(super) fn expire(&mut self, now: Instant, out: &mut Vec<Action>) {
        for (_, pending) in self.pending.extract_if(|_, pending| pending.deadline <= now) {
            out.push(Action::Ack(pending.replies, Ack::Unreached("no answer in time".to_owned())));
        }
    }

    /// Gives up on all.
    pub(super) fn fail(&mut self, reason: &str, out: &mut Vec<Action>) {
        for (_, pending) in self.pending.drain() {
            out.push(Action::Ack(pending.replies, Ack::Unreached(reason.to_owned())));
        }
    }
}

/// What an OK tells the publisher (NIP-01's prefixes).
fn verdict(accepted: bool, reason: &str) -> Ack {
    let prefix = wire::prefix(reason);
    if accepted || prefix == "duplicate" {
        return Ack::Accepted;
    }
    match prefix {
        "invalid" | "blocked" | "restricted" | "pow" | "auth-required" | "unsupported" => {
            Ack::Refused(wire::words(reason))
        }
        _ => Ack::Unreached(wire::words(reason)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(n: u8) -> EventId {
        EventId::from_byte_array([n; 32])
    }

    fn publish(n: u8, seconds: u64) -> (Publish, oneshot::Receiver<Ack>) {
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + Duration::from_secs(seconds);
        (Publish { id: id(n), frame: format!("event {n}").into(), deadline, reply }, answer)
    }

    fn sent(out: &[Action]) -> Vec<&str> {
        out.iter()
            .filter_map(|a| if let Action::Send(text) = a { Some(text.as_str()) } else { None })
            .collect()
    }

    fn acks(out: Vec<Action>) -> Vec<Ack> {
        out.into_iter().filter_map(|a| if let Action::Ack(_, ack) = a { Some(ack) } else { None }).collect()
    }

    #[test]
    fn each_ok_finds_its_event_in_any_order() {
        let (mut publishes, mut out) = (Publishes::default(), Vec::new());
        let mut answers: Vec<_> = (0..3)
            .map(|n| {
                let (publish, answer) = publish(n, 10);
                publishes.publish(publish, &mut out);
                answer
            })
            .collect();
        assert_eq!(sent(&out), ["event 0", "event 1", "event 2"]);
        out.clear();
        assert_eq!(publishes.ok(&id(2), true, "", true, &mut out), Verdict::Settled);
        assert_eq!(publishes.ok(&id(9), true, "", true, &mut out), Verdict::Unknown);
        let [Action::Ack(..)] = out.as_slice() else { panic!("{out:?}") };
        for action in out {
            if let Action::Ack(replies, ack) = action {
                replies.into_iter().for_each(|reply| drop(reply.send(ack.clone())));
            }
        }
        assert_eq!(answers.pop().unwrap().try_recv(), Ok(Ack::Accepted));
        assert!(answers.pop().unwrap().try_recv().is_err());
    }

    #[test]
    fn reasons_become_verdicts() {
        assert_eq!(verdict(true, ""), Ack::Accepted);
        assert_eq!(verdict(false, "duplicate: seen"), Ack::Accepted);
        for reason in ["invalid: x", "blocked: x", "restricted: x", "pow: 20", "auth-required: x"] {
            assert_eq!(verdict(false, reason), Ack::Refused(reason.to_owned()));
        }
        for reason in ["rate-limited: x", "error: x", "", "who knows"] {
            assert_eq!(verdict(false, reason), Ack::Unreached(reason.to_owned()));
        }
    }

    #[test]
    fn an_event_that_needs_authentication_is_sent_again_once() {
        let (mut publishes, mut out) = (Publishes::default(), Vec::new());
        publishes.publish(publish(1, 10).0, &mut out);
        assert_eq!(publishes.ok(&id(1), false, "auth-required: x", true, &mut out), Verdict::NeedsAuth);
        publishes.authenticated(true, &mut out);
        assert_eq!(sent(&out), ["event 1", "event 1"]);
        assert_eq!(publishes.ok(&id(1), false, "auth-required: x", true, &mut out), Verdict::Settled);
        assert_eq!(acks(out), [Ack::Refused("auth-required: x".to_owned())]);
    }

    #[test]
    fn nobody_authenticates_on_a_foreign_relay() {
        let (mut publishes, mut out) = (Publishes::default(), Vec::new());
        publishes.publish(publish(1, 10).0, &mut out);
        assert_eq!(publishes.ok(&id(1), false, "auth-required: x", false, &mut out), Verdict::Settled);
        assert_eq!(acks(out), [Ack::Refused("auth-required: x".to_owned())]);
    }

    #[test]
    fn the_same_event_twice_is_sent_once_and_answered_twice() {
        let (mut publishes, mut out) = (Publishes::default(), Vec::new());
        publishes.publish(publish(1, 10).0, &mut out);
        publishes.publish(publish(1, 10).0, &mut out);
        assert_eq!(sent(&out).len(), 1);
        publishes.ok(&id(1), true, "", true, &mut out);
        assert!(matches!(out.last(), Some(Action::Ack(replies, Ack::Accepted)) if replies.len() == 2));
    }

    #[test]
    fn deadlines_and_a_broken_connection_end_the_waiting() {
        let (mut publishes, mut out) = (Publishes::default(), Vec::new());
        publishes.publish(publish(1, 1).0, &mut out);
        publishes.publish(publish(2, 100).0, &mut out);
        publishes.expire(Instant::now() + Duration::from_secs(2), &mut out);
        publishes.fail("gone", &mut out);
        assert!(publishes.is_empty());
        let expected = [Ack::Unreached("no answer in time".to_owned()), Ack::Unreached("gone".to_owned())];
        assert_eq!(acks(out), expected);
    }
}
