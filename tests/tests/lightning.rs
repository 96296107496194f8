//! Two operators with real Lightning wallets in processes and homes of their own, on a chain of the test's: every way
//! to pay, many payments, a close; and at the end both ledgers say what LDK says, to the millisatoshi.
//!
//! `OA_LIGHTNING_PAYMENTS=200` makes as many payments in a row; 20 without it. `OA_TEST_BITCOIND=PATH` puts them on the
//! chain of a real bitcoind, which `tests/bitcoind.sh` builds.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use oa_nips::hex::Hex;
use oa_nips::nostr::Keys;
use oa_tests::lightning::{CAPACITY, CONFIRMATIONS, Hub, Lightning, Operator, TOGETHER};
use oa_tests::wallet::Customer;
use oa_tests::world::{eventually, field};
use oa_wallet::backend::{Preimage, Sat};
use oa_wallet::msat::Msat;
use oa_wallet::nwc::client::Outcome;
use oa_wallet::nwc::message::{HoldOrder, State};

/// Payments at once: more than any one test of somebody's needs, and what a channel still takes.
const AT_ONCE: u64 = 20;

/// Shows a figure to whoever runs this with `--nocapture`.
fn figure(text: &str) {
    // Nobody else is waiting for it.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A client of a wallet, and what its operator must have.
struct Side {
    customer: Customer,
    has_msat: u64,
}

impl Side {
    async fn new(operator: &Operator) -> Result<Self> {
        let customer = operator.customer().await?;
        let has_msat = customer.client.balance().await?.get();
        Ok(Self { customer, has_msat })
    }

    /// Pays the other an amount; answers how long it took, from the request to the receipt.
    async fn pays(&self, other: &Self, amount: Msat) -> Result<Duration> {
        let invoice = other.customer.invoice(amount).await?;
        let began = Instant::now();
        settled(&self.customer.pay(invoice).await?, Msat::ZERO)?;
        Ok(began.elapsed())
    }

    /// Books what went from here to the other, without a fee.
    fn gave(&mut self, other: &mut Self, amount: Msat) {
        self.has_msat -= amount.get();
        other.has_msat += amount.get();
    }

    async fn has_it(&self) -> Result<()> {
        self.customer.balance_becomes(TOGETHER, self.has_msat).await
    }
}

fn settled(outcome: &Outcome, fee: Msat) -> Result<Preimage> {
    match outcome {
        Outcome::Settled { preimage, fee: Some(paid) } if *paid == fee => Ok(*preimage),
        other => anyhow::bail!("{other:?}"),
    }
}

fn drawn() -> Preimage {
    Preimage(Keys::generate().secret_key().to_secret_bytes())
}

fn in_a_row() -> Result<u64> {
    Ok(std::env::var("OA_LIGHTNING_PAYMENTS").map_or(Ok(20), |count| count.parse())?)
}

async fn invoices_both_ways(alice: &mut Side, bob: &mut Side) -> Result<()> {
    let (there, back) = (Msat::new(1_000_001), Msat::new(333_333));
    alice.pays(bob, there).await?;
    alice.gave(bob, there);
    bob.pays(alice, back).await?;
    bob.gave(alice, back);
    Ok(())
}

async fn held_money(alice: &mut Side, bob: &Side) -> Result<u64> {
    let amount = Msat::new(50_007);
    for is_taken in [true, false] {
        let proof = drawn();
        let order = HoldOrder {
            amount,
            payment_hash: proof.hash(),
            description: None,
            description_hash: None,
            expiry: None,
            min_cltv_expiry_delta: None,
        };
        let client = &bob.customer.client;
        let held = client.make_hold_invoice(order).await?.invoice.context("an invoice")?;
        let decide = async {
            let arrived = client.wait_for(proof.hash(), TOGETHER).await?;
            ensure!(arrived.state == State::Accepted, "{arrived:?}");
            if is_taken {
                client.settle_hold_invoice(proof).await?;
            } else {
                client.cancel_hold_invoice(proof.hash()).await?;
            }
            Ok(())
        };
        let (paid, ()) = tokio::try_join!(alice.customer.pay(held), decide)?;
        match paid {
            Outcome::Failed { .. } if !is_taken => {}
            paid => ensure!(is_taken && settled(&paid, Msat::ZERO)? == proof, "{paid:?}"),
        }
    }
    alice.has_msat -= amount.get();
    Ok(amount.get())
}

async fn keysend(payer: &Side, payee: &Operator, amount: Msat) -> Result<()> {
    let (node, _) = payee.peer.split_once('@').context("ID@HOST:PORT")?;
    let (client, proof) = (&payer.customer.client, drawn());
    let prepared = client.prepare_keysend(node.to_owned(), amount, proof, Vec::new()).await?;
    ensure!(settled(&client.perform(&prepared).await, Msat::ZERO)? == proof, "the receipt is the preimage");
    Ok(())
}

async fn offer(payer: &Operator, payee: &Operator, amount: Msat) -> Result<()> {
    let made = payee.ask(&["offer", "--description", "coffee"]).await?;
    let offer = field(&made, "offer").context("an offer")?;
    let amount = format!("{}msat", amount.get());
    let mut receipts = Vec::new();
    for _ in 0..2 {
        let paid = payer.ask(&["pay", offer, "--amount", &amount]).await?;
        let preimage: Hex<32> = field(&paid, "preimage").context("a preimage")?.parse()?;
        ensure!(
            field(&paid, "payment_hash") == Some(Preimage(preimage.0).hash().to_string().as_str()),
            "{paid}"
        );
        receipts.push(preimage);
    }
    ensure!(receipts.first() != receipts.last(), "an offer is paid many times");
    Ok(())
}

async fn many(alice: &mut Side, bob: &mut Side) -> Result<()> {
    let (count, began) = (in_a_row()?, Instant::now());
    let mut took = Vec::new();
    for n in 0..count {
        let amount = Msat::new(1_000 + n);
        took.push(alice.pays(bob, amount).await?);
        alice.gave(bob, amount);
    }
    took.sort();
    let middle = took.get(took.len() / 2).copied().unwrap_or_default();
    figure(&format!("{count} in a row: {:?} in all, half within {middle:?}", began.elapsed()));
    for is_there in [true, false] {
        let (from, to): (&mut Side, &mut Side) = if is_there { (alice, bob) } else { (bob, alice) };
        let amounts = || (0..AT_ONCE).map(|n| Msat::new(2_000 + n));
        let invoices = try_join_all(amounts().map(|amount| to.customer.invoice(amount))).await?;
        let began = Instant::now();
        for paid in try_join_all(invoices.into_iter().map(|invoice| from.customer.pay(invoice))).await? {
            settled(&paid, Msat::ZERO)?;
        }
        figure(&format!("{AT_ONCE} at once: {:?}", began.elapsed()));
        amounts().for_each(|amount| from.gave(to, amount));
    }
    Ok(())
}

/// Nobody pays their own invoice, paid by others or not, and is told so at once.
async fn ones_own(alice: &mut Side, bob: &mut Side) -> Result<()> {
    let amount = Msat::from_sat(5);
    let own = alice.customer.invoice(amount).await?;
    for is_paid in [false, true] {
        if is_paid {
            settled(&bob.customer.pay(own.clone()).await?, Msat::ZERO)?;
            bob.gave(alice, amount);
            alice.has_it().await?;
        }
        let began = Instant::now();
        let refused = alice.customer.pay(own.clone()).await?;
        ensure!(matches!(refused, Outcome::Failed { .. }), "{refused:?}");
        ensure!(began.elapsed() < Duration::from_secs(5), "told after {:?}", began.elapsed());
    }
    Ok(())
}

/// SIGTERM and a new start: peers that LDK would dial within a minute are dialled at once.
async fn comes_back(world: &mut Lightning) -> Result<()> {
    let began = Instant::now();
    let code = world.bob.wallet.terminate(TOGETHER).await?;
    ensure!(code == 0, "{}", world.bob.wallet.stderr()?);
    let ended = began.elapsed();
    let ready = world.bob.wallet.restart().await?;
    world.usable().await?;
    figure(&format!(
        "ended after {ended:?}, ready after {ready:?}, its channel usable after {:?}",
        began.elapsed()
    ));
    ensure!(began.elapsed() < TOGETHER / 3, "its channel comes back at once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_pay_each_other_in_every_way_and_their_books_agree() -> Result<()> {
    let mut world = Lightning::start().await?;
    figure(&format!("a channel after {:?}", world.took));
    let (mut alice, mut bob) = (Side::new(&world.alice).await?, Side::new(&world.bob).await?);
    let began_with = [alice.has_msat, bob.has_msat];
    invoices_both_ways(&mut alice, &mut bob).await?;
    bob.has_msat += held_money(&mut alice, &bob).await?;
    let gift = Msat::new(77_077);
    keysend(&alice, &world.bob, gift).await?;
    alice.gave(&mut bob, gift);
    keysend(&bob, &world.alice, gift).await?;
    bob.gave(&mut alice, gift);
    let price = Msat::new(12_345);
    offer(&world.alice, &world.bob, price).await?;
    alice.gave(&mut bob, price);
    alice.gave(&mut bob, price);
    many(&mut alice, &mut bob).await?;
    comes_back(&mut world).await?;
    let there = Msat::new(4_004);
    alice.pays(&bob, there).await?;
    alice.gave(&mut bob, there);
    ones_own(&mut alice, &mut bob).await?;

    tokio::try_join!(alice.has_it(), bob.has_it())?;
    ensure!(alice.has_msat + bob.has_msat == began_with.iter().sum::<u64>(), "nothing is lost between them");
    for (operator, side) in [(&world.alice, &alice), (&world.bob, &bob)] {
        // Money that the ledger has is in LDK's channel when both sides have signed for it, a moment later.
        operator.settled().await?;
        let (has, accounts) = (operator.has_msat().await?, operator.accounts_msat().await?);
        ensure!((has, accounts) == (side.has_msat, side.has_msat), "LDK {has}, ledger {accounts}");
    }
    close(&world).await?;
    let [one, other] = world.stop().await?;
    figure(&format!("alice {one:?}\nbob {other:?}"));
    ensure!(one.corrections == 0 && other.corrections == 0, "{one:?} {other:?}");
    ensure!((one.sent.0, one.sent.1) == other.received && (other.sent.0, other.sent.1) == one.received);
    Ok(())
}

async fn close(world: &Lightning) -> Result<()> {
    let channels = world.alice.ask(&["channels"]).await?;
    let channel = channels.pointer("/channels/0/channel").and_then(|id| id.as_str()).context("a channel")?;
    let waiting = world.chain.waiting().await?;
    world.alice.ask(&["close", channel]).await?;
    world.waits(waiting).await?;
    world.mine(CONFIRMATIONS).await?;
    for operator in [&world.alice, &world.bob] {
        operator.settled().await?;
        ensure!(operator.figure("spendable_msat").await? == 0, "the channel is gone");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_through_somebody_costs_a_fee_that_the_payers_books_have() -> Result<()> {
    let mut world = Lightning::start().await?;
    let relay = world.relay.relay()?;
    let mut carol = Operator::start(&world.world, "carol", &world.chain, &relay).await?;
    let hub = Hub::start(&world.world.path().join("hub"), &world.chain)?;
    world.chain.fund(&world.alice.address().await?, Sat(2 * CAPACITY.0)).await?;
    world.chain.fund(&carol.address().await?, Sat(100_000)).await?;
    world.chain.fund(&hub.address()?, Sat(2 * CAPACITY.0)).await?;
    world.mine(1).await?;
    carol.ask(&["sync"]).await?;
    hub.sync()?;
    world.alice.open(&hub.peer, CAPACITY, Sat(0)).await?;
    hub.open(&carol.peer, CAPACITY)?;
    world.waits(1).await?;
    world.mine(CONFIRMATIONS).await?;
    carol.ask(&["sync"]).await?;
    hub.sync()?;
    world.alice.usable_channels(2).await?;
    carol.usable_channels(1).await?;
    tokio::try_join!(world.alice.settled(), carol.settled())?;

    let (mut payer, payee) = (Side::new(&world.alice).await?, Side::new(&carol).await?);
    // Less than a channel's reserve, of which its node says that there is nothing to send.
    let amount = Msat::new(10_001_003);
    // Until the hub has said what its channel costs, an invoice names no way.
    let (paid, invoice) = eventually(TOGETHER, || async {
        let invoice = payee.customer.invoice(amount).await?;
        match payer.customer.pay(invoice.clone()).await? {
            Outcome::Settled { fee: Some(fee), .. } => Ok((fee, invoice)),
            other => anyhow::bail!("{other:?}"),
        }
    })
    .await?;
    figure(&format!("fee {paid}"));
    ensure!(paid > Msat::ZERO, "the way is not free");
    payer.has_msat -= amount.get() + paid.get();
    payer.has_it().await?;
    let again = payer.customer.pay(invoice).await?;
    settled(&again, paid)?;
    payee.customer.balance_becomes(TOGETHER, payee.has_msat + amount.get()).await?;
    world.alice.settled().await?;
    let (has, accounts) = (world.alice.has_msat().await?, world.alice.accounts_msat().await?);
    ensure!((has, accounts) == (payer.has_msat, payer.has_msat), "LDK {has}, ledger {accounts}");
    let books = world.alice.stop(&world.chain).await?;
    ensure!((books.sent, books.corrections) == ((1, amount.get(), paid.get()), 0), "{books:?}");
    let books = carol.stop(&world.chain).await?;
    ensure!((books.received, books.corrections) == ((1, amount.get()), 0), "{books:?}");
    hub.stop()
}
