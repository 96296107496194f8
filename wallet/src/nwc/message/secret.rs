//! Payment hashes and preimages as NIP-47 writes them: hex, which some wallets write in capitals.

use std::str::FromStr;

use oa_nips::hex::{Hex, ParseError};
use serde::{Deserialize, Deserializer, Serializer};

use crate::backend::{PaymentHash, Preimage};

/// Reads a payment hash, in capitals or not.
///
/// # Errors
/// When it is not 64 hex digits.
pub fn parse_hash(text: &str) -> Result<PaymentHash, ParseError> {
    Hex::<32>::from_str(&text.to_ascii_lowercase()).map(|hex| PaymentHash::from_bytes(hex.0))
}

/// Reads a preimage, in capitals or not.
///
/// # Errors
/// When it is not 64 hex digits.
pub fn parse_preimage(text: &str) -> Result<Preimage, ParseError> {
    Hex::<32>::from_str(&text.to_ascii_lowercase()).map(|hex| Preimage(hex.0))
}

pub(crate) mod hash {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(hash: &PaymentHash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(hash)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PaymentHash, D::Error> {
        parse_hash(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

pub(crate) mod hash_option {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        hash: &Option<PaymentHash>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match hash {
            Some(hash) => serializer.collect_str(hash),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PaymentHash>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty());
        text.map(|text| parse_hash(&text)).transpose().map_err(serde::de::Error::custom)
    }
}

pub(crate) mod preimage {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(preimage: &Preimage, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&preimage.reveal())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Preimage, D::Error> {
        // The message of a parse error names the length alone.
        parse_preimage(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

pub(crate) mod preimage_option {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        preimage: &Option<Preimage>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match preimage {
            Some(preimage) => serializer.collect_str(&preimage.reveal()),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Preimage>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty());
        text.map(|text| parse_preimage(&text)).transpose().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capitals_are_read_and_preimages_are_not_printed() {
        let zero = Preimage([0; 32]);
        let hash = "66687AADF862BD776C8FC18B8E9F8E20089714856EE233B3902A591D0D5F2925";
        assert_eq!(parse_hash(hash).unwrap(), zero.hash());
        assert!(!format!("{zero:?}").contains("00"));
        let error = parse_preimage("7777").unwrap_err().to_string();
        assert!(!error.contains("7777"), "{error}");
    }
}
