//! `oa wallet accounts` and `transfer`: whose the wallet's money is.

use oa_node::codes;
use oa_node::time::{System, Time as _};
use oa_wallet::account::Holder;
use oa_wallet::msat::Msat;
use serde_json::{Value, json};

use super::connections::all;
use super::{admin, text};
use crate::error::{Error, Kind, Result};
use crate::output::Output;
use crate::wallet::client::Wallet as Connection;

/// How long a wallet's ledger may be uncompared before `accounts` says so, in seconds: longer than payments usually take.
const UNCOMPARED_S: u64 = 600;

pub(super) async fn list(output: Output, wallet: &Connection) -> Result<()> {
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

pub(super) async fn transfer(
    output: Output,
    wallet: &Connection,
    from: &Holder,
    to: &Holder,
    amount: Msat,
) -> Result<()> {
    let (from, to) = (meant(wallet, from).await?, meant(wallet, to).await?);
    let id = oa_nips::hex::Hex(codes::random()).to_string();
    let params = json!({ "id": id, "from": from, "to": to, "amount_msat": amount });
    let answer = admin(wallet, "oa_transfer", params).await?;
    output.object(&json!({
        "posting": answer.get("posting"), "from": from, "to": to, "amount_msat": amount,
    }));
    output.say(format!("{amount} from {from} to {to}"));
    Ok(())
}

/// The account that a name means: one that is there, or that of the only app which is connected by this name. Of a name
/// that nobody has no account is made: what went there nobody could spend.
async fn meant(wallet: &Connection, named: &Holder) -> Result<Holder> {
    let answer = admin(wallet, "oa_accounts", json!({})).await?;
    let mut accounts = answer.get("accounts").and_then(Value::as_array).into_iter().flatten();
    if named.as_str() == "operator" || accounts.any(|account| text(account, "account") == named.as_str()) {
        return Ok(named.clone());
    }
    let connected = all(wallet).await?;
    let live = || connected.iter().filter(|one| one.revoked_at.is_none());
    if live().any(|one| one.account == *named) {
        return Ok(named.clone());
    }
    let mut of_name = live().filter(|one| one.name == named.as_str());
    match (of_name.next(), of_name.next()) {
        (Some(one), None) => Ok(one.account.clone()),
        (Some(_), Some(_)) => {
            Err(Error::new(Kind::Usage, format!("more than one app is connected as {named}"))
                .hint("`oa wallet connections` shows their accounts: name one of them"))
        }
        (None, _) => {
            let message = format!("no account is called {named}, and no app is connected by that name");
            Err(Error::new(Kind::NotFound, message)
                .hint("`oa wallet accounts` and `oa wallet connections` show what there is"))
        }
    }
}
