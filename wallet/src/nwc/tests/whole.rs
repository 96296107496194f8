//! Our client and our service, over relays in memory.

use std::sync::Arc;
use std::time::Duration;

use oa_nips::kind;
use oa_nips::nostr::{Keys, RelayUrl, SecretKey};
use oa_nips::nwc::Info;
use serde_json::json;

use super::play::{Luck, PlayPurse};
use super::world::{KeySigner, MemoryRows, Net, SOON, client, clock, quick, relay};
use crate::account::Holder;
use crate::backend::Preimage;
use crate::msat::Msat;
use crate::nwc::client::{CallError, Client, Outcome};
use crate::nwc::connection::{Connection, Scope};
use crate::nwc::message::{
    ErrorCode, HoldOrder, InvoiceOrder, ListQuery, Notification, PayOrder, State, Topic,
};
use crate::nwc::service::{Config, Connected, NEW_CONNECTION, NewConnection, Ports, Service};
use crate::nwc::uri::Uri;

/// A wallet with what it stands on, which outlives it.
struct World {
    keys: Keys,
    net: Net,
    rows: MemoryRows,
    purse: PlayPurse,
    relays: Vec<RelayUrl>,
}

impl World {
    fn new(relays: u8) -> Self {
        let purse = PlayPurse::default();
        purse.with(|play| play.now_s = clock() / 1000);
        let relays = (1..=relays).map(relay).collect();
        Self { keys: Keys::generate(), net: Net::default(), rows: MemoryRows::default(), purse, relays }
    }

    async fn serve(&self) -> Service {
        self.serve_with(Config::new(self.relays.clone())).await
    }

    async fn serve_with(&self, config: Config) -> Service {
        let filter = Service::filter(self.keys.public_key(), clock() / 1000);
        let events = self.net.listen(&self.relays, filter);
        let ports = Ports {
            signer: Arc::new(KeySigner(self.keys.clone())),
            publish: Arc::new(self.net.clone()),
            rows: Arc::new(self.rows.clone()),
            purse: Arc::new(self.purse.clone()),
            steer: Arc::new(self.purse.clone()),
            clock,
        };
        Service::start(config, ports, events).await.unwrap()
    }

    fn uri(&self) -> Uri {
        Uri::new(self.keys.public_key(), self.relays.clone(), SecretKey::generate()).unwrap()
    }

    async fn connect(&self, service: &Service, name: &str, msat: u64) -> Client {
        let uri = self.uri();
        let key = uri.keys().public_key();
        self.purse.with(|play| play.give(name, msat));
        let mut connection = Connection::new(key, name, Holder::new(name).unwrap(), clock() / 1000);
        connection.scopes = Scope::ALL.into();
        service.connect(connection).await.unwrap();
        client(&self.net, &uri, quick(&uri))
    }

    fn bill(&self, seed: u8, amount: u64) -> PayOrder {
        let (invoice, _) = self.purse.with(|play| play.bill(seed, Some(amount)));
        PayOrder { invoice, amount: None, metadata: None }
    }
}

fn invoice_order(amount: u64) -> InvoiceOrder {
    InvoiceOrder {
        amount: Msat::new(amount),
        description: Some("tea".to_owned()),
        description_hash: None,
        expiry: None,
        metadata: None,
    }
}

#[tokio::test]
async fn a_client_uses_all_of_the_wallet() {
    let world = World::new(2);
    let service = world.serve().await;
    let shop = world.connect(&service, "shop", 1_000_000).await;
    assert_eq!(shop.balance().await.unwrap(), Msat::new(1_000_000));
    let info = shop.info().await.unwrap();
    assert_eq!(info.alias.as_deref(), Some("play money"));
    assert!(info.methods.iter().any(|method| method == "oa_address"));
    let outcome = shop.pay_invoice(world.bill(1, 1000)).await.unwrap();
    assert_eq!(outcome, Outcome::Settled { preimage: Preimage([1; 32]), fee: Some(Msat::ZERO) });
    let keysend =
        shop.prepare_keysend("02".repeat(33), Msat::new(5), Preimage([2; 32]), vec![]).await.unwrap();
    assert!(matches!(shop.perform(&keysend).await, Outcome::Settled { .. }));
    let made = shop.make_invoice(invoice_order(7)).await.unwrap();
    assert_eq!(shop.look_up(made.payment_hash).await.unwrap().unwrap().state, State::Pending);
    assert_eq!(shop.look_up(Preimage([99; 32]).hash()).await.unwrap(), None);
    let listed = shop.list(ListQuery::default()).await.unwrap();
    assert_eq!(listed.len(), 3);
    assert_eq!(shop.budget().await.unwrap(), Default::default());
    let dear = shop.pay_invoice(world.bill(3, 5_000_000)).await.unwrap();
    assert!(matches!(dear, Outcome::Failed { code: ErrorCode::InsufficientBalance, .. }), "{dear:?}");
    assert_eq!(shop.admin("oa_address", json!({})).await.unwrap()["address"], "play1money");
    service.shutdown().await;
}

