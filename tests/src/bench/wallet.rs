//! Money: the ledger on disk, a wallet of play money, two wallets on Lightning, and a devnet.
//!
//! A service takes so many requests a second of one connection. Where that would be the bound, several connections
//! take turns, as the apps of one wallet do.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use oa_wallet::account::ledger_postings;
use oa_wallet::msat::Msat;
use oa_wallet::nwc::client::Outcome;
use oa_wallet::store::SqliteStore;

use super::Size;
use super::report::{Report, Row};
use super::spread::Spread;
use crate::lightning::Lightning;
use crate::wallet::Customer;
use crate::world::{DEADLINE, Home, Program, World, field};

/// Connections that take turns.
const CONNECTIONS: usize = 16;
/// What is paid each time.
const AMOUNT: Msat = Msat::from_sat(2);

/// Measures all of it.
///
/// # Errors
/// When something does not start, or a payment fails.
pub(crate) async fn measure(report: &mut Report, size: Size) -> Result<()> {
    ledger(report, size)?;
    play(report, size).await?;
    lightning(report, size).await?;
    devnet(report, size).await
}

fn per_second(count: usize, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "less than 2^52 of anything")]
    let count = count as f64;
    count / took.as_secs_f64()
}

fn ledger(report: &mut Report, size: Size) -> Result<()> {
    report.doing("ledger postings");
    for (name, per_flush) in
        [("ledger postings, durable, one by one", 1), ("ledger postings, durable, 64 a flush", 64)]
    {
        let world = World::new()?;
        let store = SqliteStore::open(&world.path().join("wallet.db"))?;
        let count = size.of(20_000, 1_000);
        let began = Instant::now();
        ledger_postings(&store, count, per_flush)?;
        report.row(Row::new(name, per_second(usize::try_from(count)?, began.elapsed()), "/s"))?;
    }
    Ok(())
}

/// Pays invoices that are there already: one at a time, then all connections at once.
async fn payments(
    report: &mut Report,
    name: &str,
    count: usize,
    payers: &[Customer],
    payees: &[Customer],
) -> Result<()> {
    let mut spread = Spread::default();
    for n in 0..count {
        let payer = payers.get(n % payers.len()).context("a payer")?;
        let payee = payees.get(n % payees.len()).context("a payee")?;
        let invoice = payee.invoice(AMOUNT).await?;
        let began = Instant::now();
        paid(&payer.pay(invoice).await?)?;
        spread.add(began.elapsed());
    }
    report.row(Row::new(format!("NWC pay, {name}"), spread.percentile_ms(50), "ms").spread(&spread))?;
    let each = count.div_ceil(payers.len());
    let mut orders = Vec::new();
    for (n, payer) in payers.iter().enumerate() {
        let payee = payees.get(n % payees.len()).context("a payee")?;
        let mut invoices = Vec::new();
        for _ in 0..each {
            invoices.push(payee.invoice(AMOUNT).await?);
        }
        orders.push((payer, invoices));
    }
    let began = Instant::now();
    try_join_all(orders.into_iter().map(|(payer, invoices)| async move {
        for invoice in invoices {
            paid(&payer.pay(invoice).await?)?;
        }
        anyhow::Ok(())
    }))
    .await?;
    let row =
        Row::new(format!("NWC payments, {name}"), per_second(each * payers.len(), began.elapsed()), "/s");
    Ok(report.row(row.note(format!("{} at once", payers.len())))?)
}

fn paid(outcome: &Outcome) -> Result<()> {
    ensure!(matches!(outcome, Outcome::Settled { .. }), "{outcome:?}");
    Ok(())
}

/// Connections to a home's wallet, of one account.
async fn connections(home: &Home, account: &str, count: usize) -> Result<Vec<Customer>> {
    let mut all = Vec::new();
    for n in 0..count {
        let name = format!("{account}-{n}");
        let file = home.dir().join(format!("{name}.nwc"));
        let out = file.to_str().context("a path")?;
        home.oa(&["wallet", "connect", &name, "--account", account, "--out", out]).await?.ok()?;
        all.push(Customer::usual(&file).await?);
    }
    Ok(all)
}

async fn play(report: &mut Report, size: Size) -> Result<()> {
    report.doing("NWC payments in the ledger");
    let world = World::new()?;
    let home = world.home("play")?;
    let mut relay =
        home.launch(Program::Oa, ["relay", "--memory", "--listen", &home.listen()]).start().await?;
    home.oa_wallet(&["init", "--fake", "--relay", &home.relay_url()]).await?.ok()?;
    let mut wallet = home.launch(Program::OaWallet, ["run"]).start().await?;
    let payers = connections(&home, "operator", CONNECTIONS).await?;
    let payees = connections(&home, "shop", CONNECTIONS).await?;
    payments(report, "ledger only", size.of(1_000, 64), &payers, &payees).await?;
    ensure!(wallet.terminate(DEADLINE).await? == 0, "the wallet ended badly");
    relay.terminate(DEADLINE).await?;
    Ok(())
}

async fn lightning(report: &mut Report, size: Size) -> Result<()> {
    report.doing("NWC payments over Lightning");
    let world = Lightning::start().await?;
    let row = Row::new("two wallets, from nothing to a channel", world.took.as_secs_f64() * 1000.0, "ms");
    report.row(row.note("chain, relay, `oa-wallet init` and `run`, coins, six blocks"))?;
    let payers = connections(&world.alice.home, "operator", CONNECTIONS).await?;
    let payees = connections(&world.bob.home, "operator", CONNECTIONS).await?;
    payments(report, "over Lightning", size.of(320, 32), &payers, &payees).await?;
    #[expect(clippy::cast_precision_loss, reason = "a memory is less than 2^52 bytes")]
    let mib = world.alice.wallet.rss_bytes()?.max(world.bob.wallet.rss_bytes()?) as f64 / 1048576.0;
    report
        .row(Row::new("memory of a wallet, resident", mib, "MiB").note("the larger of two, after these"))?;
    world.stop().await.map(drop)
}

async fn devnet(report: &mut Report, size: Size) -> Result<()> {
    report.doing("oa devnet");
    let (mut ready, mut first) = (Spread::default(), Spread::default());
    for _ in 0..size.of(5, 1) {
        let world = World::new()?;
        let began = Instant::now();
        let mut devnet = world.home("devnet")?.launch(Program::Oa, ["devnet"]).start().await?;
        ready.add(began.elapsed());
        let home = |n: usize| -> Result<Home> {
            let path = format!("/operators/{n}/home");
            let home = devnet.ready().pointer(&path).and_then(|home| home.as_str()).context(path)?;
            Home::at(home)
        };
        let (seller, buyer) = (home(0)?, home(1)?);
        let asked = seller.oa(&["wallet", "invoice", "500", "--json"]).await?;
        let asked = asked.json()?.into_iter().next().context("an invoice")?;
        let invoice = field(&asked, "invoice").context("an invoice")?;
        buyer.oa(&["wallet", "pay", invoice]).await?.ok()?;
        first.add(began.elapsed());
        ensure!(devnet.terminate(DEADLINE).await? == 0, "the devnet ended badly");
    }
    report.row(Row::new("oa devnet: to ready", ready.percentile_ms(50), "ms").spread(&ready))?;
    let row = Row::new("oa devnet: to the first payment", first.percentile_ms(50), "ms");
    Ok(report.row(row.spread(&first))?)
}
