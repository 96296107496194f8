//! What a request gets, and the bytes of each answer. Pure.

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::head::{Head, HeadError, Method};
use crate::bundle::{Bundle, Document};

/// The one version of the websocket protocol (RFC 6455).
const WEBSOCKET_VERSION: &str = "13";

/// An answer to a request head. All but `Switch` end the connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Goes on as a websocket, with this accept key.
    Switch { accept_key: String },
    /// The NIP-11 document.
    Info { body: bool },
    /// A document that the relay was given.
    Document { document: Document, body: bool },
    /// A line for a human who opened the address in a browser.
    Page { body: bool },
    /// The answer to a browser that asks whether a page of elsewhere may fetch the NIP-11 document.
    Preflight,
    /// The relay has all the connections it takes.
    Full,
    /// Not a request we take; with the reason.
    Refuse(Refusal),
}

/// Why a request is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Head(HeadError),
    /// A websocket handshake without a key.
    NoKey,
    /// A websocket of another version than 13.
    WebsocketVersion,
    /// Neither GET nor HEAD nor OPTIONS.
    Method,
    /// The head did not arrive in time.
    TooSlow,
}

/// Decides what a request gets.
pub(crate) fn route(head: &Head, bundle: &Bundle) -> Reply {
    match (head.method, head.upgrade) {
        (Method::Get, true) => match (&head.websocket_key, head.websocket_version.as_deref()) {
            (_, version) if version != Some(WEBSOCKET_VERSION) => Reply::Refuse(Refusal::WebsocketVersion),
            (None, _) => Reply::Refuse(Refusal::NoKey),
            (Some(key), _) => Reply::Switch { accept_key: derive_accept_key(key.as_bytes()) },
        },
        (Method::Options, _) => Reply::Preflight,
        (Method::Other, _) => Reply::Refuse(Refusal::Method),
        (method, _) if head.accepts_nostr => Reply::Info { body: method == Method::Get },
        (method, _) => match bundle.get(&head.path) {
            Some(document) => Reply::Document { document, body: method == Method::Get },
            None => Reply::Page { body: method == Method::Get },
        },
    }
}

impl Reply {
    /// The bytes to send; `info` is the NIP-11 document.
    pub(crate) fn bytes(&self, info: &str) -> Vec<u8> {
        match self {
            Reply::Switch { accept_key } => format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept_key}\r\n\r\n"
            )
            .into_bytes(),
            Reply::Info { body } => answer("200 OK", "application/nostr+json", "", info, *body),
            Reply::Document { document, body } => {
                answer_bytes("200 OK", document.kind, "", &document.bytes, *body)
            }
            Reply::Page { body } => {
                answer("200 OK", TEXT, "", "this is a Nostr relay: connect with a websocket\n", *body)
            }
            Reply::Preflight => answer("200 OK", TEXT, "", "", true),
            Reply::Full => {
                let text = "the relay has all the connections it takes\n";
                answer("503 Service Unavailable", TEXT, "Retry-After: 5\r\n", text, true)
            }
            Reply::Refuse(refusal) => refusal.bytes(),
        }
    }
}

