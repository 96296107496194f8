//! Authentication of several keys on one connection (NIP-42).
//!
//! The machine knows which key stands where; signing happens outside, since a signer may be slow or away.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use oa_nips::nostr::{Event, EventId, PublicKey};
use tokio::time::Instant;

use super::Action;
use crate::drivers::nostr::wire;

/// Keys that are being signed for or wait for the relay's OK. 64: a relay that verifies one after the other stays
/// busy, and a slow signer is asked for no more at once.
const IN_FLIGHT_MAX: usize = 64;
/// For signing and the relay's OK together.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// After this a key that failed for no lasting reason is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Where each key stands.
#[derive(Debug, Default)]
pub(super) struct Auth {
    challenge: Option<String>,
    /// Counts challenges: what was accepted under an older one may have to be repeated.
    generation: u32,
    keys: HashMap<PublicKey, State>,
    queue: VecDeque<PublicKey>,
    /// Keys being signed for or answered, by when they must be done.
    busy: HashMap<PublicKey, Instant>,
    /// Which event of ours an OK speaks of.
    sent: HashMap<EventId, PublicKey>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Queued,
    Busy,
    Accepted { generation: u32 },
    Refused { retry_at: Option<Instant> },
}

/// A key whose authentication came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) key: PublicKey,
    pub(super) accepted: bool,
}

impl Auth {
    /// Remembers the relay's challenge.
    pub(super) fn challenge(&mut self, challenge: String, now: Instant, out: &mut Vec<Action>) {
        if self.challenge.as_deref() != Some(&challenge) {
            self.generation += 1;
            self.challenge = Some(challenge);
        }
        self.pump(now, out);
    }

