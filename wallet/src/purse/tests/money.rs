//! What moves, whose it is, and who sees it.

use std::time::Duration;

use super::rig::{Rig, holder, id, payment};
use crate::account::Holder;
use crate::backend::{
    Backend, Error as BackendError, InvoiceRequest, Keysend as Send, PaymentHash, Preimage, Sat,
    State as Status,
};
use crate::msat::Msat;
use crate::nwc::message::{Direction, Error, HoldOrder, ListQuery, State, Topic};
use crate::nwc::purse::{Payment, Purse, PurseError, Steer};

#[tokio::test]
async fn what_the_wallet_had_is_the_operators() {
    let rig = Rig::new().await;
    assert_eq!(rig.balance("operator").await, 80_000_000);
    rig.adds_up().await;
}

#[tokio::test]
async fn an_invoice_is_paid_once_and_its_receipt_is_its_payers() {
    let rig = Rig::new().await;
    let bill = rig.bill(1_000).await;
    let paid = rig.pay("alice", &bill, 1).await.unwrap();
    assert!(paid.proof().is_some() && paid.description.as_deref() == Some("tea"), "{paid:?}");
    assert_eq!(rig.balance("alice").await, 10_000_000 - 1_001_500);
    assert_eq!(rig.pay("alice", &bill, 1).await.unwrap(), paid, "the same request, the same result");
    assert!(matches!(rig.pay("alice", &bill, 2).await, Err(PurseError::Refused(_))));
    let Err(PurseError::Refused(why)) = rig.pay("bob", &bill, 3).await else { panic!() };
    assert_eq!(why, "another account has paid this invoice, or is paying it");
    assert_eq!(rig.purse.look_up(&holder("bob"), paid.payment_hash).await.unwrap(), None);
    assert_eq!(rig.purse.look_up(&holder("alice"), paid.payment_hash).await.unwrap(), Some(paid));
    assert_eq!(rig.balance("bob").await, 10_000_000);
    rig.adds_up().await;
}

#[tokio::test]
async fn nothing_is_paid_that_the_account_does_not_cover_with_fees() {
    let rig = Rig::new().await;
    let bill = rig.bill(9_991).await;
    assert_eq!(rig.pay("alice", &bill, 1).await, Err(PurseError::InsufficientBalance));
    assert_eq!(rig.pay("nobody", &rig.bill(1).await, 2).await, Err(PurseError::InsufficientBalance));
    rig.pay("alice", &rig.bill(9_900).await, 3).await.unwrap();
    rig.adds_up().await;
}

#[tokio::test]
async fn a_failed_payment_costs_nothing_and_may_be_tried_again() {
    let rig = Rig::new().await;
    let bill = rig.bill(1_000).await;
    let stingy = Payment { max_fee: Msat::new(1_000), ..payment(&bill, 1) };
    let refused = rig.purse.pay(&holder("alice"), stingy.clone()).await;
    assert_eq!(refused, Err(PurseError::Failed("no route to the payee".to_owned())));
    assert_eq!(rig.balance("alice").await, 10_000_000);
    assert_eq!(rig.purse.pay(&holder("alice"), stingy.clone()).await, refused, "the same result");
    rig.pay("bob", &bill, 2).await.unwrap();
    let again = rig.purse.pay(&holder("alice"), stingy).await;
    assert!(matches!(again, Err(PurseError::Failed(_))), "nothing of the other's is shown: {again:?}");
    let list = ListQuery { unpaid: Some(true), limit: Some(20), ..ListQuery::default() };
    let listed = rig.purse.list(&holder("alice"), list).await.unwrap();
    assert!(matches!(listed.as_slice(), [one] if one.state == State::Failed && one.preimage.is_none()));
    rig.adds_up().await;
}

