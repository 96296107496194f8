//! The programs `oa`, `oa-node` and `oa-wallet`: the only place that wires parts, prints, and reads the environment.
//!
//! - `args`: the command lines
//! - `commands`: one command a file
//! - `client`: talks to a node, by events alone
//! - `fuse`: a tree somewhere else as a folder of this machine
//! - `host`: runs a node in this process, with its relay
//! - `wallet`: the home of a wallet, and the process that runs it
//! - `context`: what every command is given
//! - `bunker`: a home whose operator's key is elsewhere
//! - `config`: `config.toml` of a server
//! - `passphrase`: where passphrases come from
//! - `error`: what went wrong, what to do about it, and the exit code

mod args;
mod client;
mod commands;
mod bunker;
mod config;
mod context;
mod error;
#[cfg(feature = "fuse")]
mod fuse;
mod host;
mod output;
mod passphrase;
mod start;
#[cfg(feature = "wallet")]
mod wallet;

#[cfg(feature = "wallet")]
pub use start::oa_wallet;
pub use start::{oa, oa_node};
