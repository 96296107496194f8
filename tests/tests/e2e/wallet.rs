//! The wallet as a process: made, run, paid from, capped, revoked and stopped, with play money over a real relay.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oa_nips::hex::Hex;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_tests::wallet::{Purse, first, number as msat};
use oa_tests::world::{DEADLINE, Done, Program, World, field};
use serde_json::Value;

fn failed(done: &Done, code: i32, sentence: &str) -> Result<()> {
    ensure!(done.code == Some(code), "{code} is wanted: {done:?}");
    ensure!(done.stdout.is_empty() && done.stderr.contains(sentence), "{sentence:?} is wanted: {done:?}");
    Ok(())
}

#[tokio::test]
async fn money_goes_to_accounts_and_apps_that_there_are() -> Result<()> {
    let purse = Purse::start().await?;
    let app = purse.connect("app", &[]).await?;
    let moved = first(purse.oa(&["transfer", "operator", "app", "10"]).await?)?;
    ensure!(field(&moved, "to").is_some_and(|to| to.starts_with("nwc:")), "{moved}");
    ensure!(msat(&first(purse.by(&app, &["balance"]).await?)?, "balance_msat")? == 10_000);
    failed(&purse.oa(&["transfer", "operator", "apb", "10"]).await?, 3, "apb")?;
    let accounts = purse.oa(&["accounts"]).await?.json()?;
    ensure!(accounts.len() == 2, "{accounts:?}");

    // Nobody is connected where the connection could not be kept.
    let file = app.to_str().context("a path")?;
    failed(&purse.oa(&["connect", "again", "--out", file]).await?, 1, "exists already")?;
    let connected = purse.oa(&["connections"]).await?.json()?;
    ensure!(!connected.iter().any(|one| field(one, "name") == Some("again")), "{connected:?}");
    Ok(())
}

