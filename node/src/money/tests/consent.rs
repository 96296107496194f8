//! What may be spent without consent: in a day, by however many payments.

use oa_nips::files::Code;
use oa_wallet::budget::Consent;
use oa_wallet::msat::Msat;

use super::rig::{Fate, Rig};
use crate::agent::AgentId;
use crate::money::{Caps, PayAsked, Under, holder};

const SAT: fn(u32) -> Msat = Msat::from_sat;

async fn rig() -> (Rig, Caps) {
    let mut rig = Rig::new(SAT(20_000)).await;
    rig.give(0, SAT(10_000)).await;
    (rig, toml::from_str("approval_above = \"1000 sat\"").unwrap())
}

/// Whether somebody is asked about a payment before it is begun.
fn asks(rig: &mut Rig, caps: &Caps, bill: &str) -> bool {
    let key = rig.key();
    rig.money.asks(&holder(AgentId(0)), caps, &PayAsked::parse(bill.as_bytes()).unwrap(), key)
}

#[tokio::test]
async fn many_small_payments_need_consent_like_one_large_one() {
    let (mut rig, caps) = rig().await;
    // Each can cost 310 sat, and costs 301.
    let mut last = String::new();
    for paid in 0..50 {
        let (bill, hash) = rig.bill(Some(SAT(300))).await;
        rig.bank.set(hash, Fate::Paid { fee: SAT(1) });
        let is_asked = asks(&mut rig, &caps, &bill);
        assert_eq!(is_asked, paid >= 3, "after {paid}");
        if is_asked {
            last = bill;
            break;
        }
        rig.pay(0, &bill, caps).await.unwrap();
    }
    assert_eq!(rig.money.unasked(&holder(AgentId(0)), &caps), Some((SAT(903), SAT(97))));
    let refused = rig.pay(0, &last, caps).await.unwrap_err();
    assert_eq!(refused.code, Code::ApprovalRequired, "looked at before the others were: {refused}");
    assert!(refused.reason.contains("97 sat, what is left today"), "{refused}");

    let (key, under) = (rig.key(), Under { caps, tick: 0, consent: Consent::Given });
    rig.pay_under(0, &last, under, key).await.unwrap();
    let after = rig.money.unasked(&holder(AgentId(0)), &caps);
    assert_eq!(after, Some((SAT(903), SAT(97))), "what was consented to does not draw on it");
    let bill = rig.bill(Some(SAT(87))).await.0;
    assert!(!asks(&mut rig, &caps, &bill), "87 and 10 for fees");
    rig.pay(0, &bill, caps).await.unwrap();
}

#[tokio::test]
async fn the_reserve_for_fees_is_counted_and_what_failed_is_given_back() {
    let (mut rig, caps) = rig().await;
    let bill = rig.bill(Some(SAT(1000))).await.0;
    assert!(asks(&mut rig, &caps, &bill), "it can cost 1,010 sat");
    let (bill, hash) = rig.bill(Some(SAT(990))).await;
    rig.bank.set(hash, Fate::Refused);
    assert!(!asks(&mut rig, &caps, &bill));
    rig.pay(0, &bill, caps).await.unwrap_err();
    assert_eq!(rig.money.unasked(&holder(AgentId(0)), &caps), Some((Msat::ZERO, SAT(1000))));
}

#[tokio::test]
async fn of_two_that_were_looked_at_at_once_one_is_begun_and_asked_again_it_is_the_same() {
    let (mut rig, caps) = rig().await;
    let (bills, keys) =
        ([rig.bill(Some(SAT(600))).await, rig.bill(Some(SAT(600))).await], [rig.key(), rig.key()]);
    rig.bank.set(bills[0].1, Fate::Hangs);
    rig.bank.set(bills[1].1, Fate::Hangs);
    let (first, second) =
        tokio::join!(rig.pay_by(0, &bills[0].0, caps, keys[0]), rig.pay_by(0, &bills[1].0, caps, keys[1]));
    let made = usize::from(first.is_err());
    assert_ne!(first.is_ok(), second.is_ok());
    let refused = first.err().or(second.err()).unwrap();
    assert_eq!(refused.code, Code::ApprovalRequired, "{refused}");
    // A tick that runs again after a crash is not asked about what it has begun.
    let asked = PayAsked::parse(bills[made].0.as_bytes()).unwrap();
    assert!(!rig.money.asks(&holder(AgentId(0)), &caps, &asked, keys[made]));
    assert!(rig.money.asks(&holder(AgentId(0)), &caps, &asked, [9; 32]));
}