impl Refusal {
    fn bytes(&self) -> Vec<u8> {
        let (status, extra, text) = match self {
            Refusal::Head(HeadError::TooLong) => {
                ("431 Request Header Fields Too Large", "", "request head too long\n")
            }
            Refusal::Head(HeadError::Malformed) => ("400 Bad Request", "", "not an HTTP/1 request\n"),
            Refusal::NoKey => ("400 Bad Request", "", "websocket handshake without a key\n"),
            Refusal::WebsocketVersion => {
                ("426 Upgrade Required", "Sec-WebSocket-Version: 13\r\n", "websocket version must be 13\n")
            }
            Refusal::Method => ("405 Method Not Allowed", "Allow: GET, HEAD, OPTIONS\r\n", "only GET\n"),
            Refusal::TooSlow => ("408 Request Timeout", "", "request head took too long\n"),
        };
        answer(status, TEXT, extra, text, true)
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

/// One answer that ends the connection; the CORS headers are those NIP-11 asks for.
fn answer(status: &str, kind: &str, extra: &str, body: &str, with_body: bool) -> Vec<u8> {
    answer_bytes(status, kind, extra, body.as_bytes(), with_body)
}

fn answer_bytes(status: &str, kind: &str, extra: &str, body: &[u8], with_body: bool) -> Vec<u8> {
    let length = body.len();
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\
         Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Headers: *\r\n\
         Access-Control-Allow-Methods: GET, HEAD, OPTIONS\r\n{extra}\r\n"
    )
    .into_bytes();
    bytes.extend_from_slice(if with_body { body } else { &[] });
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn websocket() -> Head {
        Head {
            method: Method::Get,
            upgrade: true,
            websocket_key: Some("dGhlIHNhbXBsZSBub25jZQ==".into()),
            websocket_version: Some("13".into()),
            accepts_nostr: false,
            ..Head::default()
        }
    }

    fn route(head: &Head) -> Reply {
        super::route(head, &Bundle::default())
    }

    #[test]
    fn accept_key_is_the_one_of_rfc_6455() {
        let Reply::Switch { accept_key } = route(&websocket()) else { panic!("refused") };
        assert_eq!(accept_key, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn handshakes_that_lack_something_are_refused() {
        let no_key = Head { websocket_key: None, ..websocket() };
        assert_eq!(route(&no_key), Reply::Refuse(Refusal::NoKey));
        let old = Head { websocket_version: Some("8".into()), ..websocket() };
        assert_eq!(route(&old), Reply::Refuse(Refusal::WebsocketVersion));
        let post = Head { method: Method::Other, ..websocket() };
        assert_eq!(route(&post), Reply::Refuse(Refusal::Method));
    }

    #[test]
    fn plain_requests_get_document_or_page() {
        let get = Head { method: Method::Get, ..Head::default() };
        assert_eq!(route(&get), Reply::Page { body: true });
        let info = Head { method: Method::Head, accepts_nostr: true, ..Head::default() };
        assert_eq!(route(&info), Reply::Info { body: false });
        let asks = Head { method: Method::Options, ..Head::default() };
        assert_eq!(route(&asks), Reply::Preflight);
    }

    #[test]
    fn a_head_request_gets_the_length_without_the_body() {
        let text = String::from_utf8(Reply::Info { body: false }.bytes("{}")).expect("ascii");
        assert!(text.contains("Content-Length: 2\r\n") && text.ends_with("\r\n\r\n"), "{text}");
        let text = String::from_utf8(Reply::Info { body: true }.bytes("{}")).expect("ascii");
        assert!(text.ends_with("\r\n\r\n{}"), "{text}");
    }

    #[test]
    fn documents_are_served_by_path_and_stand_behind_what_a_relay_is_asked() {
        let bundle = Bundle::default();
        bundle.set("/names.json", "application/json", *b"{}");
        bundle.set("/", "text/html", *b"<p>");
        let get = |path: &str| Head { method: Method::Get, path: path.to_owned(), ..Head::default() };
        let text = |head: &Head| String::from_utf8(super::route(head, &bundle).bytes("info")).expect("ascii");
        let names = text(&get("/names.json"));
        assert!(
            names.contains("Content-Type: application/json\r\n") && names.ends_with("\r\n\r\n{}"),
            "{names}"
        );
        assert!(names.contains("Access-Control-Allow-Origin: *\r\n"), "{names}");
        let head = text(&Head { method: Method::Head, ..get("/names.json") });
        assert!(head.contains("Content-Length: 2\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(text(&get("/other")).contains("this is a Nostr relay"));
        assert!(text(&Head { accepts_nostr: true, ..get("/") }).ends_with("info"));
        bundle.set("/names.json", "application/json", *b"{\"a\":1}");
        assert!(text(&get("/names.json")).ends_with("{\"a\":1}"), "the newest counts");
    }
}
