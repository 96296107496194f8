//! `oa wallet connect`, `connections` and `revoke`: who may come to the wallet, and what they may do.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use oa_nips::nostr::Keys;
use oa_node::time::{System, Time as _};
use oa_wallet::account::Holder;
use oa_wallet::nwc::connection::{Budget, Scope};
use oa_wallet::nwc::service::{
    Connected, ConnectionInfo, Connections, LIST_CONNECTIONS, ListConnections, NEW_CONNECTION, NewConnection,
    REVOKE_CONNECTION, RevokeConnection, parse_budget,
};
use oa_wallet::nwc::uri::Uri;
use serde_json::json;

use super::{account, admin, read};
use crate::error::{Error, Kind, Result};
use crate::output::Output;
use crate::wallet::client::Wallet as Connection;
use crate::wallet::secret;

/// `oa wallet connect`
#[derive(Debug, Args)]
pub(super) struct Connect {
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

pub(super) async fn connect(output: Output, wallet: &Connection, connect: Connect) -> Result<()> {
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
    output.qr(&line);
    if output.is_terminal() {
        output.note("it is shown once; whoever has it can spend");
    }
    Ok(())
}

pub(super) async fn list(output: Output, wallet: &Connection) -> Result<()> {
    for one in all(wallet).await? {
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

async fn all(wallet: &Connection) -> Result<Vec<ConnectionInfo>> {
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

pub(super) async fn revoke(output: Output, wallet: &Connection, which: &str) -> Result<()> {
    let is_meant = |one: &ConnectionInfo| {
        let begins = which.len() >= 8 && one.pubkey.to_hex().starts_with(which);
        begins || (one.name == which && one.revoked_at.is_none())
    };
    let meant: Vec<_> = all(wallet).await?.into_iter().filter(is_meant).collect();
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
    fn spans_have_units() {
        assert_eq!(span("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(span("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "d", "30", "30 d", "-1d", "99999999999999999999d", "3é"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
