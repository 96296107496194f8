//! What the tables hold: rows as JSON, keys as big-endian bytes that sort as they should.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oa_nips::hex::{Hash, Hex};
use oa_nips::mail::Draft;
use oa_nips::mail::Protocol;
use oa_nips::nostr::{Event, PublicKey, RelayUrl, UnsignedEvent};
use oa_nips::record::{Head, SessionId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::agent::envelope::{Envelope, EnvelopeId};
use crate::agent::mailbox::Refusal;
use crate::agent::{AgentId, Lifecycle};
use crate::namespace::journal::Line;

/// An agent: all that is kept of it between ticks but its files and manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRow {
    /// Its number.
    pub id: AgentId,
    /// Unique in the node.
    pub name: String,
    /// Its address.
    pub pubkey: PublicKey,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// What it waits for.
    pub lifecycle: Lifecycle,
    /// Why, where that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Grows with each change of this row that a tick must not overlook.
    pub version: u64,
    /// The lease under which it ticks.
    pub lease_epoch: u64,
    /// Whom it obeys.
    pub owner: Option<PublicKey>,
    /// The one-time code that makes an owner, hashed, and until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// Rumors dated before this are refused: seconds since 1970.
    pub floor_s: u64,
    /// Its trajectory.
    pub session: SessionId,
    /// Where its record chain stands.
    pub head: Head,
    /// Records before this one have been handed to the publisher.
    pub published: u64,
    /// Next keys and counts of its queues.
    pub inbox_next: u64,
    pub inbox_depth: u32,
    pub inbox_strangers: u32,
    pub outbox_next: u64,
    pub dead_next: u64,
    pub refused_next: u64,
    /// Failures in a row of its program.
    pub failures: u32,
    /// The time of its last profile events, which grows strictly: seconds since 1970.
    #[serde(default)]
    pub profiled_at_s: u64,
}

/// How much older than the agent a message to it may be, in seconds: clocks differ.
const FLOOR_SLACK_S: u64 = 15 * 60;

impl AgentRow {
    /// A row to begin with: nothing has happened.
    pub(crate) fn new(id: AgentId, pubkey: PublicKey, at_ms: u64) -> Self {
        Self {
            id,
            name: String::new(),
            pubkey,
            created_at_ms: at_ms,
            lifecycle: Lifecycle::Creating,
            reason: None,
            version: 1,
            lease_epoch: 0,
            owner: None,
            claim: None,
            floor_s: (at_ms / 1000).saturating_sub(FLOOR_SLACK_S),
            session: Hex::ZERO,
            head: Head::GENESIS,
            published: 0,
            inbox_next: 0,
            inbox_depth: 0,
            inbox_strangers: 0,
            outbox_next: 0,
            dead_next: 0,
            refused_next: 0,
            failures: 0,
            profiled_at_s: at_ms / 1000,
        }
    }

    /// A time for profile events that relays take as newer than the last: seconds since 1970.
    pub(crate) fn profile_time_s(&self, now_ms: u64) -> u64 {
        (now_ms / 1000).max(self.profiled_at_s + 1)
    }
}

/// A one-time code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// SHA-256 of the code.
    pub digest: Hash,
    /// Milliseconds since 1970.
    pub expires_at_ms: u64,
    /// Wrong codes heard so far.
    #[serde(default)]
    pub misses: u32,
}

/// An envelope in an inbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// What arrived.
    pub envelope: Envelope,
    /// Whether it counts against the strangers' half.
    pub is_strangers: bool,
    /// Times its tick failed.
    #[serde(default)]
    pub failures: u32,
    /// Times the process died while it ran.
    #[serde(default)]
    pub crashes: u32,
    /// Whether a run of it did something outside: then there is a journal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub journaled: bool,
}

/// A line of a tick's journal on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalRow {
    /// What it says.
    pub line: Line,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// An envelope that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// What arrived.
    pub envelope: Envelope,
    /// Why it was given up.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What its runs did outside, which stays done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<serde_json::Value>,
}

/// Mail that was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Who wrote it, where that could be read.
    pub from: Option<PublicKey>,
    /// Why.
    pub reason: Refusal,
    /// More, for people.
    pub detail: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// What goes out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Outgoing {
    /// A direct message.
    Mail {
        /// What it says, with its time: the rumor's id follows from it.
        draft: Draft,
        /// Which protocol answers.
        protocol: Protocol,
        /// Where the mail it answers was found.
        relay: Option<RelayUrl>,
    },
    /// A public or self-encrypted event of the agent, to its own relays.
    Event { event: UnsignedEvent },
}

/// Whose relays an event goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// The recipient's: at least one must take it.
    Peer,
    /// The node's own.
    Own,
}

