//! Time and randomness inside a tick: fixed by the envelope, so that a tick can be run again and gives the same.

use std::cell::Cell;

use oa_nips::nostr::hashes::{Hash as _, HashEngine, Hmac, HmacEngine, sha256};

/// The clock of one tick: starts when the envelope was accepted and moves one microsecond with each reading.
#[derive(Debug, Clone)]
pub struct Clock {
    now_us: Cell<u64>,
}

impl Clock {
    /// A clock that starts at `accepted_at_ms`, milliseconds since 1970.
    pub fn new(accepted_at_ms: u64) -> Self {
        Self { now_us: Cell::new(accepted_at_ms.saturating_mul(1000)) }
    }

    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        let now_us = self.now_us.get();
        self.now_us.set(now_us.saturating_add(1));
        now_us / 1000
    }
}

/// The randomness of one tick: an HMAC-SHA256 stream under a seed that the agent's key and the envelope fix.
#[derive(Clone)]
pub struct Random {
    seed: [u8; 32],
    block: u64,
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Random {{ block: {} }}", self.block)
    }
}

impl Random {
    /// `secret` is the agent's randomness secret, `envelope` the id of what woke it.
    pub fn new(secret: &[u8; 32], envelope: &[u8; 32]) -> Self {
        Self { seed: hmac(secret, &[b"oa/random/v1\0", envelope]), block: 0 }
    }

    /// The seed itself, from which record salts are derived.
    pub(crate) fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// Fills `out` with the next bytes of the stream; a call uses whole blocks of 32.
    pub fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            let block = hmac(&self.seed, &[&self.block.to_be_bytes()]);
            self.block += 1;
            chunk.iter_mut().zip(block).for_each(|(to, from)| *to = from);
        }
    }
}

/// HMAC-SHA256 over the concatenation of `parts`.
pub(crate) fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut engine = HmacEngine::<sha256::Hash>::new(key);
    parts.iter().for_each(|part| engine.input(part));
    Hmac::<sha256::Hash>::from_engine(engine).to_byte_array()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_envelope_gives_the_same_time_and_randomness() {
        let run = |secret: u8, envelope: u8| {
            let mut random = Random::new(&[secret; 32], &[envelope; 32]);
            let mut bytes = [0; 40];
            random.fill(&mut bytes);
            bytes
        };
        assert_eq!(run(1, 2), run(1, 2));
        assert_ne!(run(1, 2), run(1, 3));
        assert_ne!(run(1, 2), run(4, 2));
        let clock = Clock::new(5_000);
        assert!((0..1000).all(|_| clock.now_ms() == 5_000));
        assert_eq!(clock.now_ms(), 5_001);
    }

    #[test]
    fn randomness_is_as_the_protocol_says() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../nips/vectors/record.json")).unwrap();
        let hex = |value: &serde_json::Value| -> Vec<u8> {
            let text = value.as_str().unwrap().as_bytes();
            text.chunks(2)
                .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
                .collect()
        };
        let cases = vectors["randomness"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let id = |name: &str| <[u8; 32]>::try_from(hex(&case["given"][name])).unwrap();
            let mut random = Random::new(&id("secret"), &id("envelope"));
            assert_eq!(random.seed().to_vec(), hex(&case["gives"]["seed"]));
            let expected = hex(&case["gives"]["stream"]);
            let mut bytes = vec![0; expected.len()];
            random.fill(&mut bytes);
            assert_eq!(bytes, expected);
        }
    }
}
