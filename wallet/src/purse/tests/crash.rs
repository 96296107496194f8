//! The power goes at every commit, and everything is true afterwards.

use super::rig::{Rig, holder};
use crate::backend::{Backend, State as Status};
use crate::msat::Msat;
use crate::nwc::message::State;
use crate::nwc::purse::{Purse, PurseError};

/// More commits than any of these takes.
const STEPS: usize = 12;

#[tokio::test]
async fn a_payment_is_made_once_wherever_the_power_goes() {
    let (mut paid, mut unpaid) = (0, 0);
    for step in 0..STEPS {
        let rig = Rig::new().await;
        let bill = rig.bill(1_000).await;
        rig.cut_after(step);
        let _ = rig.pay("alice", &bill, 1).await;
        let rig = rig.restart().await;
        // What was begun is over, and the same request gets the same answer for ever.
        let again = rig.pay("alice", &bill, 1).await;
        assert_eq!(rig.pay("alice", &bill, 1).await, again);
        let got = rig.theirs.balance().await.unwrap().spendable.get() - 100_000_000;
        match again {
            Ok(transaction) => {
                assert!(transaction.proof().is_some());
                assert_eq!((got, rig.balance("alice").await), (1_000_000, 8_998_500), "step {step}");
                paid += 1;
            }
            Err(PurseError::Failed(_)) => {
                assert_eq!((got, rig.balance("alice").await), (0, 10_000_000), "step {step}");
                unpaid += 1;
            }
            Err(error) => panic!("step {step}: {error:?}"),
        }
        rig.adds_up().await;
    }
    assert!(paid > 0, "{paid} paid, {unpaid} not");
}

#[tokio::test]
async fn what_cannot_be_read_after_a_payment_began_is_unknown_and_not_unpaid() {
    /// More reads than a payment takes, with those of the comparison.
    const READS: usize = 80;
    let (mut paid, mut unknown) = (0, 0);
    for nth in 1..=READS {
        let rig = Rig::new().await;
        let inside = rig.invoice("bob", 1_000, 9).await.unwrap().invoice.unwrap();
        for (bill, request) in [(rig.bill(1_000).await, 1), (inside, 2)] {
            let before = rig.balance("alice").await;
            rig.fail_read(nth);
            let told = rig.pay("alice", &bill, request).await;
            rig.fail_read(0);
            // What was held back for the first one's fee may come back in between.
            let left = before.saturating_sub(rig.balance("alice").await);
            match told {
                Ok(_) => paid += 1,
                Err(PurseError::Unknown) => unknown += 1,
                Err(error) => assert_eq!(left, 0, "read {nth}: {error:?}"),
            }
        }
    }
    assert!(paid > 0 && unknown > 0, "{paid} paid, {unknown} not known");
}

#[tokio::test]
async fn what_was_written_down_and_never_sent_is_free_again() {
    let rig = Rig::new().await;
    let bill = rig.bill(1_000).await;
    // The payee is away, so that nothing leaves; the power goes before that is written down.
    rig.theirs.stop().await.unwrap();
    rig.cut_after(1);
    assert!(rig.pay("alice", &bill, 1).await.is_err());
    assert!(rig.is_dead());
    assert!(crate::account::verify(&*rig.store).unwrap().open_payments == 1, "it was written down");
    let rig = rig.restart().await;
    assert_eq!(rig.balance("alice").await, 10_000_000);
    assert_eq!(rig.pay("alice", &bill, 1).await, Err(PurseError::Failed("it was never sent".to_owned())));
    rig.adds_up().await;
}

#[tokio::test]
async fn income_counts_once_wherever_the_power_goes() {
    for step in 0..STEPS {
        let rig = Rig::new().await;
        let bolt11 = rig.invoice("bob", 3_000, 1).await.unwrap().invoice.unwrap();
        rig.cut_after(step);
        let sent = rig.theirs.pay(&bolt11, None, Msat::from_sat(10)).await.unwrap();
        let settled = || async { rig.balance("bob").await == 13_000_000 || rig.is_dead() };
        rig.until(settled).await;
        let rig = rig.restart().await;
        rig.until(|| async { rig.balance("bob").await == 13_000_000 }).await;
        let known = rig.theirs.look_up(sent.id).await.unwrap().unwrap();
        assert!(matches!(known.state, Status::Settled { .. }), "step {step}");
        let seen = rig.purse.look_up(&holder("bob"), sent.id).await.unwrap().unwrap();
        assert_eq!(seen.state, State::Settled);
        rig.adds_up().await;
    }
}

#[tokio::test]
async fn inside_the_wallet_both_sides_move_or_none() {
    for step in 0..STEPS {
        let rig = Rig::new().await;
        let bolt11 = rig.invoice("bob", 2_000, 1).await.unwrap().invoice.unwrap();
        rig.cut_after(step);
        let _ = rig.pay("alice", &bolt11, 2).await;
        let rig = rig.restart().await;
        let moved = 20_000_000 - rig.balance("alice").await - rig.balance("bob").await;
        assert_eq!(moved, 0, "step {step}");
        let paid = rig.pay("alice", &bolt11, 2).await.unwrap();
        assert!(paid.proof().is_some());
        assert_eq!((rig.balance("alice").await, rig.balance("bob").await), (8_000_000, 12_000_000));
        // Whoever pays from outside gets their money back, also where the power went before the invoice was closed.
        let late = rig.theirs.pay(&bolt11, None, Msat::from_sat(10)).await.unwrap();
        rig.until(|| async {
            let known = rig.theirs.look_up(late.id).await.unwrap().unwrap();
            matches!(known.state, Status::Failed { .. })
        })
        .await;
        assert_eq!(rig.theirs.balance().await.unwrap().spendable, Msat::from_sat(100_000));
        rig.adds_up().await;
    }
}
