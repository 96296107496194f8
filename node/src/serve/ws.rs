//! `/ws/{open,close,send,status,policy,connections/}`: websockets to hosts that the manifest allows, which the node
//! keeps; see [`crate::sockets`].
//!
//! Opening and closing land with the tick. Sending happens at once and is never repeated: after a crash its outcome is
//! unknown.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oa_nips::files::Code;
use serde::Deserialize;
use serde_json::json;

use super::state::StateFolder;
use super::{Parts, at};
use crate::namespace::blocks::Computed;
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::path::Path;
use crate::namespace::service::{Class, Context, Effect};
use crate::sockets::buffer::Message;
use crate::sockets::{AGENT_MAX, FOLDER, MESSAGE_BYTES_MAX, SendError, Sockets, Wanted, WantedError};

/// Longest id, in characters.
const ID_CHARS_MAX: usize = 64;
/// Longest request, in bytes: a message in base64.
const REQUEST_BYTES_MAX: usize = 128 * 1024;

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts) {
    let (sockets, shown) = (parts.sockets.clone(), parts.sockets.clone());
    let folder = Computed::new()
        .call("open", open)
        .call("close", close)
        .outside("send", Class::AtMostOnce, move |cx, request| {
            let sockets = sockets.clone();
            Box::pin(async move { send(&sockets, cx, request).await })
        })
        .value("status", move |cx| Ok(shown.status(cx.subject()?.row.id).to_string().into_bytes()))
        .value("policy", |cx| {
            let rules = &cx.subject()?.manifest.ws;
            Ok(json!({ "allow": rules.allow, "per_minute": rules.per_minute }).to_string().into_bytes())
        });
    mounts.mount(at("/ws"), folder.build(), "websockets");
    mounts.mount(
        at("/ws/connections"),
        Arc::new(StateFolder::new(at("/ws/connections"))),
        "those that are kept",
    );
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Open {
    id: String,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Close {
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    id: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    base64: Option<String>,
}

fn parse<'a, T: Deserialize<'a>>(path: &str, request: &'a [u8]) -> Result<T, Error> {
    if request.len() > REQUEST_BYTES_MAX {
        return Err(Error::too_large(path, REQUEST_BYTES_MAX));
    }
    serde_json::from_slice(request).map_err(|error| Error::invalid(path, error.to_string()))
}

/// The file of a connection.
fn place(path: &str, id: &str) -> Result<Path, Error> {
    let is_plain = id.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
    let place = format!("{FOLDER}{id}.json").parse().ok();
    let place = place.filter(|_| is_plain && (1..=ID_CHARS_MAX).contains(&id.len()));
    let reason = || format!("id: 1 to {ID_CHARS_MAX} characters of a-z, 0-9 and -");
    place.ok_or_else(|| Error::invalid(path, reason()))
}

fn open(cx: &Context<'_>, request: &[u8]) -> Result<Effect, Error> {
    let path = "/ws/open";
    let Open { id, url, headers } = parse(path, request)?;
    let (file, subject) = (place(path, &id)?, cx.subject()?);
    let wanted = Wanted { url, headers };
    wanted.check(&subject.manifest.ws).map_err(|error| {
        let is_denied = matches!(error, WantedError::NotAllowed(_));
        let code = if is_denied { Code::PermissionDenied } else { Code::InvalidInput };
        Error::new(code, path, error.to_string())
    })?;
    let others = subject.state.paths(FOLDER)?;
    if others.iter().filter(|other| **other != file.as_str()).count() >= AGENT_MAX {
        let reason = format!("an agent has at most {AGENT_MAX} websockets");
        return Err(Error::new(Code::RateLimited, path, reason));
    }
    let content = serde_json::to_vec(&wanted).map_err(|error| Error::io(path, error.to_string()))?;
    let reply = json!({ "id": id, "file": file.as_str() }).to_string().into_bytes();
    Ok(Effect { reply, ..Effect::file(file, Some(content)) })
}

fn close(cx: &Context<'_>, request: &[u8]) -> Result<Effect, Error> {
    let path = "/ws/close";
    let Close { id } = parse(path, request)?;
    let file = place(path, &id)?;
    if cx.subject()?.state.read(&file)?.is_none() {
        return Err(Error::new(Code::NotFound, path, format!("there is no websocket {id}")));
    }
    Ok(Effect { reply: json!({ "id": id }).to_string().into_bytes(), ..Effect::file(file, None) })
}

async fn send(sockets: &Sockets, cx: &Context<'_>, request: &[u8]) -> Result<Vec<u8>, Error> {
    let path = "/ws/send";
    let Send { id, text, base64 } = parse(path, request)?;
    let message = match (text, base64) {
        (Some(text), None) => Message::Text(text),
        (None, Some(base64)) => Message::Binary(
            STANDARD.decode(base64).map_err(|error| Error::invalid(path, format!("base64: {error}")))?,
        ),
        _ => return Err(Error::invalid(path, "takes text or base64, one of them")),
    };
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(Error::too_large(path, MESSAGE_BYTES_MAX));
    }
    sockets.send(cx.subject()?.row.id, &id, message).await.map_err(|error| {
        let code = match error {
            SendError::NotThere => Code::NotFound,
            SendError::NotConnected => Code::Unavailable,
            SendError::TooOften | SendError::Busy => Code::RateLimited,
            SendError::Unknown => Code::OutcomeUnknown,
        };
        Error::new(code, path, error.to_string())
    })?;
    Ok(json!({ "id": id, "sent": true }).to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::fixture::Fixture;
    use super::*;
    use crate::agent::site::Site;
    use crate::namespace::Namespace;

    async fn call(ns: &mut Namespace, file: &str, request: Value) -> Result<Value, Code> {
        let reply = ns.call(&format!("/ws/{file}"), request.to_string().as_bytes()).await;
        reply.map(|reply| serde_json::from_slice(&reply).unwrap()).map_err(|error| error.code)
    }

    #[tokio::test]
    async fn opening_and_closing_land_with_the_tick_and_sending_does_not() {
        let mut fixture = Fixture::new();
        fixture.manifest.ws.allow = vec![Site::parse("api.example.com").unwrap()];
        let mut ns = fixture.tick();
        let wanted =
            |id: &str| json!({ "id": id, "url": "wss://api.example.com/feed", "headers": { "x-key": "1" } });
        let opened = call(&mut ns, "open", wanted("feed")).await.unwrap();
        assert_eq!(opened, json!({ "id": "feed", "file": "/ws/connections/feed.json" }));
        let file: Value =
            serde_json::from_slice(&ns.read("/ws/connections/feed.json").await.unwrap()).unwrap();
        assert_eq!(file["url"], "wss://api.example.com/feed");
        // It is there once the tick has landed.
        let early = call(&mut ns, "send", json!({ "id": "feed", "text": "x" })).await;
        assert_eq!(early, Err(Code::NotFound));
        let done = fixture.keep(ns);
        assert_eq!(done.calls.len(), 1, "what was to be sent is in the journal");
        let mut ns = fixture.tick();
        call(&mut ns, "close", json!({ "id": "feed" })).await.unwrap();
        assert_eq!(call(&mut ns, "close", json!({ "id": "feed" })).await, Err(Code::NotFound));
        let done = fixture.keep(ns);
        assert!(
            done.files
                .iter()
                .any(|(path, content)| path.as_str() == "/ws/connections/feed.json" && content.is_none())
        );
    }

    #[tokio::test]
    async fn what_is_no_websocket_or_one_too_many_is_refused() {
        let mut fixture = Fixture::new();
        fixture.manifest.ws.allow = vec![Site::parse("api.example.com").unwrap()];
        let mut ns = fixture.tick();
        let open = |id: &str, url: &str| json!({ "id": id, "url": url });
        for (request, code) in [
            (open("a", "wss://evil.example/feed"), Code::PermissionDenied),
            (open("a", "https://api.example.com/feed"), Code::InvalidInput),
            (open("a", "wss://u:p@api.example.com/feed"), Code::InvalidInput),
            (open("../a", "wss://api.example.com/feed"), Code::InvalidInput),
            (open("", "wss://api.example.com/feed"), Code::InvalidInput),
            (json!({ "id": "a" }), Code::InvalidInput),
        ] {
            assert_eq!(call(&mut ns, "open", request.clone()).await, Err(code), "{request}");
        }
        for n in 0..AGENT_MAX {
            call(&mut ns, "open", open(&n.to_string(), "wss://api.example.com/feed")).await.unwrap();
        }
        let more = call(&mut ns, "open", open("more", "wss://api.example.com/feed")).await;
        assert_eq!(more, Err(Code::RateLimited));
        call(&mut ns, "open", open("0", "wss://api.example.com/other"))
            .await
            .expect("in place of an earlier one");
        for wrong in [json!({ "id": "0" }), json!({ "id": "0", "text": "a", "base64": "YQ==" })] {
            assert_eq!(call(&mut ns, "send", wrong).await, Err(Code::InvalidInput));
        }
        let long = json!({ "id": "0", "text": "x".repeat(MESSAGE_BYTES_MAX + 1) });
        assert_eq!(call(&mut ns, "send", long).await, Err(Code::TooLarge));
        assert!(ns.write("/ws/connections/x.json", b"{}").await.is_err(), "connections are opened by asking");
    }
}
