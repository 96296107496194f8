//! Websockets of agents against real ones on loopback.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use oa_nips::nostr::Keys;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use super::*;
use crate::keyring::{Addresses, SeedKeyring};
use crate::signer::Seed;
use crate::store::memory::MemoryBackend;
use crate::store::write::{AgentChange, NewAgent};
use crate::time::System;

const DEADLINE: Duration = Duration::from_secs(20);
const ALICE: AgentId = AgentId(0);

/// Says what header it was greeted with, then as many numbers as asked, then whatever it is told; `bye` ends it.
async fn server(numbers: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, greeted) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let count = greeted.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let mut key = String::new();
                #[expect(clippy::result_large_err, reason = "the shape that the library asks for")]
                let greet = |request: &Request, response: Response| {
                    key =
                        request.headers().get("x-key").map_or("none", |key| key.to_str().unwrap()).to_owned();
                    Ok(response)
                };
                let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, greet).await else { return };
                count.fetch_add(1, Ordering::Relaxed);
                let _ = socket.send(Frame::text(format!("key {key}"))).await;
                for n in 0..numbers {
                    let _ = socket.send(Frame::text(n.to_string())).await;
                }
                while let Some(Ok(frame)) = socket.next().await {
                    if frame.to_text().is_ok_and(|text| text == "bye") {
                        return;
                    }
                    if frame.is_text() || frame.is_binary() {
                        let _ = socket.send(frame).await;
                    }
                }
            });
        }
    });
    (port, greeted)
}

struct Rig {
    store: Store,
    sockets: Arc<Sockets>,
    vault: Vault,
    _cancel: tokio_util::sync::DropGuard,
}

async fn rig(private: &[String], rules: Ws) -> Rig {
    let store = Store::new(Arc::new(MemoryBackend::default())).unwrap();
    let mut manifest = Manifest::new("alice", "echo");
    manifest.ws = rules;
    let new = NewAgent {
        id: ALICE,
        pubkey: Keys::generate().public_key(),
        manifest,
        session: Hex::ZERO,
        at_ms: System.now_ms(),
        profile: Vec::new(),
    };
    store.write(Write::CreateAgent(Box::new(new))).await.unwrap();
    let go = AgentChange::Lifecycle(Lifecycle::Active, None);
    store.write(Write::ChangeAgent(ALICE, go)).await.unwrap();
    let keyring = Arc::new(SeedKeyring::new(Seed::generate(), Arc::new(Addresses::default())));
    let (time, client): (Arc<dyn Time>, _) = (Arc::new(System), Arc::new(Client::of_node(private)));
    let vault = || Vault::new(store.clone(), keyring.clone());
    let tenure = Tenure::alone(time.clone());
    let (sockets, arriving) = Sockets::new(store.clone(), client, vault(), tenure, time);
    let cancel = CancellationToken::new();
    start(sockets.clone(), arriving, |_| {}, cancel.clone());
    Rig { vault: vault(), store, sockets, _cancel: cancel.drop_guard() }
}

fn rules(site: &str, per_minute: u32) -> Ws {
    Ws { allow: vec![site::Site::parse(site).unwrap()], per_minute }
}

impl Rig {
    async fn open(&self, id: &str, wanted: Option<Value>) {
        let path = format!("{FOLDER}{id}.json").parse().unwrap();
        let content = wanted.map(|wanted| wanted.to_string().into_bytes());
        self.store.write(Write::Files(ALICE, vec![(path, content)], Vec::new())).await.unwrap();
        self.sockets.refresh(ALICE);
    }

    /// What has come into the inbox over websockets.
    fn heard(&self) -> Vec<Value> {
        let inbox = self.store.inbox(ALICE, 1000).unwrap().into_iter().map(|(_, waiting)| waiting.envelope);
        inbox
            .filter(|envelope| envelope.kind == Kind::Ws)
            .map(|envelope| {
                assert!(envelope.heard.is_some(), "it is trusted like a stranger");
                envelope.data.unwrap()
            })
            .collect()
    }

    fn texts(&self) -> Vec<String> {
        self.heard().iter().filter_map(|data| data["text"].as_str().map(str::to_owned)).collect()
    }

