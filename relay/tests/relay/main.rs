//! The relay as its clients see it: raw websockets and raw HTTP against a relay in this process.

#![expect(clippy::panic, clippy::indexing_slicing, reason = "a test's way to fail, in its helpers too")]

mod client;
mod gaps;
mod http;
mod life;
mod publish;
mod read;
