//! `oa wallet address`, `channels`, `open`, `close`, `backup` and `sync`: the Lightning node behind the wallet.

use oa_wallet::msat::Msat;
use serde_json::{Value, json};

use super::{admin, text};
use crate::error::{Error, Kind, Result};
use crate::output::Output;
use crate::wallet::client::Wallet as Connection;

pub(super) async fn address(output: Output, wallet: &Connection) -> Result<()> {
    let answer = admin(wallet, "oa_address", json!({})).await?;
    output.object(&answer);
    output.say(text(&answer, "address"));
    Ok(())
}

pub(super) async fn channels(output: Output, wallet: &Connection) -> Result<()> {
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

pub(super) async fn open(
    output: Output,
    wallet: &Connection,
    peer: &str,
    amount: Msat,
    push: Option<Msat>,
) -> Result<()> {
    let (amount_sat, push) = (whole_sat(amount)?, push.unwrap_or_default());
    let params = json!({ "peer": peer, "amount_sat": amount_sat, "push_msat": push });
    let answer = admin(wallet, "oa_open_channel", params).await?;
    output.object(&answer);
    output.say(format!("channel {} is opening; it is ready after some blocks", text(&answer, "channel")));
    Ok(())
}

pub(super) async fn close(output: Output, wallet: &Connection, channel: &str, force: bool) -> Result<()> {
    let params = json!({ "channel": channel, "force": force });
    let answer = admin(wallet, "oa_close_channel", params).await.map_err(|error| match error.hint {
        None => error.hint("`oa wallet channels` shows the ids of those there are"),
        Some(_) => error,
    })?;
    output.object(&answer);
    output.say("the channel is closing");
    Ok(())
}

pub(super) async fn backup(output: Output, wallet: &Connection) -> Result<()> {
    let answer = admin(wallet, "oa_backup", json!({})).await?;
    output.object(&answer);
    output.say(format!("written to {} on the wallet's machine", text(&answer, "file")));
    output.note("it is the channels' state, not the seed words; with every payment it grows old");
    Ok(())
}

pub(super) async fn sync(output: Output, wallet: &Connection) -> Result<()> {
    let answer = admin(wallet, "oa_sync", json!({})).await?;
    output.object(&answer);
    output.say(format!("up to block {}", answer.get("block_height").unwrap_or(&Value::Null)));
    Ok(())
}

fn whole_sat(amount: Msat) -> Result<u64> {
    if amount.get().is_multiple_of(1000) {
        Ok(amount.floor_sat())
    } else {
        Err(Error::new(Kind::Usage, "coins on the chain are whole sat"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coins_on_the_chain_are_whole_sat() {
        assert!(whole_sat(Msat::new(1500)).is_err());
    }
}
