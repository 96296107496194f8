//! Other people's NWC clients, as their users would write them, use our wallet: Alby's SDK in both encryptions
//! (`tests/interop/nwc.mjs`), and the `nwc` crate.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nwc::nostr::nips::nip47::{
    ListTransactionsRequest, LookupInvoiceRequest, MakeInvoiceRequest, Method, NostrWalletConnectURI,
    PayInvoiceRequest, PayKeysendRequest,
};
use nwc::{NWC, NostrWalletConnectOptions};
use oa_nips::hex::Hex;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_tests::interop::{installed, node};
use oa_tests::wallet::{Branch, Purse, first, number, text};
use oa_tests::world::{DEADLINE, field, programs};
use oa_wallet::backend::{Backend as _, InvoiceRequest};
use oa_wallet::msat::Msat;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// Scopes of a connection that may do all but steer.
const ALL: &str = "pay,read,invoice,history,hold,keysend,notifications";

/// What each step of `nwc.mjs` got.
struct Got(BTreeMap<String, Value>);

impl Got {
    fn of(&self, step: &str) -> Result<&Value> {
        self.0.get(step).with_context(|| format!("no step {step}: {:?}", self.0.keys()))
    }

    /// A step that went well.
    fn ok(&self, step: &str) -> Result<&Value> {
        let got = self.of(step)?;
        ensure!(got.get("error").is_none(), "{step}: {got}");
        Ok(got)
    }

    fn refused(&self, step: &str, code: &str) -> Result<()> {
        let got = self.of(step)?;
        ensure!(field(got, "error") == Some(code), "{step} is to be refused with {code}: {got}");
        ensure!(field(got, "message").is_some_and(|message| !message.is_empty()), "{step} says why: {got}");
        Ok(())
    }
}

