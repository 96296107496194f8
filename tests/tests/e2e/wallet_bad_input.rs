//! Orders that cannot be obeyed, sent to a wallet over a real relay: each is refused with the code of NIP-47 that it
//! deserves, in words that name what is wrong, and no money moves.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use oa_nips::nostr::SECP256K1;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_nips::nostr::secp256k1::SecretKey;
use oa_tests::wallet::{Branch, Customer, Purse, number, text};
use oa_tests::world::{DEADLINE, eventually};
use oa_wallet::backend::{Backend as _, InvoiceRequest, Preimage};
use oa_wallet::msat::Msat;
use oa_wallet::nwc::connection::{Renewal, Scope};
use oa_wallet::nwc::message::ErrorCode;
use oa_wallet::nwc::service::parse_budget;
use serde_json::{Value, json};

/// What an account of these tests has: 1,000 sat.
const HAS: u64 = 1_000_000;

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// An invoice that nobody of the bank made, on a network and made at a time of one's own, which holds for an hour.
fn invoice(currency: Currency, amount: Option<u64>, made: Duration, seed: u8) -> Result<String> {
    let key = SecretKey::from_slice(&[seed; 32])?;
    let builder = InvoiceBuilder::new(currency)
        .description("bad".to_owned())
        .payment_hash(sha256::Hash::hash(&[seed; 32]))
        .payment_secret(PaymentSecret([seed; 32]))
        .duration_since_epoch(made)
        .expiry_time(Duration::from_secs(3600))
        .min_final_cltv_expiry_delta(18);
    let sign = |message: &_| SECP256K1.sign_ecdsa_recoverable(message, &key);
    let built = match amount {
        Some(amount) => builder.amount_milli_satoshis(amount).build_signed(sign),
        None => builder.build_signed(sign),
    };
    Ok(built?.to_string())
}

/// A customer with [`HAS`].
async fn customer(branch: &Branch, name: &str) -> Result<Customer> {
    let operator = branch.operator().await?;
    let transfer = json!({ "id": name, "from": "operator", "to": name, "amount_msat": HAS });
    operator.ask("oa_transfer", transfer).await?;
    branch.customer(name, |_| {}).await
}

async fn billed_outside(branch: &Branch, amount: Option<u64>) -> Result<String> {
    let request = InvoiceRequest { amount: amount.map(Msat::new), description: "x".into(), expiry_s: 600 };
    Ok(branch.outside.invoice(request).await?.bolt11)
}

/// Nothing moved, and the books agree.
async fn unmoved(branch: &Branch, customer: &Customer) -> Result<()> {
    ensure!(customer.balance().await? == HAS, "money moved: {}", customer.balance().await?);
    branch.verify()?;
    Ok(())
}

#[tokio::test]
async fn invoices_that_cannot_be_paid() -> Result<()> {
    use ErrorCode::{InsufficientBalance, Other, PaymentFailed};
    let branch = Branch::start(Msat::from_sat(10_000)).await?;
    let shop = customer(&branch, "shop").await?;
    let day = Duration::from_secs(86_400);
    let (main, regtest) = (Currency::Bitcoin, Currency::Regtest);
    let expired = invoice(regtest.clone(), Some(1000), now() - day, 1)?;
    let foreign = invoice(main, Some(1000), now(), 2)?;
    let testnet = invoice(Currency::BitcoinTestnet, Some(1000), now(), 3)?;
    let nobody = invoice(regtest, Some(1000), now(), 4)?;
    let open = billed_outside(&branch, None).await?;
    let fixed = billed_outside(&branch, Some(1000)).await?;
    let dear = billed_outside(&branch, Some(HAS - 9_999)).await?;
    let mut flipped = fixed.clone();
    let last = if flipped.pop() == Some('q') { 'p' } else { 'q' };
    flipped.push(last);
    for (params, code, words) in [
        (json!({ "invoice": expired }), Other, "the invoice has expired"),
        (
            json!({ "invoice": foreign }),
            Other,
            "wrong network: this wallet is on regtest, that is for mainnet",
        ),
        (json!({ "invoice": testnet }), Other, "that is for testnet"),
        (json!({ "invoice": "" }), Other, "not a bolt11 invoice"),
        (json!({ "invoice": "lnbc1nonsense" }), Other, "not a bolt11 invoice"),
        (json!({ "invoice": flipped }), Other, "not a bolt11 invoice"),
        (json!({ "invoice": "l".repeat(20_000) }), Other, "not a bolt11 invoice"),
        (json!({}), Other, "missing field `invoice`"),
        (json!({ "invoice": 5 }), Other, "parameters of pay_invoice are not valid"),
        (json!({ "invoice": open }), Other, "leaves the amount open"),
        (json!({ "invoice": open, "amount": 0 }), Other, "0 sat cannot be paid"),
        (json!({ "invoice": open, "amount": u64::MAX }), Other, "cannot be paid"),
        (json!({ "invoice": open, "amount": -1 }), Other, "parameters of pay_invoice are not valid"),
        (json!({ "invoice": open, "amount": 1.5 }), Other, "parameters of pay_invoice are not valid"),
        (json!({ "invoice": fixed, "amount": 999 }), Other, "the invoice is for 1 sat"),
        (
            json!({ "invoice": dear }),
            InsufficientBalance,
            "this takes 990.001 sat, and up to 10 sat for fees",
        ),
        (json!({ "invoice": nobody }), PaymentFailed, "no route to the payee"),
    ] {
        shop.refused("pay_invoice", params).await?.is(code, words)?;
    }
    unmoved(&branch, &shop).await?;
    let paid = shop.ask("pay_invoice", json!({ "invoice": open, "amount": 1 })).await?;
    ensure!(
        number(&paid, "fees_paid")? == 0 && shop.balance().await? == HAS - 1,
        "one millisatoshi is money"
    );
    Ok(())
}

