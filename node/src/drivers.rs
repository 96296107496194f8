//! Where the node meets the outside: relays, and hosts that answer HTTP.

pub(crate) mod address;
pub(crate) mod http;
pub mod nostr;
pub(crate) mod tls;
