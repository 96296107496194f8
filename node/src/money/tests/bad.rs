//! What cannot be paid, and what the refusal says.

use oa_nips::files::Code;
use oa_wallet::msat::Msat;

use super::rig::{Fate, Rig};
use crate::agent::AgentId;
use crate::money::{Caps, InvoiceAsked, holder};

/// From BOLT 11: 2,500 micro-bitcoin on mainnet, expired long ago.
const COFFEE: &str = "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh";

const SAT: fn(u32) -> Msat = Msat::from_sat;

async fn rig() -> Rig {
    let mut rig = Rig::new(SAT(10_000)).await;
    rig.give(0, SAT(1000)).await;
    rig
}

async fn refused(rig: &mut Rig, invoice: &str, code: Code, words: &str) {
    let before = (rig.standing(0), rig.verified().await.postings);
    let error = rig.pay(0, invoice, Caps::default()).await.unwrap_err();
    assert_eq!(error.code, code, "{invoice}: {error}");
    assert!(error.reason.contains(words), "{words:?} is wanted: {error}");
    assert_eq!((rig.standing(0), rig.verified().await.postings), before, "nothing was posted");
}

#[tokio::test]
async fn an_invoice_that_cannot_be_paid_says_why() {
    let mut rig = rig().await;
    rig.money.known().network = Some("regtest".to_owned());
    for bad in ["lnbc", "hello", "lnbcrt1", &"x".repeat(10_000)] {
        refused(&mut rig, bad, Code::InvalidInput, "not a bolt11 invoice").await;
    }
    refused(&mut rig, COFFEE, Code::InvalidInput, "for mainnet, and the node's wallet is on regtest").await;
    rig.money.known().network = Some("mainnet".to_owned());
    refused(&mut rig, COFFEE, Code::InvalidInput, "expired").await;
    rig.money.known().network = None;
    refused(&mut rig, COFFEE, Code::InvalidInput, "expired").await;

    let (open, _) = rig.bill(None).await;
    refused(&mut rig, &open, Code::InvalidInput, "amount_msat").await;
    for odd in ["0", "99999999999999999999", "18446744073709551615msat"] {
        let asked = format!("{open} {odd}");
        let error = rig.pay(0, &asked, Caps::default()).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidInput, "{odd}: {error}");
    }
    let named = rig.bill(Some(SAT(5))).await.0;
    refused(&mut rig, &format!("{named} 6"), Code::InvalidInput, "the invoice is for 5 sat").await;
    let dear = rig.bill(Some(SAT(5000))).await.0;
    refused(&mut rig, &dear, Code::BudgetExceeded, "1,000 sat, and 5,050 sat is needed").await;
}

#[tokio::test]
async fn one_millisat_can_be_paid_and_a_second_time_it_is_said_where_the_first_was() {
    let mut rig = rig().await;
    let (bill, hash) = rig.bill(Some(Msat::new(1))).await;
    let paid = rig.pay(0, &bill, Caps::default()).await.unwrap();
    assert_eq!((paid["state"].as_str(), paid["amount_msat"].as_u64()), (Some("settled"), Some(1)));
    assert_eq!(paid["payment_hash"], hash.to_string());
    let again = rig.pay(0, &bill, Caps::default()).await.unwrap_err();
    assert_eq!(again.code, Code::Exists);
    assert_eq!(again.reason, "the invoice is paid already: see /wallet/history/1.json");
    let others = rig.pay(1, &bill, Caps::default()).await.unwrap_err();
    assert!(!others.reason.contains("history"), "another's payment is nobody's business: {others}");
    assert_eq!(rig.bank.sent(&hash), 1);
}

#[tokio::test]
async fn an_invoice_of_the_same_node_never_leaves_it() {
    let mut rig = rig().await;
    let asked = InvoiceAsked::parse(b"100 tea").unwrap();
    let (key, payee) = (rig.key(), holder(AgentId(1)));
    let made = rig.money.invoice(&payee, None, &asked, key).await.unwrap();
    let made: serde_json::Value = serde_json::from_slice(&made).unwrap();
    let invoice = made["invoice"].as_str().unwrap().to_owned();
    // The wallet is not asked, so it may be away.
    rig.bank.listening.send_replace(false);
    let paid = rig.pay(0, &invoice, Caps::default()).await.unwrap();
    assert_eq!((paid["fee_msat"].as_u64(), paid["preimage"].is_null()), (Some(0), true));
    assert_eq!((rig.standing(0)[0], rig.standing(1)[0]), (900_000, 100_000));
    let again = rig.pay(0, &invoice, Caps::default()).await.unwrap_err();
    assert_eq!(again.code, Code::Exists, "{again}");
    assert_eq!(rig.money.item_of(&payee, 1).unwrap().unwrap()["state"], "paid");

    rig.bank.listening.send_replace(true);
    let key = rig.key();
    let own = rig.money.invoice(&holder(AgentId(0)), None, &asked, key).await.unwrap();
    let own: serde_json::Value = serde_json::from_slice(&own).unwrap();
    refused(&mut rig, own["invoice"].as_str().unwrap(), Code::InvalidInput, "to itself").await;
}