#[tokio::test]
async fn accounts_of_one_wallet_pay_each_other_in_the_ledger() {
    let mut rig = Rig::new().await;
    let invoice = rig.invoice("bob", 2_000, 1).await.unwrap();
    assert_eq!(invoice.preimage, None);
    let bolt11 = invoice.invoice.clone().unwrap();
    let paid = rig.pay("alice", &bolt11, 2).await.unwrap();
    assert!(paid.proof().is_some() && paid.fees_paid == Some(Msat::ZERO), "{paid:?}");
    assert_eq!((rig.balance("alice").await, rig.balance("bob").await), (8_000_000, 12_000_000));
    let (told, notice) = rig.notices.recv().await.unwrap();
    assert_eq!((told, notice.topic), (holder("bob"), Topic::PaymentReceived));
    let seen = rig.purse.look_up(&holder("bob"), paid.payment_hash).await.unwrap().unwrap();
    assert_eq!((seen.direction, seen.state), (Direction::Incoming, State::Settled));
    // From outside it cannot be paid any more.
    let late = rig.theirs.pay(&bolt11, None, Msat::from_sat(10)).await.unwrap();
    let ended = rig.theirs.wait(late.id, Duration::from_secs(20)).await.unwrap();
    assert!(matches!(ended.state, Status::Failed { .. }), "{ended:?}");
    let own = rig.invoice("alice", 1, 3).await.unwrap().invoice.unwrap();
    assert_eq!(
        rig.pay("alice", &own, 4).await,
        Err(PurseError::Inside("the invoice is this account's own".to_owned()))
    );
    rig.adds_up().await;
}

#[tokio::test]
async fn income_is_whose_invoice_it_was_and_else_the_operators() {
    let mut rig = Rig::new().await;
    let invoice = rig.invoice("bob", 3_000, 1).await.unwrap();
    assert_eq!(rig.invoice("bob", 3_000, 1).await.unwrap(), invoice, "the same request, the same invoice");
    let bolt11 = invoice.invoice.clone().unwrap();
    rig.theirs.pay(&bolt11, None, Msat::from_sat(10)).await.unwrap();
    let (told, notice) = rig.notices.recv().await.unwrap();
    assert_eq!((told, notice.transaction.amount), (holder("bob"), Msat::from_sat(3_000)));
    assert!(notice.transaction.proof().is_some());
    assert_eq!(rig.balance("bob").await, 13_000_000);
    // Also to the account itself, which sees its invoice settled and must not take that for its payment.
    for (name, request) in [("alice", 2), ("bob", 3)] {
        let refused = rig.pay(name, &bolt11, request).await;
        assert!(matches!(refused, Err(PurseError::Inside(_))), "it is paid: {refused:?}");
        let told = Error::from(refused.unwrap_err());
        assert!(told.code.is_refusal(), "what certainly was not begun is said in such a way: {told}");
    }
    assert_eq!(rig.balance("bob").await, 13_000_000);
    let gift = Send {
        payee: rig.ours.id(),
        amount: Msat::from_sat(7),
        preimage: Preimage([9; 32]),
        fee_max: Msat::from_sat(10),
        records: Vec::new(),
    };
    rig.theirs.keysend(gift).await.unwrap();
    assert_eq!(rig.notices.recv().await.unwrap().0, Holder::operator());
    assert_eq!(rig.balance("operator").await, 80_007_000);
    rig.adds_up().await;
}

