//! `oa dm`: a direct message, and the reply.

use oa_nips::files::Verb;
use oa_nips::mail::{Protocol, TEXT_BYTES_MAX};
use oa_nips::nostr::PublicKey;
use serde_json::json;

use crate::args::Dm;
use crate::client::Client;
use crate::commands::{connect, find, public_key, stdin};
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::host::npub;
use crate::output::Output;

pub(crate) async fn run(context: &Context, args: Dm) -> Result<()> {
    let text = if args.text == "-" { stdin()? } else { args.text };
    if text.trim().is_empty() {
        return Err(Error::new(Kind::Usage, "there is nothing to say"));
    }
    if text.len() > TEXT_BYTES_MAX {
        let message =
            format!("{} bytes are too many for one message; it may have {TEXT_BYTES_MAX}", text.len());
        return Err(Error::new(Kind::Usage, message));
    }
    let client = connect(context).await?;
    let to = resolve(&client, &args.to, context.output).await?;
    let protocol = if args.nip04 { Protocol::Nip04 } else { Protocol::Nip17 };
    let mut sent = client.dm(to, &text, protocol).await?;
    let id = sent.id;
    let output = context.output;
    if args.no_wait {
        output.object(&json!({ "sent": id, "to": npub(&to) }));
    } else {
        let mail = client.answer(&mut sent, args.wait, |worry| output.note(worry)).await?;
        output.object(&json!({
            "sent": id,
            "from": npub(&mail.author),
            "id": mail.id,
            "protocol": mail.protocol,
            "text": mail.text(),
        }));
        output.say(mail.text().unwrap_or("(an answer that is no text)"));
    }
    client.close().await;
    Ok(())
}

/// An npub as it is; a name, of an agent or at a domain, by asking the node. Of an agent that does not tick it says so:
/// nothing else would tell why there is no answer.
async fn resolve(client: &Client, to: &str, output: Output) -> Result<PublicKey> {
    if let Ok(key) = public_key(to) {
        return Ok(key);
    }
    if to.starts_with("npub1") {
        return Err(Error::new(Kind::Usage, format!("{to:?} is no npub: it is mistyped, or cut off")));
    }
    if to.contains('@') {
        return find::named(client, to).await;
    }
    let status = client.ask(Verb::Read, &format!("/agents/{to}/status"), Vec::new()).await?;
    let status: serde_json::Value = serde_json::from_slice(&status)
        .map_err(|error| Error::new(Kind::Failed, format!("the node's answer is no status: {error}")))?;
    let text = |field: &str| status.get(field).and_then(serde_json::Value::as_str).unwrap_or_default();
    if let lifecycle @ ("stopped" | "quarantined") = text("lifecycle") {
        let reason = Some(text("reason")).filter(|reason| !reason.is_empty());
        let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        output.note(format!("{to} is {lifecycle}{reason}: it answers after `oa agent ctl {to} resume`"));
    }
    public_key(text("npub"))
}
