//! The ledger: each rule by itself, then random lives of many accounts against a plain count in [`random`].

mod model;
mod random;

use oa_nips::hex::Hash;

use super::*;
use crate::msat::Msat;
use crate::store::{Draft, MemoryStore, Rows, Store, Verdict};

fn holder(name: &str) -> Holder {
    Holder::new(name).unwrap()
}

fn hash(n: u8) -> Hash {
    Hash::from_slice(&[n; 32]).unwrap()
}

fn sat(sat: u32) -> Msat {
    Msat::from_sat(sat)
}

/// Does some work in one draft, and commits it.
fn work<T>(store: &dyn Store, work: impl FnOnce(&mut Ledger<'_, '_>) -> T) -> T {
    let mut draft = Draft::new(store);
    let done = work(&mut Ledger::new(&mut draft));
    assert_eq!(store.commit(&[draft.into_writes()]).unwrap(), [Verdict::Done]);
    done
}

/// A ledger in which the operator has 100,000 sat and alice 10,000.
fn funded() -> MemoryStore {
    let store = MemoryStore::default();
    work(&store, |ledger| {
        let _ = ledger.opening("opening", Asset::Lightning, sat(110_000), 1).unwrap();
        let _ = ledger.allot("operator", &Holder::operator(), sat(100_000), 1).unwrap();
        let _ = ledger.allot("alice", &holder("alice"), sat(10_000), 1).unwrap();
    });
    store
}

fn standing(store: &dyn Store, name: &str) -> (Msat, Msat, Msat) {
    let Standing { available, reserved, debt } =
        work(store, |ledger| ledger.standing(&holder(name)).unwrap());
    (available, reserved, debt)
}

fn new_payment<'a>(payment: u8, holder: &'a Holder, amount: Msat, request: &'a str) -> NewPayment<'a> {
    NewPayment { payment: hash(payment), holder, amount, request, at_ms: 5 }
}

fn outcome(amount: Msat, fee: Msat) -> Outcome {
    Outcome { amount, fee, preimage: Some(hash(0xee)) }
}

#[test]
fn a_proven_payment_is_recorded_whatever_is_said_of_its_fee() {
    let (store, alice) = (funded(), holder("alice"));
    work(&store, |ledger| {
        let _ = ledger.reserve(&new_payment(1, &alice, sat(1_000), "r")).unwrap();
        for fee in [Msat::SUPPLY, Msat::new(u64::MAX)] {
            // Twice: the same again changes nothing.
            let row = ledger.settled(&hash(1), outcome(sat(1_000), fee), 6).unwrap();
            let PaymentState::Settled { amount, fee, .. } = row.state else { panic!("{row:?}") };
            assert_eq!((amount, fee), (sat(1_000), sat(10)), "all that was held back");
        }
    });
    assert_eq!(standing(&store, "alice"), (sat(8_990), Msat::ZERO, Msat::ZERO));
    verify(&store).unwrap();
}

#[test]
fn fees_are_reserved_at_one_percent_and_ten_sat() {
    let cases =
        [(1, 10_000), (1_000_000, 10_000), (1_000_001, 10_001), (5_000_000, 50_000), (5_000_001, 50_001)];
    for (amount, reserve) in cases {
        assert_eq!(fee_reserve(Msat::new(amount)), Msat::new(reserve), "{amount}");
    }
    assert!(fee_reserve(Msat::new(u64::MAX)) > Msat::ZERO);
}

#[test]
fn a_payment_holds_its_reservation_and_gets_the_rest_back() {
    let (store, alice) = (funded(), holder("alice"));
    let new = new_payment(1, &alice, sat(5000), "r1");
    work(&store, |ledger| assert!(matches!(ledger.reserve(&new), Ok(Reservation::New(_)))));
    assert_eq!(standing(&store, "alice"), (sat(4950), sat(5050), sat(0)));
    work(&store, |ledger| ledger.sent(&hash(1), 6).unwrap());
    work(&store, |ledger| ledger.unknown(&hash(1), 7).unwrap());
    assert_eq!(standing(&store, "alice").1, sat(5050), "unknown stays reserved");
    assert_eq!(open_payments(&store, None, 9).unwrap().len(), 1);
    let paid = work(&store, |ledger| ledger.settled(&hash(1), outcome(sat(5000), sat(7)), 8).unwrap());
    assert!(matches!(paid.state, PaymentState::Settled { preimage: Some(_), .. }));
    assert_eq!(standing(&store, "alice"), (sat(4993), sat(0), sat(0)));
    assert!(open_payments(&store, None, 9).unwrap().is_empty());
    let verified = verify(&store).unwrap();
    assert_eq!(verified.balances.book().lightning, sat(110_000 - 5007));
}

