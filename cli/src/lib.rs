//! The programs `oa`, `oa-node` and `oa-wallet`: the only place that wires parts, prints, and reads the environment.
//!
//! - `args`: the command lines
//! - `commands`: one command a file
//! - `client`: talks to a node, by events alone
//! - `fuse`: a tree somewhere else as a folder of this machine
//! - `host`: runs a node in this process, with its relay
//! - `devnet`: relay, chain and two operators, to try things with
//! - `wallet`: the home of a wallet, and the process that runs it
//! - `bunker`: a home whose operator's key is elsewhere
//! - `context`: what every command is given; `lifecycle`: what those that run on tell of their life
//! - `config`: `config.toml` of a server
//! - `purse`: the wallet that a node is a customer of; `secret`: files for their owner only
//! - `passphrase`: where passphrases come from
//! - `error`: what went wrong, what to do about it, and the exit code

mod args;
mod bunker;
mod client;
mod commands;
mod config;
mod context;
#[cfg(feature = "wallet")]
mod devnet;
mod error;
#[cfg(feature = "fuse")]
mod fuse;
mod host;
mod lifecycle;
mod output;
mod passphrase;
mod purse;
mod secret;
mod start;
#[cfg(feature = "wallet")]
mod wallet;

#[cfg(feature = "wallet")]
pub use start::oa_wallet;
pub use start::{oa, oa_node};
