//! Where the node meets the outside: relays.

pub mod nostr;