    /// Wants `keys` authenticated and gives those that are not settled yet. A key that the relay accepted under an
    /// older challenge is done again; one that it refused is not.
    pub(super) fn want(
        &mut self,
        keys: impl IntoIterator<Item = PublicKey>,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> HashSet<PublicKey> {
        let mut open = HashSet::new();
        for key in keys {
            match self.keys.get(&key) {
                Some(State::Refused { .. }) => continue,
                Some(State::Accepted { generation }) if *generation == self.generation => continue,
                Some(State::Queued | State::Busy) => {}
                Some(State::Accepted { .. }) | None => {
                    self.keys.insert(key, State::Queued);
                    self.queue.push_back(key);
                }
            }
            open.insert(key);
        }
        self.pump(now, out);
        open
    }

    /// Whether the relay accepted `key` on this connection.
    pub(super) fn is_accepted(&self, key: &PublicKey) -> bool {
        matches!(self.keys.get(key), Some(State::Accepted { .. }))
    }

    /// Whether the relay, or its signer, refused `key` on this connection.
    pub(super) fn is_refused(&self, key: &PublicKey) -> bool {
        matches!(self.keys.get(key), Some(State::Refused { .. }))
    }

    /// Whether answers are awaited.
    pub(super) fn is_busy(&self) -> bool {
        !self.busy.is_empty()
    }

    /// Takes a signature, or why there is none.
    pub(super) fn signed(
        &mut self,
        key: PublicKey,
        signed: Result<Event, String>,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Option<Settled> {
        if !self.busy.contains_key(&key) {
            return None; // too late, or of an earlier connection
        }
        match signed {
            Ok(event) => {
                self.sent.insert(event.id, key);
                out.push(Action::Send(wire::auth(&event)));
                None
            }
            Err(reason) => {
                tracing::debug!(%key, reason, "no signature to authenticate with");
                Some(self.settle(key, State::Refused { retry_at: Some(now + RETRY_AFTER) }, now, out))
            }
        }
    }

    /// Takes an OK, if it speaks of an authentication.
    pub(super) fn ok(
        &mut self,
        id: &EventId,
        accepted: bool,
        reason: &str,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Option<Settled> {
        let key = self.sent.remove(id)?;
        if !accepted {
            tracing::debug!(%key, reason = wire::words(reason), "authentication refused");
        }
        let generation = self.generation;
        let state = if accepted { State::Accepted { generation } } else { State::Refused { retry_at: None } };
        Some(self.settle(key, state, now, out))
    }

    /// Gives up on those without an answer, and tries again what may work by now.
    pub(super) fn tick(&mut self, now: Instant, out: &mut Vec<Action>) -> Vec<Settled> {
        let late: Vec<_> =
            self.busy.iter().filter(|(_, until)| **until <= now).map(|(key, _)| *key).collect();
        self.sent.retain(|_, key| !late.contains(key));
        let retry_at = Some(now + RETRY_AFTER);
        let settled =
            late.into_iter().map(|key| self.settle(key, State::Refused { retry_at }, now, out)).collect();
        for (key, state) in &mut self.keys {
            if matches!(state, State::Refused { retry_at: Some(at) } if *at <= now) {
                *state = State::Queued;
                self.queue.push_back(*key);
            }
        }
        self.pump(now, out);
        settled
    }

    fn settle(&mut self, key: PublicKey, state: State, now: Instant, out: &mut Vec<Action>) -> Settled {
        self.busy.remove(&key);
        self.keys.insert(key, state);
        self.pump(now, out);
        Settled { key, accepted: matches!(state, State::Accepted { .. }) }
    }

    fn pump(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(challenge) = &self.challenge else { return };
        while self.busy.len() < IN_FLIGHT_MAX {
            let Some(key) = self.queue.pop_front() else { return };
            self.keys.insert(key, State::Busy);
            self.busy.insert(key, now + ANSWER_TIMEOUT);
            out.push(Action::Sign { key, challenge: challenge.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::{EventBuilder, Keys, RelayUrl};

    use super::*;

    fn signed(keys: &Keys) -> Event {
        let url = RelayUrl::parse("ws://relay.example").unwrap();
        EventBuilder::auth("c", url).sign_with_keys(keys).unwrap()
    }

    fn asked(out: &[Action]) -> Vec<PublicKey> {
        out.iter().filter_map(|a| if let Action::Sign { key, .. } = a { Some(*key) } else { None }).collect()
    }

    #[test]
    fn several_keys_authenticate_side_by_side() {
        let (now, mut auth, mut out) = (Instant::now(), Auth::default(), Vec::new());
        let keys: Vec<_> = (0..3).map(|_| Keys::generate()).collect();
        let open = auth.want(keys.iter().map(Keys::public_key), now, &mut out);
        assert_eq!(open.len(), 3);
        assert_eq!(asked(&out), [], "signed before there was a challenge");
        auth.challenge("c".into(), now, &mut out);
        assert_eq!(asked(&out).len(), 3);
        let events: Vec<_> = keys.iter().map(signed).collect();
        for (keys, event) in keys.iter().zip(&events) {
            assert_eq!(auth.signed(keys.public_key(), Ok(event.clone()), now, &mut out), None);
        }
        let settled = auth.ok(&events[1].id, false, "restricted: no", now, &mut out);
        assert_eq!(settled, Some(Settled { key: keys[1].public_key(), accepted: false }));
        auth.ok(&events[0].id, true, "", now, &mut out);
        assert!(auth.is_accepted(&keys[0].public_key()));
        assert!(auth.is_refused(&keys[1].public_key()));
        assert!(auth.is_busy());
        let open = auth.want(keys.iter().map(Keys::public_key), now, &mut out);
        assert_eq!(open, HashSet::from([keys[2].public_key()]));
    }

    #[test]
    fn no_more_than_the_limit_are_in_flight() {
        let (now, mut auth, mut out) = (Instant::now(), Auth::default(), Vec::new());
        auth.challenge("c".into(), now, &mut out);
        let keys: Vec<_> = (0..IN_FLIGHT_MAX + 5).map(|_| Keys::generate()).collect();
        auth.want(keys.iter().map(Keys::public_key), now, &mut out);
        assert_eq!(asked(&out).len(), IN_FLIGHT_MAX);
        let first = keys[0].public_key();
        let settled = auth.signed(first, Err("away".into()), now, &mut out);
        assert_eq!(settled, Some(Settled { key: first, accepted: false }));
        assert_eq!(asked(&out).len(), IN_FLIGHT_MAX + 1);
    }

    #[test]
    fn a_signer_that_was_away_is_asked_again_later() {
        let (now, mut auth, mut out) = (Instant::now(), Auth::default(), Vec::new());
        let key = Keys::generate().public_key();
        auth.challenge("c".into(), now, &mut out);
        auth.want([key], now, &mut out);
        let late = now + ANSWER_TIMEOUT;
        assert_eq!(auth.tick(late, &mut out), [Settled { key, accepted: false }]);
        assert_eq!(asked(&out).len(), 1);
        auth.tick(late + RETRY_AFTER, &mut out);
        assert_eq!(asked(&out).len(), 2);
    }

    #[test]
    fn a_new_challenge_makes_an_accepted_key_sign_again_only_when_wanted() {
        let (now, mut auth, mut out) = (Instant::now(), Auth::default(), Vec::new());
        let keys = Keys::generate();
        auth.challenge("c".into(), now, &mut out);
        auth.want([keys.public_key()], now, &mut out);
        let event = signed(&keys);
        auth.signed(keys.public_key(), Ok(event.clone()), now, &mut out);
        auth.ok(&event.id, true, "", now, &mut out);
        assert!(auth.want([keys.public_key()], now, &mut out).is_empty());
        auth.challenge("d".into(), now, &mut out);
        assert_eq!(asked(&out).len(), 1);
        assert_eq!(auth.want([keys.public_key()], now, &mut out).len(), 1);
        assert_eq!(asked(&out).len(), 2);
    }
}