#[test]
fn a_failed_payment_frees_everything_and_may_be_tried_again() {
    let (store, alice) = (funded(), holder("alice"));
    work(&store, |ledger| {
        let _ = ledger.reserve(&new_payment(1, &alice, sat(5000), "r1")).unwrap();
        let _ = ledger.sent(&hash(1), 6).unwrap();
    });
    work(&store, |ledger| ledger.failed(&hash(1), "no route", 7).unwrap());
    assert_eq!(standing(&store, "alice"), (sat(10_000), sat(0), sat(0)));
    work(&store, |ledger| {
        let known = ledger.reserve(&new_payment(1, &alice, sat(5000), "r1")).unwrap();
        assert!(matches!(known, Reservation::Known(payment) if !payment.state.is_open()), "not paid again");
        assert!(matches!(ledger.reserve(&new_payment(1, &alice, sat(5000), "r2")), Ok(Reservation::New(_))));
        let known = ledger.reserve(&new_payment(1, &alice, sat(5000), "r1")).unwrap();
        assert!(matches!(known, Reservation::Known(payment) if payment.request == "r2"));
    });
    assert_eq!(standing(&store, "alice").1, sat(5050), "once");
    verify(&store).unwrap();
}

#[test]
fn a_payment_is_made_once() {
    let (store, alice) = (funded(), holder("alice"));
    let operator = Holder::operator();
    work(&store, |ledger| {
        let _ = ledger.reserve(&new_payment(1, &alice, sat(100), "r1")).unwrap();
        let busy = ledger.reserve(&new_payment(1, &operator, sat(100), "r2")).unwrap_err();
        assert!(matches!(busy, ReserveError::Busy(payment) if payment.holder == alice));
        let same_name = ledger.reserve(&new_payment(2, &alice, sat(100), "r1")).unwrap_err();
        assert!(matches!(same_name, ReserveError::Post(PostError::Conflict(_))));
        let _ = ledger.settled(&hash(1), outcome(sat(100), sat(1)), 6).unwrap();
        let paid = ledger.reserve(&new_payment(1, &operator, sat(100), "r3")).unwrap_err();
        assert!(matches!(paid, ReserveError::Paid(_)));
        let _ = ledger.settled(&hash(1), outcome(sat(100), sat(1)), 7).unwrap();
        for other in [outcome(sat(100), sat(2)), outcome(sat(99), sat(1))] {
            assert!(matches!(ledger.settled(&hash(1), other, 7), Err(PaymentError::Over(_))));
        }
        assert!(matches!(ledger.failed(&hash(1), "late", 7), Err(PaymentError::Over(_))));
        assert!(matches!(ledger.sent(&hash(1), 7), Err(PaymentError::Over(_))));
        assert!(matches!(
            ledger.settled(&hash(9), outcome(sat(1), sat(0)), 7),
            Err(PaymentError::NotFound(_))
        ));
    });
    assert_eq!(standing(&store, "alice"), (sat(9899), sat(0), sat(0)));
}

#[test]
fn an_overrun_takes_what_is_available_and_then_becomes_debt() {
    let (store, alice) = (funded(), holder("alice"));
    work(&store, |ledger| {
        let _ = ledger.reserve(&new_payment(1, &alice, sat(9000), "r1")).unwrap();
    });
    assert_eq!(standing(&store, "alice"), (sat(910), sat(9090), sat(0)));
    work(&store, |ledger| ledger.settled(&hash(1), outcome(sat(9000), sat(1500)), 6).unwrap());
    assert_eq!(standing(&store, "alice"), (sat(0), sat(0), sat(500)));
    work(&store, |ledger| {
        let paused = Refused::Paused { debt: sat(500) };
        let refused = ledger.reserve(&new_payment(2, &alice, sat(1), "r2")).unwrap_err();
        assert_eq!(refused, ReserveError::Post(PostError::Refused(paused.clone())));
        let refused = ledger.transfer("t", &alice, &Holder::operator(), sat(1), 7).unwrap_err();
        assert_eq!(refused, PostError::Refused(paused));
        let _ = ledger.transfer("help", &Holder::operator(), &alice, sat(200), 8).unwrap();
    });
    assert_eq!(standing(&store, "alice"), (sat(0), sat(0), sat(300)), "what comes in repays first");
    work(&store, |ledger| {
        ledger.note_invoice(&hash(3), &alice, None, 9, 99).unwrap();
        let _ = ledger.paid_in(&hash(3), sat(1000), 10).unwrap();
    });
    assert_eq!(standing(&store, "alice"), (sat(700), sat(0), sat(0)));
    verify(&store).unwrap();
}

