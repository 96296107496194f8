//! `/http`: requests to hosts that the manifest allows.
//!
//! `request` is journaled: what may be repeated after a crash (GET, HEAD, PUT, DELETE, and what carries an idempotency
//! key) is, a POST or PATCH is answered with `outcome_unknown`. `responses` has the last answers; `policy` says what is
//! allowed, and what is left of today.

mod door;
mod request;
mod send;
#[cfg(test)]
mod tests;
mod used;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{self, HeaderMap};
use oa_nips::files::Code;
use serde_json::{Map, Value, json};

pub(crate) use self::door::Door;
use self::request::Asked;
use self::send::{Sender, Sent};
use self::used::Requests;
use super::{Parts, at};
use crate::agent::AgentId;
use crate::drivers::http::{Answer, Client};
use crate::namespace::blocks::{Computed, Rows};
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::path::Path;
use crate::namespace::service::{
    Answer as Later, Change, Class, Context, Effect, FileService, FileType, Span, Stat, file, not_taken,
};
use crate::secrets::Vault;
use crate::secrets::redact::Redactor;
use crate::store::Store;

/// The call file, within the mount.
const REQUEST: &str = "/request";
/// Bytes of a body that a kept answer has, when the whole is too large.
const KEPT_BODY_BYTES: usize = 16 * 1024;

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts) {
    let requests = Requests(parts.store.clone());
    let asker = Arc::new(Asker {
        client: parts.http.clone(),
        vault: Vault::new(parts.store.clone(), parts.keyring.clone()),
        requests: requests.clone(),
        door: Door::new(parts.store.clone(), parts.time.clone()),
    });
    let (known, time) = (requests.clone(), parts.time.clone());
    let folder = Computed::new()
        .outside("request", Class::AtMostOnce, move |cx, body| {
            let asker = asker.clone();
            Box::pin(async move { asker.request(cx, body).await })
        })
        .value("policy", move |cx| policy(cx, &known, time.now_ms()))
        .folder("responses", responses(&requests));
    mounts.mount(at("/http"), Arc::new(Http { folder: folder.build() }), "requests");
}

/// Makes requests.
struct Asker {
    client: Arc<Client>,
    vault: Vault,
    requests: Requests,
    door: Door,
}

impl Asker {
    async fn request(&self, cx: &Context<'_>, body: &[u8]) -> Result<Vec<u8>, Error> {
        let subject = cx.subject()?;
        let asked = Asked::parse(body)?;
        let secrets = self.vault.of_agent(&subject.manifest.name).await?;
        let redactor = Redactor::new(&secrets);
        let rules = &subject.manifest.http;
        let sender = Sender { client: &self.client, rules, secrets: &secrets, redactor: &redactor };
        let first = sender.first(asked)?;
        let n = self.door.count(cx).await?;
        let sent = sender.send(first).await?;
        let shown = Shown::new(sent, &redactor, n);
        if let Err(error) = self.requests.keep(subject.row.id, n, shown.kept()).await {
            tracing::warn!(%error, "an answer is not kept");
        }
        Ok(shown.to_json(usize::MAX))
    }
}

/// An answer as the agent sees it.
struct Shown {
    id: u64,
    status: u16,
    headers: Map<String, Value>,
    body: Vec<u8>,
    truncated: bool,
    not_followed: Option<String>,
}

impl Shown {
    /// An answer without anything secret in it.
    fn new(sent: Sent, redactor: &Redactor, id: u64) -> Self {
        let Answer { status, headers, body, truncated } = sent.answer;
        let mut body = redactor.bytes(body);
        if truncated {
            redactor.trim(&mut body);
        }
        Self {
            id,
            status,
            headers: shown(&headers, redactor),
            body,
            truncated,
            not_followed: sent.not_followed,
        }
    }

    fn to_json(&self, body_bytes_max: usize) -> Vec<u8> {
        let is_cut = self.body.len() > body_bytes_max;
        let body = self.body.get(..body_bytes_max.min(self.body.len())).unwrap_or_default();
        let truncated = self.truncated || is_cut;
        let mut json = Map::new();
        json.insert("id".to_owned(), self.id.to_string().into());
        json.insert("status".to_owned(), self.status.into());
        json.insert("headers".to_owned(), self.headers.clone().into());
        json.insert("truncated".to_owned(), truncated.into());
        match text(body, truncated) {
            Some(text) => json.insert("body".to_owned(), text.into()),
            None => json.insert("body_base64".to_owned(), STANDARD.encode(body).into()),
        };
        if let Some(reason) = &self.not_followed {
            json.insert("not_followed".to_owned(), reason.as_str().into());
        }
        Value::Object(json).to_string().into_bytes()
    }

