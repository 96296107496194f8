//! Where the node meets the outside: relays, bunkers and wallets on relays, and hosts that answer HTTP.

pub(crate) mod address;
pub mod bunker;
pub(crate) mod http;
pub mod nostr;
pub mod nwc;
pub(crate) mod tls;
