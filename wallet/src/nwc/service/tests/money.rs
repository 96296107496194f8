//! Payments: once, within the budget, and known to the end.

use oa_nips::nostr::{Event, Keys};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::rig::{Mode, NOW_S, Rig};
use crate::backend::{PaymentHash, Preimage};
use crate::msat::Msat;
use crate::nwc::connection::{Budget, Renewal};
use crate::nwc::message::{ErrorCode, Request};
use crate::nwc::service::admit::Gate;
use crate::nwc::service::pay::fee_reserve;
use crate::nwc::tests::play::{Luck, invoice};

fn pay(invoice: &str) -> Request {
    Request::parse(&json!({ "method": "pay_invoice", "params": { "invoice": invoice } }).to_string()).unwrap()
}

fn bill(rig: &mut Rig, seed: u8, amount: u64) -> (Request, PaymentHash) {
    let (invoice, hash) = rig.purse.with(|play| play.bill(seed, Some(amount)));
    (pay(&invoice), hash)
}

fn paid(rig: &Rig, hash: &PaymentHash) -> u32 {
    rig.purse.with(|play| play.paid.get(hash).copied().unwrap_or(0))
}

fn limited(msat: u64) -> impl FnOnce(&mut crate::nwc::connection::Connection) {
    move |connection| {
        connection.budget = Some(Budget { max_msat: Msat::new(msat), renewal: Renewal::Daily });
    }
}

fn hand_in_later(rig: &mut Rig, client: &Keys, request: &Request) -> Event {
    rig.now_ms += 1000;
    let event = rig.event(client, request);
    rig.hand_in(&event);
    event
}

#[test]
fn a_payment_is_answered_counted_and_told() {
    let mut rig = Rig::new();
    let shop = rig.client("shop", 1_000_000, limited(500_000));
    rig.purse.with(|play| play.fee = Msat::new(7));
    let (request, hash) = bill(&mut rig, 1, 100_000);
    let result = rig.ask(&shop, &request).unwrap();
    assert_eq!(result, json!({ "preimage": Preimage([1; 32]).reveal().to_string(), "fees_paid": 7 }));
    assert_eq!((paid(&rig, &hash), rig.connection(&shop).spent.msat), (1, Msat::new(100_007)));
    let (to, _, text) = rig.told.pop().unwrap();
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((to, &told["notification_type"]), (shop.public_key(), &json!("payment_sent")));
    assert_eq!(told["notification"]["payment_hash"], hash.to_string());
}

#[test]
fn the_same_request_is_obeyed_once_and_answered_with_the_same_bytes() {
    let mut rig = Rig::new();
    let shop = rig.client("shop", 1_000_000, limited(500_000));
    let (request, hash) = bill(&mut rig, 1, 1000);
    let event = rig.event(&shop, &request);
    assert_eq!(rig.hand_in(&event), Gate::Open);
    assert_eq!(rig.hand_in(&event), Gate::Repeat);
    assert_eq!(rig.resent, [event.id]);
    rig.restart();
    assert_eq!(rig.hand_in(&event), Gate::Repeat);
    assert_eq!((rig.resent.len(), paid(&rig, &hash)), (2, 1));
    assert_eq!(rig.connection(&shop).spent.msat, Msat::new(1000));
    let spent = rig.ask(&shop, &Request::GetBudget).unwrap();
    assert_eq!(spent["used_budget"], 1000);
}

#[test]
fn two_requests_for_one_invoice_are_one_payment() {
    let mut rig = Rig::new();
    let shop = rig.client("shop", 1_000_000, limited(500_000));
    let other = rig.client("other", 1_000_000, |_| {});
    rig.purse.with(|play| play.luck = Luck::Slow);
    let (request, hash) = bill(&mut rig, 1, 1000);
    let first = rig.event(&shop, &request);
    rig.hand_in(&first);
    let second = hand_in_later(&mut rig, &shop, &request);
    let third = hand_in_later(&mut rig, &other, &request);
    let refused = rig.answer_to(&third.id).unwrap().result.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Other, "another account waits for nothing of ours");
    rig.purse.with(|play| play.decide(hash, true));
    rig.pass(60_000);
    let answers = [first.id, second.id].map(|id| rig.answer_to(&id).unwrap().result.unwrap());
    assert_eq!(answers[0], answers[1]);
    assert_eq!((paid(&rig, &hash), rig.connection(&shop).spent.msat), (1, Msat::new(1000)), "counted once");
    let fourth = hand_in_later(&mut rig, &shop, &request);
    assert_eq!(rig.answer_to(&fourth.id).unwrap().result.unwrap(), answers[0], "paid already");
    assert_eq!((paid(&rig, &hash), rig.connection(&shop).spent.msat), (1, Msat::new(1000)));
}