#[test]
fn a_payment_given_up_that_happened_is_recorded() {
    let (store, alice) = (funded(), holder("alice"));
    work(&store, |ledger| {
        let _ = ledger.reserve(&new_payment(1, &alice, sat(9000), "r1")).unwrap();
        let _ = ledger.failed(&hash(1), "the wallet said so", 6).unwrap();
        let _ = ledger.transfer("t", &alice, &Holder::operator(), sat(9500), 7).unwrap();
    });
    work(&store, |ledger| ledger.settled(&hash(1), outcome(sat(9000), sat(10)), 8).unwrap());
    assert_eq!(standing(&store, "alice"), (sat(0), sat(0), sat(8510)));
    verify(&store).unwrap();
}

#[test]
fn income_is_whose_invoice_it_was_and_else_the_operators() {
    let (store, alice) = (funded(), holder("alice"));
    work(&store, |ledger| {
        ledger.note_invoice(&hash(1), &alice, Some(sat(5)), 1, 99).unwrap();
        ledger.note_invoice(&hash(1), &alice, Some(sat(5)), 1, 99).unwrap();
        let taken = ledger.note_invoice(&hash(1), &Holder::operator(), Some(sat(5)), 1, 99);
        assert_eq!(taken, Err(InvoiceError::Taken(hash(1))));
        assert!(matches!(ledger.paid_in(&hash(1), sat(6), 2), Ok(Posted::New(_))));
        assert!(matches!(ledger.paid_in(&hash(1), sat(6), 3), Ok(Posted::Known(_))), "told twice, came once");
        assert!(matches!(ledger.paid_in(&hash(1), sat(7), 3), Err(PostError::Conflict(_))));
        assert!(matches!(ledger.paid_in(&hash(2), sat(3), 4), Ok(Posted::New(_))));
        let late = ledger.note_invoice(&hash(2), &alice, None, 5, 99);
        assert_eq!(late, Err(InvoiceError::Taken(hash(2))));
        let paid = ledger.invoice(&hash(1)).unwrap().unwrap();
        assert_eq!(paid.state, InvoiceState::Paid { amount: sat(6), at_ms: 2 });
    });
    assert_eq!(standing(&store, "alice").0, sat(10_006));
    assert_eq!(standing(&store, "operator").0, sat(100_003));
    verify(&store).unwrap();
}

#[test]
fn an_invoice_of_the_same_wallet_is_paid_inside() {
    let (store, alice) = (funded(), holder("alice"));
    let operator = Holder::operator();
    work(&store, |ledger| {
        ledger.note_invoice(&hash(1), &alice, Some(sat(50)), 1, 99).unwrap();
        let pay = |amount, request| new_payment(1, &operator, amount, request);
        assert_eq!(ledger.pay_inside(&pay(sat(49), "r1"), None), Err(OwnInvoiceError::Amount(sat(50))));
        let late = NewPayment { at_ms: 99, ..pay(sat(50), "r1") };
        assert_eq!(ledger.pay_inside(&late, None), Err(OwnInvoiceError::Expired));
        let to_self = ledger.pay_inside(&new_payment(1, &alice, sat(50), "r1"), None).unwrap_err();
        assert!(to_self.to_string().starts_with("from `alice`"), "{to_self}");
        let other = new_payment(2, &operator, sat(50), "r1");
        assert_eq!(ledger.pay_inside(&other, None), Err(OwnInvoiceError::NotOurs));
        assert!(matches!(ledger.pay_inside(&pay(sat(50), "r1"), Some(hash(7))), Ok(Reservation::New(_))));
        assert!(matches!(ledger.pay_inside(&pay(sat(50), "r1"), Some(hash(7))), Ok(Reservation::Known(_))));
        assert_eq!(ledger.pay_inside(&pay(sat(50), "r2"), None), Err(OwnInvoiceError::Paid));
        assert!(matches!(ledger.reserve(&pay(sat(50), "r3")), Err(ReserveError::Paid(_))));
    });
    assert_eq!((standing(&store, "alice").0, standing(&store, "operator").0), (sat(10_050), sat(99_950)));
    verify(&store).unwrap();
}

