//! Start, limits of connections, shutdown, restart.

use oa_nips::nostr::Keys;
use oa_relay::{Config, Limits, Relay, StartError, StoreConfig};
use serde_json::json;
use tokio_tungstenite::tungstenite::Error;

use crate::client::{Client, DEADLINE, config, note, relay, within};

#[tokio::test]
async fn a_restart_keeps_events_and_address() {
    let home = tempfile::tempdir().expect("a directory");
    let store = StoreConfig::Lmdb(home.path().join("deep").join("relay"));
    let first =
        Relay::start(Config { store: store.clone(), ..config(Limits::default()) }).await.expect("starts");
    let addr = first.local_addr();
    let event = note(&Keys::generate(), "kept");
    let mut client = Client::connect(&first).await;
    assert_eq!(client.publish(&event).await, (true, String::new()));
    assert_eq!(client.request("before", json!({})).await, std::slice::from_ref(&event));
    first.shutdown().await;
    // The client's socket is still open, so the old connection lingers in the kernel.
    let second = Relay::start(Config::new(addr, store)).await.expect("starts on the same address");
    assert_eq!(second.local_addr(), addr);
    let mut again = Client::connect(&second).await;
    assert_eq!(again.request("after", json!({})).await, [event]);
    drop(client);
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let first = relay(Limits::default()).await;
    let addr = first.local_addr();
    let error = Relay::start(Config::new(addr, StoreConfig::Memory)).await.expect_err("taken");
    assert!(matches!(error, StartError::AddressInUse { addr: named } if named == addr), "{error:?}");
    assert_eq!(error.to_string(), format!("address {addr} is already in use"));
    assert_eq!(Client::connect(&first).await.request("a", json!({})).await, [], "the first goes on");
}

#[tokio::test]
async fn an_address_of_elsewhere_and_a_bad_store_are_named() {
    let elsewhere = "192.0.2.1:7447".parse().expect("an address");
    let error = Relay::start(Config::new(elsewhere, StoreConfig::Memory)).await.expect_err("not ours");
    assert_eq!(error.to_string(), "cannot listen on 192.0.2.1:7447");

    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("file");
    std::fs::write(&path, "in the way").expect("writes");
    let store = StoreConfig::Lmdb(path.clone());
    let error = Relay::start(Config { store, ..config(Limits::default()) }).await.expect_err("a file");
    assert!(matches!(&error, StartError::StoreUnwritable { path: named, .. } if *named == path), "{error:?}");

    let path = home.path().join("damaged");
    std::fs::create_dir(&path).expect("creates");
    std::fs::write(path.join("data.mdb"), [0x5a; 8192]).expect("writes");
    let store = StoreConfig::Lmdb(path.clone());
    let error = Relay::start(Config { store, ..config(Limits::default()) }).await.expect_err("garbage");
    assert_eq!(error.to_string(), format!("the relay's store {} is damaged", path.display()));
}

#[tokio::test]
async fn a_connection_too_many_gets_503_until_one_leaves() {
    let relay = relay(Limits { connections_max: 2, ..Limits::default() }).await;
    let (mut first, second) = (Client::connect(&relay).await, Client::connect(&relay).await);
    match Client::try_connect(&relay).await {
        Err(Error::Http(response)) => assert_eq!(response.status().as_u16(), 503),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("served"),
    }
    assert_eq!(first.request("a", json!({})).await, [], "those inside go on");
    drop(second);
    let start = tokio::time::Instant::now();
    while Client::try_connect(&relay).await.is_err() {
        assert!(start.elapsed() < DEADLINE, "no place after one left");
    }
}

#[tokio::test]
async fn shutdown_answers_and_closes_clients_and_frees_the_port() {
    let relay = relay(Limits::default()).await;
    let addr = relay.local_addr();
    let (mut reader, mut idle) = (Client::connect(&relay).await, Client::connect(&relay).await);
    assert_eq!(reader.request("a", json!({})).await, []);
    within(relay.clone().shutdown()).await;
    assert_eq!(reader.close_code().await, Some(1001));
    assert_eq!(idle.close_code().await, Some(1001));
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
    within(relay.shutdown()).await;
}

#[tokio::test]
async fn dropping_the_last_handle_ends_everything() {
    let relay = relay(Limits::default()).await;
    let (addr, other) = (relay.local_addr(), relay.clone());
    let mut client = Client::connect(&relay).await;
    drop(relay);
    assert_eq!(client.request("a", json!({})).await, [], "another handle holds it");
    drop(other);
    assert_eq!(client.close_code().await, None, "cut off");
    let start = tokio::time::Instant::now();
    while tokio::net::TcpStream::connect(addr).await.is_ok() {
        assert!(start.elapsed() < DEADLINE, "still listening");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_url_is_one_to_connect_to() {
    let any = Config::new("0.0.0.0:0".parse().expect("an address"), StoreConfig::Memory);
    let relay = Relay::start(any).await.expect("starts");
    let port = relay.local_addr().port();
    assert_eq!(relay.url(), format!("ws://127.0.0.1:{port}"));
    assert!(Relay::serves_wraps_to_anyone());
}
