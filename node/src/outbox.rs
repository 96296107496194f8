//! The outbox: from a committed intent to a relay's OK.
//!
//! An item is committed with the tick that decided it. It is signed once (with the commit where the key is at hand,
//! else as soon as the signer answers), its bytes are persisted, and the same bytes are sent to each relay until
//! that relay answers or a day has passed. One acknowledgement makes it sent.

mod deliver;
mod directory;
mod sign;

use std::time::Duration;

use oa_nips::mail::{Draft, Protocol};
use oa_nips::nostr::PublicKey;

pub(crate) use deliver::{Outbox, start};
pub(crate) use directory::Directory;
pub(crate) use deliver::Carrier;
pub use sign::sign;

use crate::agent::AgentId;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::row::Outgoing;
use crate::store::write::{Verdict, Write};

/// How long an item is tried.
pub const TRIED_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long one relay may take to answer one sending.
pub const ACK_DEADLINE: Duration = Duration::from_secs(10);
/// Items on their way at once.
const IN_FLIGHT: usize = 512;

/// Sends a message that the node writes in an agent's name, to its owner.
///
/// # Errors
/// What the store said.
pub(crate) async fn say(
    store: &Store,
    outbox: &Outbox,
    agent: AgentId,
    to: PublicKey,
    text: String,
    now_ms: u64,
) -> Result<(), BackendError> {
    let draft = Draft { auto_hop: 1, ..Draft::text(to, text, now_ms) };
    let outgoing = Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: None };
    if let Verdict::Landed(range) = store.write(Write::Send(agent, Box::new(outgoing), now_ms)).await? {
        outbox.nudge(range);
    }
    Ok(())
}