/// Runs `nwc.mjs`; what it wants to be paid, `pay` pays.
async fn alby(uri: &str, plan: &Value, pay: impl AsyncFn(String) -> Result<()>) -> Result<Got> {
    let dir = installed()?;
    let mut child = node(&dir, "nwc.mjs")?
        .args([uri, &plan.to_string()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
    let mut got = BTreeMap::new();
    while let Some(line) = tokio::time::timeout(4 * DEADLINE, lines.next_line()).await?? {
        let mut said: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        let step = text(&said, "step")?;
        let what = said.get_mut("got").map(Value::take).unwrap_or_default();
        if step == "pay_me" {
            pay(what.as_str().context("an invoice")?.to_owned()).await?;
        } else {
            got.insert(step, what);
        }
    }
    let status = child.wait().await?;
    ensure!(status.success() && got.contains_key("end"), "{status}: {got:#?}");
    Ok(Got(got))
}

fn opens(preimage: &str, hash: &str) -> Result<()> {
    let preimage: Hex<32> = preimage.parse()?;
    ensure!(sha256::Hash::hash(preimage.as_bytes()).to_string() == hash, "the receipt is none");
    Ok(())
}

/// What holds whatever is behind the wallet.
fn check(got: &Got, network: &str) -> Result<()> {
    let service = got.ok("service")?;
    ensure!(service.get("encryptions") == Some(&json!(["nip44_v2", "nip04"])), "{service}");
    let info = got.ok("info")?;
    ensure!(field(info, "network") == Some(network), "{info}");
    let named = |list: &str| info.get(list).and_then(Value::as_array).map(Vec::len);
    ensure!(named("methods") == Some(10) && named("notifications") == Some(3), "{info}");
    ensure!(got.ok("balance")?.get("balance") == Some(&json!(1_000_000)), "{:?}", got.ok("balance"));
    let budget = got.ok("budget")?;
    ensure!(
        (number(budget, "total_budget")?, field(budget, "renewal_period")) == (500_000, Some("daily")),
        "{budget}"
    );
    received(got)?;
    sent(got)?;
    lists(got)?;
    got.refused("settled_too_early", "OTHER")?;
    ensure!(got.ok("cancelled")? == &json!({}), "cancelled");
    ensure!(field(got.ok("cancelled_looked_up")?, "state") == Some("failed"), "and gone");
    got.refused("missing", "NOT_FOUND")?;
    got.refused("nonsense", "OTHER")?;
    for unknown in ["sign_message", "create_connection", "multi_pay_invoice", "multi_pay_keysend"] {
        got.refused(unknown, "NOT_IMPLEMENTED")?;
    }
    Ok(())
}

fn received(got: &Got) -> Result<()> {
    let made = got.ok("made")?;
    ensure!((field(made, "type"), field(made, "state")) == (Some("incoming"), Some("pending")), "{made}");
    ensure!((number(made, "amount")?, field(made, "description")) == (5000, Some("tea")), "{made}");
    ensure!(made.pointer("/metadata/from") == Some(&json!("alby")), "{made}");
    ensure!(number(made, "expires_at")? == number(made, "created_at")? + 600, "{made}");
    ensure!(made.get("preimage").is_none(), "nobody has paid: {made}");
    for by in ["by_hash", "by_invoice"] {
        ensure!(got.ok(by)? == made, "{by}");
    }
    let known = got.ok("received_looked_up")?;
    ensure!(field(known, "state") == Some("settled") && number(known, "settled_at")? > 0, "{known}");
    opens(&text(known, "preimage")?, &text(made, "payment_hash")?)?;
    let told = got.ok("received")?.get("notification").context("a notification")?;
    ensure!((number(told, "amount")?, field(told, "state")) == (5000, Some("settled")), "{told}");
    Ok(())
}

fn sent(got: &Got) -> Result<()> {
    let (paid, known) = (got.ok("paid")?, got.ok("paid_looked_up")?);
    opens(&text(paid, "preimage")?, &text(known, "payment_hash")?)?;
    ensure!(field(got.ok("paid_again")?, "preimage") == field(paid, "preimage"), "the receipt again");
    ensure!((field(known, "type"), field(known, "state")) == (Some("outgoing"), Some("settled")), "{known}");
    ensure!(known.pointer("/metadata/comment") == Some(&json!("thanks")), "{known}");
    let told = got.ok("sent")?.get("notification").context("a notification")?;
    ensure!(field(told, "preimage") == field(paid, "preimage"), "{told}");
    Ok(())
}

fn lists(got: &Got) -> Result<()> {
    let pages: Vec<Vec<String>> = serde_json::from_value(got.ok("pages")?.clone())?;
    let sizes: Vec<_> = pages.iter().map(Vec::len).collect();
    // 25 at the end, and before them tea and two held.
    ensure!(sizes == [10, 10, 8, 0], "{sizes:?}");
    let all: std::collections::BTreeSet<_> = pages.iter().flatten().collect();
    ensure!(all.len() == 28, "no page has what another has");
    let first_made = got.ok("made")?;
    let last = pages.get(2).and_then(|page| page.last());
    ensure!(last.map(String::as_str) == field(first_made, "payment_hash"), "newest first");
    ensure!(got.ok("page_max")? == &json!(20), "{:?}", got.ok("page_max"));
    let list = |step: &str| -> Result<Vec<Value>> {
        let list = got.ok(step)?.get("transactions").context("a list")?;
        Ok(serde_json::from_value(list.clone())?)
    };
    let settled = list("settled_only")?;
    ensure!(settled.iter().all(|one| field(one, "state") == Some("settled")), "{settled:?}");
    let outgoing = list("outgoing_only")?;
    ensure!(
        !outgoing.is_empty() && outgoing.iter().all(|one| field(one, "type") == Some("outgoing")),
        "{outgoing:?}"
    );
    ensure!(list("nothing_yet")?.is_empty(), "nothing is from the future");
    Ok(())
}

/// The real process, in both encryptions, one after the other: each has a connection and an account of its own.
#[tokio::test]
async fn alby_uses_all_of_the_wallet_process() -> Result<()> {
    installed()?;
    programs()?;
    let purse = Purse::start().await?;
    let shop = purse.customer("shop", &["--account", "shop"]).await?;
    let operator = purse.admin().await?;
    for encryption in ["nip44_v2", "nip04"] {
        let account = format!("alby-{encryption}").replace('_', "-");
        let more = ["--account", &account, "--budget", "500sat/day", "--scopes", ALL];
        let uri = std::fs::read_to_string(purse.connect(&account, &more).await?)?;
        purse.oa(&["transfer", "operator", &account, "1000"]).await?.ok()?;
        let billed = shop.ask("make_invoice", json!({ "amount": 60_000, "description": "sweets" })).await?;
        let plan = json!({ "encryption": encryption, "invoice": billed.get("invoice"),
            "payee": format!("02{}", "ab".repeat(32)), "hold": false });
        let pay = async |invoice: String| -> Result<()> {
            operator.ask("pay_invoice", json!({ "invoice": invoice })).await.map(drop)
        };
        let got = alby(uri.trim(), &plan, pay).await.context(encryption)?;
        check(&got, "play money").context(encryption)?;
        got.refused("keysend", "PAYMENT_FAILED")?;
        let balance =
            first(purse.by(&purse.world.path().join(format!("{account}.nwc")), &["balance"]).await?)?;
        ensure!(number(&balance, "balance_msat")? == 1_000_000 + 5_000 - 60_000, "{balance}");
    }
    ensure!(shop.balance().await? == 120_000, "paid once each");
    Ok(())
}

/// Where somebody outside pays: held money, and payments without an invoice.
#[tokio::test]
async fn alby_holds_settles_and_pays_without_an_invoice() -> Result<()> {
    installed()?;
    let branch = Branch::start(Msat::from_sat(10_000)).await?;
    let operator = branch.operator().await?;
    for encryption in ["nip44_v2", "nip04"] {
        let account = format!("alby-{encryption}").replace('_', "-");
        let budget = oa_wallet::nwc::service::parse_budget("500sat/day")?;
        let uri = branch.connect(&account, |connection| connection.budget = Some(budget)).await?;
        let transfer = json!({ "id": account, "from": "operator", "to": account, "amount_msat": 1_000_000 });
        operator.ask("oa_transfer", transfer).await?;
        let request =
            InvoiceRequest { amount: Some(Msat::new(60_000)), description: String::new(), expiry_s: 600 };
        let billed = branch.outside.invoice(request).await?;
        let plan = json!({ "encryption": encryption, "invoice": billed.bolt11,
            "payee": branch.outside.id().to_string(), "hold": true });
        let pay = async |invoice: String| -> Result<()> {
            branch.outside.pay(&invoice, None, Msat::ZERO).await?;
            Ok(())
        };
        let got = alby(&uri.reveal(), &plan, pay).await.context(encryption)?;
        check(&got, "play money").context(encryption)?;
        ensure!(number(got.ok("keysend")?, "fees_paid")? == 0, "{:?}", got.of("keysend"));
        let accepted = got.ok("accepted")?.get("notification").context("a notification")?;
        ensure!(field(accepted, "state") == Some("accepted"), "{accepted}");
        ensure!(number(accepted, "settle_deadline")? > 0 && accepted.get("preimage").is_none(), "{accepted}");
        ensure!(
            field(got.ok("held_looked_up")?, "state") == Some("accepted"),
            "{:?}",
            got.of("held_looked_up")
        );
        ensure!(got.ok("settled")? == &json!({}), "{:?}", got.of("settled"));
        let settled = got.ok("hold_received")?.get("notification").context("a notification")?;
        ensure!(
            (number(settled, "amount")?, field(settled, "state")) == (7000, Some("settled")),
            "{settled}"
        );
        let balance = branch.customer(&account, |_| {}).await?.balance().await?;
        ensure!(balance == 1_000_000 + 5_000 - 60_000 - 1_000 + 7_000, "{balance}");
    }
    branch.verify()?;
    Ok(())
}

/// The `nwc` crate speaks NIP-04, knows neither budgets nor hold invoices, and hears the old notifications.
#[tokio::test]
async fn the_nwc_crate_pays_is_paid_and_told() -> Result<()> {
    programs()?;
    let purse = Purse::start().await?;
    let shop = purse.customer("shop", &["--account", "shop"]).await?;
    let file = purse.connect("app", &["--account", "app", "--scopes", ALL]).await?;
    purse.oa(&["transfer", "operator", "app", "1000"]).await?.ok()?;
    let uri = NostrWalletConnectURI::parse(std::fs::read_to_string(file)?.trim())?;
    let app = NWC::with_opts(uri, NostrWalletConnectOptions::default().timeout(DEADLINE));
    app.subscribe_to_notifications().await?;
    let (heard, told) = tokio::sync::mpsc::channel(64);
    let ear = app.clone();
    tokio::spawn(async move {
        let hear = |one| {
            let heard = heard.clone();
            async move { Ok(heard.send(one).await.is_err()) }
        };
        ear.handle_notifications(hear).await
    });
    let info = app.get_info().await?;
    ensure!(
        info.network.as_deref() == Some("play money") && info.methods.contains(&Method::PayKeysend),
        "{info:?}"
    );
    ensure!(app.get_balance().await? == 1_000_000, "balance");
    let billed = shop.ask("make_invoice", json!({ "amount": 60_000 })).await?;
    let pay = PayInvoiceRequest::new(text(&billed, "invoice")?);
    let paid = app.pay_invoice(pay.clone()).await?;
    opens(&paid.preimage, &text(&billed, "payment_hash")?)?;
    ensure!(app.pay_invoice(pay).await?.preimage == paid.preimage, "the receipt again");
    let order = MakeInvoiceRequest {
        amount: 7000,
        description: Some("tea".into()),
        description_hash: None,
        expiry: Some(600),
    };
    let made = app.make_invoice(order).await?;
    shop.ask("pay_invoice", json!({ "invoice": made.invoice })).await?;
    let look_up = LookupInvoiceRequest { payment_hash: None, invoice: Some(made.invoice) };
    let known = app.lookup_invoice(look_up).await?;
    ensure!(known.settled_at.is_some() && known.amount == 7000, "{known:?}");
    let listed =
        app.list_transactions(ListTransactionsRequest { unpaid: Some(true), ..Default::default() }).await?;
    ensure!(listed.len() == 2, "{listed:?}");
    let keysend = PayKeysendRequest {
        id: None,
        amount: 1000,
        pubkey: format!("02{}", "ab".repeat(32)),
        preimage: None,
        tlv_records: Vec::new(),
    };
    let refused = app.pay_keysend(keysend).await;
    ensure!(refused.as_ref().is_err_and(|error| error.to_string().contains("no route")), "{refused:?}");
    let mut told = tokio::time::timeout(DEADLINE, two(told)).await??;
    told.sort();
    ensure!(told == ["PaymentReceived 7000", "PaymentSent 60000"], "{told:?}");
    ensure!(app.get_balance().await? == 1_000_000 - 60_000 + 7_000, "balance");
    tokio::time::timeout(Duration::from_secs(5), app.shutdown()).await?;
    Ok(())
}

/// The first two notifications.
async fn two(
    mut told: tokio::sync::mpsc::Receiver<nwc::nostr::nips::nip47::Notification>,
) -> Result<Vec<String>> {
    let mut all = Vec::new();
    while all.len() < 2 {
        let Some(one) = told.recv().await else { bail!("no more than {all:?}") };
        let topic = one.notification_type;
        all.push(format!("{topic:?} {}", one.to_pay_notification()?.amount));
    }
    Ok(all)
}
