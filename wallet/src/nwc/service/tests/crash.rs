//! Killed at every write and at every question to the purse: nothing is paid twice, nothing is lost.

use serde_json::{Value, json};

use super::rig::{Mode, Rig};
use crate::msat::Msat;
use crate::nwc::connection::{Budget, Renewal, Scope};
use crate::nwc::message::{ErrorCode, Request};
use crate::nwc::service::limits::Limits;
use crate::nwc::service::row;
use crate::nwc::tests::play::Luck;

fn pay(rig: &mut Rig, seed: u8) -> (Request, crate::backend::PaymentHash) {
    let (invoice, hash) = rig.purse.with(|play| play.bill(seed, Some(1000)));
    let text = json!({ "method": "pay_invoice", "params": { "invoice": invoice } }).to_string();
    (Request::parse(&text).unwrap(), hash)
}

fn paid(rig: &Rig, hash: &crate::backend::PaymentHash) -> u32 {
    rig.purse.with(|play| play.paid.get(hash).copied().unwrap_or(0))
}

fn stage(rig: &Rig, id: &oa_nips::nostr::EventId) -> Option<String> {
    let row = rig.disk.get(&(row::REQUESTS.to_owned(), id.to_hex()))?;
    let row: Value = serde_json::from_slice(&row.value).unwrap();
    row.pointer("/stage/state").and_then(Value::as_str).map(str::to_owned)
}

fn budgeted(rig: &mut Rig) -> oa_nips::nostr::Keys {
    rig.client("shop", 1_000_000, |connection| {
        connection.budget = Some(Budget { max_msat: Msat::new(500_000), renewal: Renewal::Never });
    })
}

/// One payment, killed where `kill` says; then the restart, the client's repeat, and time.
fn killed(
    luck: Luck,
    kill: impl Fn(&mut Rig),
) -> (Rig, oa_nips::nostr::EventId, crate::backend::PaymentHash) {
    let mut rig = Rig::new();
    let shop = budgeted(&mut rig);
    rig.purse.with(|play| play.luck = luck);
    let (request, hash) = pay(&mut rig, 1);
    let event = rig.event(&shop, &request);
    rig.mode = Mode::Held;
    rig.hand_in(&event);
    kill(&mut rig);
    rig.mode = Mode::Running;
    rig.restart();
    rig.hand_in(&event);
    rig.purse.with(|play| play.decide(hash, true));
    for _ in 0..5 {
        rig.pass(31_000);
    }
    assert!(rig.answer_to(&event.id).unwrap().result.is_ok(), "it is answered");
    assert_eq!(paid(&rig, &hash), 1, "and paid once");
    assert_eq!(rig.connection(&shop).spent.msat, Msat::new(1000), "and counted once");
    assert!(rig.machine.jobs.is_empty(), "and nothing is left set aside");
    (rig, event.id, hash)
}

/// Lets the purse answer the next question; `heard` says whether the machine lives to hear it.
fn step(rig: &mut Rig, heard: bool) {
    let (id, account, call) = rig.asks.pop_front().unwrap();
    let reply = rig.answer(&account, call, id);
    if heard {
        rig.apply(crate::nwc::service::machine::Input::Replied(id, reply));
    }
}

#[test]
fn killed_before_it_is_known_whether_it_is_paid() {
    let (rig, id, _) = killed(Luck::Good, |rig| {
        assert_eq!(rig.disk.len(), 1, "only the connection is on disk");
        rig.asks.clear();
    });
    assert_eq!(stage(&rig, &id).as_deref(), Some("answered"));
}

#[test]
fn killed_when_the_budget_is_set_aside_and_the_purse_not_asked() {
    killed(Luck::Good, |rig| {
        step(rig, true);
        assert_eq!(rig.asks.len(), 1, "it is about to be asked");
        let rows: Vec<_> = rig.disk.keys().map(|(space, _)| space.as_str()).collect();
        assert_eq!(rows, [row::CONNECTIONS, row::REQUESTS], "and that is written");
    });
}

