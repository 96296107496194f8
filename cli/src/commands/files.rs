//! `oa ls | stat | cat | call | write | append`: the node's tree, path by path.

use oa_nips::files::{FileType, Stat, Verb};

use crate::args::{Content, Place};
use crate::commands::{connect, stdin_bytes};
use crate::context::Context;
use crate::error::{Error, Kind, Result};

pub(crate) async fn ls(context: &Context, place: Place) -> Result<()> {
    let entries: Vec<Stat> =
        ask(context, Verb::List, &place.path, Vec::new()).await.and_then(|json| parse(&json))?;
    for entry in entries {
        context.output.object(&entry);
        let slash = if entry.file_type == FileType::Dir { "/" } else { "" };
        context.output.say(format!("{}{slash}", entry.name));
    }
    Ok(())
}

pub(crate) async fn stat(context: &Context, place: Place) -> Result<()> {
    let stat: Stat = ask(context, Verb::Stat, &place.path, Vec::new()).await.and_then(|json| parse(&json))?;
    context.output.object(&stat);
    context.output.say(format!("{:?} {} {} bytes", stat.file_type, stat.name, stat.size).to_lowercase());
    Ok(())
}

pub(crate) async fn cat(context: &Context, place: Place) -> Result<()> {
    let content = ask(context, Verb::Read, &place.path, Vec::new()).await?;
    context.output.bytes(&content)
}

/// Writes, appends or calls; what a call answers is printed.
pub(crate) async fn send(context: &Context, verb: Verb, content: Content) -> Result<()> {
    let body = if content.body == "-" { stdin_bytes()? } else { content.body.into_bytes() };
    let answer = ask(context, verb, &content.path, body).await?;
    context.output.bytes(&answer)?;
    if !answer.is_empty() && !answer.ends_with(b"\n") {
        context.output.bytes(b"\n")?;
    }
    Ok(())
}

async fn ask(context: &Context, verb: Verb, path: &str, body: Vec<u8>) -> Result<Vec<u8>> {
    let mut client = connect(context).await?;
    let answer = client.ask(verb, path, body).await;
    client.close().await;
    answer
}

fn parse<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| {
        Error::new(Kind::Failed, format!("the node's answer is not what it should be: {error}"))
    })
}
