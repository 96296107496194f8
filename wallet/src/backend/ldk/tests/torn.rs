//! Payments that a kill tore in two: listed and never begun, or begun and never listed.
//!
//! The list is changed while the node does not run, to what a kill would have left.

use rusqlite::{Connection, params};

use super::super::start::database;
use super::*;
use crate::backend::Preimage;

/// Rows of LDK's list: key and value, each with the payment's hash in it.
fn listed(path: &Path) -> Vec<(String, Vec<u8>)> {
    let db = Connection::open(path).unwrap();
    let sql = "SELECT key, value FROM ldk_node_data WHERE primary_namespace = 'payments'";
    let mut rows = db.prepare(sql).unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

fn replaced(bytes: &[u8], from: PaymentHash, to: PaymentHash) -> Vec<u8> {
    let (from, mut bytes) = (from.to_bytes(), bytes.to_vec());
    while let Some(at) = bytes.windows(32).position(|window| *window == from) {
        bytes[at..at + 32].copy_from_slice(&to.to_bytes());
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_listed_and_never_begun_fails_and_what_was_begun_is_waited_for() {
    let world = World::new().await;
    let preimage = Preimage([5; 32]);
    let (hash, never) = (preimage.hash(), PaymentHash::from_bytes([9; 32]));
    let held = world.bob.hold_invoice(hash, asked(Some(5_000_000), "")).await.unwrap();
    world.alice.pay(&held.bolt11, None, Msat::ZERO).await.unwrap();
    event(&world.bob, "held", |event| matches!(event, Event::Held { .. })).await;
    world.alice.stop().await.unwrap();
    let path = database(&world.dirs[0].path().join("node"));
    let (key, value) = listed(&path).into_iter().find(|(key, _)| *key == hash.to_string()).unwrap();
    {
        let db = Connection::open(&path).unwrap();
        let insert = "INSERT INTO ldk_node_data VALUES ('payments', '', ?1, ?2)";
        db.execute(insert, params![never.to_string(), replaced(&value, hash, never)]).unwrap();
        db.execute("DELETE FROM ldk_node_data WHERE primary_namespace = 'payments' AND key = ?1", [&key])
            .unwrap();
    }
    let alice = start(&world.dirs[0], &world.server, world.ports[0], "alice").await;
    let state = |found: Option<Payment>| found.map(|found| (found.direction, found.state));
    let found = state(alice.look_up(never).await.unwrap());
    assert_eq!(found, Some((Direction::Outgoing, State::Failed { why: FailReason::Unknown })), "never begun");
    let found = state(alice.look_up(hash).await.unwrap());
    assert_eq!(found, Some((Direction::Outgoing, State::Pending)), "under way, though nothing lists it");
    assert_eq!(alice.look_up(PaymentHash::from_bytes([8; 32])).await.unwrap(), None);
    usable(&alice).await;
    world.bob.settle(preimage).await.unwrap();
    event(&alice, "sent", |event| matches!(event, Event::Sent { hash: sent, .. } if *sent == hash)).await;
    let found = state(alice.look_up(hash).await.unwrap());
    let settled = State::Settled { preimage: Some(preimage), fee: Msat::ZERO };
    assert_eq!(found, Some((Direction::Outgoing, settled)));
    World { alice, ..world }.stop().await;
}
