//! End-to-end worlds: the real programs, real relays and real clients, on one machine.
//!
//! - [`world`]: homes, and the programs that run in them
//! - [`mod@bench`]: the program `oa-bench`
//! - [`bunker`]: nostr-tools on both sides of NIP-46
//! - [`caller`]: somebody who speaks the operator protocol frame by frame
//! - [`client`]: a small Nostr client that can also send what no client should
//! - [`crash`]: kills node and relay until every phase was hit; the program `oa-crash`
//! - [`effects`]: kills a node around calls that reach outside; the program `oa-effects`
//! - [`mod@exit`]: how the programs end
//! - [`hosts`]: machines made of network namespaces, and a network between that loses and cuts
//! - [`lightning`]: a chain, and two wallets on it that have a channel
//! - [`interop`]: other people's clients
//! - [`local`]: a node in this process, with a program and a signer that misbehave when told to
//! - [`operations`]: steers a node over such a network; the program `oa-operations`
//! - [`payments`]: kills a node around payments; the program `oa-payments`
//! - [`proxy`]: a websocket proxy that counts, loses and cuts
//! - [`secrets`]: searches output and files for keys
//! - [`split`]: a server with relay and node apart
//! - [`wallet`]: wallets of play money, and who uses them
//! - [`mod@wallet_crash`]: ends wallets in the midst of payments; the program `oa-wallet-crash`

pub mod bench;
pub mod bunker;
pub mod caller;
pub mod client;
pub mod crash;
pub mod effects;
pub mod exit;
pub mod hosts;
pub mod interop;
pub mod lightning;
pub mod local;
pub mod operations;
pub mod payments;
pub mod proxy;
pub mod secrets;
pub mod split;
pub mod wallet;
pub mod wallet_crash;
pub mod world;