#[test]
fn killed_when_the_purse_has_paid_and_nobody_heard() {
    killed(Luck::Good, |rig| {
        step(rig, true);
        step(rig, false);
    });
}

#[test]
fn killed_while_the_payment_is_under_way() {
    killed(Luck::Slow, |rig| {
        step(rig, true);
        step(rig, true);
    });
}

#[test]
fn killed_in_the_write_of_the_answer() {
    killed(Luck::Good, |rig| {
        step(rig, true);
        rig.writes_left = Some(0);
        step(rig, true);
        assert!(rig.is_dead && rig.sent.is_empty(), "nothing is sent that is not written");
    });
}

#[test]
fn killed_after_the_answer() {
    let (rig, id, _) = killed(Luck::Good, |rig| {
        step(rig, true);
        step(rig, true);
        assert_eq!(rig.sent.len(), 1);
    });
    assert_eq!(rig.answers_to(&id), 1);
    assert_eq!(rig.resent, [id], "the same bytes, from disk");
}

#[test]
fn a_failure_in_mid_crash_is_answered_as_one() {
    let mut rig = Rig::new();
    let shop = budgeted(&mut rig);
    rig.purse.with(|play| play.luck = Luck::Slow);
    let (request, hash) = pay(&mut rig, 1);
    let event = rig.event(&shop, &request);
    rig.hand_in(&event);
    rig.purse.with(|play| {
        play.decide(hash, false);
        play.luck = Luck::Good;
    });
    rig.restart();
    let answer = rig.answer_to(&event.id).unwrap().result.unwrap_err();
    assert_eq!(answer.code, ErrorCode::PaymentFailed, "a payment that failed is not made anew unasked");
    assert_eq!(paid(&rig, &hash), 0);
    assert_eq!(rig.ask(&shop, &Request::GetBudget).unwrap()["used_budget"], 0);
}

#[test]
fn what_waited_for_its_turn_goes_on_in_its_order() {
    let mut rig = Rig::with_limits(Limits { running: 1, ..Limits::default() });
    let shop = budgeted(&mut rig);
    rig.mode = Mode::Held;
    let events: Vec<_> = (1..=3)
        .map(|seed| {
            let (request, _) = pay(&mut rig, seed);
            rig.now_ms += 1000;
            let event = rig.event(&shop, &request);
            rig.hand_in(&event);
            event
        })
        .collect();
    assert_eq!(stage(&rig, &events[1].id).as_deref(), Some("received"));
    rig.restart();
    rig.mode = Mode::Running;
    rig.hand_in(&events[0]);
    rig.run();
    let order: Vec<_> =
        rig.sent.iter().map(|event| oa_nips::nwc::Response::read(event).unwrap().request).collect();
    assert_eq!(order.len(), 3);
    assert_eq!(order[..2], [events[1].id, events[2].id], "as they came; the first was not written");
    assert_eq!(rig.purse.with(|play| play.paid.values().sum::<u32>()), 3);
}

