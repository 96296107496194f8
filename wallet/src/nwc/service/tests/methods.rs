//! What each method does, but for payments.

use oa_nips::nostr::Keys;
use oa_nips::nwc::Encryption;
use serde_json::{Value, json};

use super::rig::{NOW_S, Rig};
use crate::account::Holder;
use crate::backend::Preimage;
use crate::msat::Msat;
use crate::nwc::connection::{Budget, Renewal, Scope};
use crate::nwc::message::{Error, ErrorCode, Notification, Request, Topic};
use crate::nwc::service::machine::Input;

fn request(method: &str, params: Value) -> Request {
    Request::parse(&json!({ "method": method, "params": params }).to_string()).unwrap()
}

fn ask(rig: &mut Rig, client: &Keys, method: &str, params: Value) -> Result<Value, Error> {
    // Each request its own event.
    rig.now_ms += 1000;
    rig.ask(client, &request(method, params))
}

#[test]
fn an_invoice_is_made_found_and_listed() {
    let mut rig = Rig::new();
    let shop = rig.client("shop", 0, |_| {});
    let made =
        ask(&mut rig, &shop, "make_invoice", json!({ "amount": 5000, "metadata": { "a": 1 } })).unwrap();
    assert_eq!((&made["type"], &made["state"]), (&json!("incoming"), &json!("pending")));
    assert_eq!(made.get("preimage"), None, "nobody has paid");
    for by in [json!({ "payment_hash": made["payment_hash"] }), json!({ "invoice": made["invoice"] })] {
        assert_eq!(ask(&mut rig, &shop, "lookup_invoice", by).unwrap(), made);
    }
    for _ in 0..25 {
        ask(&mut rig, &shop, "make_invoice", json!({ "amount": 1 })).unwrap();
    }
    let listed = ask(&mut rig, &shop, "list_transactions", json!({ "limit": 500 })).unwrap();
    assert_eq!(listed["transactions"].as_array().unwrap().len(), 20);
    let last = ask(&mut rig, &shop, "list_transactions", json!({ "limit": 5, "offset": 25 })).unwrap();
    assert_eq!(last["transactions"], json!([made]));
}

#[test]
fn what_cannot_be_asked_for_is_refused() {
    let mut rig = Rig::new();
    let shop = rig.client("shop", 0, |_| {});
    for amount in [0, u64::MAX, 21_000_000 * 100_000_000 * 1000 + 1] {
        let refused = ask(&mut rig, &shop, "make_invoice", json!({ "amount": amount })).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Other, "{amount}");
    }
    assert!(ask(&mut rig, &shop, "make_invoice", json!({ "amount": 1 })).is_ok());
    let nothing = ask(&mut rig, &shop, "lookup_invoice", json!({})).unwrap_err();
    assert_eq!(nothing.code, ErrorCode::Other);
}

#[test]
fn what_belongs_to_another_account_does_not_exist() {
    let mut rig = Rig::new();
    let (shop, spy) = (rig.client("shop", 1_000_000, |_| {}), rig.client("spy", 1_000_000, |_| {}));
    let (invoice, hash) = rig.purse.with(|play| play.bill(1, Some(1000)));
    ask(&mut rig, &shop, "pay_invoice", json!({ "invoice": invoice })).unwrap();
    for by in [json!({ "payment_hash": hash.to_string() }), json!({ "invoice": invoice })] {
        assert!(ask(&mut rig, &shop, "lookup_invoice", by.clone()).unwrap().get("preimage").is_some());
        assert_eq!(ask(&mut rig, &spy, "lookup_invoice", by).unwrap_err().code, ErrorCode::NotFound);
    }
    let again = ask(&mut rig, &spy, "pay_invoice", json!({ "invoice": invoice })).unwrap_err();
    assert_eq!(again.code, ErrorCode::Other);
    assert!(!again.message.contains(&Preimage([1; 32]).reveal().to_string()));
    assert_eq!(ask(&mut rig, &spy, "list_transactions", json!({})).unwrap()["transactions"], json!([]));
    let made = ask(&mut rig, &shop, "make_invoice", json!({ "amount": 5 })).unwrap();
    let held = json!({ "payment_hash": made["payment_hash"] });
    assert_eq!(ask(&mut rig, &spy, "cancel_hold_invoice", held).unwrap_err().code, ErrorCode::NotFound);
}

