//! The client against wallets that babble, contradict themselves, or are old in all they do.

use oa_nips::nostr::Timestamp;
use oa_nips::nwc::{self, Encryption, Info};
use serde_json::json;

use super::rogue::{Deed, PREIMAGE, Rogue, known, modern, no, ok, order, paid, pays, settled};
use super::world::{KeySigner, SOON, clock, relay};
use crate::backend::Preimage;
use crate::msat::Msat;
use crate::nwc::client::{CallError, Outcome, Untrue};
use crate::nwc::message::{ErrorCode, Notification, Request, State, Topic};
use crate::nwc::seal;

#[tokio::test]
async fn babble_is_no_answer() {
    for babble in ["no json", "{}", "[1]", r#"{"result_type":"pay_invoice"}"#, r#"{"result":7,"error":7}"#] {
        let (outcome, rogue) = pays(move |request, nth| match nth {
            0 => vec![Deed::Babble(babble.to_owned())],
            _ => vec![Deed::Answer(paid(request, PREIMAGE))],
        })
        .await;
        assert_eq!(outcome, settled(3), "{babble}");
        assert!(rogue.asked().await.len() >= 2, "{babble}: it was asked for again");
    }
}

#[tokio::test]
async fn a_result_of_another_form_is_looked_up() {
    let results = [json!({}), json!([]), json!("paid"), json!({ "preimage": 5 }), json!({ "preimage": "" })];
    let all = results.map(|result| {
        pays(move |request, _| match request {
            Request::LookupInvoice(_) => vec![Deed::Answer(no(request, ErrorCode::NotFound))],
            _ => vec![Deed::Answer(ok(request, result.clone()))],
        })
    });
    for (outcome, _) in futures_util::future::join_all(all).await {
        assert_eq!(outcome, Outcome::Unknown, "a claim that nothing confirms is neither paid nor failed");
    }
    let rogue =
        Rogue::start(modern(), |request, _| vec![Deed::Answer(ok(request, json!({ "balance": -1 })))]);
    assert!(matches!(rogue.client().balance().await, Err(CallError::Unreadable(_))));
    let rogue =
        Rogue::start(modern(), |request, _| vec![Deed::Answer(ok(request, json!({ "balance": u64::MAX })))]);
    let untrue = rogue.client().balance().await;
    assert!(matches!(untrue, Err(CallError::Untrue(Untrue::Balance(_)))), "{untrue:?}");
}

#[tokio::test]
async fn a_proof_counts_whatever_else_is_said() {
    let (outcome, _) = pays(|request, _| match request {
        Request::LookupInvoice(_) => vec![Deed::Answer(known(request, State::Failed, None))],
        _ => vec![Deed::Answer(paid(request, PREIMAGE)), Deed::Answer(no(request, ErrorCode::PaymentFailed))],
    })
    .await;
    assert_eq!(outcome, settled(3), "whoever has the preimage has paid");
    let (outcome, _) = pays(|request, _| match request {
        Request::LookupInvoice(_) => vec![Deed::Answer(known(request, State::Settled, Some(PREIMAGE)))],
        _ => vec![Deed::Answer(no(request, ErrorCode::Internal))],
    })
    .await;
    assert_eq!(outcome, settled(2), "and a wallet in trouble may have paid all the same");
}

#[tokio::test]
async fn a_fee_that_nobody_can_have_paid_is_not_known() {
    let (outcome, _) = pays(|request, _| {
        let result = json!({ "preimage": PREIMAGE.reveal().to_string(), "fees_paid": u64::MAX });
        vec![Deed::Answer(ok(request, result))]
    })
    .await;
    assert_eq!(outcome, Outcome::Settled { preimage: PREIMAGE, fee: None });
}

#[tokio::test]
async fn an_invoice_of_another_is_not_taken_for_ours() {
    let other = Preimage([8; 32]);
    let rogue = Rogue::start(modern(), move |request, _| {
        let found = json!({ "type": "incoming", "state": "settled", "payment_hash": other.hash().to_string(),
            "amount": 1000, "preimage": other.reveal().to_string(), "settled_at": 5 });
        vec![Deed::Answer(ok(request, found))]
    });
    let looked_up = rogue.client().look_up(PREIMAGE.hash()).await;
    assert!(matches!(looked_up, Err(CallError::Untrue(Untrue::Hash { .. }))), "{looked_up:?}");
    let short = std::time::Duration::from_millis(300);
    assert!(rogue.client().wait_for(PREIMAGE.hash(), short).await.is_err(), "it is waited for in vain");
}

#[tokio::test]
async fn an_old_wallet_is_paid_by_and_heard_in_nip04() {
    let old = Info { encryptions: vec![Encryption::Nip04], ..Info::default() };
    let rogue = Rogue::start(Some(old), |request, _| match request {
        Request::LookupInvoice(_) => vec![Deed::Answer(known(request, State::Settled, Some(PREIMAGE)))],
        _ => vec![Deed::Answer(paid(request, PREIMAGE))],
    });
    let client = rogue.client();
    let mut told = client.notifications();
    assert_eq!(client.pay_invoice(order()).await.unwrap(), settled(3));
    let transaction = serde_json::from_value(json!({ "type": "outgoing", "state": "settled", "amount": 1000,
        "payment_hash": PREIMAGE.hash().to_string(), "settled_at": 5 }));
    let sent = Notification { topic: Topic::PaymentSent, transaction: transaction.unwrap() };
    let (signer, to) = (KeySigner(rogue.keys.clone()), rogue.uri.keys().public_key());
    let text = seal::encrypt(&signer, &to, Encryption::Nip04, &sent.to_json()).await.unwrap();
    let at = Timestamp::from_secs(clock() / 1000);
    let event = nwc::notification(rogue.keys.public_key(), to, Encryption::Nip04, text, at);
    rogue.net.send(&relay(1), &event.sign_with_keys(&rogue.keys).unwrap());
    let heard = tokio::time::timeout(SOON, told.recv()).await.unwrap().unwrap();
    assert_eq!((heard.topic, heard.transaction.amount), (Topic::PaymentSent, Msat::new(1000)));
}
