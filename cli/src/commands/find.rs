//! `oa agent find | vouch`: whom others can be found by, and who answers for an agent.

use oa_nips::files::Verb;
use oa_nips::nostr::PublicKey;
use oa_node::agent::manifest::{Manifest, OwnerWord};
use serde_json::{Value, json};

use crate::client::Client;
use crate::commands::public_key;
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::host::npub;

/// Finds agents by a capability, or whoever has a name at a domain.
pub(crate) async fn find(context: &Context, client: &Client, what: &str) -> Result<()> {
    let found = ask(client, what).await?;
    if found.is_empty() {
        context.output.note(format!("nobody says that they can do {what}"));
    }
    for one in found {
        context.output.object(&one);
        let text = |field: &str| one.get(field).and_then(Value::as_str).unwrap_or_default();
        let name = if text("nip05").is_empty() { text("name") } else { text("nip05") };
        context.output.say(format!("{}  {name:<16} {}", text("npub"), text("about")));
    }
    Ok(())
}

/// Whose a name is, by the node's asking: it is the node that says which private hosts may be asked.
pub(crate) async fn named(client: &Client, name: &str) -> Result<PublicKey> {
    let found = ask(client, name).await?;
    let npub = found.first().and_then(|found| found.get("npub")).and_then(Value::as_str);
    public_key(npub.unwrap_or_default())
}

async fn ask(client: &Client, what: &str) -> Result<Vec<Value>> {
    let key = if what.contains('@') { "name" } else { "capability" };
    let request = json!({ key: what }).to_string().into_bytes();
    let answer = client.ask(Verb::Call, "/node/find", request).await?;
    serde_json::from_slice(&answer)
        .map_err(|error| Error::new(Kind::Failed, format!("the node's answer is no list: {error}")))
}

/// Says, by this home's key, that an agent is its owner's, so that the agent's profile may show whose it is.
pub(crate) async fn vouch(context: &Context, client: &Client, name: &str) -> Result<()> {
    let read = |path: String| async move { client.ask(Verb::Read, &path, Vec::new()).await };
    let status: Value = serde_json::from_slice(&read(format!("/agents/{name}/status")).await?)
        .map_err(|error| Error::new(Kind::Failed, format!("the node's answer is no status: {error}")))?;
    let text = |field: &str| status.get(field).and_then(Value::as_str).unwrap_or_default();
    let word = client.vouch(public_key(text("npub"))?).await?;
    if text("owner") != npub(&word.pubkey) {
        let message = format!("{name} is not owned by this home's key, {}", npub(&word.pubkey));
        return Err(Error::new(Kind::Denied, message).hint("its owner's word is the only one that counts"));
    }
    let path = format!("/agents/{name}/manifest");
    let manifest = String::from_utf8_lossy(&read(path.clone()).await?).into_owned();
    let mut manifest = Manifest::parse(&manifest)
        .map_err(|error| Error::new(Kind::Failed, format!("the agent's manifest: {error}")))?;
    manifest.profile.owner_word = Some(OwnerWord { at: word.created_at, sig: word.sig });
    client.ask(Verb::Write, &path, manifest.to_toml().into_bytes()).await?;
    context.output.object(&json!({ "agent": name, "owner": npub(&word.pubkey) }));
    context.output.say(format!("{name}'s profile says that it is yours"));
    Ok(())
}
