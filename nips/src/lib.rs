//! x
pub use nostr;