#[test]
fn one_payment_is_waited_for_by_a_few_requests_and_not_by_any_number() {
    let mut rig = Rig::new();
    let shop = rig.client("shop", 1_000_000, |_| {});
    rig.purse.with(|play| play.luck = Luck::Slow);
    let (request, hash) = bill(&mut rig, 1, 1000);
    let events: Vec<_> = (0..20).map(|_| hand_in_later(&mut rig, &shop, &request)).collect();
    assert_eq!(rig.machine.jobs.len(), 9, "the first and eight that wait for it");
    let refused = rig.answer_to(&events[9].id).unwrap().result.unwrap_err();
    assert_eq!(refused.code, ErrorCode::RateLimited);
    rig.purse.with(|play| play.decide(hash, true));
    rig.pass(60_000);
    assert!(events[..9].iter().all(|event| rig.answer_to(&event.id).unwrap().result.is_ok()));
    assert_eq!(paid(&rig, &hash), 1);
}

#[test]
fn a_payment_of_another_amount_is_not_this_one() {
    for is_slow in [false, true] {
        let mut rig = Rig::new();
        let (shop, kiosk) = (
            rig.client("shop", 1_000_000, |_| {}),
            rig.client("kiosk", 1_000_000, |connection| {
                connection.account = crate::account::Holder::new("shop").unwrap();
            }),
        );
        rig.purse.with(|play| play.luck = if is_slow { Luck::Slow } else { Luck::Good });
        let (invoice, hash) = rig.purse.with(|play| play.bill(1, None));
        let order = |amount: u64| {
            let params = json!({ "invoice": invoice, "amount": amount });
            Request::parse(&json!({ "method": "pay_invoice", "params": params }).to_string()).unwrap()
        };
        let first = hand_in_later(&mut rig, &shop, &order(1_000));
        let dear = hand_in_later(&mut rig, &kiosk, &order(100_000));
        let refused = rig.answer_to(&dear.id).unwrap().result.unwrap_err();
        assert!(refused.code.is_refusal(), "{refused}");
        let same = hand_in_later(&mut rig, &kiosk, &order(1_000));
        if is_slow {
            // Also where only the purse knows of it.
            rig.machine.jobs.clear();
            rig.machine.paying.clear();
            let waits = hand_in_later(&mut rig, &kiosk, &order(100_000));
            rig.purse.with(|play| play.decide(hash, true));
            rig.pass(60_000);
            let refused = rig.answer_to(&waits.id).unwrap().result.unwrap_err();
            assert!(refused.code.is_refusal(), "{refused}");
        } else {
            let receipts = [first.id, same.id].map(|id| rig.answer_to(&id).unwrap().result.unwrap());
            assert_eq!(receipts[0], receipts[1], "as much is the same");
        }
        assert_eq!(paid(&rig, &hash), 1);
    }
}

#[test]
fn a_failed_payment_costs_nothing_and_may_be_tried_again() {
    let mut rig = Rig::new();
    let shop = rig.client("shop", 1_000_000, limited(20_000));
    rig.purse.with(|play| play.luck = Luck::Bad);
    let (request, hash) = bill(&mut rig, 1, 1000);
    assert_eq!(rig.ask(&shop, &request).unwrap_err().code, ErrorCode::PaymentFailed);
    assert_eq!(rig.ask(&shop, &Request::GetBudget).unwrap()["used_budget"], 0);
    rig.purse.with(|play| play.luck = Luck::Good);
    let again = hand_in_later(&mut rig, &shop, &request);
    assert!(rig.answer_to(&again.id).unwrap().result.is_ok());
    assert_eq!(paid(&rig, &hash), 1);
}

