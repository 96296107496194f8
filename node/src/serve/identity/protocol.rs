//! What a plaintext is, where it is not a text that somebody wrote: the inside of a protocol.
//!
//! An agent can be talked into decrypting what a stranger found on a relay. So what looks like a layer of somebody's
//! mail, a command, a payment or a record is not shown to it, by whatever name of sender it was opened.

use oa_nips::envelope::Envelope;
use serde_json::{Map, Value};

/// What a plaintext is, if it belongs to a protocol. Told by its shape, so that nothing that only looks malformed to
/// us passes.
pub(super) fn protocol(plaintext: &str) -> Option<&'static str> {
    match serde_json::from_str(plaintext.trim()).ok()? {
        Value::Object(object) => of_object(&object)
            .or_else(|| Envelope::parse(plaintext).is_ok().then_some("an envelope between agents")),
        Value::Array(items) => of_array(&items),
        _ => None,
    }
}

fn of_object(object: &Map<String, Value>) -> Option<&'static str> {
    let has = |key: &str| object.contains_key(key);
    let has_any = |keys: &[&str]| keys.iter().any(|key| has(key));
    if has("kind") && has_any(&["content", "tags", "created_at", "pubkey", "sig"]) {
        return Some("an event: a seal, a message, or something to be signed");
    }
    if has("op") && has_any(&["v", "seq", "ask", "last", "body", "credit", "stop"]) {
        return Some("the operator protocol");
    }
    if has_any(&["result_type", "notification_type"]) {
        return Some("the answer of a wallet");
    }
    if has("method") && has_any(&["params", "id"]) {
        return Some("a request to a wallet or a remote signer");
    }
    if has("id") && has_any(&["result", "error"]) {
        return Some("the answer of a remote signer");
    }
    if has("session") && has_any(&["agent", "v"]) || has("header") && has("fields") {
        return Some("a trajectory");
    }
    None
}

fn of_array(items: &[Value]) -> Option<&'static str> {
    let is_tag = |item: &Value| {
        let strings = item.as_array().filter(|values| !values.is_empty());
        strings.is_some_and(|values| values.iter().all(Value::is_string))
    };
    if !items.is_empty() && items.iter().all(is_tag) {
        return Some("a list of tags: private entries, or the parameters of a job");
    }
    items.iter().find_map(|item| of_object(item.as_object()?))
}

#[cfg(test)]
mod tests {
    use oa_nips::files::watch::{Feed, Word};
    use oa_nips::files::{Request, Verb, reply_frames};
    use oa_nips::hex::Hex;
    use oa_nips::mail::{self, Draft};
    use oa_nips::nostr::nips::nip47::{GetBalanceResponse, Method, Response, ResponseResult};
    use oa_nips::nostr::{EventBuilder, JsonUtil as _, Keys, Timestamp};
    use oa_nips::record::{Fields, Head, Record};
    use oa_nips::trajectory::Session;

    use super::*;
    use crate::bunker::message::{Answer, Call, Response as Signed};

    fn is_protocol(plaintext: &str) {
        assert!(protocol(plaintext).is_some(), "{plaintext}");
    }

    #[test]
    fn every_layer_of_mail_is_known() {
        let (ann, bob) = (Keys::generate(), Keys::generate());
        let rumor = Draft::text(bob.public_key(), "hello", 1_790_000_000_000).rumor(ann.public_key());
        is_protocol(&mail::to_json(&rumor));
        let seal = mail::seal(ann.public_key(), "cipher".to_owned(), Timestamp::from_secs(1));
        is_protocol(&seal.clone().sign_with_keys(&ann).unwrap().as_json());
        is_protocol(&seal.as_json());
        is_protocol(&EventBuilder::text_note("x").sign_with_keys(&ann).unwrap().as_pretty_json());
        is_protocol(r#" {"kind":1,"content":"to be signed"} "#);
        is_protocol(&Envelope::Ping { nonce: "7".to_owned() }.to_json());
    }

    #[test]
    fn commands_and_their_answers_are_known() {
        let request = Request::new(Hex([1; 16]), Verb::Write, "/agents/alice/manifest", vec![0; 20_000]);
        request.frames().iter().for_each(|frame| is_protocol(&frame.to_json()));
        reply_frames(request.op, &Ok(Vec::new())).iter().for_each(|frame| is_protocol(&frame.to_json()));
        is_protocol(&Feed { op: request.op, word: Word::Stop }.to_json());
        is_protocol(&Feed { op: request.op, word: Word::Credit(1) }.to_json());
        let peer = Keys::generate().public_key();
        is_protocol(&Call::GetPublicKey.to_json("1", &peer));
        is_protocol(&Signed { id: "1".to_owned(), answer: Answer::Result("ack".to_owned()) }.to_json());
        is_protocol(&Signed { id: "1".to_owned(), answer: Answer::Error("no".to_owned()) }.to_json());
    }

    #[test]
    fn money_is_known() {
        is_protocol(r#"{"method":"pay_invoice","params":{"invoice":"lnbc1"}}"#);
        let balance = ResponseResult::GetBalance(GetBalanceResponse { balance: 1 });
        let response = Response { result_type: Method::GetBalance, error: None, result: Some(balance) };
        is_protocol(&response.as_json());
        is_protocol(r#"{"notification_type":"payment_received","notification":{}}"#);
        is_protocol(r#"[["i","secret","text"],["param","model","x"]]"#);
    }

    #[test]
    fn what_the_owner_reads_of_the_agent_is_known() {
        let session = Session { v: 1, agent: "alice".to_owned(), session: Hex::ZERO };
        is_protocol(&serde_json::to_string(&session).unwrap());
        let record =
            Record::new(Hex([2; 32]), Hex::ZERO, &Head::GENESIS, Hex([3; 32]), Fields::new(), &[4; 32]);
        is_protocol(&serde_json::to_string(std::slice::from_ref(&record)).unwrap());
        is_protocol(&serde_json::to_string(&record).unwrap());
    }

    #[test]
    fn what_people_and_programs_write_is_not() {
        for text in [
            "hello",
            "",
            "7",
            "\"kind\"",
            "{not json}",
            r#"{"kind":"regards"}"#,
            r#"{"text":"hi","n":[1,2]}"#,
            r#"{"op":"add","x":1}"#,
            r#"{"id":7,"name":"x"}"#,
            "[]",
            "[1,2,3]",
            r#"["a","b"]"#,
        ] {
            assert_eq!(protocol(text), None, "{text}");
        }
    }
}
