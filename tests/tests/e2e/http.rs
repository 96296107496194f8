//! Requests of an agent with a secret that its operator gave the node: the host sees it, and nobody else.

#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use oa_nips::files::{Code, Verb};
use oa_nips::mail::Protocol;
use oa_nips::nostr::Keys;
use oa_node::agent::manifest::{Manifest, Policy};
use oa_node::agent::site::Site;
use oa_node::store::backend::{Backend as _, Range, Table};
use oa_tests::caller::Caller;
use oa_tests::local::{Plot, World};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const SOON: Duration = Duration::from_secs(15);
const SECRET: &str = "sk-live-4242/4242";

/// Answers every request with itself; what it saw is kept.
async fn echo() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut text = String::new();
            while !text.contains("\r\n\r\n") {
                let mut chunk = [0; 4096];
                let Ok(count @ 1..) = stream.read(&mut chunk).await else { break };
                text.push_str(&String::from_utf8_lossy(chunk.get(..count).unwrap_or_default()));
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
            let _ = stream.write_all(format!("{head}{text}").as_bytes()).await;
            log.lock().unwrap().push(text);
        }
    });
    (port, seen)
}

fn is_secret(text: &str) -> bool {
    text.contains("4242") || text.contains("sk-live")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_goes_to_its_host_and_is_nowhere_else() {
    let (port, seen) = echo().await;
    let host = format!("127.0.0.1:{port}");
    let operator = Keys::generate();
    let operators = vec![operator.public_key()];
    let plot = Plot { operators, http_private: vec![host.clone()], ..Plot::default() };
    let world = World::start(plot).await.unwrap();
    let mut manifest = Manifest::new("alice", "echo");
    manifest.dm.policy = Policy::Open;
    manifest.http.allow = vec![Site::parse(&host).unwrap()];
    world.node.ensure_agent(manifest).await.unwrap();
    let agent = world.agent("alice").unwrap().pubkey;
    let mut someone = world.client().await.unwrap();
    let mut operator = Caller::new(&world, operator).await.unwrap();
    let asked = format!(
        r#"do call /http/request {{"url":"http://{host}/x?k={{secret:key}}","headers":{{"authorization":"Bearer {{secret:key}}"}}}}"#
    );

    let said = someone.ask(agent, &asked, Protocol::Nip17, SOON).await.unwrap().text().unwrap().to_owned();
    assert!(said.starts_with("refused: PermissionDenied"), "no secret yet: {said}");

    let secret = format!(r#"{{"value":"{SECRET}","hosts":["{host}"],"agents":["alice"]}}"#);
    operator.ask(Verb::Write, "/secrets/key", &secret).await.unwrap().unwrap();
    let read = operator.ask(Verb::Read, "/secrets/key", "").await.unwrap().unwrap_err();
    assert_eq!(read.code, Code::PermissionDenied);
    for path in ["/node/secrets", "/secrets"] {
        let verb = if path == "/secrets" { Verb::List } else { Verb::Read };
        let shown = String::from_utf8(operator.ask(verb, path, "").await.unwrap().unwrap()).unwrap();
        assert!(shown.contains("\"key\"") && !is_secret(&shown), "{shown}");
    }

    let said = someone.ask(agent, &asked, Protocol::Nip17, SOON).await.unwrap().text().unwrap().to_owned();
    assert!(
        said.contains("Bearer [redacted]") && said.contains("/x?k=[redacted]") && !is_secret(&said),
        "{said}"
    );
    let sent = seen.lock().unwrap().clone();
    assert!(
        sent.len() == 1 && sent.concat().contains(&format!("authorization: Bearer {SECRET}\r\n")),
        "{sent:?}"
    );

    operator.ask(Verb::Remove, "/secrets/key", "").await.unwrap().unwrap();
    let said = someone.ask(agent, &asked, Protocol::Nip17, SOON).await.unwrap().text().unwrap().to_owned();
    assert!(said.starts_with("refused: PermissionDenied"), "revoked: {said}");
    assert_eq!(seen.lock().unwrap().len(), 1);

    for table in Table::ALL {
        for (key, row) in world.backend().scan(table, &Range::prefix([])).unwrap() {
            let row = String::from_utf8_lossy(&[key, row].concat()).into_owned();
            assert!(!row.contains(SECRET) && !row.contains("sk-live-4242"), "{}: {row}", table.name());
        }
    }
    world.end().await;
}
