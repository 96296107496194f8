//! Accounts on a wallet of play money whose answers the tests choose.

mod bad;
mod consent;
mod income;
mod known;
mod random;
mod rig;
mod stranded;
