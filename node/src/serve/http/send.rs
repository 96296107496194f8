//! Sends a request: secrets filled in, the allowlist asked, redirects followed one by one.
//!
//! Every hop is checked as the first: its URL against the manifest, its address by the client. A redirect that is not
//! followed is the answer, with the reason beside it: what was done at the hops before stays done.

use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use oa_nips::files::Code;
use oa_nips::nostr::types::url::Url;
use tokio::time::Instant;

use super::door::Door;
use super::request::{Asked, BODY_BYTES_MAX, Body};
use crate::agent::manifest::{Http, Method};
use crate::agent::site;
use crate::drivers::http::{Answer, Ask, AskError, Client, DialError};
use crate::namespace::error::Error;
use crate::namespace::service::Class;
use crate::secrets::Secret;
use crate::secrets::fill::{self, fill, percent_encoded};
use crate::secrets::redact::Redactor;

/// Largest body of an answer that is taken, in bytes.
pub(super) const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Redirects of one request that are followed.
pub(super) const REDIRECTS_MAX: usize = 5;
/// What the node says it is, where the agent says nothing.
const USER_AGENT: &str = concat!("oa/", env!("CARGO_PKG_VERSION"));

/// What a request is sent under.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender<'a> {
    pub(super) client: &'a Client,
    pub(super) rules: &'a Http,
    /// Those the agent may use.
    pub(super) secrets: &'a [Secret],
    pub(super) redactor: &'a Redactor,
}

/// A request as it goes to one host.
#[derive(Debug, Clone)]
pub(super) struct Hop<'a> {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
    /// The secrets in it.
    used: Vec<&'a Secret>,
    /// Whether one is in the body.
    is_body_secret: bool,
    class: Class,
    deadline: Instant,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) answer: Answer,
    /// Why the redirect that the answer is was not followed.
    pub(super) not_followed: Option<String>,
}

fn denied(reason: impl Into<String>) -> Error {
    Error::new(Code::PermissionDenied, "/", reason)
}

