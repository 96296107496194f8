//! Two real nodes on a chain of our own: the suite that every backend passes, and what only they do.

mod electrum;
mod lsp;
mod torn;

use std::net::TcpListener;

use tempfile::TempDir;

use super::super::conformance::{self, SOON, asked, event, oldest, owns, settled, until};
use super::outcome::Outcome;
use super::*;
use crate::backend::{Direction, Event, FailReason, State};
use crate::devnet;
use crate::regtest::{Chain, Server};

/// What the channel holds.
const CAPACITY: Sat = Sat(1_000_000);

/// Coins each side has besides, see `devnet`.
const SPARE: u64 = 100_000;

/// The two anchor outputs of a commitment, which the opener pays for.
const ANCHORS_MSAT: u64 = 660_000;

struct World {
    chain: Chain,
    server: Server,
    dirs: [TempDir; 2],
    ports: [u16; 2],
    alice: Ldk,
    bob: Ldk,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn config(dir: &TempDir, server: &Server, port: u16, alias: &str) -> Config {
    Config {
        sync: SyncRate::OnDemand,
        alias: alias.to_owned(),
        listen: vec![format!("127.0.0.1:{port}")],
        ..Config::new(dir.path().join("node"), Network::Regtest, server.source())
    }
}

fn seed(dir: &TempDir) -> Seed {
    let path = dir.path().join("seed");
    Seed::open(&path).or_else(|_| Seed::create(&path)).unwrap()
}

async fn start(dir: &TempDir, server: &Server, port: u16, alias: &str) -> Ldk {
    Ldk::start(config(dir, server, port, alias), &seed(dir)).await.unwrap()
}

impl World {
    async fn new() -> Self {
        let chain = Chain::new();
        let server = chain.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
        Self::on(chain, server).await
    }

    async fn on(chain: Chain, server: Server) -> Self {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let ports = [free_port(), free_port()];
        let began = Instant::now();
        let alice = start(&dirs[0], &server, ports[0], "alice").await;
        let bob = start(&dirs[1], &server, ports[1], "bob").await;
        let started = began.elapsed();
        devnet::connect(&chain, &alice, &bob, CAPACITY).await.unwrap();
        println!("two nodes started in {started:?}, channel ready after {:?}", began.elapsed());
        Self { chain, server, dirs, ports, alice, bob }
    }

    async fn mine(&self, blocks: u32) {
        self.chain.mine(blocks);
        self.sync().await;
    }

    async fn sync(&self) {
        self.alice.sync().await.unwrap();
        self.bob.sync().await.unwrap();
    }

