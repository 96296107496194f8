//! `oa bunker`: who else may have things signed with an agent's key (NIP-46).

use std::time::Duration;

use clap::{Args, Subcommand};
use oa_nips::files::{FileType, Verb};
use serde_json::{Value, json};

use crate::args::duration;
use crate::client::Client;
use crate::commands::connect;
use crate::context::Context;
use crate::error::{Error, Kind, Result};

/// `oa bunker`
#[derive(Debug, Subcommand)]
pub(crate) enum Bunker {
    /// Make an address bunker://… with which one program is let in, once
    New(New),
    /// List who may sign, and what
    List {
        /// Of this agent only
        #[arg(long, value_name = "AGENT")]
        agent: Option<String>,
    },
    /// End a connection; it holds at once
    Revoke {
        /// As `oa bunker list` shows it
        name: String,
        /// Whose; not needed where there is one agent
        #[arg(long, value_name = "AGENT")]
        agent: Option<String>,
    },
}

/// `oa bunker new`
#[derive(Debug, Args)]
pub(crate) struct New {
    /// What the connection is called: a-z, 0-9 and -
    pub(crate) name: String,
    /// Whose key; not needed where there is one agent
    #[arg(long, value_name = "AGENT")]
    pub(crate) agent: Option<String>,
    /// The kinds of event that it may have signed [default: 1,6,7,30023]
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    pub(crate) kinds: Option<Vec<u16>>,
    /// It may encrypt and decrypt too, and so read the agent's messages
    #[arg(long)]
    pub(crate) encrypt: bool,
    /// The same for legacy messages (NIP-04)
    #[arg(long)]
    pub(crate) nip04: bool,
    /// How long the address can be used to be let in
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = duration)]
    pub(crate) valid: Duration,
}

pub(crate) async fn run(context: &Context, args: Bunker) -> Result<()> {
    let client = connect(context).await?;
    match args {
        Bunker::New(new) => invite(context, &client, new).await?,
        Bunker::List { agent } => list(context, &client, agent).await?,
        Bunker::Revoke { name, agent } => {
            let agent = one(&client, agent).await?;
            let path = format!("/agents/{agent}/bunker/{name}.json");
            client.ask(Verb::Remove, &path, Vec::new()).await.map_err(|error| match error.kind {
                Kind::NotFound if error.message.starts_with(&path) => {
                    Error::new(Kind::NotFound, format!("nobody signs for {agent} as {name}"))
                        .hint("`oa bunker list` shows who may")
                }
                _ => error,
            })?;
            context.output.object(&json!({ "agent": agent, "name": name, "state": "revoked" }));
            context.output.say(format!("{name} signs for {agent} no more"));
        }
    }
    client.close().await;
    Ok(())
}

async fn invite(context: &Context, client: &Client, new: New) -> Result<()> {
    let agent = one(client, new.agent).await?;
    let wish = json!({
        "name": new.name,
        "kinds": new.kinds,
        "nip44": new.encrypt,
        "nip04": new.nip04,
        "valid_s": new.valid.as_secs(),
    });
    let body = wish.to_string().into_bytes();
    let made = object(&client.ask(Verb::Call, &format!("/agents/{agent}/bunker/new"), body).await?)?;
    let output = context.output;
    output.object(&made);
    output.say(made.get("uri").and_then(Value::as_str).unwrap_or_default());
    output.note(format!(
        "Give this address to one program, within {} minutes. It will sign as {agent}; `oa bunker revoke {} --agent \
         {agent}` ends that.",
        new.valid.as_secs().div_ceil(60),
        new.name
    ));
    Ok(())
}

async fn list(context: &Context, client: &Client, agent: Option<String>) -> Result<()> {
    let agents = match agent {
        Some(agent) => vec![agent],
        None => agents(client).await?,
    };
    let mut shown_any = false;
    for agent in agents {
        let folder = format!("/agents/{agent}/bunker");
        for entry in client.list(&folder).await?.into_iter().filter(|entry| entry.name.ends_with(".json")) {
            let path = format!("{folder}/{}", entry.name);
            let mut shown = object(&client.ask(Verb::Read, &path, Vec::new()).await?)?;
            if let Some(shown) = shown.as_object_mut() {
                shown.insert("agent".to_owned(), agent.clone().into());
            }
            shown_any = true;
            context.output.object(&shown);
            let text = |name| shown.get(name).and_then(Value::as_str).unwrap_or("-");
            let kinds = shown.pointer("/may/kinds").map(Value::to_string).unwrap_or_default();
            let may = |name| shown.pointer(name).and_then(Value::as_bool).unwrap_or_default();
            let reads = if may("/may/nip44") || may("/may/nip04") { ", reads messages" } else { "" };
            context.output.say(format!(
                "{agent:<16} {:<16} {:<10} signs {kinds}{reads}",
                text("name"),
                text("state")
            ));
        }
    }
    if !shown_any {
        context.output.note("nobody else may sign with an agent's key");
    }
    Ok(())
}

/// The agent that is meant, where there is no choice.
async fn one(client: &Client, named: Option<String>) -> Result<String> {
    if let Some(named) = named {
        return Ok(named);
    }
    let mut agents = agents(client).await?;
    match (agents.pop(), agents.is_empty()) {
        (Some(agent), true) => Ok(agent),
        _ => Err(Error::new(Kind::Usage, "which agent's key?").hint("name it with --agent")),
    }
}

async fn agents(client: &Client) -> Result<Vec<String>> {
    let entries = client.list("/agents").await?;
    // Beside them are files: new, import.
    Ok(entries.into_iter().filter(|entry| entry.file_type == FileType::Dir).map(|entry| entry.name).collect())
}

fn object(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|error| {
        Error::new(Kind::Failed, format!("the node's answer is not what it should be: {error}"))
    })
}
