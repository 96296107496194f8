//! Fixed-size byte strings that travel as lower-case hex: ids, hashes, salts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `N` bytes, written as `2 × N` lower-case hex digits in JSON and on terminals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex<const N: usize>(pub [u8; N]);

/// A SHA-256 hash.
pub type Hash = Hex<32>;

/// A string that is not `2 × N` hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hex digits, got {got} characters or a character that is none")]
pub struct ParseError {
    expected: usize,
    got: usize,
}

impl<const N: usize> Hex<N> {
    /// All zeros: the hash before the first of a chain.
    pub const ZERO: Self = Self([0; N]);

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }

    /// Takes `N` bytes, or nothing of any other length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl<const N: usize> Hex<N> {
    /// The digits in pairs: every record and row has many of these, so they cost no allocation.
    fn digits(&self) -> [[u8; 2]; N] {
        let letter = |digit: u8| if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
        self.0.map(|byte| [letter(byte >> 4), letter(byte & 0xf)])
    }
}

fn text(digits: &[[u8; 2]]) -> &str {
    std::str::from_utf8(digits.as_flattened()).expect("hex digits are ASCII")
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(text(&self.digits()))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> FromStr for Hex<N> {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = ParseError { expected: 2 * N, got: text.chars().count() };
        let mut out = [0; N];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != N || !rest.is_empty() {
            return Err(wrong);
        }
        for (byte, [high, low]) in out.iter_mut().zip(pairs) {
            let (Some(high), Some(low)) = (digit(*high), digit(*low)) else { return Err(wrong) };
            *byte = high << 4 | low;
        }
        Ok(Self(out))
    }
}

fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text(&self.digits()))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refuses_everything_else() {
        let hex: Hex<4> = "00ff10ab".parse().unwrap();
        assert_eq!(hex.0, [0, 255, 16, 171]);
        assert_eq!(hex.to_string(), "00ff10ab");
        for bad in ["", "00ff10a", "00ff10abc", "00ff10abcc", "00FF10AB", "zzzzzzzz", "00ff1é"] {
            assert!(bad.parse::<Hex<4>>().is_err(), "{bad}");
        }
    }
}
