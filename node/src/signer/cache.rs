//! NIP-44 conversation keys that were worked out lately.
//!
//! One costs a multiplication on the curve, some 30 µs, twenty times what the rest of encrypting a short message does;
//! the same two keys meet again and again. Shared by all signers of a process, so that its size does not grow with
//! the agents.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use oa_nips::nostr::nips::nip44::v2::ConversationKey;
use oa_nips::nostr::{Keys, PublicKey};
use oa_nips::port::SignerError;

/// Conversations kept by default: some 300 bytes each. Half of them are spent on the keys of gift wraps, each of
/// which is used once.
const CONVERSATIONS: usize = 4096;

/// Whose key, and whose other.
type Pair = (PublicKey, PublicKey);

/// The conversation keys used last. A cheap handle.
#[derive(Clone)]
pub struct Conversations(Arc<Mutex<Generations>>);

/// Two maps: what is used is in `young`; when that is full it becomes `old`, and what was `old` and not used since
/// is gone. So the ones used last are kept without a list of their order.
struct Generations {
    young: HashMap<Pair, ConversationKey>,
    old: HashMap<Pair, ConversationKey>,
    young_max: usize,
}

impl Default for Conversations {
    fn default() -> Self {
        Self::new(CONVERSATIONS)
    }
}

impl Conversations {
    /// Keeps at most `max` conversations, and the last half of them for certain.
    pub fn new(max: usize) -> Self {
        let young_max = (max / 2).max(1);
        Self(Arc::new(Mutex::new(Generations { young: HashMap::new(), old: HashMap::new(), young_max })))
    }

    /// The conversation key of `keys` with `peer`.
    ///
    /// # Errors
    /// [`SignerError::Refused`] when `peer` is no key.
    pub(super) fn key(&self, keys: &Keys, peer: &PublicKey) -> Result<ConversationKey, SignerError> {
        let pair = (keys.public_key(), *peer);
        if let Some(key) = self.lock().find(&pair) {
            return Ok(key);
        }
        // Not under the lock: at worst two threads work out the same.
        let key = ConversationKey::derive(keys.secret_key(), peer)
            .map_err(|error| SignerError::Refused(error.to_string()))?;
        self.lock().insert(pair, key);
        Ok(key)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations> {
        // Whatever a panic left behind, every entry in the maps is right.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn find(&mut self, pair: &Pair) -> Option<ConversationKey> {
        if let Some(key) = self.young.get(pair) {
            return Some(*key);
        }
        let key = self.old.remove(pair)?;
        self.insert(*pair, key);
        Some(key)
    }

    fn insert(&mut self, pair: Pair, key: ConversationKey) {
        if self.young.len() >= self.young_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(pair, key);
    }
}

impl fmt::Debug for Conversations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Conversations([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn len(cache: &Conversations) -> usize {
        let generations = cache.lock();
        generations.young.len() + generations.old.len()
    }

    fn holds(cache: &Conversations, keys: &Keys, peer: &PublicKey) -> bool {
        let generations = cache.lock();
        let pair = (keys.public_key(), *peer);
        generations.young.contains_key(&pair) || generations.old.contains_key(&pair)
    }

    #[test]
    fn what_it_gives_is_what_deriving_gives() {
        let cache = Conversations::new(4);
        let (alice, bob) = (Keys::generate(), Keys::generate());
        let derived = ConversationKey::derive(alice.secret_key(), &bob.public_key()).unwrap();
        for _ in 0..3 {
            assert!(cache.key(&alice, &bob.public_key()).unwrap() == derived);
            assert!(cache.key(&bob, &alice.public_key()).unwrap() == derived, "the same from both sides");
        }
        assert_eq!(len(&cache), 2);
    }

    #[test]
    fn two_signers_and_one_peer_are_two_conversations() {
        let cache = Conversations::new(4);
        let (alice, eve, bob) = (Keys::generate(), Keys::generate(), Keys::generate());
        let with_alice = cache.key(&alice, &bob.public_key()).unwrap();
        assert!(cache.key(&eve, &bob.public_key()).unwrap() != with_alice);
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let cache = Conversations::new(8);
        let (alice, friend) = (Keys::generate(), Keys::generate().public_key());
        for _ in 0..50 {
            cache.key(&alice, &friend).unwrap();
            cache.key(&alice, &Keys::generate().public_key()).unwrap();
            assert!(len(&cache) <= 8);
            assert!(holds(&cache, &alice, &friend));
        }
    }

    #[test]
    fn what_is_not_used_goes() {
        let cache = Conversations::new(8);
        let (alice, friend) = (Keys::generate(), Keys::generate().public_key());
        cache.key(&alice, &friend).unwrap();
        for _ in 0..8 {
            cache.key(&alice, &Keys::generate().public_key()).unwrap();
        }
        assert!(!holds(&cache, &alice, &friend));
    }

    #[test]
    fn a_key_that_is_found_is_not_worked_out_again() {
        // A planted key stays: whoever derived it anew would answer the right one.
        let cache = Conversations::new(4);
        let (alice, bob) = (Keys::generate(), Keys::generate());
        let planted = ConversationKey::new([7; 32]);
        cache.lock().insert((alice.public_key(), bob.public_key()), planted);
        assert!(cache.key(&alice, &bob.public_key()).unwrap() == planted);
    }
}
