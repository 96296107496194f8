//! Both sides against each other and against those that misbehave, over relays that exist in memory only.

mod clients;
mod codec;
mod liars;
pub(super) mod play;
mod rogue;
mod whole;
pub(super) mod world;
