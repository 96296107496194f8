//! Tick records: what an agent did, as a chain of hashes.
//!
//! A record is a [`Header`] of salted digests, one per field, beside the [`Fields`] themselves. The chain runs over
//! headers, so a field can be redacted (dropped with its salt) and the chain still holds. All JSON that is hashed is
//! canonical (RFC 8785, integers only), so that a second implementation computes the same bytes.
//! `docs/protocol.md` has the format, `vectors/record.json` the golden values.

mod canonical;
mod chain;

use std::collections::BTreeMap;

use nostr::hashes::{Hash as _, HashEngine, Hmac, HmacEngine, sha256};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use self::canonical::object;
pub use self::canonical::{INTEGER_MAX, canonical};
use self::canonical::{canonical_value, exact, is_exact};
pub use self::chain::Chain;
use crate::hex::{Hash, Hex};

/// The largest record, fields and header together, in bytes of JSON.
pub const RECORD_BYTES_MAX: usize = 16 * 1024;

/// Names a trajectory: 16 random bytes, fixed at an agent's creation.
pub type SessionId = Hex<16>;
/// Makes a field's digest unguessable for who has not been given the field.
pub type Salt = Hex<16>;

/// The fields of one record by name, each a JSON value.
pub type Fields = BTreeMap<String, Value>;

/// What the chain is made of. A header with a key that is not here is refused: its hash would not cover it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    #[error("record {seq}: field {field} has a number that is no integer of 53 bits")]
    Number { seq: u64, field: String },
    #[error("record {seq}: format version {version} is not known")]
    Version { seq: u64, version: u8 },
    #[error("record {seq} is of another agent or session")]
    Foreign { seq: u64 },
    #[error("record {seq} is over {RECORD_BYTES_MAX} bytes")]
    TooLarge { seq: u64 },
    #[error("record {seq} lies beyond the last number of a chain, {INTEGER_MAX}")]
    End { seq: u64 },
}

impl Record {
    /// Binds `fields` to the chain after `head`. Salts are derived from `seed`, which must be secret.
    ///
    /// Numbers that a reader might not hold exactly (fractions, integers over [`INTEGER_MAX`]) become strings.
    pub fn new(
        agent: Hash,
        session: SessionId,
        head: &Head,
        state: Hash,
        fields: Fields,
        seed: &[u8; 32],
    ) -> Self {
        let fields: Fields = fields.into_iter().map(|(name, value)| (name, exact(value))).collect();
        let salts: BTreeMap<_, _> =
            fields.keys().map(|name| (name.clone(), salt(seed, head.seq, name))).collect();
        let digests = fields
            .iter()
            .zip(salts.values())
            .map(|((name, value), salt)| (name.clone(), field_digest(salt, name, value)))
            .collect();
        let header = Header { v: 1, agent, digests, prev: head.hash, seq: head.seq, session, state };
        Self { header, fields, salts }
    }

    /// The chain's head after this record, which is taken to belong where it stands; [`Record::verify`] checks that.
    pub fn head(&self) -> Head {
        let Header { seq, state, .. } = self.header;
        Head { seq: seq.saturating_add(1), hash: self.header.hash(), state }
    }

    /// Drops a field and its salt; the chain still verifies.
    pub fn redact(&mut self, field: &str) {
        self.fields.remove(field);
        self.salts.remove(field);
    }

    /// Checks the record against the chain's head and answers the new head.
    ///
    /// # Errors
    /// When sequence, previous hash, version or a shown field's digest is wrong. Whose record it is, is for
    /// [`Chain`] to check.
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
        let next = seq.checked_add(1).filter(|next| *next <= INTEGER_MAX).ok_or(ChainError::End { seq })?;
        for (name, value) in &self.fields {
            if !is_exact(value) {
                return Err(ChainError::Number { seq, field: name.clone() });
            }
            let shown = self.salts.get(name).map(|salt| field_digest(salt, name, value));
            if shown.is_none() || shown.as_ref() != self.header.digests.get(name) {
                return Err(ChainError::Field { seq, field: name.clone() });
            }
        }
        Ok(Head { seq: next, hash: self.header.hash(), state })
    }
}

impl Header {
    /// SHA-256 over `oa/record/v1`, a zero byte and the canonical JSON of the header.
    pub fn hash(&self) -> Hash {
        tagged("oa/record/v1", &[self.canonical().as_bytes()])
    }

    /// What [`canonical`] makes of it, without a value in between where the names of the fields sort as they are.
    fn canonical(&self) -> String {
        let Self { v, agent, digests, prev, seq, session, state } = self;
        if !digests.keys().all(|name| name.is_ascii()) {
            return canonical(self);
        }
        let sorted = Sorted { agent, digests, prev, seq: *seq, session, state, v: *v };
        serde_json::to_string(&sorted).expect("a header has string keys")
    }
}

/// A header with its keys in canonical order.
#[derive(Serialize)]
struct Sorted<'a> {
    agent: &'a Hash,
    digests: &'a BTreeMap<String, Hash>,
    prev: &'a Hash,
    seq: u64,
    session: &'a SessionId,
    state: &'a Hash,
    v: u8,
}

/// One change of a tick to its agent's state: the path, and the new content or its removal.
pub type Change<'a> = (&'a str, Option<&'a [u8]>);

/// The state after a tick: SHA-256 over `oa/state/v1`, a zero byte, the state before and the changes sorted by the
/// bytes of their paths, each as path length (u32, big endian), path, a byte (1 present, 0 removed) and the
/// content's SHA-256 (of nothing where it was removed). A path comes once.
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

fn field_digest(salt: &Salt, name: &str, value: &Value) -> Hash {
    tagged("oa/field/v1", &[salt.as_bytes(), name.as_bytes(), b"\0", canonical_value(value).as_bytes()])
}

/// The record's number is in it, since a tick that is run again has the seed of the first.
fn salt(seed: &[u8; 32], seq: u64, name: &str) -> Salt {
    let mut engine = HmacEngine::<sha256::Hash>::new(seed);
    engine.input(b"oa/salt/v1\0");
    engine.input(&seq.to_be_bytes());
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
mod tests;