#[test]
fn odd_amounts_are_refused_and_leave_nothing() {
    let (store, alice) = (funded(), holder("alice"));
    let before = verify(&store).unwrap();
    work(&store, |ledger| {
        let most = Msat::new(u64::MAX);
        for amount in [Msat::ZERO, most, Msat::SUPPLY, sat(10_001)] {
            assert!(ledger.reserve(&new_payment(1, &alice, amount, "r")).is_err(), "{amount}");
            assert!(ledger.transfer("t", &alice, &Holder::operator(), amount, 1).is_err(), "{amount}");
            assert!(ledger.withdraw("w", &alice, amount, 1).is_err(), "{amount}");
            assert!(ledger.allot("a", &alice, amount, 1).is_err(), "{amount}: the house has nothing left");
        }
        for amount in [Msat::ZERO, most] {
            assert!(ledger.paid_in(&hash(1), amount, 1).is_err(), "{amount}");
            assert!(ledger.opening("o", Asset::Onchain, amount, 1).is_err(), "{amount}");
        }
        assert!(ledger.transfer("t", &alice, &alice, sat(1), 1).is_err());
        assert!(matches!(
            ledger.transfer("", &alice, &Holder::operator(), sat(1), 1),
            Err(PostError::BadId(0))
        ));
        let long = "x".repeat(201);
        assert!(matches!(ledger.reserve(&new_payment(1, &alice, sat(1), &long)), Err(ReserveError::Post(_))));
    });
    assert_eq!(verify(&store).unwrap(), before);
    work(&store, |ledger| {
        ledger.transfer("t", &alice, &Holder::operator(), Msat::new(1), 1).map(|_| ()).unwrap()
    });
    assert_eq!(standing(&store, "alice").0, Msat::new(9_999_999), "1 msat is an amount");
}

#[test]
fn the_house_and_its_wallet_are_accounted_for() {
    let (store, alice) = (funded(), holder("alice"));
    work(&store, |ledger| {
        let _ = ledger.opening("coins", Asset::Onchain, sat(50_000), 1).unwrap();
        let _ = ledger.moved("open", Asset::Onchain, Asset::Lightning, sat(40_000), sat(300), 2).unwrap();
        let _ = ledger.adjust("seen", Asset::Lightning, Change::Up, Against::Suspense, sat(7), 3).unwrap();
        let _ =
            ledger.adjust("gone", Asset::Lightning, Change::Down, Against::Equity, sat(60_000), 4).unwrap();
        let _ = ledger.withdraw("out", &alice, sat(1000), 5).unwrap();
        let over =
            ledger.moved("close", Asset::Lightning, Asset::Onchain, sat(90_007), sat(1), 6).unwrap_err();
        assert!(matches!(over, PostError::Refused(Refused::Uncovered { .. })));
        let refused = ledger.allot("more", &alice, sat(1), 6).unwrap_err();
        assert!(matches!(refused, PostError::Refused(Refused::Uncovered { .. })), "the house has a loss");
    });
    let book = *verify(&store).unwrap().balances.book();
    assert_eq!((book.lightning, book.onchain, book.fees), (sat(90_007), sat(9700), sat(300)));
    assert_eq!((book.suspense, book.equity), (Signed::new(7000), Signed::new(-9_000_000)));
    assert_eq!(book.equity.to_string(), "-9,000 sat");
}

#[test]
fn what_the_wallet_paid_without_having_it_is_in_suspense() {
    let store = MemoryStore::default();
    let alice = holder("alice");
    work(&store, |ledger| {
        let _ = ledger.opening("opening", Asset::Lightning, sat(1000), 1).unwrap();
        let _ = ledger.allot("alice", &alice, sat(1000), 1).unwrap();
        let _ = ledger.reserve(&new_payment(1, &alice, sat(900), "r1")).unwrap();
        let _ = ledger.settled(&hash(1), outcome(sat(900), sat(200)), 2).unwrap();
    });
    let book = *verify(&store).unwrap().balances.book();
    assert_eq!((book.lightning, book.suspense), (sat(0), Signed::new(100_000)));
    assert_eq!(standing(&store, "alice"), (sat(0), sat(0), sat(100)));
}

#[test]
fn history_comes_newest_first_and_in_pages() {
    let (store, alice) = (funded(), holder("alice"));
    for n in 0..5 {
        let _ =
            work(&store, |ledger| ledger.transfer(&format!("t{n}"), &alice, &holder("alice-2"), sat(1), n));
    }
    let seqs = |name: &str, before, limit| -> Vec<u64> {
        history(&store, &holder(name), before, limit).unwrap().iter().map(|entry| entry.seq).collect()
    };
    assert_eq!(seqs("alice", None, 4), [7, 6, 5, 4]);
    assert_eq!(seqs("alice", Some(4), 4), [3, 2], "down to what she was allotted");
    assert_eq!(seqs("alice-2", None, 9), [7, 6, 5, 4, 3], "names that begin alike are apart");
    assert_eq!(seqs("operator", None, 9), [1]);
    assert!(seqs("nobody", None, 9).is_empty() && seqs("alice", Some(0), 9).is_empty());
    assert_eq!(entries(&store, 6, 9).unwrap().len(), 2);
}