#[tokio::test]
async fn routes_that_fail() -> Result<()> {
    let branch = Branch::start(Msat::from_sat(10_000)).await?;
    let shop = customer(&branch, "shop").await?;
    let bill = billed_outside(&branch, Some(1000)).await?;
    branch.bank.set_fee(Msat::new(10_001));
    let refused = shop.refused("pay_invoice", json!({ "invoice": bill })).await?;
    refused.is(ErrorCode::PaymentFailed, "no route")?;
    branch.bank.set_fee(Msat::ZERO);
    branch.outside.stop().await?;
    let refused = shop.refused("pay_invoice", json!({ "invoice": bill })).await?;
    refused.is(ErrorCode::PaymentFailed, "no route")?;
    unmoved(&branch, &shop).await?;
    branch.bank.reopen(branch.outside.id()).context("it was there")?;
    shop.ask("pay_invoice", json!({ "invoice": bill })).await?;
    ensure!(shop.balance().await? == HAS - 1000, "what failed can be tried again");
    branch.verify()?;
    Ok(())
}

#[tokio::test]
async fn a_payment_that_is_sent_back_is_a_failure() -> Result<()> {
    let branch = Branch::start(Msat::from_sat(10_000)).await?;
    let shop = customer(&branch, "shop").await?;
    let preimage = Preimage([9; 32]);
    let request = InvoiceRequest { amount: Some(Msat::new(5000)), description: String::new(), expiry_s: 600 };
    let held = branch.outside.hold_invoice(preimage.hash(), request).await?;
    let paying = shop.refused("pay_invoice", json!({ "invoice": held.bolt11 }));
    let sent_back = async {
        // Set aside as soon as it is under way, with what the route may cost.
        eventually(DEADLINE, async || {
            ensure!(shop.balance().await? == HAS - 15_000, "it is not under way");
            Ok(())
        })
        .await?;
        branch.outside.cancel(preimage.hash()).await?;
        Ok(())
    };
    let (refused, done): (_, Result<()>) = tokio::join!(paying, sent_back);
    done?;
    refused?.is(ErrorCode::PaymentFailed, "the payee refused it")?;
    unmoved(&branch, &shop).await
}

#[tokio::test]
async fn invoices_paid_before_and_ones_own() -> Result<()> {
    let branch = Branch::start(Msat::from_sat(10_000)).await?;
    let (shop, spy) = (customer(&branch, "shop").await?, customer(&branch, "spy").await?);
    let outside = json!({ "invoice": billed_outside(&branch, Some(1000)).await? });
    let made = shop.ask("make_invoice", json!({ "amount": 2000 })).await?;
    let own = json!({ "invoice": made.get("invoice") });
    shop.refused("pay_invoice", own.clone()).await?.is(ErrorCode::Restricted, "this account's own")?;
    let held = json!({ "amount": 2000, "payment_hash": Preimage([8; 32]).hash().to_string() });
    let held = shop.ask("make_hold_invoice", held).await?;
    let held = json!({ "invoice": held.get("invoice") });
    spy.refused("pay_invoice", held).await?.is(ErrorCode::Restricted, "can only be paid from outside")?;
    unmoved(&branch, &shop).await?;
    let receipt = shop.ask("pay_invoice", outside.clone()).await?;
    ensure!(shop.ask("pay_invoice", outside.clone()).await? == receipt, "paid again: the receipt again");
    ensure!(shop.balance().await? == HAS - 1000, "and no money");
    let refused = spy.refused("pay_invoice", outside).await?;
    refused.is(ErrorCode::Other, "another account has paid this invoice")?;
    ensure!(!refused.message.contains(&text(&receipt, "preimage")?), "the receipt is not shown");
    spy.ask("pay_invoice", own.clone()).await?;
    shop.refused("pay_invoice", own).await?.is(ErrorCode::Restricted, "")?;
    ensure!(spy.balance().await? == HAS - 2000 && shop.balance().await? == HAS + 1000, "once");
    branch.verify()?;
    Ok(())
}