#[tokio::test]
async fn what_another_connection_has_ordered_is_unknown_and_not_asked_for() {
    let (world, other) = (World::new(1), World::new(1));
    let (service, elsewhere) = (world.serve().await, other.serve().await);
    let shop = world.connect(&service, "shop", 1_000_000).await;
    let mut ordered = shop.prepare(world.bill(1, 1000)).await.unwrap();
    assert!(matches!(shop.perform(&ordered).await, Outcome::Settled { .. }));
    let strangers = [
        world.connect(&service, "kiosk", 1_000_000).await,
        other.connect(&elsewhere, "shop", 1_000_000).await,
    ];
    let asked = |net: &Net| net.log().iter().filter(|event| event.kind == kind::WALLET_REQUEST).count();
    let before = (asked(&world.net), asked(&other.net));
    // Long after: no wallet that does not know of it pays it any more.
    ordered.final_at = 0;
    for stranger in strangers {
        assert_eq!(stranger.resolve(&ordered).await, Outcome::Unknown);
        assert_eq!(stranger.perform(&ordered).await, Outcome::Unknown);
    }
    assert_eq!((asked(&world.net), asked(&other.net)), before);
    assert!(matches!(shop.resolve(&ordered).await, Outcome::Settled { .. }));
    service.shutdown().await;
    elsewhere.shutdown().await;
}

#[tokio::test]
async fn a_hold_invoice_is_told_and_settled() {
    let world = World::new(1);
    let service = world.serve().await;
    let shop = world.connect(&service, "shop", 0).await;
    let (preimage, mut told) = (Preimage([5; 32]), shop.notifications());
    let order = HoldOrder {
        amount: Msat::new(1000),
        payment_hash: preimage.hash(),
        description: None,
        description_hash: None,
        expiry: None,
        min_cltv_expiry_delta: None,
    };
    shop.make_hold_invoice(order).await.unwrap();
    let transaction = world.purse.with(|play| play.hold(preimage.hash()));
    let accepted = Notification { topic: Topic::HoldInvoiceAccepted, transaction };
    service.happened(Holder::new("shop").unwrap(), accepted).await.unwrap();
    let told = tokio::time::timeout(SOON, told.recv()).await.unwrap().unwrap();
    assert_eq!((told.topic, told.transaction.settle_deadline), (Topic::HoldInvoiceAccepted, Some(800_000)));
    let held = shop.wait_for(preimage.hash(), SOON).await.unwrap();
    assert_eq!(held.state, State::Accepted);
    shop.settle_hold_invoice(preimage).await.unwrap();
    assert_eq!(shop.look_up(preimage.hash()).await.unwrap().unwrap().state, State::Settled);
    let refused = shop.cancel_hold_invoice(Preimage([6; 32]).hash()).await;
    assert!(matches!(refused, Err(CallError::Refused(error)) if error.code == ErrorCode::NotFound));
}

#[tokio::test]
async fn an_admin_connects_an_app_that_then_pays() {
    let world = World::new(1);
    let service = world.serve().await;
    let admin = world.connect(&service, "admin", 0).await;
    let secret = SecretKey::generate();
    let pubkey = Keys::new(secret.clone()).public_key();
    let new = NewConnection {
        pubkey,
        name: "shop".to_owned(),
        scopes: [Scope::Pay].into(),
        budget: None,
        expires_at: None,
        account: None,
    };
    let made = admin.admin(NEW_CONNECTION, json!(new)).await.unwrap();
    let Connected { wallet, relays, account } = serde_json::from_value(made).unwrap();
    world.purse.with(|play| play.give(account.as_str(), 1_000_000));
    let uri = Uri::new(wallet, relays, secret).unwrap();
    let app = client(&world.net, &uri, quick(&uri));
    assert!(matches!(app.pay_invoice(world.bill(1, 1000)).await.unwrap(), Outcome::Settled { .. }));
    let refused = app.balance().await;
    assert!(matches!(refused, Err(CallError::Refused(error)) if error.code == ErrorCode::Restricted));
}

