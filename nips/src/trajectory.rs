//! Trajectories on relays: a session (kind 39230) and batches of its tick records (kind 39231).
//!
//! Both are addressable, so each carries its own `d`: without it a relay would keep only the newest.

use nostr::{PublicKey, Tag, Timestamp, UnsignedEvent};
use serde::{Deserialize, Serialize};

use crate::kind;
use crate::record::SessionId;

/// What the encrypted content of a session's event says, as canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Version of this format: 1.
    pub v: u8,
    /// The agent's name on its node.
    pub agent: String,
    /// The session.
    pub session: SessionId,
}

/// The event of a session, `d=<session>`; `content` is [`Session`] encrypted to the owner.
pub fn session(
    author: PublicKey,
    owner: PublicKey,
    session: SessionId,
    content: String,
    at: Timestamp,
) -> UnsignedEvent {
    let tags = [Tag::identifier(session.to_string()), Tag::public_key(owner)];
    UnsignedEvent::new(author, at, kind::SESSION, tags, content)
}

/// The event of a batch, `d=<session>:<first seq>`; `content` is a canonical JSON array of records
/// encrypted to the owner.
pub fn batch(
    author: PublicKey,
    owner: PublicKey,
    session: SessionId,
    first: u64,
    content: String,
    at: Timestamp,
) -> UnsignedEvent {
    let tags = [Tag::identifier(format!("{session}:{first}")), Tag::public_key(owner)];
    UnsignedEvent::new(author, at, kind::RECORDS, tags, content)
}