#[tokio::test]
async fn amounts_that_nobody_has() -> Result<()> {
    use ErrorCode::{InsufficientBalance, Other};
    let branch = Branch::start(Msat::from_sat(10_000)).await?;
    let shop = customer(&branch, "shop").await?;
    let operator = branch.operator().await?;
    let hash = || Preimage(rand()).hash().to_string();
    let outside = branch.outside.id().to_string();
    let supply = Msat::SUPPLY.get();
    for (amount, words) in
        [(0, "cannot ask for 0 sat"), (u64::MAX, "cannot ask for"), (supply + 1, "cannot ask for")]
    {
        shop.refused("make_invoice", json!({ "amount": amount })).await?.is(Other, words)?;
        let hold = json!({ "amount": amount, "payment_hash": hash() });
        shop.refused("make_hold_invoice", hold).await?.is(Other, words)?;
        let keysend = json!({ "amount": amount, "pubkey": outside });
        shop.refused("pay_keysend", keysend).await?.is(Other, "cannot be paid")?;
    }
    for (amount, code, words) in [
        (json!(0), Other, "nothing"),
        (json!(u64::MAX), Other, ""),
        (json!(HAS * 100), Other, "10,000"),
        (json!("5"), Other, "parameters are not valid"),
    ] {
        let transfer =
            json!({ "id": format!("odd {amount}"), "from": "operator", "to": "shop", "amount_msat": amount });
        let refused = operator.refused("oa_transfer", transfer).await?;
        ensure!(refused.code == code, "{words}: {refused:?}");
    }
    let dear = json!({ "amount": HAS, "pubkey": outside });
    shop.refused("pay_keysend", dear).await?.is(InsufficientBalance, "this takes 1,000 sat")?;
    let nobody = json!({ "amount": 1, "pubkey": "xyz" });
    shop.refused("pay_keysend", nobody).await?.is(Other, "malformed")?;
    let record =
        json!({ "amount": 1, "pubkey": outside, "tlv_records": [{ "type": 7629169, "value": "xyz" }] });
    shop.refused("pay_keysend", record).await?.is(Other, "a record's value is not hex")?;
    unmoved(&branch, &shop).await?;
    for amount in [1, supply / 2] {
        let made = shop.ask("make_invoice", json!({ "amount": amount })).await?;
        ensure!(number(&made, "amount")? == amount, "{made}");
    }
    shop.ask("pay_keysend", json!({ "amount": 1, "pubkey": outside })).await?;
    ensure!(shop.balance().await? == HAS - 1, "a millisatoshi can be sent");
    let past = json!({ "amount": 1000, "description": "x".repeat(700) });
    shop.refused("make_invoice", past).await?.is(Other, "a description of more than 639 bytes")?;
    let hashed = json!({ "amount": 1000, "description_hash": hash() });
    shop.refused("make_invoice", hashed).await?.is(ErrorCode::NotImplemented, "description_hash")?;
    Ok(())
}

fn rand() -> [u8; 32] {
    oa_nips::nostr::SecretKey::generate().to_secret_bytes()
}

