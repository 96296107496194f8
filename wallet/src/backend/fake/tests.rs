//! The suite that every backend passes, and what only play money does.

use std::time::Duration;

use super::super::conformance::{self, asked};
use super::*;
use crate::backend::{Event, FailReason, State as Status};

fn pair(fee: u64) -> (Bank, Fake, Fake) {
    let bank = Bank::new(b"tests");
    bank.set_fee(Msat::new(fee));
    let (alice, bob) = (bank.open("alice", Msat::from_sat(50_000)), bank.open("bob", Msat::from_sat(50_000)));
    (bank, alice, bob)
}

#[tokio::test]
async fn it_does_what_every_backend_does() {
    let (_bank, alice, bob) = pair(0);
    conformance::all(&alice, &bob).await;
}

#[tokio::test]
async fn also_where_payments_cost_something() {
    let (_bank, alice, bob) = pair(123);
    conformance::all(&alice, &bob).await;
}

#[tokio::test]
async fn a_fee_above_what_was_allowed_is_no_route() {
    let (bank, alice, bob) = pair(1_000);
    let invoice = bob.invoice(asked(Some(1_000), "")).await.unwrap();
    assert_eq!(alice.pay(&invoice.bolt11, None, Msat::new(999)).await, Err(Error::NoRoute));
    bob.stop().await.unwrap();
    assert_eq!(alice.pay(&invoice.bolt11, None, Msat::new(1_000)).await, Err(Error::NoRoute));
    let bob = bank.reopen(bob.id()).unwrap();
    let payment = alice.pay(&invoice.bolt11, None, Msat::new(1_000)).await.unwrap();
    let Status::Settled { fee, .. } = alice.look_up(payment.id).await.unwrap().unwrap().state else {
        panic!()
    };
    assert_eq!(fee, Msat::new(1_000));
    assert_eq!(bob.balance().await.unwrap().spendable, Msat::new(50_001_000));
}

#[tokio::test]
async fn held_money_goes_back_at_its_deadline() {
    let (bank, alice, bob) = pair(7);
    let proof = Preimage([5; 32]);
    let invoice = bob.hold_invoice(proof.hash(), asked(Some(1_000), "")).await.unwrap();
    alice.pay(&invoice.bolt11, None, Msat::new(7)).await.unwrap();
    let Event::Held { deadline: Some(deadline), .. } = bob.next_event().await.unwrap().event else {
        panic!()
    };
    bank.mine(deadline - bob.info().await.unwrap().block_height - 1);
    assert_eq!(alice.wait(proof.hash(), Duration::ZERO).await.unwrap().state, Status::Pending);
    bank.mine(1);
    let failed = Status::Failed { why: FailReason::Rejected };
    assert_eq!(alice.wait(proof.hash(), Duration::ZERO).await.unwrap().state, failed);
    assert_eq!(alice.balance().await.unwrap().spendable, Msat::from_sat(50_000));
    assert_eq!(bob.settle(proof).await, Err(Error::NotHeld));
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_after_a_restart() {
    let (bank, alice, bob) = pair(0);
    let invoice = bob.invoice(asked(Some(1_000), "")).await.unwrap();
    alice.pay(&invoice.bolt11, None, Msat::ZERO).await.unwrap();
    let event = bob.next_event().await.unwrap();
    bob.stop().await.unwrap();
    assert!(bob.next_event().await.is_err());
    assert_eq!(bank.reopen(bob.id()).unwrap().next_event().await.unwrap(), event);
}

#[tokio::test]
async fn it_says_that_it_is_play_money_wherever_it_shows() {
    let (bank, alice, _bob) = pair(0);
    let info = alice.info().await.unwrap();
    assert!(info.play_money && info.alias == "play money: alice", "{info:?}");
    assert_eq!(format!("{bank:?}"), "Bank(play money)");
    for error in [alice.address().await.unwrap_err(), alice.send_onchain("x", None).await.unwrap_err()] {
        assert!(error.to_string().contains("play money"), "{error}");
    }
}

#[tokio::test]
async fn a_wallet_has_its_key_again_in_a_bank_that_begins_anew() {
    let open = |seed: &[u8], secret: [u8; 32]| Bank::new(seed).open_again("a", &secret, Msat::ZERO).id();
    assert_eq!(open(b"one", [1; 32]), open(b"two", [1; 32]));
    assert_ne!(open(b"one", [1; 32]), open(b"one", [2; 32]));
}
