//! Envelopes of agents: every type, as it is written and as it is read.

use oa_nips::envelope::Envelope;
use serde_json::{Value, json};

use crate::support::{cases, refuse};

/// One of each type, in the order of the file.
fn all() -> Vec<Envelope> {
    let some = |text: &str| Some(text.to_owned());
    let task = || "t-1".to_owned();
    vec![
        Envelope::TaskRequest {
            task: task(),
            spec: json!({ "do": "summarise", "url": "https://example.com" }),
        },
        Envelope::TaskResponse { task: task(), accepted: true, message: some("about an hour") },
        Envelope::TaskResponse { task: task(), accepted: false, message: None },
        Envelope::TaskComplete {
            task: task(),
            result: json!("short."),
            trajectory_hash: some(&"0a".repeat(32)),
        },
        Envelope::TaskComplete { task: task(), result: Value::Null, trajectory_hash: None },
        Envelope::Delegate { task: task(), spec: json!({ "part": 2 }), budget_usd_micros: Some(250_000) },
        Envelope::PatternShare { pattern: json!({ "when": "rate-limited", "then": "wait" }) },
        Envelope::Ping { nonce: "7".into() },
        Envelope::Pong { nonce: "7".into() },
        Envelope::Custom { name: "chess/move".into(), data: json!(["e2", "e4"]) },
    ]
}

#[test]
fn every_type_has_its_json() {
    let cases = cases("envelope", "envelopes");
    assert_eq!(cases.len(), all().len());
    for (case, envelope) in cases.iter().zip(all()) {
        let json = case["json"].as_str().unwrap();
        assert_eq!(envelope.to_json(), json);
        assert_eq!(Envelope::parse(json).unwrap(), envelope);
    }
}

#[test]
fn envelopes_of_others_are_read() {
    for case in cases("envelope", "read") {
        let read = Envelope::parse(case["given"].as_str().unwrap()).unwrap();
        assert_eq!(case["gives"], read.to_json(), "{}", case["name"]);
    }
}

#[test]
fn bad_envelopes_are_refused() {
    refuse("envelope", |case| {
        Envelope::parse(case.as_str().unwrap()).map(drop).map_err(|_| "Envelope".to_owned())
    });
}
