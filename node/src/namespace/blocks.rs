//! Building blocks: services that others are made of.
//!
//! | block | what | a change |
//! |---|---|---|
//! | [`Memory`] | a folder in memory | is done at once |
//! | [`Fixed`] | files that never change | is refused |
//! | [`Computed`] | files that functions answer for | is whatever the function says |
//! | [`Rows`] | a folder whose files are rows of something | likewise |
//! | [`Host`] | a folder of this machine, which nothing leaves | is done at once, and is on disk then |
//! | [`Cow`] | any service, with the agent's changes laid over it | lands with the agent's state |
//! | [`Union`] | several services, later ones shadow earlier ones | goes to the last that is writable |
//! | [`ring::Folder`] | the newest bytes of streams that never end | is refused |
//!
//! The writable ones agree on what the verbs mean, which is what a plain folder does:
//!
//! - A file is created in a folder that exists: `not_found` where it does not, `not_dir` where a file is in the way.
//! - `mkdir` of what is there is `exists`; so is removing a folder that holds something.
//! - `rename` replaces a file by a file and an empty folder by a folder (`is_dir`, `not_dir`, `exists` otherwise); into
//!   itself is `invalid_input`.
//! - The root can be neither removed nor renamed.

pub mod computed;
#[cfg(test)]
mod conformance;
pub mod cow;
pub mod fixed;
#[cfg(target_os = "linux")]
pub mod host;
pub mod memory;
pub mod ring;
pub mod rows;
mod tree;
pub mod union;
pub mod watchers;

pub use computed::Computed;
pub use cow::Cow;
pub use fixed::Fixed;
#[cfg(target_os = "linux")]
pub use host::Host;
pub use memory::Memory;
pub use ring::{Ring, Rings};
pub use rows::Rows;
pub use union::Union;
pub use watchers::Watchers;