#[tokio::test]
async fn what_another_connection_has_does_not_exist() -> Result<()> {
    use ErrorCode::{NotFound, Other};
    let branch = Branch::start(Msat::from_sat(10_000)).await?;
    let (shop, spy) = (customer(&branch, "shop").await?, customer(&branch, "spy").await?);
    let mut told = spy.client.notifications();
    let bill = billed_outside(&branch, Some(1000)).await?;
    let receipt = shop.ask("pay_invoice", json!({ "invoice": bill })).await?;
    let paid = shop.ask("lookup_invoice", json!({ "invoice": bill })).await?;
    let made = shop.ask("make_invoice", json!({ "amount": 2000 })).await?;
    branch.outside.pay(&text(&made, "invoice")?, None, Msat::ZERO).await?;
    let by_hash = |of: &Value| json!({ "payment_hash": of.get("payment_hash") });
    let taken = eventually(DEADLINE, async || {
        let known = shop.ask("lookup_invoice", by_hash(&made)).await?;
        text(&known, "preimage")
    })
    .await?;
    let preimage = Preimage(rand());
    let hold = json!({ "amount": 3000, "payment_hash": preimage.hash().to_string() });
    let held = shop.ask("make_hold_invoice", hold).await?;
    branch.outside.pay(&text(&held, "invoice")?, None, Msat::ZERO).await?;
    let secrets = [text(&receipt, "preimage")?, taken, preimage.reveal().to_string()];
    let mut shown = String::new();
    for of in [&paid, &made, &held] {
        let by_invoice = json!({ "invoice": of.get("invoice") });
        for query in [by_hash(of), by_invoice.clone()] {
            let refused = spy.refused("lookup_invoice", query).await?;
            refused.is(NotFound, "not found")?;
            shown += &refused.message;
        }
        let refused = spy.refused("cancel_hold_invoice", by_hash(of)).await?;
        refused.is(NotFound, "not found")?;
        shown += &spy.refused("pay_invoice", by_invoice).await?.message;
    }
    let settle = json!({ "preimage": preimage.reveal().to_string() });
    spy.refused("settle_hold_invoice", settle).await?.is(NotFound, "not found")?;
    let taken = json!({ "amount": 1, "payment_hash": made.get("payment_hash") });
    spy.refused("make_hold_invoice", taken).await?.is(Other, "take a fresh one")?;
    shown += &spy.ask("list_transactions", json!({ "unpaid": true })).await?.to_string();
    ensure!(secrets.iter().all(|secret| !shown.contains(secret)), "{shown}");
    ensure!(shown.ends_with(r#"{"transactions":[]}"#), "{shown}");
    ensure!(told.try_recv().is_err(), "nobody tells the spy");
    ensure!(spy.balance().await? == HAS, "nothing moved");
    branch.verify()?;
    Ok(())
}

/// Each scope, and the methods that it opens.
const SCOPES: [(Scope, &[&str]); 7] = [
    (Scope::Pay, &["pay_invoice", "lookup_invoice"]),
    (Scope::Read, &["get_balance"]),
    (Scope::Invoice, &["make_invoice", "lookup_invoice"]),
    (Scope::History, &["list_transactions", "lookup_invoice"]),
    (Scope::Hold, &["make_hold_invoice", "settle_hold_invoice", "cancel_hold_invoice", "lookup_invoice"]),
    (Scope::Keysend, &["pay_keysend", "lookup_invoice"]),
    (Scope::Notifications, &[]),
];

#[tokio::test]
async fn a_scope_opens_its_methods_and_no_other() -> Result<()> {
    let branch = Branch::start(Msat::from_sat(10_000)).await?;
    let hash = Preimage(rand()).hash().to_string();
    let methods = [
        ("pay_invoice", json!({ "invoice": "lnbc1" })),
        ("pay_keysend", json!({ "amount": 0, "pubkey": "02" })),
        ("make_invoice", json!({ "amount": 1 })),
        ("lookup_invoice", json!({ "payment_hash": hash })),
        ("list_transactions", json!({})),
        ("get_balance", json!({})),
        ("make_hold_invoice", json!({ "amount": 0, "payment_hash": hash })),
        ("settle_hold_invoice", json!({ "preimage": hash })),
        ("cancel_hold_invoice", json!({ "payment_hash": hash })),
        ("oa_address", json!({})),
        ("oa_transfer", json!({})),
        ("oa_new_connection", json!({})),
    ];
    for (scope, opened) in SCOPES {
        let customer = branch.customer("some", |connection| connection.scopes = [scope].into()).await?;
        for (method, params) in methods.clone() {
            let answer = customer.client.admin(method, params).await;
            let refused = format!("{:?}", answer.err());
            let is_restricted = refused.contains("Restricted");
            ensure!(is_restricted != opened.contains(&method), "{scope} {method}: {refused}");
            ensure!(!is_restricted || refused.contains(&format!("may not {method}")), "{scope}: {refused}");
        }
        customer.ask("get_info", json!({})).await?;
        customer.ask("get_budget", json!({})).await?;
        customer.leave().await;
    }
    Ok(())
}

#[tokio::test]
async fn every_budget_ends_what_it_should() -> Result<()> {
    let branch = Branch::start(Msat::from_sat(10_000)).await?;
    customer(&branch, "shop").await?;
    let now_s = now().as_secs();
    for renewal in ["daily", "weekly", "monthly", "yearly", "never"] {
        let period = match renewal {
            "daily" => "100sat/day",
            "weekly" => "100sat/week",
            "monthly" => "100sat/month",
            "yearly" => "100sat/year",
            _ => "100sat",
        };
        let budget = parse_budget(period)?;
        ensure!(budget.renewal.as_str() == renewal, "{period}");
        let shop = branch.customer("shop", |connection| connection.budget = Some(budget)).await?;
        let first = billed_outside(&branch, Some(60_000)).await?;
        shop.ask("pay_invoice", json!({ "invoice": first })).await?;
        let second = json!({ "invoice": billed_outside(&branch, Some(40_001)).await? });
        let refused = shop.refused("pay_invoice", second).await?;
        refused.is(ErrorCode::QuotaExceeded, "the budget leaves 40 sat, this takes 40.001 sat")?;
        let keysend = json!({ "amount": 40_001, "pubkey": branch.outside.id().to_string() });
        shop.refused("pay_keysend", keysend)
            .await?
            .is(ErrorCode::QuotaExceeded, "the budget leaves 40 sat")?;
        let known = shop.ask("get_budget", json!({})).await?;
        let cap = (number(&known, "total_budget")?, number(&known, "used_budget")?);
        ensure!(cap == (100_000, 60_000) && text(&known, "renewal_period")? == renewal, "{known}");
        let renews_at = known.get("renews_at").and_then(Value::as_u64);
        let is_sound = match budget.renewal {
            Renewal::Never => renews_at.is_none(),
            _ => renews_at.is_some_and(|at| at > now_s && at <= now_s + 366 * 86_400),
        };
        ensure!(is_sound, "{known}");
        let rest = billed_outside(&branch, Some(40_000)).await?;
        shop.ask("pay_invoice", json!({ "invoice": rest })).await?;
        shop.leave().await;
    }
    branch.verify()?;
    Ok(())
}

#[tokio::test]
async fn connections_that_have_ended() -> Result<()> {
    let purse = Purse::start().await?;
    let short = purse.customer("short", &["--expires", "2s"]).await?;
    let kid = purse.customer("kid", &[]).await?;
    let stranger = {
        let known = kid.uri();
        let secret = oa_nips::nostr::SecretKey::generate();
        Customer::connect(oa_wallet::nwc::uri::Uri::new(known.wallet, known.relays.clone(), secret)?).await?
    };
    stranger.refused("get_balance", json!({})).await?.is(ErrorCode::Unauthorized, "no wallet here")?;
    kid.ask("get_balance", json!({})).await?;
    purse.oa(&["revoke", "kid"]).await?.ok()?;
    for method in ["get_balance", "get_info", "pay_invoice", "make_invoice"] {
        let params = json!({ "invoice": "lnbc1", "amount": 1 });
        kid.refused(method, params).await?.is(ErrorCode::Unauthorized, "this connection was revoked")?;
    }
    eventually(DEADLINE, async || {
        let refused = short.refused("get_balance", json!({})).await?;
        refused.is(ErrorCode::Unauthorized, "this connection has expired")
    })
    .await?;
    purse.admin().await?.ask("get_balance", json!({})).await?;
    Ok(())
}

#[tokio::test]
async fn requests_that_are_none() -> Result<()> {
    use ErrorCode::{NotImplemented, Other};
    let branch = Branch::start(Msat::from_sat(10_000)).await?;
    let shop = customer(&branch, "shop").await?;
    for (method, params, code, words) in [
        ("sign_message", json!({ "message": "x" }), NotImplemented, "\"sign_message\" is not known"),
        ("", json!({}), NotImplemented, "is not known"),
        ("make_invoice", json!([1, 2]), Other, "parameters of make_invoice are not valid"),
        ("make_invoice", json!({ "amount": "5" }), Other, "parameters of make_invoice are not valid"),
        ("lookup_invoice", json!({}), Other, "a payment_hash or an invoice is needed"),
        ("lookup_invoice", json!({ "payment_hash": "xyz" }), Other, "parameters of lookup_invoice"),
        ("settle_hold_invoice", json!({ "preimage": "77" }), Other, "parameters of settle_hold_invoice"),
        ("list_transactions", json!({ "limit": -1 }), Other, "parameters of list_transactions"),
    ] {
        let refused = shop.refused(method, params).await?;
        refused.is(code, words)?;
        ensure!(!refused.message.contains("77"), "what may be a secret is not repeated: {refused:?}");
    }
    unmoved(&branch, &shop).await
}
