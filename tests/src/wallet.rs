//! Wallets to be tested, with play money, and who uses them.
//!
//! - [`Purse`]: a relay and the real `oa-wallet`, steered by `oa wallet`
//! - [`Branch`]: a wallet in this process, at a bank where somebody else has an account: it can be paid from outside
//! - [`Customer`]: our client of NWC on any connection, which also sends what no client should

mod branch;
mod customer;
mod purse;

use anyhow::{Context as _, Result, ensure};
use oa_node::time::{System, Time as _};
use serde_json::Value;

pub use branch::Branch;
pub use customer::{Customer, Refusal};
pub use purse::Purse;

use crate::world::Done;

/// What the operator of a [`Purse`] begins with, in msat.
pub const PLAY_MSAT: u64 = 1_000_000_000;

fn clock() -> u64 {
    System.now_ms()
}

/// The first line of a command that went well.
///
/// # Errors
/// With all it left, where it did not.
pub fn first(done: Done) -> Result<Value> {
    ensure!(done.code == Some(0), "{done:?}");
    done.json()?.into_iter().next().with_context(|| format!("{done:?}"))
}

/// A number in a JSON object.
///
/// # Errors
/// When it has none of that name.
pub fn number(value: &Value, name: &str) -> Result<u64> {
    value.get(name).and_then(Value::as_u64).with_context(|| format!("{name} in {value}"))
}

/// A text in a JSON object.
///
/// # Errors
/// When it has none of that name.
pub fn text(value: &Value, name: &str) -> Result<String> {
    Ok(value.get(name).and_then(Value::as_str).with_context(|| format!("{name} in {value}"))?.to_owned())
}
