//! `oa wallet balance`, `invoice`, `offer`, `pay` and `history`: money in and out of the connection's account.

use oa_wallet::backend::PaymentHash;
use oa_wallet::msat::Msat;
use oa_wallet::nwc::bill::Bill;
use oa_wallet::nwc::client::Outcome;
use oa_wallet::nwc::message::{Direction, InvoiceOrder, ListQuery, PayOrder, State, Transaction};
use serde_json::{Value, json};

use super::{admin, text};
use crate::error::{Error, Kind, Result};
use crate::output::Output;
use crate::wallet::PLAY_MONEY;
use crate::wallet::client::{Wallet as Connection, kind};

/// Transactions of one answer of a wallet.
const PAGE: u64 = 20;

pub(super) async fn balance(output: Output, wallet: &Connection) -> Result<()> {
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

pub(super) async fn invoice(
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

pub(super) async fn offer(
    output: Output,
    wallet: &Connection,
    amount: Option<Msat>,
    description: String,
) -> Result<()> {
    let params = json!({ "amount_msat": amount, "description": description });
    let answer = admin(wallet, "oa_offer", params).await?;
    output.object(&answer);
    output.say(text(&answer, "offer"));
    Ok(())
}

/// Pays an invoice, or an offer.
pub(super) async fn pay(
    output: Output,
    wallet: &Connection,
    bolt11: String,
    amount: Option<Msat>,
) -> Result<()> {
    if bolt11.to_ascii_lowercase().starts_with("lno1") {
        return pay_offer(output, wallet, &bolt11, amount).await;
    }
    let order = PayOrder { invoice: bolt11, amount, metadata: None };
    let bill = Bill::read(&order.invoice).map_err(|error| Error::new(Kind::Usage, error.to_string()))?;
    let amount = bill.to_pay(amount).map_err(|error| Error::new(Kind::Usage, error.to_string()))?;
    // A wallet answers a second order with the receipt of the first. Where it cannot be asked it decides alone.
    let known = wallet.client.look_up(bill.payment_hash).await.ok().flatten();
    if let Some(paid) = known.filter(|known| known.direction == Direction::Outgoing)
        && let (State::Settled, Some(preimage)) = (paid.state, paid.proof())
    {
        output.object(&json!({
            "payment_hash": bill.payment_hash,
            "preimage": preimage.reveal(),
            "amount_msat": paid.amount,
            "fee_msat": paid.fees_paid,
            "paid_before": true,
        }));
        output.say(format!("paid before, at {}: nothing was paid now", at(paid.created_at)));
        return Ok(());
    }
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

pub(super) async fn history(output: Output, wallet: &Connection, all: bool, offset: u64) -> Result<()> {
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
    let about = one.description.as_deref().unwrap_or_default();
    format!("{}  {sign}{}{fee}{state}  {about}", at(one.created_at), one.amount)
}

/// A time in seconds since 1970, for people.
fn at(seconds: u64) -> String {
    format!("{:.0}", jiff::Timestamp::from_second(seconds.cast_signed()).unwrap_or_default())
}
