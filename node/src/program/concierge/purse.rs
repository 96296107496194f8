//! The owner's words about money: what the account has, an invoice, a payment; and what came of them later.
//!
//! The concierge has no power of its own over money: `/wallet` counts, caps and refuses.

use oa_nips::files::Code;
use oa_wallet::msat::Msat;
use serde_json::Value;

use crate::namespace::{Error, Namespace};
use crate::program::Fault;

/// What is said where there is no wallet.
const NONE: &str = "I have no wallet: whoever runs my node gives it one, and me an account.";

/// What the account has.
pub(super) async fn balance(ns: &mut Namespace) -> Result<String, Fault> {
    let shown = match ns.read("/wallet/balance").await {
        Ok(shown) => json(&shown),
        Err(error) => return Ok(refused(&error)),
    };
    let [available, reserved, debt] =
        ["balance_msat", "reserved_msat", "debt_msat"].map(|field| msat(&shown, field));
    let play = if shown.get("play_money").is_some() { " of play money" } else { "" };
    let mut text = format!("I have {available}{play}.");
    if !reserved.is_zero() {
        text += &format!(" {reserved} more are held back for payments that are not over.");
    }
    if !debt.is_zero() {
        text += &format!(" I owe {debt}: until that is repaid I can pay nothing.");
    }
    Ok(text)
}

/// An invoice that pays into the account.
pub(super) async fn invoice(ns: &mut Namespace, asked: &str) -> Result<String, Fault> {
    Ok(match ns.call("/wallet/invoice", asked.as_bytes()).await {
        Ok(made) => {
            let made = json(&made);
            format!("Here is an invoice for {}:\n{}", msat(&made, "amount_msat"), text(&made, "invoice"))
        }
        Err(error) => refused(&error),
    })
}

/// Pays an invoice.
pub(super) async fn pay(ns: &mut Namespace, asked: &str) -> Result<String, Fault> {
    Ok(match ns.call("/wallet/pay", asked.as_bytes()).await {
        Ok(told) => paid(&json(&told)),
        Err(error) => refused(&error),
    })
}

fn paid(told: &Value) -> String {
    let amount = msat(told, "amount_msat");
    if text(told, "state") == "pending" {
        return format!("The payment of {amount} takes longer. I tell you how it ends.");
    }
    let fee = msat(told, "fee_msat");
    let fee = if fee.is_zero() { String::new() } else { format!(", and {fee} in fees") };
    format!("Paid {amount}{fee}.")
}

/// What happened to the account, for whoever waits to hear; nothing for what is told otherwise.
pub(super) fn told(data: &Value) -> Option<String> {
    match (text(data, "event"), text(data, "state")) {
        ("received", _) => {
            let about = text(data, "description");
            let about = if about.is_empty() { String::new() } else { format!(" ({about})") };
            Some(format!("Your invoice was paid: {}{about}.", msat(data, "received_msat")))
        }
        ("ended", "settled") => Some(paid(data)),
        ("ended", "failed") => {
            Some(format!("The payment of {} failed: {}", msat(data, "amount_msat"), text(data, "reason")))
        }
        _ => None,
    }
}

fn refused(error: &Error) -> String {
    match error.code {
        Code::NotFound => NONE.to_owned(),
        Code::ApprovalRequired => {
            "That is more than I may spend by myself. You are asked for your consent in a message of my node."
                .to_owned()
        }
        Code::OutcomeUnknown => "I cannot tell whether that was paid. Look before you pay again.".to_owned(),
        _ => format!("That did not work: {}.", error.reason),
    }
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_default()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn msat(value: &Value, field: &str) -> Msat {
    Msat::new(value.get(field).and_then(Value::as_u64).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ends_are_told_in_a_sentence() {
        let told = |data: Value| super::told(&data).unwrap_or_default();
        assert_eq!(
            told(json!({"event": "received", "received_msat": 500_000, "description": "tea"})),
            "Your invoice was paid: 500 sat (tea)."
        );
        let settled = json!({"event": "ended", "state": "settled", "amount_msat": 5000, "fee_msat": 1000});
        assert_eq!(told(settled), "Paid 5 sat, and 1 sat in fees.");
        let failed = json!({"event": "ended", "state": "failed", "amount_msat": 5000, "reason": "no route"});
        assert_eq!(told(failed), "The payment of 5 sat failed: no route");
        assert_eq!(super::told(&json!({"event": "transferred"})), None);
        assert_eq!(super::told(&Value::Null), None);
    }
}