    async fn stop(self) {
        self.alice.stop().await.unwrap();
        self.bob.stop().await.unwrap();
        self.server.shutdown().await;
    }
}

async fn usable(node: &Ldk) {
    until("a usable channel", || async {
        node.channels().await.unwrap().iter().any(|channel| channel.usable).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_what_every_backend_does() {
    whole_suite(World::new().await).await;
}

async fn whole_suite(world: World) {
    let (alice, bob) = (world.alice.balance().await.unwrap(), world.bob.balance().await.unwrap());
    let all = alice.in_channels.get() + bob.in_channels.get() + ANCHORS_MSAT;
    assert_eq!(all, CAPACITY.0 * 1_000, "both sides together own the channel, to the millisatoshi");
    conformance::all(&world.alice, &world.bob).await;
    let bob = world.bob.balance().await.unwrap();
    assert!(bob.in_channels > Msat::ZERO);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_channel_gives_back_to_each_what_is_its_own() {
    closed_and_given_back(World::new().await).await;
}

async fn closed_and_given_back(world: World) {
    let invoice = world.bob.invoice(asked(Some(98_765_432), "")).await.unwrap();
    let payment = world.alice.pay(&invoice.bolt11, None, Msat::ZERO).await.unwrap();
    let (_, _, fee) = settled(&world.alice, &payment).await;
    assert_eq!(fee, Msat::ZERO, "between neighbours nothing is due");
    let id = world.alice.channels().await.unwrap()[0].id;
    assert_eq!(world.alice.close_channel(ChannelId(1), Close::Cooperative).await, Err(Error::NotFound));
    world.alice.close_channel(id, Close::Cooperative).await.unwrap();
    let closed = event(&world.alice, "closed", |event| matches!(event, Event::ChannelClosed { .. })).await;
    let Event::ChannelClosed { id: closed, forced, .. } = closed else { panic!("{closed:?}") };
    assert_eq!((closed, forced), (id, false));
    until("the closing transaction", || async { (world.chain.waiting() > 0).then_some(()) }).await;
    assert_eq!(world.bob.balance().await.unwrap().pending, Sat(CAPACITY.0 / 2 + 98_765));
    world.mine(6).await;
    let bob = world.bob.balance().await.unwrap();
    // The millisatoshis that no coin can hold are cut from each side.
    assert_eq!(bob.onchain, Sat(SPARE + CAPACITY.0 / 2 + 98_765));
    assert_eq!((bob.in_channels, bob.pending, bob.onchain_reserved), (Msat::ZERO, Sat(0), Sat(0)));
    let alice = world.alice.balance().await.unwrap();
    let all = SPARE + CAPACITY.0 / 2 - 98_766;
    assert!(alice.onchain.0 < all && alice.onchain.0 > all - 2_000, "less two transactions' fees: {alice:?}");
    let address = world.bob.address().await.unwrap();
    let txid = world.alice.send_onchain(&address, Some(Sat(10_000))).await.unwrap();
    assert!(world.bob.send_onchain(&address, Some(Sat(u64::MAX / 2_000))).await.is_err());
    until("the transaction", || async { (world.chain.waiting() > 0).then_some(()) }).await;
    assert!(world.chain.transaction(&txid.parse().unwrap()).is_some());
    world.mine(1).await;
    assert_eq!(world.bob.balance().await.unwrap().onchain.0, bob.onchain.0 + 10_000);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_keeps_channel_money_and_events() {
    let mut world = World::new().await;
    let proof = Preimage([3; 32]);
    let invoice = world.bob.hold_invoice(proof.hash(), asked(Some(50_000), "")).await.unwrap();
    world.alice.pay(&invoice.bolt11, None, Msat::ZERO).await.unwrap();
    event(&world.bob, "held", |event| matches!(event, Event::Held { .. })).await;
    let tea = world.bob.invoice(asked(Some(7_000), "")).await.unwrap();
    let payment = world.alice.pay(&tea.bolt11, None, Msat::ZERO).await.unwrap();
    settled(&world.alice, &payment).await;
    let unread = oldest(&world.bob).await.event;
    let locked =
        Ldk::start(config(&world.dirs[1], &world.server, world.ports[1], "bob"), &seed(&world.dirs[1])).await;
    assert!(matches!(locked, Err(StartError::Locked(_))));

    // The payment that is held is in flight across both restarts.
    let began = Instant::now();
    world.bob.stop().await.unwrap();
    world.alice.stop().await.unwrap();
    let stopped = began.elapsed();
    world.alice = start(&world.dirs[0], &world.server, world.ports[0], "alice").await;
    world.bob = start(&world.dirs[1], &world.server, world.ports[1], "bob").await;
    usable(&world.alice).await;
    usable(&world.bob).await;
    println!("two nodes stopped in {stopped:?}, usable again after {:?}", began.elapsed());
    assert_eq!(oldest(&world.bob).await.event, unread);
    assert_eq!(world.alice.look_up(proof.hash()).await.unwrap().unwrap().state, State::Pending);
    assert_eq!(world.alice.pay(&invoice.bolt11, None, Msat::ZERO).await, Err(Error::InFlight));
    assert_eq!(world.alice.pay(&tea.bolt11, None, Msat::ZERO).await, Err(Error::AlreadyPaid));
    world.bob.settle(proof).await.unwrap();
    let paid = world.alice.wait(proof.hash(), SOON).await.unwrap();
    assert!(matches!(paid.state, State::Settled { .. }), "{paid:?}");
    assert!(!world.alice.channels().await.unwrap().is_empty());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn held_money_is_not_claimed_after_its_deadline() {
    let world = World::new().await;
    let proof = Preimage([4; 32]);
    let invoice = world.bob.hold_invoice(proof.hash(), asked(Some(50_000), "")).await.unwrap();
    world.alice.pay(&invoice.bolt11, None, Msat::ZERO).await.unwrap();
    let held = event(&world.bob, "held", |event| matches!(event, Event::Held { .. })).await;
    let Event::Held { deadline: Some(deadline), .. } = held else { panic!("{held:?}") };
    world.mine(deadline - world.chain.height()).await;
    assert_eq!(world.bob.settle(proof).await, Err(Error::NotHeld), "and not that the node is busy");
    let back = world.alice.wait(proof.hash(), SOON).await.unwrap();
    assert!(matches!(back.state, State::Failed { .. }), "{back:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_loses_nothing() {
    reorganised(World::new().await).await;
}

async fn reorganised(world: World) {
    let channel = world.alice.channels().await.unwrap().remove(0);
    let funding = channel.funding_txid.unwrap().parse().unwrap();
    assert!(world.chain.transaction(&funding).unwrap().1.is_some());
    // Less deep than the channel's confirmations: one that vanishes from the chain is closed, and should be.
    world.chain.reorg(3);
    world.sync().await;
    world.mine(7).await;
    assert!(world.chain.transaction(&funding).unwrap().1.is_some());
    usable(&world.alice).await;
    let invoice = world.bob.invoice(asked(Some(1_000_000), "")).await.unwrap();
    let payment = world.alice.pay(&invoice.bolt11, None, Msat::ZERO).await.unwrap();
    settled(&world.alice, &payment).await;

    // Coins whose transaction goes back to waiting are there again once it is confirmed again.
    let txid = world.chain.fund(&world.bob.address().await.unwrap(), Sat(70_000)).unwrap();
    world.mine(1).await;
    let before = world.bob.balance().await.unwrap();
    world.chain.reorg(1);
    assert_eq!(world.chain.transaction(&txid).unwrap().1, None);
    world.sync().await;
    world.mine(1).await;
    assert_eq!(world.bob.balance().await.unwrap().onchain, before.onchain);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_close_is_told_and_its_coins_come_back() {
    let world = World::new().await;
    let before = world.bob.balance().await.unwrap();
    let id = world.bob.channels().await.unwrap()[0].id;
    world.bob.close_channel(id, Close::Force).await.unwrap();
    for node in [&world.alice, &world.bob] {
        let closed = event(node, "closed", |event| matches!(event, Event::ChannelClosed { .. })).await;
        assert!(matches!(closed, Event::ChannelClosed { forced: true, .. }), "{closed:?}");
    }
    until("the commitment", || async { (world.chain.waiting() > 0).then_some(()) }).await;
    world.mine(1).await;
    assert!(world.bob.balance().await.unwrap().pending >= Sat(before.in_channels.floor_sat() - 1_000));
    // The one who forced waits a day's blocks; sweeps are made and confirmed as they become possible.
    let owned = before.in_channels.floor_sat();
    until("bob's coins", || async {
        world.mine(20).await;
        let now = world.bob.balance().await.unwrap();
        let all = now.onchain.0 + now.pending.0;
        assert!(all <= SPARE + owned, "counted once, wherever they are: {now:?}");
        (now.pending == Sat(0) && all > SPARE + owned - 5_000).then_some(())
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_opens_and_is_its_owners_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new().await;
    let file = world.dirs[0].path().join("copy.sqlite");
    let backup = world.alice.backup(&file).await.unwrap();
    assert_eq!(backup.channels, [world.alice.channels().await.unwrap()[0].id]);
    let metadata = std::fs::metadata(&file).unwrap();
    assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (backup.bytes, 0o600));
    assert!(world.alice.backup(&file).await.is_err(), "a copy is never written over");
    // A node that lost its folder, and never ran after the copy, goes on from it.
    let peer = world.bob.id();
    world.alice.stop().await.unwrap();
    let node = world.dirs[0].path().join("node");
    std::fs::remove_dir_all(&node).unwrap();
    std::fs::create_dir(&node).unwrap();
    std::fs::set_permissions(&node, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::copy(&file, start::database(&node)).unwrap();
    let alice = start(&world.dirs[0], &world.server, world.ports[0], "alice").await;
    usable(&alice).await;
    let payment = alice
        .keysend(Keysend {
            payee: peer,
            amount: Msat::new(5_000),
            preimage: Preimage([8; 32]),
            fee_max: Msat::ZERO,
            records: Vec::new(),
        })
        .await
        .unwrap();
    assert_eq!(settled(&alice, &payment).await.0.direction, Direction::Outgoing);
    alice.stop().await.unwrap();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_came_before_its_payment_was_written_down_is_not_lost() {
    let world = World::new().await;
    let failed = Outcome::Failed { why: FailReason::NoRoute };
    let pending = async |byte: u8| {
        let hash = Preimage([byte; 32]).hash();
        let invoice = world.bob.hold_invoice(hash, asked(Some(1_000), "")).await.unwrap();
        world.alice.pay(&invoice.bolt11, None, Msat::ZERO).await.unwrap();
        hash
    };
    let state = async |hash| world.alice.look_up(hash).await.unwrap().unwrap().state;
    let first = pending(1).await;
    assert!(world.alice.note_end(first, failed).await.unwrap());
    assert_eq!(state(first).await, State::Failed { why: FailReason::NoRoute });
    // Of a payment that is tried again, the end may be the first attempt's, read late: it changes nothing.
    let again = pending(2).await;
    lock(&world.alice.outcomes).begin(again, true);
    assert!(!world.alice.note_end(again, failed).await.unwrap());
    assert_eq!(state(again).await, State::Pending);
    // A success is a success, whatever the store says.
    let sent = Outcome::Sent { hash: again, preimage: None, fee: Msat::new(5) };
    assert!(world.alice.note_end(again, sent).await.unwrap());
    assert_eq!(state(again).await, State::Settled { preimage: None, fee: Msat::new(5) });
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn homes_that_were_prepared_pay_at_once() {
    let chain = Chain::new();
    let server = chain.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let home = |dir: &TempDir, alias| devnet::Home {
        config: Config {
            sync: SyncRate::Every(Duration::from_millis(100)),
            ..config(dir, &server, free_port(), alias)
        },
        seed: seed(dir),
    };
    let homes = [home(&dirs[0], "alice"), home(&dirs[1], "bob")];
    let began = Instant::now();
    devnet::prepare(&chain, [&homes[0], &homes[1]], CAPACITY).await.unwrap();
    let prepared = began.elapsed();
    let [alice, bob] = [&homes[0], &homes[1]].map(|home| Ldk::start(home.config.clone(), &home.seed));
    let (alice, bob) = tokio::join!(alice, bob);
    let (alice, bob) = (alice.unwrap(), bob.unwrap());
    usable(&alice).await;
    for (payer, payee) in [(&alice, &bob), (&bob, &alice)] {
        let invoice = payee.invoice(asked(Some(50_000_000), "")).await.unwrap();
        let payment = payer.pay(&invoice.bolt11, None, Msat::ZERO).await.unwrap();
        settled(payer, &payment).await;
    }
    println!("prepared in {prepared:?}, both ways paid after {:?}", began.elapsed());
    // Their own rate keeps them up with the chain.
    chain.mine(3);
    for node in [&alice, &bob] {
        until("the newest block", || async {
            (node.info().await.unwrap().block_height == chain.height()).then_some(())
        })
        .await;
    }
    alice.stop().await.unwrap();
    bob.stop().await.unwrap();
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_not_start_where_it_should_not() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    let chain = Chain::new();
    let server = chain.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let fine = config(&dir, &server, free_port(), "alice");
    let refused = |config| async { Ldk::start(config, &seed(&dir)).await.unwrap_err() };
    let listen = vec!["nowhere".to_owned()];
    assert!(matches!(refused(Config { listen, ..fine.clone() }).await, StartError::Address(_)));
    std::fs::create_dir(&fine.dir).unwrap();
    std::fs::set_permissions(&fine.dir, std::fs::Permissions::from_mode(0o750)).unwrap();
    let error = refused(fine.clone()).await;
    assert!(error.to_string().ends_with(&format!("chmod 700 {}", fine.dir.display())), "{error}");
    std::fs::set_permissions(&fine.dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    let url = server.url();
    server.shutdown().await;
    let electrum = url.replace("http://", "tcp://");
    for away in [ChainSource::Esplora { url }, ChainSource::Electrum { url: electrum }] {
        let refused = refused(Config { chain: away.clone(), ..fine.clone() }).await;
        assert!(matches!(refused, StartError::ChainAway), "{away:?}: {refused}");
    }
}

#[tokio::test]
async fn it_wants_a_runtime_whose_threads_may_block() {
    let dir = TempDir::new().unwrap();
    let chain = ChainSource::Esplora { url: "http://127.0.0.1:9".to_owned() };
    let config = Config::new(dir.path().join("node"), Network::Regtest, chain);
    assert!(matches!(Ldk::start(config, &seed(&dir)).await, Err(StartError::Runtime)));
}

#[test]
fn secrets_of_a_configuration_are_not_shown() {
    let chain = ChainSource::Bitcoind {
        host: "localhost".to_owned(),
        port: 8332,
        user: "oa".to_owned(),
        password: Password("hunter2".to_owned()),
    };
    assert!(!format!("{chain:?}").contains("hunter2"));
}
