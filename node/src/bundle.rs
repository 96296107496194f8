//! Bundles: a whole agent in one file, but for its key.
//!
//! A bundle is lines of JSON in a fixed order (docs/bundle.md), closed by the SHA-256 of all that stands before and a
//! signature by the key of the node that made it. The agent's own key would prove nothing: its program can have
//! anything signed by `/identity/sign`.
//!
//! - [`gather`]: reads an agent out of a store; [`open`] reads a bundle, and believes nothing that is not whole
//! - [`admit`]: what a bundle becomes in the store that takes it in, restored or as a clone
//! - `restoring`: what a restored agent waits for before its first tick; `answered` finds what it answered
//! - [`rebuild`]: a node's agents from its seed alone

pub mod admit;
mod answered;
pub mod gather;
pub mod open;
pub mod rebuild;
pub(crate) mod restoring;
pub(crate) mod shelf;

use oa_nips::hex::{Hash, Hex};
use oa_nips::nostr::PublicKey;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_nips::nostr::secp256k1::schnorr::Signature;
use oa_nips::port::{Signer, SignerError};
use oa_nips::record::{Head, Record, SessionId};
use oa_nips::signed::DataDigest;
use serde::{Deserialize, Serialize};

use crate::agent::alarm::Alarm;
use crate::agent::envelope::EnvelopeId;
use crate::agent::mailbox::Peer;
use crate::agent::{AgentId, Lifecycle};
use crate::store::row::{Blob, DeadLetter, JournalRow, OutRow, Waiting};
use crate::store::write::Holdings;

/// The version of the format.
pub const VERSION: u64 = 1;
/// The largest bundle, in bytes. 64 MiB: a few copies of it fit into the memory of a small server.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;
/// The newest records that go along.
pub const RECORDS_MAX: usize = 1000;
/// Why an agent is stopped that was exported to go on elsewhere.
pub const MIGRATED: &str = "migrated";
/// Stands before the digest that is signed.
const SIGNED: &[u8] = b"oa/bundle/v1\0";

/// A whole agent but for its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Who it is and where it stands.
    pub about: About,
    /// In TOML, as it was.
    pub manifest: String,
    /// All it has.
    pub holdings: Holdings,
}

/// The first line of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// [`VERSION`].
    pub v: u64,
    /// When it was made, in milliseconds since 1970.
    pub exported_at_ms: u64,
    /// The node that made it. Its seed has the agent's key.
    pub node: PublicKey,
    /// The agent's number there, from which its key is derived.
    pub number: AgentId,
    /// Its address.
    pub pubkey: PublicKey,
    pub name: String,
    pub owner: Option<PublicKey>,
    /// How it goes on. Of one that was stopped to go on elsewhere: dormant.
    pub lifecycle: Lifecycle,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it was stopped for good where it was, before this was made.
    pub migrated: bool,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// Older mail is refused; what is newer and was taken in is listed. Seconds since 1970.
    pub floor_s: u64,
    /// Its trajectory, and where its chain of records stands.
    pub session: SessionId,
    pub head: Head,
    pub published: u64,
    pub failures: u32,
    /// Seconds since 1970.
    pub profiled_at_s: u64,
    /// The next places of its lists; of the refused, also how many there were.
    pub inbox_next: u64,
    pub outbox_next: u64,
    pub letters_next: u64,
    pub refused_next: u64,
}

/// A line of a bundle.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Bundle(Box<About>),
    Manifest { toml: String },
    File { path: String, content: Blob },
    Alarm { id: String, alarm: Alarm },
    Peer { key: PublicKey, peer: Peer },
    Seen { id: EnvelopeId, sent_at_s: u64 },
    Inbox { n: u64, waiting: Box<Waiting> },
    Letter { n: u64, letter: Box<DeadLetter> },
    Journal { envelope: EnvelopeId, ordinal: u32, row: Box<JournalRow> },
    Outbox { n: u64, item: Box<OutRow> },
    Record(Box<Record>),
    End(End),
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    /// Of every byte before this line.
    sha256: Hash,
    /// By [`About::node`].
    signature: Signature,
}

/// Why a bundle is not made.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("the agent needs {0} bytes as a bundle, {BYTES_MAX} are allowed: let it forget something")]
    TooLarge(usize),
    #[error("the bundle cannot be signed")]
    Signer(#[from] SignerError),
}

impl Bundle {
    /// The bytes of the bundle, signed by the node that makes it.
    ///
    /// # Errors
    /// When it is too large, or the signer does not sign.
    pub async fn seal(self, node: &dyn Signer) -> Result<Vec<u8>, SealError> {
        let mut bytes = Vec::new();
        for line in self.lines() {
            write(&mut bytes, &line);
            if bytes.len() > BYTES_MAX {
                return Err(SealError::TooLarge(bytes.len()));
            }
        }
        let sha256 = digest(&bytes);
        let signature = node.sign_data(to_be_signed(&sha256)).await?;
        write(&mut bytes, &Line::End(End { sha256, signature }));
        if bytes.len() > BYTES_MAX {
            return Err(SealError::TooLarge(bytes.len()));
        }
        Ok(bytes)
    }

    /// Every line but the last, in order.
    fn lines(self) -> impl Iterator<Item = Line> {
        let Self { about, manifest, holdings } = self;
        let Holdings { files, alarms, peers, seen, inbox, letters, journal, outbox, records } = holdings;
        [Line::Bundle(Box::new(about)), Line::Manifest { toml: manifest }]
            .into_iter()
            .chain(files.into_iter().map(|(path, content)| Line::File { path, content: Blob(content) }))
            .chain(alarms.into_iter().map(|(id, alarm)| Line::Alarm { id, alarm }))
            .chain(peers.into_iter().map(|(key, peer)| Line::Peer { key, peer }))
            .chain(seen.into_iter().map(|(id, sent_at_s)| Line::Seen { id, sent_at_s }))
            .chain(inbox.into_iter().map(|(n, waiting)| Line::Inbox { n, waiting: Box::new(waiting) }))
            .chain(letters.into_iter().map(|(n, letter)| Line::Letter { n, letter: Box::new(letter) }))
            .chain(journal.into_iter().map(|(envelope, ordinal, row)| Line::Journal {
                envelope,
                ordinal,
                row: Box::new(row),
            }))
            .chain(outbox.into_iter().map(|(n, item)| Line::Outbox { n, item: Box::new(item) }))
            .chain(records.into_iter().map(|record| Line::Record(Box::new(record))))
    }
}

/// A row that was in a store is JSON: that it becomes JSON again does not fail.
fn write(bytes: &mut Vec<u8>, line: &Line) {
    bytes.extend(serde_json::to_vec(line).unwrap_or_default());
    bytes.push(b'\n');
}

/// SHA-256.
pub(crate) fn digest(bytes: &[u8]) -> Hash {
    Hex(sha256::Hash::hash(bytes).to_byte_array())
}

/// A sentence of an error and all its sources.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn to_be_signed(sha256: &Hash) -> DataDigest {
    DataDigest::of(&[SIGNED, sha256.as_bytes()].concat())
}

#[cfg(test)]
mod tests;
