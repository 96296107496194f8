//! Agents with money: a real node over a real wallet process of play money, paid, paying, restarted, capped.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use oa_nips::hex::Hex;
use oa_nips::mail::Protocol::Nip17;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_nips::nostr::{Keys, PublicKey, ToBech32 as _};
use oa_tests::client::Client;
use oa_tests::wallet::{Branch, Purse, first, number, text};
use oa_tests::world::{DEADLINE, Done, Home, Process, Program, World, eventually, field, is};
use oa_wallet::backend::{Backend as _, InvoiceRequest, Preimage};
use oa_wallet::msat::Msat;
use serde_json::Value;

/// A wallet, and a node that is its customer.
struct Bank {
    purse: Purse,
    home: Home,
    node: Process,
    operator: String,
}

/// A node's configuration: on the wallet's relay, with two agents.
fn config(operator: &str, relay: &str, more: &str) -> String {
    format!(
        "operators = [{operator:?}]\nrelays = [{relay:?}]\nwallet = {{ nwc_file = \"node.nwc\", sats_per_usd = 1000 }}\n\
         [relay]\nenabled = false\n[[agents]]\nname = \"alice\"\nprogram = \"concierge\"\n{more}\n\
         [[agents]]\nname = \"bob\"\nprogram = \"concierge\"\n"
    )
}

impl Bank {
    async fn start(more: &str) -> Result<Self> {
        let purse = Purse::start().await?;
        let home = purse.world.home("n")?;
        let made = first(home.oa_node(&["init", "--json"]).await?)?;
        let operator = text(&made, "operator")?;
        home.write("config.toml", &config(&operator, &purse.home.relay_url(), more))?;
        let file = home.dir().join("node.nwc");
        let file = file.to_str().context("a path")?;
        purse.oa(&["connect", "node", "--account", "operator", "--out", file]).await?.ok()?;
        let node = home.run().start().await?;
        let bank = Self { purse, home, node, operator };
        eventually(DEADLINE, || async {
            ensure!(bank.balance("operator").await? == 1_000_000_000, "the opening");
            Ok(())
        })
        .await?;
        Ok(bank)
    }

    /// Where an account's files are.
    fn tree(account: &str) -> String {
        if account == "operator" { "/wallet".to_owned() } else { format!("/agents/{account}/wallet") }
    }

    async fn read(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.home.oa(&["cat", path]).await?.ok()?)?)
    }

    /// What an account can spend, in msat.
    async fn balance(&self, account: &str) -> Result<u64> {
        number(&self.read(&format!("{}/balance", Self::tree(account))).await?, "balance_msat")
    }

    async fn call(&self, account: &str, file: &str, body: &str) -> Result<Done> {
        self.home.oa(&["call", &format!("{}/{file}", Self::tree(account)), body]).await
    }

    async fn invoice(&self, account: &str, body: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.call(account, "invoice", body).await?.ok()?)?)
    }

    async fn pay(&self, account: &str, invoice: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.call(account, "pay", invoice).await?.ok()?)?)
    }

    async fn refused(&self, account: &str, invoice: &str, words: &str) -> Result<()> {
        let done = self.call(account, "pay", invoice).await?;
        let path = format!("{}/pay", Self::tree(account));
        ensure!(done.code != Some(0) && done.stderr.contains(words), "{words:?} is wanted: {done:?}");
        ensure!(done.stderr.contains(&path), "{path} is to be named: {done:?}");
        Ok(())
    }

    async fn transfer(&self, from: &str, to: &str, sat: &str) -> Result<Done> {
        self.home.oa(&["wallet", "transfer", from, to, sat]).await
    }

    /// The hashes of the payments that wait for a connection which is not there.
    async fn stranded(&self) -> Result<BTreeSet<String>> {
        let shown = self.read("/wallet/balance").await?;
        let listed = shown.get("stranded").and_then(Value::as_array).context("a list")?;
        listed.iter().map(|one| text(one, "payment")).collect()
    }

    /// How often an agent was woken by money.
    async fn woken(&self, agent: &str) -> Result<usize> {
        let ticks = self.home.oa(&["cat", &format!("/agents/{agent}/logs/ticks")]).await?.ok()?;
        Ok(ticks.lines().filter(|line| line.contains("\"payment\"")).count())
    }

    /// Everything the accounts have comes to what the wallet has.
    async fn adds_up(&self) -> Result<()> {
        let shown = self.read("/wallet/balance").await?;
        let wallet = number(shown.get("wallet").context("a wallet")?, "balance_msat")?;
        let listed = self.home.oa(&["cat", "/wallet/accounts"]).await?.ok()?;
        let mut sum = 0;
        for line in listed.lines() {
            let account: Value = serde_json::from_str(line)?;
            sum += number(&account, "balance_msat")? + number(&account, "reserved_msat")?;
            ensure!(number(&account, "debt_msat")? == 0, "{account}");
        }
        ensure!(sum == wallet, "the accounts have {sum}, the wallet {wallet}: {listed}");
        Ok(())
    }
}

