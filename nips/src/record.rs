//! Tick records: what an agent did, as a chain of hashes.
//!
//! A record is a [`Header`] of salted digests, one per field, beside the [`Fields`] themselves. The chain runs over
//! headers, so a field can be redacted (dropped with its salt) and the chain still holds. All JSON here is
//! canonical: keys sorted, no white space, integers only (RFC 8785), so that a second implementation computes
//! the same bytes. `docs/protocol.md` has the format, `vectors/record.json` the golden values.

use std::collections::BTreeMap;

use nostr::hashes::{Hash as _, HashEngine, Hmac, HmacEngine, sha256};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::hex::{Hash, Hex};

/// The largest record, fields and header together, in bytes of JSON.
pub const RECORD_BYTES_MAX: usize = 16 * 1024;

/// Names a trajectory: 16 random bytes, fixed at an agent's creation.
pub type SessionId = Hex<16>;
/// Makes a field's digest unguessable for who has not been given the field.
pub type Salt = Hex<16>;

/// The fields of one record by name, each a JSON value.
pub type Fields = BTreeMap<String, Value>;

/// What the chain is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of this format: 1.
    pub v: u8,
    /// The agent's public key.
    pub agent: Hash,
    /// Salted digest of each field by name.
    pub digests: BTreeMap<String, Hash>,
    /// Hash of the header before; zeros for the first.
    pub prev: Hash,
    /// Position in the session, from 0, without gaps.
    pub seq: u64,
    /// The trajectory it belongs to.
    pub session: SessionId,
    /// [`state_hash`] after the tick.
    pub state: Hash,
}

/// A header with its fields, as stored and sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Chained.
    pub header: Header,
    /// May be fewer than the header has digests of: the rest is redacted.
    pub fields: Fields,
    /// The salt of each field that is shown.
    pub salts: BTreeMap<String, Salt>,
}

/// Where a chain stands, and what the next record binds itself to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Sequence number of the next record.
    pub seq: u64,
    /// Hash of the last header.
    pub hash: Hash,
    /// State after the last record.
    pub state: Hash,
}

impl Head {
    /// Before the first record.
    pub const GENESIS: Self = Self { seq: 0, hash: Hex::ZERO, state: Hex::ZERO };
}

/// Why a record does not belong where it was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    #[error("record {got} stands where {expected} should")]
    Sequence { expected: u64, got: u64 },
    #[error("record {seq} does not name the hash of the record before it")]
    Broken { seq: u64 },
    #[error("record {seq}: field {field} does not match its digest")]
    Field { seq: u64, field: String },
    #[error("record {seq}: format version {version} is not known")]
    Version { seq: u64, version: u8 },
}

impl Record {
    /// Binds `fields` to the chain after `head`. Salts are derived from `seed`, which must be secret.
    pub fn new(
        agent: Hash,
        session: SessionId,
        head: &Head,
        state: Hash,
        fields: Fields,
        seed: &[u8; 32],
    ) -> Self {
        let salts: BTreeMap<_, _> = fields.keys().map(|name| (name.clone(), salt(seed, name))).collect();
        let digests = fields
            .iter()
            .zip(salts.values())
            .map(|((name, value), salt)| (name.clone(), field_digest(salt, name, value)))
            .collect();
        let header = Header { v: 1, agent, digests, prev: head.hash, seq: head.seq, session, state };
        Self { header, fields, salts }
    }

    /// Drops a field and its salt; the chain still verifies.
    pub fn redact(&mut self, field: &str) {
        self.fields.remove(field);
        self.salts.remove(field);
    }

    /// Checks the record against the chain's head and answers the new head.
    ///
    /// # Errors
    /// When sequence, previous hash, version or a shown field's digest is wrong.
    pub fn verify(&self, head: &Head) -> Result<Head, ChainError> {
        let Header { v, seq, prev, state, .. } = self.header;
        if v != 1 {
            return Err(ChainError::Version { seq, version: v });
        }
        if seq != head.seq {
            return Err(ChainError::Sequence { expected: head.seq, got: seq });
        }
        if prev != head.hash {
            return Err(ChainError::Broken { seq });
        }
        for (name, value) in &self.fields {
            let shown = self.salts.get(name).map(|salt| field_digest(salt, name, value));
            if shown.is_none() || shown.as_ref() != self.header.digests.get(name) {
                return Err(ChainError::Field { seq, field: name.clone() });
            }
        }
        Ok(Head { seq: seq + 1, hash: self.header.hash(), state })
    }
}

impl Header {
    /// SHA-256 over `oa/record/v1`, a zero byte and the canonical JSON of the header.
    pub fn hash(&self) -> Hash {
        tagged("oa/record/v1", &[canonical(self).as_bytes()])
    }
}

/// One change of a tick to its agent's state: the path, and the new content or its removal.
pub type Change<'a> = (&'a str, Option<&'a [u8]>);

