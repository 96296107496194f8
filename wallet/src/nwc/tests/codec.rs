//! Golden vectors of what is inside the ciphertexts, and what no input may do.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::backend::{PaymentHash, Preimage};
use crate::msat::Msat;
use crate::nwc::message::{
    Direction, Error, ErrorCode, Notification, Request, Response, State, Topic, Transaction,
};
use crate::nwc::service::{Connected, NEW_CONNECTION, NewConnection};
use crate::nwc::uri::Uri;

fn cases(section: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../../../vectors/nwc.json")).unwrap();
    let cases = file[section].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn text(case: &Value) -> String {
    case["given"].as_str().map_or_else(|| case["given"].to_string(), str::to_owned)
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn requests_are_read_and_written() {
    for case in cases("requests") {
        let read = Request::parse(&text(&case)).unwrap_or_else(|error| panic!("{}: {error}", case["name"]));
        assert_eq!(value(&read.to_json()), case["gives"], "{}", case["name"]);
        assert_eq!(Request::parse(&read.to_json()).unwrap(), read, "{}", case["name"]);
    }
}

#[test]
fn what_is_no_request_is_answered_so() {
    for case in cases("refused_requests") {
        let refused = Request::parse(&text(&case)).unwrap_err().response();
        let gives = json!({ "result_type": refused.result_type, "code": refused.result.unwrap_err().code });
        assert_eq!(gives, case["gives"], "{}", case["name"]);
    }
}

#[test]
fn responses_are_read() {
    for case in cases("responses") {
        let gives = match Response::parse(&text(&case)) {
            Ok(Response { result_type, result: Ok(result) }) => {
                json!({ "type": result_type, "result": result })
            }
            Ok(Response { result_type, result: Err(Error { code, message }) }) => {
                json!({ "type": result_type, "code": code, "message": message })
            }
            Err(_) => json!("unreadable"),
        };
        assert_eq!(gives, case["gives"], "{}", case["name"]);
    }
}

#[test]
fn transactions_and_notifications_are_read() {
    for case in cases("transactions") {
        let read = serde_json::from_str::<Transaction>(&text(&case));
        let gives = read.map_or_else(|_| json!("unreadable"), |read| json!(read));
        assert_eq!(gives, case["gives"], "{}", case["name"]);
    }
    for case in cases("notifications") {
        let gives =
            Notification::parse(&text(&case)).map_or_else(|_| json!("unreadable"), |read| json!(read));
        assert_eq!(gives, case["gives"], "{}", case["name"]);
    }
}

#[test]
fn uris_are_read() {
    for case in cases("uris") {
        let gives = match case["given"].as_str().unwrap().parse::<Uri>() {
            Ok(uri) => json!({
                "wallet": uri.wallet,
                "relays": uri.relays,
                "client": uri.keys().public_key(),
                "lud16": uri.lud16,
                "uri": uri.reveal(),
            }),
            Err(error) => json!(format!("{error:?}")),
        };
        assert_eq!(gives, case["gives"], "{}", case["name"]);
    }
}

/// What our service answers, read by the types that the `nwc` crate uses.
#[test]
fn the_nostr_crate_reads_what_we_write() {
    use oa_nips::nostr::JsonUtil as _;
    use oa_nips::nostr::nips::nip47;

    let preimage = Preimage([7; 32]);
    let whole = json!({ "type": "incoming", "state": "settled", "invoice": "lnbc1", "amount": 5, "fees_paid": 0,
        "preimage": preimage.reveal().to_string(), "payment_hash": preimage.hash().to_string(),
        "created_at": 1, "expires_at": 2, "settled_at": 3, "settle_deadline": 4 });
    let transaction = json!(serde_json::from_value::<Transaction>(whole).unwrap());
    let info = crate::nwc::message::WalletInfo { methods: vec!["get_info".to_owned()], ..Default::default() };
    for (method, result) in [
        ("pay_invoice", json!({ "preimage": preimage.reveal().to_string(), "fees_paid": 0 })),
        ("pay_keysend", json!({ "preimage": preimage.reveal().to_string(), "fees_paid": 0 })),
        ("make_invoice", transaction.clone()),
        ("lookup_invoice", transaction.clone()),
        ("list_transactions", json!({ "transactions": [transaction] })),
        ("get_balance", json!({ "balance": 1 })),
        ("get_info", json!(info)),
        ("make_hold_invoice", transaction.clone()),
        ("settle_hold_invoice", json!({})),
        ("cancel_hold_invoice", json!({})),
    ] {
        let text = Response::ok(method, result).to_json();
        let read =
            nip47::Response::from_json(&text).unwrap_or_else(|error| panic!("{method}: {error} {text}"));
        assert!(read.result.is_some(), "{method}");
        let refused = Response::error(method, Error::new(ErrorCode::QuotaExceeded, "no")).to_json();
        let error = nip47::Response::from_json(refused).unwrap().error.unwrap();
        assert_eq!(error.code, nip47::ErrorCode::QuotaExceeded);
    }
    for topic in Topic::ALL {
        let transaction = serde_json::from_value(transaction.clone()).unwrap();
        let text = Notification { topic, transaction }.to_json();
        nip47::Notification::from_json(&text).unwrap_or_else(|error| panic!("{error} {text}"));
    }
    for request in [
        nip47::Request::get_balance(),
        nip47::Request::pay_invoice(nip47::PayInvoiceRequest::new("lnbc1")),
        nip47::Request::list_transactions(nip47::ListTransactionsRequest::default()),
    ] {
        assert!(Request::parse(&request.as_json()).is_ok());
    }
}

fn transaction() -> impl Strategy<Value = Transaction> {
    let states =
        prop_oneof![Just(State::Pending), Just(State::Accepted), Just(State::Settled), Just(State::Failed)];
    let text = || proptest::option::of("\\PC{1,30}");
    let preimage = proptest::option::of(any::<[u8; 32]>());
    let fees = proptest::option::of(any::<u64>());
    (
        states,
        text(),
        text(),
        preimage,
        any::<[u8; 32]>(),
        any::<u64>(),
        fees,
        proptest::option::of(1u64..1 << 50),
    )
        .prop_map(|(state, invoice, description, preimage, hash, amount, fees, at)| Transaction {
            direction: if amount % 2 == 0 { Direction::Incoming } else { Direction::Outgoing },
            state,
            invoice,
            description,
            description_hash: None,
            preimage: preimage.map(Preimage),
            payment_hash: PaymentHash::from_bytes(hash),
            amount: Msat::new(amount),
            fees_paid: fees.map(Msat::new),
            created_at: at.unwrap_or(0),
            expires_at: at,
            settled_at: at,
            settle_deadline: None,
            metadata: None,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn nothing_makes_reading_panic(text in "\\PC{0,200}") {
        let _ = Request::parse(&text);
        let _ = Response::parse(&text);
        let _ = Notification::parse(&text);
        let _ = crate::nwc::bill::Bill::read(&text);
    }

    #[test]
    fn odd_parameters_are_refused_and_not_more(
        method in "(pay_invoice|pay_keysend|make_invoice|lookup_invoice|list_transactions|get_balance|make_hold_invoice|settle_hold_invoice|cancel_hold_invoice|oa_x|x)",
        key in "(invoice|amount|payment_hash|preimage|limit|metadata|tlv_records)",
        odd in prop_oneof![Just(json!(null)), Just(json!(-1)), Just(json!(1.5)), Just(json!([])), Just(json!("é")), Just(json!(u64::MAX))],
    ) {
        let text = json!({ "method": method, "params": { key: odd } }).to_string();
        match Request::parse(&text) {
            Ok(read) => prop_assert_eq!(&Request::parse(&read.to_json()).unwrap(), &read),
            Err(error) => prop_assert!(error.response().result.is_err()),
        }
    }

    #[test]
    fn what_is_written_is_read(transaction in transaction(), message in "\\PC{0,80}") {
        let told = Notification { topic: Topic::PaymentReceived, transaction: transaction.clone() };
        prop_assert_eq!(&Notification::parse(&told.to_json()).unwrap(), &told);
        let answer = Response::ok("lookup_invoice", json!(transaction));
        prop_assert_eq!(&Response::parse(&answer.to_json()).unwrap(), &answer);
        for code in ErrorCode::ALL {
            let refusal = Response::error("x", Error::new(code, message.clone()));
            prop_assert_eq!(&Response::parse(&refusal.to_json()).unwrap(), &refusal);
        }
    }
}

/// The example of docs/protocol.md, which is a vector beside those of the other formats of ours.
#[test]
fn the_documents_example_of_a_connection_is_what_the_service_reads_and_answers() {
    let file: Value = value(include_str!("../../../../nips/vectors/nwc_admin.json"));
    for case in file["new_connection"].as_array().unwrap() {
        let request = value(case["request"].as_str().unwrap());
        assert_eq!(request["method"], NEW_CONNECTION);
        let new: NewConnection = serde_json::from_value(request["params"].clone()).unwrap();
        assert_eq!(json!(new), request["params"], "{}", case["name"]);
        let response = Response::parse(case["response"].as_str().unwrap()).unwrap();
        assert_eq!(response.result_type.as_deref(), Some(NEW_CONNECTION));
        let connected: Connected = serde_json::from_value(response.result.unwrap()).unwrap();
        let digits: String = new.pubkey.to_hex().chars().take(16).collect();
        assert_eq!(connected.account.as_str(), format!("nwc:{digits}"));
    }
}
