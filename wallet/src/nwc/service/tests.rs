//! The machine, driven by hand: every write and every question to the purse is a step at which it can be killed.

mod crash;
mod door;
mod methods;
mod money;
mod rig;
