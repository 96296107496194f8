//! A websocket that an agent keeps open: it wakes the agent, takes what it sends, and outlives the node's process.

#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use oa_nips::mail::Protocol;
use oa_nips::nostr::PublicKey;
use oa_node::agent::manifest::{Manifest, Policy};
use oa_node::agent::site::Site;
use oa_tests::client::Client;
use oa_tests::local::{Plot, World};
use oa_tests::world::{DEADLINE, eventually};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

const SOON: Duration = Duration::from_secs(15);

/// A service that greets, and keeps what it is told.
#[derive(Debug, Default)]
struct Service {
    greeted: AtomicUsize,
    open: AtomicUsize,
    told: Mutex<Vec<String>>,
}

async fn service() -> (u16, Arc<Service>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, service) = (listener.local_addr().unwrap().port(), Arc::new(Service::default()));
    let serving = service.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = serving.clone();
            tokio::spawn(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                service.greeted.fetch_add(1, Ordering::Relaxed);
                service.open.fetch_add(1, Ordering::Relaxed);
                let _ = socket.send(Message::text("welcome")).await;
                while let Some(Ok(message)) = socket.next().await {
                    if let Message::Text(text) = message {
                        service.told.lock().unwrap().push(text.to_string());
                    }
                }
                service.open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    (port, service)
}

/// How often messages of websockets began a tick.
fn woken(world: &World) -> Result<usize> {
    let records = world.store.records(world.agent("alice")?.id, 0, 1000)?;
    let kind = |fields: &oa_nips::record::Fields| {
        fields.get("trigger").and_then(|trigger| trigger.get("kind")?.as_str().map(str::to_owned))
    };
    Ok(records.iter().filter(|record| kind(&record.fields).as_deref() == Some("ws")).count())
}

async fn tell(someone: &mut Client, agent: PublicKey, what: &str) -> Result<String> {
    Ok(someone.ask(agent, what, Protocol::Nip17, SOON).await?.text().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_wakes_the_agent_and_outlives_the_process() -> Result<()> {
    let (port, service) = service().await;
    let host = format!("127.0.0.1:{port}");
    let world = World::start(Plot { http_private: vec![host.clone()], ..Plot::default() }).await?;
    let mut manifest = Manifest::new("alice", "echo");
    manifest.dm.policy = Policy::Open;
    manifest.ws.allow = vec![Site::parse(&host)?];
    world.node.ensure_agent(manifest).await?;
    let agent = world.agent("alice")?.pubkey;
    let mut someone = world.client().await?;
    let denied =
        tell(&mut someone, agent, r#"do call /ws/open {"id":"feed","url":"wss://elsewhere.example/"}"#)
            .await?;
    ensure!(denied.starts_with("refused: PermissionDenied"), "{denied}");
    let open = format!(r#"do call /ws/open {{"id":"feed","url":"ws://{host}/feed"}}"#);
    let opened = tell(&mut someone, agent, &open).await?;
    ensure!(opened.contains("/ws/connections/feed.json"), "{opened}");
    let wakes = |world: &World, times: usize| {
        let (woken, greeted) = (woken(world), service.greeted.load(Ordering::Relaxed));
        async move {
            ensure!(woken? == times && greeted == times, "not {times} times yet");
            Ok(())
        }
    };
    eventually(DEADLINE, || wakes(&world, 1)).await?;
    let sent = tell(&mut someone, agent, r#"do call /ws/send {"id":"feed","text":"from alice"}"#).await?;
    ensure!(sent.contains("\"sent\":true"), "{sent}");
    eventually(DEADLINE, || async {
        ensure!(*service.told.lock().unwrap() == ["from alice"]);
        Ok(())
    })
    .await?;
    let status = tell(&mut someone, agent, "do read /ws/status").await?;
    ensure!(status.contains("\"state\":\"connected\"") && status.contains("\"sent\":1"), "{status}");
    // The node ends, and comes back: so does the connection, by itself.
    let stopped = world.stop().await;
    eventually(DEADLINE, || async {
        ensure!(service.open.load(Ordering::Relaxed) == 0, "it is open still");
        Ok(())
    })
    .await?;
    let world = stopped.again().await?;
    eventually(DEADLINE, || wakes(&world, 2)).await?;
    let mut someone = world.client().await?;
    let closed = tell(&mut someone, agent, r#"do call /ws/close {"id":"feed"}"#).await?;
    ensure!(closed.starts_with("did: "), "{closed}");
    eventually(DEADLINE, || async {
        ensure!(service.open.load(Ordering::Relaxed) == 0, "it is open still");
        Ok(())
    })
    .await?;
    let gone = tell(&mut someone, agent, r#"do call /ws/send {"id":"feed","text":"x"}"#).await?;
    ensure!(gone.starts_with("refused: NotFound"), "{gone}");
    world.end().await;
    Ok(())
}