#[tokio::test]
async fn connections_pay_each_other_under_their_caps() -> Result<()> {
    let purse = Purse::start().await?;
    ensure!(purse.wallet.ready().get("play_money") == Some(&Value::Bool(true)), "{}", purse.wallet.ready());
    let balance = first(purse.oa(&["balance"]).await?)?;
    ensure!(msat(&balance, "balance_msat")? == 1_000_000_000, "{balance}");
    ensure!(purse.home.oa(&["wallet", "balance"]).await?.ok()?.contains("play money"), "it says so");

    let shop = purse.connect("shop", &["--account", "shop"]).await?;
    let kid =
        purse.connect("kid", &["--account", "kid", "--budget", "100sat/day", "--scopes", "pay,read"]).await?;
    purse.oa(&["transfer", "operator", "kid", "1000"]).await?.ok()?;
    let asked = first(purse.by(&shop, &["invoice", "60", "--description", "sweets"]).await?)?;
    let bolt11 = field(&asked, "invoice").context("an invoice")?;
    let paid = first(purse.by(&kid, &["pay", bolt11]).await?)?;
    ensure!(field(&paid, "payment_hash") == field(&asked, "payment_hash"), "{paid}");
    ensure!((msat(&paid, "amount_msat")?, msat(&paid, "fee_msat")?) == (60_000, 0), "{paid}");
    let preimage: Hex<32> = field(&paid, "preimage").context("a preimage")?.parse()?;
    let hash = sha256::Hash::hash(preimage.as_bytes()).to_string();
    ensure!(Some(hash.as_str()) == field(&paid, "payment_hash"), "the receipt is one");
    let mut again = first(purse.by(&kid, &["pay", bolt11]).await?)?;
    let before = again.as_object_mut().and_then(|receipt| receipt.remove("paid_before"));
    ensure!(
        (before, again) == (Some(Value::Bool(true)), paid),
        "paid again: the receipt again, and that it is one"
    );
    ensure!(msat(&first(purse.by(&kid, &["balance"]).await?)?, "balance_msat")? == 940_000, "one payment");
    ensure!(msat(&first(purse.by(&shop, &["balance"]).await?)?, "balance_msat")? == 60_000, "received");

    let more = first(purse.by(&shop, &["invoice", "60"]).await?)?;
    let more = field(&more, "invoice").context("an invoice")?;
    failed(&purse.by(&kid, &["pay", more]).await?, 4, "QUOTA_EXCEEDED")?;
    // Its cap is raised, to be just enough, and then put down: what was spent counts on.
    purse.oa(&["cap", "kid", "--budget", "120sat/day", "--expires", "30d"]).await?.ok()?;
    first(purse.by(&kid, &["pay", more]).await?)?;
    let third = first(purse.by(&shop, &["invoice", "1"]).await?)?;
    let third = field(&third, "invoice").context("an invoice")?;
    failed(&purse.by(&kid, &["pay", third]).await?, 4, "QUOTA_EXCEEDED")?;
    purse.oa(&["cap", "kid", "--scopes", "read"]).await?.ok()?;
    failed(&purse.by(&kid, &["pay", third]).await?, 4, "RESTRICTED")?;
    purse.oa(&["cap", "kid", "--scopes", "pay,read", "--budget", "none"]).await?.ok()?;
    first(purse.by(&kid, &["pay", third]).await?)?;
    let listed = purse.home.oa(&["wallet", "connections"]).await?.ok()?;
    ensure!(listed.lines().any(|line| line.contains("kid") && line.contains("  until 20")), "{listed}");
    failed(&purse.oa(&["cap", "nobody", "--budget", "1sat/day"]).await?, 3, "nobody")?;
    failed(&purse.oa(&["cap", "kid"]).await?, 2, "--budget")?;
    failed(&purse.by(&kid, &["invoice", "1"]).await?, 4, "RESTRICTED")?;
    failed(&purse.by(&kid, &["address"]).await?, 4, "RESTRICTED")?;

    let history = purse.by(&shop, &["history"]).await?.json()?;
    let oldest = history.last().and_then(|one| field(one, "description"));
    ensure!(history.len() == 3 && oldest == Some("sweets"), "{history:?}");
    purse.oa(&["revoke", "kid"]).await?.ok()?;
    failed(&purse.by(&kid, &["balance"]).await?, 4, "UNAUTHORIZED")?;
    failed(&purse.oa(&["revoke", "kid"]).await?, 3, "kid")?;
    failed(&purse.oa(&["cap", "kid", "--budget", "1sat/day"]).await?, 3, "kid")?;
    let listed = purse.oa(&["connections"]).await?.json()?;
    let revoked = |one: &&Value| one.get("revoked_at").is_some_and(Value::is_u64);
    ensure!(listed.len() == 3 && listed.iter().filter(revoked).count() == 1, "{listed:?}");
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_it_well_and_the_next_start_has_everything() -> Result<()> {
    let mut purse = Purse::start().await?;
    let shop = purse.connect("shop", &["--account", "shop"]).await?;
    let asked = first(purse.by(&shop, &["invoice", "500"]).await?)?;
    first(purse.oa(&["pay", field(&asked, "invoice").context("an invoice")?]).await?)?;
    ensure!(purse.wallet.terminate(DEADLINE).await? == 0, "{}", purse.wallet.stderr()?);
    purse.wallet.restart().await?;
    ensure!(msat(&first(purse.by(&shop, &["balance"]).await?)?, "balance_msat")? == 500_000, "kept");
    ensure!(msat(&first(purse.oa(&["balance"]).await?)?, "balance_msat")? == 999_500_000, "kept");
    purse.wallet.kill().await?;
    purse.wallet.restart().await?;
    ensure!(msat(&first(purse.by(&shop, &["balance"]).await?)?, "balance_msat")? == 500_000, "kept");
    let stderr = purse.wallet.stderr()?;
    let secret = std::fs::read_to_string(&shop)?;
    let secret = secret.rsplit_once("secret=").context("a secret")?.1.trim();
    ensure!(!stderr.contains(secret) && !purse.wallet.stdout()?.contains(secret), "no secret is told");
    Ok(())
}

#[tokio::test]
async fn secrets_that_others_can_read_are_refused_with_the_command_that_mends_it() -> Result<()> {
    let mut purse = Purse::start().await?;
    let folder = purse.home.dir().join("wallet");
    for file in ["wallet.key", "admin.nwc", "wallet.db"] {
        ensure!(
            std::fs::metadata(folder.join(file))?.mode() & 0o777 == 0o600,
            "{file} is for its owner only"
        );
    }
    let second = purse.home.oa_wallet(&["run"]).await?;
    failed(&second, 1, "in use by process")?;
    ensure!(purse.wallet.terminate(DEADLINE).await? == 0, "{}", purse.wallet.stderr()?);
    for file in ["wallet.key", "admin.nwc"] {
        let path = folder.join(file);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
        let refused = purse.home.oa_wallet(&["run"]).await?;
        failed(&refused, 1, &format!("chmod 600 {}", path.display()))?;
        if file == "admin.nwc" {
            failed(&purse.oa(&["balance"]).await?, 1, "chmod 600")?;
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    }
    purse.wallet.restart().await?;
    Ok(())
}

#[tokio::test]
async fn a_wallet_is_made_once_and_real_ones_keep_play_money_out() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    failed(&home.oa_wallet(&["init"]).await?, 2, "regtest")?;
    ensure!(!home.dir().join("wallet/seed").exists(), "nothing is left behind");
    let esplora = ["init", "--network", "regtest", "--esplora", "http://127.0.0.1:1"];
    let done = home.oa_wallet(&esplora).await?;
    let seed = std::fs::read_to_string(home.dir().join("wallet/seed"))?;
    ensure!(done.code == Some(0) && seed.split_whitespace().count() == 24, "{done:?}");
    let second = seed.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    ensure!(!done.stdout.contains(&second) && !done.stderr.contains(&second), "shown on a terminal only");
    ensure!(done.stdout.contains(" wallet address\n"), "how to get the first coins: {}", done.stdout);
    failed(&home.oa_wallet(&esplora).await?, 1, "there is a wallet already")?;
    failed(&home.oa_wallet(&["run", "--fake"]).await?, 2, "no play money goes into it")?;
    let path = home.dir().join("wallet/seed");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640))?;
    failed(&home.oa_wallet(&["run"]).await?, 1, &format!("chmod 600 {}", path.display()))?;
    failed(&world.home("none")?.oa_wallet(&["run"]).await?, 3, "oa-wallet init")?;
    failed(&home.oa(&["wallet", "balance"]).await?, 3, "oa-wallet run")?;
    Ok(())
}

#[tokio::test]
async fn it_waits_for_its_relay() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    home.oa_wallet(&["init", "--fake", "--relay", &home.relay_url()]).await?.ok()?;
    let mut wallet = home.launch(Program::OaWallet, ["run"]).spawn()?;
    let relay = home.launch(Program::Oa, ["relay", "--memory", "--listen", &home.listen()]).start().await?;
    wallet.wait_for(DEADLINE, |event| field(event, "event") == Some("ready")).await?;
    ensure!(
        first(home.oa(&["wallet", "balance", "--json"]).await?)?.get("balance_msat").is_some(),
        "reached"
    );
    drop(relay);
    ensure!(wallet.terminate(Duration::from_secs(20)).await? == 0, "{}", wallet.stderr()?);
    Ok(())
}
