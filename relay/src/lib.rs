//! The relay bundled with oa: a Nostr relay in one handle, which knows nothing of agents.
//!
//! ```no_run
//! use oa_relay::{Config, Relay, StoreConfig};
//!
//! # async fn run() -> Result<(), oa_relay::StartError> {
//! let relay = Relay::start(Config::new("127.0.0.1:0".parse().expect("an address"), StoreConfig::Memory)).await?;
//! println!("listening on {}", relay.url());
//! relay.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! - [`Relay`], [`StartError`]: the handle
//! - [`Config`], [`StoreConfig`], [`Limits`]: plain data, with each default and its reason
//! - [`Bundle`]: documents served over plain HTTP beside NIP-11's
//!
//! # What is inside
//! Messages are understood and stored by `nostr-relay-builder` and `nostr-lmdb`; no type of theirs is in this
//! API. Sockets, the HTTP handshake, websocket frames on their way in, limits and shutdown are ours.
//!
//! # What holds
//! - **An OK means stored.** The store answers after its LMDB transaction is committed and synced, and only then
//!   is the event sent to subscribers and acknowledged. `kill -9` and a power cut keep every event that got an
//!   OK. Ephemeral events (kinds 20000-29999) are passed on and never stored.
//! - **A live subscription has no silent gaps.** relay-builder's broadcast forgets events for a session that
//!   falls 1,024 behind and says nothing. Here a session reads its next message only after it has sent all it
//!   had to, and one that falls behind anyhow is closed with code 1013: reconnect and sync.
//! - **A damaged store is an error.** One that was cut short is found before it is mapped, where reading it would end
//!   the process; nothing is mended or removed.
//! - **Refusals are visible.** A connection too many gets a 503, an event too large an `OK false`, a message too
//!   large a NOTICE and close code 1009, an unreadable message a NOTICE and code 1008.
//! - **Negentropy (NIP-77) is never cut short.** No filter limit of the relay applies to it; a client's own
//!   `limit` does. A set over [`Limits::negentropy_items_max`] ends the connection with a NOTICE.
//! - **A REQ is.** As NIP-11 announces, a `limit` over [`Limits::filter_limit_max`] is lowered to it, and a filter
//!   without a limit gets it; the newest events win. Who wants all pages with `until`, or uses NIP-77.
//!
//! # What does not
//! - Anyone may read anyone's gift wraps; see [`Relay::serves_wraps_to_anyone`].
//! - One message of a connection is handled at a time: a client that waits for nothing gains nothing.
//! - A REQ for ids alone gets CLOSED (with an empty reason) after EOSE once all of them were found.
//! - A refused event without a better reason says `error: unknown`: deleting what is another's, or a race with a
//!   newer version of a replaceable event.
//! - NIP-40 is honoured when an event arrives and not afterwards: what expires later is still served.
//! - The number of open NIP-77 reconciliations of a connection is not bounded, only the size of each.

mod bundle;
mod config;
mod connection;
mod http;
mod policy;
mod relay;
mod session;
mod store;

pub use bundle::Bundle;
pub use config::{Config, Limits, StoreConfig};
pub use relay::{Relay, StartError};
