//! The HTTP a relay speaks: one request head in, one answer out. Pure; `connection` does the reading and writing.

mod head;
mod info;
mod reply;

pub(crate) use head::{HEAD_BYTES_MAX, Parsed, parse};
pub(crate) use info::{SUBSCRIPTION_ID_MAX, document};
pub(crate) use reply::{Refusal, Reply, route};
