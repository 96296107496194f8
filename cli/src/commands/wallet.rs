//! `oa wallet`: a wallet from afar, by its admin connection or any other.

mod node;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use oa_nips::nostr::Keys;
use oa_node::codes;
use oa_node::home::Home;
use oa_node::time::{System, Time as _};
use oa_wallet::account::Holder;
use oa_wallet::backend::PaymentHash;
use oa_wallet::msat::Msat;
use oa_wallet::nwc::bill::Bill;
use oa_wallet::nwc::client::Outcome;
use oa_wallet::nwc::connection::{Budget, Scope};
use oa_wallet::nwc::message::{Direction, InvoiceOrder, ListQuery, PayOrder, State, Transaction};
use oa_wallet::nwc::service::{
    Connected, ConnectionInfo, Connections, LIST_CONNECTIONS, ListConnections, NEW_CONNECTION, NewConnection,
    REVOKE_CONNECTION, RevokeConnection, parse_budget,
};
use oa_wallet::nwc::uri::Uri;
use qrcode::QrCode;
use qrcode::render::unicode;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::output::Output;
use crate::wallet::client::{Wallet as Connection, kind};
use crate::wallet::place::Place;
use crate::wallet::{PLAY_MONEY, secret};

/// Transactions of one answer of a wallet.
const PAGE: u64 = 20;
/// How long a wallet's ledger may be uncompared before `accounts` says so, in seconds: longer than payments usually take.
const UNCOMPARED_S: u64 = 600;

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
    Connect(Connect),
    /// Who is connected
    Connections,
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

/// `oa wallet connect`
#[derive(Debug, Args)]
struct Connect {
    /// For people
    name: String,
    /// How much it may spend, such as 5000sat/day; without one, all that its account has
    #[arg(long, value_parser = parse_budget)]
    budget: Option<Budget>,
    /// What it may do
    #[arg(long, value_delimiter = ',', default_value = "pay,read,invoice,history,notifications")]
    scopes: Vec<Scope>,
    /// After how long it ends, such as 30d or 12h
    #[arg(long, value_parser = span)]
    expires: Option<Duration>,
    /// Whose money it sees and spends; without it, an account of its own, which is empty
    #[arg(long, value_parser = account)]
    account: Option<Holder>,
    /// Write the connection to a file of your own instead of showing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
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
        Command::Balance => balance(output, wallet).await,
        Command::Invoice { amount, description } => invoice(output, wallet, amount, description).await,
        Command::Offer { amount, description } => {
            let params = json!({ "amount_msat": amount, "description": description });
            let answer = admin(wallet, "oa_offer", params).await?;
            output.object(&answer);
            output.say(text(&answer, "offer"));
            Ok(())
        }
        Command::Pay { bolt11, amount } if bolt11.to_ascii_lowercase().starts_with("lno1") => {
            pay_offer(output, wallet, &bolt11, amount).await
        }
        Command::Pay { bolt11, amount } => pay(output, wallet, bolt11, amount).await,
        Command::History { all, offset } => history(output, wallet, all, offset).await,
        Command::Transfer { from, to, amount, .. } => transfer(output, wallet, &from, &to, amount).await,
        Command::Accounts => accounts(output, wallet).await,
        Command::Connect(connect) => self::connect(output, wallet, connect).await,
        Command::Connections => connections(output, wallet).await,
        Command::Revoke { connection } => revoke(output, wallet, &connection).await,
        Command::Address => {
            let answer = admin(wallet, "oa_address", json!({})).await?;
            output.object(&answer);
            output.say(text(&answer, "address"));
            Ok(())
        }
        Command::Channels => channels(output, wallet).await,
        Command::Open { peer, amount, push } => {
            let (amount_sat, push) = (whole_sat(amount)?, push.unwrap_or_default());
            let params = json!({ "peer": peer, "amount_sat": amount_sat, "push_msat": push });
            let answer = admin(wallet, "oa_open_channel", params).await?;
            output.object(&answer);
            output.say(format!(
                "channel {} is opening; it is ready after some blocks",
                text(&answer, "channel")
            ));
            Ok(())
        }
        Command::Close { channel, force } => {
            let answer =
                admin(wallet, "oa_close_channel", json!({ "channel": channel, "force": force })).await?;
            output.object(&answer);
            output.say("the channel is closing");
            Ok(())
        }
        Command::Backup => {
            let answer = admin(wallet, "oa_backup", json!({})).await?;
            output.object(&answer);
            output.say(format!("written to {} on the wallet's machine", text(&answer, "file")));
            output.note("it is the channels' state, not the seed words; with every payment it grows old");
            Ok(())
        }
        Command::Sync => {
            let answer = admin(wallet, "oa_sync", json!({})).await?;
            output.object(&answer);
            output.say(format!("up to block {}", answer.get("block_height").unwrap_or(&Value::Null)));
            Ok(())
        }
    }
}

