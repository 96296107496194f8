//! The client's side of one reconciliation (NIP-77): which of a relay's events the node has not dealt with.
//!
//! Pure: messages in, messages out. Fingerprints of large sets take tens of milliseconds, so the caller runs a
//! step where it may block.

use std::collections::HashSet;

use ::negentropy::{Id, Negentropy, NegentropyStorageVector};
use oa_nips::nostr::EventId;

/// Bytes of a message of ours. 60,000: twice that in hex is under strfry's 128 KiB for a websocket message.
const FRAME_BYTES_MAX: u64 = 60_000;
/// Messages of one reconciliation. 1,000: a million differences need some 600.
const ROUNDS_MAX: usize = 1_000;

/// Why a reconciliation gave up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the relay's message is no reconciliation")]
    Protocol(#[source] ::negentropy::Error),
    #[error("the relay's message is not hex")]
    Hex,
    #[error("no end after {ROUNDS_MAX} messages")]
    Endless,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send this and wait for the answer.
    Ask(Vec<u8>),
    /// The sets have been compared.
    Done,
}

/// One reconciliation.
pub(super) struct Reconciler {
    negentropy: Negentropy<'static, NegentropyStorageVector>,
    seen: HashSet<EventId>,
    needed: Vec<EventId>,
    needed_max: usize,
    rounds: usize,
}

impl std::fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconciler").field("needed", &self.needed.len()).finish_non_exhaustive()
    }
}

impl Reconciler {
    /// Begins with what the node has: (`created_at`, id). Stops early once `needed_max` ids are known to be missing.
    ///
    /// # Errors
    /// [`Error::Protocol`], for a set that cannot be encoded.
    pub(super) fn start(
        has: impl IntoIterator<Item = (u64, EventId)>,
        needed_max: usize,
    ) -> Result<(Self, Vec<u8>), Error> {
        let mut storage = NegentropyStorageVector::new();
        for (at, id) in has {
            storage.insert(at, Id::from_byte_array(id.to_bytes())).map_err(Error::Protocol)?;
        }
        storage.seal().map_err(Error::Protocol)?;
        let mut negentropy = Negentropy::owned(storage, FRAME_BYTES_MAX).map_err(Error::Protocol)?;
        let first = negentropy.initiate().map_err(Error::Protocol)?;
        let (seen, needed) = (HashSet::new(), Vec::new());
        Ok((Self { negentropy, seen, needed, needed_max, rounds: 0 }, first))
    }

    /// Takes the relay's message, in hex.
    ///
    /// # Errors
    /// When it is none, or there is no end to them.
    pub(super) fn step(&mut self, message: &str) -> Result<Step, Error> {
        self.rounds += 1;
        if self.rounds > ROUNDS_MAX {
            return Err(Error::Endless);
        }
        let message = super::wire::from_hex(message).ok_or(Error::Hex)?;
        let (mut have, mut need) = (Vec::new(), Vec::new());
        let next =
            self.negentropy.reconcile_with_ids(&message, &mut have, &mut need).map_err(Error::Protocol)?;
        for id in need {
            let id = EventId::from_byte_array(*id);
            if self.needed.len() < self.needed_max && self.seen.insert(id) {
                self.needed.push(id);
            }
        }
        Ok(match next {
            Some(next) if !self.is_full() => Step::Ask(next),
            _ => Step::Done,
        })
    }

    /// Whether it stopped at the limit; there may be more.
    pub(super) fn is_full(&self) -> bool {
        self.needed.len() >= self.needed_max
    }

    /// What the relay has and the node has not, about in order of time.
    pub(super) fn into_needed(self) -> Vec<EventId> {
        self.needed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> EventId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
        bytes[4..8].copy_from_slice(&n.to_be_bytes());
        EventId::from_byte_array(bytes)
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn relay(ids: impl Iterator<Item = u32>) -> Negentropy<'static, NegentropyStorageVector> {
        let mut storage = NegentropyStorageVector::new();
        ids.for_each(|n| storage.insert(u64::from(n), Id::from_byte_array(id(n).to_bytes())).unwrap());
        storage.seal().unwrap();
        Negentropy::owned(storage, 60_000).unwrap()
    }

    fn reconcile(
        ours: impl Iterator<Item = u32>,
        theirs: impl Iterator<Item = u32>,
        max: usize,
    ) -> Vec<EventId> {
        let mut relay = relay(theirs);
        let (mut client, mut message) = Reconciler::start(ours.map(|n| (u64::from(n), id(n))), max).unwrap();
        loop {
            let answer = hex(&relay.reconcile(&message).unwrap());
            match client.step(&answer).unwrap() {
                Step::Ask(next) => message = next,
                Step::Done => break client.into_needed(),
            }
        }
    }

    #[test]
    fn exactly_what_is_missing_is_found() {
        let mut missing = reconcile((0..20_000).filter(|n| n % 7 != 0), 0..20_000, usize::MAX);
        let mut expected: Vec<_> = (0..20_000).filter(|n| n % 7 == 0).map(id).collect();
        missing.sort();
        expected.sort();
        assert_eq!(missing, expected);
    }

    #[test]
    fn equal_sets_need_nothing() {
        assert_eq!(reconcile(0..500, 0..500, 10), []);
        assert_eq!(reconcile(0..0, 0..0, 10), []);
    }

    #[test]
    fn it_stops_at_the_limit() {
        assert_eq!(reconcile(0..0, 0..50_000, 1_000).len(), 1_000);
    }

    #[test]
    fn garbage_is_an_error() {
        let (mut client, _) = Reconciler::start([], 10).unwrap();
        assert!(matches!(client.step("xyz"), Err(Error::Hex)));
        assert!(matches!(client.step("00ff"), Err(Error::Protocol(_))));
        assert!(matches!(client.step(""), Err(Error::Protocol(_))));
        assert!(matches!(client.step("6100000200000000000000"), Ok(_) | Err(Error::Protocol(_))));
    }
}