    /// What is kept of it, at most [`used::KEPT_BYTES_MAX`] bytes.
    fn kept(&self) -> Vec<u8> {
        let whole = if self.body.len() <= used::KEPT_BYTES_MAX { usize::MAX } else { KEPT_BODY_BYTES };
        let mut sizes = [whole, KEPT_BODY_BYTES, 0].into_iter().map(|size| self.to_json(size));
        sizes.find(|json| json.len() <= used::KEPT_BYTES_MAX).unwrap_or_else(|| {
            json!({ "id": self.id.to_string(), "status": self.status, "truncated": true })
                .to_string()
                .into_bytes()
        })
    }
}

/// A body as text; one that was cut may have lost a part of its last letter.
fn text(body: &[u8], truncated: bool) -> Option<&str> {
    match std::str::from_utf8(body) {
        Ok(text) => Some(text),
        Err(error) if truncated && error.error_len().is_none() => {
            std::str::from_utf8(body.get(..error.valid_up_to())?).ok()
        }
        Err(_) => None,
    }
}

/// Headers by name; of several of one name the values stand after each other, as RFC 9110, section 5.3 has it, except
/// cookies, which stand on lines of their own.
fn shown(headers: &HeaderMap, redactor: &Redactor) -> Map<String, Value> {
    let mut shown = Map::new();
    for name in headers.keys() {
        let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        let values: Vec<String> = values.map(|value| redactor.text(&value)).collect();
        let between = if *name == header::SET_COOKIE { "\n" } else { ", " };
        shown.insert(redactor.text(name.as_str()), values.join(between).into());
    }
    shown
}

/// Serves the folder. The class of a request is not its file's: it follows from what is asked.
#[derive(Debug)]
struct Http {
    folder: Arc<dyn FileService>,
}

impl FileService for Http {
    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Later<'a, Stat> {
        self.folder.stat(cx, path)
    }

    fn list<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Later<'a, Vec<Stat>> {
        self.folder.list(cx, path)
    }

    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Later<'a, Vec<u8>> {
        if path.as_str() == REQUEST {
            let refusal = Error::new(Code::PermissionDenied, path, "is not to be read");
            return Box::pin(std::future::ready(Err(refusal)));
        }
        self.folder.read(cx, path, span)
    }

    fn class(&self, path: &Path, change: &Change) -> Class {
        match asked(path, change) {
            Some(Ok(asked)) => asked.class(),
            _ => Class::Transactional,
        }
    }

    /// What cannot be read is refused without an intent: nothing will be done.
    fn change<'a>(&'a self, _: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Later<'a, Effect> {
        let refusal = match asked(path, change) {
            Some(Err(error)) => error,
            _ => not_taken(path, change),
        };
        Box::pin(std::future::ready(Err(refusal)))
    }

    fn act<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Later<'a, Vec<u8>> {
        self.folder.act(cx, path, change)
    }
}

/// The request that a change is, if it is one.
fn asked(path: &Path, change: &Change) -> Option<Result<Asked, Error>> {
    match change {
        Change::Call(body) if path.as_str() == REQUEST => Some(Asked::parse(body)),
        _ => None,
    }
}

/// How many requests an agent has made today.
pub(super) fn used_today(store: &Store, agent: AgentId, now_ms: u64) -> Result<u32, Error> {
    Requests(store.clone()).today(agent, now_ms)
}

fn agent(cx: &Context<'_>) -> Result<AgentId, Error> {
    Ok(cx.subject()?.row.id)
}

fn responses(requests: &Requests) -> Arc<dyn FileService> {
    let (listed, read) = (requests.clone(), requests.clone());
    let list = move |cx: &Context<'_>| {
        let kept = listed.kept(agent(cx)?)?.into_iter();
        Ok(kept.map(|(n, size)| file(format!("{n}.json"), FileType::Value, size)).collect())
    };
    let read =
        move |cx: &Context<'_>, name: &str| match name.strip_suffix(".json").and_then(|n| n.parse().ok()) {
            Some(n) => read.answer(agent(cx)?, n),
            None => Ok(None),
        };
    Rows::new(list, read).build()
}

fn policy(cx: &Context<'_>, requests: &Requests, now_ms: u64) -> Result<Vec<u8>, Error> {
    let subject = cx.subject()?;
    let rules = &subject.manifest.http;
    let policy = json!({
        "allow": rules.allow,
        "methods": rules.methods,
        "per_day": super::children::left(&requests.0, cx, rules.per_day)?,
        "used_today": requests.today(subject.row.id, now_ms)?,
        "request_bytes_max": request::BODY_BYTES_MAX,
        "response_bytes_max": send::ANSWER_BYTES_MAX,
        "timeout_ms_max": u64::try_from(request::DEADLINE.as_millis()).unwrap_or(u64::MAX),
        "redirects_max": send::REDIRECTS_MAX,
    });
    Ok(policy.to_string().into_bytes())
}
