//! The outbox: from a committed intent to a relay's OK.
//!
//! An item is committed with the tick that decided it. It is signed once (with the commit where the key is at hand,
//! else as soon as the signer answers), its bytes are persisted, and the same bytes are sent to each relay until
//! that relay answers or a day has passed. One acknowledgement makes it sent.

mod deliver;
mod directory;
mod sign;

use std::time::Duration;

pub(crate) use deliver::Carrier;
pub(crate) use deliver::{Outbox, start};
pub(crate) use directory::Directory;
pub use sign::sign;

/// How long an item is tried.
pub const TRIED_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long one relay may take to answer one sending.
pub const ACK_DEADLINE: Duration = Duration::from_secs(10);
/// Items on their way at once.
const IN_FLIGHT: usize = 512;