impl<'a> Sender<'a> {
    /// The first hop of a request.
    ///
    /// # Errors
    /// `PermissionDenied` for what manifest or secrets do not allow, `InvalidInput`, `TooLarge`
    pub(super) fn first(&self, asked: Asked) -> Result<Hop<'a>, Error> {
        Door::admit(self.rules, asked.method, &asked.url).map_err(denied)?;
        let (mut used, class) = (Vec::new(), asked.class());
        let mut headers = HeaderMap::new();
        for (name, text) in &asked.headers {
            let value = self.fill(text, &asked.url, &mut used, str::to_owned)?;
            let value = HeaderValue::from_str(&value);
            let mut value = value.map_err(|_| {
                Error::invalid("/", format!("the header {name} has a value that none can have"))
            })?;
            value.set_sensitive(fill::names(text).next().is_some());
            headers.insert(name, value);
        }
        if !used.is_empty() && headers.contains_key(header::RANGE) {
            return Err(Error::invalid(
                "/",
                "a request with a secret asks for the whole answer, not for a range",
            ));
        }
        let url = self.fill_url(&asked.url, &mut used)?;
        let in_head = used.len();
        let body = match &asked.body {
            Body::Text(text) => self.fill(text, &asked.url, &mut used, str::to_owned)?.into_bytes(),
            Body::Bytes(bytes) => bytes.clone(),
        };
        if body.len() > BODY_BYTES_MAX {
            return Err(Error::too_large("/", BODY_BYTES_MAX));
        }
        let default = |headers: &mut HeaderMap, name, value| {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        };
        default(&mut headers, header::USER_AGENT, USER_AGENT);
        default(&mut headers, header::ACCEPT, "*/*");
        default(&mut headers, header::ACCEPT_ENCODING, "identity");
        if let Some(key) = asked.idempotency_key.as_deref().and_then(|key| HeaderValue::from_str(key).ok()) {
            headers.insert(HeaderName::from_static("idempotency-key"), key);
        }
        let is_body_secret = used.len() > in_head;
        let deadline = Instant::now() + asked.timeout;
        let body = Bytes::from(body);
        Ok(Hop { method: asked.method, url, headers, body, used, is_body_secret, class, deadline })
    }

    fn fill(
        &self,
        text: &str,
        url: &Url,
        used: &mut Vec<&'a Secret>,
        encode: fn(&str) -> String,
    ) -> Result<String, Error> {
        let find = |name: &str| self.secrets.iter().find(|secret| secret.name == name && secret.covers(url));
        used.extend(fill::names(text).filter_map(find));
        fill(text, |name| find(name).map(|secret| encode(secret.reveal())))
            // The same words whether there is none, or none for this agent or host.
            .map_err(|name| denied(format!("there is no secret {name} for {}", place(url))))
    }

    /// A secret may be in a path or a query. It cannot be in a host: no URL with one there can be read.
    fn fill_url(&self, url: &Url, used: &mut Vec<&'a Secret>) -> Result<Url, Error> {
        let mut filled = url.clone();
        filled.set_path(&self.fill(url.path(), url, used, percent_encoded)?);
        if let Some(query) = url.query() {
            filled.set_query(Some(&self.fill(query, url, used, percent_encoded)?));
        }
        Ok(filled)
    }

    /// Sends, and follows redirects as far as they may be followed.
    ///
    /// # Errors
    /// `PermissionDenied`, `Unavailable`, `RateLimited`; `OutcomeUnknown` where the host may have done what was asked,
    /// and asking again might do it twice.
    pub(super) async fn send(&self, first: Hop<'a>) -> Result<Sent, Error> {
        let (mut hop, mut redirects) = (first, 0);
        let mut last = None;
        loop {
            let answer = match self.client.ask(hop.ask()).await {
                Ok(answer) => answer,
                Err(error) if error.is_sent() && hop.class == Class::AtMostOnce => {
                    return Err(self.error(Code::OutcomeUnknown, &hop, &error));
                }
                Err(error) => match last {
                    Some(answer) => return Ok(Sent { answer, not_followed: Some(self.words(&hop, &error)) }),
                    None => return Err(self.error(code(&error), &hop, &error)),
                },
            };
            self.check(&hop, &answer)?;
            let next = match self.next(&hop, &answer) {
                Ok(Some(_)) if redirects == REDIRECTS_MAX => Err(format!("over {REDIRECTS_MAX} redirects")),
                next => next,
            };
            match next {
                Ok(None) => return Ok(Sent { answer, not_followed: None }),
                Err(reason) => {
                    return Ok(Sent { answer, not_followed: Some(self.redactor.text(&reason)) });
                }
                Ok(Some(next)) => (hop, last, redirects) = (next, Some(answer), redirects + 1),
            }
        }
    }

    /// What is encoded cannot be searched for secrets.
    fn check(&self, hop: &Hop<'a>, answer: &Answer) -> Result<(), Error> {
        let encoding = answer.headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes);
        if hop.used.is_empty() || encoding.is_none_or(|encoding| encoding.eq_ignore_ascii_case(b"identity")) {
            return Ok(());
        }
        let reason =
            format!("{} answered a request with a secret in an encoding nobody asked for", place(&hop.url));
        Err(Error::io("/", self.redactor.text(&reason)))
    }

    /// The next hop, if the answer is a redirect; or why it is not followed.
    fn next(&self, hop: &Hop<'a>, answer: &Answer) -> Result<Option<Hop<'a>>, String> {
        let (301 | 302 | 303 | 307 | 308) = answer.status else { return Ok(None) };
        let Some(location) = answer.headers.get(header::LOCATION) else { return Ok(None) };
        let unreadable = || "its location cannot be read".to_owned();
        let url = location.to_str().ok().and_then(|to| hop.url.join(to).ok()).ok_or_else(unreadable)?;
        let url = site::target(url.as_str()).map_err(|error| error.to_string())?;
        let mut next = Hop { url, ..hop.clone() };
        // As browsers do (RFC 9110, section 15.4).
        let becomes_get = match answer.status {
            303 => hop.method != Method::Head,
            301 | 302 => hop.method == Method::Post,
            _ => false,
        };
        if becomes_get {
            next.method = Method::Get;
            next.class = Class::Idempotent;
            next.body = Bytes::new();
            next.is_body_secret = false;
            next.headers.remove(header::CONTENT_TYPE);
            next.headers.remove(HeaderName::from_static("idempotency-key"));
        }
        Door::admit(self.rules, next.method, &next.url)?;
        let stays =
            next.url.origin() == hop.url.origin() && hop.used.iter().all(|secret| secret.covers(&next.url));
        if stays {
            return Ok(Some(next));
        }
        if next.is_body_secret || self.redactor.finds(next.url.as_str()) {
            return Err("it leads elsewhere with a secret in it".to_owned());
        }
        next.leave();
        Ok(Some(next))
    }

    fn words(&self, hop: &Hop<'a>, error: &AskError) -> String {
        self.redactor.text(&format!("{}: {error}", place(&hop.url)))
    }

    fn error(&self, code: Code, hop: &Hop<'a>, error: &AskError) -> Error {
        Error::new(code, "/", self.words(hop, error))
    }
}

impl Hop<'_> {
    fn ask(&self) -> Ask {
        let method = match self.method {
            Method::Get => hyper::Method::GET,
            Method::Head => hyper::Method::HEAD,
            Method::Put => hyper::Method::PUT,
            Method::Delete => hyper::Method::DELETE,
            Method::Post => hyper::Method::POST,
            Method::Patch => hyper::Method::PATCH,
        };
        Ask {
            method,
            url: self.url.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
            answer_bytes_max: ANSWER_BYTES_MAX,
            deadline: self.deadline,
        }
    }

    /// Drops what is for the first host only: whatever identifies the agent, and every secret.
    fn leave(&mut self) {
        let secret =
            self.headers.iter().filter(|(_, value)| value.is_sensitive()).map(|(name, _)| name.clone());
        let secret: Vec<HeaderName> = secret.collect();
        for name in secret.into_iter().chain([header::AUTHORIZATION, header::COOKIE]) {
            self.headers.remove(name);
        }
        self.used.clear();
    }
}

/// Where a URL leads, without what may be secret in it.
pub(super) fn place(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

fn code(error: &AskError) -> Code {
    match error {
        AskError::Busy => Code::RateLimited,
        AskError::Dial(DialError::Private | DialError::InClear) => Code::PermissionDenied,
        AskError::Dial(_) | AskError::TimedOut { .. } | AskError::Broken { .. } => Code::Unavailable,
    }
}