#[tokio::test]
async fn held_money_waits_for_its_client_and_for_nobody_else() {
    let mut rig = Rig::new().await;
    let (proof, other) = (Preimage([5; 32]), Preimage([6; 32]));
    let order = |preimage: Preimage| HoldOrder {
        amount: Msat::from_sat(100),
        payment_hash: preimage.hash(),
        description: None,
        description_hash: None,
        expiry: None,
        min_cltv_expiry_delta: None,
    };
    let alice = holder("alice");
    let first = rig.purse.make_hold_invoice(&alice, order(proof), id(1)).await.unwrap();
    assert_eq!(rig.purse.make_hold_invoice(&alice, order(proof), id(1)).await.unwrap(), first);
    let taken = rig.purse.make_hold_invoice(&holder("bob"), order(proof), id(2)).await;
    assert!(matches!(taken, Err(PurseError::Refused(_))), "{taken:?}");
    let second = rig.purse.make_hold_invoice(&alice, order(other), id(3)).await.unwrap();
    for bolt11 in [first.invoice.unwrap(), second.invoice.unwrap()] {
        rig.theirs.pay(&bolt11, None, Msat::from_sat(10)).await.unwrap();
        let (told, notice) = rig.notices.recv().await.unwrap();
        assert_eq!((told, notice.topic), (alice.clone(), Topic::HoldInvoiceAccepted));
        assert_eq!((notice.transaction.state, notice.transaction.preimage), (State::Accepted, None));
    }
    assert_eq!(rig.purse.settle_hold_invoice(&holder("bob"), proof).await, Err(PurseError::NotFound));
    assert_eq!(rig.purse.cancel_hold_invoice(&holder("bob"), other.hash()).await, Err(PurseError::NotFound));
    rig.purse.settle_hold_invoice(&alice, proof).await.unwrap();
    rig.purse.settle_hold_invoice(&alice, proof).await.unwrap();
    rig.purse.cancel_hold_invoice(&alice, other.hash()).await.unwrap();
    assert_eq!(rig.notices.recv().await.unwrap().1.topic, Topic::PaymentReceived);
    let state = async |hash| rig.purse.look_up(&alice, hash).await.unwrap().unwrap().state;
    assert_eq!((state(proof.hash()).await, state(other.hash()).await), (State::Settled, State::Failed));
    assert_eq!(rig.balance("alice").await, 10_100_000);
    rig.adds_up().await;
}

#[tokio::test]
async fn coins_are_booked_also_while_a_payment_hangs() {
    let rig = Rig::new().await;
    let compared =
        async || rig.purse.steer("oa_accounts", serde_json::json!({})).await.unwrap()["compared_at"].clone();
    let held =
        InvoiceRequest { amount: Some(Msat::from_sat(500)), description: String::new(), expiry_s: 600 };
    let proof = Preimage([8; 32]);
    let bill = rig.theirs.hold_invoice(proof.hash(), held).await.unwrap().bolt11;
    let pending = rig.pay("alice", &bill, 1);
    let booked = async {
        rig.until(async || rig.balance("alice").await < 10_000_000).await;
        rig.bank.set_coins(&rig.ours.id(), Sat(7_000));
        rig.until(async || rig.balance("operator").await == 87_000_000).await;
        let before = compared().await;
        rig.theirs.settle(proof).await.unwrap();
        before
    };
    let (paid, before) = tokio::join!(pending, booked);
    assert!(paid.unwrap().proof().is_some());
    rig.until(async || compared().await.as_u64() > before.as_u64()).await;
    assert_eq!(rig.balance("operator").await, 87_000_000, "once");
    rig.adds_up().await;
}

#[tokio::test]
async fn an_account_with_too_many_unpaid_invoices_makes_no_more() {
    let rig = Rig::new().await;
    let first = rig.invoice("bob", 1, 1).await.unwrap();
    for n in 0..5_000_u32 {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        rig.purse.inner.open.made(&holder("bob"), PaymentHash::from_bytes(bytes), u64::MAX / 2, u64::MAX);
    }
    assert!(matches!(rig.invoice("bob", 1, 2).await, Err(PurseError::Refused(_))));
    assert_eq!(rig.invoice("bob", 1, 1).await.unwrap(), first, "what was made before is not made anew");
    assert!(rig.invoice("alice", 1, 3).await.is_ok(), "it is nobody else's limit");
    let held = HoldOrder {
        amount: Msat::from_sat(1),
        payment_hash: Preimage([7; 32]).hash(),
        description: None,
        description_hash: None,
        expiry: None,
        min_cltv_expiry_delta: None,
    };
    let refused = rig.purse.make_hold_invoice(&holder("bob"), held, id(4)).await;
    assert!(matches!(refused, Err(PurseError::Refused(_))), "{refused:?}");
}

