//! What the wallet knows of an invoice before this node pays it.

use oa_nips::files::Code;
use oa_wallet::backend::Backend as _;
use oa_wallet::msat::Msat;

use super::rig::Rig;
use crate::agent::AgentId;
use crate::money::{Caps, InvoiceAsked, holder};

const SAT: fn(u32) -> Msat = Msat::from_sat;

async fn rig() -> Rig {
    let mut rig = Rig::new(SAT(10_000)).await;
    rig.give(0, SAT(1000)).await;
    rig
}

/// An invoice of another agent of the node.
async fn of_another(rig: &mut Rig) -> String {
    let (key, asked) = (rig.key(), InvoiceAsked::parse(b"100 tea").unwrap());
    let made = rig.money.invoice(&holder(AgentId(1)), None, &asked, key).await.unwrap();
    let made: serde_json::Value = serde_json::from_slice(&made).unwrap();
    made["invoice"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_another_customer_of_the_wallet_has_paid_costs_nobody_here_anything() {
    let mut rig = rig().await;
    let (bill, hash) = rig.bill(Some(SAT(100))).await;
    rig.bank.wallet.pay(&bill, None, SAT(10)).await.unwrap();
    let refused = rig.pay(0, &bill, Caps::default()).await.unwrap_err();
    assert_eq!(refused.code, Code::Exists, "{refused}");
    assert!(refused.reason.contains("paid already"), "{refused}");
    assert_eq!(
        (rig.standing(0), rig.bank.sent(&hash)),
        ([1_000_000, 0, 0], 0),
        "the reservation is released"
    );
}

#[tokio::test]
async fn an_invoice_of_the_node_that_was_paid_from_outside_is_not_paid_again_inside() {
    let mut rig = rig().await;
    let bill = of_another(&mut rig).await;
    rig.other.pay(&bill, None, SAT(1)).await.unwrap();
    let refused = rig.pay(0, &bill, Caps::default()).await.unwrap_err();
    assert_eq!(refused.code, Code::Exists, "{refused}");
    assert_eq!(rig.standing(0), [1_000_000, 0, 0]);
    assert_eq!(rig.standing(1), [100_000, 0, 0], "what came in is attributed at once");
}

#[tokio::test]
async fn a_wallet_that_does_not_say_what_it_knows_is_no_hindrance() {
    let mut rig = rig().await;
    let (inside, outside) = (of_another(&mut rig).await, rig.bill(Some(SAT(100))).await.0);
    rig.bank.mute();
    for bill in [inside, outside] {
        assert_eq!(rig.pay(0, &bill, Caps::default()).await.unwrap()["state"], "settled");
    }
}
