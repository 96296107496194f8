//! `oa ls | stat | cat | call | write | append | mkdir | rm | mv`: the node's tree, path by path.

use std::io::IsTerminal as _;
use std::time::Duration;

use oa_nips::files::{Code, FileType, MESSAGE_BYTES_MAX, Request, Verb};
use serde_json::json;

use crate::args::{Content, File, Move, One, Place, Queue};
use crate::client::{CallError, Choice, Client, Order};
use crate::commands::{connect, stdin_bytes};
use crate::context::Context;
use crate::error::{Error, Result};

/// Bytes of a file over one message that are asked for at once.
const PART_BYTES: u64 = MESSAGE_BYTES_MAX as u64 / 4;

pub(crate) async fn ls(context: &Context, place: Place) -> Result<()> {
    let client = connect(context).await?;
    let entries = client.list(&place.path).await;
    client.close().await;
    for entry in entries? {
        context.output.object(&entry);
        let slash = if entry.file_type == FileType::Dir { "/" } else { "" };
        context.output.say(format!("{}{slash}", entry.name));
    }
    Ok(())
}

pub(crate) async fn stat(context: &Context, place: Place) -> Result<()> {
    let client = connect(context).await?;
    let stat = client.stat(&place.path).await;
    client.close().await;
    let stat = stat?;
    context.output.object(&stat);
    context.output.say(format!("{:?} {} {} bytes", stat.file_type, stat.name, stat.size).to_lowercase());
    Ok(())
}

pub(crate) async fn cat(context: &Context, file: File) -> Result<()> {
    let client = connect(context).await?;
    let printed = print(context, &client, &file.path).await;
    client.close().await;
    printed
}

/// One message is a snapshot, and its frames come as fast as any; only what does not fit one is read in parts.
async fn print(context: &Context, client: &Client, path: &str) -> Result<()> {
    let whole = client.call(&Request::new(crate::client::fresh(), Verb::Read, path, Vec::new())).await;
    match whole {
        Ok(content) => {
            context.output.bytes(&content)?;
            return end_line(context, &content);
        }
        Err(CallError::Refused(error)) if error.code == Code::TooLarge => {}
        Err(error) => return Err(error.into()),
    }
    let mut offset = 0;
    loop {
        let part = client.read(path, offset, PART_BYTES).await?;
        if part.is_empty() {
            return Ok(());
        }
        context.output.bytes(&part)?;
        offset += part.len() as u64;
    }
}

/// Writes, appends or calls; what a call answers is printed.
pub(crate) async fn send(context: &Context, verb: Verb, content: Content) -> Result<()> {
    let Content { path, body, queue } = content;
    if body == "-" && std::io::stdin().is_terminal() {
        context.output.note("type what to send; Ctrl-D ends it");
    }
    let body = if body == "-" { stdin_bytes()? } else { body.into_bytes() };
    change(context, Order { verb, path, body }, &queue).await
}

/// Creates a folder, or removes something.
pub(crate) async fn one(context: &Context, verb: Verb, one: One) -> Result<()> {
    change(context, Order { verb, path: one.path, body: Vec::new() }, &one.queue).await
}

/// Moves something.
pub(crate) async fn mv(context: &Context, args: Move) -> Result<()> {
    let order = Order { verb: Verb::Rename, path: args.from, body: args.to.into_bytes() };
    change(context, order, &args.queue).await
}

async fn change(context: &Context, order: Order, queue: &Queue) -> Result<()> {
    let client = connect(context).await?;
    let changed = if let Some(choice) = queue.queue {
        leave(context, &client, order, choice, queue.wait).await
    } else {
        let Order { verb, path, body } = order;
        client.ask(verb, &path, body).await.and_then(|answer| answered(context, &answer))
    };
    client.close().await;
    changed
}

/// Leaves a command on the relay; says its queue, or waits for what it answers.
async fn leave(
    context: &Context,
    client: &Client,
    order: Order,
    choice: Choice,
    wait: Option<Duration>,
) -> Result<()> {
    let queued = client.queue(&context.home, choice, order).await?;
    if queued.was_interrupted {
        context.output.note("an earlier command, which may not have reached the relay, was sent before it");
    }
    let Some(wait) = wait else {
        context.output.object(&json!({ "queue": queued.id, "seq": queued.seq }));
        context.output.say(queued.id.to_string());
        context
            .output
            .note("left on the relay: the node does it when it is there; --queue --wait waits for that");
        return Ok(());
    };
    context.output.note(format!("queued as {}", queued.id));
    answered(context, &client.reply(queued, wait).await?.map_err(Error::from)?)
}

/// On a terminal the prompt does not begin behind a file's last word; elsewhere a file is what it is.
fn end_line(context: &Context, content: &[u8]) -> Result<()> {
    if context.output.is_terminal() && !content.is_empty() && !content.ends_with(b"\n") {
        context.output.bytes(b"\n")?;
    }
    Ok(())
}

fn answered(context: &Context, answer: &[u8]) -> Result<()> {
    context.output.bytes(answer)?;
    if !answer.is_empty() && !answer.ends_with(b"\n") {
        context.output.bytes(b"\n")?;
    }
    Ok(())
}
