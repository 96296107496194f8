//! The rows of the service: what a restart finds.

use oa_nips::nostr::{EventId, PublicKey};
use oa_nips::nwc::Encryption;
use oa_nips::port::RowWrite;
use serde::{Deserialize, Serialize};

use crate::backend::{PaymentHash, Preimage};
use crate::msat::Msat;
use crate::nwc::connection::Connection;
use crate::nwc::message::{hash_option, preimage_option};

/// Connections, by the client's key.
pub const CONNECTIONS: &str = "nwc.connections";
/// Requests that change something, by event id.
pub const REQUESTS: &str = "nwc.requests";

/// How far a request is. Each step is on disk before what follows from it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum Stage {
    /// It waits for its turn. Nothing is set aside, nobody was asked.
    Received,
    /// The budget has this much set aside, and the purse has been asked, or is about to be. After a crash a payment
    /// is looked up by its hash before anything else.
    Asked {
        reserved: Msat,
        #[serde(default, with = "hash_option", skip_serializing_if = "Option::is_none")]
        payment_hash: Option<PaymentHash>,
        #[serde(default)]
        max_fee: Msat,
    },
    /// Done: the signed answer, which goes out again when the request comes again.
    Answered { event: String },
}

/// One request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RequestRow {
    pub(super) client: PublicKey,
    /// When the client wrote it, in seconds since 1970.
    pub(super) at: u64,
    /// After which it is not begun any more: its client has given up, and may have asked again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<u64>,
    pub(super) encryption: Encryption,
    /// The plaintext; emptied once answered.
    pub(super) body: String,
    /// Of a keysend payment: the client's, or made here.
    #[serde(default, with = "preimage_option", skip_serializing_if = "Option::is_none")]
    pub(super) preimage: Option<Preimage>,
    pub(super) stage: Stage,
}

impl RequestRow {
    /// Whether its client has given up.
    pub(super) fn is_void(&self, now_s: u64) -> bool {
        self.expires_at.is_some_and(|at| at < now_s)
    }

    pub(super) fn write(&self, request: &EventId, expect_version: u64) -> RowWrite {
        row(REQUESTS, request.to_hex(), expect_version, self)
    }
}

/// The write of a connection that is new (`expect_version` 0) or changed.
pub fn connection(connection: &Connection, expect_version: u64) -> RowWrite {
    row(CONNECTIONS, connection.client.to_hex(), expect_version, connection)
}

fn row<T: Serialize>(space: &str, key: String, expect_version: u64, content: &T) -> RowWrite {
    let value = serde_json::to_vec(content).expect("strings, numbers and string keys are JSON");
    RowWrite { space: space.to_owned(), key, expect_version, value: Some(value) }
}