/// Signed bytes on their way. The same bytes each time, so a relay keeps one copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parcel {
    /// As signed.
    pub event: Event,
    /// Whose relays.
    pub audience: Audience,
    /// The relays, once they are known; none of them twice.
    pub targets: Vec<Target>,
}

/// One relay that a parcel goes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Where.
    pub relay: RelayUrl,
    /// What it said.
    pub state: TargetState,
}

/// What one relay said to one parcel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetState {
    /// Waits for an answer, or for the next try.
    Waiting,
    /// The relay has it.
    Acked,
    /// The relay does not want it.
    Refused(String),
    /// The relay could not be reached in time.
    Expired(String),
}

/// How far an outgoing item has come. Named by what it waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Waits for the signer.
    Unsigned,
    /// Waits for relays.
    Signed(Vec<Parcel>),
    /// Waits for nothing: every target has answered or expired.
    Finished(Vec<Parcel>),
}

/// An item of an outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutRow {
    /// What.
    pub outgoing: Outgoing,
    /// How far.
    pub stage: Stage,
    /// When it was decided, in milliseconds since 1970; tried for 24 hours from then.
    pub at_ms: u64,
}

impl OutRow {
    /// Whether the item has reached the one it is for.
    pub fn is_sent(&self) -> bool {
        let (Stage::Signed(parcels) | Stage::Finished(parcels)) = &self.stage else { return false };
        parcels.first().is_some_and(|parcel| parcel.targets.iter().any(|t| t.state == TargetState::Acked))
    }
}

/// An outgoing item by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutId {
    /// Whose.
    pub agent: AgentId,
    /// Position in that agent's outbox.
    pub n: u64,
}

/// The record of an operation already answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpRow {
    /// SHA-256 of verb, path and body.
    pub request: Hash,
    /// What was answered.
    pub reply: Result<Vec<u8>, oa_nips::files::OpError>,
    /// It was begun, and its end is not known yet: the reply is what is true until then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub begun: bool,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Bytes that stand in a row as base64.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Blob(pub Vec<u8>);

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// Keys: fixed-width integers first, so that ranges are prefixes.
pub(crate) mod key {
    use super::{AgentId, EnvelopeId, Hex, OutId, PublicKey};

    pub(crate) fn agent(id: AgentId) -> Vec<u8> {
        id.0.to_be_bytes().to_vec()
    }

    pub(crate) fn numbered(id: AgentId, n: u64) -> Vec<u8> {
        [&id.0.to_be_bytes()[..], &n.to_be_bytes()].concat()
    }

    pub(crate) fn number(key: &[u8]) -> Option<u64> {
        key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }

    pub(crate) fn out(key: &[u8]) -> Option<OutId> {
        let agent = AgentId(u32::from_be_bytes(*key.first_chunk()?));
        Some(OutId { agent, n: number(key)? })
    }

    pub(crate) fn named(id: AgentId, name: &str) -> Vec<u8> {
        [&id.0.to_be_bytes()[..], name.as_bytes()].concat()
    }

    pub(crate) fn seen(id: AgentId, envelope: &EnvelopeId) -> Vec<u8> {
        [&id.0.to_be_bytes()[..], envelope.as_bytes()].concat()
    }

    pub(crate) fn journal(id: AgentId, envelope: &EnvelopeId) -> Vec<u8> {
        [&id.0.to_be_bytes()[..], envelope.as_bytes()].concat()
    }

    pub(crate) fn journal_line(id: AgentId, envelope: &EnvelopeId, ordinal: u32) -> Vec<u8> {
        [&id.0.to_be_bytes()[..], envelope.as_bytes(), &ordinal.to_be_bytes()].concat()
    }

    /// Whose line of a journal a key names.
    pub(crate) fn journaled(key: &[u8]) -> Option<(AgentId, EnvelopeId)> {
        let (agent, rest) = key.split_first_chunk()?;
        Some((AgentId(u32::from_be_bytes(*agent)), Hex(*rest.first_chunk()?)))
    }

    pub(crate) fn known(who: &PublicKey, id: AgentId) -> Vec<u8> {
        [&who.as_bytes()[..], &id.0.to_be_bytes()].concat()
    }

    pub(crate) fn peer(id: AgentId, peer: &PublicKey) -> Vec<u8> {
        [&id.0.to_be_bytes()[..], peer.as_bytes()].concat()
    }

    pub(crate) fn due(due_ms: u64, id: AgentId, alarm: &str) -> Vec<u8> {
        [&due_ms.to_be_bytes()[..], &id.0.to_be_bytes(), alarm.as_bytes()].concat()
    }

    pub(crate) fn timed(at_s: u64, id: &[u8; 32]) -> Vec<u8> {
        [&at_s.to_be_bytes()[..], id].concat()
    }

    pub(crate) fn op(caller: &PublicKey, op: &Hex<16>) -> Vec<u8> {
        [&caller.as_bytes()[..], op.as_bytes()].concat()
    }
}
