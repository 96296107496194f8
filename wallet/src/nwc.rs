//! Nostr Wallet Connect (NIP-47): a wallet that is spoken to in encrypted events.
//!
//! - [`message`], [`uri`], [`bill`]: what is said, the line that hands a wallet over, invoices
//! - [`connection`]: who may do what, with which account and budget
//! - [`service`]: the wallet's side, over a [`purse::Purse`] and [`rows::Rows`]
//! - [`client`]: the other side, for our wallet or anybody's
//!
//! Both sides are pure machines with a thin driver that persists, then acts. They reach relays and keys through the
//! ports of `nips` and are handed incoming events over a channel; neither dials anybody. The events' tags are
//! [`oa_nips::nwc`]'s. The admin methods of ours are written down in docs/protocol.md.

pub mod bill;
pub mod client;
pub mod connection;
pub mod message;
pub mod purse;
pub mod rows;
mod seal;
pub mod service;
#[cfg(test)]
mod tests;
pub mod uri;

/// The wall clock: milliseconds since 1970.
pub type Clock = fn() -> u64;