async fn balance(output: Output, wallet: &Connection) -> Result<()> {
    let balance = wallet.client.balance().await?;
    let is_play = is_play_money(wallet).await;
    if is_play {
        output.object(&json!({ "balance_msat": balance, "play_money": true }));
        output.say(format!("{balance} of {PLAY_MONEY}"));
    } else {
        output.object(&json!({ "balance_msat": balance }));
        output.say(balance.to_string());
    }
    Ok(())
}

async fn is_play_money(wallet: &Connection) -> bool {
    wallet.client.info().await.is_ok_and(|info| info.network.as_deref() == Some(PLAY_MONEY))
}

async fn invoice(
    output: Output,
    wallet: &Connection,
    amount: Msat,
    description: Option<String>,
) -> Result<()> {
    let order = InvoiceOrder { amount, description, description_hash: None, expiry: None, metadata: None };
    let made = wallet.client.make_invoice(order).await?;
    output.object(&json!({ "invoice": made.invoice, "payment_hash": made.payment_hash }));
    output.say(made.invoice.unwrap_or_default());
    Ok(())
}

async fn pay(output: Output, wallet: &Connection, bolt11: String, amount: Option<Msat>) -> Result<()> {
    let order = PayOrder { invoice: bolt11, amount, metadata: None };
    let bill = Bill::read(&order.invoice).map_err(|error| Error::new(Kind::Usage, error.to_string()))?;
    let amount = bill.to_pay(amount).map_err(|error| Error::new(Kind::Usage, error.to_string()))?;
    match wallet.client.pay_invoice(order).await? {
        Outcome::Settled { preimage, fee } => {
            output.object(&json!({
                "payment_hash": bill.payment_hash,
                "preimage": preimage.reveal(),
                "amount_msat": amount,
                "fee_msat": fee,
            }));
            let fee =
                fee.map_or_else(|| "a fee that it does not name".to_owned(), |fee| format!("a fee of {fee}"));
            output.say(format!("paid {amount}, with {fee}"));
            Ok(())
        }
        Outcome::Failed { code, message } => Err(Error::new(kind(code), format!("{message} ({code})"))),
        Outcome::Unknown => {
            let PaymentHash(hash) = bill.payment_hash;
            let message = format!("it is not known yet whether {hash} is paid");
            Err(Error::new(Kind::TimedOut, message)
                .hint("see `oa wallet history --all` before you pay again"))
        }
    }
}

async fn pay_offer(output: Output, wallet: &Connection, offer: &str, amount: Option<Msat>) -> Result<()> {
    let amount = amount.ok_or_else(|| {
        Error::new(Kind::Usage, "an offer may be paid many times, so say what you pay: --amount 500")
    })?;
    let paid = admin(wallet, "oa_pay_offer", json!({ "offer": offer, "amount_msat": amount })).await?;
    output.object(&paid);
    let fee = Msat::new(paid.get("fee_msat").and_then(Value::as_u64).unwrap_or_default());
    output.say(format!("paid {amount}, with a fee of {fee}"));
    Ok(())
}