    fn state(&self, id: &str) -> Value {
        self.sockets.status(ALICE)[id].clone()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is_so(self) {
            assert!(began.elapsed() < DEADLINE, "{what}: {} {:?}", self.sockets.status(ALICE), self.heard());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_websocket_is_kept_wakes_the_agent_and_is_dialled_again() {
    let (port, greeted) = server(0).await;
    let host = format!("localhost:{port}");
    let rig = rig(std::slice::from_ref(&host), rules(&host, 100)).await;
    let secret = json!({ "value": "hunter2-long-enough", "hosts": [host], "agents": ["alice"] }).to_string();
    rig.store.write(rig.vault.set("feed", secret.as_bytes(), 0).await.unwrap()).await.unwrap();
    let wanted = json!({ "url": format!("ws://{host}/x"), "headers": { "x-key": "{secret:feed}" } });
    rig.open("feed", Some(wanted.clone())).await;
    rig.until("greeted", |rig| rig.heard().len() == 1).await;
    let first = rig.heard().remove(0);
    assert_eq!((&first["connection"], &first["missed"]), (&json!("feed"), &json!(0)));
    // The secret went out, and the agent does not see it come back.
    let text = first["text"].as_str().unwrap();
    assert!(text.starts_with("key ") && text != "key none" && !text.contains("hunter2"), "{text}");
    rig.sockets.send(ALICE, "feed", Message::Text("over".to_owned())).await.unwrap();
    rig.sockets.send(ALICE, "feed", Message::Binary(vec![1, 2, 255])).await.unwrap();
    rig.until("echoed", |rig| rig.heard().len() == 3).await;
    assert_eq!(rig.texts()[1], "over");
    assert_eq!(rig.heard()[2]["base64"], "AQL/");
    assert_eq!((&rig.state("feed")["sent"], &rig.state("feed")["received"]), (&json!(2), &json!(3)));
    // Nothing changes for one that stays as it is.
    rig.open("feed", Some(wanted)).await;
    assert_eq!(greeted.load(Ordering::Relaxed), 1);
    rig.sockets.send(ALICE, "feed", Message::Text("bye".to_owned())).await.unwrap();
    rig.until("dialled again", |_| greeted.load(Ordering::Relaxed) == 2).await;
    rig.open("feed", None).await;
    assert_eq!(rig.sockets.status(ALICE), json!({}));
    let gone = rig.sockets.send(ALICE, "feed", Message::Text(String::new())).await;
    assert_eq!(gone, Err(SendError::NotThere));
}

#[tokio::test]
async fn a_flood_is_paced_and_its_oldest_are_refused() {
    let (port, _) = server(200).await;
    let host = format!("localhost:{port}");
    let rig = rig(std::slice::from_ref(&host), rules(&host, 2)).await;
    rig.open("flood", Some(json!({ "url": format!("ws://{host}") }))).await;
    rig.until("refused", |rig| rig.state("flood")["refused"].as_u64() >= Some(100)).await;
    rig.until("what was let in has landed", |rig| rig.texts().len() >= 2).await;
    assert_eq!(rig.texts(), ["key none", "0"], "two at once, and then one in half a minute");
}

#[tokio::test]
async fn what_nobody_allows_is_not_dialled() {
    let (port, greeted) = server(0).await;
    let (host, other) = (format!("localhost:{port}"), format!("127.0.0.1:{port}"));
    // Listed by the operator, not by the manifest.
    let rig = rig(std::slice::from_ref(&host), rules(&other, 60)).await;
    rig.open("a", Some(json!({ "url": format!("ws://{host}") }))).await;
    assert_eq!(rig.state("a")["state"], "refused");
    // Listed by the manifest, not by the operator: the address is private.
    rig.open("b", Some(json!({ "url": format!("ws://{other}") }))).await;
    rig.until("not dialled", |rig| rig.state("b")["state"] == "waiting").await;
    assert!(rig.state("b")["error"].as_str().unwrap().contains("listed"), "{}", rig.state("b"));
    // The manifest lists it now.
    let mut manifest = rig.store.manifest(ALICE).unwrap().unwrap();
    manifest.ws = rules(&host, 60);
    rig.store.write(Write::ChangeAgent(ALICE, AgentChange::Manifest(Box::new(manifest)))).await.unwrap();
    rig.sockets.refresh(ALICE);
    rig.until("connected", |rig| rig.state("a")["state"] == "connected").await;
    assert_eq!((rig.state("b")["state"].clone(), greeted.load(Ordering::Relaxed)), (json!("refused"), 1));
    // A stopped agent keeps no connection.
    let stop = AgentChange::Lifecycle(Lifecycle::Stopped, None);
    rig.store.write(Write::ChangeAgent(ALICE, stop)).await.unwrap();
    rig.sockets.refresh(ALICE);
    assert_eq!(rig.sockets.status(ALICE), json!({}));
}

#[test]
fn a_wish_is_a_websocket_on_the_list_with_headers_of_its_own() {
    let rules = rules("https://api.example.com/v1", 60);
    let check = |url: &str, header: &str| {
        let headers = BTreeMap::from([(header.to_owned(), "x".to_owned())]);
        Wanted { url: url.to_owned(), headers }.check(&rules)
    };
    assert!(check("wss://api.example.com/v1/feed", "authorization").is_ok());
    assert!(check("WSS://API.example.com/v1", "sec-websocket-protocol").is_ok());
    for url in
        ["https://api.example.com/v1", "ws://api.example.com/v1", "wss://api.example.com/", "wss://", "x"]
    {
        assert!(check(url, "authorization").is_err(), "{url}");
    }
    for header in ["Host", "connection", "Sec-WebSocket-Key", "proxy-authorization", "", "a b", "a\r\nb"] {
        let refused = check("wss://api.example.com/v1", header);
        assert!(matches!(refused, Err(WantedError::Header(_))), "{header:?}");
    }
}