#[test]
fn an_unknown_outcome_is_looked_up_until_it_is_known() {
    for arrives in [true, false] {
        let mut rig = Rig::new();
        let shop = rig.client("shop", 1_000_000, limited(20_000));
        rig.purse.with(|play| play.luck = Luck::Slow);
        let (request, hash) = bill(&mut rig, 1, 1000);
        let event = rig.event(&shop, &request);
        rig.hand_in(&event);
        for _ in 0..20 {
            rig.pass(30_000);
        }
        assert_eq!(rig.answers_to(&event.id), 0, "nothing is guessed");
        assert_eq!(rig.ask(&shop, &Request::GetBudget).unwrap()["used_budget"], 11_000);
        rig.purse.with(|play| play.decide(hash, arrives));
        rig.pass(30_000);
        let answer = rig.answer_to(&event.id).unwrap().result;
        assert_eq!(answer.is_ok(), arrives);
        let used = hand_in_later(&mut rig, &shop, &Request::GetBudget);
        let used = rig.answer_to(&used.id).unwrap().result.unwrap();
        assert_eq!(used["used_budget"], if arrives { 1000 } else { 0 });
    }
}

#[test]
fn payments_that_take_hours_take_no_turns() {
    let mut rig = Rig::new();
    let shop = rig.client("shop", 1_000_000_000, |_| {});
    rig.purse.with(|play| play.luck = Luck::Slow);
    for seed in 1..=100 {
        let (request, _) = bill(&mut rig, seed, 1000);
        let event = rig.event(&shop, &request);
        rig.hand_in(&event);
    }
    assert!(rig.ask(&shop, &Request::GetBalance).is_ok());
}

#[test]
fn a_budget_is_kept_and_leaves_what_it_can_for_fees() {
    let mut rig = Rig::new();
    let shop = rig.client("shop", 1_000_000, limited(30_000));
    rig.purse.with(|play| play.fee = Msat::new(9_000));
    let (first, _) = bill(&mut rig, 1, 25_000);
    let result = rig.ask(&shop, &first).unwrap();
    assert_eq!(result["fees_paid"], 5_000, "no more than the budget left");
    let (second, hash) = bill(&mut rig, 2, 1);
    assert_eq!(rig.ask(&shop, &second).unwrap_err().code, ErrorCode::QuotaExceeded);
    assert_eq!(paid(&rig, &hash), 0);
    rig.pass(86_400_000);
    let next_day = hand_in_later(&mut rig, &shop, &second);
    assert!(rig.answer_to(&next_day.id).is_some());
}

#[test]
fn bad_invoices_are_refused_before_anything_is_asked() {
    let mut rig = Rig::new();
    let shop = rig.client("shop", 1_000_000, |_| {});
    let preimage = Preimage([9; 32]);
    let expired = invoice(preimage, Some(1000), NOW_S - 100, 50);
    let open = invoice(preimage, None, NOW_S, 3600);
    let zero = json!({ "invoice": open, "amount": 0 });
    let most = json!({ "invoice": open, "amount": u64::MAX });
    let other = json!({ "invoice": invoice(preimage, Some(1000), NOW_S, 3600), "amount": 1001 });
    for params in [
        json!({ "invoice": "lnbc1" }),
        json!({ "invoice": expired }),
        json!({ "invoice": open }),
        zero,
        most,
        other,
    ] {
        rig.now_ms += 1000;
        let request = json!({ "method": "pay_invoice", "params": params }).to_string();
        let refused = rig.ask(&shop, &Request::parse(&request).unwrap()).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Other, "{params} {refused}");
    }
    assert_eq!(paid(&rig, &preimage.hash()), 0);
    let (invoice, hash) = rig.purse.with(|play| play.bill(9, None));
    let given = json!({ "method": "pay_invoice", "params": { "invoice": invoice, "amount": 1 } }).to_string();
    assert!(rig.ask(&shop, &Request::parse(&given).unwrap()).is_ok());
    assert_eq!(paid(&rig, &hash), 1);
    let (dear, _) = bill(&mut rig, 3, 5_000_000);
    assert_eq!(rig.ask(&shop, &dear).unwrap_err().code, ErrorCode::InsufficientBalance);
}

