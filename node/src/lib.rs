//! The node: agents, their mailboxes and their ticks, steered by nothing but Nostr events.
//!
//! Mail comes in through [`drivers::nostr`], is opened and judged by `mailin`, and lands in an inbox of the
//! [`store`]. The [`engine`] gives each envelope its tick: a [`program`] works on a [`namespace`], and what it did is
//! committed as one unit. The [`outbox`] carries what the unit says to relays. [`node::Node`] wires it all.

pub mod agent;
mod alarms;
pub mod approvals;
pub mod bundle;
pub mod bunker;
pub mod codes;
mod discovery;
pub mod drivers;
pub(crate) mod elsewhere;
pub mod engine;
mod feeds;
pub mod home;
pub mod keyring;
pub mod lease;
mod mailin;
mod maintenance;
pub mod money;
mod names;
pub mod namespace;
pub mod node;
pub mod notice;
mod operator;
pub mod outbox;
pub mod plumber;
mod profiles;
pub mod program;
mod publisher;
mod secrets;
pub mod serve;
pub mod signer;
mod sockets;
pub mod store;
mod subscriptions;
pub mod tenure;
pub mod time;
pub mod workspace;

pub use node::Node;
