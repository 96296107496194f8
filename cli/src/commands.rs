//! One command a file.

pub(crate) mod agent;
pub(crate) mod approvals;
pub(crate) mod bundle;
pub(crate) mod bunker;
pub(crate) mod connect;
#[cfg(feature = "wallet")]
pub(crate) mod devnet;
pub(crate) mod dm;
pub(crate) mod doctor;
pub(crate) mod files;
pub(crate) mod find;
pub(crate) mod key;
pub(crate) mod logs;
#[cfg(feature = "fuse")]
pub(crate) mod mount;
pub(crate) mod node;
pub(crate) mod node_key;
pub(crate) mod relay;
pub(crate) mod tail;
pub(crate) mod up;
#[cfg(feature = "wallet")]
pub(crate) mod wallet;

use std::io::Read;

use oa_node::home::Home;

use crate::client::Client;
use crate::context::Context;
use crate::error::{Error, Kind, Result};

/// The longest text read from stdin, in bytes.
const STDIN_MAX: u64 = 16 * 1024 * 1024;

/// Connects to the node of the home.
pub(crate) async fn connect(context: &Context) -> Result<Client> {
    let home = Home::peek(&context.home)?;
    Client::connect(&home, &context.passphrase, context.output).await
}

/// Reads all of stdin.
fn stdin_bytes() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(STDIN_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads all of stdin as text.
pub(crate) fn stdin() -> Result<String> {
    String::from_utf8(stdin_bytes()?).map_err(|_| Error::new(Kind::Usage, "stdin is not UTF-8"))
}

/// An npub or hex key.
fn public_key(text: &str) -> Result<oa_nips::nostr::PublicKey> {
    oa_nips::nostr::PublicKey::parse(text)
        .map_err(|_| Error::new(Kind::Usage, format!("{text:?} is neither an npub nor 64 hex digits")))
}
