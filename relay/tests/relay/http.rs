//! Plain HTTP on the relay's port, byte by byte.

use oa_relay::{Bundle, Config, Limits, Relay, StoreConfig};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Client, note, relay, within};

/// Sends a request and reads the answer to its end.
async fn ask(relay: &Relay, request: &[u8]) -> (String, String) {
    let mut socket = TcpStream::connect(relay.local_addr()).await.expect("connects");
    socket.write_all(request).await.expect("writes");
    let mut answer = String::new();
    within(socket.read_to_string(&mut answer)).await.expect("reads to the end");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn nip_11_document_tells_the_limits() {
    let relay = relay(Limits::default()).await;
    let request = b"GET / HTTP/1.1\r\nHost: relay\r\nAccept: application/nostr+json\r\n\r\n";
    let (head, body) = ask(&relay, request).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/nostr+json\r\n"), "{head}");
    assert!(head.contains("Access-Control-Allow-Origin: *"), "{head}");
    let document: Value = serde_json::from_str(&body).expect("json");
    assert_eq!(document["name"], "oa relay");
    assert_eq!(document["software"], "oa-relay");
    assert_eq!(document["limitation"]["max_limit"], 5_000);
    assert_eq!(document["limitation"]["max_message_length"], 2 * 1024 * 1024);
    assert!(document["supported_nips"].as_array().expect("an array").contains(&77.into()));
}

#[tokio::test]
async fn a_browser_gets_a_line_of_text() {
    let relay = relay(Limits::default()).await;
    let (head, body) = ask(&relay, b"GET / HTTP/1.1\r\nAccept: text/html\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain"), "{head}");
    assert_eq!(body, "this is a Nostr relay: connect with a websocket\n");
}

#[tokio::test]
async fn documents_that_it_was_given_are_served() {
    let bundle = Bundle::default();
    let config = Config::new("127.0.0.1:0".parse().expect("an address"), StoreConfig::Memory);
    let relay = Relay::start(Config { bundle: bundle.clone(), ..config }).await.expect("starts");
    let request = b"GET /.well-known/nostr.json?name=alice HTTP/1.1\r\nHost: relay\r\n\r\n";
    let (_, body) = ask(&relay, request).await;
    assert!(body.starts_with("this is a Nostr relay"), "{body}");
    bundle.set("/.well-known/nostr.json", "application/json", *b"{\"names\":{}}");
    let (head, body) = ask(&relay, request).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"), "{head}");
    assert!(head.contains("Access-Control-Allow-Origin: *"), "{head}");
    assert_eq!(body, "{\"names\":{}}");
    relay.shutdown().await;
}

#[tokio::test]
async fn what_is_no_request_is_answered_at_once() {
    let relay = relay(Limits::default()).await;
    for (request, status) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00"[..], "400"),
        (b"POST / HTTP/1.1\r\n\r\n", "405"),
        (b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 7\r\n\r\n", "426"),
        (&[b'A'; 8192], "431"),
    ] {
        let (head, _) = ask(&relay, request).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
}

/// On a paused clock, which jumps ahead once everyone waits: nothing else here waits by the clock.
#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_cut_off() {
    let relay = relay(Limits { connections_max: 1, ..Limits::default() }).await;
    let mut socket = TcpStream::connect(relay.local_addr()).await.expect("connects");
    let start = tokio::time::Instant::now();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: ").await.expect("writes");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("reads to the end");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(start.elapsed().as_secs() >= 10, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_handshake_in_pieces_with_a_message_behind_it_is_served() {
    let relay = relay(Limits::default()).await;
    let keys = oa_nips::nostr::Keys::generate();
    let event = note(&keys, "early");
    assert!(Client::connect(&relay).await.publish(&event).await.0);
    // A frame sent before the 101 was read, with a mask of zeros.
    let text = br#"["REQ","early",{}]"#;
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).expect("short"), 0, 0, 0, 0];
    frame.extend(text);
    let head =
        b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut socket = TcpStream::connect(relay.local_addr()).await.expect("connects");
    socket.set_nodelay(true).expect("sets");
    for piece in head.chunks(50).chain(frame.chunks(5)) {
        socket.write_all(piece).await.expect("writes");
        tokio::task::yield_now().await;
    }
    let mut answer = Vec::new();
    let eose = br#"["EOSE","early"]"#;
    while !answer.windows(eose.len()).any(|window| window == eose) {
        assert_ne!(within(socket.read_buf(&mut answer)).await.expect("reads"), 0, "ended early");
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
    assert!(answer.contains(&event.id.to_hex()), "{answer}");
}
