//! Another connection is configured while payments are under way.

use oa_nips::files::Code;
use oa_nips::hex::Hash;
use oa_wallet::msat::Msat;
use serde_json::json;

use super::rig::{Fate, Rig};
use crate::agent::AgentId;
use crate::money::{Caps, SettleAsked, holder};

const SAT: fn(u32) -> Msat = Msat::from_sat;

/// A payment of 100 sat that hangs, and comes to nothing in the eyes of another wallet.
async fn stranded(rig: &mut Rig) -> (Hash, String, [u8; 32]) {
    let ((bill, hash), key) = (rig.bill(Some(SAT(100))).await, rig.key());
    rig.bank.set(hash, Fate::Hangs);
    assert_eq!(rig.pay_by(0, &bill, Caps::default(), key).await.unwrap()["state"], "pending");
    rig.bank.change();
    rig.bank.set(hash, Fate::Refused);
    rig.crash();
    (hash, bill, key)
}

fn asked(hash: &Hash, outcome: &str, fee_msat: Option<u64>) -> Result<SettleAsked, crate::namespace::Error> {
    let asked = json!({ "payment": hash, "outcome": outcome, "fee_msat": fee_msat });
    SettleAsked::parse(asked.to_string().as_bytes())
}

async fn rig() -> Rig {
    let mut rig = Rig::new(SAT(10_000)).await;
    rig.give(0, SAT(1000)).await;
    rig
}

#[tokio::test]
async fn a_payment_of_another_connection_stays_reserved_and_is_said_to() {
    let mut rig = rig().await;
    let (hash, bill, key) = stranded(&mut rig).await;
    let again = rig.pay_by(0, &bill, Caps::default(), key).await.unwrap();
    assert_eq!(again["state"], "pending", "the wallet that is there now is not believed");
    assert_eq!(rig.standing(0), [890_000, 110_000, 0]);
    let item = rig.money.item_of(&holder(AgentId(0)), 1).unwrap().unwrap();
    assert!(item["trouble"].as_str().unwrap().contains("another connection"), "{item}");
    let listed = rig.money.stranded().unwrap();
    assert_eq!((listed.len(), &listed[0]["payment"]), (1, &json!(hash)));
}

#[tokio::test]
async fn an_operator_says_how_it_ended() {
    let mut rig = rig().await;
    let (failed, ..) = stranded(&mut rig).await;
    let said = asked(&failed, "failed", None).unwrap();
    for _ in 0..2 {
        rig.money.settle(&said).await.unwrap();
        assert_eq!(rig.standing(0), [1_000_000, 0, 0]);
    }
    let otherwise = asked(&failed, "paid", None).unwrap();
    assert_eq!(rig.money.settle(&otherwise).await.unwrap_err().code, Code::Exists);
    let (paid, ..) = stranded(&mut rig).await;
    rig.money.settle(&asked(&paid, "paid", Some(3_000)).unwrap()).await.unwrap();
    assert_eq!(rig.standing(0), [897_000, 0, 0]);
    assert!(rig.money.stranded().unwrap().is_empty());
    rig.verified().await;
}

#[tokio::test]
async fn what_the_wallet_can_be_asked_about_is_not_ended_by_hand() {
    let mut rig = rig().await;
    let (bill, hash) = rig.bill(Some(SAT(100))).await;
    rig.bank.set(hash, Fate::Hangs);
    rig.pay(0, &bill, Caps::default()).await.unwrap();
    let refused = rig.money.settle(&asked(&hash, "failed", None).unwrap()).await.unwrap_err();
    assert_eq!((refused.code, rig.standing(0)[1]), (Code::Unavailable, 110_000), "{refused}");
    assert!(asked(&hash, "failed", Some(1)).is_err(), "what failed has no fee");
    assert!(asked(&hash, "lost", None).is_err());
}
