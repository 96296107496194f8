//! What `oa` says on the wire: kinds, codecs, records and ports.
//!
//! This crate is the only one that reads tag strings. It has no clock, no I/O, no runtime and no randomness it
//! was not given, and decoding never panics: bad bytes come back as an error that names what was wrong.
//!
//! - [`kind`]: every event kind in one table
//! - [`mail`]: NIP-17 and NIP-04 direct messages as one type, [`mail::Mail`]
//! - [`envelope`]: what agents say to agents inside a rumor of kind 9910
//! - [`nwc`]: the outside of Nostr Wallet Connect (NIP-47)
//! - [`profile`]: kinds 0, 10002 and 10050
//! - [`discovery`]: what an agent can do, kind 39200; [`nip05`]: names at a domain
//! - [`files`]: the operator protocol, a 9P in spirit
//! - [`record`]: tick records, their header and chain
//! - [`trajectory`]: records on relays, kinds 39230 and 39231
//! - [`hud`]: what the public sees of an agent, kind 25933
//! - [`lease`]: which running node holds a key, kind 39205
//! - [`template`], [`filter`]: what an agent may publish, and ask relays for
//! - [`signed`]: signatures over data that can be no event's
//! - [`port`]: the traits through which others reach relays and keys
//!
//! ```
//! use oa_nips::mail::{Draft, Protocol};
//! use oa_nips::nostr::Keys;
//!
//! let (alice, bob) = (Keys::generate(), Keys::generate());
//! let rumor = Draft::text(bob.public_key(), "hello", 1_790_000_000_123).rumor(alice.public_key());
//! let mail = oa_nips::mail::read_rumor(&alice.public_key(), &oa_nips::mail::to_json(&rumor))?;
//! assert_eq!(mail.text(), Some("hello"));
//! assert_eq!(mail.protocol, Protocol::Nip17);
//! # Ok::<(), oa_nips::mail::OpenError>(())
//! ```

pub mod discovery;
pub mod envelope;
pub mod files;
pub mod filter;
pub mod hex;
pub mod hud;
pub mod kind;
pub mod lease;
pub mod mail;
pub mod nip05;
pub mod nwc;
pub mod port;
pub mod profile;
pub mod record;
pub mod signed;
mod tags;
pub mod template;
pub mod trajectory;

pub use nostr;