#[tokio::test]
async fn relays_that_lose_every_third_event_lose_no_payment() {
    let world = World::new(2);
    let service = world.serve().await;
    let shop = world.connect(&service, "shop", 100_000_000).await;
    world.net.lose_every(3);
    for seed in 1..=20 {
        let outcome = shop.pay_invoice(world.bill(seed, 1000)).await.unwrap();
        assert!(matches!(outcome, Outcome::Settled { .. }), "{seed}: {outcome:?}");
    }
    let paid = world.purse.with(|play| play.paid.clone());
    assert_eq!((paid.len(), paid.values().max()), (20, Some(&1)));
}

#[tokio::test]
async fn one_relay_is_enough() {
    let world = World::new(2);
    world.net.down(relay(1));
    let service = world.serve().await;
    let shop = world.connect(&service, "shop", 5).await;
    assert_eq!(shop.balance().await.unwrap(), Msat::new(5));
}

#[tokio::test]
async fn a_payment_outlives_the_service() {
    let world = World::new(1);
    let service = world.serve().await;
    let shop = world.connect(&service, "shop", 1_000_000).await;
    world.purse.with(|play| play.luck = Luck::Slow);
    let prepared = shop.prepare(world.bill(1, 1000)).await.unwrap();
    let paying = tokio::spawn({
        let (shop, prepared) = (shop.clone(), prepared.clone());
        async move { shop.perform(&prepared).await }
    });
    let deadline = tokio::time::Instant::now() + SOON;
    while world.purse.with(|play| play.paid.is_empty()) {
        assert!(tokio::time::Instant::now() < deadline, "nothing was paid");
        tokio::task::yield_now().await;
    }
    service.shutdown().await;
    let _service = world.serve().await;
    world.purse.with(|play| play.decide(prepared.payment_hash, true));
    let settled = Outcome::Settled { preimage: Preimage([1; 32]), fee: Some(Msat::ZERO) };
    assert_eq!(paying.await.unwrap(), settled);
    assert_eq!(shop.perform(&prepared).await, settled, "sent once more, answered with the same");
    assert_eq!(world.purse.with(|play| play.paid[&prepared.payment_hash]), 1);
}

#[tokio::test]
async fn many_at_once_are_paid_once_each() {
    let world = World::new(1);
    let service = world.serve().await;
    let shop = world.connect(&service, "shop", 100_000_000).await;
    let mut payments = tokio::task::JoinSet::new();
    for seed in 1..=60 {
        let (shop, order) = (shop.clone(), world.bill(seed, 1000));
        payments.spawn(async move { shop.pay_invoice(order).await.unwrap() });
    }
    for outcome in payments.join_all().await {
        assert!(matches!(outcome, Outcome::Settled { .. }), "{outcome:?}");
    }
    assert_eq!(world.purse.with(|play| play.paid.values().sum::<u32>()), 60);
}

#[tokio::test]
async fn the_wallet_announces_itself_on_every_relay_and_again() {
    let world = World::new(2);
    let announce_every = Duration::from_millis(20);
    let _service = world.serve_with(Config { announce_every, ..Config::new(world.relays.clone()) }).await;
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let infos: Vec<_> =
            world.net.log().into_iter().filter(|event| event.kind == kind::WALLET_INFO).collect();
        if infos.len() >= 6 {
            let info = Info::read(&infos[0]).unwrap();
            assert_eq!(info.methods.len(), 11);
            assert_eq!(info.notifications, ["payment_received", "payment_sent", "hold_invoice_accepted"]);
            assert_eq!(info.encryptions.len(), 2);
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{infos:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Clients of others find no wallet where they find no info event, and that the next day would be late.
#[tokio::test]
async fn a_relay_that_was_away_at_the_start_gets_the_info_event_when_it_is_back() {
    let world = World::new(2);
    let (up, away) = (relay(1), relay(2));
    world.net.down(away.clone());
    let announce_again = Duration::from_millis(20);
    let _service = world.serve_with(Config { announce_again, ..Config::new(world.relays.clone()) }).await;
    let infos = |relay| world.net.kept(relay).iter().filter(|event| event.kind == kind::WALLET_INFO).count();
    let deadline = tokio::time::Instant::now() + SOON;
    while infos(&up) == 0 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(infos(&away), 0);
    world.net.up();
    while infos(&away) == 0 {
        assert!(tokio::time::Instant::now() < deadline, "it is told the next day");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(infos(&up), 1, "who has it is left alone");
}
