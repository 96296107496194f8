//! `oa wallet accounts` and `transfer`: whose the wallet's money is.

use oa_node::codes;
use oa_node::time::{System, Time as _};
use oa_wallet::account::Holder;
use oa_wallet::msat::Msat;
use serde_json::{Value, json};

use super::{admin, text};
use crate::error::Result;
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
    let id = oa_nips::hex::Hex(codes::random()).to_string();
    let params = json!({ "id": id, "from": from, "to": to, "amount_msat": amount });
    let answer = admin(wallet, "oa_transfer", params).await?;
    output.object(&answer);
    output.say(format!("{amount} from {from} to {to}"));
    Ok(())
}
