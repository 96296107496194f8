//! Configuration of the relay: plain data, with each default and its reason. Read once, by `Relay::start`.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::bundle::Bundle;

/// Everything a relay is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Port 0 takes a free one, which `Relay::local_addr` then tells.
    pub listen: SocketAddr,
    /// Where events are kept.
    pub store: StoreConfig,
    /// What one client may ask for.
    pub limits: Limits,
    /// What it serves to browsers besides; nothing by default.
    pub bundle: Bundle,
}

impl Config {
    /// A relay on `listen` with the default limits.
    pub fn new(listen: SocketAddr, store: StoreConfig) -> Config {
        Config { listen, store, limits: Limits::default(), bundle: Bundle::default() }
    }
}

/// Where events are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreConfig {
    /// In memory, gone with the relay; for tests. Bounded by [`Limits::memory_events_max`].
    Memory,
    /// In an LMDB environment in this directory, which is created if absent. It may grow to 32 GiB; a full one
    /// refuses events and goes on serving.
    Lmdb(PathBuf),
}

/// Bounds on what clients may ask for. The defaults suit a relay for one household of programs; none of them is
/// an access rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Sockets open at once, handshakes included; one more gets HTTP 503. 900: below the usual limit of 1,024
    /// descriptors of a process that also holds a store. Each costs about 300 KiB of buffers.
    pub connections_max: usize,
    /// Subscriptions of one connection. 10,000: a node brings all its agents over one connection.
    pub subscriptions_per_connection_max: usize,
    /// Events of one connection: this many at once, and this many a minute after that. 600,000: more than the
    /// store can take, so that a local program that catches up is never told to slow down.
    pub events_per_minute_max: u32,
    /// What a REQ filter's `limit` is lowered to, and what a filter without one gets. 5,000: a week of mail for
    /// most, and some 5 MB of answer, which is built in memory.
    pub filter_limit_max: usize,
    /// Items of one NIP-77 reconciliation. 1,000,000: 40 MB while it is open.
    pub negentropy_items_max: usize,
    /// Events kept by [`StoreConfig::Memory`]; beyond that the oldest are forgotten. 100,000: some 200 MB of
    /// ordinary events. At least 1.
    pub memory_events_max: usize,
    /// Bytes of one event as JSON. 256 KiB: a NIP-44 plaintext of 64 KiB, the longest
    /// most clients read, takes 88 KiB.
    pub event_bytes_max: usize,
    /// Tags of one event. 2,000, as strfry has it: each indexed tag costs the store three entries of 280 bytes.
    pub event_tags_max: usize,
    /// Bytes of one websocket message. 2 MiB: well over an event's limit, so that a sender of one too large gets
    /// an `OK false` it can act on, and not a closed socket. relay-builder alone would take 64 MiB.
    pub message_bytes_max: u64,
    /// How far ahead of our clock `created_at` may be, in seconds. 900, as strfry has it: an event from the
    /// future would stay the newest for ever, and spoil cursors.
    pub event_ahead_secs_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 900,
            subscriptions_per_connection_max: 10_000,
            events_per_minute_max: 600_000,
            filter_limit_max: 5_000,
            negentropy_items_max: 1_000_000,
            memory_events_max: 100_000,
            event_bytes_max: 256 * 1024,
            event_tags_max: 2_000,
            message_bytes_max: 2 * 1024 * 1024,
            event_ahead_secs_max: 900,
        }
    }
}
