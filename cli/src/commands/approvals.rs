//! `oa approvals | approve | deny`: what agents wish for that needs consent.

use oa_nips::files::{Stat, Verb};
use serde_json::Value;

use crate::commands::connect;
use crate::context::Context;
use crate::error::{Error, Kind, Result};

/// Characters of an agent's words that are shown in a line.
const QUOTED_CHARS_MAX: usize = 80;

/// Lists what waits, with `all` also what was decided in the last thirty days.
pub(crate) async fn list(context: &Context, all: bool) -> Result<()> {
    let client = connect(context).await?;
    let entries: Vec<Stat> = parse(&client.ask(Verb::List, "/approvals", Vec::new()).await?)?;
    let mut shown = 0;
    for entry in entries.iter().filter(|entry| entry.name.ends_with(".json")) {
        let wish: Value =
            parse(&client.ask(Verb::Read, &format!("/approvals/{}", entry.name), Vec::new()).await?)?;
        let field = |name: &str| wish.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
        if !all && field("state") != "waiting" {
            continue;
        }
        shown += 1;
        context.output.object(&wish);
        // What is no text comes in base64.
        let words = ["text", "base64"].iter().find_map(|name| wish.get(*name)?.as_str()).unwrap_or_default();
        let words: String = words.chars().take(QUOTED_CHARS_MAX).map(plain).collect();
        // What is over keeps neither its words nor its verb.
        let words = if words.is_empty() { words } else { format!("  \"{words}\"") };
        let (id, state, agent) = (field("id"), field("state"), field("agent"));
        let (category, verb, path) = (field("category"), field("verb"), field("path"));
        let to = wish.get("to").and_then(Value::as_str).map_or_else(String::new, |to| format!(" to {to}"));
        let verb = if verb.is_empty() { verb } else { format!("{verb} ") };
        context.output.say(format!("{id}  {state:<8} {agent}: {verb}{path}{to} ({category}){words}"));
    }
    if shown == 0 {
        context.output.note("nothing waits for consent");
    }
    client.close().await;
    Ok(())
}

/// An agent's words cannot move the cursor or colour the terminal.
fn plain(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

/// Decides about a wish.
pub(crate) async fn decide(context: &Context, id: &str, yes: bool) -> Result<()> {
    let client = connect(context).await?;
    let word = if yes { "approve" } else { "deny" };
    let body = format!("{word} {id}").into_bytes();
    let said = client.ask(Verb::Call, "/approvals/ctl", body).await.map_err(|error| match error.kind {
        Kind::NotFound => Error::new(Kind::NotFound, format!("there is no wish {id} for you to decide"))
            .hint("`oa approvals` lists those that wait, with --all also what was decided"),
        _ => error,
    })?;
    let said: Value = parse(&said)?;
    context.output.object(&said);
    context.output.say(if yes {
        format!("{id} is granted: the node does it now, once")
    } else {
        format!("{id} is denied: nothing is done")
    });
    client.close().await;
    Ok(())
}

fn parse<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| {
        Error::new(Kind::Failed, format!("the node's answer is not what it should be: {error}"))
    })
}
