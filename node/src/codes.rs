//! Codes that people read to each other: six letters of base32, hard to mistake.

use oa_nips::hex::{Hash, Hex};
use oa_nips::nostr::Keys;
use oa_nips::nostr::hashes::{Hash as _, sha256};

/// RFC 4648 base32: no 0, 1 or 8.
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Letters of a code: 30 bits, for something that is watched and short-lived.
const LETTERS: usize = 6;

/// A fresh code.
pub fn code() -> String {
    random()
        .iter()
        .take(LETTERS)
        .filter_map(|byte| ALPHABET.get(usize::from(byte % 32)))
        .map(|c| char::from(*c))
        .collect()
}

/// What is stored of a code: the SHA-256 of its letters in upper case, without anything else in it.
pub fn digest(code: &str) -> Hash {
    let letters: String = code.chars().filter(char::is_ascii_alphanumeric).collect();
    Hex(sha256::Hash::hash(letters.to_ascii_uppercase().as_bytes()).to_byte_array())
}

/// Whether the digest of something in a text that could be a code is meant, however the letters are set apart: `ABC-DEF`,
/// `a b c d e f`.
pub(crate) fn any_within(text: &str, is_meant: impl Fn(&Hash) -> bool) -> bool {
    let letters: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
    let letters = letters.to_ascii_uppercase();
    let codes = (0..).map_while(|at| letters.get(at..at + LETTERS));
    codes.filter(|code| code.bytes().all(|c| ALPHABET.contains(&c))).any(|code| is_meant(&digest(code)))
}

/// Thirty-two bytes of the operating system's randomness.
pub fn random() -> [u8; 32] {
    // A secret key is uniform but for a part in 2^128, and is the randomness the Nostr stack gives us.
    Keys::generate().secret_key().to_secret_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_letters_and_are_read_leniently() {
        let code = code();
        assert_eq!(code.len(), LETTERS);
        assert!(code.bytes().all(|c| ALPHABET.contains(&c)));
        let spoken = format!(" {}-{} ", &code[..3].to_lowercase(), &code[3..]);
        assert_eq!(digest(&spoken), digest(&code));
        assert_ne!(digest("AAAAAA"), digest("AAAAAB"));
    }
}
