//! Two operators with real Lightning wallets in processes and homes of their own, on a chain of the test's.

use anyhow::{Context as _, Result, ensure};
use oa_tests::lightning::Lightning;
use oa_tests::world::field;

#[tokio::test]
async fn operators_pay_each_other_by_invoice() -> Result<()> {
    let world = Lightning::start().await?;
    println!("a channel after {:?}", world.took);
    for (payer, payee, amount) in [(&world.alice, &world.bob, "1000"), (&world.bob, &world.alice, "700")] {
        let began = std::time::Instant::now();
        let asked = payee.ask(&["invoice", amount]).await?;
        let paid = payer.ask(&["pay", field(&asked, "invoice").context("an invoice")?]).await?;
        ensure!(field(&paid, "payment_hash") == field(&asked, "payment_hash"), "{paid}");
        println!("paid after {:?}", began.elapsed());
    }
    world.stop().await
}
