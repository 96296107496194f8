//! Reads the head of one HTTP/1 request from bytes. Pure and bounded; keeps only what a relay decides on.

/// Longest head that is read. A browser with a few cookies stays under 4 KiB.
pub(crate) const HEAD_BYTES_MAX: usize = 8 * 1024;

const END: &[u8] = b"\r\n\r\n";

/// What could be read so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// The head is not complete: read more and ask again.
    Incomplete,
    /// The head, and how many bytes it took; what follows belongs to the websocket.
    Complete(Head, usize),
}

/// Why the bytes are no request head.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum HeadError {
    #[error("request head is longer than {HEAD_BYTES_MAX} bytes")]
    TooLong,
    #[error("not an HTTP/1 request")]
    Malformed,
}

/// The parts of a request that decide what it gets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) method: Method,
    /// What is asked for, without the query.
    pub(crate) path: String,
    /// `Upgrade` names websocket and `Connection` names upgrade.
    pub(crate) upgrade: bool,
    pub(crate) websocket_key: Option<String>,
    pub(crate) websocket_version: Option<String>,
    /// `Accept` names `application/nostr+json`.
    pub(crate) accepts_nostr: bool,
}

/// The method, as far as a relay tells methods apart.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Options,
    #[default]
    Other,
}

/// Reads a head from the first bytes of a connection.
///
/// Bytes that cannot become a request (a TLS hello, say) are refused at the first one, so that a client that
/// speaks something else does not wait for a deadline.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, HeadError> {
    if bytes.first().is_some_and(|first| !first.is_ascii_uppercase()) {
        return Err(HeadError::Malformed);
    }
    let within = bytes.get(..HEAD_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = within.windows(END.len()).position(|window| window == END) else {
        return if bytes.len() >= HEAD_BYTES_MAX { Err(HeadError::TooLong) } else { Ok(Parsed::Incomplete) };
    };
    let text = within.get(..end).and_then(|head| str::from_utf8(head).ok()).ok_or(HeadError::Malformed)?;
    Ok(Parsed::Complete(read(text)?, end + END.len()))
}

fn read(text: &str) -> Result<Head, HeadError> {
    let mut lines = text.split("\r\n");
    let (method, path) = request_line(lines.next().unwrap_or_default())?;
    let mut head = Head { method, path, ..Head::default() };
    let (mut upgrade, mut connection) = (false, false);
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(HeadError::Malformed)?;
        // Neither a folded line nor a space before the colon is legal, and both have been used to smuggle.
        if name.is_empty() || name.contains(|c: char| c.is_ascii_whitespace()) {
            return Err(HeadError::Malformed);
        }
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "upgrade" => upgrade |= names(value, "websocket"),
            "connection" => connection |= names(value, "upgrade"),
            "accept" => head.accepts_nostr |= names(value, "application/nostr+json"),
            "sec-websocket-key" => head.websocket_key = Some(value.to_owned()),
            "sec-websocket-version" => head.websocket_version = Some(value.to_owned()),
            _ => {}
        }
    }
    head.upgrade = upgrade && connection;
    Ok(head)
}

fn request_line(line: &str) -> Result<(Method, String), HeadError> {
    let mut parts = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(HeadError::Malformed);
    };
    if target.is_empty() || !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return Err(HeadError::Malformed);
    }
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "OPTIONS" => Method::Options,
        _ => Method::Other,
    };
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    Ok((method, path.to_owned()))
}

/// Whether a comma-separated header value has `token`, in any case and with any parameters.
fn names(value: &str, token: &str) -> bool {
    value.split(',').any(|item| item.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1:7447\r\nConnection: keep-alive, Upgrade\r\n\
        upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn complete(text: &str) -> Head {
        match parse(text.as_bytes()) {
            Ok(Parsed::Complete(head, len)) => {
                assert_eq!(len, text.len());
                head
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_a_websocket_request() {
        let head = complete(UPGRADE);
        assert_eq!(head.method, Method::Get);
        assert!(head.upgrade && !head.accepts_nostr);
        assert_eq!(head.websocket_key.as_deref(), Some("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(head.websocket_version.as_deref(), Some("13"));
    }

    #[test]
    fn every_prefix_is_incomplete_and_what_follows_is_left() {
        for end in 0..UPGRADE.len() {
            assert_eq!(parse(&UPGRADE.as_bytes()[..end]), Ok(Parsed::Incomplete), "{end}");
        }
        let mut more = UPGRADE.as_bytes().to_vec();
        more.extend([0x81, 0x80, 0, 0]);
        assert!(matches!(parse(&more), Ok(Parsed::Complete(_, len)) if len == UPGRADE.len()));
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        assert!(!complete("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n").upgrade);
        assert!(!complete("GET / HTTP/1.1\r\nConnection: upgrade\r\n\r\n").upgrade);
        assert!(!complete("GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n").upgrade);
    }

    #[test]
    fn accept_is_a_list_with_parameters() {
        let accepts =
            |value: &str| complete(&format!("GET / HTTP/1.1\r\nAccept: {value}\r\n\r\n")).accepts_nostr;
        assert!(accepts("application/nostr+json"));
        assert!(accepts("text/html;q=0.9, Application/Nostr+JSON;q=1"));
        assert!(!accepts("application/json, */*"));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for text in [
            "\u{16}\u{3}\u{1}",
            "get / HTTP/1.1\r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTP/2\r\n\r\n",
            "GET  HTTP/1.1\r\n\r\n",
            "GET / / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\nAccept: a\r\n folded: b\r\n\r\n",
            "GET / HTTP/1.1\r\nAccept : a\r\n\r\n",
        ] {
            assert_eq!(parse(text.as_bytes()), Err(HeadError::Malformed), "{text:?}");
        }
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n"), Err(HeadError::Malformed));
    }

    #[test]
    fn a_head_is_bounded() {
        let mut long = b"GET / HTTP/1.1\r\nCookie: ".to_vec();
        long.resize(HEAD_BYTES_MAX - 1, b'a');
        assert_eq!(parse(&long), Ok(Parsed::Incomplete));
        long.resize(HEAD_BYTES_MAX, b'a');
        assert_eq!(parse(&long), Err(HeadError::TooLong));
        long.extend(END);
        assert_eq!(parse(&long), Err(HeadError::TooLong));
    }
}