async fn history(output: Output, wallet: &Connection, all: bool, offset: u64) -> Result<()> {
    let query =
        ListQuery { limit: Some(PAGE), offset: Some(offset), unpaid: Some(all), ..ListQuery::default() };
    for one in wallet.client.list(query).await? {
        output.object(&one);
        output.say(line(&one));
    }
    Ok(())
}

fn line(one: &Transaction) -> String {
    let (sign, fee) = match one.direction {
        Direction::Incoming => ("+", String::new()),
        Direction::Outgoing => {
            let fee = one.fees_paid.filter(|fee| !fee.is_zero());
            ("-", fee.map_or_else(String::new, |fee| format!(", fee {fee}")))
        }
    };
    let state = match one.state {
        State::Settled => String::new(),
        other => format!(" ({})", json!(other).as_str().unwrap_or_default()),
    };
    let at = jiff::Timestamp::from_second(one.created_at.cast_signed()).unwrap_or_default();
    let about = one.description.as_deref().unwrap_or_default();
    format!("{at:.0}  {sign}{}{fee}{state}  {about}", one.amount)
}

async fn transfer(
    output: Output,
    wallet: &Connection,
    from: &Holder,
    to: &Holder,
    amount: Msat,
) -> Result<()> {
    let id = oa_nips::hex::Hex(codes::random()).to_string();
    let params = json!({ "id": id, "from": from, "to": to, "amount_msat": amount });
    let answer = admin(wallet, "oa_transfer", params).await?;
    output.object(&answer);
    output.say(format!("{amount} from {from} to {to}"));
    Ok(())
}

async fn accounts(output: Output, wallet: &Connection) -> Result<()> {
    let answer = admin(wallet, "oa_accounts", json!({})).await?;
    for account in answer.get("accounts").and_then(Value::as_array).into_iter().flatten() {
        output.object(account);
        let balance = account.get("balance_msat").and_then(Value::as_u64).unwrap_or_default();
        output.say(format!("{:<32} {}", text(account, "account"), Msat::new(balance)));
    }
    let compared_s = answer.get("compared_at").and_then(Value::as_u64);
    let since_s = compared_s.map_or(0, |at| (System.now_ms() / 1000).saturating_sub(at));
    if since_s > UNCOMPARED_S {
        let minutes = since_s / 60;
        output
            .say(format!("not compared with what the wallet has for {minutes} min: a payment is under way"));
    }
    Ok(())
}

async fn connect(output: Output, wallet: &Connection, connect: Connect) -> Result<()> {
    let Connect { name, budget, scopes, expires, account, out } = connect;
    let keys = Keys::generate();
    let now_s = System.now_ms() / 1000;
    let new = NewConnection {
        pubkey: keys.public_key(),
        name: name.clone(),
        scopes: scopes.into_iter().collect(),
        budget,
        expires_at: expires.map(|span| now_s.saturating_add(span.as_secs())),
        account,
    };
    let made: Connected = read(admin(wallet, NEW_CONNECTION, json!(new)).await?)?;
    let uri = Uri::new(made.wallet, made.relays, keys.secret_key().clone());
    let line = uri.map_err(|error| Error::new(Kind::Failed, error.to_string()))?.reveal();
    let about = json!({ "name": name, "pubkey": keys.public_key(), "account": made.account });
    if let Some(file) = out {
        secret::write(&file, &line)?;
        output.object(&about);
        output.say(format!("the connection is in {}: whoever has it can spend", file.display()));
        return Ok(());
    }
    output.object(&json!({
        "name": name, "pubkey": keys.public_key(), "account": made.account, "uri": line,
    }));
    output.say(&line);
    if output.is_terminal()
        && let Ok(code) = QrCode::new(&line)
    {
        output.say(code.render::<unicode::Dense1x2>().build());
        output.note("it is shown once; whoever has it can spend");
    }
    Ok(())
}

