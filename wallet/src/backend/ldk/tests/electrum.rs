//! The same on an Electrum server. A forced close is not among it: it sends while it syncs, and the client may
//! then leave an answer unread until its next call, up to 20 s later (see `Ldk::sync`): no time for that there.

use super::*;

async fn world() -> World {
    let chain = Chain::new();
    let server = chain.serve_electrum("127.0.0.1:0".parse().unwrap()).await.unwrap();
    assert!(matches!(server.source(), ChainSource::Electrum { .. }));
    World::on(chain, server).await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_electrum_it_does_what_every_backend_does() {
    whole_suite(world().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_electrum_a_closed_channel_gives_back_to_each_what_is_its_own() {
    closed_and_given_back(world().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_electrum_a_reorganisation_loses_nothing() {
    reorganised(world().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_outlives_its_electrum_server() {
    let mut world = world().await;
    let address = world.server.address();
    world.server.shutdown().await;
    let txid = world.chain.fund(&world.bob.address().await.unwrap(), Sat(70_000)).unwrap();
    world.chain.mine(1);
    assert!(world.bob.sync().await.is_err(), "there is nobody to ask");
    let before = world.bob.balance().await.unwrap();
    world.server = world.chain.serve_electrum(address).await.unwrap();
    until("a sync", || async { world.bob.sync().await.ok() }).await;
    assert_eq!(world.chain.transaction(&txid).unwrap().1, Some(world.chain.height()));
    assert_eq!(world.bob.balance().await.unwrap().onchain, Sat(before.onchain.0 + 70_000));
    world.stop().await;
}
