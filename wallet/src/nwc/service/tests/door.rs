//! Who is let in.

use oa_nips::nostr::Keys;
use oa_nips::nwc::Encryption;
use serde_json::Value;

use super::rig::{Mode, NOW_S, Rig};
use crate::nwc::connection::Scope;
use crate::nwc::message::{ErrorCode, Request};
use crate::nwc::service::admit::Gate;
use crate::nwc::service::limits::Limits;

fn code(result: Result<Value, crate::nwc::message::Error>) -> ErrorCode {
    result.unwrap_err().code
}

#[test]
fn strangers_and_ended_connections_are_unauthorized() {
    let mut rig = Rig::new();
    let stranger = Keys::generate();
    assert_eq!(code(rig.ask(&stranger, &Request::GetBalance)), ErrorCode::Unauthorized);
    let late = rig.client("late", 0, |connection| connection.expires_at = Some(NOW_S));
    assert_eq!(code(rig.ask(&late, &Request::GetBalance)), ErrorCode::Unauthorized);
    let revoked = rig.client("revoked", 0, |connection| connection.revoked_at = Some(NOW_S));
    assert_eq!(code(rig.ask(&revoked, &Request::GetBalance)), ErrorCode::Unauthorized);
}

#[test]
fn many_strangers_get_few_answers() {
    let mut rig = Rig::new();
    for _ in 0..50 {
        let event = rig.event(&Keys::generate(), &Request::GetBalance);
        rig.hand_in(&event);
    }
    assert_eq!(rig.sent.len(), rig.limits.refusals_per_second as usize);
}

#[test]
fn what_is_late_or_void_is_passed_over() {
    let mut rig = Rig::new();
    let client = rig.client("shop", 0, |_| {});
    let text = Request::GetBalance.to_json();
    let limits = Limits::default();
    let mut gate = |at: u64, expires_at| {
        let event = rig.event_at(&client, &text, at, expires_at, Encryption::Nip44);
        rig.hand_in(&event)
    };
    assert_eq!(gate(NOW_S, Some(NOW_S)), Gate::Open);
    assert_eq!(gate(NOW_S, Some(NOW_S - 1)), Gate::Ignore("expired"));
    assert_eq!(gate(NOW_S - limits.age_max_s, None), Gate::Open);
    assert_eq!(gate(NOW_S - limits.age_max_s - 1, None), Gate::Ignore("too old"));
    assert_eq!(gate(NOW_S + limits.ahead_max_s, None), Gate::Open);
    assert_eq!(gate(NOW_S + limits.ahead_max_s + 1, None), Gate::Ignore("dated ahead"));
    assert_eq!(rig.sent.len(), 3);
}

#[test]
fn an_encryption_that_is_not_known_is_said_to_be() {
    let mut rig = Rig::new();
    let client = rig.client("shop", 0, |_| {});
    let event = rig.event(&client, &Request::GetBalance);
    let mut header = oa_nips::nwc::Request::read(&event).unwrap();
    header.encryption = Err("nip99".to_owned());
    let Gate::Refuse(error) = rig.machine.admit(&header, rig.now_ms) else { panic!("let in") };
    assert_eq!(error.code, ErrorCode::UnsupportedEncryption);
}

#[test]
fn what_cannot_be_read_is_answered_with_the_reason() {
    let mut rig = Rig::new();
    let client = rig.client("shop", 0, |_| {});
    for (text, code, method) in [
        ("no json", ErrorCode::Other, None),
        (r#"{"method":"multi_pay_invoice"}"#, ErrorCode::NotImplemented, Some("multi_pay_invoice")),
        (r#"{"method":"pay_invoice","params":{}}"#, ErrorCode::Other, Some("pay_invoice")),
        (r#"{"method":"oa_channels"}"#, ErrorCode::Restricted, Some("oa_channels")),
    ] {
        let event = rig.event_at(&client, text, NOW_S, None, Encryption::Nip44);
        rig.hand_in(&event);
        let answer = rig.answer_to(&event.id).unwrap();
        assert_eq!(
            (answer.result_type.as_deref(), answer.result.unwrap_err().code),
            (method, code),
            "{text}"
        );
    }
}

#[test]
fn scopes_bound_what_is_done() {
    let mut rig = Rig::new();
    let reader = rig.client("reader", 5, |connection| connection.scopes = [Scope::Read].into());
    assert_eq!(rig.ask(&reader, &Request::GetBalance).unwrap()["balance"], 5);
    let order = serde_json::from_str(r#"{"amount":1}"#).unwrap();
    assert_eq!(code(rig.ask(&reader, &Request::MakeInvoice(order))), ErrorCode::Restricted);
    let info = rig.ask(&reader, &Request::GetInfo).unwrap();
    assert_eq!(info["methods"], serde_json::json!(["get_balance", "get_info"]));
    assert_eq!(info["notifications"], serde_json::json!([]));
    let all = rig.client("all", 5, |_| {});
    let info = rig.ask(&all, &Request::GetInfo).unwrap();
    let read = serde_json::from_value::<oa_nips::nostr::nips::nip47::GetInfoResponse>(info);
    assert_eq!(read.unwrap().methods.len(), 10, "the `nwc` crate refuses methods that it does not know");
}

#[test]
fn a_flood_is_limited_and_delays_nobody_else() {
    let limits =
        Limits { burst: 20, per_second: 1, running: 2, waiting: 3, running_all: 3, ..Limits::default() };
    let mut rig = Rig::with_limits(limits);
    let (flood, shop) = (rig.client("flood", 0, |_| {}), rig.client("shop", 7, |_| {}));
    rig.mode = Mode::Held;
    let mut refused = 0;
    for nth in 0..40 {
        let text = format!(r#"{{"method":"get_balance","nth":{nth}}}"#);
        let event = rig.event_at(&flood, &text, NOW_S, None, Encryption::Nip44);
        rig.hand_in(&event);
        let answer = rig.answer_to(&event.id);
        refused += usize::from(answer.is_some_and(|answer| code(answer.result) == ErrorCode::RateLimited));
    }
    assert_eq!(rig.asks.len(), 2, "two at once");
    assert!(refused >= 15, "{refused} were told");
    assert!(refused < 35, "and then no more");
    let event = rig.event(&shop, &Request::GetBalance);
    rig.hand_in(&event);
    assert_eq!(rig.asks.back().unwrap().1.as_str(), "shop", "it is asked at once");
    rig.run();
    assert!(rig.answer_to(&event.id).unwrap().result.is_ok());
}

#[test]
fn a_refused_request_that_another_relay_brings_stays_refused() {
    let limits = Limits { burst: 1, per_second: 1000, ..Limits::default() };
    let mut rig = Rig::with_limits(limits);
    let client = rig.client("shop", 1_000_000, |_| {});
    let (invoice, hash) = rig.purse.with(|play| play.bill(1, Some(1000)));
    rig.ask(&client, &Request::GetBalance).unwrap();
    let order = serde_json::from_value(serde_json::json!({ "invoice": invoice })).unwrap();
    let event = rig.event(&client, &Request::PayInvoice(order));
    assert!(matches!(rig.hand_in(&event), Gate::Refuse(_)));
    rig.pass(1000);
    assert_eq!(rig.hand_in(&event), Gate::Repeat);
    assert_eq!(rig.purse.with(|play| play.paid.get(&hash).copied()), None);
}
