//! How two wallets get coins and a channel to each other, by the methods that anybody has who steers a wallet.

use std::time::{Duration, Instant};

use oa_wallet::backend::Sat;
use oa_wallet::nwc::client::Client;
use oa_wallet::regtest::{Chain, FundError};
use serde_json::{Value, json};

use super::{CONFIRMATIONS, Operator};
use crate::error::{Error, Kind, Result, chain as causes};

/// What the channel holds, half of it each side's.
const CAPACITY: Sat = Sat(10_000_000);
/// What each has on the chain besides: the reserve for closing a channel, fees, and more to open others with.
const SPARE: Sat = Sat(5_000_000);
/// How long any one step may take, on a busy machine.
const STEP_MAX: Duration = Duration::from_secs(60);
/// How often it is looked whether a step is done.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Gives both coins, and opens a channel that both can spend from; returns once their accounts have it.
///
/// # Errors
/// What a wallet refused, or a step that took too long.
pub(super) async fn connect(chain: &Chain, opener: &Operator, other: &Operator) -> Result<()> {
    let (one, two) = (opener.admin().await?, other.admin().await?);
    let done = async {
        let (there, here) = tokio::try_join!(address(&one.client), address(&two.client))?;
        chain.fund(&there, Sat(CAPACITY.0 + SPARE.0)).map_err(unfunded)?;
        chain.fund(&here, SPARE).map_err(unfunded)?;
        chain.mine(1);
        tokio::try_join!(sync(&one.client), sync(&two.client))?;
        let waiting = chain.waiting();
        let open = json!({
            "peer": other.peer(), "amount_sat": CAPACITY.0, "push_msat": CAPACITY.0 * 1_000 / 2,
        });
        one.client.admin("oa_open_channel", open).await?;
        until("the funding transaction", async || Ok(chain.waiting() > waiting)).await?;
        chain.mine(CONFIRMATIONS);
        tokio::try_join!(sync(&one.client), sync(&two.client))?;
        for client in [&one.client, &two.client] {
            until("the channel", async || is_usable(client).await).await?;
            until("the money in the operator's account", async || is_booked(client).await).await?;
        }
        Ok(())
    };
    let done = done.await;
    one.close().await;
    two.close().await;
    done
}

async fn address(client: &Client) -> Result<String> {
    let answer = client.admin("oa_address", json!({})).await?;
    Ok(answer.get("address").and_then(Value::as_str).unwrap_or_default().to_owned())
}

async fn sync(client: &Client) -> Result<()> {
    client.admin("oa_sync", json!({})).await?;
    Ok(())
}

async fn is_usable(client: &Client) -> Result<bool> {
    let answer = client.admin("oa_channels", json!({})).await?;
    let channels = answer.get("channels").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Ok(channels.iter().any(|channel| channel.get("usable") == Some(&Value::Bool(true))))
}

/// Whether the account has what is in the channel and on the chain.
async fn is_booked(client: &Client) -> Result<bool> {
    Ok(client.balance().await?.floor_sat() >= CAPACITY.0 / 2)
}

async fn until(step: &str, is_done: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + STEP_MAX;
    while !is_done().await? {
        if Instant::now() >= deadline {
            return Err(Error::new(Kind::TimedOut, format!("{step} takes too long")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn unfunded(error: FundError) -> Error {
    Error::new(Kind::Failed, causes(&error))
}
