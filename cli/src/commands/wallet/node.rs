//! `oa wallet transfer` between the accounts of a node's agents: an entry in the node's ledger, by the operator protocol.

use oa_nips::files::Verb;
use oa_wallet::account::Holder;
use oa_wallet::msat::Msat;
use serde_json::{Value, json};

use crate::commands::connect;
use crate::context::Context;
use crate::error::{Error, Kind, Result};

/// Moves money from one account of the home's node to another.
pub(super) async fn transfer(context: &Context, from: &Holder, to: &Holder, amount: Msat) -> Result<()> {
    let client = connect(context).await?;
    let asked = json!({ "from": from, "to": to, "amount_msat": amount }).to_string().into_bytes();
    let said = client.ask(Verb::Call, "/wallet/transfer", asked).await;
    client.close().await;
    let said = said.map_err(|error| match error {
        error if error.kind == Kind::NotFound && error.message.contains("no such file") => error.hint(
            "the node has no wallet, or was given one after its start: see `oa up --wallet-file`, or `wallet` in \
             config.toml; --in-wallet moves money between accounts of this home's wallet",
        ),
        error => error,
    })?;
    let said: Value = serde_json::from_slice(&said)
        .map_err(|error| Error::new(Kind::Failed, format!("the node's answer is none: {error}")))?;
    context.output.object(&said);
    context.output.say(format!("{amount} from {from} to {to}"));
    Ok(())
}
