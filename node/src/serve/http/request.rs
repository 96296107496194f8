//! What an agent asks of `/http/request`, read and checked as far as that needs neither manifest nor secrets.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{self, HeaderName};
use oa_nips::nostr::types::url::Url;
use serde::Deserialize;

use crate::agent::manifest::Method;
use crate::agent::site;
use crate::namespace::error::Error;
use crate::namespace::service::Class;

/// Largest body of a request, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Largest request as it is written, with a body in base64 and its headers.
pub(super) const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How long a request may take at most, with its redirects; a tick has 30 seconds.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);
/// Headers of a request, and their bytes.
const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// What follows from the rest of a request or is the node's: a host of the agent's choice would be another host than was
/// checked, and an encoding would hide secrets in the answer.
const OURS: [HeaderName; 12] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    header::ACCEPT_ENCODING,
    header::REFERER,
];
/// Likewise, without a constant of their own.
const OURS_TOO: [&str; 3] = ["keep-alive", "proxy-connection", "idempotency-key"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    method: Method,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    body_base64: Option<String>,
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    idempotency_key: Option<String>,
}

/// A request whose secrets are not filled in.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) body: Body,
    pub(super) timeout: Duration,
    pub(super) idempotency_key: Option<String>,
}

/// A body.
#[derive(Debug)]
pub(super) enum Body {
    /// In which secrets are filled.
    Text(String),
    /// In which they are not.
    Bytes(Vec<u8>),
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::invalid("/", reason)
}

impl Asked {
    /// Reads a request.
    ///
    /// # Errors
    /// `InvalidInput`, `TooLarge`
    pub(super) fn parse(json: &[u8]) -> Result<Self, Error> {
        if json.len() > REQUEST_BYTES_MAX {
            return Err(Error::too_large("/", REQUEST_BYTES_MAX));
        }
        let written: Written = serde_json::from_slice(json).map_err(|error| {
            invalid(format!(
                r#"takes {{"method": "GET", "url": "https://...", "headers": {{}}, "body": "..."}}: {error}"#
            ))
        })?;
        let body = match (written.body, written.body_base64) {
            (Some(_), Some(_)) => return Err(invalid("has both a body and a body_base64")),
            (Some(text), None) => Body::Text(text),
            (None, Some(base64)) => {
                Body::Bytes(STANDARD.decode(base64).map_err(|_| invalid("body_base64 is no base64"))?)
            }
            (None, None) => Body::Text(String::new()),
        };
        if body.len() > BODY_BYTES_MAX {
            return Err(Error::too_large("/", BODY_BYTES_MAX));
        }
        if written.idempotency_key.as_deref().is_some_and(|key| !is_key(key)) {
            return Err(invalid(format!("an idempotency_key is 1 to {KEY_BYTES_MAX} printable characters")));
        }
        let timeout = written.timeout_ms.map_or(DEADLINE, Duration::from_millis);
        Ok(Self {
            method: written.method,
            url: site::target(&written.url).map_err(|error| invalid(error.to_string()))?,
            headers: headers(written.headers)?,
            body,
            timeout: timeout.min(DEADLINE),
            idempotency_key: written.idempotency_key,
        })
    }

    /// What may be done about an answer that was lost.
    pub(super) fn class(&self) -> Class {
        let is_repeatable = self.method.is_idempotent() || self.idempotency_key.is_some();
        if is_repeatable { Class::Idempotent } else { Class::AtMostOnce }
    }
}

impl Body {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

fn is_key(key: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

fn headers(written: BTreeMap<String, String>) -> Result<Vec<(HeaderName, String)>, Error> {
    let bytes: usize = written.iter().map(|(name, value)| name.len() + value.len()).sum();
    if written.len() > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
        return Err(invalid(format!("over {HEADERS_MAX} headers, or {HEADER_BYTES_MAX} bytes of them")));
    }
    let mut headers: Vec<(HeaderName, String)> = Vec::with_capacity(written.len());
    for (name, value) in written {
        let known: HeaderName =
            name.parse().map_err(|_| invalid(format!("{name:?} cannot name a header")))?;
        if OURS.contains(&known) || OURS_TOO.contains(&known.as_str()) {
            return Err(invalid(format!("the header {known} is not the agent's to set")));
        }
        if headers.iter().any(|(other, _)| *other == known) {
            return Err(invalid(format!("the header {known} is there twice")));
        }
        headers.push((known, value));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use oa_nips::files::Code;

    use super::*;

    fn class(json: &str) -> Class {
        Asked::parse(json.as_bytes()).unwrap().class()
    }

    #[test]
    fn what_may_be_asked_twice_follows_from_method_and_key() {
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            assert_eq!(
                class(&format!(r#"{{"method":"{method}","url":"https://a.example"}}"#)),
                Class::Idempotent
            );
        }
        for method in ["POST", "PATCH"] {
            let json = format!(r#"{{"method":"{method}","url":"https://a.example"}}"#);
            assert_eq!(class(&json), Class::AtMostOnce);
            let json =
                format!(r#"{{"method":"{method}","url":"https://a.example","idempotency_key":"k-1"}}"#);
            assert_eq!(class(&json), Class::Idempotent);
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        for json in [
            "",
            "{}",
            r#"{"url":"https://a.example","colour":1}"#,
            r#"{"url":"https://a.example","method":"CONNECT"}"#,
            r#"{"url":"https://a.example","method":"get"}"#,
            r#"{"url":"https://a.example@evil.org"}"#,
            r#"{"url":"https://a.example","body":"x","body_base64":"eA=="}"#,
            r#"{"url":"https://a.example","body_base64":"?"}"#,
            r#"{"url":"https://a.example","idempotency_key":""}"#,
            r#"{"url":"https://a.example","idempotency_key":"a\r\nb: c"}"#,
            r#"{"url":"https://a.example","headers":{"Host":"evil.org"}}"#,
            r#"{"url":"https://a.example","headers":{"hOST":"evil.org"}}"#,
            r#"{"url":"https://a.example","headers":{"Accept-Encoding":"gzip"}}"#,
            r#"{"url":"https://a.example","headers":{"Content-Length":"0"}}"#,
            r#"{"url":"https://a.example","headers":{"Idempotency-Key":"k"}}"#,
            r#"{"url":"https://a.example","headers":{"X":"1","x":"2"}}"#,
            r#"{"url":"https://a.example","headers":{"a b":"1"}}"#,
        ] {
            assert_eq!(Asked::parse(json.as_bytes()).unwrap_err().code, Code::InvalidInput, "{json}");
        }
    }

    #[test]
    fn sizes_and_times_have_limits() {
        let body = |bytes: usize| {
            serde_json::json!({ "url": "https://a.example", "body": "x".repeat(bytes) }).to_string()
        };
        assert!(Asked::parse(body(BODY_BYTES_MAX).as_bytes()).is_ok());
        let over = Asked::parse(body(BODY_BYTES_MAX + 1).as_bytes()).unwrap_err();
        assert_eq!(over.code, Code::TooLarge);
        let asked = Asked::parse(br#"{"url":"https://a.example","timeout_ms":999999999}"#).unwrap();
        assert_eq!(asked.timeout, DEADLINE);
    }
}
