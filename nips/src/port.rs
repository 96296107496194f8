//! The traits through which machines reach keys, relays and the store they persist in.
//!
//! They live here so that wallet and market need nothing of the node, and the node can give them its own.

use std::fmt::Debug;
use std::time::Duration;

use nostr::secp256k1::schnorr::Signature;
use nostr::util::BoxedFuture;
use nostr::{Event, Filter, PublicKey, RelayUrl, UnsignedEvent};

use crate::signed::DataDigest;

/// Holds one key. Local keys answer at once; a bunker (NIP-46) may be slow or away.
pub trait Signer: Debug + Send + Sync {
    /// Whose key it is.
    fn public_key(&self) -> PublicKey;

    /// Whether calls return without waiting for anybody, so that they may stand in a transaction's way.
    fn is_immediate(&self) -> bool;

    /// Signs an event whose author is [`Signer::public_key`].
    fn sign(&self, event: UnsignedEvent) -> BoxedFuture<'_, Result<Event, SignerError>>;

    /// Signs data that is no event. A digest cannot be made of an event's id, so nothing that is signed here is an
    /// event's signature. Refused by signers that know events only, as bunkers do.
    fn sign_data(&self, _data: DataDigest) -> BoxedFuture<'_, Result<Signature, SignerError>> {
        Box::pin(async { Err(SignerError::Refused("this signer signs events only".to_owned())) })
    }

    /// Encrypts to `peer` (NIP-44 version 2).
    fn nip44_encrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>>;

    /// Decrypts what is between this key and `peer` (NIP-44 version 2).
    fn nip44_decrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>>;

    /// Encrypts to `peer` (NIP-04), only to answer who wrote so.
    fn nip04_encrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>>;

    /// Decrypts what is between this key and `peer` (NIP-04).
    fn nip04_decrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>>;
}

/// Why a signer gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The input will never do: not encrypted to this key, or not encrypted at all.
    #[error("{0}")]
    Refused(String),
    /// The signer is away; the same call may work later.
    #[error("signer unavailable: {0}")]
    Unavailable(String),
}

/// What one relay said to one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ack {
    /// `OK true`, or `OK false` with `duplicate:`.
    Accepted,
    /// `OK false`: the relay's words. Asking again will not help.
    Refused(String),
    /// No answer, no connection, or a refusal that time can mend (`rate-limited:`, `error:`).
    Unreached(String),
}

/// Publishes signed events.
pub trait Publish: Debug + Send + Sync {
    /// Sends `event` to one relay and waits for its answer, at most `deadline`.
    fn publish<'a>(
        &'a self,
        relay: &'a RelayUrl,
        event: &'a Event,
        deadline: Duration,
    ) -> BoxedFuture<'a, Ack>;
}

/// Reads events.
pub trait Subscribe: Debug + Send + Sync {
    /// The stored events that match, from one relay, at most `deadline`; what came until then, unless nothing could
    /// be asked. Signatures are verified.
    fn fetch<'a>(
        &'a self,
        relay: &'a RelayUrl,
        filter: Filter,
        deadline: Duration,
    ) -> BoxedFuture<'a, Result<Vec<Event>, FetchError>>;
}

/// Why nothing was fetched.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    #[error("not connected to {0}")]
    NotConnected(RelayUrl),
    #[error("{0} closed the request: {1}")]
    Closed(RelayUrl, String),
    #[error("{0} did not finish answering in time")]
    TimedOut(RelayUrl),
}

/// One conditional write to a table that a machine keeps in the node's database.
///
/// Wallet and market persist through these: handed in with a tick's commit they land in the same transaction, or
/// the commit as a whole is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowWrite {
    /// Which machine's table: `wallet.ledger`, `market.jobs`.
    pub space: String,
    /// The row.
    pub key: String,
    /// The version the row must have now; 0 when it must not exist.
    pub expect_version: u64,
    /// The new content, or nothing to remove the row.
    pub value: Option<Vec<u8>>,
}

/// A row as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Grows by one with each write.
    pub version: u64,
    /// The content.
    pub value: Vec<u8>,
}