#[test]
fn keysend_goes_once_by_a_preimage_that_is_on_disk() {
    let mut rig = Rig::new();
    let shop = rig.client("shop", 1_000_000, |_| {});
    let keysend = |preimage: Option<Preimage>| {
        let preimage = preimage.map(|preimage| preimage.reveal().to_string());
        let params = json!({ "amount": 1000, "pubkey": "02".repeat(33), "preimage": preimage });
        Request::parse(&json!({ "method": "pay_keysend", "params": params }).to_string()).unwrap()
    };
    let ours = Preimage([3; 32]);
    let result = rig.ask(&shop, &keysend(Some(ours))).unwrap();
    assert_eq!(result["preimage"], ours.reveal().to_string());
    let made_here = rig.ask(&shop, &keysend(None)).unwrap();
    assert_eq!(
        made_here["preimage"],
        Preimage([9; 32]).reveal().to_string(),
        "from the randomness handed in"
    );
    rig.mode = Mode::Held;
    let event = rig.event_at(
        &shop,
        &keysend(Some(Preimage([4; 32]))).to_json(),
        NOW_S,
        None,
        oa_nips::nwc::Encryption::Nip44,
    );
    rig.hand_in(&event);
    let (id, account, call) = rig.asks.pop_front().unwrap();
    let reply = rig.answer(&account, call, id);
    rig.apply(crate::nwc::service::machine::Input::Replied(id, reply));
    assert!(rig.disk.values().any(|row| String::from_utf8_lossy(&row.value).contains(&"04".repeat(32))));
}

#[test]
fn the_reserve_for_fees_is_one_per_cent_and_ten_satoshis_at_least() {
    for (amount, reserve) in
        [(0, 10_000), (1, 10_000), (1_000_000, 10_000), (1_000_001, 10_001), (2_000_000, 20_000)]
    {
        assert_eq!(fee_reserve(Msat::new(amount)), Msat::new(reserve));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Random payments, repeats, crashes and times: each hash is paid once at most, and the budget holds.
    #[test]
    fn no_hash_is_paid_twice_and_no_budget_is_exceeded(
        steps in proptest::collection::vec((0u8..8, 1u8..6, 0u8..3), 1..60),
        cap in 1_000u64..80_000,
    ) {
        let mut rig = Rig::new();
        let shop = rig.client("shop", 10_000_000, |connection| {
            connection.budget = Some(Budget { max_msat: Msat::new(cap), renewal: Renewal::Never });
        });
        rig.purse.with(|play| play.fee = Msat::new(3));
        let mut events = Vec::new();
        for (what, seed, luck) in steps {
            rig.purse.with(|play| play.luck = [Luck::Good, Luck::Bad, Luck::Slow][usize::from(luck)]);
            match what {
                0 | 1 => {
                    let (request, _) = bill(&mut rig, seed, u64::from(seed) * 2_000);
                    events.push(hand_in_later(&mut rig, &shop, &request));
                }
                2 => if let Some(event) = events.get(usize::from(seed)).cloned() {
                    rig.hand_in(&event);
                },
                3 => rig.purse.with(|play| play.decide(Preimage([seed; 32]).hash(), luck == 0)),
                4 => rig.pass(31_000),
                5 => rig.restart(),
                6 => rig.mode = Mode::Held,
                _ => {
                    rig.mode = Mode::Running;
                    if luck == 0 {
                        rig.writes_left = Some(usize::from(seed));
                    }
                    rig.run();
                    if rig.is_dead {
                        rig.restart();
                    }
                }
            }
        }
        rig.mode = Mode::Running;
        rig.restart();
        for seed in 1..6 {
            rig.purse.with(|play| play.decide(Preimage([seed; 32]).hash(), true));
        }
        for _ in 0..10 {
            rig.pass(31_000);
        }
        let left = 10_000_000 - rig.purse.with(|play| play.balance(&rig.connection(&shop).account)).get();
        for (hash, times) in rig.purse.with(|play| play.paid.clone()) {
            prop_assert!(times <= 1, "{} was paid {} times", hash, times);
        }
        prop_assert!(left <= cap, "{} left the purse, {} was allowed", left, cap);
        prop_assert!(rig.machine.jobs.is_empty(), "{:?}", rig.machine.jobs.values().map(|job| &job.step).collect::<Vec<_>>());
    }
}