#[test]
fn what_its_client_has_given_up_is_not_begun() {
    let mut rig = Rig::with_limits(Limits { running: 1, ..Limits::default() });
    let shop = budgeted(&mut rig);
    rig.mode = Mode::Held;
    let within = |rig: &mut Rig, request: &Request| {
        let at = rig.now_ms / 1000;
        let encryption = oa_nips::nwc::Encryption::Nip44;
        let event = rig.event_at(&shop, &request.to_json(), at, Some(at + 60), encryption);
        rig.hand_in(&event);
        event.id
    };
    let orders = [1, 2, 3].map(|seed| pay(&mut rig, seed));
    let [first, second, third] = [0, 1, 2].map(|n| within(&mut rig, &orders[n].0));
    // The first is about to be paid, the others wait; then the wallet is away for more than a minute.
    step(&mut rig, true);
    assert_eq!(stage(&rig, &first).as_deref(), Some("asked"));
    assert_eq!(stage(&rig, &second).as_deref(), Some("received"));
    rig.now_ms += 61_000;
    rig.restart();
    rig.mode = Mode::Running;
    rig.run();
    for id in [first, second, third] {
        let told = rig.answer_to(&id).unwrap().result.unwrap_err();
        assert_eq!(told.message, "the request has expired");
    }
    assert_eq!(orders.map(|(_, hash)| paid(&rig, &hash)), [0, 0, 0], "their client may have paid otherwise");
    assert_eq!(rig.connection(&shop).spent.msat, Msat::ZERO);
    // A payment that did leave is told of, however late.
    let (request, hash) = pay(&mut rig, 4);
    rig.mode = Mode::Held;
    let late = within(&mut rig, &request);
    step(&mut rig, true);
    step(&mut rig, false);
    rig.now_ms += 61_000;
    rig.mode = Mode::Running;
    rig.restart();
    assert!(rig.answer_to(&late).unwrap().result.is_ok());
    assert_eq!((paid(&rig, &hash), rig.connection(&shop).spent.msat), (1, Msat::new(1000)));
}

#[test]
fn an_offer_that_waited_too_long_is_not_paid() {
    let mut rig = Rig::with_limits(Limits { running: 1, ..Limits::default() });
    let admin = rig.client("admin", 0, |connection| connection.scopes = Scope::ALL.into());
    rig.mode = Mode::Held;
    let balance = rig.event(&admin, &Request::GetBalance);
    rig.hand_in(&balance);
    let order = Request::Admin("oa_open_channel".to_owned(), json!({})).to_json();
    let (at, encryption) = (rig.now_ms / 1000, oa_nips::nwc::Encryption::Nip44);
    let event = rig.event_at(&admin, &order, at, Some(at + 20), encryption);
    rig.hand_in(&event);
    assert_eq!(stage(&rig, &event.id).as_deref(), Some("received"));
    rig.now_ms += 21_000;
    rig.mode = Mode::Running;
    rig.restart();
    let told = rig.answer_to(&event.id).unwrap().result.unwrap_err();
    assert_eq!((told.message.as_str(), rig.purse.with(|play| play.steered)), ("the request has expired", 0));
}

#[test]
fn an_invoice_is_made_once_and_a_channel_opened_once() {
    let mut rig = Rig::new();
    let admin = rig.client("admin", 0, |connection| connection.scopes = Scope::ALL.into());
    rig.mode = Mode::Held;
    let order = Request::parse(r#"{"method":"make_invoice","params":{"amount":5}}"#).unwrap();
    let invoice = rig.event(&admin, &order);
    rig.hand_in(&invoice);
    let channel = rig.event(&admin, &Request::Admin("oa_open_channel".to_owned(), json!({})));
    rig.hand_in(&channel);
    step(&mut rig, false);
    step(&mut rig, false);
    rig.mode = Mode::Running;
    rig.restart();
    let made = rig.answer_to(&invoice.id).unwrap().result.unwrap();
    let listed = rig.ask(&admin, &Request::ListTransactions(Default::default())).unwrap();
    assert_eq!(listed["transactions"], json!([made]));
    let opened = rig.answer_to(&channel.id).unwrap().result.unwrap_err();
    assert_eq!((opened.code, rig.purse.with(|play| play.steered)), (ErrorCode::Internal, 1));
}

#[test]
fn old_answers_are_forgotten_when_nobody_can_ask_for_them() {
    let mut rig = Rig::new();
    let shop = budgeted(&mut rig);
    let (request, _) = pay(&mut rig, 1);
    let event = rig.event(&shop, &request);
    rig.hand_in(&event);
    rig.pass(rig.limits.age_max_s * 1000);
    assert!(stage(&rig, &event.id).is_some(), "it may still come again");
    rig.pass(3 * 3600 * 1000);
    assert_eq!(stage(&rig, &event.id), None);
    assert!(matches!(rig.hand_in(&event), crate::nwc::service::admit::Gate::Ignore("too old")));
}