/// The state after a tick: SHA-256 over `oa/state/v1`, a zero byte, the state before and the changes sorted by path,
/// each as path length (u32, big endian), path, a byte (1 present, 0 removed) and the content's SHA-256.
pub fn state_hash<'a>(before: &Hash, changes: impl IntoIterator<Item = Change<'a>>) -> Hash {
    let mut sorted: Vec<_> = changes.into_iter().collect();
    sorted.sort_unstable_by_key(|(path, _)| *path);
    let mut engine = sha256::HashEngine::default();
    engine.input(b"oa/state/v1\0");
    engine.input(before.as_bytes());
    for (path, content) in sorted {
        engine.input(&u32::try_from(path.len()).unwrap_or(u32::MAX).to_be_bytes());
        engine.input(path.as_bytes());
        engine.input(&[u8::from(content.is_some())]);
        engine.input(sha256::Hash::hash(content.unwrap_or_default()).as_byte_array());
    }
    Hex(sha256::Hash::from_engine(engine).to_byte_array())
}

/// The canonical JSON (RFC 8785) of anything whose numbers are integers.
pub fn canonical(value: &impl Serialize) -> String {
    // `Value` keeps objects in a BTreeMap, so keys come out sorted.
    serde_json::to_value(value).map(|value| value.to_string()).unwrap_or_default()
}

fn field_digest(salt: &Salt, name: &str, value: &Value) -> Hash {
    tagged("oa/field/v1", &[salt.as_bytes(), name.as_bytes(), b"\0", canonical(value).as_bytes()])
}

fn salt(seed: &[u8; 32], name: &str) -> Salt {
    let mut engine = HmacEngine::<sha256::Hash>::new(seed);
    engine.input(b"oa/salt/v1\0");
    engine.input(name.as_bytes());
    let mac = Hmac::<sha256::Hash>::from_engine(engine).to_byte_array();
    let (half, _) = mac.split_at(16);
    Hex::from_slice(half).unwrap_or(Hex::ZERO)
}

fn tagged(tag: &str, parts: &[&[u8]]) -> Hash {
    let mut engine = sha256::HashEngine::default();
    engine.input(tag.as_bytes());
    engine.input(b"\0");
    parts.iter().for_each(|part| engine.input(part));
    Hex(sha256::Hash::from_engine(engine).to_byte_array())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chain(n: u64) -> Vec<Record> {
        let mut head = Head::GENESIS;
        (0..n)
            .map(|seq| {
                let state = state_hash(&head.state, [("/memory/a", Some(&b"x"[..])), ("/memory/b", None)]);
                let fields = BTreeMap::from([
                    ("outcome".to_owned(), json!("done")),
                    ("text".to_owned(), json!(format!("message {seq}"))),
                ]);
                let record = Record::new(Hex([1; 32]), Hex([2; 16]), &head, state, fields, &[7; 32]);
                head = record.verify(&head).unwrap();
                record
            })
            .collect()
    }

    fn verify(records: &[Record]) -> Result<Head, ChainError> {
        records.iter().try_fold(Head::GENESIS, |head, record| record.verify(&head))
    }

    #[test]
    fn a_chain_verifies_and_every_tampering_shows() {
        let records = chain(4);
        assert_eq!(verify(&records).unwrap().seq, 4);

        let mut changed = records.clone();
        changed[1].fields.insert("text".into(), json!("never said"));
        assert_eq!(verify(&changed), Err(ChainError::Field { seq: 1, field: "text".into() }));

        let mut dropped = records.clone();
        dropped.remove(2);
        assert_eq!(verify(&dropped), Err(ChainError::Sequence { expected: 2, got: 3 }));

        let mut rewritten = records.clone();
        rewritten[1].header.state = Hex([9; 32]);
        assert_eq!(verify(&rewritten), Err(ChainError::Broken { seq: 2 }));
    }

    #[test]
    fn redaction_keeps_the_chain() {
        let mut records = chain(3);
        records[1].redact("text");
        assert!(!serde_json::to_string(&records[1]).unwrap().contains("message 1"));
        assert!(verify(&records).is_ok());
    }

    #[test]
    fn the_state_hash_does_not_depend_on_the_order_of_changes() {
        let (a, b) = (("/memory/a", Some(&b"1"[..])), ("/memory/b", None));
        assert_eq!(state_hash(&Hex::ZERO, [a, b]), state_hash(&Hex::ZERO, [b, a]));
        assert_ne!(state_hash(&Hex::ZERO, [a, b]), state_hash(&Hex::ZERO, [a]));
        // An empty file and a removed one differ.
        assert_ne!(
            state_hash(&Hex::ZERO, [("/memory/b", Some(&b""[..]))]),
            state_hash(&Hex::ZERO, [("/memory/b", None)])
        );
    }
}