fn check_receipt(receipt: &Value, asked: &Value) -> Result<()> {
    ensure!(field(receipt, "state") == Some("settled"), "{receipt}");
    ensure!(field(receipt, "payment_hash") == field(asked, "payment_hash"), "{receipt}");
    let preimage: Hex<32> = text(receipt, "preimage")?.parse()?;
    let hash = sha256::Hash::hash(preimage.as_bytes()).to_string();
    ensure!(Some(hash.as_str()) == field(asked, "payment_hash"), "the preimage proves it");
    Ok(())
}

#[tokio::test]
async fn accounts_pay_one_another_in_the_ledger_and_others_by_the_wallet() -> Result<()> {
    let mut bank = Bank::start("").await?;
    bank.transfer("operator", "alice", "1000").await?.ok()?;
    ensure!(bank.balance("alice").await? == 1_000_000 && bank.balance("bob").await? == 0);
    let poor = bank.transfer("bob", "alice", "1").await?;
    ensure!(poor.code != Some(0) && poor.stderr.contains("the account has 0 sat"), "{poor:?}");
    let nobody = bank.transfer("operator", "carol", "1").await?;
    ensure!(nobody.code == Some(3) && nobody.stderr.contains("carol"), "{nobody:?}");

    // Two agents and the operator, in a circle.
    let asked = bank.invoice("bob", "100 for tea").await?;
    let paid = bank.pay("alice", &text(&asked, "invoice")?).await?;
    ensure!((number(&paid, "fee_msat")?, paid.get("preimage")) == (0, Some(&Value::Null)), "inside: {paid}");
    let asked = bank.invoice("operator", r#"{"amount_msat":50500,"description":"rent"}"#).await?;
    bank.pay("bob", &text(&asked, "invoice")?).await?;
    let asked = bank.invoice("alice", "7").await?;
    bank.pay("operator", &text(&asked, "invoice")?).await?;
    ensure!(bank.balance("alice").await? == 907_000 && bank.balance("bob").await? == 49_500);
    bank.refused("operator", &text(&asked, "invoice")?, "paid already").await?;
    eventually(DEADLINE, || async {
        ensure!(bank.woken("bob").await? == 1, "bob was paid once");
        Ok(())
    })
    .await?;

    // Somebody else's wallet, both ways, and the node restarted between.
    let shop = bank.purse.connect("shop", &["--account", "shop"]).await?;
    bank.purse.oa(&["transfer", "operator", "shop", "500"]).await?.ok()?;
    let asked = first(bank.purse.by(&shop, &["invoice", "100"]).await?)?;
    let receipt = bank.pay("alice", &text(&asked, "invoice")?).await?;
    check_receipt(&receipt, &asked)?;
    ensure!(number(&first(bank.purse.by(&shop, &["balance"]).await?)?, "balance_msat")? == 600_000);
    bank.refused("bob", &text(&asked, "invoice")?, "paid already").await?;
    let asked = bank.invoice("alice", "20 a song").await?;
    bank.node.kill().await?;
    bank.node.restart().await?;
    let woken = bank.woken("alice").await?;
    first(bank.purse.by(&shop, &["pay", &text(&asked, "invoice")?]).await?)?;
    eventually(DEADLINE, || async {
        ensure!(bank.balance("alice").await? == 827_000, "income: {}", bank.balance("alice").await?);
        ensure!(bank.woken("alice").await? == woken + 1, "the income woke it");
        Ok(())
    })
    .await?;
    let item = bank.read(&format!("/agents/alice{}", text(&asked, "path")?)).await?;
    ensure!(field(&item, "state") == Some("paid") && field(&item, "description") == Some("a song"), "{item}");
    // The operator has spent 500 sat by another way, and is what the difference is taken from.
    eventually(DEADLINE, || bank.adds_up()).await?;
    bank.node.terminate(DEADLINE).await?;
    let secret = std::fs::read_to_string(bank.home.dir().join("node.nwc"))?;
    let secret = secret.rsplit_once("secret=").context("a secret")?.1.trim().to_owned();
    ensure!(
        !bank.node.stderr()?.contains(&secret) && !bank.node.stdout()?.contains(&secret),
        "no secret is told"
    );
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_paid_is_refused_with_what_and_where() -> Result<()> {
    let bank = Bank::start("").await?;
    bank.transfer("operator", "alice", "100").await?.ok()?;
    for bad in ["lnbc1", "not an invoice", "{\"invoice\":\"\"}"] {
        bank.refused("alice", bad, "invoice").await?;
    }
    // From BOLT 11, of mainnet, and long expired.
    let coffee = "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh";
    eventually(DEADLINE, || {
        bank.refused("alice", coffee, "for mainnet, and the node's wallet is on regtest")
    })
    .await?;
    let shop = bank.purse.connect("shop", &["--account", "shop"]).await?;
    let dear = first(bank.purse.by(&shop, &["invoice", "500"]).await?)?;
    bank.refused("alice", &text(&dear, "invoice")?, "100 sat, and 510 sat is needed").await?;
    for odd in ["0", "18446744073709551615msat"] {
        let done = bank.call("alice", "invoice", odd).await?;
        ensure!(
            done.code != Some(0) && done.stderr.contains("/agents/alice/wallet/invoice"),
            "{odd}: {done:?}"
        );
    }
    let least = bank.invoice("bob", "1msat").await?;
    bank.pay("alice", &text(&least, "invoice")?).await?;
    let own = bank.invoice("alice", "5").await?;
    bank.refused("alice", &text(&own, "invoice")?, "from an account to itself").await?;
    ensure!(bank.balance("alice").await? == 99_999, "nothing else was taken");
    bank.adds_up().await
}

#[tokio::test]
async fn a_connection_that_others_can_read_is_refused_with_the_command_that_mends_it() -> Result<()> {
    let mut bank = Bank::start("").await?;
    bank.node.terminate(DEADLINE).await?;
    let file: PathBuf = bank.home.dir().join("node.nwc");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
    let done = bank.home.oa_node(&["run"]).await?;
    ensure!(
        done.code == Some(1) && done.stderr.contains(&format!("chmod 600 {}", file.display())),
        "{done:?}"
    );
    std::fs::remove_file(&file)?;
    let done = bank.home.oa_node(&["run"]).await?;
    ensure!(done.code == Some(3) && done.stderr.contains("oa wallet connect"), "{done:?}");
    let relay = bank.purse.home.relay_url();
    let wrong = config(&bank.operator, &relay, "").replace("sats_per_usd", "dollars");
    bank.home.write("config.toml", &wrong)?;
    let done = bank.home.oa_node(&["run"]).await?;
    ensure!(done.code == Some(2) && done.stderr.contains("dollars"), "{done:?}");
    Ok(())
}

#[tokio::test]
async fn the_owner_has_it_by_direct_message_and_consents_to_what_is_dear() -> Result<()> {
    let (owner, stranger) = (Keys::generate(), Keys::generate());
    let more = format!(
        "owner = {:?}\n[agents.dm]\npolicy = \"open\"\n[[agents.mounts]]\npath = \"/wallet\"\n\
         access = {{ budgeted = {{ per_day = \"300 sat\", approval_above = \"$0.17\" }} }}\n",
        owner.public_key().to_bech32()?
    );
    let bank = Bank::start(&more).await?;
    bank.transfer("operator", "alice", "1000").await?.ok()?;
    let (alice, relay) = (bank.node.agent("alice")?, bank.purse.home.relay_url());
    let mut owner = Client::connect(&relay, owner, DEADLINE).await?;
    let mut stranger = Client::connect(&relay, stranger, DEADLINE).await?;
    let shop = bank.purse.connect("shop", &["--account", "shop"]).await?;
    bank.purse.oa(&["transfer", "operator", "shop", "500"]).await?.ok()?;

    ensure!(said(&mut owner, alice, "balance").await? == "I have 1,000 sat of play money.");
    ensure!(said(&mut stranger, alice, "balance").await?.starts_with("Only my owner"));
    let cheap = text(&first(bank.purse.by(&shop, &["invoice", "90"]).await?)?, "invoice")?;
    ensure!(said(&mut stranger, alice, &format!("pay {cheap}")).await?.starts_with("Only my owner"));
    let answer = said(&mut owner, alice, &format!("pay {cheap}")).await?;
    ensure!(answer == "Paid 90 sat.", "{answer}");

    let asked = said(&mut owner, alice, "invoice 5 a song").await?;
    let invoice = asked.lines().nth(1).context("an invoice")?.to_owned();
    first(bank.purse.by(&shop, &["pay", &invoice]).await?)?;
    let told = owner.next(DEADLINE).await?;
    ensure!(told.text() == Some("Your invoice was paid: 5 sat (a song)."), "{:?}", told.text());

    // Seventeen cents are 170 sat here, 90 of them are spent, and this can cost 160: it needs consent, by the code alone.
    let dear = text(&first(bank.purse.by(&shop, &["invoice", "150"]).await?)?, "invoice")?;
    owner.dm(alice, &format!("pay {dear}"), Nip17, DEADLINE).await?;
    let (mut refused, mut wish) = (false, None);
    while !refused || wish.is_none() {
        let mail = owner.next(DEADLINE).await?;
        let words = mail.text().context("a text")?.to_owned();
        if mail.author == alice {
            refused = words.contains("more than I may spend by myself");
            ensure!(refused, "{words}");
        } else {
            ensure!(words.contains("It costs: 150 sat"), "{words}");
            wish = words.lines().find_map(|line| line.trim().strip_prefix("yes ").map(str::to_owned));
        }
    }
    let node = bank.node.node()?;
    owner.dm(node, &format!("yes {}", wish.context("a code")?), Nip17, DEADLINE).await?;
    eventually(DEADLINE, || async {
        ensure!(bank.balance("alice").await? == 765_000, "{}", bank.balance("alice").await?);
        Ok(())
    })
    .await?;
    // The day's cap holds whatever is consented to: 90 and 150 of 300 sat are gone.
    let third = text(&first(bank.purse.by(&shop, &["invoice", "60"]).await?)?, "invoice")?;
    let answer = loop {
        let answer = said(&mut owner, alice, &format!("pay {third}")).await;
        match answer {
            Ok(answer) => break answer,
            Err(error) => ensure!(error.to_string().contains("another"), "{error}"),
        }
    };
    ensure!(answer.contains("60 sat, what is left of 300 sat a day"), "{answer}");
    let used = bank.read("/agents/alice/wallet/budget").await?;
    ensure!(number(&used, "spent_today_msat")? == 240_000 && number(&used, "reserved_msat")? == 0, "{used}");
    let rate = bank.read("/agents/alice/wallet/fx").await?;
    ensure!(number(&rate, "msat_per_usd")? == 1_000_000, "{rate}");
    eventually(DEADLINE, || bank.adds_up()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_on_the_way_stays_reserved_over_a_restart_and_its_end_is_told() -> Result<()> {
    let branch = Branch::start(Msat::from_sat(1_000_000)).await?;
    branch.bank.set_fee(Msat::from_sat(1));
    let (world, owner) = (World::new()?, Keys::generate());
    let home = world.home("n")?;
    let operator = text(&first(home.oa_node(&["init", "--json"]).await?)?, "operator")?;
    let more = format!("owner = {:?}\n[agents.dm]\npolicy = \"open\"\n", owner.public_key().to_bech32()?);
    home.write("config.toml", &config(&operator, &branch.relay.url(), &more))?;
    home.write("node.nwc", &branch.connect("operator", |_| ()).await?.reveal())?;
    std::fs::set_permissions(home.dir().join("node.nwc"), std::fs::Permissions::from_mode(0o600))?;
    let mut node = home.run().start().await?;
    let home = &home;
    let standing = || async move {
        let shown = home.oa(&["cat", "/agents/alice/wallet/balance"]).await?.ok()?;
        let shown: Value = serde_json::from_str(&shown)?;
        Ok::<_, anyhow::Error>((number(&shown, "balance_msat")?, number(&shown, "reserved_msat")?))
    };
    eventually(DEADLINE, || async {
        home.oa(&["wallet", "transfer", "operator", "alice", "1000"]).await?.ok().map(drop)
    })
    .await?;

    // Somebody outside holds the payment back.
    let preimage = Preimage([7; 32]);
    let request =
        InvoiceRequest { amount: Some(Msat::from_sat(100)), description: String::new(), expiry_s: 3600 };
    let held = branch.outside.hold_invoice(preimage.hash(), request).await?.bolt11;
    let alice = node.agent("alice")?;
    let mut owner = Client::connect(&branch.relay.url(), owner, DEADLINE).await?;
    let answer = said(&mut owner, alice, &format!("pay {held}")).await?;
    ensure!(answer.starts_with("The payment of 100 sat takes longer"), "{answer}");
    ensure!(standing().await? == (890_000, 110_000), "{:?}", standing().await?);
    node.kill().await?;
    node.restart().await?;
    ensure!(standing().await? == (890_000, 110_000), "held over the restart: {:?}", standing().await?);
    let other = home.oa(&["call", "/agents/bob/wallet/pay", &held]).await?;
    ensure!(other.code != Some(0) && other.stderr.contains("a payment of this invoice is"), "{other:?}");
    branch.outside.settle(preimage).await?;
    let told = owner.next(2 * DEADLINE).await?;
    ensure!(told.text() == Some("Paid 100 sat, and 1 sat in fees."), "{:?}", told.text());
    ensure!(
        standing().await? == (899_000, 0),
        "what was left of the reserve came back: {:?}",
        standing().await?
    );

    // And pays alice, whom the wallet need not tell: it is looked for.
    let asked = home.oa(&["call", "/agents/alice/wallet/invoice", "5"]).await?.ok()?;
    let invoice = text(&serde_json::from_str(&asked)?, "invoice")?;
    branch.outside.pay(&invoice, None, Msat::from_sat(10)).await?;
    eventually(DEADLINE, || async {
        ensure!(standing().await? == (904_000, 0), "{:?}", standing().await?);
        Ok(())
    })
    .await?;
    branch.verify()?;
    Ok(())
}

#[tokio::test]
async fn a_payment_that_another_wallet_was_asked_for_is_ended_by_the_operator() -> Result<()> {
    let mut bank = Bank::start("").await?;
    bank.transfer("operator", "alice", "1000").await?.ok()?;
    let shop = bank.purse.connect("shop", &["--account", "shop"]).await?;
    let failed = first(bank.purse.by(&shop, &["invoice", "100"]).await?)?;
    let paid = first(bank.purse.by(&shop, &["invoice", "200"]).await?)?;
    let settle = |asked: &Value, outcome: &str| {
        let hash = field(asked, "payment_hash").unwrap_or_default();
        format!(r#"{{"payment":"{hash}","outcome":{outcome}}}"#)
    };
    let (made, not_made) = (settle(&paid, r#""paid","fee_msat":2000"#), settle(&failed, r#""failed""#));

    // The wallet dies with two requests on its relay: nobody knows what becomes of them.
    bank.purse.wallet.kill().await?;
    let (one, other) = (text(&failed, "invoice")?, text(&paid, "invoice")?);
    let (one, other) = tokio::join!(bank.pay("alice", &one), bank.pay("alice", &other));
    for receipt in [one?, other?] {
        ensure!(field(&receipt, "state") == Some("pending"), "{receipt}");
    }
    let early = bank.call("operator", "settle", &not_made).await?;
    ensure!(early.code != Some(0) && early.stderr.contains("still asked"), "{early:?}");
    ensure!(bank.stranded().await?.is_empty(), "its connection is there");

    // Another wallet takes its place.
    let branch = Purse::start().await?;
    bank.node.terminate(DEADLINE).await?;
    let file = bank.home.dir().join("other.nwc");
    let file = file.to_str().context("a path")?;
    branch.oa(&["connect", "node", "--account", "operator", "--out", file]).await?.ok()?;
    let relay = bank.purse.home.relay_url();
    bank.home.write("config.toml", &config(&bank.operator, &relay, "").replace("node.nwc", "other.nwc"))?;
    bank.node.restart().await?;
    let hashes = BTreeSet::from([text(&failed, "payment_hash")?, text(&paid, "payment_hash")?]);
    ensure!(bank.stranded().await? == hashes, "{:?}", bank.stranded().await?);
    ensure!(bank.balance("alice").await? == 680_000, "held back: {}", bank.balance("alice").await?);

    let unknown = not_made.replace(&text(&failed, "payment_hash")?, &"07".repeat(32));
    for (body, words) in [(unknown.as_str(), "no payment"), ("{}", "payment"), ("failed", "expected")] {
        let done = bank.call("operator", "settle", body).await?;
        ensure!(done.code != Some(0) && done.stderr.contains(words), "{body}: {done:?}");
    }
    for _ in 0..2 {
        let item: Value = serde_json::from_str(&bank.call("operator", "settle", &not_made).await?.ok()?)?;
        ensure!(field(&item, "state") == Some("failed"), "{item}");
        ensure!(bank.balance("alice").await? == 790_000, "once: {}", bank.balance("alice").await?);
    }
    let otherwise = bank.call("operator", "settle", &settle(&failed, r#""paid""#)).await?;
    ensure!(otherwise.code != Some(0) && otherwise.stderr.contains("failed already"), "{otherwise:?}");
    bank.node.kill().await?;
    bank.node.restart().await?;
    let item: Value = serde_json::from_str(&bank.call("operator", "settle", &made).await?.ok()?)?;
    ensure!(field(&item, "state") == Some("settled") && number(&item, "fee_msat")? == 2000, "{item}");
    ensure!(bank.balance("alice").await? == 798_000 && bank.stranded().await?.is_empty());
    eventually(DEADLINE, || async {
        let woken = bank.woken("alice").await?;
        ensure!(woken == 3, "by the transfer and both ends, once each: {woken}");
        // What the other wallet has is shared out anew, and nothing of alice's is touched by that.
        bank.adds_up().await
    })
    .await?;
    ensure!(bank.balance("alice").await? == 798_000);
    Ok(())
}

/// What is answered.
async fn said(client: &mut Client, to: PublicKey, words: &str) -> Result<String> {
    let mail = client.ask(to, words, Nip17, DEADLINE).await?;
    ensure!(mail.author == to, "answered by another");
    Ok(mail.text().context("a text")?.to_owned())
}

#[tokio::test]
async fn oa_up_says_how_to_give_the_agents_a_wallet_and_takes_it() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let mut up = home.up().start().await?;
    let none = home.oa(&["cat", "/wallet/balance"]).await?;
    ensure!(none.code == Some(3), "{none:?}");
    let none = home.oa(&["wallet", "transfer", "operator", "concierge", "1"]).await?;
    ensure!(none.code == Some(3) && none.stderr.contains("--wallet-file"), "{none:?}");
    let _wallet = home.launch(Program::OaWallet, ["run", "--fake"]).start().await?;
    up.terminate(DEADLINE).await?;
    up.restart().await?;
    let line = eventually(DEADLINE, || async {
        let told = up.stderr()?;
        let line = told.lines().find(|line| line.contains("oa wallet connect")).map(str::to_owned);
        line.context(told)
    })
    .await?;
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    home.oa(&words).await?.ok()?;
    up.terminate(DEADLINE).await?;
    up.restart().await?;
    eventually(DEADLINE, || async {
        let balance = home.oa(&["cat", "/wallet/balance"]).await?.ok()?;
        ensure!(number(&serde_json::from_str(&balance)?, "balance_msat")? == 1_000_000_000, "{balance}");
        Ok(())
    })
    .await?;
    home.oa(&["wallet", "transfer", "operator", "concierge", "1000"]).await?.ok()?;
    let balance: Value =
        serde_json::from_str(&home.oa(&["cat", "/agents/concierge/wallet/balance"]).await?.ok()?)?;
    ensure!(number(&balance, "balance_msat")? == 1_000_000, "{balance}");
    ensure!(up.events().iter().any(|event| is(event, "ready")), "it runs");
    Ok(())
}
