//! `oa-wallet`: a home for a wallet, and the process that runs it.
//!
//! - `init`: makes the home; `run`: serves it until SIGTERM
//! - `config`: `wallet.toml`; `place`: where things are
//! - `client`: how `oa wallet` reaches a wallet, ours or anybody's

pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod init;
pub(crate) mod place;
pub(crate) mod run;

use clap::{Parser, Subcommand};

use crate::args::Common;
pub(crate) use crate::secret;

/// What shows wherever play money does.
pub(crate) const PLAY_MONEY: &str = "play money";

/// A Lightning wallet that is spoken to by Nostr Wallet Connect.
#[derive(Debug, Parser)]
#[command(name = "oa-wallet", version, max_term_width = 100)]
pub(crate) struct OaWallet {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: OaWalletCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OaWalletCommand {
    /// Create a wallet: seed words, wallet.toml
    Init(init::Init),
    /// Run the wallet until SIGTERM
    Run {
        /// Play money, worth nothing: never with a wallet that is real
        #[arg(long)]
        fake: bool,
        /// End when stdin does, as a part of another program
        #[arg(long, hide = true)]
        until_eof: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        OaWallet::command().debug_assert();
    }
}
