//! What comes in: confirmed by look-up, whoever says so, and counted once.

use oa_wallet::account::Holder;
use oa_wallet::backend::Backend as _;
use oa_wallet::msat::Msat;
use oa_wallet::nwc::message::Notification;
use oa_wallet::store::Draft;
use serde_json::{Value, json};

use super::rig::Rig;
use crate::agent::AgentId;
use crate::agent::envelope::{Envelope, Heard, Kind};
use crate::money::item::{self, Place};
use crate::money::opening::Compared;
use crate::money::{Caps, InvoiceAsked, PayAsked, Payer, holder};

const SAT: fn(u32) -> Msat = Msat::from_sat;

async fn ask(rig: &mut Rig, agent: u32, body: &str) -> Value {
    let (key, asked) = (rig.key(), InvoiceAsked::parse(body.as_bytes()).unwrap());
    let made = rig.money.invoice(&holder(AgentId(agent)), None, &asked, key).await.unwrap();
    serde_json::from_slice(&made).unwrap()
}

#[tokio::test]
async fn a_claim_of_payment_changes_nothing_until_the_wallet_confirms_it() {
    let mut rig = Rig::new(SAT(1000)).await;
    let made = ask(&mut rig, 0, "100 tea").await;
    let hash = made["payment_hash"].as_str().unwrap().parse().unwrap();
    let claim = json!({ "notification_type": "payment_received", "notification": {
        "type": "incoming", "state": "settled", "payment_hash": hash, "amount": 100_000, "preimage": "00".repeat(32) } });
    let claim: Notification = serde_json::from_value(claim).unwrap();
    rig.money.heard(&claim);
    rig.money.look(hash).await.unwrap();
    assert_eq!(rig.standing(0), [0, 0, 0], "nobody has paid");
    rig.other.pay(made["invoice"].as_str().unwrap(), None, SAT(1)).await.unwrap();
    for _ in 0..3 {
        rig.money.look(hash).await.unwrap();
        rig.money.heard(&claim);
    }
    assert_eq!(rig.standing(0), [100_000, 0, 0], "once");
    let item = rig.money.item_of(&holder(AgentId(0)), 1).unwrap().unwrap();
    assert_eq!((item["state"].as_str(), item["received_msat"].as_u64()), (Some("paid"), Some(100_000)));
    assert_eq!(rig.money.compare().await.unwrap(), Compared::Equal);
}

#[tokio::test]
async fn money_that_an_event_asked_for_is_told_of_as_that_event() {
    let mut rig = Rig::new(SAT(1000)).await;
    rig.give(0, SAT(300)).await;
    let author = oa_nips::nostr::Keys::generate().public_key();
    let heard = Some(Heard { author, subscriptions: vec!["a".to_owned()], auto_hop: 1 });
    let woken = Envelope { heard: heard.clone(), ..Envelope::from_node(Kind::Event, "event", 0) };
    let (key, asked) = (rig.key(), InvoiceAsked::parse(b"5").unwrap());
    let me = holder(AgentId(0));
    rig.money.invoice(&me, Some(&woken), &asked, key).await.unwrap();
    let ((bill, _), key) = (rig.bill(Some(SAT(10))).await, rig.key());
    let payer = Payer { holder: me.clone(), under: None, origin: None, heard: heard.clone() };
    rig.money.pay(&payer, &PayAsked::parse(bill.as_bytes()).unwrap(), key).await.unwrap();
    let rows = rig.money.inner.book.rows();
    for n in rig.money.history(&me).unwrap().into_iter().take(2) {
        let item = item::get(&mut Draft::new(&rows), &Place { holder: me.clone(), n }).unwrap();
        assert_eq!(item.caused(Envelope::from_node(Kind::Payment, "told", 0)).heard, heard, "{item:?}");
    }
}

#[tokio::test]
async fn the_same_call_makes_one_invoice() {
    let mut rig = Rig::new(SAT(1000)).await;
    let (key, asked) = (rig.key(), InvoiceAsked::parse(b"5").unwrap());
    let first = rig.money.invoice(&Holder::operator(), None, &asked, key).await.unwrap();
    rig.crash();
    assert_eq!(rig.money.invoice(&Holder::operator(), None, &asked, key).await.unwrap(), first);
    assert_eq!(rig.money.history(&Holder::operator()).unwrap().len(), 2, "the opening, and one invoice");
}

#[tokio::test]
async fn what_the_wallet_has_besides_is_the_operators_and_what_it_lacks_too() {
    let mut rig = Rig::new(SAT(1000)).await;
    rig.give(0, SAT(300)).await;
    let operator = |rig: &Rig| rig.money.standing(&Holder::operator()).unwrap().available;
    assert_eq!(operator(&rig), SAT(700));
    // Somebody pays an invoice that no account of this node made.
    let order = oa_wallet::backend::InvoiceRequest {
        amount: Some(SAT(50)),
        description: String::new(),
        expiry_s: 60,
    };
    let made = rig.bank.wallet.invoice(order).await.unwrap();
    rig.other.pay(&made.bolt11, None, SAT(1)).await.unwrap();
    assert_eq!(rig.money.compare().await.unwrap(), Compared::Adjusted);
    assert_eq!((operator(&rig), rig.standing(0)[0]), (SAT(750), 300_000));
    // And the operator spends by another way: more than is the operator's.
    let bill = rig.bill(Some(SAT(800))).await.0;
    rig.bank.wallet.pay(&bill, None, SAT(1)).await.unwrap();
    assert_eq!(rig.money.compare().await.unwrap(), Compared::Adjusted);
    assert_eq!((operator(&rig), rig.standing(0)[0]), (Msat::ZERO, 300_000), "agents keep what is theirs");
    assert_eq!(rig.verified().await.balances.book().suspense.get(), -50_000);
    let order = oa_wallet::backend::InvoiceRequest {
        amount: Some(SAT(60)),
        description: String::new(),
        expiry_s: 60,
    };
    let made = rig.bank.wallet.invoice(order).await.unwrap();
    rig.other.pay(&made.bolt11, None, SAT(1)).await.unwrap();
    assert_eq!(rig.money.compare().await.unwrap(), Compared::Adjusted);
    assert_eq!((operator(&rig), rig.verified().await.balances.book().suspense.get()), (SAT(10), 0));
    assert_eq!(rig.money.compare().await.unwrap(), Compared::Equal);
}

#[tokio::test]
async fn income_that_came_unseen_is_attributed_before_balances_are_compared() {
    let mut rig = Rig::new(SAT(1000)).await;
    let made = ask(&mut rig, 0, "100").await;
    rig.other.pay(made["invoice"].as_str().unwrap(), None, SAT(1)).await.unwrap();
    // The first comparison finds the income, and leaves the rest to the next.
    assert_eq!(rig.money.compare().await.unwrap(), Compared::Busy);
    assert_eq!(rig.money.compare().await.unwrap(), Compared::Equal);
    assert_eq!(rig.standing(0), [100_000, 0, 0]);
    assert!(rig.bank.looks() > 0);
    let bill = rig.bill(Some(SAT(10))).await.0;
    rig.pay(0, &bill, Caps::default()).await.unwrap();
    assert_eq!(rig.standing(0)[0], 90_000);
}
