//! A wallet behind a relay that loses every third event, in both directions: each payment is made, once.

use anyhow::{Context as _, Result, ensure};
use oa_tests::proxy::Proxy;
use oa_tests::wallet::{Customer, Purse, text};
use oa_tests::world::{Program, World};
use oa_wallet::nwc::client::Outcome;
use oa_wallet::nwc::message::PayOrder;
use serde_json::json;
use tokio::task::JoinSet;

/// Payments.
const PAYMENTS: u64 = 30;
/// Of them, at once.
const AT_ONCE: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_loses_every_third_event_loses_no_payment() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let relay = home.launch(Program::Oa, ["relay", "--memory", "--listen", &home.listen()]).start().await?;
    let proxy = Proxy::start(&home.relay_url()).await?;
    let purse = Purse::beside(world, home, relay, |_| proxy.url().to_owned(), &[]).await?;
    let shop = purse.customer("shop", &["--account", "shop"]).await?;
    let kid = purse.customer("kid", &["--account", "kid"]).await?;
    purse.oa(&["transfer", "operator", "kid", "10000"]).await?.ok()?;
    let mut orders = Vec::new();
    for n in 1..=PAYMENTS {
        // The last ones are ordered over the bad relay too.
        if n + 5 == PAYMENTS {
            proxy.lose_every(3);
        }
        let asked = shop.ask("make_invoice", json!({ "amount": n * 1000 })).await?;
        orders.push(PayOrder { invoice: text(&asked, "invoice")?, amount: None, metadata: None });
    }
    let mut paying = JoinSet::new();
    let mut receipts = Vec::new();
    for order in orders {
        let client = kid.client.clone();
        paying.spawn(async move { client.pay_invoice(order).await });
        if paying.len() >= AT_ONCE {
            receipts.push(paying.join_next().await.context("a payment")???);
        }
    }
    while let Some(outcome) = paying.join_next().await {
        receipts.push(outcome??);
    }
    ensure!(receipts.len() == usize::try_from(PAYMENTS)?, "{receipts:?}");
    ensure!(receipts.iter().all(|outcome| matches!(outcome, Outcome::Settled { .. })), "{receipts:?}");
    ensure!(proxy.lost() >= PAYMENTS, "only {} events were lost", proxy.lost());
    let paid = 1000 * PAYMENTS * (PAYMENTS + 1) / 2;
    ensure!((kid.balance().await?, shop.balance().await?) == (10_000_000 - paid, paid), "once each");
    listed(&kid).await
}

/// The list has each payment once, page by page.
async fn listed(kid: &Customer) -> Result<()> {
    let mut hashes = std::collections::BTreeSet::new();
    for offset in [0, 20, 40] {
        let page = kid.ask("list_transactions", json!({ "type": "outgoing", "offset": offset })).await?;
        for one in page.get("transactions").and_then(serde_json::Value::as_array).context("a list")? {
            ensure!(hashes.insert(text(one, "payment_hash")?), "{one} is there twice");
        }
    }
    ensure!(hashes.len() == usize::try_from(PAYMENTS)?, "{} payments are listed", hashes.len());
    Ok(())
}
