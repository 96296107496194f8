//! `oa wallet connect`, `connections`, `cap` and `revoke`: who may come to the wallet, and what they may do.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use oa_nips::nostr::Keys;
use oa_node::time::{System, Time as _};
use oa_wallet::account::Holder;
use oa_wallet::nwc::connection::{Budget, Scope};
use oa_wallet::nwc::service::{
    Connected, ConnectionInfo, Connections, LIST_CONNECTIONS, ListConnections, NEW_CONNECTION, NewConnection,
    REVOKE_CONNECTION, RevokeConnection, UPDATE_CONNECTION, UpdateConnection, parse_budget,
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

/// `oa wallet cap`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true))]
pub(super) struct Cap {
    /// Its name, or the beginning of its key
    connection: String,
    /// How much it may spend from now on, such as 5000sat/day; `none` for all that its account has
    #[arg(long, group = "change", value_parser = or_none(parse_budget))]
    budget: Option<Change<Budget>>,
    /// What it may do from now on
    #[arg(long, group = "change", value_delimiter = ',')]
    scopes: Option<Vec<Scope>>,
    /// After how long from now it ends, such as 30d or 12h; `none` for never
    #[arg(long, group = "change", value_parser = or_none(span))]
    expires: Option<Change<Duration>>,
}

/// Another limit, or none any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change<T> {
    To(T),
    Away,
}

impl<T> Change<T> {
    fn wanted(self) -> Option<T> {
        match self {
            Self::To(limit) => Some(limit),
            Self::Away => None,
        }
    }
}

/// Reads `none`, or what the other reader reads.
fn or_none<T, E>(
    read: impl Fn(&str) -> std::result::Result<T, E> + Clone,
) -> impl Fn(&str) -> std::result::Result<Change<T>, E> + Clone {
    move |text| if text == "none" { Ok(Change::Away) } else { read(text).map(Change::To) }
}

pub(super) async fn connect(output: Output, wallet: &Connection, connect: Connect) -> Result<()> {
    let Connect { name, budget, scopes, expires, account, out } = connect;
    // Before somebody is connected whose key is nowhere.
    if let Some(file) = out.as_ref().filter(|file| std::fs::symlink_metadata(file).is_ok()) {
        return Err(Error::new(Kind::Failed, format!("{} exists already", file.display()))
            .hint("choose another name: a connection is never written over"));
    }
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
    let now_s = System.now_ms() / 1000;
    for one in all(wallet).await? {
        output.object(&one);
        let scopes: Vec<_> = one.scopes.iter().map(|scope| scope.as_str()).collect();
        let ended = ended(&one, now_s);
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

/// Everybody who was ever connected.
pub(super) async fn all(wallet: &Connection) -> Result<Vec<ConnectionInfo>> {
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

fn utc(at_s: u64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(at_s.cast_signed()).unwrap_or_default()
}

/// When a connection ends or ended, for people.
fn ended(one: &ConnectionInfo, now_s: u64) -> String {
    match (one.revoked_at, one.expires_at) {
        (Some(_), _) => "  revoked".to_owned(),
        (None, Some(at_s)) if at_s <= now_s => format!("  ended {}", utc(at_s)),
        (None, Some(at_s)) => format!("  until {}", utc(at_s)),
        (None, None) => String::new(),
    }
}

/// The one connection of that name, or whose key begins so.
async fn named(wallet: &Connection, which: &str) -> Result<ConnectionInfo> {
    let is_meant = |one: &ConnectionInfo| {
        let begins = which.len() >= 8 && one.pubkey.to_hex().starts_with(which);
        begins || (one.name == which && one.revoked_at.is_none())
    };
    let meant: Vec<_> = all(wallet).await?.into_iter().filter(is_meant).collect();
    let error = match meant.as_slice() {
        [one] => return Ok(one.clone()),
        [] => Error::new(Kind::NotFound, format!("no connection is called {which:?}")),
        several => Error::new(Kind::Usage, format!("{} connections are called {which:?}", several.len())),
    };
    Err(error.hint("`oa wallet connections` lists them; name one by its key"))
}

pub(super) async fn cap(output: Output, wallet: &Connection, cap: Cap) -> Result<()> {
    let Cap { connection, budget, scopes, expires } = cap;
    let one = named(wallet, &connection).await?;
    if one.revoked_at.is_some() {
        let error = Error::new(Kind::Failed, format!("{} is revoked, for good", one.name));
        return Err(error.hint("`oa wallet connect` makes another"));
    }
    let now_s = System.now_ms() / 1000;
    let end = |span: Duration| now_s.saturating_add(span.as_secs());
    let update = UpdateConnection {
        pubkey: Some(one.pubkey),
        name: None,
        scopes: scopes.map(|scopes| scopes.into_iter().collect()),
        budget: budget.map(Change::wanted),
        expires_at: expires.map(|span| span.wanted().map(end)),
    };
    let answer = admin(wallet, UPDATE_CONNECTION, json!(update)).await?;
    output.object(&answer);
    output.say(format!("{} is changed, from now on", one.name));
    Ok(())
}

pub(super) async fn revoke(output: Output, wallet: &Connection, which: &str) -> Result<()> {
    let one = named(wallet, which).await?;
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
    let span = number.checked_mul(seconds).map(Duration::from_secs);
    span.filter(|span| !span.is_zero()).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_units() {
        assert_eq!(span("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(span("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "d", "0d", "30", "30 d", "-1d", "99999999999999999999d", "3é"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_limit_is_changed_or_taken_away() {
        assert_eq!(or_none(span)("none"), Ok(Change::Away));
        assert_eq!(or_none(span)("1m"), Ok(Change::To(Duration::from_secs(60))));
        assert!(or_none(span)("never").is_err());
    }

    #[test]
    fn a_connection_says_when_it_ends() {
        let mut one: ConnectionInfo = serde_json::from_value(json!({
            "pubkey": Keys::generate().public_key(), "name": "shop", "scopes": ["pay"], "account": "shop",
            "created_at": 1, "expires_at": 1_797_792_307,
        }))
        .unwrap();
        assert_eq!(ended(&one, 1_797_792_306), "  until 2026-12-20T18:45:07Z");
        assert_eq!(ended(&one, 1_797_792_307), "  ended 2026-12-20T18:45:07Z");
        one.revoked_at = Some(2);
        assert_eq!(ended(&one, 3), "  revoked");
    }
}