async fn connections(output: Output, wallet: &Connection) -> Result<()> {
    for one in all_connections(wallet).await? {
        output.object(&one);
        let scopes: Vec<_> = one.scopes.iter().map(|scope| scope.as_str()).collect();
        let ended = one.revoked_at.map_or("", |_| "  revoked");
        let budget = one.budget.map_or_else(String::new, |budget| {
            let (used, renewal) = (one.used_msat.unwrap_or_default(), budget.renewal.as_str());
            format!("  {used} of {} used, {renewal}", budget.max_msat)
        });
        let key = one.pubkey.to_hex();
        let key = key.get(..16).unwrap_or_default();
        output.say(format!(
            "{key}  {:<20} {:<24} {}{budget}{ended}",
            one.name,
            one.account.as_str(),
            scopes.join(",")
        ));
    }
    Ok(())
}

async fn all_connections(wallet: &Connection) -> Result<Vec<ConnectionInfo>> {
    let mut all = Vec::new();
    loop {
        let params = json!(ListConnections { offset: all.len() });
        let page: Connections = read(admin(wallet, LIST_CONNECTIONS, params).await?)?;
        let is_last = page.connections.is_empty() || all.len() + page.connections.len() >= page.total;
        all.extend(page.connections);
        if is_last {
            return Ok(all);
        }
    }
}

async fn revoke(output: Output, wallet: &Connection, which: &str) -> Result<()> {
    let is_meant = |one: &ConnectionInfo| {
        let begins = which.len() >= 8 && one.pubkey.to_hex().starts_with(which);
        begins || (one.name == which && one.revoked_at.is_none())
    };
    let meant: Vec<_> = all_connections(wallet).await?.into_iter().filter(is_meant).collect();
    let [one] = meant.as_slice() else {
        let error = if meant.is_empty() {
            Error::new(Kind::NotFound, format!("no connection is called {which:?}"))
        } else {
            Error::new(Kind::Usage, format!("{} connections are called {which:?}", meant.len()))
        };
        return Err(error.hint("`oa wallet connections` lists them; name one by its key"));
    };
    let answer = admin(wallet, REVOKE_CONNECTION, json!(RevokeConnection { pubkey: one.pubkey })).await?;
    output.object(&answer);
    output.say(format!("{} is revoked", one.name));
    Ok(())
}

async fn channels(output: Output, wallet: &Connection) -> Result<()> {
    let answer = admin(wallet, "oa_channels", json!({})).await?;
    output.object(&answer);
    let msat =
        |value: &Value, field: &str| Msat::new(value.get(field).and_then(Value::as_u64).unwrap_or_default());
    output.say(format!("node        {}", text(&answer, "node")));
    output.say(format!("can send    {}", msat(&answer, "spendable_msat")));
    output.say(format!("can receive {}", msat(&answer, "receivable_msat")));
    let onchain = answer.get("onchain_sat").and_then(Value::as_u64).unwrap_or_default();
    output.say(format!("on chain    {onchain} sat"));
    for one in answer.get("channels").and_then(Value::as_array).into_iter().flatten() {
        let is_usable = one.get("usable").and_then(Value::as_bool).unwrap_or_default();
        let (ours, receivable) = (msat(one, "ours_msat"), msat(one, "receivable_msat"));
        let state = if is_usable { "" } else { "  not usable now" };
        output.say(format!("{}  ours {ours}, can receive {receivable}{state}", text(one, "channel")));
    }
    Ok(())
}

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

fn whole_sat(amount: Msat) -> Result<u64> {
    if amount.get().is_multiple_of(1000) {
        Ok(amount.floor_sat())
    } else {
        Err(Error::new(Kind::Usage, "coins on the chain are whole sat"))
    }
}

/// `30d`, `12h`, `10m`, `90s`.
fn span(text: &str) -> std::result::Result<Duration, String> {
    let bad = || format!("{text:?} is not a time such as 30d, 12h or 10m");
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(bad)?;
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let seconds = match unit {
        "d" => 86_400,
        "h" => 3_600,
        "m" => 60,
        "s" => 1,
        _ => return Err(bad()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(bad)
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
        assert!(whole_sat(Msat::new(1500)).is_err());
    }

    #[test]
    fn spans_have_units() {
        assert_eq!(span("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(span("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "d", "30", "30 d", "-1d", "99999999999999999999d", "3é"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