#[tokio::test]
async fn money_that_is_told_of_after_its_deadline_is_given_back_and_stops_nothing() {
    let rig = Rig::new().await;
    let (alice, proof) = (holder("alice"), Preimage([5; 32]));
    let order = HoldOrder {
        amount: Msat::from_sat(100),
        payment_hash: proof.hash(),
        description: None,
        description_hash: None,
        expiry: None,
        min_cltv_expiry_delta: None,
    };
    let held = rig.purse.make_hold_invoice(&alice, order, id(1)).await.unwrap();
    let tea = rig.invoice("bob", 50, 2).await.unwrap();
    // Nobody reads what happens until the money has gone back.
    rig.purse.stop().await;
    for bolt11 in [held.invoice.unwrap(), tea.invoice.unwrap()] {
        rig.theirs.pay(&bolt11, None, Msat::from_sat(10)).await.unwrap();
    }
    rig.bank.mine(100);
    let mut rig = rig.restart().await;
    let late = rig.invoice("bob", 70, 3).await.unwrap().invoice.unwrap();
    rig.theirs.pay(&late, None, Msat::from_sat(10)).await.unwrap();
    let (told, notice) = rig.notices.recv().await.unwrap();
    assert_eq!((told, notice.topic), (holder("bob"), Topic::PaymentReceived), "the first that is told");
    assert_eq!(rig.purse.look_up(&alice, proof.hash()).await.unwrap().unwrap().state, State::Failed);
    assert_eq!(
        rig.purse.look_up(&holder("bob"), tea.payment_hash).await.unwrap().unwrap().state,
        State::Pending
    );
    assert_eq!((rig.balance("alice").await, rig.balance("bob").await), (10_000_000, 10_070_000));
    assert_eq!(rig.theirs.balance().await.unwrap().spendable, Msat::new(99_928_500), "one fee, one payment");
    rig.adds_up().await;
}

#[tokio::test]
async fn a_hash_of_somebody_elses_invoice_does_not_divert_its_payment() {
    let rig = Rig::new().await;
    let bill = rig.bill(1_000).await;
    let hash = payment(&bill, 1).payment_hash;
    let trap = HoldOrder {
        amount: Msat::from_sat(1_000),
        payment_hash: hash,
        description: None,
        description_hash: None,
        expiry: None,
        min_cltv_expiry_delta: None,
    };
    rig.purse.make_hold_invoice(&holder("bob"), trap, id(1)).await.unwrap();
    let paid = rig.pay("alice", &bill, 2).await;
    assert!(paid.is_err(), "the backend has the hash: {paid:?}");
    assert_eq!((rig.balance("alice").await, rig.balance("bob").await), (10_000_000, 10_000_000));
    assert_eq!(rig.theirs.balance().await.unwrap().spendable, Msat::from_sat(100_000));
    rig.adds_up().await;
}

#[tokio::test]
async fn a_transfer_is_made_once_and_by_those_who_have_it() {
    let rig = Rig::new().await;
    let move_it = async |id: &str, sat: u32| {
        let amount = Msat::from_sat(sat);
        let params = serde_json::json!({ "id": id, "from": "alice", "to": "carol", "amount_msat": amount });
        rig.purse.steer("oa_transfer", params).await
    };
    let first = move_it("x", 10).await.unwrap();
    assert_eq!(move_it("x", 10).await.unwrap(), first);
    assert!(move_it("x", 11).await.is_err(), "the id of another one");
    assert!(move_it("y", 9_991).await.is_err(), "more than there is");
    assert_eq!((rig.balance("alice").await, rig.balance("carol").await), (9_990_000, 10_000));
    assert!(rig.purse.steer("oa_address", serde_json::json!({})).await.is_err(), "play money has no chain");
    rig.adds_up().await;
}

#[tokio::test]
async fn what_is_stopped_begins_nothing() {
    let rig = Rig::new().await;
    rig.purse.stop().await;
    let paid = rig.pay("alice", &rig.bill(1).await, 1).await;
    assert!(matches!(paid, Err(PurseError::Unavailable(_))), "{paid:?}");
    rig.ours.stop().await.unwrap();
    assert!(matches!(rig.ours.balance().await, Err(BackendError::Unavailable(_))));
}