#[test]
fn two_drafts_made_side_by_side_do_not_both_land() {
    let (store, alice) = (funded(), holder("alice"));
    let (mut first, mut second) = (Draft::new(&store), Draft::new(&store));
    for (draft, to) in [(&mut first, "b"), (&mut second, "c")] {
        let _ = Ledger::new(draft).transfer(to, &alice, &holder(to), sat(10_000), 1).unwrap();
    }
    let verdicts = store.commit(&[first.into_writes(), second.into_writes()]).unwrap();
    assert!(matches!(verdicts[..], [Verdict::Done, Verdict::Stale { .. }]), "{verdicts:?}");
    verify(&store).unwrap();
}

#[test]
fn verification_finds_every_changed_row() {
    let (store, alice) = (funded(), holder("alice"));
    work(&store, |ledger| {
        let _ = ledger.reserve(&new_payment(1, &alice, sat(100), "r1")).unwrap();
        let _ = ledger.reserve(&new_payment(2, &alice, sat(100), "r2")).unwrap();
        let _ = ledger.settled(&hash(2), outcome(sat(100), sat(1)), 6).unwrap();
    });
    verify(&store).unwrap();
    let mut changed = 0;
    let spaces = ["ledger", "ids", "book", "holders", "payments", "open", "history"];
    for space in spaces.map(|space| format!("wallet.{space}")) {
        for (key, row) in store.scan(&space, "", 99).unwrap() {
            let text = String::from_utf8(row.value.clone()).unwrap();
            let more = text.replacen("10", "11", 1);
            for value in [None, Some(more)].into_iter().filter(|value| value.as_ref() != Some(&text)) {
                let damage = |expect_version, value: Option<String>| oa_nips::port::RowWrite {
                    space: space.clone(),
                    key: key.clone(),
                    expect_version,
                    value: value.map(String::into_bytes),
                };
                let version =
                    |store: &MemoryStore| store.get(&space, &key).unwrap().map_or(0, |row| row.version);
                store.commit(&[vec![damage(version(&store), value.clone())]]).unwrap();
                assert!(verify(&store).is_err(), "{space} {key}: {text} became {value:?}");
                store.commit(&[vec![damage(version(&store), Some(text.clone()))]]).unwrap();
                changed += 1;
            }
        }
        let stray = oa_nips::port::RowWrite {
            space: space.clone(),
            key: "zz".to_owned(),
            expect_version: 0,
            value: Some(b"0".to_vec()),
        };
        if space != "wallet.book" {
            store.commit(&[vec![stray.clone()]]).unwrap();
            assert!(verify(&store).is_err(), "{space}: a row too many");
            store
                .commit(&[vec![oa_nips::port::RowWrite { expect_version: 1, value: None, ..stray }]])
                .unwrap();
        }
    }
    assert!(changed > 30, "{changed}");
    verify(&store).unwrap();
}

#[test]
fn postings_are_read_strictly_and_written_once_and_for_all() {
    let entry = r#"{"seq":0,"id":"in/x","at_ms":5,"posting":{"what":{"kind":"paid_in","payment":"HASH","to":"alice","amount":5},"legs":[{"account":"lightning","side":"debit","amount":5},{"account":"available/alice","side":"credit","amount":5}]}}"#
        .replace("HASH", &hash(1).to_string());
    let read: Entry = serde_json::from_str(&entry).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), entry, "the form on disk");
    let wrong = [
        ("\"side\":\"credit\",\"amount\":5", "\"side\":\"credit\",\"amount\":6"),
        ("\"side\":\"credit\"", "\"side\":\"debit\""),
        ("available/alice", "lightning"),
        ("available/alice", "available/Alice"),
        ("available/alice", "vault"),
        ("\"amount\":5}]", "\"amount\":-5}]"),
    ];
    for (from, to) in wrong {
        assert!(serde_json::from_str::<Entry>(&entry.replace(from, to)).is_err(), "{to}");
    }
    for account in
        ["lightning", "onchain", "fees", "suspense", "equity", "debt/a", "available/a", "reserved/a:b-c_d.e"]
    {
        assert_eq!(account.parse::<Account>().unwrap().to_string(), account);
    }
    for bad in ["", "/", "available", "available/", "available/a/b", "lightning/a", "debt/é"] {
        assert!(bad.parse::<Account>().is_err(), "{bad}");
    }
}
