//! What needs a whole node.
//!
//! - `streams`: one that grows fast, read by somebody slow, as a watch reads it
//! - `again`: what is done outside, and not done again after a failure or a crash
//! - `stops`: an agent that is stopped while something it was granted is under way

mod again;
mod stops;
mod streams;

use std::sync::Arc;
use std::time::{Duration, Instant};

use oa_nips::files::Request;
use oa_nips::hex::Hex;
use oa_nips::nostr::{PublicKey, RelayUrl};

use super::Operation;
use crate::Node;
use crate::agent::manifest::Manifest;
use crate::drivers::nostr::RelaySpec;
use crate::engine::running::Running;
use crate::keyring::{Addresses, SeedKeyring};
use crate::node::{Config, Parts};
use crate::signer::Seed;
use crate::store::Store;
use crate::store::memory::MemoryBackend;
use crate::time::{System, Time as _};

/// A node that nobody hears, with one agent, alice.
async fn node(operator: PublicKey, more: impl FnOnce(Config) -> Config) -> (Node, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(Arc::new(MemoryBackend::default())).unwrap();
    let addresses = Arc::new(Addresses::load(&store).unwrap());
    // The discard port: nobody listens there.
    let url = RelayUrl::parse("ws://127.0.0.1:9").unwrap();
    let config = Config { operators: vec![operator], ..Config::new(vec![RelaySpec { url, wide: false }]) };
    let parts = Parts {
        store,
        keyring: Arc::new(SeedKeyring::new(Seed::generate(), addresses.clone())),
        addresses,
        running: Running::open(&dir.path().join("running")).unwrap(),
        time: Arc::new(System),
    };
    let node = Node::start(more(config), parts).await.unwrap();
    node.ensure_agent(Manifest::new("alice", "echo")).await.unwrap();
    (node, dir)
}

async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn asked<'a>(caller: &'a PublicKey, request: &'a Request, was_begun: bool) -> Operation<'a> {
    Operation { caller, request, digest: Hex([1; 32]), at_ms: System.now_ms(), was_begun }
}
