//! `oa wallet`: a wallet from afar, by its admin connection or any other.
//!
//! - `money`: in and out of the connection's account
//! - `accounts`: whose the money is; `node` is the same where the home has agents
//! - `connections`: who may come
//! - `lightning`: the node behind it, its channels and its coins

mod accounts;
mod connections;
mod lightning;
mod money;
mod node;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use oa_node::home::Home;
use oa_wallet::account::Holder;
use oa_wallet::msat::Msat;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::output::Output;
use crate::wallet::client::Wallet as Connection;
use crate::wallet::place::Place;

/// `oa wallet`
#[derive(Debug, Args)]
pub(crate) struct Wallet {
    /// A file with another connection than this home's own wallet has: a line nostr+walletconnect://…
    #[arg(long, global = true, value_name = "FILE")]
    nwc_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What the connection's account has
    Balance,
    /// Make an invoice
    Invoice {
        /// Such as 500, 500sat or 1000msat
        #[arg(value_parser = amount)]
        amount: Msat,
        /// For the payer to read
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Make an offer (BOLT 12): a code that can be paid many times
    Offer {
        /// Such as 500, 500sat or 1000msat; without it, what the payer likes
        #[arg(value_parser = amount)]
        amount: Option<Msat>,
        /// For the payer to read
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
    },
    /// Pay an invoice or an offer
    Pay {
        /// lnbc…, or an offer lno…
        #[arg(value_name = "INVOICE")]
        bolt11: String,
        /// Where the invoice leaves it open; for an offer always
        #[arg(long, value_parser = amount)]
        amount: Option<Msat>,
    },
    /// Invoices and payments, the newest first
    History {
        /// Also what is not settled
        #[arg(long)]
        all: bool,
        /// Pass over so many
        #[arg(long, default_value_t = 0)]
        offset: u64,
    },
    /// Move money from one account to another: the operator's and agents' in a home with a node, else those of its
    /// wallet
    Transfer {
        /// Whose: operator, or another account
        #[arg(value_parser = account)]
        from: Holder,
        /// To whom
        #[arg(value_parser = account)]
        to: Holder,
        /// Such as 1000 or 1000sat
        #[arg(value_parser = amount)]
        amount: Msat,
        /// Between accounts of this home's wallet, also where there is a node
        #[arg(long)]
        in_wallet: bool,
    },
    /// What each account of this wallet has
    Accounts,
    /// Connect an app, or anybody
    Connect(connections::Connect),
    /// Who is connected, and under which limits
    Connections,
    /// Change what a connection may spend or do, or when it ends
    Cap(connections::Cap),
    /// End a connection for good
    Revoke {
        /// Its name, or the beginning of its key
        connection: String,
    },
    /// An address for coins on the chain
    Address,
    /// The channels, and what can be sent and received
    Channels,
    /// Open a channel
    Open {
        /// ID@HOST:PORT
        peer: String,
        /// How large, in whole sat
        #[arg(value_parser = amount)]
        amount: Msat,
        /// What the peer is given of it
        #[arg(long, value_parser = amount)]
        push: Option<Msat>,
    },
    /// Close a channel
    Close {
        /// As `oa wallet channels` shows it
        channel: String,
        /// Alone, which is dear and takes days
        #[arg(long)]
        force: bool,
    },
    /// Write a copy of the channels' state into the wallet's home
    Backup,
    /// Look for what is new on the chain now instead of soon
    Sync,
}

pub(crate) async fn run(context: &Context, args: Wallet) -> Result<()> {
    if let Command::Transfer { from, to, amount, in_wallet: false } = &args.command
        && args.nwc_file.is_none()
        && Home::peek(&context.home).is_ok_and(|home| home.client().exists())
    {
        return node::transfer(context, from, to, *amount).await;
    }
    let file = args.nwc_file.unwrap_or_else(|| Place::peek(&context.home).admin());
    let wallet = Connection::connect(&file).await?;
    let done = Box::pin(perform(context.output, &wallet, args.command)).await;
    wallet.close().await;
    done
}

async fn perform(output: Output, wallet: &Connection, command: Command) -> Result<()> {
    match command {
        Command::Balance => money::balance(output, wallet).await,
        Command::Invoice { amount, description } => money::invoice(output, wallet, amount, description).await,
        Command::Offer { amount, description } => money::offer(output, wallet, amount, description).await,
        Command::Pay { bolt11, amount } => money::pay(output, wallet, bolt11, amount).await,
        Command::History { all, offset } => money::history(output, wallet, all, offset).await,
        Command::Transfer { from, to, amount, .. } => {
            accounts::transfer(output, wallet, &from, &to, amount).await
        }
        Command::Accounts => accounts::list(output, wallet).await,
        Command::Connect(connect) => connections::connect(output, wallet, connect).await,
        Command::Connections => connections::list(output, wallet).await,
        Command::Cap(cap) => connections::cap(output, wallet, cap).await,
        Command::Revoke { connection } => connections::revoke(output, wallet, &connection).await,
        Command::Address => lightning::address(output, wallet).await,
        Command::Channels => lightning::channels(output, wallet).await,
        Command::Open { peer, amount, push } => lightning::open(output, wallet, &peer, amount, push).await,
        Command::Close { channel, force } => lightning::close(output, wallet, &channel, force).await,
        Command::Backup => lightning::backup(output, wallet).await,
        Command::Sync => lightning::sync(output, wallet).await,
    }
}

/// A method of ours, which an admin connection has.
async fn admin(wallet: &Connection, method: &str, params: Value) -> Result<Value> {
    Ok(wallet.client.admin(method, params).await?)
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| {
        Error::new(Kind::Failed, format!("the wallet's answer is not what it should be: {error}"))
    })
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn account(text: &str) -> std::result::Result<Holder, String> {
    Holder::new(text).map_err(|error| error.to_string())
}

/// `500` is sat; else with its unit.
fn amount(text: &str) -> std::result::Result<Msat, String> {
    let is_bare = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let text = if is_bare { format!("{text}sat") } else { text.to_owned() };
    text.parse().map_err(|error: oa_wallet::msat::ParseError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_is_sat() {
        assert_eq!(amount("500"), Ok(Msat::from_sat(500)));
        assert_eq!(amount("500sat"), Ok(Msat::from_sat(500)));
        assert_eq!(amount("1500msat"), Ok(Msat::new(1500)));
        assert!(amount("").is_err() && amount("-1").is_err() && amount("1.5").is_err());
    }
}