#[tokio::test]
async fn nothing_is_begun_while_the_wallet_is_away() {
    let mut rig = rig().await;
    rig.bank.listening.send_replace(false);
    let bill = rig.bill(Some(SAT(5))).await.0;
    refused(&mut rig, &bill, Code::Unavailable, "nothing was begun").await;
}

#[tokio::test]
async fn caps_hold_in_a_tick_and_in_a_day_whatever_the_balance_is() {
    let mut rig = rig().await;
    let caps: Caps = toml::from_str("per_tick = \"60 sat\"\nper_day = \"100 sat\"").unwrap();
    let bill = rig.bill(Some(SAT(51))).await.0;
    let error = rig.pay(0, &bill, caps).await.unwrap_err();
    assert_eq!(error.code, Code::BudgetExceeded);
    assert!(error.reason.contains("of 60 sat a tick"), "{error}");
    let bill = rig.bill(Some(SAT(50))).await.0;
    rig.pay(0, &bill, caps).await.unwrap();
    let bill = rig.bill(Some(SAT(41))).await.0;
    let error = rig.pay(0, &bill, caps).await.unwrap_err();
    assert!(error.reason.contains("50 sat, what is left of 100 sat a day"), "{error}");
    let (bill, hash) = rig.bill(Some(SAT(40))).await;
    rig.bank.set(hash, Fate::Refused);
    let failed = rig.pay(0, &bill, caps).await.unwrap_err();
    assert_eq!(failed.code, Code::Unavailable);
    assert!(failed.reason.contains("no route"), "{failed}");
    let bill = rig.bill(Some(SAT(40))).await.0;
    rig.pay(0, &bill, caps).await.unwrap();
    let (_, used) = rig.money.used(&holder(AgentId(0)), &caps).unwrap();
    assert_eq!((used.spent, used.reserved), (SAT(90), Msat::ZERO), "what failed was given back");
}

#[tokio::test]
async fn a_payment_that_costs_more_than_was_held_back_becomes_a_debt_that_pauses() {
    let mut rig = Rig::new(SAT(10_000)).await;
    rig.give(0, SAT(110)).await;
    let (bill, hash) = rig.bill(Some(SAT(100))).await;
    rig.bank.set(hash, Fate::Paid { fee: SAT(15) });
    rig.pay(0, &bill, Caps::default()).await.unwrap();
    assert_eq!(rig.standing(0), [0, 0, 5_000]);
    let next = rig.bill(Some(SAT(1))).await.0;
    refused(&mut rig, &next, Code::BudgetExceeded, "owes 5 sat").await;
    rig.give(0, SAT(100)).await;
    assert_eq!(rig.standing(0), [95_000, 0, 0]);
    rig.pay(0, &next, Caps::default()).await.unwrap();
}

#[tokio::test]
async fn of_two_who_pay_one_invoice_at_once_one_does() {
    let mut rig = rig().await;
    rig.give(1, SAT(1000)).await;
    let (bill, hash) = rig.bill(Some(SAT(10))).await;
    rig.bank.set(hash, Fate::Hangs);
    let keys = [rig.key(), rig.key(), rig.key()];
    let both =
        (rig.pay_by(0, &bill, Caps::default(), keys[0]), rig.pay_by(1, &bill, Caps::default(), keys[1]));
    let (first, second) = tokio::join!(both.0, both.1);
    let [paid, busy] = if first.is_ok() { [first, second] } else { [second, first] };
    assert_eq!(paid.unwrap()["state"], "pending");
    assert_eq!(busy.unwrap_err().code, Code::Unavailable);
    let again = rig.pay_by(0, &bill, Caps::default(), keys[2]).await.unwrap_err();
    assert!(again.reason.contains("being paid"), "{again}");
    rig.bank.set(hash, Fate::Paid { fee: SAT(1) });
    rig.quiet().await;
    assert_eq!(rig.bank.sent(&hash), 1);
    assert_eq!(rig.standing(0)[0] + rig.standing(1)[0], 1_989_000);
}

#[tokio::test]
async fn what_hangs_when_the_node_dies_stays_reserved_and_is_paid_by_the_same_request() {
    let mut rig = rig().await;
    let (bill, hash) = rig.bill(Some(SAT(10))).await;
    rig.bank.set(hash, Fate::Hangs);
    let key = rig.key();
    assert_eq!(rig.pay_by(0, &bill, Caps::default(), key).await.unwrap()["state"], "pending");
    assert_eq!(rig.standing(0), [980_000, 20_000, 0]);
    rig.crash();
    assert_eq!(rig.standing(0), [980_000, 20_000, 0], "held over the restart");
    rig.bank.set(hash, Fate::Paid { fee: SAT(2) });
    let paid = rig.pay_by(0, &bill, Caps::default(), key).await.unwrap();
    assert_eq!((paid["state"].as_str(), paid["fee_msat"].as_u64()), (Some("settled"), Some(2000)));
    assert_eq!((rig.standing(0), rig.bank.sent(&hash)), ([988_000, 0, 0], 1));
}