#[test]
fn a_hold_invoice_is_held_settled_and_told() {
    let mut rig = Rig::new();
    let shop = rig.client("shop", 0, |_| {});
    let preimage = Preimage([5; 32]);
    let order = json!({ "amount": 5000, "payment_hash": preimage.hash().to_string() });
    ask(&mut rig, &shop, "make_hold_invoice", order).unwrap();
    let by_preimage = json!({ "preimage": preimage.reveal().to_string() });
    assert!(ask(&mut rig, &shop, "settle_hold_invoice", by_preimage.clone()).is_err(), "nothing is held");
    let transaction = rig.purse.with(|play| play.hold(preimage.hash()));
    let told = Notification { topic: Topic::HoldInvoiceAccepted, transaction };
    rig.apply(Input::Happened(Holder::new("shop").unwrap(), Box::new(told)));
    let (to, encryption, text) = rig.told.pop().unwrap();
    assert_eq!((to, encryption), (shop.public_key(), Encryption::Nip44), "as the client asks");
    assert!(text.contains(r#""settle_deadline":800000"#) && !text.contains("preimage"), "{text}");
    assert_eq!(ask(&mut rig, &shop, "settle_hold_invoice", by_preimage).unwrap(), json!({}));
    let by_hash = json!({ "payment_hash": preimage.hash().to_string() });
    assert_eq!(ask(&mut rig, &shop, "lookup_invoice", by_hash).unwrap()["state"], "settled");
}

#[test]
fn notifications_go_to_the_account_in_the_clients_encryption_or_in_both() {
    let mut rig = Rig::new();
    let quiet = rig.client("shop", 0, |connection| connection.scopes = [Scope::Pay].into());
    let fresh = rig.client("shop", 0, |_| {});
    let old = rig.client("shop", 0, |_| {});
    rig.client("else", 0, |_| {});
    rig.client("shop", 0, |connection| connection.revoked_at = Some(NOW_S));
    let event = rig.event_at(&old, &Request::GetInfo.to_json(), NOW_S, None, Encryption::Nip04);
    rig.hand_in(&event);
    rig.ask(&quiet, &Request::GetInfo).unwrap();
    let made = ask(&mut rig, &old, "make_invoice", json!({ "amount": 5 })).unwrap();
    let event = rig.event_at(&old, &Request::GetBudget.to_json(), NOW_S, None, Encryption::Nip04);
    rig.hand_in(&event);
    let transaction = serde_json::from_value(made).unwrap();
    let told = Notification { topic: Topic::PaymentReceived, transaction };
    rig.apply(Input::Happened(Holder::new("shop").unwrap(), Box::new(told)));
    let mut told: Vec<_> = rig.told.iter().map(|(to, encryption, _)| (*to, *encryption)).collect();
    let mut expected = vec![
        (fresh.public_key(), Encryption::Nip44),
        (fresh.public_key(), Encryption::Nip04),
        (old.public_key(), Encryption::Nip04),
    ];
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
}

fn admin(rig: &mut Rig) -> Keys {
    rig.client("admin", 0, |connection| connection.scopes = Scope::ALL.into())
}

#[test]
fn an_admin_makes_changes_and_ends_connections() {
    let mut rig = Rig::new();
    let (admin, app) = (admin(&mut rig), Keys::generate());
    let new = json!({ "pubkey": app.public_key(), "name": "shop", "scopes": ["pay", "read"],
        "budget": { "max_msat": 5000, "renewal": "daily" } });
    let made = ask(&mut rig, &admin, "oa_new_connection", new.clone()).unwrap();
    assert_eq!(made["wallet"], rig.wallet.public_key().to_hex());
    assert_eq!(made["relays"], json!(["wss://relay.example"]));
    assert_eq!(ask(&mut rig, &admin, "oa_new_connection", new.clone()).unwrap(), made, "again is the same");
    let mut other = new;
    other["name"] = json!("other");
    assert!(ask(&mut rig, &admin, "oa_new_connection", other).is_err(), "but no other of that key");
    assert!(rig.ask(&app, &Request::GetBalance).is_ok());
    assert_eq!(rig.ask(&app, &Request::GetBudget).unwrap()["total_budget"], 5000);
    let update = json!({ "pubkey": app.public_key(), "budget": null, "scopes": ["read"] });
    ask(&mut rig, &admin, "oa_update_connection", update).unwrap();
    assert_eq!(rig.connection(&app).budget, None);
    assert_eq!(rig.connection(&app).name, "shop", "what is absent stays");
    let list = ask(&mut rig, &admin, "oa_list_connections", json!({})).unwrap();
    assert_eq!(list["total"], 2);
    ask(&mut rig, &admin, "oa_revoke_connection", json!({ "pubkey": app.public_key() })).unwrap();
    rig.restart();
    rig.now_ms += 1000;
    assert_eq!(rig.ask(&app, &Request::GetBalance).unwrap_err().code, ErrorCode::Unauthorized);
}

#[test]
fn only_admins_steer_and_the_last_one_stays() {
    let mut rig = Rig::new();
    let (admin, shop) = (admin(&mut rig), rig.client("shop", 0, |_| {}));
    let new = json!({ "pubkey": Keys::generate().public_key(), "name": "x", "scopes": ["admin"] });
    assert_eq!(ask(&mut rig, &shop, "oa_new_connection", new).unwrap_err().code, ErrorCode::Restricted);
    assert_eq!(ask(&mut rig, &shop, "oa_address", json!({})).unwrap_err().code, ErrorCode::Restricted);
    assert!(ask(&mut rig, &admin, "oa_address", json!({})).is_ok());
    let unknown = ask(&mut rig, &admin, "oa_nothing", json!({})).unwrap_err();
    assert_eq!(unknown.code, ErrorCode::NotImplemented);
    let me = json!({ "pubkey": admin.public_key() });
    assert!(ask(&mut rig, &admin, "oa_revoke_connection", me.clone()).is_err());
    let demoted = json!({ "pubkey": admin.public_key(), "scopes": ["read"] });
    assert!(ask(&mut rig, &admin, "oa_update_connection", demoted).is_err());
    rig.client("second", 0, |connection| connection.scopes = Scope::ALL.into());
    assert!(ask(&mut rig, &admin, "oa_revoke_connection", me).is_ok());
}

#[test]
fn a_budget_is_told_with_what_is_set_aside() {
    let mut rig = Rig::new();
    let shop = rig.client("shop", 1_000_000, |connection| {
        connection.budget = Some(Budget { max_msat: Msat::new(50_000), renewal: Renewal::Daily });
    });
    let none = rig.client("free", 0, |_| {});
    assert_eq!(rig.ask(&none, &Request::GetBudget).unwrap(), json!({}));
    rig.purse.with(|play| play.luck = crate::nwc::tests::play::Luck::Slow);
    let (invoice, _) = rig.purse.with(|play| play.bill(1, Some(1000)));
    let event = rig.event(&shop, &request("pay_invoice", json!({ "invoice": invoice })));
    rig.hand_in(&event);
    let budget = rig.ask(&shop, &Request::GetBudget).unwrap();
    assert_eq!(budget["used_budget"], 11_000, "amount and ten satoshis for fees");
    assert_eq!((&budget["total_budget"], &budget["renewal_period"]), (&json!(50_000), &json!("daily")));
}
