//! The golden vectors of `vectors/*.json`: what each gives is computed again from what is given, and what must be
//! refused is, with the error it names. `docs/protocol.md` takes its examples from them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first surprise"
)]

#[path = "vectors/discovery.rs"]
mod discovery;
#[path = "vectors/document.rs"]
mod document;
#[path = "vectors/envelope.rs"]
mod envelope;
#[path = "vectors/files.rs"]
mod files;
#[path = "vectors/hud.rs"]
mod hud;
#[path = "vectors/lease.rs"]
mod lease;
#[path = "vectors/mail.rs"]
mod mail;
#[path = "vectors/mutated.rs"]
mod mutated;
#[path = "vectors/profile.rs"]
mod profile;
#[path = "vectors/record.rs"]
mod record;
#[path = "vectors/support.rs"]
mod support;
#[path = "vectors/trajectory.rs"]
mod trajectory;
