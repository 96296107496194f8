//! The purse over play money: what it pays, takes and shows, and what a power cut leaves.

mod crash;
mod money;
mod rig;
